"""Has the text of a data set say what it is: where it is not plain ASCII, and its character set is missing, untrue or
one that Orthanc shows otherwise, it becomes UTF-8 (ISO_IR 192), which every reader reads alike.

What it was before is kept byte for byte in an item of Original Attributes Sequence, as PS3.3 C.12.1.1.9 asks: elements
that conform under their own Specific Character Set as they stood (sequences whole), others by their place and bytes.
A text that needs nothing stays as it is, and so does everything that is no text.
"""

import re
import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from imaging_importer.charsets import PADDING, Charset, Reader, Text, declared
from imaging_importer.elements import (
    IMPLICIT_LITTLE,
    LONG_VRS,
    PIXEL_DATA,
    SPOKEN_VRS,
    UNDEFINED_LENGTH,
    Element,
    Encoding,
    Item,
    encode_element,
    encode_item,
    is_odd,
    known_vr,
    text,
)
from imaging_importer.instance import PATIENT_ID, SPECIFIC_CHARACTER_SET, Instance
from imaging_importer.reasons import RejectedError

INSTITUTION_NAME = 0x00080080
PATIENT_NAME = 0x00100010
MODIFIED_ATTRIBUTES = 0x04000550
NONCONFORMING = 0x04000551
UTF8 = b"ISO_IR 192"
DEFINED_TERMS = re.compile(rb"|ISO_IR [0-9]+|GB18030|GBK|(ISO 2022 IR [0-9]+)?(\\ISO 2022 IR [0-9]+)*")

# More than 256 bytes of UTF-8 Orthanc does not store as a PatientID (tried); DICOM's own limit is 64 characters.
LONGEST_PATIENT_ID = 256
LONGEST_SHORT = 0xFFFE

NOTE = "text-corrected"


@dataclass(frozen=True)
class Edit:
    """Replace `removed` bytes at `position` by `data`; it belongs to this top-level element."""

    position: int
    removed: int
    data: bytes
    tag: int


class Step(NamedTuple):
    """On the way from the top level to a nested value: an item of a sequence."""

    sequence: Element
    outside: Encoding  # of the sequence
    number: int  # of the item; the first is 1
    item: Item
    inside: Encoding


@dataclass(eq=False, frozen=True, slots=True)
class Value:
    """A value that may have to be written otherwise."""

    element: Element
    vr: bytes
    raw: bytes
    terms: bytes  # the Specific Character Set that it stands under
    way: tuple[Step, ...]

    @property
    def charset(self) -> Charset:
        """What its Specific Character Set means."""
        return declared(self.terms)

    @property
    def top(self) -> Element:
        """The top-level element that it is, or is in."""
        return self.way[0].sequence if self.way else self.element

    @property
    def is_odd(self) -> bool:
        """Whether it can be read in more than one way. Behind a zero byte in a PatientID Orthanc reads no further."""
        return self.vr != b"CS" and (
            is_odd(self.raw) or (self.element.tag == PATIENT_ID and b"\0" in self.raw.strip(PADDING))
        )


@dataclass
class Correction:
    """What becomes of the text of one instance."""

    is_converted: bool  # to UTF-8
    edits: list[Edit] = field(default_factory=list)
    grown: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))  # top-level sequences, by so much
    before: list[tuple[Value, bool]] = field(default_factory=list)  # what is changed, and whether it conformed
    institution: bytes | None = None  # InstitutionName as it is now

    @property
    def tags(self) -> set[int]:
        """The top-level elements that are changed."""
        return {edit.tag for edit in self.edits}


def correct(instance: Instance, own: str) -> Correction | None:
    """Find out who the patient is, and what text has to be written otherwise; None: nothing.

    `own` is the character set that the clinic is known to write where none is named, or an untrue one. The rest is up
    to the file alone. Raises RejectedError for a PatientID that Orthanc has no room for.
    """
    patient = instance.find(PATIENT_ID)
    raw = instance.raw(patient) if patient else b""
    plain = raw.strip(PADDING)
    # Padding says nothing (PS3.5 6.2), but Orthanc takes leading blanks for a part of the PatientID; in UN, all of it.
    is_padded = bool(plain) and (raw[0] in PADDING or (patient is not None and patient.vr == b"UN"))
    correction = None
    if instance.has_odd_text or is_padded or is_odd(plain) or b"\0" in plain:
        correction = _corrected(instance, own, is_padded)
    else:
        instance.patient_id = plain.decode("ascii")
    if (size := len((instance.patient_id or "").encode())) > LONGEST_PATIENT_ID:
        raise RejectedError("damaged", f"its PatientID has {size} bytes; the archive has room for {LONGEST_PATIENT_ID}")
    return correction


