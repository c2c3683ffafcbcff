"""Uploads on a running platform: STOW-RS through nginx, the gateway and the importer, into the same archive."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Iterator
from functools import lru_cache

import pydicom
import pytest
import requests
from dicomweb_client.api import DICOMwebClient
from platform_client import Platform
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid
from stow import encoded, multipart, send

CLINIC = "denscan-central"
NOTHING_HERE = b"There is nothing here.\n"
DUPLICATE, MISMATCH, FAILURE, UNREADABLE = 0x0111, 0xA900, 0x0110, 0xC000


@pytest.fixture(scope="module")
def session(platform: Platform):
    """The session of a user, logged in once."""
    return lru_cache(lambda username: platform.api(platform.users[username]))


@pytest.fixture(scope="module")
def technician(session) -> requests.Session:
    return session(f"technician-{CLINIC}")


def image(study: str = "", series: str = "", **attributes: str) -> pydicom.Dataset:
    dataset = pydicom.dcmread(str(get_testdata_file("MR_small.dcm")))
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study or generate_uid(), series or generate_uid()
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.PatientName, dataset.PatientID = "Upload^Test", "UPLOAD"
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def reasons(answer: requests.Response, tag: str = "00081198") -> list[int]:
    return [item["00081197"]["Value"][0] for item in answer.json().get(tag, {}).get("Value", [])]


def listed(platform: Platform, session: requests.Session, study: str) -> list[dict[str, object]]:
    answer = session.get(f"{platform.url}/dicom-web/studies", params={"StudyInstanceUID": study}, timeout=30)
    return answer.json()


def incoming(platform: Platform) -> str:
    return platform.on_host("find", f"{platform.inbox}/.spool/.incoming", "-mindepth", "1", check=False)


def test_a_technicians_upload_is_visible_to_the_clinic_at_once_and_to_no_other(platform, session, technician):
    study, series = generate_uid(), generate_uid()
    datasets = [image(study, series) for _ in range(5)]
    client = DICOMwebClient(f"{platform.url}/dicom-web", session=technician)
    answer = client.store_instances(datasets)
    assert [item.ReferencedSOPInstanceUID for item in answer.ReferencedSOPSequence] == [
        d.SOPInstanceUID for d in datasets
    ]
    assert answer.RetrieveURL == f"{platform.url}/dicom-web/studies/{study}"
    (found,) = listed(platform, session(f"physician-{CLINIC}"), study)
    assert found["00201208"]["Value"] == [5]
    assert listed(platform, session("physician-denscan-almaty"), study) == []
    (stored, *_) = client.retrieve_study(study)
    assert stored.InstitutionName == CLINIC
    assert platform.session().get(answer.ReferencedSOPSequence[0].RetrieveURL, timeout=30).status_code == 401
    assert technician.get(answer.ReferencedSOPSequence[0].RetrieveURL, timeout=30).status_code == 200


def test_the_upload_is_in_the_access_log(platform, technician):
    dataset = image()
    assert send(platform, technician, [encoded(dataset)]).status_code == 200
    entry = json.loads(
        platform.on_host(
            "runuser", "-u", "postgres", "--", "psql", "-XAt", "registry", "-c",
            f"SELECT to_json(l) FROM registry.access_log l WHERE study_uid = '{dataset.StudyInstanceUID}'",  # noqa: S608
        )
    )  # fmt: skip
    assert (entry["action"], entry["username"], entry["clinic_id"]) == ("upload", f"technician-{CLINIC}", CLINIC)
    assert entry["client"] == "ohif"
    assert entry["address"]


@pytest.mark.parametrize("path", ["", "/1.2.3"])
@pytest.mark.parametrize("role", ["physician", "auditor"])
def test_who_may_not_upload_gets_the_platforms_404(platform, session, role, path):
    answer = send(platform, session(f"{role}-{CLINIC}"), [encoded(image())], study=path.lstrip("/"))
    assert (answer.status_code, answer.content) == (404, NOTHING_HERE)
    assert send(platform, platform.session(), [encoded(image())]).status_code == 401


def test_another_clinics_study_is_a_conflict_that_tells_nothing_else(platform, session, technician):
    theirs = image()
    assert send(platform, session("technician-denscan-almaty"), [encoded(theirs)]).status_code == 200
    mine = image(theirs.StudyInstanceUID)
    answer = send(platform, technician, [encoded(mine)])
    assert (answer.status_code, reasons(answer)) == (409, [FAILURE])
    assert "almaty" not in answer.text + str(answer.headers)
    assert listed(platform, technician, theirs.StudyInstanceUID) == []
    in_path = send(platform, technician, [encoded(mine)], study=theirs.StudyInstanceUID)
    assert (in_path.status_code, in_path.content) == (409, answer.content)


def test_no_header_of_the_client_chooses_a_foreign_clinic(platform, session, technician):
    dataset = image()
    foreign = send(platform, technician, [encoded(dataset)], X_Clinic="denscan-almaty")
    assert foreign.status_code == 400
    assert "X-Clinic" in foreign.text
    forged = {"X_Clinics": "denscan-almaty", "X_Caller": '{"username": "somebody"}', "X_Study_Revision": "1"}
    assert send(platform, technician, [encoded(dataset)], **forged).status_code == 200
    assert listed(platform, session("physician-denscan-almaty"), dataset.StudyInstanceUID) == []
    assert len(listed(platform, technician, dataset.StudyInstanceUID)) == 1


def test_an_administrator_names_a_clinic_that_there_is(platform, session):
    admin = session("admin-partner-clinic")
    dataset = image()
    assert send(platform, admin, [encoded(image())], X_Clinic="no-such-clinic").status_code == 400
    assert send(platform, admin, [encoded(dataset)], X_Clinic=CLINIC).status_code == 200
    assert len(listed(platform, session(f"physician-{CLINIC}"), dataset.StudyInstanceUID)) == 1


def test_mixed_broken_and_repeated_images_are_told_apart(platform, technician):
    study = generate_uid()
    good, other = image(study), image()
    mixed = send(platform, technician, [encoded(good), encoded(good)[:-50], b"text", encoded(other)], study=study)
    assert mixed.status_code == 202
    assert reasons(mixed) == [MISMATCH]
    assert reasons(mixed, "0008119A") == [UNREADABLE, UNREADABLE]
    assert send(platform, technician, [encoded(good)]).status_code == 200, "the same again"
    good.PatientComments = "changed"
    conflict = send(platform, technician, [encoded(good)])
    assert (conflict.status_code, reasons(conflict)) == (409, [DUPLICATE])
    assert "conflicting-bytes" in conflict.headers["Warning"]
    assert send(platform, technician, [b"no image"]).status_code == 400
    program = send(platform, technician, [b"MZ" + encoded(image())[2:]])
    assert (program.status_code, reasons(program, "0008119A")) == (409, [FAILURE])


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"", {}, 400),
        (b"--x--\r\n", {}, 400),
        (multipart([b"x"], "other"), {}, 400),
        (multipart([b"x"], "x")[:-5], {"Content_Type": 'multipart/related; type="application/dicom"; boundary=x'}, 400),
        (b"x", {"Content_Type": "application/dicom"}, 415),
        (b"x", {"Content_Type": 'multipart/related; type="application/dicom+json"; boundary=x'}, 415),
    ],
)
def test_what_is_no_upload_is_refused_in_words_and_leaves_nothing(platform, technician, body, headers, status):
    answer = send(platform, technician, [], body=body, **headers)
    assert answer.status_code == status
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert answer.text.endswith("\n")
    assert incoming(platform) == ""


def test_a_chunked_upload_without_a_length_is_taken(platform, technician):
    body = multipart([encoded(image())], "b0")
    pieces: Iterator[bytes] = (body[start : start + 5000] for start in range(0, len(body), 5000))
    kind = 'multipart/related; type="application/dicom"; boundary=b0'
    assert send(platform, technician, [], body=pieces, Content_Type=kind).status_code == 200


def test_an_announced_giant_is_refused_before_it_is_sent(platform, technician):
    host = platform.url.removeprefix("https://")
    context = ssl.create_default_context(cafile=platform.ca_file)
    request = (
        f"POST /dicom-web/studies HTTP/1.1\r\nHost: {host}\r\nAuthorization: {technician.headers['Authorization']}\r\n"
        f"Content-Type: multipart/related; type=application/dicom; boundary=b0\r\nContent-Length: {1 << 40}\r\n\r\n"
    )
    with (
        socket.create_connection((host, 443), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        connection.sendall(request.encode())
        assert b" 413 " in connection.recv(4096).partition(b"\r\n")[0]


def test_a_slow_body_is_waited_for_and_a_large_part_needs_no_memory(platform, technician):
    """120 MB in one part, with pauses: the importer's memory stays flat, and what breaks off leaves nothing."""

    def memory() -> int:
        shown = platform.on_host("systemctl", "show", "--property=MainPID", "--value", "imaging-importer")
        status = platform.on_host("cat", f"/proc/{shown.strip()}/status")
        return int(status.partition("VmHWM:")[2].split()[0])

    def slowly() -> Iterator[bytes]:
        yield b"--b0\r\nContent-Type: application/dicom\r\n\r\n"
        for number in range(120):
            yield bytes(1 << 20)
            if number % 40 == 0:
                time.sleep(1)

    kind = 'multipart/related; type="application/dicom"; boundary=b0'
    answer = send(platform, technician, [], body=slowly(), Content_Type=kind)
    assert answer.status_code == 400, "it has no end"
    assert memory() < 200_000
    assert incoming(platform) == ""


