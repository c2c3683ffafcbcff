"""Damaged, odd and malicious DICOM files from a seed: errors of real files, and files that a stranger would build.

Half of them are real files with bytes changed, half are built from elements, with lies at every place that a parser
believes: VRs, lengths, delimiters, order, nesting, encodings, file meta information, what follows the last element.
"""

from __future__ import annotations

import random
import struct
import zlib

SOP_CLASS = "1.2.840.10008.5.1.4.1.1.7"
IMPLICIT, EXPLICIT, BIG, DEFLATED = (
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.1.99",
)
JPEG = "1.2.840.10008.1.2.4.50"
# HTJ2K and a video over IP: DCMTK knows them late or never, and then guesses how the data set is written.
GUESSED = ("1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.7.1")
ENCAPSULATED = (JPEG, *GUESSED)
SYNTAXES = (IMPLICIT, EXPLICIT, EXPLICIT, EXPLICIT, BIG, DEFLATED, *ENCAPSULATED)
LIES = (
    "1.2.840.10008.1.2.9", "1.2.840.113619.5.2", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205", "1.2.3", "",
    " 1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1 ", "1.2.840.10008.1.2\\1.2.840.10008.1.2.1", IMPLICIT, BIG, EXPLICIT,
    IMPLICIT + " " * 120 + ".1", "\0" + EXPLICIT, EXPLICIT + "\0.9",
)  # fmt: skip
LONG = {"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"}
KNOWN = (
    "AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "PN", "SH", "SL", "SS", "ST", "TM", "UI",
    "UL", "US", *sorted(LONG),
)  # fmt: skip
UNKNOWN = ("ZZ", "??", "ox", "xs", "na", "up", "pi", "AA", "OX", "U?", "\0\0", "  ", "lo", "sq", "px", "\x18\0")
UNDEFINED = 0xFFFFFFFF
IDENTIFIERS = (0x00080016, 0x00080018, 0x00100020, 0x0020000D, 0x0020000E)
TAGS = (
    0x00080000, 0x00080005, 0x00080008, 0x00080060, 0x00080080, 0x00081140, 0x00090010, 0x00091001, 0x00100010,
    0x00180000, 0x0018A001, 0x00280010, 0x00290010, 0x00291010, 0x00400275, 0x0040A730, 0x04000561, 0x4FFE0001,
    0x52009229, 0x52009230, 0x60003000, 0x7FE00008, 0x7FE00010, 0xFFFCFFFC, 0x00020010, 0x00000000, 0x00030010,
    0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD, 0xFFFE0001, 0x00089999, 0x300A00B0, 0x00283010, 0x00880200, 0x00046105,
)  # fmt: skip
SEQUENCES = (
    0x00081140, 0x00400275, 0x0040A730, 0x52009229, 0x00091001, 0x00291010, 0x0018A001, 0x04000561, 0x00283010,
    0x00041220,
)  # fmt: skip
INTERESTING = (0, 1, 2, 7, 8, 0x7F, 0x80, 0xFF, 0xFFFF, 0xFFFE, UNDEFINED, 0xFFFFFFFE, 0x80000000, 0x7FFFFFFF)
TOKENS = (
    b"\xfe\xff\x00\xe0\xff\xff\xff\xff", b"\xfe\xff\x00\xe0\0\0\0\0",
    b"\xfe\xff\x0d\xe0\0\0\0\0", b"\xfe\xff\xdd\xe0\0\0\0\0",
    b"\x08\x00\x80\x00SQ\0\0\xff\xff\xff\xff", b"\x00\x04\x61\x05UN\0\0\xff\xff\xff\xff",
    b"\x18\x00\x01\xa0SQ\0\0\xff\xff\xff\x7f",
    b"\xfe\x4f\x01\x00SQ\0\0\0\0\0\0", b"\x20\x00\x0d\x00UI\x06\x001.2.9\0", b"\x10\x00\x20\x00LO\x02\x00VI", b"\0" * 8,
    b"\x20\x00\x0d\x00\x06\0\0\x001.2.9\0", b"\x09\x00\x01\x10ZZ\x04\x00\x40\0\0\0",
)  # fmt: skip


