"""Reads what the importer must know of a delivered file, never its pixels.

A file is an instance (Part 10 file, or a bare data set of old modalities), a companion (text, DICOMDIR:
CompanionError) or cannot be imported (RejectedError).
"""

import os
import re
import struct
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha1
from pathlib import Path
from typing import BinaryIO

from pydicom.charset import convert_encodings, decode_bytes

from imaging_importer import reasons
from imaging_importer.elements import (
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    PIXEL_DATA,
    UNDEFINED_LENGTH,
    Element,
    Encoding,
    Walker,
    encode_element,
    text,
)
from imaging_importer.reasons import CompanionError, RejectedError

IMPLICIT_LITTLE_UID = "1.2.840.10008.1.2"
EXPLICIT_LITTLE_UID = "1.2.840.10008.1.2.1"
DEFLATED_UID = "1.2.840.10008.1.2.1.99"
EXPLICIT_BIG_UID = "1.2.840.10008.1.2.2"
MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"

# A UUID-derived UID (PS3.5 B.2) that names this implementation in file meta information it has to write.
IMPLEMENTATION_CLASS_UID = "2.25.213804268735467183652310418470519273841"

SPECIFIC_CHARACTER_SET = 0x00080005
SOP_CLASS_UID = 0x00080016
SOP_INSTANCE_UID = 0x00080018
PATIENT_ID = 0x00100020
STUDY_INSTANCE_UID = 0x0020000D
SERIES_INSTANCE_UID = 0x0020000E

# The preamble may hold anything (PS3.10 7.1) and is what makes a file both image and program (CVE-2019-11687).
EXECUTABLES = (
    b"MZ", b"\x7fELF", b"#!", b"\xfe\xed\xfa\xce", b"\xfe\xed\xfa\xcf", b"\xce\xfa\xed\xfe", b"\xcf\xfa\xed\xfe",
    b"\xca\xfe\xba\xbe", b"dex\n", b"<?php", b"<script", b"<html", b"<!DOCTYPE", b"@echo",
)  # fmt: skip

# What a data set without preamble begins with; anything else is not DICOM.
FIRST_ELEMENTS = frozenset({0x0000, 0x0001, 0x0005, 0x0008, 0x0012, 0x0013, 0x0014, 0x0016, 0x0018})

# Inflated data waits in a file beside the spool; no image of that size is sent deflated.
MAX_INFLATED = 4 << 30

# A PatientID that nobody reads differently: ASCII without what some character sets have other signs for (backslash and
# tilde), no blanks around it but the padding. Empty and absent are one.
PLAIN = re.compile(rb"([!-\[\]-}]([ -\[\]-}]*[!-\[\]-}])?[ \0]?)?")

# Leading zeros in a component are wrong (PS3.5 9.1), but scanners exist that write them; the registry takes them too.
UID = re.compile(r"(?=.{1,64}$)[0-9]+(\.[0-9]+)*")


@dataclass
class Instance:
    """One delivered DICOM instance: where its elements stand and who it is."""

    file: BinaryIO  # as delivered
    file_size: int
    prefix: bytes  # preamble and file meta information that the file lacks
    data: BinaryIO  # where the data set is: the file itself, or its inflated copy
    data_start: int  # first byte of the data set, in `data`
    data_size: int  # where `data` ends
    meta_end: int  # where the file meta information ends, in `file`
    deflated: bool
    encoding: Encoding
    elements: list[Element]
    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str
    patient_id: str
    is_plain: bool = False  # whether every reader reads the same PatientID

    def find(self, tag: int) -> Element | None:
        """The top-level element with this tag."""
        return next((element for element in self.elements if element.tag == tag), None)

    def value(self, tag: int, limit: int = 1 << 20) -> bytes:
        """The raw value of a top-level element, at most `limit` bytes of it; empty when absent."""
        element = self.find(tag)
        return self.raw(element, limit) if element else b""

    def raw(self, element: Element, limit: int = 1 << 20) -> bytes:
        """The raw value of an element, at most `limit` bytes of it."""
        self.data.seek(element.value)
        return self.data.read(min(element.end - element.value, limit))

    def walker(self) -> Walker:
        """A walker over the data set."""
        return Walker(self.data, self.data_size, self.encoding)


