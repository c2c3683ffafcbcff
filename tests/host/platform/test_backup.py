"""A backup with images of the running host: made by the README's command, proven, and with nothing secret shown."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from deliveries import Study
from platform_client import ROOT, Platform, state_path


@pytest.fixture(scope="module")
def backup(platform: Platform, central_study: Study) -> subprocess.CompletedProcess[str]:
    command = ["make", "-s", "backup", "INCLUDE_DICOM=1"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert made.returncode == 0, made.stderr[-2000:]
    return made


@pytest.fixture(scope="module")
def archive(backup: subprocess.CompletedProcess[str]) -> str:
    return backup.stdout.strip()


def member(platform: Platform, archive: str, name: str) -> str:
    return platform.on_host("sh", "-c", f"zstd -dqc {archive} | tar -xO {name}")


def test_it_says_how_far_it_is_and_where_the_archive_lies(backup, archive, platform):
    assert "images: " in backup.stderr
    assert "WARNING" not in backup.stderr
    assert platform.on_host("stat", "-c", "%U %a", archive, Path(archive).parent.as_posix()).split() == [
        *("root", "600"),
        *("root", "700"),
    ]


def test_it_shows_no_secret(backup):
    secrets = {path.read_text().split()[0] for path in (state_path() / "secrets").rglob("*") if path.is_file()}
    assert secrets
    assert not [secret for secret in secrets if secret in backup.stdout + backup.stderr]


def test_it_is_signed_with_the_key_that_it_tells_and_does_not_hold(backup, archive, platform):
    key = platform.on_host("imaging-backup", "key").strip()
    assert f"signed with the key {key}: note it" in backup.stderr
    assert f"signed with the key {key}\n" in platform.on_host("imaging-backup", "check", archive)
    assert f"{archive} " in (listed := platform.on_host("imaging-backup", "list"))
    assert f"MB, signed with the key {key}" in listed
    assert "signing-key" not in platform.on_host("sh", "-c", f"zstd -dqc {archive} | tar -t")
    secret = (state_path() / "secrets/backup_signing_key").read_text().strip()
    assert platform.on_host("cat", "/etc/imaging/credentials/backup/signing-key") == secret
    script = (
        f"cd $(mktemp -d) && zstd -dqc {archive} | tar -x manifest.sha256 manifest.sig && "
        "printf 302A300506032B6570032100%s $(imaging-backup key | tr a-f A-F) | basenc --base16 -d | "
        "openssl pkey -pubin -inform DER -out KEY.pem && "
        "openssl pkeyutl -verify -pubin -inkey KEY.pem -rawin -in manifest.sha256 -sigfile manifest.sig"
    )
    assert "Verified Successfully" in platform.on_host("sh", "-c", script)


def test_it_proves_itself_and_holds_the_study(archive, platform, central_study):
    said = platform.on_host("imaging-backup", "check", archive)
    assert " 0 registered studies" not in said
    listed = len(member(platform, archive, "images.tsv").splitlines())
    assert f" {listed} image files" in said
    names = platform.on_host("sh", "-c", f"zstd -dqc {archive} | tar -t").splitlines()
    assert len([name for name in names if name.startswith("images/")]) == listed


def test_the_realm_in_it_has_users_and_no_password(archive, platform):
    realm = member(platform, archive, "realm.json")
    assert '"physician-denscan-central"' in realm
    assert '"/clinics/denscan-central"' in realm
    assert '"hashIterations"' not in realm


def test_the_daily_backup_runs_confined_and_is_measured(platform):
    platform.on_host("systemctl", "start", "imaging-backup.service")
    assert "imaging-backup.timer" in platform.on_host("systemctl", "list-timers", "--no-pager")
    assert "WARNING" not in platform.on_host("journalctl", "-u", "imaging-backup", "-n", "20", "-o", "cat")
    measured = platform.on_host("cat", "/var/lib/prometheus/node-exporter/imaging-backup.prom")
    assert "imaging_backup_last_success_timestamp_seconds" in measured
    assert "\nimaging_backup_missing_images 0\n" in measured


def test_another_platform_s_archive_is_refused(archive, platform):
    """The same, signed by somebody who has made a key of his own."""
    forger = "/run/forger"
    script = f"""
set -eu
mkdir -m 700 {forger}
cp /etc/imaging/credentials/backup/keycloak-client-secret {forger}
printf 'cd%.0s' $(seq 32) > {forger}/signing-key
mkdir -m 700 {forger}/archives
cd {forger}
sed 's|^path = .*|path = "{forger}/archives"|; s|^metrics .*|metrics = "{forger}"|' /etc/imaging/backup.toml > own.toml
CREDENTIALS_DIRECTORY={forger} PYTHONPATH=/opt/imaging/backup python3 -PB -m imaging_backup --config own.toml create
"""
    try:
        forged = platform.on_host("sh", "-c", script).strip()
        refused = platform.on_host("sh", "-c", f"imaging-backup restore {forged} 2>&1; echo ended $?", check=False)
        assert "says it is signed with the key" in refused
        assert "ended 1" in refused
        assert "unpacking" not in refused
    finally:
        platform.on_host("rm", "-rf", forger)


def test_what_loads_a_dump_may_do_nothing_else(platform):
    said = platform.on_host(
        "sh",
        "-c",
        "setpriv --reuid=imaging-restore --regid=imaging-restore --clear-groups psql postgres 2>&1",
        check=False,
    )
    assert "no pg_hba.conf entry" in said or "does not exist" in said
    assert platform.on_host("sh", "-c", "find / -xdev -user imaging-restore 2>/dev/null | head -3") == ""


def test_a_damaged_archive_is_refused_and_the_platform_goes_on(archive, platform, central_physician, central_study):
    damaged = archive.replace("dicom-backup", "damaged")
    platform.on_host("sh", "-c", f"head -c -1000 {archive} > {damaged}")
    try:
        command = ["make", "restore", f"BACKUP_FILE={damaged}", "YES=1"]
        refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
        assert refused.returncode != 0
        assert "is damaged" in refused.stdout
        assert "Nothing was changed" in refused.stdout
    finally:
        platform.on_host("rm", damaged)
    assert platform.wait_for_study(central_physician, central_study.study_uid, seconds=10)
