"""Walks the elements of a DICOM data set in a file without reading their values (PS3.5 section 7).

It yields byte positions: what the importer changes is spliced in at them, everything else is passed on as it is.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from imaging_importer.reasons import RejectedError

UNDEFINED_LENGTH = 0xFFFFFFFF
ITEM = 0xFFFEE000
ITEM_DELIMITER = 0xFFFEE00D
SEQUENCE_DELIMITER = 0xFFFEE0DD
PIXEL_DATA = 0x7FE00010

# VRs with a reserved field and a 32-bit length (PS3.5 table 7.1-1).
LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})

# Deeper than any real data set; a file that nests further is an attack on the reader's stack.
MAX_DEPTH = 64


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a data set is written (PS3.5 section 10)."""

    explicit: bool
    little_endian: bool

    @property
    def order(self) -> str:
        """The byte order as the struct module writes it."""
        return "<" if self.little_endian else ">"


IMPLICIT_LITTLE = Encoding(explicit=False, little_endian=True)
EXPLICIT_LITTLE = Encoding(explicit=True, little_endian=True)
EXPLICIT_BIG = Encoding(explicit=True, little_endian=False)


class Element(NamedTuple):
    """Where one element stands. All positions are bytes from the start of the file."""

    tag: int
    vr: bytes  # empty in implicit VR
    start: int
    value: int  # where the value begins
    length: int  # as written; UNDEFINED_LENGTH for delimited sequences
    end: int  # where the next element begins


class Walker:
    """Walks the data set of a seekable file that ends at `size`."""

    def __init__(self, file: BinaryIO, size: int, encoding: Encoding) -> None:
        self._file = file
        self._size = size
        self._encoding = encoding
        self._tag = struct.Struct(encoding.order + "HH")
        self._short = struct.Struct(encoding.order + "H")
        self._long = struct.Struct(encoding.order + "L")

    def elements(self, position: int) -> Iterator[Element]:
        """The top-level elements from `position` to the end of the file.

        Raises RejectedError `truncated` or `damaged`.
        """
        while position < self._size:
            element = self._element(position, depth=0)
            if element is None:
                return
            yield element
            position = element.end

    def items(self, sequence: Element) -> Iterator[list[Element]]:
        """The items of a sequence, each as the list of its elements."""
        encoding = IMPLICIT_LITTLE if sequence.vr == b"UN" else self._encoding
        walker = self if encoding == self._encoding else Walker(self._file, self._size, encoding)
        position = sequence.value
        end = sequence.end if sequence.length != UNDEFINED_LENGTH else sequence.end - 8
        while position < end:
            tag, length = walker._item_header(position)
            if tag != ITEM:
                raise RejectedError("damaged", f"an item was expected at byte {position}")
            position += 8
            stop = walker._end_of_item(position, length, depth=1)
            inside = stop if length != UNDEFINED_LENGTH else stop - 8
            elements = []
            while position < inside:
                element = walker._element(position, depth=1)
                if element is None:
                    break
                elements.append(element)
                position = element.end
            yield elements
            position = stop

    def _read(self, position: int, count: int) -> bytes:
        self._file.seek(position)
        data = self._file.read(count)
        if len(data) < count:
            raise RejectedError("truncated", f"the file ends at byte {self._size}")
        return data

    def _element(self, position: int, depth: int) -> Element | None:
        if self._size - position < 8:
            # Some writers pad the file with a few zero bytes; anything else is an element that broke off.
            if not self._read(position, self._size - position).strip(b"\0"):
                return None
            raise RejectedError("truncated", f"the file ends at byte {self._size}")
        header = self._read(position, 8)
        group, number = self._tag.unpack_from(header)
        tag = group << 16 | number
        vr = b""
        value = position + 8
        if not self._encoding.explicit or group == 0xFFFE:
            (length,) = self._long.unpack_from(header, 4)
        else:
            vr = header[4:6]
            if vr in LONG_VRS:
                (length,) = self._long.unpack(self._read(value, 4))
                value += 4
            elif vr.isalpha() and vr.isupper():
                (length,) = self._short.unpack_from(header, 6)
            elif depth == 0 and not tag and not header.strip(b"\0"):
                self._refuse_unless_padding(position)
                return None
            else:
                raise RejectedError("damaged", f"no value representation at byte {position}")
        if length == UNDEFINED_LENGTH:
            inner = self if vr != b"UN" else Walker(self._file, self._size, IMPLICIT_LITTLE)
            end = inner._end_of_sequence(value, depth + 1)
        else:
            end = value + length
            if end > self._size:
                raise RejectedError(
                    "truncated", f"element ({group:04X},{number:04X}) needs {end} bytes, the file has {self._size}"
                )
        if group == 0xFFFE and depth == 0:
            raise RejectedError("damaged", f"a delimiter stands outside any sequence at byte {position}")
        return Element(tag, vr, position, value, length, end)

    def _refuse_unless_padding(self, position: int) -> None:
        """Zero bytes up to the end of the file are padding; zeros before something else are damage."""
        self._file.seek(position)
        while chunk := self._file.read(1 << 16):
            if chunk.strip(b"\0"):
                raise RejectedError("damaged", f"no element at byte {position}")

    def _item_header(self, position: int) -> tuple[int, int]:
        header = self._read(position, 8)
        group, number = self._tag.unpack_from(header)
        return group << 16 | number, self._long.unpack_from(header, 4)[0]

    def _end_of_sequence(self, position: int, depth: int) -> int:
        """The byte after the delimiter of a sequence (or of encapsulated pixel data) of undefined length."""
        if depth > MAX_DEPTH:
            raise RejectedError("damaged", f"sequences are nested deeper than {MAX_DEPTH}")
        while True:
            tag, length = self._item_header(position)
            position += 8
            if tag == SEQUENCE_DELIMITER:
                return position
            if tag != ITEM:
                raise RejectedError("damaged", f"an item was expected at byte {position - 8}")
            position = self._end_of_item(position, length, depth)

    def _end_of_item(self, position: int, length: int, depth: int) -> int:
        if length != UNDEFINED_LENGTH:
            if position + length > self._size:
                raise RejectedError("truncated", f"the file ends at byte {self._size}")
            return position + length
        while True:
            tag, _ = self._item_header(position)
            if tag == ITEM_DELIMITER:
                return position + 8
            element = self._element(position, depth)
            if element is None:
                raise RejectedError("truncated", f"the file ends at byte {self._size}")
            position = element.end


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
