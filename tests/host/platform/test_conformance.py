"""docs/CONFORMANCE.md compared with the running platform: the platform does everything that it states."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

import pydicom
import pytest
import requests
from downloads import parts
from platform_client import ROOT, Platform
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)
from stow import send
from strange_files import encoded, image

CLINIC = "denscan-central"
STATEMENT = (ROOT / "docs/CONFORMANCE.md").read_text()


def rows(*titles: str) -> list[dict[str, str]]:
    """The table of the statement that has these columns."""
    for block in re.findall(r"(?:^\|.*\n)+", STATEMENT, re.MULTILINE):
        head, _, *lines = ([cell.strip(" `") for cell in line.strip("|").split(" | ")] for line in block.splitlines())
        if set(titles) <= set(head):
            return [dict(zip(head, line, strict=True)) for line in lines]
    raise AssertionError(f"no table has the columns {titles}")


NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
SYNTAXES = {row["UID"]: row for row in rows("UID", "Stored")}
KEYS = rows("Level", "Matching key")


@pytest.fixture(scope="module")
def physician(platform: Platform) -> requests.Session:
    return platform.api(platform.user("physician", CLINIC))


@pytest.fixture(scope="module")
def technician(platform: Platform) -> requests.Session:
    return platform.api(platform.user("technician", CLINIC))


def written(dataset: FileDataset, syntax: str) -> bytes:
    """An image as a file of some transfer syntax. If only a codec could make the pixels, they are any bytes."""
    dataset.file_meta.TransferSyntaxUID = syntax
    if syntax not in NATIVE:
        dataset.PixelData = encapsulate([bytes(range(100))])
        dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    target = io.BytesIO()
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    pydicom.dcmwrite(target, dataset, implicit_vr=implicit, little_endian=little, enforce_file_format=True)
    return target.getvalue()


@pytest.mark.parametrize("stored", ["yes", "no"])
def test_each_transfer_syntax_is_taken_and_given_back_or_refused_as_stated(platform, physician, technician, stored):
    """The pixels byte for byte. The bytes before them have the clinic's name written into them."""
    study, series = generate_uid(), generate_uid()
    sent = {}
    for syntax in (uid for uid, row in SYNTAXES.items() if row["Stored"] == stored):
        dataset = image(StudyInstanceUID=study, SeriesInstanceUID=series)
        sent[syntax] = (dataset.SOPInstanceUID, written(dataset, syntax), dataset.PixelData)
    assert len(sent) > (40 if stored == "yes" else 1)
    answer = send(platform, technician, [data for _, data, _ in sent.values()])
    if stored == "no":
        assert answer.status_code == 400
        assert "transfer syntax" in answer.headers["Warning"]
        return
    assert answer.status_code == 200, answer.headers.get("Warning")
    given = {}
    for file in parts(physician.get(f"{platform.url}/dicom-web/studies/{study}", timeout=60)):
        dataset = pydicom.dcmread(io.BytesIO(file))
        given[dataset.SOPInstanceUID] = (dataset.file_meta.TransferSyntaxUID, dataset.PixelData)
    assert given == {uid: (syntax, pixels) for syntax, (uid, _, pixels) in sent.items()}


@pytest.fixture(scope="module")
def whole(platform: Platform, technician: requests.Session) -> dict[str, str]:
    """An image that has a value for each matching key; keyword -> value."""
    mark = generate_uid().rpartition(".")[2][-8:]
    values = {
        "StudyDate": "20990106", "StudyTime": "101112", "AccessionNumber": f"A{mark}", "ModalitiesInStudy": "OT",
        "ReferringPhysicianName": f"Refers{mark}^Doctor", "StudyDescription": f"Described {mark}",
        "PatientName": f"Conforms{mark}^Test", "PatientID": f"P{mark}", "PatientBirthDate": "19700203",
        "PatientSex": "O", "StudyID": f"S{mark}", "Modality": "OT", "SeriesNumber": "7", "InstanceNumber": "3",
        "PerformedProcedureStepStartDate": "20990106", "PerformedProcedureStepStartTime": "101112",
    }  # fmt: skip
    dataset = image(**{keyword: value for keyword, value in values.items() if keyword != "ModalitiesInStudy"})
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"):
        values[keyword] = str(dataset[keyword].value)
    assert send(platform, technician, [encoded(dataset)]).status_code == 200
    return values


def searched(platform: Platform, session: requests.Session, path: str, **query: str) -> list[str]:
    answer = session.get(f"{platform.url}{path}", params=query, timeout=60)
    assert answer.status_code in (200, 204), (path, query, answer.text)
    return [found["0020000D"]["Value"][0] for found in answer.json()] if answer.content else []


