"""A repository that is reached by SFTP or S3: real servers on the host's own loopback, the confined unit, a restore."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from platform_client import ROOT, Platform
from time_lapse import wait_for

SECRET_KEY = "a-secret-that-nobody-may-see"  # of a server that this test makes
S3_PORT = 5055
# The host's own sshd is the server: a user who has nothing but SFTP.
NAS = """
set -eu
useradd --create-home --home-dir /srv/nas --shell /usr/sbin/nologin nas
install -d -m 700 -o nas -g nas /srv/nas/.ssh
mkdir -m 700 /run/nas
ssh-keygen -q -t ed25519 -N '' -f /run/nas/key
(printf 'restrict,command="internal-sftp" '; cat /run/nas/key.pub) > /srv/nas/.ssh/authorized_keys
chown nas:nas /srv/nas/.ssh/authorized_keys
"""
S3 = f"""
set -eu
apt-get -o DPkg::Lock::Timeout=300 install -yqq --no-install-recommends python3-moto python3-flask python3-flask-cors
systemd-run --quiet --unit=test-s3 python3 -m moto.server --host 127.0.0.1 --port {S3_PORT}
"""
BUCKET = f"""
import urllib.request
urllib.request.urlopen(urllib.request.Request("http://127.0.0.1:{S3_PORT}/imaging", method="PUT"), timeout=5)
"""


@dataclass(frozen=True)
class Kind:
    """A kind of repository, deployed."""

    name: str
    output: str  # output of the deployment
    forbidden: str  # path that nobody may read there


def configure(variables: dict[str, str]) -> str:
    """Deploy the role backup with these variables; return Ansible's output."""
    command = [".venv/bin/ansible", "-i", "inventories/sandbox", "imaging", "--become", "--diff"]
    module = ["-m", "ansible.builtin.include_role", "-a", "name=backup", "-e", json.dumps(variables)]
    done = subprocess.run([*command, *module], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout + done.stderr


def sftp(platform: Platform, place: Path) -> Kind:
    platform.on_host("sh", "-c", NAS)
    key = place / "key"
    key.touch(mode=0o600)
    key.write_text(platform.on_host("cat", "/run/nas/key"))
    host_key = platform.on_host("cut", "-d ", "-f1,2", "/etc/ssh/ssh_host_ed25519_key.pub").strip()
    variables = {
        "imaging_backup_repository": "sftp:nas@127.0.0.1:/srv/nas/repository",
        "imaging_backup_sftp_key_file": str(key),
        "imaging_backup_sftp_known_hosts": f"127.0.0.1 {host_key}",
    }
    return Kind("sftp", configure(variables), key.read_text().splitlines()[2])


def s3(platform: Platform, _: Path) -> Kind:
    platform.on_host("sh", "-c", S3)
    wait_for(
        "the bucket is made",
        lambda: (
            platform.on_host("sh", "-c", f"python3 -c {shlex.quote(BUCKET)} 2>&1 && echo made", check=False) == "made\n"
        ),
        seconds=60,
    )
    variables = {
        "imaging_backup_repository": f"s3:http://127.0.0.1:{S3_PORT}/imaging/hospital",
        "imaging_backup_s3_access_key": "imaging",
        "imaging_backup_s3_secret_key": SECRET_KEY,
    }
    return Kind("s3", configure(variables), SECRET_KEY)


@pytest.fixture(scope="module", params=[sftp, s3], ids=["sftp", "s3"])
def kind(
    request: pytest.FixtureRequest, platform: Platform, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kind]:
    assert os.environ.get("SANDBOX", "sandbox") != "sandbox", "this test restores its host: give it a name in SANDBOX"
    try:
        yield request.param(platform, tmp_path_factory.mktemp("keys"))
    finally:
        configure({})
        for script in (
            "systemctl start ssh.socket",
            "systemctl stop test-s3",
            "userdel --remove nas",
            "rm -rf /run/nas",
            "cd /etc/imaging/credentials/backup && rm -f repository-key repository-known-hosts repository-s3",
        ):
            platform.on_host("sh", "-c", script, check=False)


def test_the_confined_unit_fills_the_repository_and_proves_it(platform, kind):
    for unit in ("imaging-backup-push", "imaging-backup-tidy"):
        started = platform.on_host(
            "sh", "-c", f"systemctl start {unit} || journalctl -u {unit} -n 20 -o cat", check=False
        )
        assert started == "", started
    said = platform.on_host("sh", "-c", "imaging-backup check repository 2>&1")
    assert "backup of " in said
    assert "images: " in said


def test_its_secrets_are_in_no_output_no_log_and_no_argument(platform, kind):
    assert kind.forbidden not in kind.output
    assert kind.forbidden not in platform.on_host("journalctl", "-b", "-o", "cat", "--no-pager")
    units = "/etc/systemd/system/imaging-backup-push.service /etc/imaging/backup.toml"
    assert platform.on_host("sh", "-c", f"grep -lF -e {shlex.quote(kind.forbidden)} {units}", check=False) == ""
    modes = platform.on_host("sh", "-c", "stat -c %U:%a /etc/imaging/credentials/backup/repository-*").split()
    assert set(modes) == {"root:600"}


def test_the_platform_comes_back_from_it(platform, kind):
    said = platform.on_host(
        "sh", "-c", "imaging-backup push 2>&1 && imaging-backup restore repository --verify-all 2>&1", check=False
    )
    assert "verified: everything is as it was" in said
    assert "0 missing, 0 damaged" in said


def test_a_server_that_does_not_answer_is_said_and_nothing_is_changed(platform, kind):
    if kind.name == "s3":
        pytest.skip("restic asks a server of S3 again for more than five minutes before it gives up")
    platform.on_host("systemctl", "stop", "ssh.socket", "ssh.service")
    refused = platform.on_host("sh", "-c", "timeout 300 imaging-backup restore repository 2>&1", check=False)
    assert "failed" in refused
    assert "Traceback" not in refused
    assert "is loaded" not in refused
