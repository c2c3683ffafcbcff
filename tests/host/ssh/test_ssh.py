"""A real host's way: a user who may sudo, reached by ssh, with the production inventory; root himself is not let in."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from platform_client import ROOT, state_path

NAME = f"imaging-{os.environ.get('SANDBOX', 'sandbox')}"
DOMAIN = f"{NAME.replace('-', '.', 1)}.test"
# As a cloud image comes: root's key moved to a user of its own.
ADMIT_THE_USER_ALONE = """
set -e
useradd --create-home --shell /bin/bash debian
install -d -o debian -g debian -m 0700 ~debian/.ssh
install -o debian -g debian -m 0600 /root/.ssh/authorized_keys ~debian/.ssh/authorized_keys
rm /root/.ssh/authorized_keys
echo 'debian ALL=(ALL) NOPASSWD:ALL' > /etc/sudoers.d/debian
"""


def on_host(*command: str) -> str:
    done = subprocess.run(["docker", "exec", NAME, *command], check=True, capture_output=True, text=True)
    return done.stdout


def sandbox(action: str) -> None:
    subprocess.run([sys.executable, str(ROOT / "tools/sandbox.py"), action, "--name", NAME], check=True)


@pytest.fixture(scope="module")
def inventory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The production inventory with another address, for a fresh host."""
    assert NAME != "imaging-sandbox", "this test removes its host: give it a name in SANDBOX"
    sandbox("down")
    shutil.rmtree(state_path(), ignore_errors=True)
    sandbox("up")
    on_host("sh", "-c", ADMIT_THE_USER_ALONE)
    directory = tmp_path_factory.mktemp("inventories") / "hospital"
    shutil.copytree(ROOT / "inventories/production", directory)
    hosts = yaml.safe_load((directory / "hosts.yml").read_text())
    group = hosts["all"]["children"]["imaging"]
    ((_, how),) = group["hosts"].items()
    group["hosts"] = {DOMAIN: how}
    (directory / "hosts.yml").write_text(yaml.safe_dump(hosts))
    keys = state_path() / "ssh"
    own = {
        "imaging_environment": NAME.removeprefix("imaging-"),
        "imaging_domain": DOMAIN,
        "imaging_extra_ca_files": [str(path) for path in Path("/usr/local/share/ca-certificates").glob("*.crt")],
        "grafana_required": False,
        "ansible_ssh_private_key_file": str(keys / "id_ed25519"),
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={keys / 'known_hosts'}",
    }
    (directory / "group_vars/all/own.yml").write_text(yaml.safe_dump(own))
    yield directory
    sandbox("down")
    shutil.rmtree(state_path(), ignore_errors=True)


def play(inventory: Path, *arguments: str) -> str:
    command = ["ansible-playbook", "-i", str(inventory), *arguments]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    return done.stdout


def make(inventory: Path, *arguments: str) -> str:
    command = ["make", "-s", *arguments, f"INVENTORY={inventory}"]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    return done.stdout


def test_the_platform_is_deployed_and_a_second_run_changes_nothing(inventory):
    deployed = play(inventory, "site.yml")
    assert "RUNNING HANDLER [nginx : Restart nginx]" in deployed
    assert "RUNNING HANDLER [nginx : Reload nginx]" not in deployed, "what has just been started is reloaded"
    assert re.search(rf"^{re.escape(DOMAIN)} .*changed=0 .*failed=0", play(inventory, "site.yml"), re.MULTILINE)


def test_root_was_not_needed(inventory):
    keys = state_path() / "ssh"
    ssh = ["ssh", "-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={keys / 'known_hosts'}"]
    ssh += ["-i", str(keys / "id_ed25519")]
    assert subprocess.run([*ssh, f"root@{DOMAIN}", "true"], capture_output=True, check=False).returncode != 0
    assert subprocess.run([*ssh, f"debian@{DOMAIN}", "true"], capture_output=True, check=False).returncode == 0


def test_the_host_says_to_scripts_that_it_is_well(inventory):
    assert json.loads(make(inventory, "status", "JSON=1"))["well"]


def test_a_clinic_and_a_physician_are_added(inventory):
    make(inventory, "add-clinic", "CLINIC_ID=by-ssh", "CLINIC_NAME=By ssh")
    make(inventory, "add-user", "USERNAME=a.bekova", "EMAIL=a.bekova@example.org", "CLINIC=by-ssh")
    assert on_host("stat", "--format=%F", "/data/inbox/by-ssh").strip() == "directory"


def test_the_certificate_is_renewed_alone(inventory):
    assert "more days" in " ".join(make(inventory, "certs", "RENEW=1").split())


def test_a_backup_that_only_root_may_read_arrives_whole(inventory, tmp_path):
    archive = on_host("imaging-backup", "create").strip()
    play(inventory, "playbooks/restore-drill/fetch.yml", "-e", f"drill_path={tmp_path}")
    fetched = tmp_path / Path(archive).name
    assert hashlib.sha256(fetched.read_bytes()).hexdigest() == on_host("sha256sum", archive).split()[0]
    assert fetched.stat().st_mode & 0o777 == 0o600
    assert json.loads((tmp_path / "platform.json").read_text())["host"] == DOMAIN
