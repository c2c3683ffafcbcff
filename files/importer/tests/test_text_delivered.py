# ruff: noqa: F811, RUF001 - Cyrillic letters are what it is about
"""Images of one patient, however each is written, end in one study; so do those of a study that an earlier release
stored, whose text it did not correct.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from deliveries import sop_uid, uid
from imaging_importer.dicom.instance import read_instance
from imaging_importer.dicom.stamp import former
from test_archive_decides import House, house, send, shared, study_of  # noqa: F401 - fixtures
from test_text import made

SCRATCH = Path(tempfile.gettempdir())
WRITTEN = [
    (None, "cp1251"),
    (b"ISO_IR 192", "cp1251"),
    (None, "utf-8"),
    (b"ISO_IR 144", "iso8859-5"),
    (b"KOI8-R", "koi8-r"),
]


def one(house: House, charset: bytes | None, name: bytes, patient: bytes, study: str) -> bytes:
    return made(
        charset,
        PatientName=name,
        PatientID=patient,
        StudyInstanceUID=study.encode(),
        SeriesInstanceUID=f"{study[:60]}.1".encode(),
        SOPInstanceUID=uid(house.random).encode(),
    )


def slices(house: House, count: int, patient: str, study: str) -> list[bytes]:
    """One patient, each image written in another way."""
    ways = [(*WRITTEN[number % len(WRITTEN)], b" " * (number % 3)) for number in range(count)]
    return [one(house, charset, b"Test", padding + patient.encode(codec), study) for charset, codec, padding in ways]


def of_one_set(house: House, count: int, name: str, patient: str, study: str) -> list[bytes]:
    """As one old device writes: windows-1251, and says nothing of it."""
    return [one(house, None, name.encode("cp1251"), patient.encode("cp1251"), study) for _ in range(count)]


def store_as_before(house: House, images: list[bytes]) -> dict[str, str]:
    """The images that the archive holds since an earlier release."""
    for data in images:
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.flush()
            house.platform.store(b"".join(former(read_instance(file, SCRATCH), "north", SCRATCH).chunks()))
    return house.platform.md5s()


def patients(house: House) -> set[str]:
    return {identity[0] for identity in house.platform.identity.values()}


def test_slices_of_one_patient_are_one_study_in_one_delivery_and_in_several(house: House) -> None:
    images = slices(house, 60, "Иванов01", uid(house.random))
    assert send(house, "north", "one", images[:30]) == {}
    assert send(house, "north", "two", images[30:]) == {}
    assert send(house, "north", "all", images) == {}
    assert len(house.platform.instances) == 60
    assert patients(house) == {"Иванов01"}


def test_two_patients_in_one_study_are_still_told_apart(house: House) -> None:
    study = uid(house.random)
    assert send(house, "north", "one", slices(house, 5, "Иванов01", study)) == {}
    reasons = send(house, "north", "two", slices(house, 5, "Петров01", study))
    assert set(reasons.values()) == {"patient-mismatch"}
    assert len(reasons) == 5
    assert patients(house) == {"Иванов01"}


@pytest.mark.parametrize(
    ("name", "patient"), [("Test", "Иванов01"), ("Иванова^Асель", "P1"), ("Иванова^Асель", "Иванов01")]
)
def test_a_study_that_an_earlier_release_stored_goes_on(house: House, name: str, patient: str) -> None:
    """An image that is delivered again is known by its old bytes. A new one joins the study under its old PatientID."""
    images = of_one_set(house, 12, name, patient, uid(house.random))
    before = store_as_before(house, images[:8])
    assert send(house, "north", "again", images[:4]) == {}
    assert send(house, "north", "more", images) == {}
    after = house.platform.md5s()
    assert after.keys() == {sop_uid(data) for data in images}
    assert {sop: after[sop] for sop in before} == before
    assert len(patients(house)) == 1
    other = of_one_set(house, 1, name, "Петров", study_of(images[0]))
    assert send(house, "north", "other", other) == {"000.dcm": "patient-mismatch"}
    assert len(patients(house)) == 1


def test_another_patients_id_is_not_taken_for_the_old_reading_of_this_one(house: House) -> None:
    """Read as before, without its Cyrillic letters, the second would be the first."""
    study = uid(house.random)
    assert send(house, "north", "one", [one(house, None, b"Test", b"01", study)]) == {}
    house.platform.faults.misread = {"Иванов01".encode("cp1251"): {"PatientID": "01"}}
    second = one(house, None, b"Test", "Иванов01".encode("cp1251"), study)
    assert send(house, "north", "two", [second]) == {"000.dcm": "patient-mismatch"}
    assert len(house.platform.instances) == 1


def test_what_a_clinic_writes_is_read_so(tmp_path: Path) -> None:
    """ЛЕОН in KOI8-R looks like a word of windows-1251."""
    house = House(tmp_path, charsets={"south": "koi8-r"})
    house.prefix = ""
    try:
        for clinic in ("north", "south"):
            image = made(
                None,
                PatientID="ЛЕОН".encode("koi8-r"),
                StudyInstanceUID=uid(house.random).encode(),
                SOPInstanceUID=uid(house.random).encode(),
            )
            assert send(house, clinic, f"of {clinic}", [image]) == {}
        assert patients(house) == {"мепо", "ЛЕОН"}
    finally:
        house.process.kill()
        house.process.wait()
        house.platform.close()
