"""Every command works on the host of the inventory that is named, by ssh, whatever sandbox there is beside it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from platform_client import ROOT, Platform, state_path
from verbs import ANSWERED, ON_EVERY_INVENTORY, REFUSED, STRANGER

FOLLOWING = ("logs", "logs-importer")
# `outdated` also asks servers elsewhere, and must fail at once here.
NOBODY_ELSE = {
    **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"),
    "PIP_RETRIES": "0",
    "npm_config_fetch_retries": "0",
}


def write_inventory(directory: Path, platform: Platform, **variables: object) -> Path:
    """An inventory of the platform's host under another name, as an operator has it."""
    (directory / "group_vars/all").mkdir(parents=True)
    for name in ("00-wiring.yml", "01-versions.yml"):
        (directory / "group_vars/all" / name).symlink_to(ROOT / "inventories/production/group_vars/all" / name)
    keys = state_path() / "ssh"
    host = {
        "ansible_host": platform.url.removeprefix("https://"),
        "ansible_user": "root",
        "ansible_ssh_private_key_file": str(keys / "id_ed25519"),
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={keys / 'known_hosts'}",
        "imaging_environment": "elsewhere",
        "imaging_domain": platform.url.removeprefix("https://"),
        "imaging_secrets_path": str(directory / "secrets"),
    }
    hosts = {"imaging": {"hosts": {"elsewhere": host | variables}}}
    (directory / "hosts.yml").write_text(yaml.safe_dump(hosts))
    return directory


@pytest.fixture(scope="module")
def answers(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[str]]]:
    """The output of each command; two run at a time."""
    directory = tmp_path_factory.mktemp("inventories")
    known = write_inventory(directory / "known", platform)
    refused = write_inventory(directory / "refused", platform, ansible_become=True, ansible_become_user=STRANGER)
    with ThreadPoolExecutor(2) as pool:
        yield {
            target: pool.submit(run, target, refused if target in REFUSED else known) for target in ON_EVERY_INVENTORY
        }


def run(target: str, inventory: Path) -> str:
    """Type a command; all that it said."""
    verb = ON_EVERY_INVENTORY[target]
    command = subprocess.Popen(
        ["make", "-s", target, f"INVENTORY={inventory}", *verb.arguments],
        cwd=ROOT,
        # A command that went to a sandbox would not find one.
        env=os.environ | {"SANDBOX": "nowhere"} | (NOBODY_ELSE if target == "outdated" else {}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if target in REFUSED else subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    if target not in FOLLOWING:
        said, trouble = command.communicate(verb.typed, timeout=120)
        # The sandbox's disk, which is the tester's own, may be full.
        assert target == "status" or (command.returncode == 0) == (target in ANSWERED), said + trouble
        return said
    assert command.stdout is not None
    said = ""
    deadline = time.monotonic() + 30
    while not re.search(verb.says, said) and time.monotonic() < deadline:
        said += command.stdout.readline()
    os.killpg(command.pid, signal.SIGTERM)
    command.wait(30)
    return said


@pytest.mark.parametrize("target", list(ON_EVERY_INVENTORY))
def test_the_host_of_the_inventory_answers(answers: dict[str, Future[str]], target: str) -> None:
    said = answers[target].result()
    assert re.search(ON_EVERY_INVENTORY[target].says, said, re.MULTILINE), said
