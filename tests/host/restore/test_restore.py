"""The day after the fire: host and secrets are gone, a fresh host, one archive and the repository are there.

Of the secrets only the repository's password was kept elsewhere, and on paper the key that signs backups.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import platform_client
import pytest
from deliveries import Study, copy_with_new_uids
from platform_client import Platform, User, state_path
from pydicom.data import get_testdata_file

SOURCE = "98892003"
REPOSITORY = "/var/backups/repository"
PASSWORD = "secrets/backup_repository_password"


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make and say how it ended."""
    done = platform_client.make(*arguments)
    print(f"make {' '.join(arguments)}: exit code {done.returncode}")
    return done


def timed(*arguments: str) -> tuple[str, float]:
    begun = time.monotonic()
    done = make(*arguments)
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return done.stdout, time.monotonic() - begun


def frame(platform: Platform, user: User, study: Study) -> bytes:
    address = f"{study.study_uid}/series/{study.series_uid}/instances/{study.sop_uid}/frames/1"
    accept = {"Accept": 'multipart/related; type="application/octet-stream"; transfer-syntax=*'}
    answer = platform.api(user).get(f"{platform.url}/dicom-web/studies/{address}", headers=accept, timeout=60)
    answer.raise_for_status()
    # The boundary is chosen again for each answer, and the part's header names the study.
    boundary = answer.content.split(b"\r\n", 1)[0]
    return answer.content.split(b"\r\n\r\n", 1)[1].replace(boundary, b"")


@dataclass(frozen=True)
class Before:
    """The facts that are known about the host that burnt."""

    archive: Path
    repository: Path
    snapshot: str
    study: Study
    later: Study  # delivered after the archive was made
    physician: User
    pixels: bytes
    keycloak_secret: str
    key: str  # on paper


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Before:
    assert os.environ.get("SANDBOX", "sandbox") != "sandbox", "this test removes its host: give it a name in SANDBOX"
    make("down")
    timed("up")
    platform = Platform()
    physician = platform.user("physician", "denscan-central")
    folder = tmp_path_factory.mktemp("delivery") / "study"
    study = copy_with_new_uids(Path(str(get_testdata_file("DICOMDIR"))).parent / SOURCE, folder)
    platform.deliver("denscan-central", folder, "before-the-fire")
    platform.wait_for_study(platform.api(physician), study.study_uid)
    pixels = frame(platform, physician, study)

    output, seconds = timed("-s", "backup", "INCLUDE_DICOM=1")
    print(f"make backup INCLUDE_DICOM=1: {seconds:.1f} s")
    on_host = output.strip()
    archive = tmp_path_factory.mktemp("elsewhere") / Path(on_host).name
    subprocess.run(["docker", "cp", f"{platform.container}:{on_host}", str(archive)], check=True, capture_output=True)
    secret = (state_path() / "secrets/keycloak_bootstrap_secret").read_text()
    key = platform.on_host("imaging-backup", "key").strip()

    later = copy_with_new_uids(Path(str(get_testdata_file("DICOMDIR"))).parent / SOURCE, folder.with_name("later"))
    platform.deliver("denscan-central", folder.with_name("later"), "minutes-before-the-fire")
    platform.wait_for_study(platform.api(physician), later.study_uid)
    # As the timer does, within a quarter of an hour.
    snapshot, seconds = timed("-s", "backup", "REPOSITORY=1")
    print(f"make backup REPOSITORY=1: {seconds:.1f} s")
    repository = archive.with_name("repository")
    subprocess.run(["docker", "cp", f"{platform.container}:{REPOSITORY}", str(repository)], check=True)
    password = (state_path() / PASSWORD).read_text()

    timed("down")
    shutil.rmtree(state_path())
    (state_path() / PASSWORD).parent.mkdir(parents=True, mode=0o700)
    (state_path() / PASSWORD).touch(mode=0o600)
    (state_path() / PASSWORD).write_text(password)
    return Before(archive, repository, snapshot.strip(), study, later, physician, pixels, secret, key)


