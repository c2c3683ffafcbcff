"""Every odd kind of file in one delivery: each ends as it should, is found by its patient, and is seen as written."""

from __future__ import annotations

import copy
import json
import time

import numpy as np
import pytest
import requests
from corpus import KEPT, STORED, Case, cases
from downloads import parts
from platform_client import Platform
from pydicom.encaps import encapsulate
from pydicom.pixels import pixel_array
from pydicom.uid import UID, ExplicitVRLittleEndian

CLINIC = "denscan-central"
CORPUS = cases()
IMAGES = [kind for kind, case in CORPUS.items() if STORED in case.ends]


@pytest.fixture(scope="module")
def physician(platform: Platform) -> requests.Session:
    return platform.api(platform.user("physician", CLINIC))


@pytest.fixture(scope="module")
def report(
    platform: Platform, physician: requests.Session, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list]:
    """Deliver all in one folder and wait until it is done; return the lists of the importer's reports."""
    folder = tmp_path_factory.mktemp("delivery") / "corpus"
    for kind, case in CORPUS.items():
        (folder / kind).mkdir(parents=True)
        for name, data in case.files.items():
            (folder / kind / name).write_bytes(data)
    name = f"corpus-{time.time_ns()}"
    platform.deliver(CLINIC, folder, name)
    found = ["sh", "-c", f"find /data/processed/{CLINIC} /data/failed/{CLINIC} -path '*{name}*' -name 'report*.json'"]
    platform.wait_for_study(physician, str(CORPUS["pixels-explicit"].dataset.StudyInstanceUID))
    deadline = time.monotonic() + 60
    while platform.on_host("find", f"/data/inbox/.spool/{CLINIC}", "-path", f"*{name}*", check=False):
        assert time.monotonic() < deadline, "the delivery does not end"
        time.sleep(1)
    lists: dict[str, list] = {"failures": [], "kept": [], "notes": []}
    for path in platform.on_host(*found).split("\n")[:-1]:
        told = json.loads(platform.on_host("cat", path))
        for name in lists:
            lists[name] += told.get(name, [])
    return lists


def listed(platform: Platform, physician: requests.Session, case: Case) -> list[dict]:
    query = {"StudyInstanceUID": str(case.dataset.StudyInstanceUID)}
    answer = physician.get(f"{platform.url}/dicom-web/studies", params=query, timeout=60)
    return answer.json() if answer.status_code == 200 else []


@pytest.mark.parametrize("kind", CORPUS)
def test_it_ends_as_it_should(platform, physician, report, kind):
    case = CORPUS[kind]
    of_it = {name: [one for one in report[name] if (one["path"] or "").startswith(f"{kind}/")] for name in report}
    failed = {failure["reason"] for failure in of_it["failures"]}
    if failed:
        assert failed <= set(case.ends), of_it["failures"]
        return
    assert STORED in case.ends or KEPT in case.ends
    if KEPT in case.ends:
        assert {one["path"] for one in of_it["kept"]} == {f"{kind}/{name}" for name in case.files}
        return
    (study,) = listed(platform, physician, case)
    assert study["00201208"]["Value"] == [len(case.files)]


@pytest.mark.parametrize("kind", IMAGES)
def test_the_list_shows_its_patient(platform, physician, report, kind):
    case = CORPUS[kind]
    if not (found := listed(platform, physician, case)):
        assert case.ends != (STORED,), report["failures"]
        return
    assert found[0]["00100010"]["Value"][0]["Alphabetic"] == case.patient_name
    assert found[0]["00100020"]["Value"] == [case.patient_id]


@pytest.mark.parametrize("kind", IMAGES)
def test_its_frames_are_the_pixels_that_were_written_or_it_is_told_that_they_cannot_be_seen(
    platform, physician, report, kind
):
    case = CORPUS[kind]
    if not listed(platform, physician, case):
        assert case.ends != (STORED,), report["failures"]
        return
    image = case.dataset
    path = f"studies/{image.StudyInstanceUID}/series/{image.SeriesInstanceUID}/instances/{image.SOPInstanceUID}"
    told = {one["detail"].partition(":")[0] for one in report["notes"] if one["path"].startswith(f"{kind}/")
            and one["note"] == "not-displayable"}  # fmt: skip
    assert told == ({case.why} if case.why else set())
    for number, expected in enumerate(() if case.why else case.frames):
        answer = physician.get(f"{platform.url}/dicom-web/{path}/frames/{number + 1}", timeout=60)
        assert answer.status_code == 200, answer.text
        assert np.array_equal(decoded(case, parts(answer)[0]), expected)
    if case.why:
        answer = physician.get(f"{platform.url}/dicom-web/{path}/frames/1", timeout=60)
        assert answer.status_code == 406
        assert "displayed" in answer.text
        assert "Retry-After" not in answer.headers


def decoded(case: Case, frame: bytes) -> np.ndarray:
    """One frame as it came, read with the header that was sent."""
    one = copy.deepcopy(case.dataset)
    syntax = UID(one.file_meta.TransferSyntaxUID)
    if "NumberOfFrames" in one:
        one.NumberOfFrames = 1
    if syntax.is_encapsulated:
        one.PixelData = encapsulate([frame])
    else:  # PS3.18 8.7.3.3.2: little endian, however it is stored
        one.PixelData, one.file_meta.TransferSyntaxUID = frame, ExplicitVRLittleEndian
    return pixel_array(one, raw=True)
