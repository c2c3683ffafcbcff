"""Tells from the first bytes of a file whether it is DICOM, in any dress, a packed file, or neither.

DICOM comes with and without preamble, `DICM` and file meta information. Some programs write the meta information in
another encoding than the standard's (PS3.10 7.1), and other programs read all of that. So a file that looks like DICOM
is read, or fails with a reason. A file is certainly no DICOM only if it has no `DICM` and does not begin like a data
set in any encoding.
"""

import os
import re
import struct
from dataclasses import dataclass
from typing import BinaryIO

from pydicom.datadict import dictionary_has_tag, dictionary_VR

from imaging_importer.dicom.elements import (
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    LONG_VRS,
    SHORT_VRS,
    UNDEFINED_LENGTH,
    Encoding,
)

# DICOM does not have this encoding. A file that is written in it must still be reported as such.
IMPLICIT_BIG = Encoding(explicit=False, little_endian=False)
ENCODINGS = (EXPLICIT_LITTLE, IMPLICIT_LITTLE, EXPLICIT_BIG, IMPLICIT_BIG)

LOOKED_AT = 1 << 16
MOST_LOOKED_AT = 32  # elements
PREAMBLE = 128
# The evidence that makes a data set: one element with the VR of its tag, two in implicit VR, three of unknown tags, or
# a private creator and an element that belongs to it.
ENOUGH = 3

# The bytes after those that some programs put in front of a file (MacBinary, a saved answer of a server).
STRAYS_LOOKED_AT = 1 << 12
STRAY = re.compile(rb"DICM(?=\x02\x00|\x00\x02)")

# Bytes of one value, and the largest length of a value or of several. VRs whose length says nothing are left out.
SIZES = {"AT": 4, "FL": 4, "FD": 8, "SL": 4, "SS": 2, "UL": 4, "US": 2, "SV": 8, "UV": 8}
LONGEST_TEXT = 1024
TEXTS = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "PN", "SH", "TM", "UI"})

CREATOR, UNKNOWN, NONE = "a private creator", "no VR of DICOM", "no VR"  # they take the place of a VR
LONGEST_CREATOR = 64

ZIP, GZIP = "zip", "gzip"
# The bytes that mark each kind, and their position. Kinds for installers only (cab) are left out: every viewer CD has
# them.
ARCHIVES = (
    (0, rb"PK(\x03\x04|\x05\x06|\x07\x08|00PK)", ZIP),
    (0, rb"\x1f\x8b", GZIP),
    (0, rb"BZh[1-9](1AY&SY|\x17\x72\x45\x38\x50\x90)", "bzip2"),
    (0, rb"\xfd7zXZ\x00", "xz"),
    (0, rb"\x28\xb5\x2f\xfd", "zstd"),
    (0, rb"\x1f[\x9d\xa0]", "compress"),
    (0, rb"LZIP", "lzip"),
    (0, rb"7z\xbc\xaf\x27\x1c", "7z"),
    (0, rb"Rar!\x1a\x07", "RAR"),
    (32769, rb"CD001|BEA01", "an image of a CD"),
)


@dataclass(frozen=True)
class Dress:
    """The beginning of a file that looks like DICOM."""

    start: int  # of the first element
    encoding: Encoding  # of that element
    has_meta: bool  # whether it is file meta information


def look(file: BinaryIO) -> bytes:
    """The first bytes of a file, which this module judges."""
    return os.pread(file.fileno(), LOOKED_AT, 0)


def dress(head: bytes, size: int) -> Dress | None:
    """The beginning of DICOM in a file of so many bytes; None if there is none."""
    if head[PREAMBLE : PREAMBLE + 4] == b"DICM":
        return _at(head, size, PREAMBLE + 4) or Dress(PREAMBLE + 4, EXPLICIT_LITTLE, has_meta=True)
    if head[:4] == b"DICM":
        return _at(head, size, 4) or Dress(4, EXPLICIT_LITTLE, has_meta=True)
    # In an unusual place, chance finds more that looks like an element, so more evidence is needed.
    return _at(head, size, 0) or _at(head, size, PREAMBLE, 2 * ENOUGH) or _at(head, size, PREAMBLE + 4, 2 * ENOUGH)


def stray(head: bytes) -> int | None:
    """The place of DICM and file meta information in a file in which `dress` finds no DICOM."""
    found = STRAY.search(head[:STRAYS_LOOKED_AT])
    return found.start() if found else None


def packed_kind(head: bytes) -> str:
    """The kind of a packed file; empty if it is none."""
    for position, magic, kind in ARCHIVES:
        if re.compile(magic).match(head, position):
            return kind
    return "tar" if _is_tar(head) else ""


