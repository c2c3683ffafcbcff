"""Searches by a patient's name leave the name in no log, no metric, no error page, and nobody else's cache."""

from __future__ import annotations

import secrets
import time

import pytest
import requests
from deliveries import Study
from platform_client import Platform

METRICS = [
    "http://127.0.0.1:8090/metrics",
    "http://127.0.0.1:8080/metrics",
    "http://127.0.0.1:9000/metrics",
    "http://127.0.0.1:8081/stub_status",
]


@pytest.fixture(scope="module")
def name() -> str:
    """A patient's name that nobody else has."""
    return f"Zzpatient{secrets.token_hex(6)}"


@pytest.fixture(scope="module")
def answers(platform: Platform, central_physician, central_study: Study, name: str) -> list[requests.Response]:
    """The answers to every kind of request with the name in it: found, refused, wrong, too long, not logged in."""
    nobody = platform.session()
    studies = f"{platform.url}/dicom-web/studies"
    series = f"{studies}/{central_study.study_uid}/series"
    return [
        session.get(url, timeout=30)
        for session in (central_physician, nobody)
        for url in (
            f"{studies}?PatientName={name}*&limit=5",
            f"{studies}?00100020={name}",
            f"{studies}?PatientName={name}&nonsense=1",
            f"{studies}?StudyDate={name}",
            f"{series}?PatientName={name}",
            f"{studies}/{name}/series",
            f"{platform.url}/orthanc/studies?x={name}",
            f"{platform.url}/audit/entries?user={name}",
            f"{platform.url}/?patientName={name}",
            f"{platform.url}/viewer?StudyInstanceUIDs=1.2&mrn={name}",
            f"{platform.url}/nowhere?{name}",
            f"{studies}?PatientName={name}{'x' * 20_000}",
        )
    ]


def test_no_answer_repeats_the_name(answers, name):
    told = [answer.url[:100] for answer in answers if name in answer.text or name in str(answer.headers)]
    assert told == []


@pytest.mark.usefixtures("answers")
def test_no_log_and_no_metric_has_it(platform, name):
    # nginx writes its log every two seconds, in order.
    last = f"/last-request-{secrets.token_hex(8)}"
    platform.session().get(platform.url + last, timeout=30)
    deadline = time.monotonic() + 60
    while last not in platform.on_host("tail", "--lines=1000", "/var/log/nginx/access.log"):
        assert time.monotonic() < deadline, "nginx wrote no log"
        time.sleep(0.5)
    journal = platform.on_host("journalctl", "--since", "-10min", "--no-pager", "--output", "cat", "--all")
    assert "action=list" in journal, "the journal has the accesses"
    found = {"journal"} if name in journal else set()
    for place in ("/var/log", "/var/lib/imaging-importer", "/var/cache/nginx"):
        # A path may hold the name only where somebody put it into the path: see below.
        if platform.on_host("grep", "-rl", "--", f"={name}", place, check=False):
            found.add(place)
    for address in METRICS:
        metrics = platform.on_host("curl", "--silent", "--max-time", "10", address)
        assert metrics
        if name in metrics:
            found.add(address)
    assert found == set()


@pytest.mark.usefixtures("answers")
def test_the_access_log_has_it_neither(platform, name):
    rows = platform.on_host(
        *("runuser", "-u", "postgres", "--", "psql", "-qAt", "registry", "-c"),
        f"SELECT count(*) FROM registry.access_log l WHERE l::text LIKE '%{name}%'",  # noqa: S608
    )
    assert rows.strip() == "0"
