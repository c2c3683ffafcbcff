"""Reads the facts that the importer needs of a delivered file, never its pixels, and writes the file in one way.

A file is an instance (Part 10 file, or a data set in another dress: imaging_importer.dicom.dress), a companion (text,
DICOMDIR: CompanionError) or cannot be imported (RejectedError).

If Orthanc's parser could read something otherwise, it is refused (module elements) or written again so that it cannot.
That concerns file meta information, the order of elements, group lengths, and the padding of the file. A well-formed
file stays as it is, byte for byte.
"""

import os
import re
import struct
import tempfile
import threading
import zlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha1
from pathlib import Path
from typing import BinaryIO

from pydicom.datadict import dictionary_has_tag, dictionary_VR

from imaging_importer import reasons
from imaging_importer.dicom import dress
from imaging_importer.dicom.dress import IMPLICIT_BIG, Dress
from imaging_importer.dicom.elements import (
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    PIXEL_DATA,
    SPECIFIC_CHARACTER_SET,
    UNDEFINED_LENGTH,
    VRS,
    Element,
    Encoding,
    Walker,
    encode_element,
    name,
    shown,
    text,
)
from imaging_importer.reasons import CompanionError, RejectedError
from imaging_importer.snapshot import copy_range, private_file

IMPLICIT_LITTLE_UID = "1.2.840.10008.1.2"
EXPLICIT_LITTLE_UID = "1.2.840.10008.1.2.1"
EXPLICIT_BIG_UID = "1.2.840.10008.1.2.2"
NATIVE = {IMPLICIT_LITTLE_UID: IMPLICIT_LITTLE, EXPLICIT_LITTLE_UID: EXPLICIT_LITTLE, EXPLICIT_BIG_UID: EXPLICIT_BIG}
DEFLATED_UID = "1.2.840.10008.1.2.1.99"
# The other transfer syntaxes of PS3.5 section 10 and PS3.6 table A-1, with the retired ones: all are explicit VR little
# endian. The two are left out whose data set is deflated and refers to pixels elsewhere (JPIP).
ENCAPSULATED = re.compile(
    r"1\.2\.840\.10008\.1\.2\.(1\.98|4\.(5[0-9]|6[0-6]|70|8[01]|9[0-4]|10[0-6](\.1)?|10[78]|11[0-2]|20[1-4])|5|6\.[12]|7\.[1-3]|8\.1)"
)
MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"

# A UUID-derived UID (PS3.5 B.2) that names this implementation in file meta information that we write.
IMPLEMENTATION_CLASS_UID = "2.25.213804268735467183652310418470519273841"

GROUP_LENGTH_OF_META = 0x00020000
MEDIA_STORAGE_SOP_CLASS_UID = 0x00020002
TRANSFER_SYNTAX_UID = 0x00020010
DIRECTORY_RECORD_SEQUENCE = 0x00041220
SOP_CLASS_UID = 0x00080016
SOP_INSTANCE_UID = 0x00080018
PATIENT_ID = 0x00100020
STUDY_INSTANCE_UID = 0x0020000D
SERIES_INSTANCE_UID = 0x0020000E
IDENTIFIERS = {
    "SOPClassUID": SOP_CLASS_UID,
    "SOPInstanceUID": SOP_INSTANCE_UID,
    "StudyInstanceUID": STUDY_INSTANCE_UID,
    "SeriesInstanceUID": SERIES_INSTANCE_UID,
}
TEXT_VRS = frozenset({b"", b"CS", b"LO", b"LT", b"PN", b"SH", b"ST", b"UC", b"UN", b"UT"})  # "": implicit VR

# Orthanc unpacks everything that begins so (tried).
ZIP_MAGIC = b"PK\3\4"
# The preamble may hold anything (PS3.10 7.1). With it, a file can be both image and program (CVE-2019-11687).
EXECUTABLES = (
    b"MZ", b"\x7fELF", b"#!", b"\xfe\xed\xfa\xce", b"\xfe\xed\xfa\xcf", b"\xce\xfa\xed\xfe", b"\xcf\xfa\xed\xfe",
    b"\xca\xfe\xba\xbe", b"dex\n", b"<?php", b"<script", b"<html", b"<!DOCTYPE", b"@echo",
)  # fmt: skip

