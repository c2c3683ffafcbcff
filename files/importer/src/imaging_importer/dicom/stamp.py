"""Marks an instance as belonging to a clinic, changing nothing else.

InstitutionName (0008,0080) becomes the clinic id. Its old value goes into a new item of Original Attributes Sequence
(0400,0561), as PS3.3 C.12.1 asks for coerced values. An item of Contributing Equipment Sequence (0018,A001) names the
importer. Text in a wrong character set is corrected (imaging_importer.dicom.correction). The new bytes are inserted
between the delivered ones, so pixel data and everything else stay as they are.

The result depends only on the file and the clinic (with its character set). The same file delivered twice gives the
same bytes: that tells a repeated delivery from a conflicting one. Therefore the coercion's date (0400,0562), which the
standard requires, is the instance's own creation date, not today's. No software version is written. The journal and the
log have the time of the import.
"""

import os
import re
import struct
import tempfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from hashlib import md5
from pathlib import Path
from typing import BinaryIO

from imaging_importer.dicom.correction import Correction, Edit, correct, originals
from imaging_importer.dicom.elements import (
    IMPLICIT_LITTLE,
    UNDEFINED_LENGTH,
    Encoding,
    encode_element,
    encode_item,
    name,
    text,
)
from imaging_importer.dicom.instance import IDENTIFIERS, TEXT_VRS, Instance
from imaging_importer.reasons import RejectedError, TransientError

INSTITUTION_NAME = 0x00080080
CONTRIBUTING_EQUIPMENT = 0x0018A001
ORIGINAL_ATTRIBUTES = 0x04000561
DATA_ELEMENTS_SIGNED = 0x04000020
MAC_PARAMETERS = 0x4FFE0001
DIGITAL_SIGNATURES = 0xFFFAFFFA
STAMPED = (INSTITUTION_NAME, CONTRIBUTING_EQUIPMENT, ORIGINAL_ATTRIBUTES)

SYSTEM = "imaging-importer"

# Date and time of creation, content, acquisition, series, study: the first valid one dates the coercion.
DATES = (
    (0x00080012, 0x00080013),
    (0x00080023, 0x00080033),
    (0x00080022, 0x00080032),
    (0x00080021, 0x00080031),
    (0x00080020, 0x00080030),
)

CHUNK = 1 << 18


class Body:
    """Bytes made of new pieces and ranges of a file, read as they are sent."""

    def __init__(self, file: BinaryIO, pieces: list[bytes | tuple[int, int]]) -> None:
        self._file = file
        self._pieces = pieces
        self.size = sum(len(piece) if isinstance(piece, bytes) else piece[1] - piece[0] for piece in pieces)

    def chunks(self) -> Iterator[bytes]:
        """The bytes, in pieces of at most CHUNK. Raises TransientError when it shrank or cannot be read."""
        descriptor = self._file.fileno()
        for piece in self._pieces:
            if isinstance(piece, bytes):
                yield piece
                continue
            position, end = piece
            while position < end:
                try:
                    chunk = os.pread(descriptor, min(CHUNK, end - position), position)
                except OSError as error:  # not to be taken for an error of the connection on which it is sent
                    raise TransientError(f"the file cannot be read: {error}") from error
                if not chunk:
                    raise TransientError("the file became shorter while it was sent")
                yield chunk
                position += len(chunk)

    def digest(self) -> str:
        """The MD5 of the bytes, in Orthanc's notation."""
        made = md5(usedforsecurity=False)
        for chunk in self.chunks():
            made.update(chunk)
        return made.hexdigest()


def stamp(instance: Instance, clinic_id: str, scratch: Path, charset: str = "") -> Body:
    """The instance as it is stored for this clinic, with its text corrected, and the identity of its patient.

    `charset` is the set that the clinic writes if an image names none. Raises RejectedError `signed`, or for a
    PatientID that is too long.

    A file that already carries this clinic's stamp (exported from here and delivered again) passes unchanged.
    """
    return _stamped(instance, clinic_id, scratch, correct(instance, charset))


def former(instance: Instance, clinic_id: str, scratch: Path) -> Body:
    """The instance as earlier releases stored it, which corrected no text."""
    return _stamped(instance, clinic_id, scratch, None)


