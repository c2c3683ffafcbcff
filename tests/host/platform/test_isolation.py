"""A physician of one clinic learns nothing of another clinic's studies, not even that they exist."""

from __future__ import annotations

import json

import pytest
import requests
from deliveries import Study
from platform_client import Platform

# Every DICOMweb route that names a study (PS3.18 10.3 to 10.6), as a viewer or a script asks for it.
STUDY_ROUTES = [
    "/studies/{study}",
    "/studies/{study}/metadata",
    "/studies/{study}/series",
    "/studies/{study}/instances",
    "/studies/{study}/rendered",
    "/studies/{study}/thumbnail",
    "/studies/{study}/series/{series}",
    "/studies/{study}/series/{series}/metadata",
    "/studies/{study}/series/{series}/instances",
    "/studies/{study}/series/{series}/rendered",
    "/studies/{study}/series/{series}/instances/{sop}",
    "/studies/{study}/series/{series}/instances/{sop}/metadata",
    "/studies/{study}/series/{series}/instances/{sop}/rendered",
    "/studies/{study}/series/{series}/instances/{sop}/frames/1",
    "/studies/{study}/series/{series}/instances/{sop}/frames/1/rendered",
    "/studies/{study}/series/{series}/instances/{sop}/bulk/7fe00010",
]
# Searches of all studies, each with what names a study, a series or an instance.
SEARCHES = [
    "/studies?StudyInstanceUID={study}",
    "/series?StudyInstanceUID={study}",
    "/series?SeriesInstanceUID={series}&Modality=*",
    "/instances?StudyInstanceUID={study}&SeriesInstanceUID={series}",
    "/instances?SOPInstanceUID={sop}",
    "/instances?PatientName=*&PatientID=*&StudyDate=00010101-&SOPInstanceUID={sop}",
]
VIEWER_ROUTES = [
    "/studies/{study}/series",
    "/studies/{study}/series/{series}/metadata",
    "/studies/{study}/series/{series}/instances/{sop}",
    "/studies/{study}/series/{series}/instances/{sop}/frames/1",
]
# Differ from answer to answer by nature.
PER_ANSWER_HEADERS = {"date"}


def ask(platform: Platform, session: requests.Session, route: str, study: Study) -> requests.Response:
    path = route.format(study=study.study_uid, series=study.series_uid, sop=study.sop_uid)
    return session.get(f"{platform.url}/dicom-web{path}", timeout=60)


def seen(answer: requests.Response) -> tuple[int, dict[str, str], bytes]:
    headers = {key.lower(): value for key, value in answer.headers.items() if key.lower() not in PER_ANSWER_HEADERS}
    return answer.status_code, headers, answer.content


@pytest.mark.parametrize("route", VIEWER_ROUTES)
def test_own_study_is_served(platform, central_physician, central_study, route):
    assert ask(platform, central_physician, route, central_study).status_code == 200


@pytest.mark.parametrize("route", STUDY_ROUTES)
def test_foreign_study_answers_as_an_unknown_one(platform, central_physician, almaty_study, unknown_study, route):
    foreign = ask(platform, central_physician, route, almaty_study)
    unknown = ask(platform, central_physician, route, unknown_study)
    assert foreign.status_code == 404
    assert seen(foreign) == seen(unknown)


@pytest.mark.parametrize("route", VIEWER_ROUTES)
def test_foreign_study_stays_hidden_after_its_owner_has_opened_it(
    platform, central_physician, almaty_physician, almaty_study, unknown_study, route
):
    """The owner's view fills every cache on the way; it must not open the study to others."""
    assert ask(platform, almaty_physician, route, almaty_study).status_code == 200
    assert seen(ask(platform, central_physician, route, almaty_study)) == seen(
        ask(platform, central_physician, route, unknown_study)
    )


@pytest.mark.parametrize("mixed", ["series", "sop"])
def test_foreign_parts_below_an_own_study_are_unknown(platform, central_physician, central_study, almaty_study, mixed):
    """The path names an own study, and a series or an instance of a foreign one."""
    parts = {
        "study": central_study.study_uid,
        "series": almaty_study.series_uid if mixed == "series" else central_study.series_uid,
        "sop": almaty_study.sop_uid,
    }
    path = "/studies/{study}/series/{series}/instances/{sop}".format(**parts)
    for suffix in ("", "/frames/1", "/metadata"):
        assert central_physician.get(f"{platform.url}/dicom-web{path}{suffix}", timeout=60).status_code == 404


def test_study_list_shows_own_studies_only(platform, central_physician, central_study, almaty_study):
    listed = json.dumps(central_physician.get(f"{platform.url}/dicom-web/studies", timeout=60).json())
    assert central_study.study_uid in listed
    assert almaty_study.study_uid not in listed


def test_study_list_is_newest_first(platform, central_physician, central_study):
    studies = central_physician.get(f"{platform.url}/dicom-web/studies", timeout=60).json()
    moments = [tuple(study.get(tag, {}).get("Value", [""])[0] for tag in ("00080020", "00080030")) for study in studies]
    assert moments == sorted(moments, reverse=True)


@pytest.mark.parametrize("route", SEARCHES)
def test_a_search_finds_what_is_foreign_as_little_as_what_is_not_there(
    platform, central_physician, almaty_physician, almaty_study, unknown_study, route
):
    foreign, unknown = (ask(platform, central_physician, route, study) for study in (almaty_study, unknown_study))
    assert (foreign.status_code, foreign.content) == (200, b"[]")
    assert seen(foreign) == seen(unknown)
    assert ask(platform, almaty_physician, route, almaty_study).json()
    assert ask(platform, platform.session(), route, almaty_study).status_code == 401


def test_a_user_of_two_clinics_sees_both(platform, central_study, almaty_study):
    session = platform.api(platform.users["physician-two-clinics"])
    listed = json.dumps(session.get(f"{platform.url}/dicom-web/studies", timeout=60).json())
    assert central_study.study_uid in listed
    assert almaty_study.study_uid in listed


def test_admin_sees_every_clinic(platform, central_study, almaty_study):
    session = platform.api(platform.user("admin", "partner-clinic"))
    for study in (central_study, almaty_study):
        assert ask(platform, session, "/studies/{study}/series", study).status_code == 200


@pytest.mark.parametrize(
    "path", ["/dicom-web", "/dicom-web/nothing", "/orthanc/nothing", "/nothing", "/auth/realms/master", "/wado?x=1"]
)
def test_unknown_route_is_not_found(platform, central_physician, path):
    assert central_physician.get(f"{platform.url}{path}", timeout=60).status_code == 404


@pytest.mark.parametrize("route", STUDY_ROUTES)
def test_nobody_gets_anything_without_a_token(platform, central_study, route):
    answer = ask(platform, platform.session(), route, central_study)
    assert answer.status_code == 401
    assert central_study.study_uid.encode() not in answer.content
