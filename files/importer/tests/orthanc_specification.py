"""The importer's assumptions about Orthanc: run against the fake here, against Orthanc itself in tests/host/platform.

Each side brings the fixture `orthanc`. Stored images are removed again, because a platform would work on leftovers.
"""

import hashlib
import io
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pydicom
import pytest
from imaging_importer.orthanc import OrthancClient, Stow
from importer_fakes import resource_id
from pydicom.data import get_testdata_file

RANDOM = random.SystemRandom()


def new_uid() -> str:
    return f"2.25.{RANDOM.getrandbits(120)}"


@dataclass
class Image:
    """A real file under new identifiers, as the importer hands it to Orthanc."""

    study: str
    series: str
    sop: str
    patient: str
    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def key(self) -> str:
        return resource_id(self.patient, self.study, self.series, self.sop)

    @property
    def md5(self) -> str:
        return hashlib.md5(self.data, usedforsecurity=False).hexdigest()

    def chunks(self) -> Iterator[bytes]:
        yield self.data


class Noise(Image):
    """A file that has nothing of DICOM."""

    def __init__(self) -> None:
        super().__init__("", "", "", "", b"this is no DICOM file" * 50)


Make = Callable[..., Image]


@pytest.fixture
def image(orthanc: OrthancClient) -> Iterator[Make]:
    """Make an image, of a new study unless one is given; afterwards it is removed from Orthanc."""
    made: set[str] = set()

    def image(study: str = "", series: str = "", sop: str = "", patient: str = "SPEC-1", **elements: object) -> Image:
        ds = pydicom.dcmread(str(get_testdata_file("MR_small.dcm")))
        one = Image(study or new_uid(), series or new_uid(), sop or new_uid(), patient, b"")
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.PatientID = one.study, one.series, one.patient
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = one.sop
        for keyword, value in elements.items():
            setattr(ds, keyword, value)
        file = io.BytesIO()
        ds.save_as(file)
        one.data = file.getvalue()
        made.add(one.sop)
        return one

    yield image
    for held in orthanc.instances(made):
        orthanc.remove(held.orthanc_id)


def store(orthanc: OrthancClient, *images: Image, study: str = "") -> Stow:
    return orthanc.store(study or images[0].study, list(images))  # type: ignore[arg-type]


def test_what_is_stored_is_named_and_held_under_its_identifiers(orthanc: OrthancClient, image: Make) -> None:
    one = image()
    answer = store(orthanc, one)
    assert (answer.status, answer.stored, answer.failed) == (200, {one.sop}, frozenset())
    assert answer.understood
    (held,) = orthanc.instances({one.sop})
    assert (held.study_uid, held.series_uid, held.sop_instance_uid) == (one.study, one.series, one.sop)
    assert held.orthanc_id == one.key
    assert held.digests == {one.md5}


def test_several_are_stored_and_asked_for_at_once(orthanc: OrthancClient, image: Make) -> None:
    first = image()
    second = image(first.study)
    assert store(orthanc, first, second).stored == {first.sop, second.sop}
    assert {held.orthanc_id for held in orthanc.instances({first.sop, second.sop, new_uid()})} == {
        first.key,
        second.key,
    }


def test_the_first_image_under_a_uid_is_kept_and_another_is_answered_as_stored(
    orthanc: OrthancClient, image: Make
) -> None:
    first = image()
    other = image(first.study, first.series, first.sop, ImageComments="other bytes")
    store(orthanc, first)
    answer = store(orthanc, other)
    assert (answer.status, answer.stored) == (200, {first.sop})
    assert [held.digests for held in orthanc.instances({first.sop})] == [{first.md5}]


@pytest.mark.parametrize("order", [1, -1], ids=["first", "last"])
def test_what_cannot_be_read_is_named_nowhere_and_the_rest_is_stored(
    orthanc: OrthancClient, image: Make, order: int
) -> None:
    one = image()
    answer = store(orthanc, *[one, Noise()][::order], study=one.study)
    assert (answer.status, answer.stored, answer.failed) == (400, {one.sop}, frozenset())
    assert [held.orthanc_id for held in orthanc.instances({one.sop})] == [one.key]


@pytest.mark.parametrize("order", [1, -1], ids=["last", "first"])
def test_an_image_of_another_study_than_the_request_is_not_stored(
    orthanc: OrthancClient, image: Make, order: int
) -> None:
    one, foreign = image(), image()
    answer = store(orthanc, *[one, foreign][::order], study=one.study)
    assert (answer.status, answer.stored, answer.failed) == (409, {one.sop}, {foreign.sop})
    assert orthanc.instances({foreign.sop}) == []


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (2, 1, 0), (1, 0, 2)], ids=str)
def test_what_cannot_be_read_decides_the_status_wherever_it_stands(
    orthanc: OrthancClient, image: Make, order: tuple[int, ...]
) -> None:
    one, foreign = image(), image()
    parts = (one, Noise(), foreign)
    answer = store(orthanc, *[parts[number] for number in order], study=one.study)
    assert (answer.status, answer.stored, answer.failed) == (400, {one.sop}, {foreign.sop})


def test_two_patient_ids_under_one_study_uid_are_two_studies(orthanc: OrthancClient, image: Make) -> None:
    first = image()
    second = image(first.study, patient="SPEC-2")
    store(orthanc, first, second)
    keys = {one.patient: resource_id(one.patient, one.study) for one in (first, second)}
    assert orthanc.study_ids(first.study) == set(keys.values())
    assert [orthanc.parent_study(one.key) for one in (first, second)] == [keys["SPEC-1"], keys["SPEC-2"]]
    assert orthanc.raw_patient_id(keys["SPEC-2"]).strip(b"\0 ") == b"SPEC-2"