def _stamped(instance: Instance, clinic_id: str, scratch: Path, correction: Correction | None) -> Body:
    is_stamped = _is_stamped(instance, clinic_id)
    edits = _true_vrs(instance)
    history: list[Callable[[Encoding], bytes]] = []
    grown = dict(correction.grown) if correction else {}
    if correction:
        _refuse_signed(instance, correction.tags)
        edits += [edit for edit in correction.edits if is_stamped or edit.tag != INSTITUTION_NAME]
        history.append(lambda used: _original_item(instance, used, originals(instance, correction, used), "CORRECT"))
    if not is_stamped:
        _refuse_signed(instance, STAMPED)
        institution = correction.institution if correction else None
        edits.append(_named(instance, clinic_id))
        edits += _append(instance, CONTRIBUTING_EQUIPMENT, _equipment_item, grown.pop(CONTRIBUTING_EQUIPMENT, 0))
        history.append(lambda used: _original_item(instance, used, _institution(instance, used, institution), "COERCE"))
    if history:
        items = lambda used: b"".join(item(used) for item in history)  # noqa: E731
        edits += _append(instance, ORIGINAL_ATTRIBUTES, items, grown.pop(ORIGINAL_ATTRIBUTES, 0))
    for sequence in instance.elements:
        if sequence.tag in grown and sequence.length != UNDEFINED_LENGTH:
            length = struct.pack(instance.encoding.order + "L", sequence.length + grown[sequence.tag])
            edits.append(Edit(sequence.value - 4, 4, length, sequence.tag))
    # Bytes that are inserted before an element come before those that replace it.
    edits = sorted(edits + _group_lengths(instance, edits), key=lambda edit: (edit.position, edit.removed))
    if not instance.deflated:
        return Body(instance.data, [instance.head, *_splice(instance.data_start, instance.data_end, edits)])
    if edits or not instance.compressed:
        return _deflated(instance, edits, scratch)
    start, end = instance.compressed
    return Body(instance.file, [instance.head, (start, end), b"\0" * ((end - start) % 2)])


def _is_stamped(instance: Instance, clinic_id: str) -> bool:
    """Whether the stamp is there as we write it, item by item. Bytes that only look like it prove nothing."""
    institution, equipment = instance.find(INSTITUTION_NAME), instance.find(CONTRIBUTING_EQUIPMENT)
    if institution is None or institution.vr not in (b"", b"LO"):
        return False
    if instance.raw(institution).strip(b"\0 ") != clinic_id.encode():
        return False
    if equipment is None or equipment.vr not in (b"", b"SQ", b"UN"):
        return False
    item = _equipment_item(IMPLICIT_LITTLE if equipment.vr == b"UN" else instance.encoding)
    try:
        return any(
            found.end - found.start == len(item) and instance.walker.read(found.start, found.end) == item
            for found in instance.walker.items(equipment)
        )
    except RejectedError:  # in UN of defined length, any bytes are possible
        return False


def _true_vrs(instance: Instance) -> list[Edit]:
    """Some writers know no VR for the identifiers. Orthanc finds no identifiers in UN, and refuses the image."""
    edits = []
    for tag in IDENTIFIERS.values():
        element = instance.find(tag)
        if element and element.vr == b"UN":
            data = encode_element(instance.encoding, tag, b"UI", instance.raw(element))
            edits.append(Edit(element.start, element.end - element.start, data, tag))
    return edits


def _named(instance: Instance, clinic_id: str) -> Edit:
    name = encode_element(instance.encoding, INSTITUTION_NAME, b"LO", text(clinic_id))
    previous = instance.find(INSTITUTION_NAME)
    if previous and (previous.vr not in TEXT_VRS or previous.length == UNDEFINED_LENGTH):
        raise RejectedError("damaged", f"InstitutionName is written as {previous.vr.decode()}")
    if previous:
        return Edit(previous.start, previous.end - previous.start, name, INSTITUTION_NAME)
    return Edit(_place(instance, INSTITUTION_NAME), 0, name, INSTITUTION_NAME)