MIB = 1 << 20
LARGEST_META = MIB
# A deflated data set may grow to so many times its size, and to HARMLESS in any case. Pixels do not shrink further.
MOST_GROWTH = 100
HARMLESS = 16 * MIB
# Inflating takes a whole processor, and a few kilobytes keep it busy. Only one runs at a time; others use the rest.
INFLATING = threading.Semaphore(1)
# Bytes that may follow it and are cut off: the checksum of gzip or zlib, which some writers leave there, and padding.
LONGEST_TRAILER = 16

# Leading zeros in a component are wrong (PS3.5 9.1), but some scanners write them, and the registry accepts them too.
# Some pad with blanks instead of a zero byte.
UID = re.compile(rb"([0-9]+(?:\.[0-9]+)*)[\0 ]*")
LONGEST_UID = 64
LONGEST_VALUE = 128  # with its padding
LONGEST_VALUE_OF = {PATIENT_ID: 1024, SPECIFIC_CHARACTER_SET: 256}  # bytes; a longer value is no such text


@dataclass(frozen=True)
class Limits:
    """The limits of Orthanc's memory, in bytes."""

    instance: int = 590 * MIB
    inflated: int = 590 * MIB


@dataclass(kw_only=True)
class Instance:
    """One delivered DICOM instance: the places of its elements, and its identifiers."""

    file: BinaryIO  # as delivered
    syntax: str  # the transfer syntax that its data set really has
    head: bytes  # preamble and file meta information as they are sent
    data: BinaryIO  # file with the data set: the delivered one, its inflated copy, or one with its elements in order
    data_start: int
    data_end: int
    deflated: bool
    compressed: tuple[int, int] | None  # place of the deflated data set in `file`, if it may be sent so
    encoding: Encoding
    elements: list[Element]
    walker: Walker  # over `data`
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    study_uid: str = ""
    series_uid: str = ""
    patient_id: str | None = None  # None: unknown until Orthanc has read it
    raw_patient_id: bytes = b""  # as delivered, without padding
    has_odd_text: bool = False  # text that is more than ASCII, at any depth
    notes: dict[str, str] = field(default_factory=dict)  # what the sender is told about it once it is stored

    def find(self, tag: int) -> Element | None:
        """The top-level element with this tag."""
        return next((element for element in self.elements if element.tag == tag), None)

    def value(self, tag: int, limit: int = 1 << 20) -> bytes:
        """The raw value of a top-level element, at most `limit` bytes of it; empty when absent."""
        element = self.find(tag)
        return self.raw(element, limit) if element else b""

    def raw(self, element: Element, limit: int = 1 << 20) -> bytes:
        """The raw value of an element, at most `limit` bytes of it."""
        return self.walker.read(element.value, min(element.end, element.value + limit))

    def forget(self) -> None:
        """Release the elements, of which a hostile file has many. The identifiers stay."""
        self.elements = []
        self.walker.close()

    def close(self) -> None:
        """Close the files."""
        self.walker.close()
        self.data.close()
        self.file.close()


def orthanc_id(*identifiers: str) -> str:
    """Orthanc's resource id for PatientID, StudyInstanceUID and so on down to the resource."""
    digest = sha1("|".join(identifiers).encode(), usedforsecurity=False).hexdigest()
    return "-".join(digest[start : start + 8] for start in range(0, 40, 8))


def admit(file: BinaryIO, limits: Limits, size: int | None = None) -> Dress:
    """Look at the first bytes for the beginning of DICOM. `size` is the whole file's, of which less may be here.

    Raises CompanionError or RejectedError for a file that need not be read or copied any further.
    """
    size = os.fstat(file.fileno()).st_size if size is None else size
    if not size:
        raise RejectedError("empty-file")
    head = dress.look(file)
    found = dress.dress(head, size)
    if found is None:
        if kind := dress.packed_kind(head):
            raise RejectedError("packed-kind", kind)
        if (position := dress.stray(head)) is not None:
            raise RejectedError("damaged", f"DICM stands at byte {position}, not at byte 128")
        raise CompanionError(reasons.NOT_DICOM)
    if found.start and head.startswith(EXECUTABLES):
        raise RejectedError("executable-preamble")
    if size > limits.instance:
        raise too_large(size, limits)
    return found


