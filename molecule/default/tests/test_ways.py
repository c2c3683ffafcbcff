"""That the services find each other: an image goes the whole way, and monitoring reaches everything."""

from __future__ import annotations

import json
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from deliveries import copy_with_new_uids
from platform_client import Platform
from pydicom.data import get_testdata_file
from testinfra.host import Host
from wired import Wired

from .conftest import environment_of

CLINIC = "denscan-central"


@pytest.fixture
def platform(host: Host, monkeypatch: pytest.MonkeyPatch) -> Platform:
    monkeypatch.setenv("SANDBOX", environment_of(host))
    return Platform()


def test_what_a_clinic_delivers_its_physician_reads_through_nginx(platform: Platform, tmp_path: Path) -> None:
    study = copy_with_new_uids(Path(str(get_testdata_file("CT_small.dcm"))), tmp_path / "study")
    platform.deliver(CLINIC, tmp_path / "study", study.study_uid)
    physician = platform.api(platform.user("physician", CLINIC))
    platform.wait_for_study(physician, study.study_uid)
    path = f"/dicom-web/studies/{study.study_uid}/series/{study.series_uid}/instances/{study.sop_uid}"
    file = physician.get(
        platform.url + path, headers={"Accept": 'multipart/related; type="application/dicom"'}, timeout=60
    )
    assert file.status_code == 200
    assert study.sop_uid.encode() in file.content


def test_a_backup_is_made(host: Host) -> None:
    assert host.run("systemctl start imaging-backup.service").rc == 0


def test_prometheus_reaches_every_service_and_alertmanager(host: Host, wired: Wired) -> None:
    address = f"http://{wired['monitoring_listen_address']}:{wired['monitoring_prometheus_port']}/api/v1"
    deadline = time.monotonic() + 60  # its first round takes a scrape interval
    while True:
        targets = json.loads(host.check_output(f"curl -sf {address}/targets"))["data"]["activeTargets"]
        down = {target["labels"]["job"]: target["lastError"] for target in targets if target["health"] != "up"}
        if not down or time.monotonic() > deadline:
            break
        time.sleep(2)
    assert down == {}
    assert {target["labels"]["job"] for target in targets} >= {*wired["monitoring_targets"], "orthanc", "probe"}
    told = json.loads(host.check_output(f"curl -sf {address}/alertmanagers"))["data"]["activeAlertmanagers"]
    assert [urlsplit(one["url"]).netloc for one in told] == [wired["monitoring_targets"]["alertmanager"]]


def test_amtool_finds_alertmanager_by_itself(host: Host) -> None:
    assert host.run("amtool alert query").rc == 0
