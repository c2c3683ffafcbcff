"""A clinic's files never disturb another clinic.

They are files that two programs read differently, files that stop the archive, and words that tell a sender what it
may not know.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import requests
from deliveries import Study
from platform_client import Platform
from pydicom.uid import generate_uid
from stow import send
from strange_files import encoded, image, nested, with_two_readings

SENDER = "denscan-central"


@pytest.fixture(scope="module")
def technician(platform: Platform) -> requests.Session:
    return platform.api(platform.user("technician", SENDER))


def archive_process(platform: Platform) -> str:
    """Which process Orthanc is, and since when it runs."""
    return platform.on_host(
        "systemctl", "show", "imaging-orthanc", "-P", "MainPID", "-P", "ActiveEnterTimestampMonotonic"
    )


def instances(platform: Platform, session: requests.Session, study: str) -> list[str]:
    answer = session.get(f"{platform.url}/dicom-web/studies/{study}/instances", timeout=60)
    assert answer.status_code == 200
    return sorted(instance["00080018"]["Value"][0] for instance in answer.json())


@pytest.mark.parametrize("vr", [b"ZZ", b"??", b"zz", b"\0\0"])
def test_an_image_that_is_read_in_two_ways_reaches_no_study(
    platform: Platform, technician: requests.Session, almaty_study: Study, almaty_physician: requests.Session, vr: bytes
):
    study, before = generate_uid(), instances(platform, almaty_physician, almaty_study.study_uid)
    metadata = f"{platform.url}/dicom-web/studies/{almaty_study.study_uid}/metadata"
    shown = almaty_physician.get(metadata, timeout=60).json()
    for patient_id in (shown[0]["00100020"]["Value"][0], "ANOTHER"):
        victim = {
            "PatientID": patient_id,
            "StudyInstanceUID": almaty_study.study_uid,
            "SeriesInstanceUID": almaty_study.series_uid,
        }
        answer = send(platform, technician, [with_two_readings(SENDER, study, victim, vr)])
        assert answer.status_code == 400, answer.text
        assert "unknown-vr" in answer.headers["Warning"]
    assert instances(platform, almaty_physician, almaty_study.study_uid) == before
    assert technician.get(f"{platform.url}/dicom-web/studies/{study}/metadata", timeout=60).status_code == 404


@pytest.mark.parametrize("defined", [True, False], ids=["defined", "undefined"])
def test_sequences_nested_without_end_do_not_stop_the_archive(
    platform: Platform, technician: requests.Session, defined: bool
):
    before = archive_process(platform)
    assert send(platform, technician, [nested(30, defined)]).status_code == 200
    for levels in (50, 1000):
        answer = send(platform, technician, [nested(levels, defined)])
        assert answer.status_code == 400, answer.text
        assert "damaged" in answer.headers["Warning"]
    assert archive_process(platform) == before


def test_nobody_is_told_that_a_study_is_another_clinics(
    platform: Platform, technician: requests.Session, almaty_study: Study
):
    answer = send(platform, technician, [encoded(image(StudyInstanceUID=almaty_study.study_uid))])
    assert answer.status_code == 409
    told = f"{answer.headers} {answer.text}".lower()
    assert "not-accepted" in told
    assert "another" not in told
    assert "owned" not in told


def test_a_folder_named_by_a_stranger_says_nothing_to_a_terminal(platform: Platform, tmp_path: Path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "\x1b[31mred\u202egnp.dcm").write_bytes(nested(50, True))
    platform.deliver(SENDER, folder, "\x1b]0;owned\x07 Иванов\u202e\nsecond line")
    deadline = time.monotonic() + 180
    while not (found := platform.on_host("find", f"/data/failed/{SENDER}", "-path", "*Иванов*", "-name", "REASON.txt")):
        assert time.monotonic() < deadline, "the folder did not fail"
        time.sleep(1)
    shown = platform.on_host("imaging-importer", "status")
    assert "Иванов" in shown
    reasons = platform.on_host("sh", "-c", f"cat /data/failed/{SENDER}/*/*Иванов*/REASON.txt")
    assert found
    for text in (shown, reasons):
        assert not any(letter in text for letter in "\x1b\x07\u202e\u2028")
        assert "\nsecond line" not in text
