"""The registry is told a study's series and instances: with the study, after an upgrade, when Orthanc was edited."""

from __future__ import annotations

import io
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from deliveries import instance, uid
from imaging_importer import recorder as module
from imaging_importer.journal import Journal
from imaging_importer.orthanc import OrthancClient
from imaging_importer.reasons import UnavailableError
from imaging_importer.reconcile import Reconciler
from imaging_importer.recorder import Recorder
from importer_fakes import HttpRegistry, Platform
from old_journal import rewind
from pydicom.uid import MRImageStorage

STUDY = "1.2.3"


@pytest.fixture
def platform() -> Iterator[Platform]:
    made = Platform()
    made.owner[STUDY] = "north"
    yield made
    made.close()


@pytest.fixture
def orthanc(platform: Platform) -> OrthancClient:
    return OrthancClient(platform.url, "u", "p")


def put(platform: Platform, count: int = 1, seed: int = 1) -> None:
    draw = random.Random(seed)
    for _ in range(count):
        platform.store(instance(draw, STUDY, uid(draw)))


def told(platform: Platform) -> set[tuple[str, str]]:
    """SeriesInstanceUID and SOPInstanceUID of every instance that the registry shows."""
    contents = platform.contents_told[STUDY]
    series = {one["0020000E"]["Value"][0] for one in contents["series"]}
    found = {(one["0020000E"]["Value"][0], one["00080018"]["Value"][0]) for one in contents["instances"]}
    assert {uid for uid, _ in found} == series
    return found


def held(platform: Platform) -> set[tuple[str, str]]:
    return {identity[2:] for identity in platform.identity.values()}


def questions(platform: Platform) -> int:
    return platform.requests.count("POST /tools/find")


def test_a_study_is_recorded_with_its_contents_in_dicom_json(
    platform: Platform, journal: Journal, orthanc: OrthancClient
) -> None:
    put(platform, 3)
    Recorder(journal, HttpRegistry(platform.url)).refresh(orthanc, STUDY, "north")
    assert told(platform) == held(platform)
    one = platform.contents_told[STUDY]["instances"][0]
    assert one["00080016"] == {"vr": "UI", "Value": [MRImageStorage]}
    assert {series["00201209"]["Value"][0] for series in platform.contents_told[STUDY]["series"]} == {1}


def test_a_name_that_is_too_long_for_orthancs_database_is_shown(
    platform: Platform, journal: Journal, orthanc: OrthancClient
) -> None:
    name = "Kenesary " * 40
    draw = random.Random(1)
    data = pydicom.dcmread(io.BytesIO(instance(draw, STUDY, uid(draw))))
    data.PatientName = name.strip()
    target = io.BytesIO()
    data.save_as(target)
    platform.store(target.getvalue())
    Recorder(journal, HttpRegistry(platform.url)).refresh(orthanc, STUDY, "north")
    assert platform.recorded[STUDY]["00100010"]["Value"] == [{"Alphabetic": name.strip()}]


def test_what_is_deleted_in_orthanc_goes(platform: Platform, journal: Journal, orthanc: OrthancClient) -> None:
    put(platform, 3)
    recorder = Recorder(journal, HttpRegistry(platform.url))
    recorder.refresh(orthanc, STUDY, "north")
    key = next(iter(platform.identity))
    del platform.identity[key], platform.instances[key]
    assert recorder.refresh(orthanc, STUDY, "north") == "recorded"
    assert told(platform) == held(platform)


def test_an_upgrade_tells_what_was_recorded_before_and_leaves_its_revision(
    platform: Platform, tmp_path: Path, orthanc: OrthancClient
) -> None:
    put(platform, 2)
    registry = HttpRegistry(platform.url)
    first = Journal(tmp_path / "journal.sqlite")
    Recorder(first, registry).refresh(orthanc, STUDY, "north")
    first.set_position("swept-at", int(time.time()))
    first.close()
    platform.contents_told.clear()
    rewind(tmp_path / "journal.sqlite", 3)
    journal = Journal(tmp_path / "journal.sqlite")
    recorded = platform.requests.count("POST /registry/record_study")
    reconciler = Reconciler(journal, registry, Recorder(journal, registry), orthanc)
    reconciler.step()
    assert told(platform) == held(platform)
    assert platform.requests.count("POST /registry/record_study") == recorded, "what the proxy has cached stays good"
    asked = questions(platform)
    journal.set_position("swept-at", 0)
    reconciler.step()
    assert questions(platform) == asked, "it is asked once"
    journal.close()


def test_a_study_that_grows_image_by_image_is_not_asked_about_each_time(
    platform: Platform, journal: Journal, orthanc: OrthancClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FEW", 10)
    recorder = Recorder(journal, HttpRegistry(platform.url))
    asked = []
    for number in range(40):
        put(platform, 1, seed=number)
        recorder.refresh(orthanc, STUDY, "north", always=True)
        asked.append(questions(platform))
    assert asked[9] == 10, "each time while it is small"
    assert asked[-1] - asked[9] < 8
    assert told(platform) < held(platform)
    assert recorder.refresh(orthanc, STUDY, "north") == "unchanged"  # as when Orthanc calls it stable
    assert told(platform) == held(platform)


def test_a_study_that_orthanc_names_too_slowly_is_recorded_all_the_same(
    platform: Platform, journal: Journal, orthanc: OrthancClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(platform)
    recorder = Recorder(journal, HttpRegistry(platform.url))

    def hangs(_study_uid: str) -> None:
        raise UnavailableError("orthanc", "timeout")

    with monkeypatch.context() as patched:
        patched.setattr(orthanc, "contents", hangs)
        assert recorder.refresh(orthanc, STUDY, "north") == "recorded"
    assert STUDY not in platform.contents_told
    assert recorder.refresh(orthanc, STUDY, "north") == "unchanged"
    assert told(platform) == held(platform)