@pytest.fixture(scope="module")
def platform(before: Before) -> Platform:
    """The fresh host, with the archive brought to it."""
    _, seconds = timed("up")
    print(f"make up on a fresh host: {seconds:.0f} s")
    platform = Platform()
    target = f"{platform.container}:/var/backups/imaging/"
    subprocess.run(["docker", "cp", str(before.archive), target], check=True, capture_output=True)
    # As a repository on another machine would be there from the first moment on.
    platform.on_host("rm", "-rf", REPOSITORY, "/var/backups/imaging/.repository")
    subprocess.run(["docker", "cp", str(before.repository), f"{platform.container}:{REPOSITORY}"], check=True)
    return platform


@pytest.fixture(scope="module")
def archive(before: Before, platform: Platform) -> str:
    return f"/var/backups/imaging/{before.archive.name}"


def test_without_a_yes_nothing_is_changed(platform, before, archive):
    refused = make("restore", f"BACKUP_FILE={archive}", f"TRUST={before.key}")
    assert f"signed with the key {before.key}" in refused.stdout
    assert refused.returncode != 0
    assert "Not confirmed, so nothing was changed" in refused.stdout
    assert (state_path() / "secrets/keycloak_bootstrap_secret").read_text() != before.keycloak_secret


def test_an_empty_host_does_not_hide_what_the_lost_one_has_left(platform, before):
    refused = platform.on_host("sh", "-c", "imaging-backup push 2>&1", check=False)
    assert "Restore them first" in refused


def test_without_the_key_that_was_noted_neither_comes_back(platform, before, archive):
    for backup in (archive, before.snapshot):
        refused = make("restore", f"BACKUP_FILE={backup}", "YES=1")
        assert refused.returncode != 0
        assert f"says it is signed with the key {before.key}" in refused.stdout
        assert "Nothing was changed" in refused.stdout
        refused = make("restore", f"BACKUP_FILE={backup}", "YES=1", f"TRUST={'0' * 64}")
        assert refused.returncode != 0
        assert "is loaded" not in refused.stdout


def test_the_archive_comes_back_and_is_verified(platform, before, archive):
    output, seconds = timed("restore", f"BACKUP_FILE={archive}", "YES=1", "VERIFY=all", f"TRUST={before.key}")
    print(f"make restore: {seconds:.0f} s")
    print("\n".join(line for line in output.splitlines() if line.strip().startswith("- ")))
    assert "verified: everything is as it was" in output
    assert "0 missing, 0 damaged" in output


def test_controller_and_host_agree_on_the_secret_of_before(platform, before):
    kept = state_path() / "secrets/keycloak_bootstrap_secret"
    assert kept.read_text() == before.keycloak_secret
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_the_physician_logs_in_with_the_old_password_and_sees_the_same_image(platform, before):
    assert frame(platform, before.physician, before.study) == before.pixels


def test_the_password_of_the_empty_host_opens_nothing_any_more(platform, before):
    fresh = platform.user("physician", "denscan-central")
    assert fresh.password != before.physician.password
    with pytest.raises(AssertionError, match="was not let in"):
        platform.login(fresh)


def test_life_goes_on(platform, before, tmp_path):
    timed("add-clinic", "CLINIC_ID=after-the-fire", "CLINIC_NAME=After the fire")
    study = copy_with_new_uids(Path(str(get_testdata_file("DICOMDIR"))).parent / SOURCE, tmp_path / "study")
    platform.deliver("denscan-central", tmp_path / "study", "after-the-fire")
    platform.wait_for_study(platform.api(before.physician), study.study_uid)


def test_a_second_restore_over_the_living_host_works_too(platform, before, archive):
    timed("restore", f"BACKUP_FILE={archive}", "YES=1", f"TRUST={before.key}")
    assert frame(platform, before.physician, before.study) == before.pixels


def test_the_repository_brings_back_what_came_after_the_archive(platform, before):
    """And over a platform that was at work meanwhile, and may have put its own state there since."""
    output, seconds = timed("restore", f"BACKUP_FILE={before.snapshot}", "YES=1", "VERIFY=all", f"TRUST={before.key}")
    print(f"make restore BACKUP_FILE={before.snapshot}: {seconds:.0f} s")
    print("\n".join(line for line in output.splitlines() if line.strip().startswith("- ")))
    assert "verified: everything is as it was" in output
    for study in (before.study, before.later):
        assert frame(platform, before.physician, study) == before.pixels
