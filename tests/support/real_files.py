"""Every file of pydicom's wheel and of pydicom-data, and what must become of each when a clinic delivers it."""

from __future__ import annotations

from pathlib import Path

import data_store
import pydicom

IMPORTED = "imported"

# How a file is named here (and in a delivery made of them): package / path in it.
ROOTS = {
    "pydicom": Path(pydicom.__file__).parent / "data",
    "pydicom-data": Path(data_store.__file__).parent,
}

# The files that are not imported, and the reason: of a failure (imaging_importer.reasons), or of a file that is kept
# beside the images ("not-dicom", "dicomdir"). Each other file that says it is DICOM is imported.
EXCEPTIONS = {
    **dict.fromkeys(
        (
            "pydicom/charset_files/chrSQEncoding.dcm",
            "pydicom/charset_files/chrSQEncoding1.dcm",
            "pydicom/palettes/fall.dcm",
            "pydicom/palettes/hotiron.dcm",
            "pydicom/palettes/hotmetalblue.dcm",
            "pydicom/palettes/pet.dcm",
            "pydicom/palettes/pet20step.dcm",
            "pydicom/palettes/spring.dcm",
            "pydicom/palettes/summer.dcm",
            "pydicom/test_files/JPEGLSNearLossless_08.dcm",
            "pydicom/test_files/JPEGLSNearLossless_16.dcm",
            "pydicom/test_files/SC_rgb_jls_lossy_line.dcm",
            "pydicom/test_files/SC_rgb_jls_lossy_sample.dcm",
            "pydicom/test_files/UN_sequence.dcm",
            "pydicom/test_files/empty_charset_LEI.dcm",
            "pydicom/test_files/nested_priv_SQ.dcm",
            "pydicom/test_files/no_meta_group_length.dcm",
            "pydicom/test_files/priv_SQ.dcm",
        ),
        "missing-identifiers",
    ),
    "pydicom-data/data/bad_sequence.dcm": "invalid-identifiers",
    "pydicom/palettes/winter.dcm": "damaged",  # a second SOPInstanceUID
    "pydicom/test_files/SC_rgb_jpeg.dcm": "damaged",  # JPEG in implicit VR, which no transfer syntax is
    "pydicom-data/data/emri_small_jpeg_2k_lossless_too_short.dcm": "truncated",
    "pydicom/test_files/MR_truncated.dcm": "truncated",
    "pydicom/test_files/rtplan_truncated.dcm": "truncated",
    "pydicom/test_files/meta_missing_tsyntax.dcm": "missing-transfer-syntax",
    "pydicom/test_files/no_meta.dcm": "not-dicom",  # a blank stands before its first element
    "pydicom/test_files/zipMR.gz": "packed-kind",  # for the reader; in a delivered folder it is unpacked
}

# Several of the files are one image in several encodings, under one SOPInstanceUID: delivered together, Orthanc keeps
# one of them, and the others end so.
SAME_IMAGE = frozenset({"conflicting-bytes", "patient-mismatch"})


def real_files() -> dict[str, Path]:
    """All of them: name -> path."""
    return {
        f"{package}/{path.relative_to(root)}": path
        for package, root in ROOTS.items()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }


def expected(name: str, path: Path) -> str:
    """IMPORTED, or why it is not."""
    if name in EXCEPTIONS:
        return EXCEPTIONS[name]
    if path.name.startswith("DICOMDIR"):
        return "dicomdir"
    data = path.read_bytes()
    return IMPORTED if path.suffix == ".dcm" or data[128:132] == b"DICM" else "not-dicom"
