"""Walks a DICOM data set in a file to its last byte without reading values (PS3.5 section 7).

It yields byte positions. The importer's changes are inserted at these; everything else is passed on as it is.

Orthanc reads the same bytes with another parser (DCMTK), and acts on what it reads. So this walker accepts only bytes
with one reading. An element that parsers may take for longer or shorter is refused, wherever it is. For that reason it
also enters sequences of defined length, although it could step over them.
"""

import mmap
import struct
from array import array
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO, NamedTuple

from pydicom.datadict import dictionary_VR

from imaging_importer.reasons import RejectedError

UNDEFINED_LENGTH = 0xFFFFFFFF
ITEM = 0xFFFEE000
ITEM_DELIMITER = 0xFFFEE00D
PIXEL_DATA = 0x7FE00010
SPECIFIC_CHARACTER_SET = 0x00080005

# All VRs (PS3.5 table 6.2-1), by the width of their length (tables 7.1-1 and 7.1-2). For any other VR, parsers guess
# the width, and they differ.
LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
SHORT_VRS = frozenset({
    b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS",
    b"ST", b"TM", b"UI", b"UL", b"US",
})  # fmt: skip
VRS = LONG_VRS | SHORT_VRS
# The VRs whose values are in the character set that the data set names (PS3.5 6.1.2.3).
SPOKEN_VRS = frozenset({b"LO", b"LT", b"PN", b"SH", b"ST", b"UC", b"UT"})

# Orthanc stops at 50 sequences in each other, and not at 40. Real images have only a few.
MAX_DEPTH = 32
# Elements, items and fragments in one file, and elements of one data set or item. A large RT Structure Set has some
# hundred thousand; a million takes DCMTK 250 MB and this walker a second.
MOST_NODES = 1_000_000
# Elements of an unknown VR in one file. Both readings of each are walked to the end of the file.
MOST_UNKNOWN = 16
# Nothing may be guessed about these: the identifiers, the character set, and the elements that show the pixels.
NEVER_GUESSED = frozenset({
    0x00080005, 0x00080016, 0x00080018, 0x00100010, 0x00100020, 0x0020000D, 0x0020000E, 0x00280002, 0x00280004,
    0x00280008, 0x00280010, 0x00280011, 0x00280100, 0x00280101, 0x00280102, 0x00280103,
})  # fmt: skip
MOST_ELEMENTS = 1 << 16
# Texts beyond ASCII and names of their character sets in one file, and the bytes of the texts. Each is decoded, and may
# have to be written again. Then a byte becomes five at most.
MOST_TEXTS = 50_000
LARGEST_TEXTS = 2 << 20
CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class Encoding:
    """The encoding of a data set (PS3.5 section 10)."""

    explicit: bool
    little_endian: bool

    @property
    def order(self) -> str:
        """The byte order in the notation of the struct module."""
        return "<" if self.little_endian else ">"


IMPLICIT_LITTLE = Encoding(explicit=False, little_endian=True)
EXPLICIT_LITTLE = Encoding(explicit=True, little_endian=True)
EXPLICIT_BIG = Encoding(explicit=True, little_endian=False)


class UnknownVRError(RejectedError):
    """An element has a VR that DICOM does not know. Its length differs from parser to parser."""

    def __init__(self, tag: int, position: int, vr: bytes, reason: str = "damaged", why: str = "") -> None:
        found = f"element {name(tag)} at byte {position} has the value representation '{shown(vr)}'"
        super().__init__(reason, f"{found}, which DICOM does not know{why}")
        self.position = position


class Element(NamedTuple):
    """The place of one element. All positions are bytes from the start of the file."""

    tag: int
    vr: bytes  # empty in implicit VR; UN for a VR that DICOM does not know
    start: int
    value: int  # where the value begins
    length: int  # as written; UNDEFINED_LENGTH for delimited sequences
    end: int  # where the next element begins


