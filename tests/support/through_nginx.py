"""Shared by the tests of nginx: images through it, and whether the services behind it are still alive."""

from __future__ import annotations

import time

from platform_client import Platform
from pydicom.dataset import Dataset
from stow import encoded, send

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


def store(platform: Platform, clinic: str, images: list[Dataset]) -> list[str]:
    """Upload images to a clinic in one request; the path of each."""
    technician = platform.api(platform.user("technician", clinic))
    parts = [encoded(image) for image in images]
    deadline = time.monotonic() + 60
    # Another test may have stopped a service a moment ago; 503 says that trying again helps.
    while (answer := send(platform, technician, parts)).status_code == 503 and time.monotonic() < deadline:
        time.sleep(int(answer.headers["Retry-After"]))
    assert answer.status_code == 200, (answer.status_code, answer.text[:500])
    return [
        f"/dicom-web/studies/{image.StudyInstanceUID}/series/{image.SeriesInstanceUID}/instances/{image.SOPInstanceUID}"
        for image in images
    ]
