"""`make status` of real hosts says what `imaging-status` says there, and nothing that a script could not read."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from project import ROOT

INVENTORY = "imaging: {hosts: {pacs: {ansible_connection: local, ansible_become: false}}}"


@pytest.fixture
def status(tmp_path: Path):
    """Runs `make status` for a host on which the command prints this and ends with that."""

    def run(printed: str, code: int, **variables: str) -> subprocess.CompletedProcess[str]:
        command = tmp_path / "bin/imaging-status"
        command.parent.mkdir()
        command.write_text(f"#!/bin/sh\n[ \"$*\" = '--json' ] && cat <<'EOF'\n{printed}\nEOF\nexit {code}\n")
        command.chmod(0o755)
        inventory = tmp_path / "hosts.yml"
        inventory.write_text(variables.pop("inventory", INVENTORY))
        arguments = ["make", "status", "JSON=1", f"INVENTORY={inventory}"]
        environment = os.environ | {"PATH": f"{command.parent}:{os.environ['PATH']}"}
        return subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True)

    return run


@pytest.mark.parametrize("code", [0, 1])
def test_scripts_read_json_whether_or_not_the_host_is_well(status, code):
    told = {"domain": "imaging.example.org", "well": code == 0, "troubles": []}
    done = status(json.dumps(told, indent=2), code)
    assert json.loads(done.stdout) == told
    assert (done.returncode == 0) == (code == 0)


def test_a_host_that_cannot_be_asked_is_told_apart_from_one_that_is_not_well(status):
    done = status("", 0, inventory="imaging: {hosts: {pacs: {ansible_host: 127.0.0.1, ansible_port: 1}}}")
    assert done.returncode != 0
    assert done.stdout == ""
    assert "127.0.0.1 port 1" in done.stderr