class Item(NamedTuple):
    """The place of one item of a sequence, and its elements."""

    start: int
    end: int
    elements: list[Element]


class Walker:
    """Walks the data set of a file that ends at `size`. It is mapped, so nobody else may be able to shorten it."""

    def __init__(self, file: BinaryIO, size: int, encoding: Encoding) -> None:
        self._size = size
        self._bytes = mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ)
        self._odd: list[int] = []
        self._encoding = encoding
        self._reader = _Reader(self._bytes, size, encoding, [MOST_NODES], self._odd)

    @property
    def has_odd_text(self) -> bool:
        """Whether any text that it met, at any depth, is more than ASCII."""
        return bool(self._odd)

    def data_set(self, position: int) -> tuple[list[Element], int]:
        """The top-level elements from `position` on, and the end of the last one. Zero bytes may follow.

        Raises RejectedError `truncated` or `damaged`.
        """
        elements: list[Element] = []
        return elements, self._reader.data_set(position, self._size, 0, False, elements)

    def one(self, position: int) -> Element:
        """The element at `position`."""
        return self._reader.element(position, self._size, 0)

    def items(self, sequence: Element) -> Iterator[Item]:
        """The items of a sequence."""
        return self._reader.items(sequence)

    def texts(self, position: int, always: int) -> "Texts":
        """Every text from `position` on that is more than ASCII, at any depth, and the top-level element `always`."""
        texts = Texts(always)
        _Finder(self._bytes, self._size, self._encoding, [MOST_NODES], [position], texts).data_set(
            position, self._size, 0, False
        )
        return texts

    def close(self) -> None:
        """Release the file."""
        self._bytes.close()

    def read(self, start: int, end: int) -> bytes:
        """The bytes from `start` to `end`."""
        return self._bytes[start:end]


