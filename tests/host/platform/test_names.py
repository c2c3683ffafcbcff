"""A name is one text, however a device writes it: in the study list, in Orthanc's metadata, in a search as it is typed,
in the download, and for a patient who comes in many images.
"""

from __future__ import annotations

import io
import random

import pydicom
import pytest
import requests
from corpus import replaced
from platform_client import Platform
from pydicom.uid import generate_uid
from stow import send
from strange_files import encoded, image
from time_lapse import wait_for

NAME, PATIENT = "Иванова^Асель", "Иванов"
WRITTEN = {
    "code extensions": (
        b"ISO 2022 IR 6\\ISO 2022 IR 144",
        b"\x1b-L" + "Иванова".encode("iso8859-5") + b"^\x1b-L" + "Асель".encode("iso8859-5"),
    ),
    "windows-1251 without a name": (b"", NAME.encode("cp1251")),
    "windows-1251 as UTF-8": (b"ISO_IR 192", NAME.encode("cp1251")),
    "windows-1251 as Latin": (b"ISO_IR 100", NAME.encode("cp1251")),
    "KOI8-R without a name": (b"", NAME.encode("koi8-r")),
    "UTF-8 without a name": (b"", NAME.encode()),
    "misspelt": (b"ISO_IR_192", NAME.encode()),
    "true": (b"ISO_IR 144", NAME.encode("iso8859-5")),
}


@pytest.fixture(scope="module")
def technician(platform: Platform) -> requests.Session:
    session = platform.api(platform.user("technician", "denscan-central"))
    # A test before may have stopped Orthanc: the importer finds out a little later that it is back.
    wait_for("uploads are taken", lambda: send(platform, session, [encoded(image())]).status_code == 200, 90)
    return session


def written(charset: bytes, name: bytes, patient_id: bytes, **more: object) -> bytes:
    """An image with exactly these bytes."""
    data = encoded(image(SpecificCharacterSet="CHARSET", PatientName="NAME", PatientID="PATIENT", **more))
    for tag, vr, marker, value in (
        (0x00080005, b"CS", b"CHARSET ", charset),
        (0x00100010, b"PN", b"NAME", name),
        (0x00100020, b"LO", b"PATIENT ", patient_id),
    ):
        data = replaced(data, tag, vr, value, marker)
    return data


@pytest.mark.parametrize("kind", WRITTEN)
def test_everybody_reads_one_name(
    platform: Platform, technician: requests.Session, central_physician: requests.Session, kind: str
):
    charset, name = WRITTEN[kind]
    mark, study = f"N{random.randrange(10**9)}", generate_uid()
    answer = send(platform, technician, [written(charset, name, mark.encode(), StudyInstanceUID=study)])
    assert answer.status_code == 200, answer.text
    studies = f"{platform.url}/dicom-web/studies"
    for typed in ({"PatientID": mark}, {"PatientID": mark, "PatientName": NAME}, {"StudyInstanceUID": study}):
        (row,) = central_physician.get(studies, params=typed, timeout=60).json()
        assert row["00100010"]["Value"] == [{"Alphabetic": NAME}]
    (metadata,) = central_physician.get(f"{studies}/{study}/metadata", timeout=60).json()
    assert metadata["00100010"]["Value"] == [{"Alphabetic": NAME}]
    series, sop = metadata["0020000E"]["Value"][0], metadata["00080018"]["Value"][0]
    download = central_physician.get(f"{studies}/{study}/series/{series}/instances/{sop}", timeout=60)
    body = download.content.split(b"\r\n\r\n", 1)[1]
    assert str(pydicom.dcmread(io.BytesIO(body[: body.rindex(b"\r\n--")])).PatientName) == NAME


def test_images_of_one_patient_are_one_study_however_each_is_written(
    platform: Platform, technician: requests.Session, central_physician: requests.Session
):
    """In one upload and in several, and once more; another patient is still told apart."""
    study, ways = (
        generate_uid(),
        [(b"", "cp1251"), (b"ISO_IR 192", "cp1251"), (b"", "utf-8"), (b"ISO_IR 144", "iso8859-5")],
    )
    slices = [written(charset, b"A", padding + PATIENT.encode(codec), StudyInstanceUID=study)
              for charset, codec in ways for padding in (b"", b"  ")]  # fmt: skip
    for parts in (slices[:3], slices[3:], slices):
        answer = send(platform, technician, parts)
        assert answer.status_code == 200, answer.text
    other = written(b"", b"A", "Петров".encode("cp1251"), StudyInstanceUID=study)
    assert "patient-mismatch" in send(platform, technician, [other]).headers["Warning"]
    metadata = central_physician.get(f"{platform.url}/dicom-web/studies/{study}/metadata", timeout=60).json()
    assert [instance["00100020"]["Value"] for instance in metadata] == [[PATIENT]] * len(slices)
