"""The drill: the newest backup of the host of SANDBOX comes back on a throw-away host, and the platform hears of it."""

from __future__ import annotations

import json
import re
import secrets
import subprocess
import time
from collections.abc import Iterator
from types import ModuleType

import pytest
from keycloak_admin import ask_keycloak
from loading import load
from platform_client import ROOT, Platform, state_path
from time_lapse import wait_for

MEASURED = "/var/lib/prometheus/node-exporter/imaging-restore-drill.prom"


@pytest.fixture(scope="module")
def platform() -> Platform:
    return Platform()


@pytest.fixture(scope="module")
def platform_visit() -> ModuleType:
    return load(ROOT / "library/platform_visit.py")


def drill(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        ["make", "restore-drill", *arguments], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    print("\n".join(line for line in done.stdout.splitlines() if line.startswith("restore-drill: ")))
    return done


def measured(platform: Platform) -> dict[str, float]:
    lines = platform.on_host("cat", MEASURED).splitlines()
    return {name: float(value) for name, value in (line.split() for line in lines if not line.startswith("#"))}


def assert_nothing_is_left(platform: Platform) -> None:
    name = platform.container.replace("imaging-", "imaging-drill-", 1)
    assert subprocess.run(["docker", "inspect", name], capture_output=True).returncode != 0
    assert not (state_path().parent / name.removeprefix("imaging-")).exists()


@pytest.fixture
def damaged(platform: Platform) -> Iterator[str]:
    """A newest backup that broke off while it was copied."""
    whole = platform.on_host("imaging-backup", "newest").strip()
    path = re.sub(r"dicom-backup-\d{4}", "dicom-backup-9999", whole)
    platform.on_host("sh", "-c", f"head -c -1000 {whole} > {path}")
    yield path
    platform.on_host("rm", path)


def test_the_newest_backup_comes_back_and_is_measured(platform):
    platform.on_host("imaging-backup", "create", "--include-images")
    secrets = {path: path.read_bytes() for path in (state_path() / "secrets").rglob("*") if path.is_file()}
    done = drill()
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    assert "verified: everything is as it was" in done.stdout
    assert re.search(r"[1-9]\d* studies of \S+ in the list, [1-9]\d* bytes of an image", done.stdout)
    values = measured(platform)
    assert values["imaging_restore_drill_success"] == 1
    assert 30 < values["imaging_restore_drill_duration_seconds"] < 3600
    assert 0 <= values["imaging_restore_drill_backup_age_seconds"] < 600
    assert_nothing_is_left(platform)
    # The drill has passwords of its own: those of the platform are as they were.
    assert {path: path.read_bytes() for path in secrets} == secrets


def test_a_backup_that_does_not_come_back_fails_and_is_told(platform, damaged):
    before = measured(platform)["imaging_restore_drill_unproven_since_timestamp_seconds"]
    done = drill()
    assert done.returncode != 0
    assert "is damaged" in done.stdout
    values = measured(platform)
    assert values["imaging_restore_drill_success"] == 0
    assert values["imaging_restore_drill_unproven_since_timestamp_seconds"] == before
    assert_nothing_is_left(platform)


def test_a_drill_that_is_stopped_leaves_nothing_behind_and_tells_nothing(platform):
    before = platform.on_host("cat", MEASURED)
    throw_away = platform.container.replace("imaging-", "imaging-drill-", 1)
    drilling = subprocess.Popen(
        ["make", "restore-drill"], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    inspect = ["docker", "inspect", throw_away]
    wait_for("its host is there", lambda: subprocess.run(inspect, capture_output=True).returncode == 0, 180)
    time.sleep(10)
    drilling.terminate()
    assert drilling.wait(60) != 0
    assert_nothing_is_left(platform)
    assert platform.on_host("cat", MEASURED) == before


def test_who_is_not_let_in_has_not_visited(platform, platform_visit):
    someone = platform.user("physician", "denscan-central")
    with pytest.raises(platform_visit.VisitError, match="was not let in"):
        platform_visit.visit(platform.url, platform.ca_file, someone.username, "wrong", image=True)


def test_a_visit_without_a_study_sees_none(platform, platform_visit):
    someone = platform.user("physician", "partner-clinic").username
    # The restored accounts have the passwords that the backup knew, and this controller has lost them.
    password = secrets.token_urlsafe(24)
    (account,) = json.loads(ask_keycloak(platform, "GET", f"imaging/users?username={someone}&exact=true")[0])
    setting = {"type": "password", "value": password, "temporary": False}
    ask_keycloak(platform, "PUT", f"imaging/users/{account['id']}/reset-password", setting)
    seen = platform_visit.visit(platform.url, platform.ca_file, someone, password, image=True)
    assert (seen.studies, seen.image_bytes) == (0, 0)
