"""Uploads as large as those of real machines, in each way in which a client may send a body."""

from __future__ import annotations

import os
import re
import subprocess
import time
from functools import lru_cache
from pathlib import Path

import pytest
import requests
from platform_client import ROOT, Platform
from real_sizes import panoramic
from stow import encoded, multipart

CLINIC = "denscan-central"
KIND = 'multipart/related; type="application/dicom"; boundary=part'
MEBIBYTE = 1 << 20


@lru_cache
def session(platform: Platform, role: str) -> requests.Session:
    return platform.api(platform.user(role, CLINIC))


def curl(platform: Platform, body: Path, *options: str) -> tuple[int, str]:
    """Upload with curl, which speaks both versions of HTTP and waits for 100 Continue; status and answer."""
    token = session(platform, "technician").headers["Authorization"]
    done = subprocess.run(
        [
            *("curl", "--silent", "--show-error", "--noproxy", "*", "--cacert", platform.ca_file, "--max-time", "300"),
            *("--header", "@-", "--header", f"Content-Type: {KIND}", "--request", "POST", "--upload-file", str(body)),
            *("--write-out", "\n%{http_code}", *options, f"{platform.url}/dicom-web/studies"),
        ],
        input=f"Authorization: {token}\n", capture_output=True, text=True, check=False,
    )  # fmt: skip
    answer, _, status = done.stdout.rpartition("\n")
    return int(status), answer


WAYS = {
    "HTTP/1.1, sized": ("--http1.1",),
    "HTTP/1.1, sized, without 100 Continue": ("--http1.1", "--header", "Expect:"),
    "HTTP/1.1, chunked": ("--http1.1", "--header", "Transfer-Encoding: chunked"),
    "HTTP/2, sized": ("--http2",),
    "HTTP/2, without a length": ("--http2", "--header", "Content-Length:", "--header", "Transfer-Encoding: chunked"),
}


SIZED = ("HTTP/1.1, sized", "HTTP/2, sized")


@pytest.mark.parametrize(
    ("way", "mebibytes"), [*((way, size) for way in WAYS for size in (1, 2.8)), *((way, 60) for way in SIZED)]
)
def test_an_image_of_any_size_is_stored(platform: Platform, tmp_path: Path, way: str, mebibytes: float):
    rows = int(mebibytes * MEBIBYTE / 2 / 1400) + 1
    image = panoramic(rows=rows)
    body = tmp_path / "body"
    body.write_bytes(multipart([encoded(image)], "part"))
    assert body.stat().st_size > mebibytes * MEBIBYTE
    status, answer = curl(platform, body, *WAYS[way])
    assert status == 200, answer
    path = f"/dicom-web/studies/{image.StudyInstanceUID}/series/{image.SeriesInstanceUID}"
    frame = session(platform, "physician").get(
        f"{platform.url}{path}/instances/{image.SOPInstanceUID}/frames/1", timeout=120
    )
    assert image.PixelData in frame.content


@pytest.mark.parametrize("way", ["--http1.1", "--http2"])
def test_more_than_the_limit_is_refused_in_words_before_it_is_sent(platform: Platform, tmp_path: Path, way: str):
    """Only its length is large: the file is empty on disk."""
    body = tmp_path / "body"
    with body.open("wb") as file:
        file.truncate(8193 * MEBIBYTE)
    started = time.monotonic()
    status, answer = curl(platform, body, way, "--max-time", "20")
    assert (status, time.monotonic() - started < 15) == (413, True)
    assert "At most 8192 MiB" in answer


def test_the_example_of_the_documentation_uploads_a_panoramic_x_ray(platform: Platform, tmp_path: Path):
    section = (ROOT / "docs/ADMIN.md").read_text().split("\n## Uploads by STOW-RS\n")[1].split("\n## ")[0]
    (example,) = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "1.dcm").write_bytes(encoded(panoramic()))
    token = session(platform, "technician").headers["Authorization"].removeprefix("Bearer ")
    run = subprocess.run(
        ["bash", "-eu", "-c", f'read -r token\nplatform={platform.url}\n{example}'],
        cwd=tmp_path, env={**os.environ, "CURL_CA_BUNDLE": platform.ca_file, "NO_PROXY": "*", "no_proxy": "*"},
        input=f"{token}\n", capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "00081199" in run.stdout, run.stdout