def _corrected(instance: Instance, own: str, is_padded: bool) -> Correction | None:
    values = list(_values(instance))
    patient = next((value for value in values if value.element.tag == PATIENT_ID and not value.way), None)
    odd = [value for value in values if value.is_odd]
    reader = Reader(
        [(value.raw, value.charset) for value in odd],
        [(value.raw, value.charset) for value in odd if value.element.tag in (PATIENT_NAME, PATIENT_ID)],
        own,
    )
    read = [(value, reader.read(value.raw, value.charset)) for value in odd]
    plain = Text(patient.raw.strip(PADDING).decode("ascii", "replace") if patient else "", "", exact=True)
    who = next((text for value, text in read if value is patient), plain)
    instance.patient_id = who.text.strip(" ")
    is_right = all(text.exact and value.charset.is_right and b"\x1b" not in value.raw for value, text in read) and not (
        is_padded and who is not plain
    )
    if is_right and not is_padded:
        return None
    told = ["the PatientID is written plainly"] if is_padded and who is plain and patient else []
    correction = Correction(is_converted=not is_right)
    lengths = _Lengths(instance)
    terms = instance.value(SPECIFIC_CHARACTER_SET)
    if is_padded and who is plain and patient:
        _rewrite(instance, correction, lengths, patient, instance.patient_id, True)
    if not is_right:
        for value, text in read:
            conforms = text.exact and _conforms(value.terms) and _conforms(terms)
            _rewrite(
                instance, correction, lengths, value, instance.patient_id if value is patient else text.text, conforms
            )
        for value in values:
            if value.element.tag == SPECIFIC_CHARACTER_SET and value.raw.strip(PADDING) != UTF8:
                _rewrite(instance, correction, lengths, value, UTF8.decode(), _conforms(value.raw))
        if not instance.find(SPECIFIC_CHARACTER_SET):
            place = next(element.start for element in instance.elements if element.tag > SPECIFIC_CHARACTER_SET)
            added = encode_element(instance.encoding, SPECIFIC_CHARACTER_SET, b"CS", UTF8)
            correction.edits.append(Edit(place, 0, added, SPECIFIC_CHARACTER_SET))
        told += sorted({f"read as {text.name}" for _, text in read if text.name})
        if not all(text.name for _, text in read):
            told.append("bytes that mean nothing in any likely character set are marked")
    correction.edits += lengths.edits()
    instance.notes[NOTE] = ", ".join(told)
    return correction


def _conforms(terms: bytes) -> bool:
    return bool(DEFINED_TERMS.fullmatch(terms.strip(PADDING)))


def _values(instance: Instance) -> Iterator[Value]:
    """Every text of a data set, and every Specific Character Set."""
    yield from _values_of(instance, instance.elements, instance.encoding, b"", ())


def _values_of(
    instance: Instance, elements: list[Element], encoding: Encoding, terms: bytes, way: tuple[Step, ...]
) -> Iterator[Value]:
    """Those of one data set or item; an item may have a Specific Character Set of its own."""
    own = next((element for element in elements if element.tag == SPECIFIC_CHARACTER_SET), None)
    if own is not None:
        if way and way[-1].sequence.tag == MODIFIED_ATTRIBUTES:
            return  # what once was, with its own name of how it is written
        terms = instance.raw(own)
        yield Value(own, b"CS", terms, terms, way)
    for element in elements:
        vr = element.vr or known_vr(element.tag)
        if element.tag == PATIENT_ID and not way:
            yield Value(element, vr if vr in SPOKEN_VRS else b"LO", instance.raw(element), terms, way)
        elif vr in SPOKEN_VRS:
            yield Value(element, vr, instance.walker.read(element.value, element.end), terms, way)
        elif element.tag != PIXEL_DATA and (vr == b"SQ" or element.length == UNDEFINED_LENGTH):
            inside = IMPLICIT_LITTLE if element.vr == b"UN" else encoding
            for number, item in enumerate(instance.walker.items(element), 1):
                step = Step(element, encoding, number, item, inside)
                yield from _values_of(instance, item.elements, inside, terms, (*way, step))


def _rewrite(
    instance: Instance, correction: Correction, lengths: "_Lengths", value: Value, new: str, conforms: bool
) -> None:
    """Write a value anew, in UTF-8."""
    data = new.encode()
    data += b" " * (len(data) % 2)
    element, encoding = value.element, value.way[-1].inside if value.way else instance.encoding
    # What UTF-8 makes too long for a length of 16 bits stays whole, and text.
    vr = value.vr if value.vr in LONG_VRS or len(data) <= LONGEST_SHORT else b"UT"
    written = encode_element(encoding, element.tag, vr, data)
    correction.edits.append(Edit(element.start, element.end - element.start, written, value.top.tag))
    correction.before.append((value, conforms))
    grown = len(written) - (element.end - element.start)
    if value.way:
        correction.grown[value.top.tag] += grown
        lengths.grow(value, grown)
    elif element.tag == INSTITUTION_NAME:
        correction.institution = data


