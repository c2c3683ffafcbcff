"""While one clinic delivers all it can, by every way at once, another one hardly feels it."""

from __future__ import annotations

import contextlib
import io
import socket
import ssl
import statistics
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path
from urllib.parse import urlsplit

import pydicom
import pytest
import requests
from platform_client import Platform
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid
from stow import send

MODEST, GREEDY = "denscan-almaty", "denscan-central"


def image(study: str = "", pixels: int = 0) -> bytes:
    dataset = pydicom.dcmread(str(get_testdata_file("MR_small.dcm")))
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study or generate_uid(), generate_uid()
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.PatientID = "FAIRNESS"
    if pixels:
        dataset.Rows = dataset.Columns = 1024
        dataset.NumberOfFrames = pixels >> 21
        dataset.PixelData = bytes(pixels >> 21 << 21)
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


class Flood:
    """Folders of many files and a large instance, parallel uploads and slow ones, until it is over."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.session = platform.api(platform.user("technician", GREEDY))
        self.over = threading.Event()
        self.answers: list[int] = []
        with tempfile.TemporaryDirectory() as made:
            study = generate_uid()
            for number in range(200):
                (Path(made) / f"{number}.dcm").write_bytes(image(study))
            (Path(made) / "large.dcm").write_bytes(image(pixels=100 << 20))
            for _ in range(2):
                platform.deliver(GREEDY, Path(made), f"flood {uuid.uuid4().hex}")
        self.parts = [image(generate_uid()) for _ in range(40)]
        self.threads = [threading.Thread(target=self.upload) for _ in range(4)]
        self.threads += [threading.Thread(target=self.dribble) for _ in range(4)]

    def __enter__(self) -> Flood:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()

    def upload(self) -> None:
        while not self.over.is_set():
            with contextlib.suppress(requests.RequestException):
                self.answers.append(send(self.platform, self.session, self.parts).status_code)

    def dribble(self) -> None:
        """An upload that sends a byte a second."""
        host = str(urlsplit(self.platform.url).hostname)
        head = (
            f"POST /dicom-web/studies HTTP/1.1\r\nHost: {host}\r\n"
            f"Authorization: {self.session.headers['Authorization']}\r\n"
            'Content-Type: multipart/related; type="application/dicom"; boundary=b0\r\nContent-Length: 100000\r\n\r\n'
        )
        context = ssl.create_default_context(cafile=self.platform.ca_file)
        while not self.over.is_set():
            with (
                contextlib.suppress(OSError),
                socket.create_connection((host, 443), 30) as plain,
                context.wrap_socket(plain, server_hostname=host) as connection,
            ):
                connection.sendall(head.encode())
                while not self.over.wait(1):
                    connection.sendall(b"x")


@pytest.fixture(scope="module")
def technician(platform: Platform) -> requests.Session:
    return platform.api(platform.user("technician", MODEST))


def test_an_image_of_one_clinic_takes_at_most_twice_as_long_while_another_pours_in_all_it_can(
    platform: Platform, technician: requests.Session
) -> None:
    physician = platform.api(platform.user("physician", MODEST))
    sys.setswitchinterval(0.0005)  # the flood's threads are in this process; it is not their time that is measured

    def by_upload() -> float:
        data = [image()]
        began = time.monotonic()
        assert send(platform, technician, data).status_code == 200
        return time.monotonic() - began

    def by_folder() -> float:
        study = generate_uid()
        with tempfile.TemporaryDirectory() as made:
            (Path(made) / "0.dcm").write_bytes(image(study))
            began = time.monotonic()
            platform.deliver(MODEST, Path(made), f"fairness {uuid.uuid4().hex}")
        platform.wait_for_study(physician, study)
        return time.monotonic() - began

    by_upload()
    usual = statistics.median(by_upload() for _ in range(5)), by_folder()
    with Flood(platform) as flood:
        deadline = time.monotonic() + 120
        while 200 not in flood.answers and time.monotonic() < deadline:
            time.sleep(0.5)
        taken = [by_upload() for _ in range(9)], by_folder()
    print(f"alone {usual}, in the flood {taken}; the flood's own uploads: {sorted(set(flood.answers))}")
    assert 200 in flood.answers, "the flood is served too"
    assert statistics.median(taken[0]) < 2 * usual[0]
    assert taken[1] < 2 * usual[1]
