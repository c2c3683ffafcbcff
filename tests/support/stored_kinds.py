"""One image of each way in which pixels, documents and videos are stored, as studies of their own."""

from __future__ import annotations

from pathlib import Path

import pydicom
from project import ROOT
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from real_files import real_files
from special_files import pdf, video

SHIPPED = {
    "explicit": "pydicom/test_files/CT_small.dcm",
    "implicit": "pydicom/test_files/MR_small_implicit.dcm",
    "big endian": "pydicom/test_files/MR_small_bigendian.dcm",
    "deflated": "pydicom/test_files/image_dfl.dcm",
    "RLE": "pydicom/test_files/SC_rgb_rle_2frame.dcm",
    "JPEG": "pydicom/test_files/SC_rgb_dcmtk_+eb+cy+np.dcm",
    "JPEG extended": "pydicom/test_files/JPGExtended.dcm",
    "JPEG lossless": "pydicom-data/data/JPEG-LL.dcm",
    "JPEG-LS": "pydicom-data/data/emri_small_jpeg_ls_lossless.dcm",
    "JPEG 2000": "pydicom/test_files/MR_small_jp2klossless.dcm",
    "JPEG 2000 lossy": "pydicom/test_files/JPEG2000.dcm",
    "JPEG 2000 in colour": "pydicom/test_files/GDCMJ2K_TextGBR.dcm",
    "JPEG 2000 in colour, lossy": "pydicom/test_files/SC_rgb_gdcm_KY.dcm",
    "multi-frame": "pydicom-data/data/emri_small.dcm",
    "palette": "pydicom/test_files/examples_palette.dcm",
    "dose": "pydicom/test_files/rtdose.dcm",
    "plan": "pydicom/test_files/rtplan.dcm",
    "ECG": "pydicom/test_files/waveform_ecg.dcm",
    "report": "pydicom/test_files/reportsi.dcm",
}


def images(directory: Path) -> dict[str, Dataset]:
    """Kind -> an image with UIDs of its own."""
    made: dict[str, Dataset] = {
        "PDF": pydicom.dcmread(_written(directory / "pdf", pdf)),
        "video": pydicom.dcmread(_written(directory / "video", lambda path: video(path, ROOT / "tests/data/red.mp4"))),
    }
    for kind, name in SHIPPED.items():
        made[kind] = pydicom.dcmread(real_files()[name])
    for dataset in made.values():
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.PatientName, dataset.PatientID = "Encodings^Test", "ENCODINGS"
    return made


def _written(path: Path, write: object) -> Path:
    write(path)  # type: ignore[operator]
    return path