def _is_tar(head: bytes) -> bool:
    """Old tar files have no magic, but a checksum (POSIX ustar): the sum of the header, with blanks in its place."""
    header = head[:512]
    written = re.match(rb" *([0-7]{1,7})[ \0]", header[148:156])
    if len(header) < 512 or not written:
        return False
    return sum(header) - sum(header[148:156]) + 8 * 32 == int(written[1], 8)


def _at(head: bytes, size: int, start: int, enough: int = ENOUGH) -> Dress | None:
    evidence = {encoding: _evidence(head, size, start, encoding) for encoding in ENCODINGS}
    best = max(ENCODINGS, key=lambda encoding: evidence[encoding])
    if evidence[best] < enough:
        return None
    (group,) = struct.unpack_from(best.order + "H", head, start)
    return Dress(start, best, group == 0x0002)


def _evidence(head: bytes, size: int, start: int, encoding: Encoding) -> int:
    """The evidence that elements begin at `start`: each plausible one counts, up to the first that is not."""
    evidence, position, seen = 0, start, set[int]()
    while position + 8 <= len(head) and len(seen) < MOST_LOOKED_AT:
        group, number = struct.unpack_from(encoding.order + "HH", head, position)
        tag = group << 16 | number
        value, length, vr = _header(head, position, encoding)
        known = _vr(tag)
        counts = _counts(tag, known, vr, length, size - value)
        if tag in seen or counts is None:
            break
        if known == CREATOR and not head[value : value + length].isascii():
            break
        if tag >> 16 & 1 and tag >> 8 & 0xFF and (tag & 0xFFFF0000 | tag >> 8 & 0xFF) in seen:
            counts = 1
        seen.add(tag)
        evidence += counts
        if length == UNDEFINED_LENGTH:
            expected = [struct.pack(encoding.order + "HH", 0xFFFE, number) for number in (0xE000, 0xE0DD)]
            evidence += head[value : value + 4] in expected
            break
        position = value + length
    return evidence


def _header(head: bytes, position: int, encoding: Encoding) -> tuple[int, int, str]:
    """The position of the value, its length and its VR, which is empty in implicit VR."""
    order = encoding.order
    if not encoding.explicit:
        return position + 8, struct.unpack_from(order + "L", head, position + 4)[0], ""
    vr = head[position + 4 : position + 6]
    if vr in SHORT_VRS:
        return position + 8, struct.unpack_from(order + "H", head, position + 6)[0], vr.decode()
    if vr in LONG_VRS and head[position + 6 : position + 8] == b"\0\0" and position + 12 <= len(head):
        return position + 12, struct.unpack_from(order + "L", head, position + 8)[0], vr.decode()
    if not (vr.isascii() and vr.decode().isprintable()) or position + 12 > len(head):
        return position, 0, NONE
    # Parsers guess the width of the length of an unknown VR.
    short, long = struct.unpack_from(order + "HL", head, position + 6)
    return (position + 8, short, UNKNOWN) if short else (position + 12, long, UNKNOWN)


def _vr(tag: int) -> str:
    """The VR of a tag by the dictionary; empty when it is not in it."""
    if tag & 0xFFFF == 0:
        return "UL"  # a group length
    if tag >> 16 & 1 and 0x10 <= tag & 0xFFFF <= 0xFF:
        return CREATOR
    return dictionary_VR(tag) if dictionary_has_tag(tag) else ""


def _counts(tag: int, known: str, vr: str, length: int, left: int) -> int | None:
    """The evidence of one element; None if it cannot be one."""
    fits = length <= left
    if length == UNDEFINED_LENGTH:
        fits = vr in ("SQ", "UN", "OB", "OW") or (not vr and known in ("SQ", "OB or OW"))
    if vr == NONE or tag >> 16 == 0xFFFE or (vr == UNKNOWN and known in ("", CREATOR)):
        return None
    if vr == UNKNOWN:
        return 0
    if tag & 0xFFFF == 0 and length != 4:
        return None
    if vr:
        # A file that is cut off in its first element looks like DICOM too.
        if not fits and (vr.encode() in LONG_VRS or not known):
            return None
        return 2 if known == CREATOR else 3 if vr in known.split(" or ") else 1
    if tag >> 16 in (0x0002, 0x0008) and known in TEXTS and length <= LONGEST_TEXT:
        return 3
    if not fits or (known in TEXTS and length > LONGEST_TEXT) or length % SIZES.get(known, 1):
        return None
    if known == CREATOR:
        return 2 if 0 < length <= LONGEST_CREATOR else None
    return 2 if known else 0 if tag >> 16 & 1 else None