class Builder:
    """Builds one file. A lie is told at one place in `honesty`, so that most files are nearly right."""

    def __init__(self, random_: random.Random) -> None:
        self.random = random_
        self.honesty = random_.choice((10, 30, 80, 200))
        self.syntax = random_.choice(SYNTAXES)
        self.explicit = self.syntax != IMPLICIT
        self.order = ">" if self.syntax == BIG else "<"

    def lies(self) -> bool:
        return self.random.randrange(self.honesty) == 0

    def length(self, true: int) -> int:
        if not self.lies():
            return true
        near = true + self.random.choice((-8, -2, -1, 1, 2, 8, 12, 100))
        return max(0, self.random.choice((near, near, near, self.random.choice(INTERESTING))))

    def element(self, tag: int, vr: str, value: bytes, undefined: bool = False) -> bytes:
        if self.lies():
            vr = self.random.choice(UNKNOWN if self.lies() else KNOWN)
        if len(value) % 2 and not self.lies():
            value += b"\0" if vr in ("UI", "OB", "UN") else b" "
        length = UNDEFINED if undefined else self.length(len(value))
        head = struct.pack(self.order + "HH", tag >> 16, tag & 0xFFFF)
        explicit = self.explicit if not self.lies() else not self.explicit
        if not explicit:
            return head + struct.pack(self.order + "L", length % (1 << 32)) + value
        # Parsers differ in what they take an unknown VR for, so both are tried.
        if vr in LONG or (vr in UNKNOWN and self.random.randrange(2)):
            return head + vr.encode() + b"\0\0" + struct.pack(self.order + "L", length % (1 << 32)) + value
        return head + vr.encode() + struct.pack(self.order + "H", length % (1 << 16)) + value

    def delimiter(self, number: int) -> bytes:
        return struct.pack(self.order + "HHL", 0xFFFE, number, self.length(0) if self.lies() else 0)

    def item(self, depth: int) -> bytes:
        content = self.content(depth)
        if self.random.randrange(2):
            return struct.pack(self.order + "HHL", 0xFFFE, 0xE000, self.length(len(content)) % (1 << 32)) + content
        end = self.delimiter(0xE00D) if not self.lies() else self.random.choice((b"", self.delimiter(0xE0DD)))
        return struct.pack(self.order + "HHL", 0xFFFE, 0xE000, UNDEFINED) + content + end

    def sequence(self, tag: int, depth: int) -> bytes:
        as_un = self.random.randrange(8) == 0
        outside = (self.explicit, self.order)
        if as_un and not self.lies():
            self.explicit, self.order = False, "<"
        items = b"".join(self.item(depth + 1) for _ in range(self.random.choice((0, 1, 1, 2))))
        undefined = bool(self.random.randrange(2))
        if undefined or self.lies():
            items += self.delimiter(0xE0DD) if not self.lies() else b""
        self.explicit, self.order = outside
        return self.element(tag, "UN" if as_un else "SQ", items, undefined)

    def content(self, depth: int) -> bytes:
        """The content of an item: few elements, identifiers of others among them."""
        made = []
        for _ in range(self.random.choice((0, 1, 1, 2, 3))):
            if depth < 4 and self.random.randrange(4) == 0:
                made.append((tag := self.random.choice(SEQUENCES), self.sequence(tag, depth)))
            else:
                made.append(self.some(self.random.choice(IDENTIFIERS + TAGS)))
        return self.joined(made)

    def some(self, tag: int) -> tuple[int, bytes]:
        if tag in IDENTIFIERS and tag != 0x00100020:
            return tag, self.element(tag, "UI", self.uid())
        if tag == 0x00100020:
            return tag, self.element(
                tag, "LO", self.random.choice((b"P1", b" P1", b"P1 ", b"A\\B", b"\xc8\xe2", b"", b"P\0Q"))
            )
        if tag == 0x7FE00010:
            return tag, self.pixels()
        value = self.random.choice((b"", b"AB", b"1.2.3\0", self.random.randbytes(self.random.randrange(24))))
        if self.random.randrange(6) == 0:
            value = self.random.choice(TOKENS) + value
        return tag, self.element(tag, "UN" if tag >> 16 & 1 else "LO", value)

    def pixels(self) -> bytes:
        if self.syntax not in ENCAPSULATED and not self.lies():
            return self.element(0x7FE00010, "OW", self.random.randbytes(32))
        fragments = b"".join(
            struct.pack(self.order + "HHL", 0xFFFE, 0xE000, self.length(len(data)) % (1 << 32)) + data
            for data in (b"", b"\xff\xd8" * 5, self.random.choice(TOKENS))
        )
        end = self.delimiter(0xE0DD) if not self.lies() else b""
        return self.element(0x7FE00010, "OB", fragments + end, undefined=True)

    def uid(self) -> bytes:
        if not self.lies():
            return b"1.2.%d" % self.random.randrange(1000)
        return self.random.choice(
            (
                b"1.2\\1.3",
                b" 1.2.3",
                b"1.2.3 ",
                b"1.2.3\0\0",
                b"1.2 .3",
                b"1.2.\xe9",
                b"",
                b"1." + b"2" * 70,
                b"1.2\0.3",
                b"1.2" + b" " * 140 + b".4",
                b"\t1.2",
            )
        )

    def joined(self, made: list[tuple[int, bytes]]) -> bytes:
        if not self.lies():
            made = sorted(made)
        if not self.lies():
            made = list(dict(reversed(made)).items())
            made.sort()
        elif made:
            made.append(self.random.choice(made))
        return b"".join(data for _, data in made)

    def data_set(self) -> bytes:
        made = [self.some(tag) for tag in IDENTIFIERS if not (self.lies() and self.lies())]
        made += [self.some(self.random.choice(TAGS)) for _ in range(self.random.randrange(4)) if self.lies()]
        made += [(tag, self.sequence(tag, 0)) for tag in self.random.sample(SEQUENCES, self.random.randrange(4))]
        made += [(0x00080005, self.element(0x00080005, "CS", b"ISO_IR 100"))] * self.random.randrange(2)
        if self.random.randrange(3):
            made.append((0x7FE00010, self.pixels()))
        if self.random.randrange(8) == 0:
            made.append(
                (0x00080000, self.element(0x00080000, "UL", struct.pack(self.order + "L", self.random.randrange(200))))
            )
        return self.joined(made)

    def meta(self) -> bytes:
        syntax = self.syntax if not self.lies() else self.random.choice(LIES)
        outside, self.explicit, self.order = (self.explicit, self.order), True, "<"
        if self.random.randrange(12) == 0:  # as some write it
            self.explicit, self.order = self.random.choice(((False, "<"), (True, ">"), (False, ">")))
        made = [(0x00020001, self.element(0x00020001, "OB", b"\0\1"))]
        made.append((0x00020002, self.element(0x00020002, "UI", SOP_CLASS.encode())))
        made.append((0x00020003, self.element(0x00020003, "UI", self.uid())))
        made.append((0x00020010, self.element(0x00020010, "UI", syntax.encode())))
        if self.lies():
            made.append((0x00020010, self.element(0x00020010, "UI", self.random.choice(LIES).encode())))
        if self.random.randrange(2):
            made.append((0x00020012, self.element(0x00020012, "UI", b"1.2.3")))
        data = self.joined(made)
        length = self.element(0x00020000, "UL", struct.pack(self.order + "L", self.length(len(data)) % (1 << 32)))
        self.explicit, self.order = outside
        return data if self.lies() else length + data

    def file(self) -> bytes:
        data = self.data_set()
        if self.random.randrange(10) == 0:
            data += self.random.choice((bytes(self.random.randrange(40)), *TOKENS, b"x", data))
        if self.syntax == DEFLATED and not self.lies():
            deflater = zlib.compressobj(6, zlib.DEFLATED, -15)
            data = deflater.compress(data) + deflater.flush()
            data += bytes(len(data) % 2) if not self.lies() else self.random.randbytes(self.random.randrange(20))
        if self.random.randrange(15) == 0:
            return data
        preamble = bytes(128) + b"DICM" if not (self.lies() and self.lies()) else b""
        if self.random.randrange(12) == 0:
            preamble = self.random.choice((b"", b"DICM", bytes(128), bytes(128) + b"dicm"))
        return preamble + self.meta() + data


