"""A role installs every module that its service has."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from .conftest import PROJECT

PACKAGES = {
    "gateway": "files/gateway/src/imaging_gateway",
    "backup": "files/backup/src/imaging_backup",
    "importer": "files/importer/src/imaging_importer",
}


def installed(role: str, directory: Path) -> set[str]:
    """The names of the modules in the role's variable, as Ansible makes it."""
    tasks = [
        {"ansible.builtin.include_vars": {"file": str(PROJECT / f"roles/{role}/vars/main.yml")}},
        {
            "ansible.builtin.copy": {
                "content": f"{{{{ __{role}_modules.keys() | list | to_json }}}}",
                "dest": str(directory / "modules.json"),
                "mode": "0600",
            },
            "vars": {"role_path": str(PROJECT / f"roles/{role}")},
        },
    ]
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}
    (directory / "play.yml").write_text(yaml.safe_dump([play]))
    command = ["ansible-playbook", "--inventory", "localhost,", str(directory / "play.yml")]
    environment = os.environ | {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg")}
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return set(json.loads((directory / "modules.json").read_text()))


@pytest.mark.parametrize("role", PACKAGES)
def test_every_module_of_a_service_is_installed(role: str, tmp_path: Path) -> None:
    package = PROJECT / PACKAGES[role]
    assert installed(role, tmp_path) == {str(path.relative_to(package)) for path in package.rglob("*.py")}