def test_who_asks_for_its_measures_neither_uploads_nor_reads_folder_names(platform):
    ask = ("runuser", "-u", "prometheus", "--", "python3", "-c")
    program = (
        "import sys, urllib.request, urllib.error\n"
        "for path, data in (('/', None), ('/status.json', None), ('/dicom-web/studies', b'x'), ('/metrics', None)):\n"
        "    request = urllib.request.Request('http://127.0.0.1:8080' + path, data, {'X-Clinics': '*'})\n"
        "    try: print(urllib.request.urlopen(request).status)\n"
        "    except urllib.error.HTTPError as error: print(error.code)\n"
    )
    assert platform.on_host(*ask, program).split() == ["200", "403", "403", "200"]  # / tells numbers alone
    assert "Done today" in platform.on_host("imaging-importer", "status")
    assert platform.on_host("runuser", "-u", "nobody", "--", "imaging-importer", "status", check=False) == ""


def test_the_import_page_tells_each_clinic_its_own(platform, session, technician):
    assert send(platform, technician, [encoded(image())]).status_code == 200
    mine = technician.get(f"{platform.url}/import/status", timeout=30)
    assert mine.headers["Cache-Control"] == "no-store"
    deadline = time.monotonic() + 30
    while not mine.json()["done_today"] and time.monotonic() < deadline:
        mine = technician.get(f"{platform.url}/import/status", timeout=30)
    lists = ("waiting", "importing", "done_today", "failed")
    assert {row["clinic"] for part in lists for row in mine.json()[part]} == {CLINIC}
    theirs = session("technician-partner-clinic").get(f"{platform.url}/import/status", timeout=30).json()
    assert CLINIC not in json.dumps(theirs)
    everything = session("admin-partner-clinic").get(f"{platform.url}/import/status", timeout=30).json()
    assert CLINIC in json.dumps(everything)
    for role in ("physician", "auditor"):
        refused = session(f"{role}-{CLINIC}").get(f"{platform.url}/import/status", timeout=30)
        assert (refused.status_code, refused.content) == (404, NOTHING_HERE)
    assert platform.session().get(f"{platform.url}/import/status", timeout=30).status_code == 401
