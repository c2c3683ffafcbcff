"""The repository that gets every change each quarter of an hour, encrypted, and from which a restore works."""

from __future__ import annotations

import json
import re

import pytest
from deliveries import Study
from platform_client import Platform, make, state_path
from time_lapse import wait_for

REPOSITORY = "/var/backups/repository"
CREDENTIALS = "/etc/imaging/credentials/backup"
RESTIC = f"restic -r {REPOSITORY} --password-file {CREDENTIALS}/repository-password --no-cache"


@pytest.fixture(scope="module")
def pushed(platform: Platform, central_study: Study) -> str:
    """The name of a snapshot with a study in it."""
    made = make("-s", "backup", "REPOSITORY=1")
    assert made.returncode == 0, made.stderr[-2000:]
    secrets = {path.read_text().split()[0] for path in (state_path() / "secrets").rglob("*") if path.is_file()}
    assert not [secret for secret in secrets if secret in made.stdout + made.stderr]
    return made.stdout.strip()


def added(platform: Platform) -> int:
    """Bytes that the next push finds new."""
    said = platform.on_host("sh", "-c", "imaging-backup push 2>&1")
    (megabytes,) = re.findall(r"done: ([0-9.]+) MB were new", said)
    return int(float(megabytes) * 1e6)


def are_over(platform: Platform, *units: str) -> bool:
    """Whether none of the units runs any more."""
    return set(platform.on_host("systemctl", "is-active", *units, check=False).split()) <= {"inactive", "failed"}


def test_a_snapshot_says_what_it_holds_and_can_be_restored_here(platform, pushed):
    for name in (pushed, "repository"):
        said = platform.on_host("sh", "-c", f"imaging-backup check {name} 2>&1")
        assert "backup of " in said
        assert " 0 registered studies" not in said
        assert "images: " in said


def test_every_image_that_the_index_of_the_snapshot_names_is_in_it(platform, pushed):
    snapshot = pushed.removeprefix("repository:")
    listed = platform.on_host("sh", "-c", f"{RESTIC} dump {snapshot} /var/backups/imaging/.making/images.tsv")
    names = platform.on_host("sh", "-c", f"{RESTIC} ls {snapshot} /data/dicom/.held --recursive")
    wanted = {line.split("\t")[0] for line in listed.splitlines()}
    assert wanted
    assert wanted <= {line.rsplit("/", 1)[-1] for line in names.splitlines()}


def test_only_what_is_new_is_stored(platform, pushed):
    first = added(platform)
    assert first < 20e6, "images that have not changed were stored again"


def test_it_runs_by_itself_confined_and_is_measured(platform, pushed):
    platform.on_host("systemctl", "start", "imaging-backup-push.service", "imaging-backup-tidy.service")
    timers = platform.on_host("systemctl", "list-timers", "--no-pager")
    assert "imaging-backup-push.timer" in timers
    assert "imaging-backup-tidy.timer" in timers
    measured = platform.on_host("sh", "-c", "cat /var/lib/prometheus/node-exporter/imaging-backup-*.prom")
    assert "imaging_backup_repository_last_success_timestamp_seconds" in measured
    assert "imaging_backup_repository_proven_timestamp_seconds" in measured
    assert "\nimaging_backup_repository_missing_images 0\n" in measured
    told = json.loads(platform.on_host("imaging-status", "--json", check=False))
    assert told["repository"]["age_seconds"] < 600


def test_what_is_there_is_proven_and_tidied_by_hand_too(platform, pushed):
    platform.on_host("imaging-backup", "tidy")
    assert pushed.removeprefix("repository:") in platform.on_host("sh", "-c", f"{RESTIC} snapshots --compact")


def test_its_password_is_the_one_that_the_controller_keeps(platform, pushed):
    kept = (state_path() / "secrets/backup_repository_password").read_text()
    assert platform.on_host("cat", f"{CREDENTIALS}/repository-password") == kept


def test_without_the_password_nothing_is_read(platform, pushed):
    refused = platform.on_host(
        "sh", "-c", f"echo another | restic -r {REPOSITORY} --no-cache snapshots 2>&1", check=False
    )
    assert "wrong password" in refused


def test_a_host_that_did_not_fill_the_repository_is_refused(platform, pushed):
    """As a fresh one is after a loss: its emptiness must not become the newest state."""
    mark = "/var/backups/imaging/.repository"
    platform.on_host("mv", mark, f"{mark}.aside")
    try:
        refused = platform.on_host("sh", "-c", "imaging-backup push 2>&1", check=False)
    finally:
        platform.on_host("mv", f"{mark}.aside", mark)
    assert "Restore them first" in refused
    assert added(platform) >= 0


def test_a_push_waits_for_a_backup_that_runs(platform, pushed):
    """Both hold images by the same second names, so neither may take the other's away."""
    platform.on_host("sh", "-c", "systemctl start --no-block imaging-backup.service imaging-backup-push.service")

    wait_for("both have ended", lambda: are_over(platform, "imaging-backup", "imaging-backup-push"), seconds=120)
    assert platform.on_host("systemctl", "is-failed", "imaging-backup", "imaging-backup-push", check=False).split() == [
        *("inactive", "inactive")
    ]