@pytest.mark.parametrize("key", KEYS, ids=lambda key: f"{key['Level']}-{key['Matching key']}")
def test_each_matching_key_finds_and_does_not_find(platform, physician, whole, key):
    keyword, path = key["Matching key"], f"/dicom-web/{key['Level']}"
    tag = key["Tag"].strip("()").replace(",", "")
    # Beside a key that tells it from other studies.
    beside = {} if keyword == "StudyInstanceUID" else {"StudyInstanceUID": whole["StudyInstanceUID"]}
    others = {"list of UIDs": "1.2.3", "range": "19000101" if "Date" in keyword else "000001"}
    other = others.get(key_kind(key), "F" if keyword == "PatientSex" else "77")
    for name in (keyword, tag):
        assert searched(platform, physician, path, **beside, **{name: whole[keyword]}) == [whole["StudyInstanceUID"]]
        assert searched(platform, physician, path, **beside, **{name: other}) == []
    if key_kind(key) == "wild card":
        part = {keyword: f"*{whole[keyword][2:-1]}?"}
        assert searched(platform, physician, path, **beside, **part) == [whole["StudyInstanceUID"]]
    if key_kind(key).startswith("list"):
        listed = {keyword: f"{whole[keyword]},{other}"}
        assert searched(platform, physician, path, **({} if "UIDs" in key_kind(key) else beside), **listed)
    if key_kind(key) == "range":
        assert searched(platform, physician, path, **beside, **{keyword: f"{whole[keyword]}-"})
        assert searched(platform, physician, path, **beside, **{keyword: f"-{other}"}) == []


def key_kind(key: dict[str, str]) -> str:
    return key["Matching (PS3.4 C.2.2.2)"]


@pytest.mark.parametrize("row", rows("Resource", "Searches in"), ids=lambda row: row["Resource"])
def test_each_search_answers_what_it_always_returns(platform, physician, whole, row):
    path = row["Resource"].format(study=whole["StudyInstanceUID"], series=whole["SeriesInstanceUID"])
    level = path.rpartition("/")[2]
    query = {} if "studies/" in path else {"StudyInstanceUID": whole["StudyInstanceUID"]}
    answer = physician.get(f"{platform.url}{path}", params=query, timeout=60)
    assert answer.status_code == 200
    (found,) = answer.json()
    for returned in rows("Level", "Returned always, where there is a value"):
        if returned["Level"] == level:
            for keyword, tag in re.findall(r"(\w+) \((\S+)\)", returned["Returned always, where there is a value"]):
                assert keyword not in whole or tag.replace(",", "") in found, keyword


def resources() -> Iterator[tuple[str, str]]:
    for row in rows("Resource", "Media types"):
        for kind in re.findall(r"[\w+/-]+(?:; type=\"[^\"]+\")?", row["Media types"].replace("`", "")):
            yield row["Resource"], kind


@pytest.mark.parametrize(("resource", "kind"), list(resources()))
def test_each_media_type_is_given_or_is_no_form_of_this_image(platform, physician, whole, resource, kind):
    places = {"study": "StudyInstanceUID", "series": "SeriesInstanceUID", "instance": "SOPInstanceUID"}
    path = resource.format(**{place: whole[key] for place, key in places.items()}, frames="1", bulk="7FE00010")
    answer = physician.get(f"{platform.url}{path}", headers={"Accept": kind}, timeout=60)
    assert answer.status_code in (200, 406), answer.text
    assert answer.status_code == 200 or "Accept names nothing" not in answer.text
    if answer.status_code == 200 and "rendered" not in path and kind != "application/json":
        assert answer.headers["Content-Type"].startswith(kind.partition(";")[0])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/wado?requestType=WADO&studyUID={study}&seriesUID={series}&objectUID={instance}"),
        ("GET", "/dicom-web/workitems"), ("POST", "/dicom-web/workitems"),
        ("GET", "/dicom-web/color-palettes"), ("GET", "/dicom-web/hanging-protocols"),
        ("GET", "/dicom-web/studies/{study}/thumbnail"), ("DELETE", "/dicom-web/studies/{study}"),
        ("GET", "/dicom-web/studies/{study}/series/{series}/instances/{instance}/bulkdata/7FE00010"),
        ("GET", "/dicom-web/"), ("OPTIONS", "/dicom-web/"),
    ],
)  # fmt: skip
def test_what_is_stated_not_to_be_there_is_not(platform, physician, whole, method, path):
    places = {"study": "StudyInstanceUID", "series": "SeriesInstanceUID", "instance": "SOPInstanceUID"}
    path = path.format(**{place: whole[key] for place, key in places.items()})
    named = re.sub(r"^/dicom-web/studies/.*/(?=thumbnail|bulkdata)|\?.*|/7FE00010$", "", path)
    assert named.startswith("/dicom-web/studies/") or named == "/dicom-web/" or named in STATEMENT
    assert physician.request(method, platform.url + path, timeout=60).status_code == 404


def test_no_port_listens_for_dimse(platform):
    """104, 11112 and Orthanc's own 4242."""
    listening = platform.on_host("ss", "--listening", "--tcp", "--numeric", "--no-header")
    assert {"104", "11112", "4242"}.isdisjoint(re.findall(r":(\d+) ", listening))