def damaged(random_: random.Random, data: bytes, other: bytes) -> bytes:
    """One to four kinds of damage, most of it in the header."""
    result = bytearray(data)
    for _ in range(random_.choice((1, 1, 1, 2, 4))):
        end = max(1, len(result) if random_.random() < 0.2 else min(len(result), 2000))
        place = random_.randrange(end)
        kind = random_.randrange(10)
        if kind == 0:
            result[place : place + 1] = bytes([random_.randrange(256)])
        elif kind == 1:
            width, code = random_.choice(((2, "H"), (4, "L")))
            number = random_.choice(INTERESTING) % (1 << 8 * width)
            result[place : place + width] = struct.pack(random_.choice("<>") + code, number)
        elif kind == 2:
            del result[place : place + random_.randrange(1, 200)]
        elif kind == 3:
            result[place:place] = random_.choice(TOKENS) * random_.choice((1, 1, 2, 40))
        elif kind == 4:
            start = random_.randrange(len(other))
            result[place : place + 100] = other[start : start + random_.randrange(1, 400)]
        elif kind == 5:
            del result[place:]
        elif kind == 6:
            result[place:place] = random_.randbytes(random_.randrange(1, 40))
        elif kind == 7:  # another VR
            known = [
                at for at in range(132, min(len(result), 3000) - 1) if result[at : at + 2].decode("latin-1") in KNOWN
            ]
            if known:
                at = random_.choice(known)
                result[at : at + 2] = random_.choice(KNOWN + UNKNOWN).encode()[:2]
        elif kind == 8:  # a length that is a little wrong
            known = [
                at for at in range(132, min(len(result), 3000) - 3) if result[at : at + 2].decode("latin-1") in KNOWN
            ]
            if known:
                at = random_.choice(known) + 2
                result[at] = (result[at] + random_.choice((-2, -1, 1, 2, 8))) % 256
        else:
            result += random_.choice((bytes(random_.randrange(1, 300)), *TOKENS))
    return bytes(result)


def odd_file(random_: random.Random, originals: list[bytes]) -> bytes:
    """The next one."""
    if random_.randrange(2):
        return damaged(random_, random_.choice(originals), random_.choice(originals))
    data = Builder(random_).file()
    return data if random_.randrange(4) else damaged(random_, data, random_.choice(originals))
