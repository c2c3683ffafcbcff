"""Makes the text of a data set name its character set.

Text is corrected if it is not plain ASCII and its character set is missing, wrong or one that Orthanc shows otherwise.
Then it becomes UTF-8 (ISO_IR 192), which every reader reads alike.

The earlier text is kept byte for byte in an item of Original Attributes Sequence, as PS3.3 C.12.1.1.9 asks. Elements
that conform to their own Specific Character Set stay as they were (sequences whole). Others are kept by place and
bytes. Text that needs no correction stays as it is, and so does everything that is no text.
"""

import re
import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from imaging_importer.dicom.charsets import PADDING, Charset, Reader, declared
from imaging_importer.dicom.elements import (
    LONG_VRS,
    SPECIFIC_CHARACTER_SET,
    SPOKEN_VRS,
    UNDEFINED_LENGTH,
    Element,
    Encoding,
    Found,
    Texts,
    encode_element,
    encode_item,
    is_odd,
    known_vr,
    text,
)
from imaging_importer.dicom.instance import PATIENT_ID, Instance
from imaging_importer.reasons import RejectedError

INSTITUTION_NAME = 0x00080080
PATIENT_NAME = 0x00100010
MODIFIED_ATTRIBUTES = 0x04000550
NONCONFORMING = 0x04000551
UTF8 = b"ISO_IR 192"
DEFINED_TERMS = re.compile(rb"|ISO_IR [0-9]+|GB18030|GBK|(ISO 2022 IR [0-9]+)?(\\ISO 2022 IR [0-9]+)*")

# Orthanc does not store more than 256 bytes of UTF-8 as a PatientID (tried); DICOM's own limit is 64 characters.
LONGEST_PATIENT_ID = 256
LONGEST_SHORT = 0xFFFE
# A larger sequence (it may hold pixels too) is not kept whole.
LARGEST_KEPT = 1 << 20

NOTE = "text-corrected"


@dataclass(frozen=True)
class Edit:
    """Replace `removed` bytes at `position` by `data`; it belongs to this top-level element."""

    position: int
    removed: int
    data: bytes
    tag: int


@dataclass(eq=False, frozen=True, slots=True)
class Value:
    """A value that may have to be written in another way."""

    found: Found
    top: int  # the tag of the top-level element that it is, or is in
    vr: bytes
    raw: bytes
    terms: bytes  # the Specific Character Set that is valid for it
    charset: Charset  # the meaning of the terms

    @property
    def element(self) -> Element:
        """The place of the value."""
        return self.found.element

    @property
    def is_patient(self) -> bool:
        """Whether it is the PatientID of the image, not of something that it refers to."""
        return self.top == PATIENT_ID

    @property
    def is_odd(self) -> bool:
        """Whether it can be read in more than one way. In a PatientID, Orthanc stops reading at a zero byte."""
        return is_odd(self.raw) or (self.is_patient and b"\0" in self.raw.strip(PADDING))


@dataclass
class Correction:
    """The corrections of the text of one instance."""

    texts: Texts
    is_converted: bool  # to UTF-8
    edits: list[Edit] = field(default_factory=list)
    grown: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))  # top-level sequences, by so much
    lengths: defaultdict[tuple[int, str, int], int] = field(default_factory=lambda: defaultdict(int))  # of all below
    before: list[tuple[Value, bool]] = field(default_factory=list)  # the old values, and whether each conformed
    institution: bytes | None = None  # InstitutionName as it is now

    @property
    def tags(self) -> set[int]:
        """The top-level elements that are changed."""
        return {edit.tag for edit in self.edits}


def correct(instance: Instance, own: str) -> Correction | None:
    """Find out who the patient is, and which text has to be written in another way; None if no text has to be.

    `own` is the character set that the clinic is known to write if none is named, or a wrong one. Everything else
    depends on the file alone. Raises RejectedError for a PatientID that is too long for Orthanc.
    """
    patient = instance.find(PATIENT_ID)
    raw = instance.raw(patient) if patient else b""
    plain = instance.raw_patient_id = raw.strip(PADDING)
    # Padding means nothing (PS3.5 6.2), but Orthanc takes leading blanks as part of the PatientID; in UN, all blanks.
    is_padded = bool(plain) and (raw[0] in PADDING or (patient is not None and patient.vr == b"UN"))
    correction = None
    if instance.has_odd_text or is_padded or is_odd(plain) or b"\0" in plain:
        correction = _corrected(instance, own, is_padded)
    else:
        instance.patient_id = plain.decode("ascii")
    if (size := len((instance.patient_id or "").encode())) > LONGEST_PATIENT_ID:
        raise RejectedError("damaged", f"its PatientID has {size} bytes; the archive has room for {LONGEST_PATIENT_ID}")
    if "~" in (instance.patient_id or "") and b"IR 13" in instance.value(SPECIFIC_CHARACTER_SET) and not correction:
        instance.patient_id = None  # some readers see an overline at that byte
    return correction


