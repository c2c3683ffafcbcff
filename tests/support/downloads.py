"""Compares a download with the files in Orthanc."""

from __future__ import annotations

import hashlib
import io
import json
import re
from pathlib import Path

import pydicom
import requests
from platform_client import Platform
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from stored_kinds import images
from through_nginx import store


def mixed_study(platform: Platform, clinic: str, directory: Path) -> dict[str, Dataset]:
    """Store a study of all kinds: a video, a PDF, a report, a curve, images in a dozen transfer syntaxes. By kind."""
    made = images(directory)
    study = generate_uid()
    for dataset in made.values():
        dataset.StudyInstanceUID, dataset.StudyDate = study, "20991231"
        dataset.PatientName, dataset.PatientID = "Mixed^Test", "MIXED"
    store(platform, clinic, list(made.values()))
    return made


def parts(answer: requests.Response) -> list[bytes]:
    """The files of a multipart answer (RFC 2046 5.1.1)."""
    boundary = re.search(r'boundary="?([^";]+)', answer.headers["Content-Type"])[1].encode()
    before, *between, behind = answer.content.split(b"--" + boundary)
    assert (before, behind) == (b"", b"--\r\n")
    return [part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for part in between]


def digests(files: list[bytes]) -> dict[str, str]:
    """SOPInstanceUID -> MD5."""
    read = [pydicom.dcmread(io.BytesIO(file), specific_tags=["SOPInstanceUID"]) for file in files]
    return {
        str(dataset.SOPInstanceUID): hashlib.md5(file, usedforsecurity=False).hexdigest()
        for dataset, file in zip(read, files, strict=True)
    }


def ids(platform: Platform, admin: requests.Session, study: str) -> dict[str, str]:
    """SOPInstanceUID -> Orthanc's id."""
    asked = {"Level": "Instance", "Expand": True, "Query": {"StudyInstanceUID": study}}
    found = admin.post(f"{platform.url}/orthanc/tools/find", data=json.dumps(asked), timeout=60).json()
    return {one["MainDicomTags"]["SOPInstanceUID"]: one["ID"] for one in found}


def stored(platform: Platform, admin: requests.Session, study: str) -> dict[str, str]:
    """SOPInstanceUID -> MD5 of what Orthanc keeps."""
    found = ids(platform, admin, study).values()
    return digests([admin.get(f"{platform.url}/orthanc/instances/{one}/file", timeout=60).content for one in found])
