"""A reboot during an import: everything comes back by itself, in order, within two minutes, and nothing is lost."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
from deliveries import Study, copy_with_new_uids
from platform_client import ROOT, Platform
from pydicom.data import get_testdata_file
from time_lapse import wait_for

LIMIT_SECONDS = 120
CLINIC = "denscan-central"
STUDIES = 12
SOURCE = Path(str(get_testdata_file("DICOMDIR"))).parent / "98892003"
# The units that start only when the other is there.
ORDER = (
    ("nftables.service", "nginx.service"),
    ("postgresql@17-main.service", "imaging-orthanc.service"),
    ("postgresql@17-main.service", "imaging-keycloak.service"),
    ("postgresql@17-main.service", "imaging-gateway.service"),
    ("imaging-orthanc.service", "imaging-importer.service"),
)


def started(platform: Platform, unit: str) -> int:
    """When the unit was begun to start, in microseconds since the boot."""
    return int(platform.on_host("systemctl", "show", "--value", "--property=InactiveExitTimestampMonotonic", unit))


def spooled(platform: Platform) -> list[str]:
    """Deliveries that are taken and not yet imported."""
    spool = f"{platform.inbox}/.spool/{CLINIC}"
    return platform.on_host("find", spool, "-mindepth", "1", "-maxdepth", "1", check=False).split()


@pytest.fixture(scope="module")
def studies(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> list[Study]:
    """Studies of which some are imported and some are not at the moment of the reboot."""
    folders = [tmp_path_factory.mktemp("delivery") / "study" for _ in range(STUDIES)]
    delivered = [copy_with_new_uids(SOURCE, folder) for folder in folders]
    for number, folder in enumerate(folders):
        platform.deliver(CLINIC, folder, f"reboot-{int(time.time())}-{number}")
    wait_for("the importer has taken a delivery", lambda: spooled(platform), 60)
    return delivered


@pytest.fixture(scope="module")
def seconds(platform: Platform, studies: list[Study]) -> float:
    """How long the reboot took, from the order to the moment at which every service was healthy."""
    before = spooled(platform)
    begun = time.monotonic()
    subprocess.run(["docker", "restart", platform.container], check=True, capture_output=True)
    # Its address may be another one now. It starts nothing: a host that runs is only named.
    subprocess.run(["python3", "tools/sandbox.py", "up", "--name", platform.container], cwd=ROOT, check=True)
    wait_for("every service is healthy", platform.is_well, 2 * LIMIT_SECONDS)
    took = time.monotonic() - begun
    print(f"healthy {took:.0f} s after the order to reboot, with {len(before)} of {STUDIES} deliveries under way")
    assert before, "nothing was being imported, so the test says nothing"
    return took


def test_everything_comes_back_by_itself_within_two_minutes(seconds: float) -> None:
    assert seconds < LIMIT_SECONDS


@pytest.mark.parametrize(("first", "second"), ORDER, ids=" before ".join)
def test_services_start_in_order(platform: Platform, seconds: float, first: str, second: str) -> None:
    assert 0 < started(platform, first) < started(platform, second)


def test_no_unit_failed_or_had_to_be_restarted(platform: Platform, seconds: float) -> None:
    assert platform.on_host("systemctl", "list-units", "--failed", "--plain", "--no-legend") == ""
    units = ("imaging-*.service", "nginx.service", "postgresql@17-main.service")
    restarts = platform.on_host("systemctl", "show", "--property=Id,NRestarts", *units)
    assert set(restarts.split()) & {f"NRestarts={number}" for number in range(1, 10)} == set(), restarts


def test_the_firewall_is_up_again(platform: Platform, seconds: float) -> None:
    assert "table inet imaging" in platform.on_host("nft", "list", "ruleset")


def test_the_import_goes_on_and_every_image_arrives(platform: Platform, studies: list[Study], seconds: float) -> None:
    session = platform.api(platform.user("physician", CLINIC))
    for study in studies:
        platform.wait_for_study(session, study.study_uid)
    wait_for("every delivery has left the spool", lambda: not spooled(platform), 60)
    images = sum(1 for path in SOURCE.rglob("*") if path.is_file())
    for study in studies:
        found = session.get(f"{platform.url}/dicom-web/studies/{study.study_uid}/instances", timeout=60).json()
        assert len(found) == images


def test_no_delivery_failed(platform: Platform, seconds: float) -> None:
    assert platform.on_host("find", "/data/failed", "-name", "reboot-*") == ""
