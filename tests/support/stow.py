"""Uploads as clinics' software makes them: STOW-RS (PS3.18 10.5) through nginx."""

from __future__ import annotations

import io
import uuid

import requests
from platform_client import Platform
from pydicom import Dataset


def encoded(dataset: Dataset) -> bytes:
    """The file that a data set makes."""
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def multipart(parts: list[bytes], boundary: str) -> bytes:
    """The body of a STOW-RS request (multipart/related, RFC 2387)."""
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    return b"".join(head + part + b"\r\n" for part in parts) + f"--{boundary}--\r\n".encode()


def send(
    platform: Platform,
    session: requests.Session,
    parts: list[bytes],
    study: str = "",
    body: object = None,
    **headers: str,
) -> requests.Response:
    """Upload instances, or a `body` that is made already; underscores in the names of headers are hyphens."""
    boundary = str(uuid.uuid4())
    kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
    return session.post(
        f"{platform.url}/dicom-web/studies" + (f"/{study}" if study else ""),
        data=multipart(parts, boundary) if body is None else body,
        headers={"Content-Type": kind, **{name.replace("_", "-"): value for name, value in headers.items()}},
        timeout=300,
    )