def orthanc_id(*identifiers: str) -> str:
    """Orthanc's resource id for PatientID, StudyInstanceUID and so on down to the resource."""
    digest = sha1("|".join(identifiers).encode(), usedforsecurity=False).hexdigest()
    return "-".join(digest[start : start + 8] for start in range(0, 40, 8))


def read_instance(file: BinaryIO, scratch: Path) -> Instance:
    """Read the header of an open file; `scratch` is a directory for an inflated copy.

    Raises CompanionError for what is no instance, RejectedError for what cannot be imported.
    """
    size = os.fstat(file.fileno()).st_size
    if not size:
        raise RejectedError("empty-file")
    file.seek(0)
    head = file.read(132 + 8)
    if head[128:132] == b"DICM":
        if head.startswith(EXECUTABLES):
            raise RejectedError("executable-preamble")
        prefix, meta_start = b"", 132
    elif head[:2] == b"\x02\x00" and head[4:6] in (b"UL", b"OB", b"UI"):
        prefix, meta_start = bytes(128) + b"DICM", 0
    else:
        return _bare_instance(file, size, _bare_encoding(head))

    meta, start = _read_meta(file, size, meta_start)
    if meta.get(0x00020002) == MEDIA_STORAGE_DIRECTORY:
        raise CompanionError(reasons.DICOMDIR)
    syntax = meta.get(0x00020010, "")
    if syntax == DEFLATED_UID:
        data = _inflate(file, start, scratch)
        end = data.seek(0, os.SEEK_END)
        return _instance(file, size, prefix, data, 0, end, EXPLICIT_LITTLE, deflated_from=start)
    if not syntax:
        raise RejectedError("missing-transfer-syntax")
    encoding = {EXPLICIT_BIG_UID: EXPLICIT_BIG, IMPLICIT_LITTLE_UID: IMPLICIT_LITTLE}.get(syntax, EXPLICIT_LITTLE)
    if encoding.explicit and not _has_vr(_read_at(file, start, 8)):
        # Known writers name an explicit syntax and write implicit VR.
        encoding = IMPLICIT_LITTLE
    return _instance(file, size, prefix, file, start, size, encoding)


def _read_at(file: BinaryIO, position: int, count: int) -> bytes:
    file.seek(position)
    return file.read(count)


def _has_vr(header: bytes) -> bool:
    return len(header) < 8 or (header[4:6].isalpha() and header[4:6].isupper())


def _bare_encoding(head: bytes) -> Encoding:
    """The encoding of a data set without file meta information, from its first element (0008,xxxx)."""
    if len(head) >= 8:
        for encoding in (EXPLICIT_LITTLE, EXPLICIT_BIG, IMPLICIT_LITTLE):
            group, number = struct.unpack_from(encoding.order + "HH", head)
            (length,) = struct.unpack_from(encoding.order + "L", head, 4)
            if group != 0x0008 or number not in FIRST_ELEMENTS:
                continue
            if head[4:6] in (b"UL", b"CS", b"DA", b"TM", b"UI") if encoding.explicit else length <= 1024:
                return encoding
    raise CompanionError(reasons.NOT_DICOM)


def _bare_instance(file: BinaryIO, size: int, encoding: Encoding) -> Instance:
    """A data set alone.

    DICOMweb carries Part 10 files (PS3.18 8.7.3.1), so the missing head is written in front of it.
    """
    instance = _instance(file, size, b"", file, 0, size, encoding)
    pixels = instance.find(PIXEL_DATA)
    if pixels is not None and pixels.length == UNDEFINED_LENGTH:
        raise RejectedError("missing-transfer-syntax")
    syntax = {EXPLICIT_LITTLE: EXPLICIT_LITTLE_UID, EXPLICIT_BIG: EXPLICIT_BIG_UID}.get(encoding, IMPLICIT_LITTLE_UID)

    def uid(value: str) -> bytes:
        return value.encode("ascii") + b"\0" * (len(value) % 2)

    meta = b"".join(
        encode_element(EXPLICIT_LITTLE, tag, vr, value)
        for tag, vr, value in (
            (0x00020001, b"OB", b"\0\1"),
            (0x00020002, b"UI", uid(instance.sop_class_uid)),
            (0x00020003, b"UI", uid(instance.sop_instance_uid)),
            (0x00020010, b"UI", uid(syntax)),
            (0x00020012, b"UI", uid(IMPLEMENTATION_CLASS_UID)),
            (0x00020013, b"SH", text("IMAGING-IMPORTER")),
        )
    )
    group_length = encode_element(EXPLICIT_LITTLE, 0x00020000, b"UL", struct.pack("<L", len(meta)))
    instance.prefix = bytes(128) + b"DICM" + group_length + meta
    return instance


