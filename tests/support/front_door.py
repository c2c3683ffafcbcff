"""What tests of the front door have in common: images through it, and the lives of what is behind it."""

from __future__ import annotations

import uuid

from platform_client import Platform
from pydicom.dataset import Dataset
from stored_kinds import encoded

BEHIND = ("imaging-orthanc", "imaging-gateway")


class Life:
    """Since when Orthanc and the gateway live, without a restart in between."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.began = self._read()

    def _read(self) -> str:
        return self.platform.on_host(
            "systemctl", "show", "--property=MainPID,ActiveEnterTimestampMonotonic,NRestarts", *BEHIND
        )

    def assert_unbroken(self) -> None:
        assert self._read() == self.began, "Orthanc or the gateway was started anew"


def multipart(parts: list[bytes], boundary: str) -> bytes:
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    return b"".join(head + part + b"\r\n" for part in parts) + f"--{boundary}--\r\n".encode()


def store(platform: Platform, clinic: str, images: list[Dataset]) -> list[str]:
    """Upload images to a clinic in one request; the path of each."""
    boundary = uuid.uuid4().hex
    answer = platform.api(platform.user("technician", clinic)).post(
        f"{platform.url}/dicom-web/studies",
        data=multipart([encoded(image) for image in images], boundary),
        headers={"Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}'},
        timeout=300,
    )
    assert answer.status_code == 200, (answer.status_code, answer.text[:500])
    return [
        f"/dicom-web/studies/{image.StudyInstanceUID}/series/{image.SeriesInstanceUID}/instances/{image.SOPInstanceUID}"
        for image in images
    ]
