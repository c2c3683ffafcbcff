"""Every real file that pydicom ships, delivered as it is to a running platform."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pydicom
import pytest
from platform_client import Platform
from real_files import IMPORTED, SAME_IMAGE, expected, real_files

CLINIC = "partner-clinic"
# The demo has delivered these studies to two other clinics.
OWNED = "pydicom/test_files/dicomdirtests/"
PATIENCE_SECONDS = 300


@pytest.fixture(scope="module")
def failures(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Deliver all of them in one folder; return the files that were not imported, and the reasons."""
    folder = tmp_path_factory.mktemp("delivery") / "real-files"
    for name, path in real_files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)
    delivery = f"real-files-{time.time_ns()}"
    platform.deliver(CLINIC, folder, delivery)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        found = platform.on_host("find", "/data/failed", "-path", f"*/{delivery}/report.json").splitlines()
        if found:
            reported = json.loads(platform.on_host("cat", found[0]))
            return {failure["path"]: failure["reason"] for failure in reported["failures"]}
        time.sleep(2)
    raise AssertionError(f"the delivery was not reported within {PATIENCE_SECONDS} s")


def acceptable(name: str, path: Path) -> set[str | None]:
    """How a file may end: None when it is imported, or kept beside the images."""
    end = expected(name, path)
    if end != IMPORTED:
        return {end} if end not in ("not-dicom", "dicomdir", "packed-kind") else {None}
    return {None, *SAME_IMAGE, *(["not-accepted"] if name.startswith(OWNED) else [])}


ECG = "pydicom/test_files/waveform_ecg.dcm"


def test_each_ends_as_the_table_says(failures: dict[str, str]) -> None:
    wrong = {
        name: failures.get(name)
        for name, path in real_files().items()
        if failures.get(name) not in acceptable(name, path)
    }
    assert wrong == {}


def test_each_imported_study_is_in_the_clinics_list(platform: Platform, failures: dict[str, str]) -> None:
    session = platform.api(platform.user("physician", CLINIC))
    answer = session.get(f"{platform.url}/dicom-web/studies", params={"limit": "1000"}, timeout=60)
    listed = {study["0020000D"]["Value"][0] for study in answer.json()}
    imported = [
        path for name, path in real_files().items() if expected(name, path) == IMPORTED and name not in failures
    ]
    assert len(imported) > 100
    studies = {str(pydicom.dcmread(path, force=True, stop_before_pixels=True).StudyInstanceUID) for path in imported}
    assert studies - listed == set()


@pytest.mark.usefixtures("failures")
@pytest.mark.parametrize("_source", ["Orthanc", "the cache"])
def test_who_asks_for_an_ecgs_bytes_alone_gets_them_alone(platform: Platform, _source: str) -> None:
    """As the viewer asks."""
    dataset = pydicom.dcmread(real_files()[ECG])
    path = (
        f"/dicom-web/studies/{dataset.StudyInstanceUID}/series/{dataset.SeriesInstanceUID}"
        f"/instances/{dataset.SOPInstanceUID}/bulk/54000100/1/54001010"
    )
    session = platform.api(platform.user("physician", CLINIC))
    answer = session.get(platform.url + path, headers={"Accept": "application/octet-stream"}, timeout=60)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/octet-stream")
    assert answer.content == dataset.WaveformSequence[0].WaveformData
    wrapped = session.get(platform.url + path, headers={"Accept": "multipart/related"}, timeout=60)
    assert wrapped.headers["Content-Type"].startswith("multipart/related")
    assert answer.content in wrapped.content
