"""The restore drill's inventory, made from the platform's, and the way of a backup to the controller."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.vault import VaultLib, VaultSecret
from loading import load
from project import ROOT

drill = load(ROOT / "tools/restore_drill.py")

HOSTS = {"hosts": {"pacs": {"ansible_user": "ops"}}}


class Encrypted(str):
    """A value that ansible-vault has encrypted."""


yaml.SafeDumper.add_representer(Encrypted, lambda dumper, text: dumper.represent_scalar("!vault", text, style="|"))


def single_file(directory: Path, variables: dict[str, object]) -> Path:
    path = directory / "hosts.yml"
    path.write_text(yaml.safe_dump({"imaging": HOSTS | {"vars": variables}}))
    return path


def host_vars(directory: Path, variables: dict[str, object]) -> Path:
    return directory_with("host_vars/pacs.yml", directory, variables)


def group_vars(directory: Path, variables: dict[str, object]) -> Path:
    return directory_with("group_vars/imaging.yml", directory, variables)


def directory_with(name: str, directory: Path, variables: dict[str, object]) -> Path:
    (directory / "hosts.yml").write_text(yaml.safe_dump({"imaging": HOSTS}))
    (directory / name).parent.mkdir()
    (directory / name).write_text(yaml.safe_dump(variables))
    return directory


def as_ansible_sees(inventory: Path, expression: str, monkeypatch: pytest.MonkeyPatch, vault: Path) -> Any:
    monkeypatch.setenv("ANSIBLE_VAULT_PASSWORD_FILE", str(vault))
    monkeypatch.setenv("ANSIBLE_STDOUT_CALLBACK", "ansible.builtin.minimal")
    command = [
        "ansible",
        "-i",
        str(inventory),
        "drill",
        "-c",
        "local",
        "-m",
        "debug",
        "-a",
        f"msg={{{{ {expression} }}}}",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return yaml.safe_load(done.stdout.partition("=>")[2])["msg"]


@pytest.mark.parametrize("written", [single_file, host_vars, group_vars])
def test_the_drills_host_has_the_variables_of_the_platforms(written, tmp_path, monkeypatch):
    vault = tmp_path / "vault-password"
    vault.write_text("open sesame")
    theirs, state = tmp_path / "theirs", tmp_path / "state"
    theirs.mkdir()
    state.mkdir()
    variables = {
        "imaging_environment": "hospital",
        "imaging_domain": "imaging.hospital.example",
        "imaging_tls_mode": "provided",
        "derived": "of {{ imaging_domain }}",
        "secret": Encrypted(VaultLib([("default", VaultSecret(b"open sesame"))]).encrypt("mail password").decode()),
    }
    inventory = written(theirs, variables)

    own = drill.write_inventory(state, drill.variables_of(inventory, "pacs"), "imaging-drill", "imaging.drill.test")

    def seen(expression: str) -> Any:
        return as_ansible_sees(own, expression, monkeypatch, vault)

    assert seen("[imaging_environment, derived]") == ["hospital", "of imaging.hospital.example"]
    assert seen("secret") == "mail password"
    assert "mail password" not in own.read_text()
    # It is reached, and shows itself, as the throw-away host that it is.
    assert seen("[ansible_user, ansible_host, imaging_tls_mode]") == ["root", "imaging.drill.test", "self-signed"]
    assert seen("imaging_secrets_path") == str(state / "secrets")
    # It does not put its own backups among the platform's either.
    assert seen("imaging_backup_repository") == ""


def test_an_inventory_that_cannot_be_read_is_said(tmp_path):
    with pytest.raises(drill.DrillError, match="cannot be read"):
        drill.variables_of(single_file(tmp_path, {}), "another-host")


def fetch(source: Path, destination: Path) -> subprocess.CompletedProcess[str]:
    """As the drill's own playbook does, from where it lies."""
    arguments = json.dumps({"src": str(source), "dest": str(destination)})
    command = ["ansible", "-i", "localhost,", "-c", "local", "localhost", "-m", "fetch_large", "-a", arguments]
    command += ["--playbook-dir", str(ROOT / "playbooks/restore-drill")]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("size", [0, 1, 8 * 2**20, 8 * 2**20 + 1, 17 * 2**20])
def test_a_backup_arrives_byte_by_byte(size, tmp_path):
    source, destination = tmp_path / "it's a backup", tmp_path / "fetched"
    source.write_bytes(hashlib.shake_128(b"seed").digest(size))
    done = fetch(source, destination)
    assert done.returncode == 0, done.stdout
    assert destination.read_bytes() == source.read_bytes()
    assert destination.stat().st_mode & 0o777 == 0o600


def test_a_backup_that_cannot_be_read_is_said(tmp_path):
    done = fetch(tmp_path / "absent", tmp_path / "fetched")
    assert done.returncode != 0
    assert "absent cannot be read on the host" in done.stdout
