"""Unpacks packed files (zip, gzip). Each member is read like a file of the delivery, below the packed file's path.

One member at a time is unpacked, into a private file without a name. Nothing is unpacked into the delivery. A packed
file in another (image.dcm.gz in a zip) is unpacked too, but no packed file inside that one. Strangers choose the names
inside. So the names are shown, and are never a path of a file system. zip has some facts twice, in the directory and in
front of each member. Only the directory counts.
"""

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from imaging_importer import tree
from imaging_importer.dicom import dress
from imaging_importer.dicom.instance import HARMLESS, INFLATING, MIB, MOST_GROWTH, Limits, admit
from imaging_importer.journal import FileOutcome, Outcome
from imaging_importer.printable import printable
from imaging_importer.reasons import RejectedError
from imaging_importer.snapshot import IN_MEMORY, private_file

# A study has some thousand images, an export of a medium some ten thousand. Their total size has the limit of a medium.
MOST_MEMBERS = 50_000
LARGEST_DIRECTORY = 16 * MIB
MOST_UNPACKED = 100 << 30
HARMLESS_TOTAL = 1 << 30
MOST_STREAMS = 10_000  # of gzip; programs that write several make one for every 64 KiB
LONGEST_NAME = 300  # and so many directories of it, as they are shown
MOST_PARTS = 10
CHUNK = 1 << 16

END = struct.Struct("<4s4H2LH")
END_64 = struct.Struct("<4sQ2H2L4Q")
ENTRY = struct.Struct("<4s6H3L5H2L")
LOCAL = struct.Struct("<4s5H3L2H")
LONGEST_COMMENT = 0xFFFF
ENCRYPTED = 0x2041  # any of the flags: traditional, strong, directory masked
UTF_8 = 0x800
STORED, DEFLATED = 0, 8
UNIX, SYMBOLIC_LINK = 3, 0o120000
LOCATOR = 20  # bytes between the end record of zip64 and the old one


@dataclass(frozen=True)
class Member:
    """A file in a packed file."""

    size: int
    packed: int
    start: int  # position of its header
    end: int  # position of the next header
    method: int
    crc: int
    reason: str = ""  # the reason why it cannot be unpacked
    detail: str = ""


class Zip:
    """A zip file. Raises RejectedError for one that cannot be read, or has more in it than is unpacked."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        size = os.fstat(file.fileno()).st_size
        directory, start, shift = _directory(file, size)
        entries = sorted(_entries(directory, shift), key=lambda entry: entry[1].start)
        _refuse_too_much(sum(member.size for _, member in entries), size)
        self.members: dict[str, Member] = {}
        names = Names(name)
        for number, (shown, member) in enumerate(entries):
            end = entries[number + 1][1].start if number + 1 < len(entries) else start
            if member.start + LOCAL.size + member.packed > end:
                raise RejectedError("packed-damaged", "files in it overlap each other")
            if member.size or not shown.endswith(("/", "\\")):  # the name of a directory ends so
                self.members[names.free(shown)] = replace(member, end=end)

    def chunks(self, member: Member) -> Iterator[bytes]:
        """The content of a member, checked at its end."""
        header = os.pread(self._file.fileno(), LOCAL.size, member.start)
        if len(header) < LOCAL.size or header[:4] != b"PK\3\4":
            raise RejectedError("packed-damaged", "a file in it is not where the directory says")
        start = member.start + LOCAL.size + sum(LOCAL.unpack(header)[-2:])
        if start + member.packed > member.end:
            raise RejectedError("packed-damaged", "files in it overlap each other")
        packed = _read(self._file, start, start + member.packed)
        size = crc = 0
        for chunk in packed if member.method == STORED else _inflated(packed, -zlib.MAX_WBITS):
            size += len(chunk)
            crc = zlib.crc32(chunk, crc)
            if size > member.size:
                break
            yield chunk
        if (size, crc) != (member.size, member.crc):
            raise RejectedError("packed-damaged", "a file in it is not what the directory says")


class Gzip:
    """A gzip file, of one or several streams: one member."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        size = os.fstat(file.fileno()).st_size
        (last,) = struct.unpack("<L", os.pread(file.fileno(), 4, size - 4)) if size > 18 else (0,)
        ending = name.rpartition("/")[2].rpartition(".")
        shown = ending[0] if ending[2].lower() == "gz" else ""
        # Only the size of the last stream is known before.
        self.members = {Names(name).free(shown): Member(last, size, 0, size, DEFLATED, 0)}

    def chunks(self, member: Member) -> Iterator[bytes]:
        """The content."""
        return _inflated(_read(self._file, 0, member.end), zlib.MAX_WBITS | 16)