def _refuse_signed(instance: Instance, changed: Collection[int]) -> None:
    """A signature names the elements it covers in its MAC parameters (PS3.3 C.12.1.1.3)."""
    signed = False
    for parameters in (element for element in instance.elements if element.tag == MAC_PARAMETERS):
        for item in instance.walker.items(parameters):
            for element in item.elements:
                if element.tag == DATA_ELEMENTS_SIGNED:
                    value = instance.raw(element)
                    pairs = struct.iter_unpack(instance.encoding.order + "HH", value[: len(value) // 4 * 4])
                    signed = signed or any(group << 16 | number in changed for group, number in pairs)
    if signed or (instance.find(DIGITAL_SIGNATURES) and not instance.find(MAC_PARAMETERS)):
        raise RejectedError("signed")


def _place(instance: Instance, tag: int) -> int:
    """The position to insert an absent element: elements are in ascending order (PS3.5 7.1)."""
    later = next((element for element in instance.elements if element.tag > tag), None)
    if later:
        return later.start
    return instance.elements[-1].end


def _append(instance: Instance, tag: int, item_in: Callable[[Encoding], bytes], grown: int) -> list[Edit]:
    """Add items to a sequence, which also grows by `grown` for another reason. Without one, add the sequence too."""
    sequence = instance.find(tag)
    encoding = instance.encoding
    if sequence is None:
        element = encode_element(encoding, tag, b"SQ", item_in(encoding))
        return [Edit(_place(instance, tag), 0, element, tag)]
    if sequence.vr not in (b"", b"SQ", b"UN"):
        raise RejectedError("damaged", f"the sequence {name(tag)} is written as {sequence.vr.decode()}")
    # A sequence in UN is implicit VR little endian inside (PS3.5 6.2.2).
    item = item_in(IMPLICIT_LITTLE if sequence.vr == b"UN" else encoding)
    if sequence.length == UNDEFINED_LENGTH:
        return [Edit(sequence.end - 8, 0, item, tag)]
    length = struct.pack(encoding.order + "L", sequence.length + grown + len(item))
    return [Edit(sequence.value - 4, 4, length, tag), Edit(sequence.end, 0, item, tag)]


def _equipment_item(encoding: Encoding) -> bytes:
    """PS3.3 C.12.1.1.5: purpose (109103, DCM, Modifying Equipment), and the contributing system."""
    purpose = b"".join(
        (
            encode_element(encoding, 0x00080100, b"SH", text("109103")),
            encode_element(encoding, 0x00080102, b"SH", text("DCM")),
            encode_element(encoding, 0x00080104, b"LO", text("Modifying Equipment")),
        )
    )
    return encode_item(
        encoding,
        b"".join(
            (
                encode_element(encoding, 0x00080070, b"LO", text("Imaging platform")),
                encode_element(encoding, 0x00081090, b"LO", text(SYSTEM)),
                encode_element(encoding, 0x0018A003, b"ST", text("InstitutionName set to the delivering clinic")),
                encode_element(encoding, 0x0040A170, b"SQ", encode_item(encoding, purpose)),
            )
        ),
    )


def _institution(instance: Instance, encoding: Encoding, read: bytes | None) -> bytes:
    """The previous InstitutionName; an absent value is kept as an empty one. `read`: as it is written now."""
    previous = instance.find(INSTITUTION_NAME)
    vr = (previous.vr if previous else b"") or b"LO"
    value = instance.raw(previous, 0xFFFE) if previous else b""
    modified = encode_element(encoding, INSTITUTION_NAME, vr, value if read is None else read[:0xFFFE])
    return encode_element(encoding, 0x04000550, b"SQ", encode_item(encoding, modified))


def _original_item(instance: Instance, encoding: Encoding, changes: bytes, reason: str) -> bytes:
    """PS3.3 C.12.1.1.9: the previous values, the time, the system and the reason."""
    return encode_item(
        encoding,
        b"".join(
            (
                changes,
                encode_element(encoding, 0x04000562, b"DT", text(_coercion_date(instance))),
                encode_element(encoding, 0x04000563, b"LO", text(SYSTEM)),
                encode_element(encoding, 0x04000564, b"LO", b""),
                encode_element(encoding, 0x04000565, b"CS", text(reason)),
            )
        ),
    )


def _coercion_date(instance: Instance) -> str:
    for date_tag, time_tag in DATES:
        date = re.fullmatch(rb"[0-9]{8}", instance.value(date_tag, 64).strip(b"\0 "))
        if date:
            time = re.match(rb"(?:[0-9]{2}){0,3}", instance.value(time_tag, 64))
            return (date[0] + (time[0] if time else b"")).decode("ascii")
    return "19000101"


def _group_lengths(instance: Instance, edits: list[Edit]) -> list[Edit]:
    """Retired group lengths (PS3.5 7.2) give the length of the group, so they grow with the added elements."""
    grown: defaultdict[int, int] = defaultdict(int)
    for edit in edits:
        grown[edit.tag & 0xFFFF0000] += len(edit.data) - edit.removed
    lengths = []
    for element in instance.elements:
        if element.tag in grown and element.length == 4:
            format_ = instance.encoding.order + "L"
            (old,) = struct.unpack(format_, instance.raw(element))
            new = struct.pack(format_, (old + grown[element.tag]) % (1 << 32))
            lengths.append(Edit(element.value, 4, new, element.tag))
    return lengths


def _splice(start: int, end: int, edits: list[Edit]) -> list[bytes | tuple[int, int]]:
    pieces: list[bytes | tuple[int, int]] = []
    for edit in edits:
        pieces += [(start, edit.position), edit.data]
        start = edit.position + edit.removed
    return [*pieces, (start, end)]


def _deflated(instance: Instance, edits: list[Edit], scratch: Path) -> Body:
    """The head of the file as delivered, then the changed data set deflated again (PS3.5 A.5)."""
    deflater = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    copy = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 - lives as long as the body
    for chunk in Body(instance.data, _splice(instance.data_start, instance.data_end, edits)).chunks():
        copy.write(deflater.compress(chunk))
    copy.write(deflater.flush())
    copy.write(b"\0" * (copy.tell() % 2))
    copy.flush()
    return Body(copy, [instance.head, (0, copy.tell())])
