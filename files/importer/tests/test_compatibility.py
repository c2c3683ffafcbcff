"""A well-formed file gives the bytes that earlier releases stored, so that a repeated delivery is recognised.

golden_digests.txt holds the SHA-256 (its first half) of what the release of November 2026 sent for each real file. It
is never made again. If a file's digest differs, a clinic would be told `conflicting-bytes`.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import pytest
from imaging_importer.dicom.instance import read_instance
from imaging_importer.dicom.stamp import Body, former, stamp
from real_files import EXCEPTIONS, IMPORTED, expected, real_files

SCRATCH = Path(tempfile.gettempdir())
GOLDEN = {
    name: digest
    for digest, name in (
        line.split(" ", 1) for line in Path(__file__).with_name("golden_digests.txt").read_text().splitlines()
    )
}
# Group lengths that are not true are dropped since, and UIDs of no VR are written as UI.
REPAIRED = {
    "pydicom/charset_files/chrJapMulti.dcm",
    "pydicom/charset_files/chrKoreanMulti.dcm",
    "pydicom/test_files/693_J2KI.dcm",
    "pydicom-data/data/693_J2KR.dcm",
    "pydicom-data/data/693_UNCI.dcm",
    "pydicom-data/data/693_UNCR.dcm",
    "pydicom-data/data/explicit_VR-UN.dcm",
    "pydicom/test_files/rtdose_rle.dcm",
    "pydicom/test_files/rtdose_rle_1frame.dcm",
}


def test_all_real_images_have_a_digest() -> None:
    assert {
        name for name, path in real_files().items() if expected(name, path) == IMPORTED
    } == GOLDEN.keys() - EXCEPTIONS.keys()
    assert GOLDEN.keys() > REPAIRED


# Their text is corrected now. The instance that an earlier release stored is recognised by the bytes it would send.
CORRECTED = {
    "pydicom/charset_files/chrH31.dcm",
    "pydicom/charset_files/chrH32.dcm",
    "pydicom/charset_files/chrI2.dcm",
    "pydicom/charset_files/chrJapMulti.dcm",
    "pydicom/charset_files/chrJapMultiExplicitIR6.dcm",
    "pydicom/charset_files/chrKoreanMulti.dcm",
    "pydicom-data/data/explicit_VR-UN.dcm",
    "pydicom/test_files/rtdose_rle.dcm",
    "pydicom/test_files/rtdose_rle_1frame.dcm",
}


@pytest.mark.parametrize("name", sorted(GOLDEN.keys() - EXCEPTIONS.keys()))
def test_the_bytes_are_those_of_the_last_release(name: str) -> None:
    with real_files()[name].open("rb") as file:
        instance = read_instance(file, SCRATCH)
        now = digest(stamp(instance, "denscan-central", SCRATCH))
        assert ("text-corrected" in instance.notes) == (name in CORRECTED)
        assert (now == GOLDEN[name]) == (name not in REPAIRED | CORRECTED)
        assert (digest(former(instance, "denscan-central", SCRATCH)) == GOLDEN[name]) == (name not in REPAIRED)


def digest(body: Body) -> str:
    made = hashlib.sha256()
    for chunk in body.chunks():
        made.update(chunk)
    return made.hexdigest()[:32]
