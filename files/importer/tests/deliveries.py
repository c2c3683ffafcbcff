"""Makes deliveries out of the real DICOM files in pydicom's wheel, and counts where their files ended."""

import copy
import hashlib
import io
import json
import random
import re
import warnings
from pathlib import Path

import pydicom
from pydicom.uid import generate_uid

warnings.filterwarnings("ignore", module="pydicom")

OWN_FILES = re.compile(r"\.lock|\.caller\.json|(\.?REASON|\.?report)(\.\d+)?\.(txt|json)(\..*)?")
SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"
TEMPLATES = (
    "MR_small.dcm",
    "CT_small.dcm",
    "MR_small_bigendian.dcm",
    "image_dfl.dcm",
    "JPEG2000.dcm",
    "SC_rgb_rle.dcm",
)


def sample(name: str) -> Path:
    return SAMPLES / name


def instance(
    random_: random.Random, study: str, series: str, patient: str = "P1", template: str = "MR_small.dcm"
) -> bytes:
    """A real file under new identifiers."""
    ds = pydicom.dcmread(sample(template))
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.PatientID = study, series, patient
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid(random_)
    buffer = io.BytesIO()
    ds.save_as(buffer)
    return buffer.getvalue()


def changed(data: bytes) -> bytes:
    """The same SOPInstanceUID with other content."""
    ds = copy.deepcopy(pydicom.dcmread(io.BytesIO(data)))
    ds.PatientComments = "changed"
    buffer = io.BytesIO()
    ds.save_as(buffer)
    return buffer.getvalue()


def uid(random_: random.Random) -> str:
    return generate_uid(entropy_srcs=[str(random_.random())])


def study_uid(data: bytes) -> str:
    return pydicom.dcmread(io.BytesIO(data), specific_tags=["StudyInstanceUID"], force=True).StudyInstanceUID


def sop_uid(data: bytes) -> str:
    return pydicom.dcmread(io.BytesIO(data), specific_tags=["SOPInstanceUID"], force=True).SOPInstanceUID


def deliver(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def contents(root: Path) -> list[str]:
    """The SHA-256 of every delivered file below a directory, sorted; the importer's own files left out."""
    return sorted(
        hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
        and not path.is_symlink()
        and not OWN_FILES.fullmatch(path.name)
        and not any(part.endswith(".moving") for part in path.parts)  # a copy that is not complete yet
    )


def report(root: Path, clinic: str, folder: str) -> dict[str, str | None]:
    """Path -> reason, from the report of a failed folder."""
    (path,) = (root / "failed" / clinic).glob(f"*/{folder}/report.json")
    assert (path.parent / "REASON.txt").read_text()
    return {failure["path"]: failure["reason"] for failure in json.loads(path.read_text())["failures"]}