KINDS: dict[str, Callable[[BinaryIO, str], Zip | Gzip]] = {dress.ZIP: Zip, dress.GZIP: Gzip}


@dataclass
class Opened:
    """A packed file that is open."""

    path: str
    file: BinaryIO
    content: Zip | Gzip


class PackedFiles:
    """The packed files of a delivery.

    The last one stays open, because its members come one after the other. The last packed file in it stays open too.
    """

    def __init__(self, folder: Path, scratch: Path, limits: Limits) -> None:
        self._folder = folder
        self._scratch = scratch
        self._limits = limits
        self._open: list[Opened] = []
        self._listed = 0
        self._unpacked = 0  # bytes of the open delivered one and of its members

    def close(self) -> None:
        """Close what is open."""
        while self._open:
            self._open.pop().file.close()

    def members(self, file: FileOutcome, content: BinaryIO) -> list[FileOutcome] | None:
        """The members of a delivered file, if it is packed, each as a file of the delivery; None for any other."""
        kind = _kind(content)
        if kind is None:
            return None
        if file.packed and file.path not in self._open[0].content.members:
            raise RejectedError("packed-kind", "a packed file in a packed file in a packed file")
        inside = kind(content, file.path).members
        self._listed += len(inside)
        if self._listed > tree.MOST_ENTRIES:
            raise RejectedError("packed-too-large", "with what the others of the delivery have, it is too many files")
        real = file.packed or file.path
        return [
            FileOutcome(
                path,
                Outcome.FAILED if member.reason else Outcome.PENDING,
                member.reason,
                member.detail,
                size=member.size,
                packed=real,
            )
            for path, member in inside.items()
        ]

    def open(self, file: FileOutcome) -> BinaryIO:
        """A private copy of a member. Raises RejectedError or CompanionError if it cannot or need not be unpacked."""
        holder = self._opened(0, file.packed, lambda: tree.open_file(self._folder, file.packed))
        if file.path not in holder.members:
            inner = next((path for path in _above(file.path) if path in holder.members), "")
            return self._copy(self._opened(1, inner, lambda: self._copy(holder, inner)), file.path)
        return self._copy(holder, file.path)

    def _opened(self, level: int, path: str, open_: Callable[[], BinaryIO]) -> Zip | Gzip:
        """The packed file at a path: of the delivery (level 0), or inside the open one (1)."""
        if len(self._open) > level and self._open[level].path == path:
            return self._open[level].content
        while len(self._open) > level:
            self._open.pop().file.close()
        with ExitStack() as stack:
            file = stack.enter_context(open_())
            kind = _kind(file)
            if kind is None:
                raise _changed()
            self._open.append(Opened(path, file, kind(file, path)))
            stack.pop_all()
        if not level:
            self._unpacked = 0
        return self._open[level].content

    def _copy(self, holder: Zip | Gzip, path: str) -> BinaryIO:
        member = holder.members.get(path)
        if member is None:
            raise _changed()
        # The size of the content of a gzip file is not known, so it is not kept in memory.
        copy = private_file(self._scratch, member.size if isinstance(holder, Zip) else IN_MEMORY + 1)
        try:
            with INFLATING:
                self._unpack(holder, member, copy)
        except BaseException:
            copy.close()
            raise
        return copy

    def _unpack(self, holder: Zip | Gzip, member: Member, copy: BinaryIO) -> None:
        most = min(self._limits.instance, max(HARMLESS, MOST_GROWTH * member.packed))
        size, looked = 0, False
        for chunk in holder.chunks(member):
            size += len(chunk)
            # All unpacked bytes count together, also those of packed files inside.
            self._unpacked += len(chunk)
            _refuse_too_much(self._unpacked, os.fstat(self._open[0].file.fileno()).st_size)
            if size > most:
                raise RejectedError(
                    "packed-too-large", f"{member.packed / MIB:,.1f} MiB grow beyond {most // MIB:,} MiB"
                )
            view = memoryview(chunk)
            while view:
                view = view[copy.write(view) :]
            if not looked and size >= dress.LOOKED_AT:
                # A member that is no image need not be unpacked further, and may have any size.
                looked = True
                if _kind(copy) is None:
                    admit(copy, self._limits, max(size, member.size))