def _read_meta(file: BinaryIO, size: int, start: int) -> tuple[dict[int, str], int]:
    """The UIDs of the file meta information (always explicit VR little endian, PS3.10 7.1) and where the data set
    begins.
    """
    walker = Walker(file, size, EXPLICIT_LITTLE)
    meta: dict[int, str] = {}
    while size - start >= 8 and struct.unpack("<H", _read_at(file, start, 2)) == (2,):
        element = next(walker.elements(start))
        if element.vr == b"UI":
            meta[element.tag] = _ascii(_read_at(file, element.value, min(element.length, 128)))
        start = element.end
    return meta, start


def _inflate(file: BinaryIO, start: int, scratch: Path) -> BinaryIO:
    """The data set of a deflated file (PS3.5 A.5), inflated into an unnamed file."""
    copy = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 - closed with the instance
    file.seek(start)
    try:
        for plain in _inflated(file):
            copy.write(plain)
    except BaseException:
        copy.close()
        raise
    return copy


def _inflated(file: BinaryIO) -> Iterator[bytes]:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    size = 0
    while not inflater.eof:
        compressed = inflater.unconsumed_tail or file.read(1 << 16)
        if not compressed:
            raise RejectedError("truncated", "the deflated data set is not complete")
        try:
            plain = inflater.decompress(compressed, 1 << 20)
        except zlib.error as error:
            raise RejectedError("damaged", f"deflated data set: {error}") from error
        size += len(plain)
        if size > MAX_INFLATED:
            raise RejectedError("too-large-inflated")
        yield plain


def _instance(
    file: BinaryIO,
    size: int,
    prefix: bytes,
    data: BinaryIO,
    start: int,
    end: int,
    encoding: Encoding,
    deflated_from: int | None = None,
) -> Instance:
    elements = list(Walker(data, end, encoding).elements(start))
    deflated = deflated_from is not None
    meta_end = deflated_from if deflated_from is not None else start
    instance = Instance(
        file, size, prefix, data, start, end, meta_end, deflated, encoding, elements, "", "", "", "", ""
    )
    instance.sop_class_uid = _ascii(instance.value(SOP_CLASS_UID, 128))
    instance.sop_instance_uid = _ascii(instance.value(SOP_INSTANCE_UID, 128))
    instance.study_uid = _ascii(instance.value(STUDY_INSTANCE_UID, 128))
    instance.series_uid = _ascii(instance.value(SERIES_INSTANCE_UID, 128))
    patient = instance.find(PATIENT_ID)
    instance.patient_id = _text(instance.value(PATIENT_ID, 1024), instance.value(SPECIFIC_CHARACTER_SET, 1024))
    if patient and patient.vr == b"UN":  # Orthanc keeps the padding of an unknown VR: to it, that is another patient
        instance.patient_id = instance.value(PATIENT_ID, 1024).decode("latin-1")
    else:
        instance.is_plain = PLAIN.fullmatch(instance.value(PATIENT_ID, 1024)) is not None
    uids = {
        "SOPClassUID": instance.sop_class_uid,
        "SOPInstanceUID": instance.sop_instance_uid,
        "StudyInstanceUID": instance.study_uid,
        "SeriesInstanceUID": instance.series_uid,
    }
    if missing := [name for name, uid in uids.items() if not uid]:
        raise RejectedError("missing-identifiers", ", ".join(missing))
    if invalid := [name for name, uid in uids.items() if not UID.fullmatch(uid)]:
        raise RejectedError("invalid-identifiers", ", ".join(invalid))
    return instance


def _ascii(value: bytes) -> str:
    return value.decode("ascii", "replace").strip("\0 ")


def _text(value: bytes, character_set: bytes) -> str:
    """Text decoded as Orthanc decodes it before it hashes it.

    Where the two differ, the next batch of the same study looks like another patient's.
    """
    declared = [name.strip() for name in character_set.decode("ascii", "replace").strip("\0 ").split("\\")]
    try:
        encodings = convert_encodings([name for name in declared if name] or "ISO_IR 6")
        return decode_bytes(value, encodings, set()).strip("\0 ")
    except (LookupError, UnicodeError, ValueError):
        return value.decode("latin-1").strip("\0 ")
