"""The README's first commands, word for word, on a host that does not exist yet."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import time
from pathlib import Path

import pytest
from project import ROOT


def quickstart() -> list[str]:
    """The commands of the first code block after the heading `Start`, without those that fetch the repository."""
    section = (ROOT / "README.md").read_text().split("## Start", 1)[1]
    block = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert block, "the README has no code block below its heading `Start`"
    lines = [line.split("#")[0].strip() for line in block[1].splitlines()]
    return [line.removeprefix("sudo ") for line in lines if line and not line.startswith(("git ", "cd "))]


def run(command: str) -> str:
    """Run a command and show its output at once."""
    with subprocess.Popen(  # noqa: S602 # the README's line is for a shell
        command,
        shell=True,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout
        lines = []
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    assert process.returncode == 0, f"`{command}` failed"
    return "".join(lines)


@pytest.fixture(scope="module", autouse=True)
def fresh_host() -> None:
    assert os.environ.get("SANDBOX", "sandbox") != "sandbox", "this test removes its host: give it a name in SANDBOX"
    run("make down")


def test_the_quickstart_is_two_commands():
    assert quickstart() == ["make up", "make demo"]


def test_make_up_brings_the_platform_up():
    started = time.monotonic()
    output = run(quickstart()[0])
    print(f"make up on a new host: {time.monotonic() - started:.0f} s")
    assert "The platform runs." in output
    for password in (user["password"] for user in info()["users"]):
        assert password not in output


def test_make_demo_imports_two_studies():
    output = run(quickstart()[1])
    assert output.count(": imported") == 2


def test_make_info_describes_the_sandbox():
    described = info()
    assert set(described) == {"url", "ca_file", "container", "inbox", "credentials_file", "users", "notices"}
    assert stat.S_IMODE(Path(described["credentials_file"]).stat().st_mode) == 0o600
    for user in described["users"]:
        assert set(user) >= {"username", "password", "roles", "clinics"}


def test_make_up_again_changes_nothing():
    started = time.monotonic()
    output = run("make up")
    print(f"make up again: {time.monotonic() - started:.0f} s")
    recaps = re.findall(r"changed=(\d+)", output)
    assert recaps
    assert set(recaps) == {"0"}


def info() -> dict:
    return json.loads(subprocess.run(["make", "-s", "info"], cwd=ROOT, check=True, capture_output=True).stdout)