def _changed() -> RejectedError:
    """Refuse changed members. They were listed before. A changed file is listed again (Carrier._refuse_changes)."""
    return RejectedError("packed-damaged", "it was changed while it was unpacked")


class Names:
    """The paths under which the members of one packed file are shown: each is unique, and none is below another."""

    def __init__(self, holder: str) -> None:
        self._holder = holder
        self._files: set[str] = set()
        # These are hashes. If two are equal by chance, one member gets a number before its name.
        self._directories: set[int] = set()
        self._number = 0
        self._size = 0

    def free(self, shown: str) -> str:
        """The path of a member whose name in the packed file is this."""
        parts = [part for part in shown.replace("\\", "/").split("/") if part not in ("", ".", "..")]
        name = printable("/".join(parts[-MOST_PARTS:])[:LONGEST_NAME])[:LONGEST_NAME].rstrip("/.") or "file"
        candidate = name
        while self._is_used(candidate):
            # No number is tried twice, because members may have the names of candidates.
            self._number = max(self._number, len(self._files)) + 1
            candidate = f"{self._number}-{name.replace('/', '-')}"
        self._files.add(candidate)
        self._directories.update(map(hash, _above(candidate)))
        self._size += len(self._holder) + len(candidate)
        if self._size > LARGEST_DIRECTORY:
            raise RejectedError("packed-too-large", "the names of all files in it are too long")
        return f"{self._holder}/{candidate}"

    def _is_used(self, name: str) -> bool:
        is_directory = hash(name) in self._directories
        return name in self._files or is_directory or any(path in self._files for path in _above(name))


def _above(path: str) -> Iterator[str]:
    """The directories above a path, the outermost first."""
    position = -1
    while (position := path.find("/", position + 1)) >= 0:
        yield path[:position]


def _kind(file: BinaryIO) -> Callable[[BinaryIO, str], Zip | Gzip] | None:
    """The function that opens a packed file. A file that is also DICOM counts as DICOM."""
    head = dress.look(file)
    if head[:2] not in (b"PK", b"\x1f\x8b") or dress.dress(head, os.fstat(file.fileno()).st_size):
        return None
    return KINDS.get(dress.packed_kind(head))


def _directory(file: BinaryIO, size: int) -> tuple[bytes, int, int]:
    """The directory of a zip file, its position, and the offset of all positions from the written ones."""
    tail_start = max(0, size - END.size - LONGEST_COMMENT)
    tail = os.pread(file.fileno(), size - tail_start, tail_start)
    at = tail.rfind(b"PK\5\6")
    while at >= 0 and (len(tail) < at + END.size or len(tail) < at + END.size + END.unpack_from(tail, at)[-1]):
        at = tail.rfind(b"PK\5\6", 0, at)
    if at < 0:
        raise RejectedError("packed-damaged", "its end is missing")
    end = tail_start + at
    _, disk, first_disk, _, count, length, offset, _ = END.unpack_from(tail, at)
    large = os.pread(file.fileno(), END_64.size + LOCATOR, max(0, end - LOCATOR - END_64.size))
    if large[:4] == b"PK\6\6" and large[END_64.size : END_64.size + 4] == b"PK\6\7":
        *_, disk, first_disk, _, count, length, offset = END_64.unpack_from(large)
        end -= LOCATOR + END_64.size
    if disk or first_disk:
        raise RejectedError("packed-kind", "one of several volumes")
    if count > MOST_MEMBERS or length > LARGEST_DIRECTORY:
        raise RejectedError("packed-too-large", f"it has {count:,} files; at most {MOST_MEMBERS:,} are taken")
    start = end - length
    if start < offset:
        raise RejectedError("packed-damaged", "its directory is not where it says")
    return os.pread(file.fileno(), length, start), start, start - offset


