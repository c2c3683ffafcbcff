"""Runs on the host for bench/import.py: makes series, and sends a folder as a plain loop would.

    make  FOLDER TEMPLATE SERIES INSTANCES PIXEL_BYTES    files of one study, pixel data random, every UID new
    plain FOLDER BATCH                                    a loop that sends them by STOW-RS, BATCH files a request

Each prints one JSON object.
"""

import json
import os
import sys
import time
import uuid
from pathlib import Path

import pydicom
import requests
from pydicom.uid import generate_uid

ORTHANC = "http://127.0.0.1:8042/dicom-web/studies"
PASSWORD_FILE = Path("/etc/imaging/credentials/importer/orthanc-password")


def make(folder: Path, template: Path, series: int, instances: int, pixel_bytes: int) -> dict[str, object]:
    dataset = pydicom.dcmread(template)
    dataset.StudyInstanceUID = generate_uid()
    dataset.PatientID = uuid.uuid4().hex
    if pixel_bytes:
        side = int((pixel_bytes // 2) ** 0.5)
        dataset.Rows = dataset.Columns = side
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    size = 0
    for number in range(instances):
        if number % (instances // series) == 0:
            dataset.SeriesInstanceUID = generate_uid()
            directory = folder / f"series-{number:05}"
            directory.mkdir(parents=True)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.InstanceNumber = number + 1
        if pixel_bytes:
            dataset.PixelData = os.urandom(dataset.Rows * dataset.Columns * 2)
        path = directory / f"{number:05}.dcm"
        dataset.save_as(path)
        size += path.stat().st_size
    os.sync()
    return {"study": dataset.StudyInstanceUID, "bytes": size}


def plain(folder: Path, batch: int) -> dict[str, object]:
    """A loop that anyone could write in an afternoon: read, wrap, post, look at the status."""
    session = requests.Session()
    session.auth = ("importer", PASSWORD_FILE.read_text())
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    started = time.monotonic()
    for first in range(0, len(files), batch):
        boundary = uuid.uuid4().hex
        parts = [
            f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode() + path.read_bytes() + b"\r\n"
            for path in files[first : first + batch]
        ]
        answer = session.post(
            ORTHANC,
            data=b"".join(parts) + f"--{boundary}--\r\n".encode(),
            headers={"Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}'},
            timeout=600,
        )
        answer.raise_for_status()
    return {"files": len(files), "seconds": time.monotonic() - started}


if __name__ == "__main__":
    command, where, *rest = sys.argv[1:]
    if command == "make":
        result = make(Path(where), Path(rest[0]), *map(int, rest[1:]))
    else:
        result = plain(Path(where), int(rest[0]))
    print(json.dumps(result))
