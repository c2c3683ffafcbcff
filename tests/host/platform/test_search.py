"""The study search as PS3.18 10.6 and PS3.4 C.2.2.2 ask for it, through dicomweb-client, with raw Orthanc beside it."""

# ruff: noqa: RUF001

from __future__ import annotations

import json
import uuid
from urllib.parse import urlencode

import pydicom
import pytest
from dicomweb_client.api import DICOMwebClient
from platform_client import Platform
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

CLINIC = "denscan-central"
MARK = uuid.uuid4().hex[:6].upper()
STUDIES = {
    "knee": {
        "PatientName": f"Müller{MARK}^Jürgen^^Dr.", "PatientID": f"P1{MARK}", "PatientBirthDate": "19700215",
        "PatientSex": "M", "StudyDate": "20240131", "StudyTime": "101500", "Modality": "MR", "StudyID": "S1",
        "StudyDescription": "MRI Knee left", "ReferringPhysicianName": "House^Gregory",
    },
    "head": {
        "PatientName": f"MULLER{MARK}^ANNA", "PatientID": f"P2{MARK}", "PatientBirthDate": "19800301",
        "PatientSex": "F", "StudyDate": "20240201", "StudyTime": "093000", "Modality": "CT", "StudyID": "S2",
        "StudyDescription": "CT Head", "ReferringPhysicianName": "Wilson^James",
    },
    "heart": {
        "PatientName": f"Yamada{MARK}^Tarou=山田{MARK}^太郎", "PatientID": f"P3{MARK}", "PatientBirthDate": "19550505",
        "PatientSex": "M", "StudyDate": "20231231", "StudyTime": "235959", "Modality": "US", "StudyID": "S3",
        "StudyDescription": "US Heart", "ReferringPhysicianName": "Cuddy^Lisa",
    },
    "tooth": {
        "PatientName": f"Қайрат{MARK}^Мария", "PatientID": f"Иванов{MARK}", "PatientBirthDate": "19900909",
        "PatientSex": "F", "StudyDate": "20230401", "StudyTime": "091500", "Modality": "IO", "StudyID": "С4",
        "StudyDescription": "Прицельный снимок, 36", "ReferringPhysicianName": "Ёлкина^Анна", "SeriesNumber": "4",
    },
}  # fmt: skip
EVERY = ["head", "knee", "heart", "tooth"]  # newest first