def too_large(size: int, limits: Limits) -> RejectedError:
    """The error for an image that Orthanc has no memory for."""
    return RejectedError(
        "too-large", f"it has {-(-size // MIB):,} MiB; at most {limits.instance // MIB:,} MiB are taken in one file"
    )


def read_instance(file: BinaryIO, scratch: Path, limits: Limits = Limits()) -> Instance:
    """Read a file that nobody else can change. `scratch` is a directory for copies of it.

    Raises CompanionError for a file that is no instance, RejectedError for one that cannot be imported.
    """
    found = admit(file, limits)
    if not found.has_meta:
        return _bare_instance(file, found.start, found.encoding, scratch)
    size = os.fstat(file.fileno()).st_size
    preamble = os.pread(file.fileno(), 132, 0)
    if preamble[128:] != b"DICM" or found.start != len(preamble) or preamble.startswith(ZIP_MAGIC):
        preamble = bytes(128) + b"DICM"

    meta = _read_meta(Walker(file, size, found.encoding), found.encoding, size, found.start)
    if meta.uid(MEDIA_STORAGE_SOP_CLASS_UID) == MEDIA_STORAGE_DIRECTORY:
        raise CompanionError(reasons.DICOMDIR)
    syntax = meta.uid(TRANSFER_SYNTAX_UID)
    if not syntax:
        bare = dress.dress(os.pread(file.fileno(), dress.LOOKED_AT, meta.end), size - meta.end)
        if bare is None or bare.start or bare.has_meta:
            raise RejectedError("missing-transfer-syntax")
        return _bare_instance(file, meta.end, bare.encoding, scratch)
    if syntax == DEFLATED_UID:
        data, end = _inflate(file, meta.end, size, scratch, limits)
        try:
            head = preamble + meta.written()
            instance = _instance(file, syntax, head, data, 0, EXPLICIT_LITTLE, scratch, compressed=(meta.end, end))
            _refuse_fragments(instance)
        except BaseException:
            data.close()
            raise
        return instance
    if syntax not in NATIVE and not ENCAPSULATED.fullmatch(syntax):
        raise RejectedError("unknown-transfer-syntax", syntax)
    encoding = NATIVE.get(syntax, EXPLICIT_LITTLE)
    if syntax in NATIVE:
        encoding = _true_encoding(encoding, os.pread(file.fileno(), 8, meta.end))
        syntax = _native_uid(encoding) if encoding != NATIVE[syntax] else syntax
    instance = _instance(file, syntax, preamble + meta.written(syntax), file, meta.end, encoding, scratch)
    if syntax not in NATIVE and instance.elements[0].tag >> 16 < 0x0008:
        # A parser that does not know the transfer syntax guesses the encoding from the first element.
        raise RejectedError("damaged", f"{name(instance.elements[0].tag)} has no business in a data set")
    if syntax in NATIVE:
        _refuse_fragments(instance)
    return instance


def _refuse_fragments(instance: Instance) -> None:
    pixels = instance.find(PIXEL_DATA)
    if pixels is not None and pixels.length == UNDEFINED_LENGTH:
        raise RejectedError("damaged", "pixel data in fragments, but a transfer syntax that has none")


def _native_uid(encoding: Encoding) -> str:
    return next(uid for uid, native in NATIVE.items() if native == encoding)


def _true_encoding(named: Encoding, header: bytes) -> Encoding:
    """The encoding of a data set that begins with `header`.

    Some writers name one native transfer syntax and write another.
    """

    def fits(encoding: Encoding) -> bool:
        (group,) = struct.unpack_from(encoding.order + "H", header)
        if header[4:6] in VRS or encoding.explicit:
            return group <= 0xFF and (header[4:6] in VRS) == encoding.explicit
        # That is no length of a first element, but an unknown VR. So it is not in implicit VR.
        return group <= 0xFF and (encoding == named or struct.unpack_from("<L", header, 4)[0] <= 1024)

    if len(header) < 8:
        return named
    return next((encoding for encoding in (named, *NATIVE.values()) if fits(encoding)), named)