def _corrected(instance: Instance, own: str, is_padded: bool) -> Correction | None:
    texts = instance.walker.texts(instance.data_start, PATIENT_ID)
    values, charsets = _values(instance, texts)
    odd = [value for value in values if value.is_odd]
    reader = Reader(
        [(value.raw, value.charset) for value in odd],
        [(value.raw, value.charset) for value in odd if value.top in (PATIENT_NAME, PATIENT_ID)],
        own,
    )
    read = [(value, reader.read(value.raw, value.charset)) for value in odd]
    patient = next((value for value in values if value.is_patient), None)
    who = next((text.text for value, text in read if value.is_patient), None)
    plain = patient.raw.strip(PADDING).decode("ascii") if patient and who is None else ""
    instance.patient_id = plain if who is None else who.strip(" ")
    is_right = (
        all(text.exact and value.charset.is_right and b"\x1b" not in value.raw for value, text in read)
        and not (is_padded and who is not None)
        # Orthanc does not read the name of a character set in UN.
        and not (odd and any(value.element.vr == b"UN" for value in charsets))
    )
    if is_right and not is_padded:
        return None
    correction = Correction(texts, is_converted=not is_right)
    told = []
    if patient and is_padded and who is None:
        _rewrite(correction, patient, plain, True)
        told.append("the PatientID is written plainly")
    if not is_right:
        conform = _conforms(instance.value(SPECIFIC_CHARACTER_SET))
        for value, text in read:
            new = instance.patient_id if value.is_patient else text.text
            _rewrite(correction, value, new, conform and text.exact and _conforms(value.terms))
        for value in charsets:
            if value.raw.strip(PADDING) != UTF8 or value.element.vr == b"UN":
                _rewrite(correction, value, UTF8.decode(), _conforms(value.raw))
        if not instance.find(SPECIFIC_CHARACTER_SET):
            place = next(element.start for element in instance.elements if element.tag > SPECIFIC_CHARACTER_SET)
            added = encode_element(instance.encoding, SPECIFIC_CHARACTER_SET, b"CS", UTF8)
            correction.edits.append(Edit(place, 0, added, SPECIFIC_CHARACTER_SET))
        told += sorted({f"read as {text.name}" for _, text in read if text.name})
        if not all(text.name for _, text in read):
            told.append("bytes that mean nothing in any likely character set are marked")
    correction.edits += _lengths(instance, correction)
    instance.notes[NOTE] = ", ".join(told)
    return correction


def _conforms(terms: bytes) -> bool:
    return bool(DEFINED_TERMS.fullmatch(terms.strip(PADDING)))


def _values(instance: Instance, texts: Texts) -> tuple[list[Value], list[Value]]:
    """The texts of a data set, and every Specific Character Set, because an item may have one of its own."""

    def value(found: Found) -> Value:
        element = found.element
        items = [0, *(step.item for step in found.way)]
        own = next((texts.charsets[item].element for item in reversed(items) if item in texts.charsets), None)
        top = texts.sequences[found.way[0].sequence].element.tag if found.way else element.tag
        vr = element.vr or known_vr(element.tag)
        if element.tag == PATIENT_ID and vr not in SPOKEN_VRS:
            vr = b"LO"
        elif element.tag == SPECIFIC_CHARACTER_SET and vr == b"UN":
            vr = b"CS"
        terms = instance.raw(own, 256) if own else b""
        return Value(found, top, vr, instance.walker.read(element.value, element.end), terms, declared(terms))

    def is_history(found: Found) -> bool:
        """Whether it holds earlier values, with their own character set."""
        return any(
            texts.sequences[step.sequence].element.tag == MODIFIED_ATTRIBUTES and step.item in texts.charsets
            for step in found.way
        )

    return (
        [value(found) for found in texts.found if not is_history(found)],
        [value(found) for found in texts.charsets.values() if not is_history(found)],
    )


