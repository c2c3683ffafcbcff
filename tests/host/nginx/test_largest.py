"""The largest image that a clinic may have: 600 MB of frames in one file, over each version of HTTP."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from platform_client import Platform
from real_sizes import panoramic
from stow import encoded, multipart

CLINIC = "denscan-central"


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_it_passes_nginx(platform: Platform, tmp_path: Path, version: str) -> None:
    """It is stored, or the importer says in words that Orthanc's memory is too small for it; nobody is told to wait."""
    image = panoramic(frames=225)
    body = tmp_path / "body"
    body.write_bytes(multipart([encoded(image)], "part"))
    assert body.stat().st_size > 600_000_000
    token = platform.api(platform.user("technician", CLINIC)).headers["Authorization"]
    done = subprocess.run(
        [
            *("curl", "--silent", "--show-error", "--noproxy", "*", "--cacert", platform.ca_file, version),
            *("--header", "@-", "--request", "POST", "--upload-file", str(body), "--write-out", "\n%{http_code}"),
            *("--header", 'Content-Type: multipart/related; type="application/dicom"; boundary=part'),
            f"{platform.url}/dicom-web/studies",
        ],
        input=f"Authorization: {token}\n", capture_output=True, text=True, check=True, timeout=600,
    )  # fmt: skip
    answer, _, status = done.stdout.rpartition("\n")
    assert status in ("200", "409", "413"), (status, answer)
    if status == "200":
        physician = platform.api(platform.user("physician", CLINIC))
        path = f"/dicom-web/studies/{image.StudyInstanceUID}/series/{image.SeriesInstanceUID}"
        frame = physician.get(f"{platform.url}{path}/instances/{image.SOPInstanceUID}/frames/225", timeout=300)
        assert frame.status_code == 200
