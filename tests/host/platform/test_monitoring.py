"""Prometheus measures a platform that is in use, and the right people are told of real faults, and only of those."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from deliveries import Study
from monitoring_files import alerts, panel_expressions
from platform_client import Platform
from time_lapse import TimeLapse

# Queries that return no data on a healthy platform, and why.
QUIET = {
    'ALERTS{alertstate="firing"}': "nothing is wrong",
    "time() - imaging_backup_last_success_timestamp_seconds": "no backup is configured",
    "time() - imaging_backup_repository_last_success_timestamp_seconds": "the first quarter of an hour is not over",
    "imaging_restore_drill_duration_seconds": "there was no drill",
    "time() - imaging_restore_drill_unproven_since_timestamp_seconds": "no backup was made yet",
    "sum by (cause) (increase(imaging_importer_retries_total[1h]))": "nothing had to be tried again",
    "sum by (clinic, reason) (increase(imaging_importer_failures_total[1h]))": "nothing has failed yet",
    "imaging_importer_clinic_bytes / imaging_importer_clinic_quota_bytes": "no clinic has a quota",
    "imaging_testing_vulnerabilities": "the first look at Debian testing is not over",
}
NO_SUCH_METRIC = {
    "imaging_backup_last_success_timestamp_seconds": "no backup is configured",
    "imaging_backup_repository_last_success_timestamp_seconds": "the first quarter of an hour is not over",
    "imaging_backup_repository_proven_timestamp_seconds": "the first quarter of an hour is not over",
    "imaging_restore_drill_duration_seconds": "there was no drill",
    "imaging_restore_drill_success": "no backup was restored yet",
    "imaging_restore_drill_unproven_since_timestamp_seconds": "no backup was made yet",
    "imaging_importer_failures_total": "nothing has failed yet",
    "imaging_importer_clinic_quota_bytes": "no clinic has a quota",
    "imaging_testing_last_check_timestamp_seconds": "the first look at Debian testing is not over",
    "imaging_testing_updates_pending": "the first look at Debian testing is not over",
    "imaging_testing_vulnerabilities": "the first look at Debian testing is not over",
}
METRIC = re.compile(r"\b(?:up|(?:probe|pg|nginx|node|imaging|gateway|keycloak|alertmanager|prometheus)_\w+)\b(?!\()")


@pytest.fixture(scope="module")
def in_use(platform: Platform, central_study: Study, central_physician: requests.Session) -> None:
    """Somebody reads a study, and somebody mistypes a password."""
    series = f"{platform.url}/dicom-web/studies/{central_study.study_uid}/series/{central_study.series_uid}"
    frame = f"{series}/instances/{central_study.sop_uid}/frames/1"
    accept = {"Accept": "multipart/related; type=application/octet-stream; transfer-syntax=*"}
    for _ in range(3):
        assert central_physician.get(f"{platform.url}/dicom-web/studies", timeout=60).status_code == 200
        assert central_physician.get(f"{series}/metadata", timeout=60).status_code == 200
        assert central_physician.get(frame, headers=accept, timeout=60).status_code == 200
    user = platform.user("physician", "denscan-central")
    with pytest.raises(AssertionError, match="was not let in"):
        platform.login(type(user)(user.username, "wrong", user.roles, user.clinics))


def query(platform: Platform, expression: str) -> list[dict[str, object]]:
    address = "http://127.0.0.1:9090/api/v1/query"
    answer = json.loads(platform.on_host("curl", "-s", "-G", address, "--data-urlencode", f"query={expression}"))
    assert answer["status"] == "success", answer
    found: list[dict[str, object]] = answer["data"]["result"]
    return found


def test_every_target_is_up(platform: Platform, in_use: None) -> None:
    assert query(platform, "up == 0") == []
    jobs = {str(series["metric"]["job"]) for series in query(platform, "up")}  # type: ignore[index]
    assert jobs >= {"orthanc", "keycloak", "gateway", "importer", "postgres", "nginx", "requests", "node", "probe"}


def test_every_panel_has_data(platform: Platform, in_use: None) -> None:
    left = {expression: where for where, expression in panel_expressions("measures") if expression not in QUIET}
    deadline = time.monotonic() + 90  # two scrapes make a rate
    while left and time.monotonic() < deadline:
        left = {expression: where for expression, where in left.items() if not query(platform, expression)}
    assert left == {}


def test_every_rule_judges_something_that_is_measured(platform: Platform, in_use: None) -> None:
    named = {name for rule in alerts() for name in METRIC.findall(rule["expr"])} - set(NO_SUCH_METRIC)
    known = {str(series["metric"]["__name__"]) for series in query(platform, 'count by (__name__) ({__name__!=""})')}  # type: ignore[index]
    assert named - known == set()


def test_monitoring_costs_less_than_ten_thousand_series(platform: Platform, in_use: None) -> None:
    (series,) = query(platform, "prometheus_tsdb_head_series")
    print(f"series: {series['value']}")
    assert float(series["value"][1]) < 10_000  # type: ignore[index]


# --- real faults ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def time_lapse(platform: Platform, in_use: None) -> Iterator[TimeLapse]:
    pair = TimeLapse(platform)
    pair.start()
    yield pair
    pair.stop()


def test_a_bad_file_and_a_stopped_orthanc_are_told_and_so_is_their_end(time_lapse: TimeLapse, tmp_path: Path) -> None:
    platform = time_lapse.platform
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "image.dcm").write_bytes(bytes(128) + b"DICM" + bytes(20))
    platform.deliver("denscan-almaty", folder, f"bad-{tmp_path.name}")
    time_lapse.wait_for("DICOMImportFailed", "firing")

    time_lapse.tell_of_stopped("imaging-orthanc", "OrthancDown")
    time_lapse.wait_for("DICOMImportFailed", "resolved")
    sent = time_lapse.sent()
    assert {"DICOMImportFailed", "OrthancDown"} <= {alert["labels"]["alertname"] for alert in sent}
    assert [text for alert in sent for text in alert["annotations"].values() if "error" in text or not text] == []