def _bare_instance(file: BinaryIO, start: int, encoding: Encoding, scratch: Path) -> Instance:
    """A data set alone, from `start` on.

    DICOMweb carries Part 10 files (PS3.18 8.7.3.1), so the missing head is written in front of it.
    """
    if encoding == IMPLICIT_BIG:
        raise RejectedError("unknown-transfer-syntax", "implicit VR big endian, which DICOM does not have")
    instance = _instance(file, _native_uid(encoding), b"", file, start, encoding, scratch)
    pixels = instance.find(PIXEL_DATA)
    if pixels is not None and pixels.length == UNDEFINED_LENGTH:
        raise RejectedError("missing-transfer-syntax")
    meta = b"".join(
        encode_element(EXPLICIT_LITTLE, tag, vr, value)
        for tag, vr, value in (
            (0x00020001, b"OB", b"\0\1"),
            (MEDIA_STORAGE_SOP_CLASS_UID, b"UI", _encoded_uid(instance.sop_class_uid)),
            (0x00020003, b"UI", _encoded_uid(instance.sop_instance_uid)),
            (TRANSFER_SYNTAX_UID, b"UI", _encoded_uid(instance.syntax)),
            (0x00020012, b"UI", _encoded_uid(IMPLEMENTATION_CLASS_UID)),
            (0x00020013, b"SH", text("IMAGING-IMPORTER")),
        )
    )
    instance.head = bytes(128) + b"DICM" + _group_length(len(meta)) + meta
    return instance


def _encoded_uid(value: str) -> bytes:
    return value.encode("ascii") + b"\0" * (len(value) % 2)


def _group_length(length: int) -> bytes:
    return encode_element(EXPLICIT_LITTLE, GROUP_LENGTH_OF_META, b"UL", struct.pack("<L", length))


@dataclass
class Meta:
    """File meta information. It is always explicit VR little endian (PS3.10 7.1), except from some writers."""

    elements: list[Element]
    walker: Walker
    encoding: Encoding
    start: int
    end: int  # where the data set begins

    def uid(self, tag: int) -> str:
        """A UID of it; empty if absent. A value that is no UID is returned as it is shown."""
        element = next((element for element in self.elements if element.tag == tag), None)
        if element is None or element.vr not in (b"", b"UI"):
            return ""
        value = self._value(element)
        return _plain_uid(value) or shown(value.rstrip(b"\0 ")[:64])

    def _value(self, element: Element) -> bytes:
        return self.walker.read(element.value, element.end)

    def _written(self, element: Element) -> bytes:
        """One element in the encoding that it has to have."""
        if self.encoding == EXPLICIT_LITTLE:
            return self.walker.read(element.start, element.end)
        vr = element.vr or (dictionary_VR(element.tag).encode() if dictionary_has_tag(element.tag) else b"UN")
        value = self._value(element)
        return encode_element(EXPLICIT_LITTLE, element.tag, vr, value + bytes(len(value) % 2))

    def written(self, syntax: str = "") -> bytes:
        """The file meta information to send; unchanged if its encoding, its order and its group length are right."""
        tags = [element.tag for element in self.elements]
        first = self.elements[0]
        length = struct.pack("<L", self.end - first.end)
        exact = (first.tag, first.vr, self._value(first)) == (GROUP_LENGTH_OF_META, b"UL", length)
        exact = exact and self.encoding == EXPLICIT_LITTLE
        if exact and tags == sorted(set(tags)) and syntax in ("", self.uid(TRANSFER_SYNTAX_UID)):
            return self.walker.read(self.start, self.end)
        pieces = {
            element.tag: self._written(element)
            for element in sorted(self.elements)
            if element.tag != GROUP_LENGTH_OF_META
        }
        if syntax:
            pieces[TRANSFER_SYNTAX_UID] = encode_element(
                EXPLICIT_LITTLE, TRANSFER_SYNTAX_UID, b"UI", _encoded_uid(syntax)
            )
        meta = b"".join(pieces.values())
        return _group_length(len(meta)) + meta


