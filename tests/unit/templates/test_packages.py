"""A role installs every module of its service, those of sub-packages and those that are links included."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from platform_client import ROOT


@pytest.mark.parametrize("service", ["importer", "gateway", "backup"])
def test_a_role_installs_every_module_of_its_service(service: str, tmp_path: Path) -> None:
    role = ROOT / "roles" / service
    tasks = [
        {"ansible.builtin.include_vars": str(role / "vars/main.yml")},
        {
            "ansible.builtin.copy": {
                "dest": str(tmp_path / "names"),
                "content": f"{{{{ __{service}_modules.keys() | to_json }}}}",
            }
        },
    ]
    play = {"hosts": "localhost", "gather_facts": False, "vars": {"role_path": str(role)}, "tasks": tasks}
    (tmp_path / "play.yml").write_text(json.dumps([play]))
    command = [
        Path(sys.executable).with_name("ansible-playbook"),
        "-i",
        "localhost,",
        "-c",
        "local",
        tmp_path / "play.yml",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    package = ROOT / f"files/{service}/src/imaging_{service}"
    modules = {str(path.relative_to(package)) for path in package.rglob("*.py")}
    assert set(json.loads((tmp_path / "names").read_text())) == modules
