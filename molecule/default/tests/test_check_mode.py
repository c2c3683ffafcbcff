"""Check mode tells the truth: on a deployed host it foretells that nothing will change, and nothing fails."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from testinfra.host import Host

from .conftest import environment_of, inventory_of

PROJECT = Path(__file__).parents[3]


def test_check_mode_foretells_no_change(host: Host) -> None:
    playbook = Path(sys.executable).with_name("ansible-playbook")
    command = [playbook, "site.yml", "-i", str(inventory_of(host)), "--check", "--diff"]
    environment = os.environ | {"SANDBOX": environment_of(host), "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg")}
    result = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=300)
    recap = result.stdout.rpartition("PLAY RECAP")[2]
    assert result.returncode == 0, result.stdout[-5000:]
    assert set(re.findall(r"(changed|failed|unreachable)=(\d+)", recap)) == {
        ("changed", "0"),
        ("failed", "0"),
        ("unreachable", "0"),
    }, result.stdout[-5000:]