class _Reader:
    """Reads one encoding. Sequences may use another one (UN), so readers share bytes and budget."""

    def __init__(self, data: mmap.mmap, size: int, encoding: Encoding, left: list[int], odd: list[int]) -> None:
        self._data = data
        self._size = size
        self._encoding = encoding
        self._explicit = encoding.explicit
        self._tag = struct.Struct(encoding.order + "HH").unpack_from
        self._short = struct.Struct(encoding.order + "H").unpack_from
        self._long = struct.Struct(encoding.order + "L").unpack_from
        self._left = left  # the number of nodes that may still come
        self._odd = odd  # position of the first text that is more than ASCII
        self._tried = 0
        self._unknown: dict[int, Element | tuple[str, str]] = {}  # position -> how an element of an unknown VR is read
        # A sequence in UN is implicit VR little endian inside, whatever is around it (PS3.5 6.2.2). This is not `self`:
        # an object that refers to itself keeps the file open until the garbage collector runs.
        self._implicit = _Reader(data, size, IMPLICIT_LITTLE, left, odd) if encoding.explicit else None

    def data_set(self, position: int, end: int, depth: int, delimited: bool, found: list[Element] | None = None) -> int:
        """Walk a data set (depth 0) or the content of an item; return its end."""
        tags = array("I")
        previous, ascending = -1, True
        while delimited or position < end:
            if depth == 0 and self._is_padding(position):
                break
            if position + 8 > end:
                self._refuse_remains(position, depth, previous)
                raise self._broken_off(position, end)
            group, number = self._tag(self._data, position)
            tag = group << 16 | number
            if group == 0xFFFE and delimited and tag == ITEM_DELIMITER:
                self._refuse_length(position)
                position += 8
                break
            if group in (0xFFFE, 0, 2):
                raise RejectedError("damaged", f"{name(tag)} at byte {position} has no business there")
            try:
                element = self.element(position, end, depth)
            except UnknownVRError as error:
                if depth or error.position != position:
                    raise
                element = self._only_reading(position, end)
            except RejectedError as error:
                if error.reason == "truncated":
                    self._refuse_remains(position, depth, previous)
                raise
            if tag <= previous:
                ascending = False
            previous = tag
            tags.append(tag)
            if len(tags) > MOST_ELEMENTS:
                raise RejectedError("damaged", f"more than {MOST_ELEMENTS:,} elements in one data set or item")
            if found is not None:
                found.append(element)
            position = element.end
        if not ascending:
            _refuse_twice(tags)
        return position

    def element(self, position: int, end: int, depth: int) -> Element:
        """One element with its content. `end` is the end of the data set or item around it."""
        if position + 8 > end:
            raise self._broken_off(position, end)
        self._count()
        data = self._data
        group, number = self._tag(data, position)
        tag = group << 16 | number
        value = position + 8
        vr = b""
        if self._explicit:
            vr = data[position + 4 : position + 6]
            if vr in SHORT_VRS:
                (length,) = self._short(data, position + 6)
            elif vr in LONG_VRS:
                value += 4
                if value > end:
                    raise self._broken_off(position, end)
                (length,) = self._long(data, position + 8)
            else:
                raise UnknownVRError(tag, position, vr)
        else:
            (length,) = self._long(data, position + 4)
        if length == UNDEFINED_LENGTH:
            stop = self._undefined(tag, vr, position, value, end, depth)
        else:
            stop = value + length
            if stop > end:
                raise self._broken_off(position, end, tag, stop)
            if vr == b"SQ" or (not vr and self._may_be_sequence(tag, value)):
                self.sequence(value, stop, depth + 1, False)
            elif length % 4 and (vr or known_vr(tag)) == b"AT":
                # Orthanc reads it, does not store it, and does not give this as the reason (tried).
                raise RejectedError("damaged", f"{name(tag)} at byte {position} has {length} bytes, a tag has four")
            elif not self._odd and (vr or known_vr(tag)) in SPOKEN_VRS and self._is_odd(value, stop):
                self._odd.append(position)
        return Element(tag, vr, position, value, length, stop)

    def _only_reading(self, position: int, end: int) -> Element:
        """An element of an unknown VR, if only one of the two possible widths of its length leads to the end.

        It is written again, so that the next parser has no choice. Each position is decided once, on whichever way it
        is reached, and decides for everything after it. So the work is bounded.
        """
        if position not in self._unknown:
            self._tried += 1
            if self._tried > MOST_UNKNOWN:
                raise RejectedError("unknown-vr", f"there are more than {MOST_UNKNOWN} elements of such a kind")
            group, number = self._tag(self._data, position)
            tag = group << 16 | number
            readings = self._readings(tag, position, end)
            ways = [reading for reading in readings if self._leads_to_the_end(reading.end, end)]
            if not ways:  # if bytes are missing or changed, other bytes are in the place of a VR
                self._unknown[position] = ("damaged", "")
            elif len(ways) == 2:
                why = ", and can be read in two ways"
                self._unknown[position] = ("unknown-vr", why)
            elif tag in NEVER_GUESSED or group == PIXEL_DATA >> 16:
                self._unknown[position] = ("unknown-vr", ", and must not be guessed")
            else:
                self._unknown[position] = ways[0]
        known = self._unknown[position]
        if isinstance(known, Element):
            return known
        group, number = self._tag(self._data, position)
        raise UnknownVRError(group << 16 | number, position, self._data[position + 4 : position + 6], *known)

    def _readings(self, tag: int, position: int, end: int) -> list[Element]:
        """The element with a length of 16 bits, and with one of 32 bits behind two reserved bytes."""
        found = [(position + 8, self._short(self._data, position + 6)[0])]
        if position + 12 <= end:
            found.append((position + 12, self._long(self._data, position + 8)[0]))
        return [
            Element(tag, b"UN", position, value, length, value + length)
            for value, length in found
            if value + length <= end
        ]

    def _leads_to_the_end(self, position: int, end: int) -> bool:
        """Whether the rest can be read, in any number of ways."""
        try:
            self.data_set(position, end, 0, False)
        except UnknownVRError as error:
            return error.reason == "unknown-vr"
        except RejectedError:
            if self._tried > MOST_UNKNOWN or self._left[0] < 0:
                raise
            return False
        return True

    def _undefined(self, tag: int, vr: bytes, position: int, value: int, end: int, depth: int) -> int:
        """The end of an element of undefined length: a sequence, or pixel data in fragments (PS3.5 7.1, A.4)."""
        if tag == PIXEL_DATA and vr in (b"OB", b"OW", b""):
            return self.sequence(value, end, depth + 1, True, fragments=True)
        if vr == b"UN":
            return (self._implicit or self).sequence(value, end, depth + 1, True)
        if vr == b"SQ" or (not vr and _dictionary_vr(tag) in ("SQ", "UN")):
            return self.sequence(value, end, depth + 1, True)
        kind = vr.decode() or _dictionary_vr(tag)
        raise RejectedError(
            "damaged",
            f"element {name(tag)} at byte {position} has no length, which only a sequence may lack, not {kind}",
        )

    def _may_be_sequence(self, tag: int, value: int) -> bool:
        """Whether some parser may take a value in implicit VR for a sequence.

        The tag decides for parsers that know the tag. For others, private ones above all, it depends on the dictionary
        of the parser. So a value that begins like a sequence has to be one.
        """
        kind = _dictionary_vr(tag)
        if kind != "UN":
            return kind == "SQ"
        return self._data[value : value + 4] in (b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0", b"\xfe\xff\xdd\xe0")

    def sequence(self, position: int, end: int, depth: int, delimited: bool, fragments: bool = False) -> int:
        """Walk the items of a sequence, or the fragments of pixel data; return the end."""
        if depth > MAX_DEPTH:
            raise RejectedError("damaged", f"sequences are nested deeper than {MAX_DEPTH} levels")
        while delimited or position < end:
            if delimited and self._is_delimiter(position, end):
                return position + 8
            position = self._item(position, end, depth, fragments)
        return position

    def items(self, sequence: Element) -> Iterator[Item]:
        """The items of a sequence."""
        delimited = sequence.length == UNDEFINED_LENGTH
        reader = (sequence.vr == b"UN" and self._implicit) or self
        position, end = sequence.value, sequence.end - 8 if delimited else sequence.end
        while position < end:
            elements: list[Element] = []
            start, position = position, reader._item(position, end, 1, False, elements)
            yield Item(start, position, elements)

    def _is_delimiter(self, position: int, end: int) -> bool:
        if position + 8 > end:
            raise self._broken_off(position, end)
        if self._tag(self._data, position) != (0xFFFE, 0xE0DD):
            return False
        self._refuse_length(position)
        return True

    def _item(self, position: int, end: int, depth: int, fragments: bool, elements: list[Element] | None = None) -> int:
        """Walk one item; return its end."""
        if position + 8 > end:
            raise self._broken_off(position, end)
        group, number = self._tag(self._data, position)
        if (tag := group << 16 | number) != ITEM:
            raise RejectedError("damaged", f"an item was expected at byte {position}, not {name(tag)}")
        self._count()
        (length,) = self._long(self._data, position + 4)
        value = position + 8
        if length == UNDEFINED_LENGTH and not fragments:
            return self.data_set(value, end, depth, True, elements)
        if value + length > end:
            raise self._broken_off(position, end, tag, value + length)
        return value + length if fragments else self.data_set(value, value + length, depth, False, elements)

    def _is_odd(self, value: int, stop: int) -> bool:
        if stop - value <= CHUNK:
            return is_odd(self._data[value:stop])
        return any(is_odd(self._data[at : min(stop, at + CHUNK)]) for at in range(value, stop, CHUNK))

    def _count(self) -> None:
        self._left[0] -= 1
        if self._left[0] < 0:
            raise RejectedError("damaged", f"the file has more than {MOST_NODES:,} elements and items")

    def _refuse_length(self, position: int) -> None:
        if self._long(self._data, position + 4)[0]:
            raise RejectedError("damaged", f"the delimiter at byte {position} has a length")

    def _is_padding(self, position: int) -> bool:
        """Whether zero bytes fill the rest of the file. Some writers add a few, or a block."""
        if self._data[position : position + 4].strip(b"\0"):
            return False
        return all(
            not self._data[start : start + (1 << 16)].strip(b"\0") for start in range(position, self._size, 1 << 16)
        )

    def _refuse_remains(self, position: int, depth: int, previous: int) -> None:
        """Refuse unreadable bytes after the pixels: no smaller tags come there, so no element has broken off."""
        rest = self._data[position : position + 2]
        if depth == 0 and previous == PIXEL_DATA and (len(rest) < 2 or self._tag(rest + b"\0\0")[0] < PIXEL_DATA >> 16):
            raise RejectedError("damaged", f"what follows the pixels from byte {position} on is no DICOM")

    def _broken_off(self, position: int, end: int, tag: int | None = None, needed: int = 0) -> RejectedError:
        """The error that the file ends too early, or only the data set around the element."""
        what = (
            f"{name(tag)} at byte {position} needs {needed} bytes"
            if tag is not None
            else f"an element at byte {position}"
        )
        if end >= self._size:
            return RejectedError("truncated", f"{what}, the file has {self._size}")
        return RejectedError("damaged", f"{what}, what it stands in ends at byte {end}")


class Step(NamedTuple):
    """A step from the top level to a nested element: the sequence that begins there, and its item."""

    sequence: int
    number: int  # the first is 1
    item: int


class Found(NamedTuple):
    """A text, and its place."""

    element: Element
    encoding: Encoding
    way: tuple[Step, ...]


class Texts:
    """The texts of a data set that are more than ASCII, and the facts that are needed to write them again.

    Items are identified by the position where they begin; the top level is item 0.
    """

    def __init__(self, always: int) -> None:
        self.always = always  # the tag of a text at top level that is always found
        self.found: list[Found] = []
        self.size = 0
        self.charsets: dict[int, Found] = {}  # by item
        self.sequences: dict[int, Found] = {}  # sequences that have any of the texts, by the position where they begin
        # Facts about the items that have any of the texts, and about the items that are being read:
        self.encodings: dict[int, Encoding] = {}
        self.group_lengths: defaultdict[int, dict[int, int]] = defaultdict(dict)  # positions, by group
        self.creators: defaultdict[int, dict[int, Element]] = defaultdict(dict)  # of private elements, by tag
        self.open: list[tuple[list[int], int]] = []  # sequences that are being read

    @property
    def count(self) -> int:
        """The number of texts so far, names of character sets included."""
        return len(self.found) + len(self.charsets)

    def way(self) -> tuple[Step, ...]:
        """The way to the place that is being read."""
        return tuple(Step(*step) for step, _ in self.open)

    def forget(self, item: int) -> None:
        """Forget the facts about this item, because nothing in it is written again."""
        self.encodings.pop(item, None)
        self.group_lengths.pop(item, None)
        self.creators.pop(item, None)

    def refuse_too_many(self) -> None:
        """Raise RejectedError if there are more than anybody writes."""
        if self.count > MOST_TEXTS or self.size > LARGEST_TEXTS:
            raise RejectedError(
                "damaged", f"more than {MOST_TEXTS:,} texts, or {LARGEST_TEXTS >> 20} MiB of text, beyond ASCII"
            )


class _Finder(_Reader):
    """Finds texts in a data set that was walked before, and is therefore known to be sound."""

    def __init__(
        self, data: mmap.mmap, size: int, encoding: Encoding, left: list[int], odd: list[int], texts: Texts
    ) -> None:
        super().__init__(data, size, encoding, left, odd)
        self._texts = texts
        self._implicit = _Finder(data, size, IMPLICIT_LITTLE, left, odd, texts) if encoding.explicit else None

    def element(self, position: int, end: int, depth: int) -> Element:
        texts = self._texts
        texts.open.append(([position, 0, 0], texts.count))
        element = super().element(position, end, depth)
        _, before = texts.open.pop()
        item = texts.open[-1][0][2] if texts.open else 0
        tag = element.tag
        if texts.count > before:
            texts.sequences[position] = Found(element, self._encoding, texts.way())
        elif tag == SPECIFIC_CHARACTER_SET:
            texts.charsets[item] = Found(element, self._encoding, texts.way())
            texts.refuse_too_many()
        elif (not item and tag == texts.always) or (
            (element.vr or known_vr(tag)) in SPOKEN_VRS and self._is_odd(element.value, element.end)
        ):
            texts.found.append(Found(element, self._encoding, texts.way()))
            texts.size += element.end - element.value
            texts.refuse_too_many()
        elif not tag & 0xFFFF and element.length == 4:
            texts.group_lengths[item][tag >> 16] = element.value
        elif tag >> 16 & 1 and 0x10 <= tag & 0xFFFF <= 0xFF:
            texts.creators[item][tag] = element
        return element

    def _item(self, position: int, end: int, depth: int, fragments: bool, elements: list[Element] | None = None) -> int:
        texts = self._texts
        step, _ = texts.open[-1]
        step[1], step[2] = step[1] + 1, position
        texts.encodings[position] = self._encoding
        before = texts.count
        end = super()._item(position, end, depth, fragments, elements)
        if texts.count == before:
            texts.forget(position)
        return end


def _refuse_twice(tags: "array[int]") -> None:
    """Refuse two elements with one tag, because some parsers take the first, others the last.

    Otherwise order changes no reading, because DCMTK sorts the elements that it reads.
    """
    seen: set[int] = set()
    for tag in tags:
        if tag in seen:
            raise RejectedError("damaged", f"{name(tag)} stands twice in one data set or item")
        seen.add(tag)


@lru_cache(1 << 12)
def _dictionary_vr(tag: int) -> str:
    """The VR of a tag by the dictionary (PS3.6); UN for a tag that is not in it."""
    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN"


def known_vr(tag: int) -> bytes:
    """The VR of a tag by the dictionary, in the form of explicit VR."""
    return _dictionary_vr(tag).encode()


def is_odd(value: bytes) -> bool:
    """Whether a text is more than ASCII: then its meaning depends on its character set."""
    return not value.isascii() or b"\x1b" in value


def name(tag: int) -> str:
    """A tag as DICOM writes it."""
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def shown(value: bytes) -> str:
    """Bytes for people."""
    return "".join(chr(byte) if 32 <= byte < 127 else f"\\x{byte:02X}" for byte in value)


def encode_element(encoding: Encoding, tag: int, vr: bytes, value: bytes) -> bytes:
    """One element as bytes; the value must be of even length (PS3.5 7.1)."""
    order = encoding.order
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    if not encoding.explicit:
        return head + struct.pack(order + "L", len(value)) + value
    if vr in LONG_VRS:
        return head + vr + b"\0\0" + struct.pack(order + "L", len(value)) + value
    return head + vr + struct.pack(order + "H", len(value)) + value


def encode_item(encoding: Encoding, content: bytes) -> bytes:
    """One sequence item of explicit length (PS3.5 7.5.1)."""
    return struct.pack(encoding.order + "HHL", 0xFFFE, 0xE000, len(content)) + content


def text(value: str) -> bytes:
    """ASCII text padded to even length with a space (PS3.5 6.2)."""
    data = value.encode("ascii")
    return data + b" " * (len(data) % 2)