def _read_meta(walker: Walker, encoding: Encoding, size: int, start: int) -> Meta:
    elements: list[Element] = []
    written: dict[int, bytes] = {}
    position, group = start, struct.pack(encoding.order + "H", 0x0002)
    while size - position >= 8 and walker.read(position, position + 2) == group:
        element = walker.one(position)
        if element.end - start > LARGEST_META:
            raise RejectedError("damaged", "the file meta information has more than 1 MiB")
        data = walker.read(element.start, element.end)
        if element.tag != GROUP_LENGTH_OF_META and written.setdefault(element.tag, data) != data:
            raise RejectedError("damaged", f"{name(element.tag)} stands twice in the file meta information")
        elements.append(element)
        position = element.end
    if not elements:
        raise RejectedError("missing-transfer-syntax")
    return Meta(elements, walker, encoding, start, position)


def _inflate(file: BinaryIO, start: int, size: int, scratch: Path, limits: Limits) -> tuple[BinaryIO, int]:
    """The data set of a deflated file (PS3.5 A.5), inflated into an unnamed file, and its end in the first file."""
    copy = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 - closed with the instance
    try:
        with INFLATING:
            return copy, _inflate_into(copy, file, start, size, limits)
    except BaseException:
        copy.close()
        raise


def _inflate_into(copy: BinaryIO, file: BinaryIO, start: int, size: int, limits: Limits) -> int:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    most = min(limits.inflated, max(HARMLESS, MOST_GROWTH * (size - start)))
    file.seek(start)
    for plain in _inflated(file, inflater):
        copy.write(plain)
        if copy.tell() > most:
            raise RejectedError(
                "too-large-inflated", f"{(size - start) / MIB:,.1f} MiB grow beyond {most // MIB:,} MiB"
            )
    copy.flush()
    rest = len(inflater.unused_data) + size - file.tell()
    if rest > LONGEST_TRAILER:
        raise RejectedError("damaged", f"{rest} bytes follow the deflated data set")
    return size - rest


def _inflated(file: BinaryIO, inflater: "zlib._Decompress") -> Iterator[bytes]:
    while not inflater.eof:
        compressed = inflater.unconsumed_tail or file.read(1 << 16)
        try:
            plain = inflater.decompress(compressed, 1 << 20)
        except zlib.error as error:
            raise RejectedError("damaged", f"deflated data set: {error}") from error
        # Without input, it also returns the output that it held back for lack of room.
        if not compressed and not plain:
            raise RejectedError("truncated", "the deflated data set is not complete")
        yield plain


def _instance(
    file: BinaryIO,
    syntax: str,
    head: bytes,
    data: BinaryIO,
    start: int,
    encoding: Encoding,
    scratch: Path,
    compressed: tuple[int, int] | None = None,
) -> Instance:
    size = os.fstat(data.fileno()).st_size
    if start >= size:
        raise RejectedError("missing-identifiers", ", ".join(IDENTIFIERS))
    walker = Walker(data, size, encoding)
    elements, end = walker.data_set(start)
    tags = {element.tag for element in elements}
    if DIRECTORY_RECORD_SEQUENCE in tags and SOP_INSTANCE_UID not in tags:
        raise CompanionError(reasons.DICOMDIR)
    if end < size:
        compressed = None
    instance = Instance(
        file=file,
        syntax=syntax,
        head=head,
        data=data,
        data_start=start,
        data_end=end,
        deflated=data is not file,
        compressed=compressed,
        encoding=encoding,
        elements=elements,
        walker=walker,
        has_odd_text=walker.has_odd_text,
    )
    _identify(instance)
    ordered = _ordered(instance)
    if ordered != elements or any(_is_renamed(instance, element) for element in elements):
        _rewrite(instance, ordered, scratch)
    return instance