def _rewrite(correction: Correction, value: Value, new: str, conforms: bool) -> None:
    """Write a value again, in UTF-8."""
    data = new.encode()
    data += b" " * (len(data) % 2)
    element = value.element
    # A value that UTF-8 makes too long for a length of 16 bits stays whole, and stays text.
    vr = value.vr if value.vr in LONG_VRS or len(data) <= LONGEST_SHORT else b"UT"
    written = encode_element(value.found.encoding, element.tag, vr, data)
    correction.edits.append(Edit(element.start, element.end - element.start, written, value.top))
    correction.before.append((value, conforms))
    if element.tag == value.top == INSTITUTION_NAME:
        correction.institution = data
    by, child = len(written) - (element.end - element.start), element
    for step in reversed(value.found.way):
        order = correction.texts.encodings[step.item].order
        correction.lengths[step.item + 4, order, value.top] += by
        lengths = correction.texts.group_lengths.get(step.item, {})
        if length := lengths.get(child.tag >> 16):
            correction.lengths[length, order, value.top] += by
        child, encoding, way = correction.texts.sequences[step.sequence]
        if not way:
            correction.grown[child.tag] += by
        elif child.length != UNDEFINED_LENGTH:
            correction.lengths[child.value - 4, encoding.order, value.top] += by


def _lengths(instance: Instance, correction: Correction) -> Iterator[Edit]:
    """The new lengths of the items and sequences around nested values, except those of the top-level sequences."""
    for (position, order, tag), by in correction.lengths.items():
        (old,) = struct.unpack(order + "L", instance.walker.read(position, position + 4))
        if old != UNDEFINED_LENGTH:
            yield Edit(position, 4, struct.pack(order + "L", (old + by) % (1 << 32)), tag)


def originals(instance: Instance, correction: Correction, encoding: Encoding) -> bytes:
    """The earlier values, in the encoding of an item of Original Attributes Sequence (PS3.3 C.12.1.1.9)."""
    kept: dict[int, bytes] = {}
    nonconforming = []
    if correction.is_converted:
        kept[SPECIFIC_CHARACTER_SET] = encode_element(encoding, SPECIFIC_CHARACTER_SET, b"CS", b"")
    loose = {value.top for value, conforms in correction.before if not conforms}
    loose |= {
        value.top
        for value, _ in correction.before
        if value.found.way and (encoding != instance.encoding or _is_large(correction.texts, value))
    }
    for value, _ in correction.before:
        way, tag = value.found.way, value.top
        if tag in loose:
            nonconforming.append(encode_item(encoding, _nonconforming(instance, correction.texts, value, encoding)))
            if not way:
                kept[tag] = encode_element(encoding, tag, value.vr, b"")
        elif way:
            sequence = correction.texts.sequences[way[0].sequence].element
            kept[tag] = instance.walker.read(sequence.start, sequence.end)
        else:
            kept[tag] = encode_element(encoding, tag, value.element.vr or value.vr, value.raw)
        if creator := _creator(correction.texts, 0, tag):
            kept[creator.tag] = encode_element(encoding, creator.tag, b"LO", instance.raw(creator))
    modified = encode_item(encoding, b"".join(data for _, data in sorted(kept.items())))
    result = encode_element(encoding, MODIFIED_ATTRIBUTES, b"SQ", modified)
    if nonconforming:
        result += encode_element(encoding, NONCONFORMING, b"SQ", b"".join(nonconforming))
    return result


def _is_large(texts: Texts, value: Value) -> bool:
    """Whether the sequence around it is too large to be kept a second time."""
    sequence = texts.sequences[value.found.way[0].sequence].element
    return sequence.end - sequence.start > LARGEST_KEPT


def _nonconforming(instance: Instance, texts: Texts, value: Value, encoding: Encoding) -> bytes:
    """A value by its place (Selector Attribute Macro) and its bytes."""

    def tags(*numbers: int) -> bytes:
        return b"".join(struct.pack(encoding.order + "HH", tag >> 16, tag & 0xFFFF) for tag in numbers)

    way = value.found.way
    place = [encode_element(encoding, 0x00720026, b"AT", tags(value.element.tag))]
    if way:
        pointer = tags(*(texts.sequences[step.sequence].element.tag for step in way))
        place.append(encode_element(encoding, 0x00720052, b"AT", pointer))
    if creator := _creator(texts, way[-1].item if way else 0, value.element.tag):
        place.append(encode_element(encoding, 0x00720056, b"LO", instance.raw(creator)))
    if way:
        place.append(encode_element(encoding, 0x00741057, b"IS", text("\\".join(str(step.number) for step in way))))
    raw = value.raw + b"\0" * (len(value.raw) % 2)
    return b"".join((*place, encode_element(encoding, 0x04000552, b"OB", raw)))


def _creator(texts: Texts, item: int, tag: int) -> Element | None:
    """The element that names the owner of a private one (PS3.5 7.8.1)."""
    return texts.creators.get(item, {}).get(tag & 0xFFFF0000 | (tag & 0xFF00) >> 8)