class _Lengths:
    """The lengths that are written in front of what a nested value is in, below the top-level sequence itself."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._grown: defaultdict[tuple[int, str, int], int] = defaultdict(int)  # by position, byte order, tag

    def grow(self, value: Value, by: int) -> None:
        """A value is so many bytes longer."""
        tag = value.top.tag
        children = [*(step.sequence for step in value.way[1:]), value.element]
        for step, child in zip(value.way, children, strict=True):
            order = step.inside.order
            self._grown[step.item.start + 4, order, tag] += by
            if child is not value.element and child.length != UNDEFINED_LENGTH:
                self._grown[child.value - 4, order, tag] += by
            for element in step.item.elements:
                if element.tag == child.tag & 0xFFFF0000 and element.length == 4:
                    self._grown[element.value, order, tag] += by

    def edits(self) -> list[Edit]:
        """The lengths as they have to be."""
        edits = []
        for (position, order, tag), grown in self._grown.items():
            (old,) = struct.unpack(order + "L", self._instance.walker.read(position, position + 4))
            if old != UNDEFINED_LENGTH and grown:
                edits.append(Edit(position, 4, struct.pack(order + "L", (old + grown) % (1 << 32)), tag))
        return edits


def originals(instance: Instance, correction: Correction, encoding: Encoding) -> bytes:
    """What was there before, in the encoding of an item of Original Attributes Sequence (PS3.3 C.12.1.1.9)."""
    kept: dict[int, bytes] = {}
    nonconforming = []
    if correction.is_converted:
        kept[SPECIFIC_CHARACTER_SET] = encode_element(encoding, SPECIFIC_CHARACTER_SET, b"CS", b"")
    loose = {value.top.tag for value, conforms in correction.before if not conforms}
    loose |= {value.top.tag for value, _ in correction.before if encoding != instance.encoding and value.way}
    for value, _ in correction.before:
        tag = value.top.tag
        if tag in loose:
            nonconforming.append(encode_item(encoding, _nonconforming(instance, value, encoding)))
            if not value.way:
                kept[tag] = encode_element(encoding, tag, value.vr, b"")
        elif value.way:
            kept[tag] = instance.walker.read(value.top.start, value.top.end)
        else:
            kept[tag] = encode_element(encoding, tag, value.element.vr or value.vr, value.raw)
        if creator := _creator(instance, tag):
            kept[creator.tag] = encode_element(encoding, creator.tag, b"LO", instance.raw(creator))
    modified = encode_item(encoding, b"".join(data for _, data in sorted(kept.items())))
    result = encode_element(encoding, MODIFIED_ATTRIBUTES, b"SQ", modified)
    if nonconforming:
        result += encode_element(encoding, NONCONFORMING, b"SQ", b"".join(nonconforming))
    return result


def _nonconforming(instance: Instance, value: Value, encoding: Encoding) -> bytes:
    """A value by its place (Selector Attribute Macro) and its bytes."""

    def tags(*numbers: int) -> bytes:
        return b"".join(struct.pack(encoding.order + "HH", tag >> 16, tag & 0xFFFF) for tag in numbers)

    place = [encode_element(encoding, 0x00720026, b"AT", tags(value.element.tag))]
    if value.way:
        place.append(encode_element(encoding, 0x00720052, b"AT", tags(*(step.sequence.tag for step in value.way))))
    elements = value.way[-1].item.elements if value.way else instance.elements
    if creator := _creator(instance, value.element.tag, elements):
        place.append(encode_element(encoding, 0x00720056, b"LO", instance.raw(creator)))
    if value.way:
        numbers = text("\\".join(str(step.number) for step in value.way))
        place.append(encode_element(encoding, 0x00741057, b"IS", numbers))
    raw = value.raw + b"\0" * (len(value.raw) % 2)
    return b"".join((*place, encode_element(encoding, 0x04000552, b"OB", raw)))


def _creator(instance: Instance, tag: int, elements: list[Element] | None = None) -> Element | None:
    """The element that says whose a private one is (PS3.5 7.8.1)."""
    if not tag >> 16 & 1 or not tag & 0xFF00:
        return None
    creator = tag & 0xFFFF0000 | (tag & 0xFF00) >> 8
    return next((element for element in elements or instance.elements if element.tag == creator), None)
