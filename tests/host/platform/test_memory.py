"""Orthanc within its memory limit, where the kernel holds it to that: a sandbox's own cgroup may have none."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pydicom
import pytest
import requests
from platform_client import Platform
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MultiFrameGrayscaleWordSecondaryCaptureImageStorage, generate_uid

CLINIC = "denscan-central"
UNIT = "imaging-orthanc.service"
MIB = 1 << 20
MEMORY = Path("/sys/fs/cgroup/memory")  # cgroup v1
FRAME = 512 * 1024
WHOLE = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}


def main_pid(platform: Platform) -> int:
    return int(platform.on_host("systemctl", "show", "--value", "--property=MainPID", UNIT))


def outside(platform: Platform, pid: int) -> int:
    """The controller's number of a process of the host, which is a container."""
    within = platform.on_host("readlink", "/proc/self/ns/pid").strip()
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str((path / "ns/pid").readlink()) == within and re.search(
                rf"^NSpid:.*\t{pid}$", (path / "status").read_text(), re.M
            ):
                return int(path.name)
    raise AssertionError(f"no process of {platform.container} has the number {pid}")


@pytest.fixture
def limit(platform: Platform) -> Iterator[int]:
    """Orthanc's limit in MiB, which holds while the test runs."""
    limit = int(platform.on_host("systemctl", "show", "--value", "--property=MemoryMax", UNIT))
    if "memory" in platform.on_host("cat", "/sys/fs/cgroup/cgroup.controllers").split():
        yield limit // MIB
        return
    if not os.access(MEMORY / "tasks", os.W_OK):
        pytest.skip("no memory controller, neither in the sandbox nor on this machine")
    group = MEMORY / f"{platform.container}-orthanc"
    group.mkdir(exist_ok=True)
    (group / "memory.limit_in_bytes").write_text(str(limit))
    # It may not be swapped out instead either.
    with suppress(OSError):
        (group / "memory.memsw.limit_in_bytes").write_text(str(limit))
    (group / "cgroup.procs").write_text(str(outside(platform, main_pid(platform))))
    yield limit // MIB
    with suppress(OSError):
        print(f"peak: {int((group / 'memory.max_usage_in_bytes').read_text()) // MIB} MiB of {limit // MIB}")
        for process in (group / "cgroup.procs").read_text().split():
            (MEMORY / "cgroup.procs").write_text(process)
        group.rmdir()


def image(mebibytes: int) -> pydicom.Dataset:
    """A long multi-frame image without compression; noise, so that nothing on its way makes it small."""
    dataset = pydicom.Dataset()
    dataset.SOPClassUID = MultiFrameGrayscaleWordSecondaryCaptureImageStorage
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID = (generate_uid() for _ in range(3))
    dataset.PatientName, dataset.PatientID, dataset.Modality = "Large^Image", "LARGE", "OT"
    dataset.StudyDate, dataset.StudyTime = "20260101", "120000"
    dataset.Rows = dataset.Columns = 512
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = 15, 0, 1
    dataset.PhotometricInterpretation, dataset.NumberOfFrames = "MONOCHROME2", mebibytes * MIB // FRAME
    dataset.PixelData = os.urandom(MIB) * mebibytes
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def deliver(platform: Platform, physician: requests.Session, directory: Path, mebibytes: int) -> str:
    """A study of one such image, imported and visible; its address."""
    dataset = image(mebibytes)
    directory.mkdir()
    dataset.save_as(directory / "image.dcm", enforce_file_format=True)
    platform.deliver(CLINIC, directory, f"large-{dataset.StudyInstanceUID}")
    (directory / "image.dcm").unlink()
    platform.wait_for_study(physician, dataset.StudyInstanceUID, 300)
    return f"{platform.url}/dicom-web/studies/{dataset.StudyInstanceUID}"


def fetch(physician: requests.Session, address: str) -> int | None:
    """The size of the answer; None when there is no place for it."""
    with physician.get(address, headers=WHOLE, stream=True, timeout=300) as answer:
        if answer.status_code == 503:
            assert answer.headers["Retry-After"]
            assert answer.text.startswith("Large images are being sent")
            return None
        assert answer.status_code == 200, answer.text[:200]
        return sum(len(part) for part in answer.iter_content(MIB))


def fetch_on_host(platform: Platform, address: str) -> int:
    """The same from another address, over the port of the gateway's own requests."""
    token = platform.login(platform.user("physician", CLINIC))["access_token"]
    path = address.removeprefix(platform.url)
    command = (
        "curl",
        "--silent",
        "--config",
        "-",
        # At its limit Orthanc sometimes stands still for 30 seconds, and the answer breaks off.
        "--retry",
        "2",
        "--retry-all-errors",
        "--output",
        "/dev/null",
        "--write-out",
        "%{http_code} %{size_download}",
    )
    done = subprocess.run(
        ["docker", "exec", "--interactive", platform.container, *command, f"http://127.0.0.1:8082{path}"],
        input=f'header = "Authorization: Bearer {token}"\n', check=True, capture_output=True, text=True,
    )  # fmt: skip
    status, size = done.stdout.split()
    assert status == "200"
    return int(size)


def test_a_large_instance_is_stored_and_given_within_orthancs_memory_however_many_ask(
    platform: Platform, limit: int, central_physician: requests.Session, tmp_path: Path
):
    """Storing takes 2 times its size, sending 3 times, sending two at once 5 times (docs/ARCHITECTURE.md)."""
    largest, before = (limit - 250) // 5 - 1, main_pid(platform)  # of pixels; the rest of the image is less than 1 MiB
    study = deliver(platform, central_physician, tmp_path / "one", largest)
    assert fetch(central_physician, study) > largest * MIB
    with ThreadPoolExecutor(6) as pool:
        elsewhere = pool.submit(fetch_on_host, platform, study)
        sizes = list(pool.map(lambda _: fetch(central_physician, study), range(5)))
        assert elsewhere.result() > largest * MIB
    assert None in sizes
    assert min(size for size in sizes if size is not None) > largest * MIB
    assert main_pid(platform) == before, "Orthanc was killed"