def _identify(instance: Instance) -> None:
    """Read the identifiers, if every parser reads the same. Raises RejectedError."""
    values = {keyword: instance.find(tag) for keyword, tag in IDENTIFIERS.items()}
    uids = {}
    for keyword, element in values.items():
        if element is not None and element.length and element.vr not in (b"", b"UI", b"UN"):
            raise RejectedError("damaged", f"{keyword} is written as {element.vr.decode()}, not as UI")
        uids[keyword] = _plain_uid(instance.raw(element)) if element else ""
    empty = [keyword for keyword, element in values.items() if not element or not instance.raw(element).strip(b"\0 ")]
    if empty:
        raise RejectedError("missing-identifiers", ", ".join(empty))
    if invalid := [keyword for keyword, uid in uids.items() if not uid]:
        raise RejectedError("invalid-identifiers", ", ".join(invalid))
    instance.sop_class_uid, instance.sop_instance_uid, instance.study_uid, instance.series_uid = uids.values()

    for tag in (PATIENT_ID, SPECIFIC_CHARACTER_SET):
        element = instance.find(tag)
        if element is None:
            continue
        # After a zero byte, some parsers read on. The PatientID is written so that they all do.
        plain = tag == PATIENT_ID or b"\0" not in instance.raw(element).rstrip(b"\0 ")
        size = len(instance.raw(element).strip(b"\0 "))
        if size > LONGEST_VALUE_OF[tag]:
            raise RejectedError("damaged", f"{name(tag)} has {size} bytes; at most {LONGEST_VALUE_OF[tag]} are taken")
        if element.vr not in TEXT_VRS or not plain:
            raise RejectedError("damaged", f"{name(tag)} is not the text that it has to be")


def _plain_uid(value: bytes) -> str:
    """A value that is only one UID and its padding, else an empty string. DCMTK removes blanks inside a UID."""
    uid = UID.fullmatch(value) if len(value) <= LONGEST_VALUE else None
    return uid[1].decode() if uid and len(uid[1]) <= LONGEST_UID else ""


def _ordered(instance: Instance) -> list[Element]:
    """The elements in the order of their tags (PS3.5 7.1), without wrong group lengths (retired, 7.2)."""
    sizes: defaultdict[int, int] = defaultdict(int)
    for element in instance.elements:
        if element.tag & 0xFFFF:
            size = 12 + element.length if _is_renamed(instance, element) else element.end - element.start
            sizes[element.tag >> 16] += size
    unpack = struct.Struct(instance.encoding.order + "L").unpack

    def is_true(element: Element) -> bool:
        return (
            element.vr in (b"", b"UL")
            and element.length == 4
            and unpack(instance.raw(element)) == (sizes[element.tag >> 16],)
        )

    return sorted(element for element in instance.elements if element.tag & 0xFFFF or is_true(element))


def _is_renamed(instance: Instance, element: Element) -> bool:
    """Whether an element has another VR than its file names."""
    return element.vr == b"UN" and instance.walker.read(element.start + 4, element.start + 6) != b"UN"


def _rewrite(instance: Instance, elements: list[Element], scratch: Path) -> None:
    """Put these elements of the data set, in this order, into a file of their own.

    Only the heads of elements with a VR that DICOM does not know are changed.
    """
    copy = private_file(scratch, instance.data_end - instance.data_start)
    moved, position = [], 0
    for element in elements:
        start, head = element.start, b""
        if _is_renamed(instance, element):
            # The head of an empty element, and its true length.
            head = encode_element(instance.encoding, element.tag, b"UN", b"")[:-4]
            head += struct.pack(instance.encoding.order + "L", element.length)
            start = element.value
            copy.write(head)
        copy_range(instance.data, start, element.end, copy)
        value = position + (len(head) or element.value - element.start)
        end = value + element.end - element.value
        moved.append(element._replace(start=position, value=value, end=end))
        position = end
    instance.walker.close()
    instance.walker = Walker(copy, position, instance.encoding)
    instance.data.close()
    if not instance.deflated:
        instance.file = copy
    instance.data, instance.data_start, instance.data_end, instance.elements = copy, 0, position, moved
    instance.compressed = None