def _entries(directory: bytes, shift: int) -> Iterator[tuple[str, Member]]:
    """The members by the directory, each with the name under which it is shown."""
    position = count = 0
    while position < len(directory) and directory[position : position + 4] != b"PK\5\5":  # a signature
        if directory[position : position + 4] != b"PK\1\2" or position + ENTRY.size > len(directory):
            raise RejectedError("packed-damaged", "its directory cannot be read")
        _, made_by, _, flags, method, _, _, crc, packed, size, *lengths, _, _, mode, start = ENTRY.unpack_from(
            directory, position
        )
        name_end = position + ENTRY.size + lengths[0]
        name = directory[position + ENTRY.size : name_end]
        extra = directory[name_end : name_end + lengths[1]]
        size, packed, start = _large(extra, size, packed, start)
        reason, detail = _cannot(flags, method, mode if made_by >> 8 == UNIX else 0)
        yield _decoded(name, flags), Member(size, packed, start + shift, 0, method, crc, reason, detail)
        position = name_end + sum(lengths[1:])
        count += 1
        if count > MOST_MEMBERS:
            raise RejectedError("packed-too-large", f"it has more than {MOST_MEMBERS:,} files")


def _large(extra: bytes, *values: int) -> Iterator[int]:
    """The values; those that do not fit into 32 bits come from the extra field of zip64."""
    position, large = 0, b""
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        if kind == 1:
            large = extra[position + 4 : position + 4 + length]
        position += 4 + length
    for value in values:
        if value == 0xFFFFFFFF and len(large) >= 8:
            yield struct.unpack_from("<Q", large)[0]
            large = large[8:]
        else:
            yield value


def _cannot(flags: int, method: int, mode: int) -> tuple[str, str]:
    """The reason why a member cannot be unpacked, with details; empty if it can."""
    if flags & ENCRYPTED:
        return "packed-encrypted", ""
    if (mode >> 16) & 0o170000 == SYMBOLIC_LINK:
        return "symbolic-link", ""
    if method not in (STORED, DEFLATED):
        return "packed-kind", f"compression method {method}"
    return "", ""


def _decoded(name: bytes, flags: int) -> str:
    """The name. If zip does not declare UTF-8, it is UTF-8 nevertheless, or the set of the Windows console."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("cp866", "replace" if flags & UTF_8 else "strict")


def _refuse_too_much(total: int, size: int) -> None:
    if total > min(MOST_UNPACKED, max(HARMLESS_TOTAL, MOST_GROWTH * size)):
        raise RejectedError("packed-too-large", f"{size / MIB:,.1f} MiB grow to {total // MIB:,} MiB")


def _read(file: BinaryIO, position: int, end: int) -> Iterator[bytes]:
    while position < end and (chunk := os.pread(file.fileno(), min(CHUNK, end - position), position)):
        yield chunk
        position += len(chunk)


def _inflated(packed: Iterator[bytes], format_: int) -> Iterator[bytes]:
    """The inflated content, in pieces. gzip may have several streams, and padding after the last."""
    inflater, streams = zlib.decompressobj(format_), 1
    for data in packed:
        held = False  # it returns only so much at once, and keeps the rest
        while data or held:
            if inflater.eof:
                data = data.lstrip(b"\0")
                if not data:
                    break
                inflater, streams = zlib.decompressobj(format_), streams + 1
                if streams > MOST_STREAMS:
                    raise RejectedError("packed-too-large", f"it has more than {MOST_STREAMS:,} streams")
            try:
                plain = inflater.decompress(data, CHUNK)
            except zlib.error as error:
                raise RejectedError("packed-damaged", str(error)) from error
            yield plain
            held = len(plain) == CHUNK and not inflater.eof
            data = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
    if not inflater.eof:
        raise RejectedError("packed-damaged", "it is not complete")
