"""Fixtures of the tests that talk to a running platform from outside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pytest
import requests
from platform_client import Platform
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid


@pytest.fixture(scope="session")
def platform() -> Platform:
    return Platform()


@dataclass(frozen=True)
class Study:
    """A delivered study and the UIDs of one of its instances."""

    clinic: str
    study_uid: str
    series_uid: str
    sop_uid: str


def copy_with_new_uids(source: Path, target: Path) -> Study:
    """Write the study below `source` to `target` as a new study of the same images."""
    target.mkdir(parents=True)
    study_uid, series_uids, first = generate_uid(), {}, None
    for number, path in enumerate(sorted(p for p in source.rglob("*") if p.is_file())):
        dataset = pydicom.dcmread(path)
        dataset.StudyInstanceUID = study_uid
        dataset.SeriesInstanceUID = series_uids.setdefault(dataset.SeriesInstanceUID, generate_uid())
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.save_as(target / f"IM{number:04d}")
        first = first or Study("", study_uid, dataset.SeriesInstanceUID, dataset.SOPInstanceUID)
    assert first is not None, f"no DICOM file below {source}"
    return first


@pytest.fixture(scope="session")
def deliver(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Study]:
    """Deliver a new MR study to a clinic and wait until its physician can see it."""
    source = Path(str(get_testdata_file("DICOMDIR"))).parent / "98892003"

    def deliver(clinic: str) -> Study:
        folder = tmp_path_factory.mktemp("delivery") / "study"
        study = copy_with_new_uids(source, folder)
        platform.deliver(clinic, folder, f"test-{study.study_uid}")
        platform.wait_for_study(platform.api(platform.user("physician", clinic)), study.study_uid)
        return Study(clinic, study.study_uid, study.series_uid, study.sop_uid)

    return deliver


@pytest.fixture(scope="session")
def central_study(deliver: Callable[[str], Study]) -> Study:
    return deliver("denscan-central")


@pytest.fixture(scope="session")
def almaty_study(deliver: Callable[[str], Study]) -> Study:
    return deliver("denscan-almaty")


@pytest.fixture(scope="session")
def central_physician(platform: Platform) -> requests.Session:
    return platform.api(platform.user("physician", "denscan-central"))


@pytest.fixture(scope="session")
def almaty_physician(platform: Platform) -> requests.Session:
    return platform.api(platform.user("physician", "denscan-almaty"))