# The query, the studies found, and whether raw Orthanc finds the same (in any order). Orthanc does not fold accents,
# and takes a name for its first component group, whole.
QUERIES = [
    ({}, EVERY, True),
    ({"PatientID": f"P1{MARK}"}, ["knee"], True),
    ({"00100020": f"P?{MARK}"}, EVERY[:3], True),
    ({"PatientName": f"Müller{MARK}^Jürgen^^Dr."}, ["knee"], True),
    ({"PatientName": f"muller{MARK}*".lower()}, ["head", "knee"], False),
    ({"PatientName": f"MÜLLER{MARK}"}, ["head", "knee"], False),
    ({"PatientName": f"*{MARK}^A*"}, ["head"], True),
    ({"PatientName": f"山田{MARK}*"}, ["heart"], False),
    ({"StudyDate": "20240131"}, ["knee"], True),
    ({"StudyDate": "20240101-20240131"}, ["knee"], True),
    ({"StudyDate": "20240131-"}, ["head", "knee"], True),
    ({"StudyDate": "-20240131"}, ["knee", "heart", "tooth"], True),
    ({"StudyTime": "092000-110000"}, ["head", "knee"], True),
    ({"ModalitiesInStudy": "CT"}, ["head"], True),
    ({"ModalitiesInStudy": "CT,US"}, ["head", "heart"], True),
    ({"ReferringPhysicianName": "house^g*"}, ["knee"], True),
    ({"StudyDescription": "*knee*"}, ["knee"], True),
    ({"PatientBirthDate": "19700101-19801231"}, ["head", "knee"], True),
    ({"PatientSex": "F"}, ["head", "tooth"], True),
    # As the list shows it, typed again as OHIF sends it and as a script does.
    ({"PatientName": f"*Қайрат{MARK}, Мария*"}, ["tooth"], False),
    ({"PatientName": f"кайрат{MARK} мария".lower()}, ["tooth"], False),
    ({"PatientName": f"*{MARK}, Мар*"}, ["tooth"], False),
    ({"PatientName": f"Müller{MARK}, Jürgen Dr."}, ["knee"], False),
    ({"ReferringPhysicianName": "*елкина, анна*"}, ["tooth"], False),
    ({"PatientID": f"*иванов{MARK}*".lower()}, ["tooth"], True),
    ({"StudyDescription": "*снимок, 36*"}, ["tooth"], False),
    ({"ModalitiesInStudy": "IO*"}, ["tooth"], True),
    ({"ModalitiesInStudy": "io,mr"}, ["knee", "tooth"], True),
    ({"StudyTime": "0915"}, ["tooth"], False),
    # One stretch of time (PS3.18 8.3.4.1.1), not the same hours of each day.
    ({"StudyDate": "20240131-20240201", "StudyTime": "1000-0915"}, ["knee"], False),
    ({"StudyID": "S3"}, ["heart"], True),
    ({"PatientName": f"*{MARK}*", "ModalitiesInStudy": "MR,CT", "StudyDate": "20240201-20240301"}, ["head"], True),
    ({"PatientName": f"*{MARK}*", "ModalitiesInStudy": "XA"}, [], True),
]  # fmt: skip


@pytest.fixture(scope="module")
def uids(platform: Platform) -> dict[str, str]:
    """The studies, uploaded: name to StudyInstanceUID."""
    uids = {name: generate_uid() for name in STUDIES}
    datasets = []
    for name, attributes in STUDIES.items():
        dataset = pydicom.dcmread(str(get_testdata_file("MR_small.dcm")))
        dataset.SpecificCharacterSet = "ISO_IR 192"
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uids[name], generate_uid()
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.AccessionNumber = f"A{MARK}"
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
        datasets.append(dataset)
    technician = platform.api(platform.user("technician", CLINIC))
    DICOMwebClient(f"{platform.url}/dicom-web", session=technician).store_instances(datasets)
    for uid in uids.values():
        platform.wait_for_study(technician, uid)
    return uids


@pytest.fixture(scope="module")
def client(platform: Platform) -> DICOMwebClient:
    session = platform.api(platform.user("physician", CLINIC))
    return DICOMwebClient(f"{platform.url}/dicom-web", session=session)


def named(studies: list[dict], uids: dict[str, str]) -> list[str]:
    names = {uid: name for name, uid in uids.items()}
    return [names[study["0020000D"]["Value"][0]] for study in studies]


def at_orthanc(platform: Platform, query: dict[str, str]) -> list[dict]:
    script = (
        'sed -n \'s/^proxy_set_header \\(Authorization\\) "\\(.*\\)";/header = "\\1: \\2"/p\' '
        "/etc/imaging/credentials/nginx/orthanc.conf | "
        f"curl -sf --config - 'http://127.0.0.1:8042/dicom-web/studies?{urlencode(query)}'"
    )
    return list(json.loads(platform.on_host("sh", "-c", script)))


@pytest.mark.parametrize(("query", "found", "orthanc_agrees"), QUERIES, ids=lambda value: str(value)[:60])
def test_matching(platform, client, uids, query, found, orthanc_agrees):
    query = {**query, "AccessionNumber": f"A{MARK}"}
    assert named(client.search_for_studies(search_filters=query), uids) == found
    assert (sorted(named(at_orthanc(platform, query), uids)) == sorted(found)) is orthanc_agrees


def test_a_list_of_uids(client, uids):
    wanted = ",".join([uids["knee"], uids["head"], generate_uid()])
    assert named(client.search_for_studies(search_filters={"StudyInstanceUID": wanted}), uids) == ["head", "knee"]


