"""Runs on the host for bench/gateway.py: opens a study as a viewer does, and fills Orthanc with small studies.

    open ORIGIN HEADERS STUDY ROUNDS [COMMAND…]   all metadata, then all frames, over 6 connections; each after COMMAND
    fill TEMPLATE STUDIES                         studies of one small instance by STOW-RS, 50 a request

Each prints one JSON object.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from io import BytesIO
from pathlib import Path

import pydicom
import requests
from pydicom.uid import generate_uid

ORTHANC = "http://127.0.0.1:8042"
PASSWORD_FILE = Path("/etc/imaging/credentials/importer/orthanc-password")
CONNECTIONS = 6
JSON = "Accept: application/dicom+json"
FRAME = 'Accept: multipart/related; type="application/octet-stream"; transfer-syntax=*'
MODALITIES = ("CT", "MR", "US", "CR", "DX", "MG", "NM", "XA")


def fetch(headers: Path, accept: str, urls: list[str]) -> float:
    """Fetch all with curl, which is compiled and keeps its connections; the seconds it took."""
    with tempfile.NamedTemporaryFile("w", suffix=".curl") as config:
        config.write("".join(f'url = "{url}"\noutput = /dev/null\n' for url in urls))
        config.flush()
        command = ["curl", "--silent", "--insecure", "--fail-early", "--fail", "--http1.1", "--parallel"]
        command += ["--parallel-max", str(CONNECTIONS), "--config", config.name]
        command += ["--header", f"@{headers}", "--header", accept]
        started = time.monotonic()
        subprocess.run(command, check=True)
        return time.monotonic() - started


def open_study(origin: str, headers: Path, study: str, rounds: int, before: list[str]) -> dict[str, float]:
    """Open a study; medians of the seconds for its metadata, its frames, and both."""
    answer = requests.get(
        f"{ORTHANC}/dicom-web/studies/{study}/instances",
        params={"includefield": "0020000E"},
        auth=("importer", PASSWORD_FILE.read_text()),
        timeout=60,
    )
    root = f"{origin}/dicom-web/studies/{study}/series"
    pairs = [(item["0020000E"]["Value"][0], item["00080018"]["Value"][0]) for item in answer.json()]
    metadata = [f"{root}/{series}/metadata" for series in sorted({series for series, _ in pairs})]
    frames = [f"{root}/{series}/instances/{instance}/frames/1" for series, instance in pairs]
    taken = []
    for _ in range(rounds):
        if before:
            subprocess.run(before, check=True)
        taken.append((fetch(headers, JSON, metadata), fetch(headers, FRAME, frames)))
    return {
        "metadata": statistics.median(first for first, _ in taken),
        "frames": statistics.median(second for _, second in taken),
        "all": statistics.median(first + second for first, second in taken),
    }


def fill(template: Path, studies: int) -> dict[str, float]:
    """Store studies until Orthanc holds so many."""
    session = requests.Session()
    session.auth = ("importer", PASSWORD_FILE.read_text())
    missing = studies - session.get(f"{ORTHANC}/statistics", timeout=60).json()["CountStudies"]
    draw = random.Random(1)
    dataset = pydicom.dcmread(template)
    started = time.monotonic()
    for first in range(0, missing, 50):
        boundary = uuid.uuid4().hex
        body = BytesIO()
        for number in range(first, min(first + 50, missing)):
            dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            dataset.PatientID = f"P{number}"
            dataset.PatientName = f"{os.urandom(4).hex().upper()}^ANNA"
            dataset.StudyDate = f"20{draw.randint(16, 25)}{draw.randint(1, 12):02}{draw.randint(1, 28):02}"
            dataset.Modality = draw.choice(MODALITIES)
            body.write(f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode())
            part = BytesIO()
            dataset.save_as(part)
            body.write(part.getvalue() + b"\r\n")
        body.write(f"--{boundary}--\r\n".encode())
        content_type = f'multipart/related; type="application/dicom"; boundary={boundary}'
        session.post(
            f"{ORTHANC}/dicom-web/studies", body.getvalue(), headers={"Content-Type": content_type}, timeout=600
        ).raise_for_status()
    return {"studies": max(missing, 0), "seconds": time.monotonic() - started}


if __name__ == "__main__":
    command, *rest = sys.argv[1:]
    if command == "open":
        result = open_study(rest[0], Path(rest[1]), rest[2], int(rest[3]), rest[4:])
    else:
        result = fill(Path(rest[0]), int(rest[1]))
    print(json.dumps(result))