def test_a_study_without_a_patient_id_is_a_study(orthanc: OrthancClient, image: Make) -> None:
    one = image(patient="")
    assert store(orthanc, one).stored == {one.sop}
    (study,) = orthanc.study_ids(one.study)
    assert orthanc.raw_patient_id(study).strip(b"\0 ") == b""


def test_what_it_does_not_have_is_nothing_and_no_error(orthanc: OrthancClient) -> None:
    unknown = resource_id(new_uid())
    assert orthanc.instances({new_uid()}) == []
    assert orthanc.study_ids(new_uid()) == set()
    assert orthanc.study_attributes(new_uid()) is None
    assert orthanc.contents(new_uid()).series == []
    assert (orthanc.study_uid(unknown), orthanc.last_update(unknown), orthanc.size(unknown)) == ("", "", 0)
    assert [orthanc.studies_of(f"/{level}/{unknown}") for level in ("patients", "studies", "series", "instances")] == [
        [],
        [],
        [],
        [],
    ]
    orthanc.remove(unknown)


def test_what_is_taken_out_is_gone_and_so_is_its_empty_study(orthanc: OrthancClient, image: Make) -> None:
    one = image()
    store(orthanc, one)
    orthanc.remove(one.key)
    assert orthanc.instances({one.sop}) == []
    assert orthanc.study_ids(one.study) == set()


def test_the_attributes_of_a_study(orthanc: OrthancClient, image: Make) -> None:
    first = image(patient="SPEC-3", PatientName="Spec^Three", InstitutionName="North")
    second = image(first.study, patient="SPEC-3", PatientName="Spec^Three", InstitutionName="North")
    store(orthanc, first, second)
    told = orthanc.study_attributes(first.study)
    assert told is not None
    assert told["0020000D"]["Value"] == [first.study]
    assert told["00100010"]["Value"] == [{"Alphabetic": "Spec^Three"}]
    assert told["00100020"]["Value"] == ["SPEC-3"]
    assert told["00080080"]["Value"] == ["North"]
    assert told["00201208"]["Value"] == [2]


def test_a_name_that_is_too_long_for_the_database_is_read_in_the_file(orthanc: OrthancClient, image: Make) -> None:
    name = f"{'Long' * 70}^Name"
    one = image(PatientName=name)
    store(orthanc, one)
    told = orthanc.study_attributes(one.study)
    assert told is not None
    assert told["00100010"]["Value"] == [{"Alphabetic": name}]


def test_the_contents_of_a_study(orthanc: OrthancClient, image: Make) -> None:
    first = image(SeriesNumber=7, InstanceNumber=1, SeriesDescription="axial")
    second = image(first.study, first.series, SeriesNumber=7, InstanceNumber=2, SeriesDescription="axial")
    third = image(first.study, SeriesNumber=8, InstanceNumber=1, SeriesDescription=None)
    store(orthanc, first, second, third)
    contents = orthanc.contents(first.study)
    series = {one["0020000E"]["Value"][0]: one for one in contents.series}
    assert {uid: one["00201209"]["Value"] for uid, one in series.items()} == {first.series: [2], third.series: [1]}
    assert series[first.series]["00200011"] == {"vr": "IS", "Value": [7]}
    assert series[first.series]["0008103E"] == {"vr": "LO", "Value": ["axial"]}
    assert series[first.series]["00080060"] == {"vr": "CS", "Value": ["MR"]}
    assert "0008103E" not in series[third.series]
    assert {(one["00080018"]["Value"][0], one["00200013"]["Value"][0]) for one in contents.instances} == {
        (first.sop, 1),
        (second.sop, 2),
        (third.sop, 1),
    }


def test_every_resource_leads_to_its_study(orthanc: OrthancClient, image: Make) -> None:
    one = image(patient=f"SPEC-{new_uid()[-9:]}")
    store(orthanc, one)
    study = resource_id(one.patient, one.study)
    paths = {
        "patients": resource_id(one.patient),
        "studies": study,
        "series": resource_id(one.patient, one.study, one.series),
        "instances": one.key,
    }
    assert {level: orthanc.studies_of(f"/{level}/{key}") for level, key in paths.items()} == {
        level: [one.study] for level in paths
    }
    assert orthanc.study_uid(study) == one.study
    assert orthanc.size(study) == len(one.data)


def test_a_study_that_gets_an_image_has_changed(orthanc: OrthancClient, image: Make) -> None:
    one = image()
    store(orthanc, one)
    (study,) = orthanc.study_ids(one.study)
    before = orthanc.last_update(study)
    assert before
    # Orthanc notes the second.
    time.sleep(1.1)
    store(orthanc, image(one.study))
    assert orthanc.last_update(study) > before


def test_all_studies_are_told_page_by_page_and_counted(orthanc: OrthancClient, image: Make) -> None:
    ours = [image() for _ in range(3)]
    before = orthanc.counts()
    for one in ours:
        store(orthanc, one)
    assert {one.study for one in ours} <= set(orthanc.study_uids(2))
    assert [after - earlier for earlier, after in zip(before, orthanc.counts(), strict=True)] == [3, 3, 3]


def test_the_change_feed_has_an_end_and_never_goes_back(orthanc: OrthancClient) -> None:
    since, done = 0, False
    while not done:
        changes, last, done = orthanc.changes(since, 1000)
        assert last >= since
        assert [change for change in changes if not {"ID", "ResourceType", "ChangeType"} <= change.keys()] == []
        since = last


def test_it_can_store_and_keeps_nothing_of_the_trial(orthanc: OrthancClient) -> None:
    before = orthanc.counts()
    assert orthanc.can_store()
    assert orthanc.counts() == before