def test_the_answer_says_what_orthanc_says(platform, client, uids):
    """Every attribute of raw Orthanc's answer, with the same value; only the address is the platform's."""
    query = {"StudyInstanceUID": uids["heart"]}
    (here,) = client.search_for_studies(search_filters=query)
    (there,) = at_orthanc(platform, query)
    assert here.pop("00081190")["Value"] == [f"{platform.url}/dicom-web/studies/{uids['heart']}"]
    there.pop("00081190")
    assert {tag: element for tag, element in there.items() if here.get(tag) != element} == {}


def test_more_fields_when_asked(client, uids):
    query = {"StudyInstanceUID": uids["knee"]}
    assert "00080080" not in client.search_for_studies(search_filters=query)[0]
    for fields in (["InstitutionName"], ["00080080"], ["all"]):
        (study,) = client.search_for_studies(search_filters=query, fields=fields)
        assert study["00080080"]["Value"] == [CLINIC]


def test_pages_and_what_they_say_of_the_rest(platform, client, uids):
    query = {"AccessionNumber": f"A{MARK}"}
    pages = [client.search_for_studies(search_filters=query, limit=3, offset=offset) for offset in (0, 3, 6)]
    assert [named(page, uids) for page in pages] == [["head", "knee", "heart"], ["tooth"], []]
    session = platform.api(platform.user("physician", CLINIC))
    url = f"{platform.url}/dicom-web/studies"
    cut = session.get(url, params={**query, "limit": 2, "fuzzymatching": "true"}, timeout=30)
    assert cut.headers["Warning"].count("299 ") == 2
    assert "There are additional results that can be requested." in cut.headers["Warning"]
    assert "The fuzzymatching parameter is not supported." in cut.headers["Warning"]
    assert "Warning" not in session.get(url, params=query, timeout=30).headers


LEVELS = [
    ("series", {}, EVERY),
    ("series", {"Modality": "IO"}, ["tooth"]),
    ("series", {"SeriesNumber": "4", "PatientName": f"*қайрат{MARK}*".lower()}, ["tooth"]),
    ("series", {"ModalitiesInStudy": "m?,us"}, ["knee", "heart"]),
    ("instances", {}, EVERY),
    ("instances", {"InstanceNumber": "1", "Modality": "CT"}, ["head"]),
    ("instances", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4", "PatientID": f"P3{MARK}"}, ["heart"]),
    ("instances", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, []),
]


@pytest.mark.parametrize(("level", "query", "found"), LEVELS, ids=lambda value: str(value)[:60])
def test_series_and_instances_across_studies(client, uids, level, query, found):
    search = client.search_for_series if level == "series" else client.search_for_instances
    answers = search(search_filters={**query, "AccessionNumber": f"A{MARK}"})
    assert named(answers, uids) == found
    below = "/series/" if level == "series" else "/instances/"
    assert all(below in answer["00081190"]["Value"][0] for answer in answers)


def test_the_same_keys_below_a_study(client, uids):
    study = uids["tooth"]
    (series,) = client.search_for_series(study)
    series_uid = series["0020000E"]["Value"][0]
    (instance,) = client.search_for_instances(study)
    assert client.search_for_instances(study, series_uid) == [instance]
    for query, count in (({"Modality": "IO"}, 1), ({"SeriesNumber": "4"}, 1), ({"SeriesNumber": "5"}, 0)):
        assert len(client.search_for_series(study, search_filters=query)) == count
    for query, count in (({"InstanceNumber": "1"}, 1), ({"InstanceNumber": "9"}, 0)):
        assert len(client.search_for_instances(study, series_uid, search_filters=query)) == count
        assert len(client.search_for_instances(study, search_filters=query)) == count
    across = client.search_for_instances(search_filters={"SOPInstanceUID": instance["00080018"]["Value"][0]})
    assert across[0]["00081190"] == instance["00081190"]
