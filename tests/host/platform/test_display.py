"""Compares the importer's statements about which images can be displayed with the images that the platform serves."""

from __future__ import annotations

import io
from array import array
from email.parser import BytesParser

import pytest
import requests
from odd_pixels import CASES, native
from platform_client import Platform
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import ExplicitVRBigEndian
from stow import send

CLINIC, FOREIGNER = "denscan-central", "denscan-almaty"
SAID = "This image is stored and can be downloaded. It cannot be displayed: "
# No images: of them nobody asks a frame.
OTHERS = {"report", "segmentation"}


def frames_of(image: Dataset) -> list[bytes]:
    """Its frames as they are stored, cut out by pydicom."""
    count = int(image.get("NumberOfFrames", 1))
    if image.file_meta.TransferSyntaxUID.is_encapsulated:
        table = image.get("ExtendedOffsetTable")
        extended = (table, image.ExtendedOffsetTableLengths) if table else None
        return list(generate_frames(image.PixelData, number_of_frames=count, extended_offsets=extended))
    size = image.Rows * image.Columns * image.get("SamplesPerPixel", 1) * image.BitsAllocated // 8
    pixels = image.PixelData
    if image.file_meta.TransferSyntaxUID == ExplicitVRBigEndian:  # frames without compression come in little endian
        words = array("H", pixels)
        words.byteswap()
        pixels = words.tobytes()
    return [pixels[number * size : (number + 1) * size] for number in range(count)]


def given(answer: requests.Response) -> bytes:
    """The one part of a multipart answer."""
    head = f"Content-Type: {answer.headers['Content-Type']}\r\n\r\n".encode()
    (part,) = BytesParser().parsebytes(head + answer.content).get_payload()
    return bytes(part.get_payload(decode=True))


@pytest.fixture(scope="module")
def images(platform: Platform) -> dict[str, tuple[str, Dataset]]:
    """Every case, stored in one upload: its address, and the image as it was sent."""
    sent = {case: make() for case, (make, _) in CASES.items()}
    answer = send(platform, platform.api(platform.user("technician", CLINIC)), list(sent.values()))
    assert answer.status_code == 200, answer.text
    made = {}
    for case, data in sent.items():
        image = dcmread(io.BytesIO(data))
        path = f"/studies/{image.StudyInstanceUID}/series/{image.SeriesInstanceUID}/instances/{image.SOPInstanceUID}"
        made[case] = f"{platform.url}/dicom-web{path}", image
    return made


def test_what_the_import_says_nothing_of_is_served_frame_by_frame_as_stored(platform, images):
    session = platform.api(platform.user("physician", CLINIC))
    wrong = {}
    for case, (address, image) in images.items():
        if CASES[case][1] or case in OTHERS:
            continue
        for number, frame in enumerate(frames_of(image), 1):
            answer = session.get(f"{address}/frames/{number}", timeout=60)
            if answer.status_code != 200 or given(answer).rstrip(b"\0") != frame.rstrip(b"\0"):
                wrong[case, number] = answer.status_code
    assert wrong == {}


def test_frames_of_what_cannot_be_displayed_are_refused_in_words_and_the_file_is_given(platform, images):
    session, wrong = platform.api(platform.user("physician", CLINIC)), {}
    for case, (address, image) in images.items():
        if not CASES[case][1]:
            continue
        for frames in ("1", "1,2"):
            answer = session.get(f"{address}/frames/{frames}", timeout=60)
            if answer.status_code != 406 or not answer.text.startswith(SAID) or "Retry-After" in answer.headers:
                wrong[case, frames] = answer.status_code, answer.text
        whole = session.get(address, timeout=60)
        stored = image.get("PixelData") or b""
        if whole.status_code != 200 or stored not in whole.content:
            wrong[case, "file"] = whole.status_code
    assert wrong == {}


def test_who_may_not_see_the_study_learns_nothing_of_it(platform, images):
    stranger = platform.api(platform.user("physician", FOREIGNER))
    address, _ = images["float"]
    nowhere, _, _ = address.rpartition("/instances/")
    answers = [stranger.get(f"{path}/frames/1", timeout=60) for path in (address, f"{nowhere}/instances/1.2.3")]
    assert {(answer.status_code, answer.text) for answer in answers} == {(404, "There is nothing here.\n")}


def test_an_image_that_is_deleted_and_sent_again_in_order_is_displayed(platform):
    """The reason for an image that is gone is not used for the other."""
    technician = platform.api(platform.user("technician", CLINIC))
    kept, bad = (dcmread(io.BytesIO(data)) for data in (native(), CASES["count 0"][0]()))
    for image in (kept, bad):
        image.StudyInstanceUID, image.PatientID = kept.StudyInstanceUID, kept.PatientID
    good = dcmread(io.BytesIO(native()))
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        setattr(good, keyword, bad[keyword].value)
    good.file_meta.MediaStorageSOPInstanceUID = bad.SOPInstanceUID
    path = f"/studies/{bad.StudyInstanceUID}/series/{bad.SeriesInstanceUID}/instances/{bad.SOPInstanceUID}"
    frame = f"{platform.url}/dicom-web{path}/frames/1"
    assert send(platform, technician, [as_file(kept), as_file(bad)]).status_code == 200
    assert technician.get(frame, timeout=60).text.startswith(SAID)
    admin = platform.api(platform.user("admin", CLINIC))
    asked = {"Level": "Instance", "Query": {"SOPInstanceUID": bad.SOPInstanceUID}}
    (found,) = admin.post(f"{platform.url}/orthanc/tools/find", json=asked, timeout=60).json()
    assert admin.delete(f"{platform.url}/orthanc/instances/{found}", timeout=60).status_code == 200
    assert send(platform, technician, [as_file(good)]).status_code == 200
    assert technician.get(frame, timeout=60).status_code == 200


def as_file(image: Dataset) -> bytes:
    target = io.BytesIO()
    image.save_as(target)
    return target.getvalue()
