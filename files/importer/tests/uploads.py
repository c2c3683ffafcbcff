"""Sends uploads to the importer as nginx passes them on."""

import http.client
import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from importer_process import UPLOAD_SECRET

CALLER = {"username": "tech", "subject": "0b2e", "client": "ohif", "address": "192.0.2.7"}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def stored(self) -> list[str]:
        return [item["00081155"]["Value"][0] for item in self._items("00081199")]

    @property
    def failed(self) -> dict[str, int]:
        return {item["00081155"]["Value"][0]: item["00081197"]["Value"][0] for item in self._items("00081198")}

    @property
    def unnamed(self) -> list[int]:
        return [item["00081197"]["Value"][0] for item in self._items("0008119A")]

    def _items(self, tag: str) -> list[dict]:
        return json.loads(self.body).get(tag, {}).get("Value", [])


def multipart(parts: Iterable[bytes], boundary: str) -> bytes:
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    return b"".join(head + part + b"\r\n" for part in parts) + f"--{boundary}--\r\n".encode()


def upload(
    port: int,
    parts: Iterable[bytes] = (),
    clinic: str = "north",
    study: str = "",
    body: bytes | Iterable[bytes] | None = None,
    boundary: str = "",
    **headers: str,
) -> Answer:
    """Send these parts, or this body; an iterable body goes in chunks."""
    boundary = boundary or str(uuid.uuid4())
    sent = {
        "Authorization": f"Bearer {UPLOAD_SECRET}",
        "X-Clinics": clinic,
        "X-Caller": json.dumps(CALLER),
        "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        path = "/dicom-web/studies" + (f"/{study}" if study else "")
        content = multipart(parts, boundary) if body is None else body
        connection.request("POST", path, content, sent, encode_chunked=not isinstance(content, bytes))
        response = connection.getresponse()
        return Answer(response.status, dict(response.getheaders()), response.read())
    finally:
        connection.close()
