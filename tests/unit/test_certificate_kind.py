"""A certificate is renewed alone only where nginx was deployed with one of its kind, which a file of the role tells."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml
from platform_client import ROOT

PLAY = [
    {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "tasks": [{"ansible.builtin.include_role": {"name": "nginx", "tasks_from": "deployed"}}],
    }
]
KIND = {"tls_mode": "provided", "domain": "imaging.example.org"}


def play(directory: Path) -> subprocess.CompletedProcess[str]:
    (directory / "play.yml").write_text(yaml.safe_dump(PLAY))
    variables = {
        "nginx_tls_mode": KIND["tls_mode"],
        "nginx_domain": KIND["domain"],
        "__nginx_certificate_mark": str(directory / "certificate.json"),
    }
    command = [
        "ansible-playbook",
        "--inventory",
        "localhost,",
        str(directory / "play.yml"),
        "-e",
        json.dumps(variables),
    ]
    environment = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def test_the_same_kind_is_renewed(tmp_path):
    (tmp_path / "certificate.json").write_text(json.dumps(KIND))
    done = play(tmp_path)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("there", [None, KIND | {"tls_mode": "self-signed"}, KIND | {"domain": "other.example.org"}])
def test_another_kind_is_refused(there, tmp_path):
    if there:
        (tmp_path / "certificate.json").write_text(json.dumps(there))
    done = play(tmp_path)
    assert done.returncode != 0
    assert "was not deployed with imaging_tls_mode: provided for imaging.example.org" in " ".join(done.stdout.split())
