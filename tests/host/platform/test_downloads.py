"""Whole studies, as docs/ADMIN.md shows how to download them: every instance as it was stored, or a no that is seen."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

import pytest
import requests
from dicomweb_client.api import DICOMwebClient
from downloads import digests, ids, mixed_study, parts, stored
from platform_client import Platform
from pydicom.dataset import Dataset
from real_sizes import panoramic
from through_nginx import store

CLINIC = "denscan-central"
DICOM = 'multipart/related; type="application/dicom"'


@pytest.fixture(scope="module")
def physician(platform: Platform) -> requests.Session:
    return platform.api(platform.user("physician", CLINIC))


@pytest.fixture(scope="module")
def admin(platform: Platform) -> requests.Session:
    return platform.api(next(user for user in platform.users.values() if "admin" in user.roles))


@pytest.fixture(scope="module")
def mixed(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    return mixed_study(platform, CLINIC, tmp_path_factory.mktemp("kinds"))


@pytest.mark.parametrize(
    "accept",
    [
        None, "*/*", "multipart/*", "multipart/related", DICOM, f"{DICOM}; transfer-syntax=*",
        "multipart/related; type=application/dicom; transfer-syntax=*", f"{DICOM}, */*;q=0.1",
        f"{DICOM}; transfer-syntax=1.2.840.10008.1.2.1, {DICOM}; transfer-syntax=*",
    ],
)  # fmt: skip
def test_every_instance_comes_as_it_is_stored(platform, physician, admin, mixed, accept):
    (study,) = {dataset.StudyInstanceUID for dataset in mixed.values()}
    wanted = stored(platform, admin, study)
    assert wanted.keys() == {dataset.SOPInstanceUID for dataset in mixed.values()}
    answer = physician.get(f"{platform.url}/dicom-web/studies/{study}", headers={"Accept": accept}, timeout=60)
    assert answer.status_code == 200
    assert digests(parts(answer)) == wanted
    for kind in ("video", "report", "JPEG 2000"):
        one = mixed[kind]
        series = f"{platform.url}/dicom-web/studies/{study}/series/{one.SeriesInstanceUID}"
        for address in (series, f"{series}/instances/{one.SOPInstanceUID}"):
            answer = physician.get(address, headers={"Accept": accept}, timeout=60)
            assert digests(parts(answer)) == {one.SOPInstanceUID: wanted[one.SOPInstanceUID]}, kind


@pytest.mark.parametrize(
    "accept",
    ["application/zip", "application/dicom+xml", "text/html", f"{DICOM}; transfer-syntax=1.2.840.10008.1.2.4.50"],
)
def test_what_there_is_not_is_refused_in_words(platform, physician, mixed, accept):
    study = mixed["video"].StudyInstanceUID
    answer = physician.get(f"{platform.url}/dicom-web/studies/{study}", headers={"Accept": accept}, timeout=60)
    assert answer.status_code == 406
    assert "as they are stored" in answer.text


def test_dicomweb_client_gets_every_instance(platform, physician, mixed):
    study = mixed["video"].StudyInstanceUID
    client = DICOMwebClient(f"{platform.url}/dicom-web", session=physician)
    found = {instance.SOPInstanceUID: instance for instance in client.retrieve_study(study)}
    assert found.keys() == {dataset.SOPInstanceUID for dataset in mixed.values()}
    for dataset in mixed.values():
        assert found[dataset.SOPInstanceUID].file_meta.TransferSyntaxUID == dataset.file_meta.TransferSyntaxUID


@pytest.fixture
def without_a_file(platform: Platform, admin: requests.Session) -> Iterator[Dataset]:
    """A study of five images, of which the disk has lost one, larger than what Orthanc keeps in memory."""
    lost = panoramic(rows=1024, columns=1024, frames=40)
    kept = [panoramic(rows=16, columns=16, StudyInstanceUID=lost.StudyInstanceUID) for _ in range(4)]
    store(platform, CLINIC, [*kept, lost])
    orthancs = ids(platform, admin, lost.StudyInstanceUID)[lost.SOPInstanceUID]
    file = admin.get(f"{platform.url}/orthanc/instances/{orthancs}", timeout=60).json()["FileUuid"]
    path = f"/data/dicom/{file[:2]}/{file[2:4]}/{file}"
    platform.on_host("mv", path, f"{path}.lost")
    yield lost
    platform.on_host("mv", f"{path}.lost", path)


def test_a_study_that_cannot_be_given_whole_is_no_success(platform, physician, without_a_file):
    """Its length is not known before: the answer breaks off, which each client tells from an end."""
    study = f"{platform.url}/dicom-web/studies/{without_a_file.StudyInstanceUID}"
    broken = (requests.exceptions.ChunkedEncodingError, requests.exceptions.ConnectionError)
    for address in (study, f"{study}/series/{without_a_file.SeriesInstanceUID}"):
        with contextlib.suppress(*broken):
            assert physician.get(address, timeout=60).status_code >= 400
    command = ["curl", "--silent", "--fail", "--noproxy", "*", "--cacert", platform.ca_file, "--header", "@-", study]
    header = f"Authorization: {physician.headers['Authorization']}".encode()
    done = subprocess.run(command, input=header, capture_output=True, check=False, timeout=60)
    assert done.returncode in (18, 22, 92), "as docs/ADMIN.md says; 22 where the lost one would have been the first"