def test_a_repository_that_is_not_there_is_said_and_nothing_is_changed(platform):
    configuration = "/run/elsewhere.toml"
    script = f"sed 's|^repository = .*|repository = \"/run/no-repository\"|' /etc/imaging/backup.toml > {configuration}"
    platform.on_host("sh", "-c", script)
    refused = platform.on_host(
        "sh", "-c", f"imaging-backup --config {configuration} restore repository 2>&1", check=False
    )
    platform.on_host("rm", configuration)
    assert "there is no repository yet" in refused
    assert "Traceback" not in refused


def snapshot_of(platform: Platform, pushed: str) -> dict[str, object]:
    (snapshot,) = json.loads(platform.on_host("sh", "-c", f"{RESTIC} snapshots --json {pushed.partition(':')[2]}"))
    return snapshot


def written(platform: Platform, *arguments: str) -> str:
    """Somebody with the repository's password writes a snapshot there; its name."""
    said = platform.on_host("sh", "-c", f"{RESTIC} backup --json --quiet {' '.join(arguments)}")
    return str(json.loads(said.splitlines()[-1])["snapshot_id"])


def test_what_somebody_with_the_password_wrote_is_not_restored(platform, pushed):
    """Neither with a copy of a signature nor with none. Without one it does not even hide what is signed."""
    key = platform.on_host("imaging-backup", "key").strip()
    (signed, *_) = json.loads(platform.on_host("sh", "-c", f"{RESTIC} snapshots --json --tag imaging-signature"))
    copied = ",".join(tag for tag in signed["tags"] if not tag.startswith("of="))
    # A push by the timer would be newer than the forged snapshots, and signed: the host would restore that one.
    platform.on_host("systemctl", "stop", "imaging-backup-push.timer")
    wait_for("no push runs", lambda: are_over(platform, "imaging-backup-push"), seconds=120)
    forged = written(platform, "--tag=imaging", "/etc/imaging")
    names = [forged]
    try:
        assert f"signed with the key {key}\n" in platform.on_host("imaging-backup", "check", "repository")
        for name, told in ((f"repository:{forged}", "is not signed"), ("repository", "is FORGED: its signature")):
            if name == "repository":
                names.append(written(platform, f"--tag={copied},of={forged}", "/etc/imaging/tls"))
            for command in ("check", "restore"):
                refused = platform.on_host("sh", "-c", f"imaging-backup {command} {name} 2>&1", check=False)
                assert told in refused
                assert "is loaded" not in refused
    finally:
        platform.on_host("sh", "-c", f"{RESTIC} forget {' '.join(names)}")
        platform.on_host("systemctl", "start", "imaging-backup-push.timer")
    assert f"signed with the key {key}\n" in platform.on_host("imaging-backup", "check", "repository")


def test_the_key_that_signs_is_not_in_it(platform, pushed):
    names = platform.on_host("sh", "-c", f"{RESTIC} ls {pushed.partition(':')[2]} {CREDENTIALS}")
    assert "keycloak-client-secret" in names
    assert "signing-key" not in names


def test_a_push_that_was_killed_is_in_nobody_s_way(platform, pushed):
    platform.on_host("sh", "-c", "head -c 200000000 /dev/urandom > /etc/imaging/takes-a-while")
    try:
        platform.on_host("systemctl", "start", "--no-block", "imaging-backup-push.service")
        wait_for("restic is at work", lambda: platform.on_host("pgrep", "-x", "restic", check=False), 60)
        platform.on_host("systemctl", "kill", "--signal=KILL", "imaging-backup-push.service")
    finally:
        platform.on_host("rm", "/etc/imaging/takes-a-while")
    platform.on_host("systemctl", "start", "imaging-backup-push.service")
    # Forgetting wants the repository for itself, so it fails at a lock that was left.
    platform.on_host("imaging-backup", "tidy")


def test_a_signature_goes_with_what_it_signs(platform, pushed):
    snapshot = snapshot_of(platform, platform.on_host("sh", "-c", "imaging-backup push 2>/dev/null").strip())
    signatures = f"{RESTIC} snapshots --json --tag imaging-signature,of={snapshot['id']}"
    assert len(json.loads(platform.on_host("sh", "-c", signatures))) == 1
    platform.on_host("sh", "-c", f"{RESTIC} forget {snapshot['id']}")
    platform.on_host("imaging-backup", "tidy")
    assert json.loads(platform.on_host("sh", "-c", signatures)) == []


def test_a_damaged_repository_is_told_and_nothing_is_restored_from_it(platform, pushed):
    """All packs at once: whichever a restore needs first."""
    platform.on_host("cp", "-a", REPOSITORY, f"{REPOSITORY}.whole")
    started = "systemctl show --property=ActiveEnterTimestampMonotonic --value imaging-keycloak imaging-orthanc"
    before = platform.on_host("sh", "-c", started)
    overwrite = "printf DAMAGED | dd of={} bs=1 seek=3000 conv=notrunc status=none"
    try:
        platform.on_host("sh", "-c", f"find {REPOSITORY}/data -type f -exec sh -c '{overwrite}' ';'")
        for command in ("tidy", "restore repository"):
            refused = platform.on_host("sh", "-c", f"imaging-backup {command} 2>&1; echo ended $?", check=False)
            assert "ended 1" in refused
            assert "failed: " in refused
            assert "is loaded" not in refused
    finally:
        platform.on_host("rm", "-rf", REPOSITORY)
        platform.on_host("mv", f"{REPOSITORY}.whole", REPOSITORY)
    assert platform.on_host("sh", "-c", started) == before
    assert added(platform) >= 0
