"""From query string to filter, and from registry rows to the answer (PS3.18 10.6)."""

from __future__ import annotations

import pytest
from imaging_gateway import search
from imaging_gateway.request_line import parse
from imaging_gateway.search import QueryError


def read(query, level=search.STUDIES):
    return search.read(parse("GET", f"/dicom-web/studies?{query}").parameters, level)


def test_ohifs_study_list():
    query = read(
        "PatientName=*M%C3%BCl+ler*&00100020=*P*&ModalitiesInStudy=MR,CT&StudyDate=20240101-20241231"
        "&limit=101&offset=202&fuzzymatching=false&includefield=00081030,00080060,00080090,00100030"
    )
    assert query.match == {
        "00100010": "*Mül ler*",
        "00100020": "*P*",
        "00080061": ["MR", "CT"],
        "00080020": "20240101-20241231",
    }
    assert (query.limit, query.offset, query.fuzzy) == (101, 202, False)
    assert {"00081030", "00080060"} <= query.fields


@pytest.mark.parametrize("uids", ["1.2,3.4", "1.2%5C3.4", "1.2\\3.4"])
def test_lists_of_uids(uids):
    assert read(f"StudyInstanceUID={uids}").match == {"0020000D": ["1.2", "3.4"]}


@pytest.mark.parametrize("query", ["PatientName=", "PatientName=*", "PatientName", "StudyDate=", "StudyInstanceUID=*"])
def test_universal_matching(query):
    assert read(query).match == {}


@pytest.mark.parametrize(
    "query",
    [
        "SeriesInstanceUID=1.2",
        "Modality=CT",
        "token=x",
        "patientname=x",
        "StudyDate=2024",
        "StudyDate=20240101-20240102-20240103",
        "StudyDate=today",
        "StudyTime=1",
        "StudyInstanceUID=1.2,",
        "StudyInstanceUID=1.2%203",
        "ModalitiesInStudy=C%25",
        "ModalitiesInStudy=CT,",
        "PatientSex=M,F",
        "PatientName=a%5Cb",
        "PatientID=a&PatientID=b",
        "PatientID=a&00100020=b",
        "limit=-1",
        "limit=x",
        "limit=1&limit=2",
        "offset=100001",
        "fuzzymatching=maybe",
        "includefield=../x",
    ],
)
def test_what_cannot_be_answered_is_refused_and_named(query):
    with pytest.raises(QueryError, match=query.split("=")[0] if "&" not in query else "twice|PatientID"):
        read(query)


def test_codes_in_small_letters_wildcards_and_lists():
    assert read("ModalitiesInStudy=io").match == {"00080061": ["io"]}
    assert read("ModalitiesInStudy=IO*,p?&PatientSex=f").match == {"00080061": ["IO*", "p?"], "00100040": "f"}


def test_series_are_searched_by_their_own_keys_and_their_studys():
    query = read("Modality=CT&SeriesNumber=03&PatientID=P&PerformedProcedureStepStartTime=10-", search.SERIES)
    assert query.match == {"00080060": ["CT"], "00200011": "03", "00100020": "P", "00400245": "10-"}
    assert {"00080060", "00201209", "00100010"} <= query.fields
    for key in ("InstanceNumber=1", "SOPInstanceUID=1.2"):
        with pytest.raises(QueryError, match="for series"):
            read(key, search.SERIES)


def test_instances_are_searched_by_the_keys_of_all_levels():
    query = read("SOPInstanceUID=1.2,3&InstanceNumber=7&00080060=MR&ModalitiesInStudy=CT", search.INSTANCES)
    assert query.match == {"00080018": ["1.2", "3"], "00200013": "7", "00080060": ["MR"], "00080061": ["CT"]}
    for value in ("InstanceNumber=x", "InstanceNumber=1-3", "SOPInstanceUID=1*", "NumberOfFrames=1"):
        with pytest.raises(QueryError):
            read(value, search.INSTANCES)


def test_each_is_retrieved_below_its_study():
    one = {
        tag: {"vr": "UI", "Value": [value]}
        for tag, value in (("0020000D", "1"), ("0020000E", "2"), ("00080018", "3"), ("00280010", "4"))
    }
    (answer,) = search.answer(read("", search.INSTANCES), [one], "https://imaging.test/dicom-web")
    assert answer["00081190"]["Value"] == ["https://imaging.test/dicom-web/studies/1/series/2/instances/3"]
    (answer,) = search.answer(read("", search.SERIES), [one], "https://imaging.test/dicom-web")
    assert answer["00081190"]["Value"] == ["https://imaging.test/dicom-web/studies/1/series/2"]
    assert "00080018" not in answer


def test_a_page_is_never_larger_than_the_service_allows():
    assert read("limit=999999").limit == search.LARGEST_PAGE
    assert read("limit=0").limit == 0


STUDY = {
    "0020000D": {"vr": "UI", "Value": ["1.2"]},
    "00100010": {"vr": "PN", "Value": [{"Alphabetic": "A^B"}]},
    "00321060": {"vr": "LO", "Value": ["x"]},
}


@pytest.mark.parametrize(
    ("query", "tags"),
    [
        ("", {"0020000D", "00100010"}),
        ("includefield=00321060", {"0020000D", "00100010", "00321060"}),
        ("includefield=RequestedProcedureDescription&includefield=00101010", {"0020000D", "00100010", "00321060"}),
        ("includefield=all", set(STUDY)),
    ],
)
def test_the_answer_has_the_standards_attributes_and_those_asked_for(query, tags):
    answer = search.answer(read(query), [STUDY], "https://imaging.test/dicom-web")
    assert set(answer[0]) == tags | {"00081190"}
    assert answer[0]["00081190"] == {"vr": "UR", "Value": ["https://imaging.test/dicom-web/studies/1.2"]}


def test_warnings_of_the_standard():
    found = search.warnings(read("fuzzymatching=true"), True, "https://imaging.test/dicom-web")
    assert [warning.split(": ", 1)[1] for warning in found] == [
        "The fuzzymatching parameter is not supported. Only literal matching has been performed.",
        "There are additional results that can be requested.",
    ]
    assert search.warnings(read(""), False, "x") == []
