"""Packed files in delivered folders are unpacked. Their members end like files of their own, and none does harm."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import signal
import struct
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from deliveries import deliver, instance, sop_uid, uid
from imaging_importer import tree
from imaging_importer.batch import Source, read_batch
from imaging_importer.dicom import packed
from imaging_importer.dicom.instance import Limits
from imaging_importer.dicom.packed import PackedFiles
from imaging_importer.journal import FileOutcome, Journal, Outcome
from imaging_importer.reasons import RejectedError
from imaging_importer.settle import put_back
from importer_fakes import Platform
from importer_process import Nursery, wait_until
from test_strict import data_set, part10, sent

SEED = int(os.environ.get("IMAGING_SEED") or random.SystemRandom().randrange(1 << 32))
IMAGE = part10(data_set())
LIMITS = Limits(8 << 20, 8 << 20)


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as made:
        for name, data in members.items():
            made.writestr(name, data)
    return target.getvalue()


def read(folder: Path, files: dict[str, bytes], limits: Limits = LIMITS) -> tuple[dict[str, str], dict[str, bytes]]:
    """The result of each file and member (or "sent"), and the bytes that would be sent."""
    deliver(folder, files)
    scratch = folder.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    return read_folder(folder, sorted(files), scratch, limits)


def read_folder(
    folder: Path, names: list[str], scratch: Path, limits: Limits
) -> tuple[dict[str, str], dict[str, bytes]]:
    waiting = [FileOutcome(name, Outcome.PENDING) for name in names]
    ends: dict[str, str] = {}
    bodies: dict[str, bytes] = {}
    with closing(PackedFiles(folder, scratch, limits)) as packed_files:
        source = Source(folder, "north", scratch, limits, packed_files=packed_files)
        while waiting:
            batch = read_batch(source, iter(waiting), 16 << 20, 50)
            with closing(batch):
                ends |= {outcome.path: outcome.reason for outcome in batch.outcomes}
                ends |= {file.path: file.reason for file in batch.listed if file.outcome is Outcome.FAILED}
                for prepared in batch.instances:
                    ends[prepared.path] = "sent"
                    bodies[prepared.path] = b"".join(prepared.body.chunks())
                waiting += [file for file in batch.listed if file.outcome is Outcome.PENDING]
                waiting = [file for file in waiting if file.path not in ends]
    assert list(scratch.iterdir()) == []
    return ends, bodies


# --- what is right --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_what_is_in_a_zip_ends_like_files_of_its_own(tmp_path: Path, method: int) -> None:
    inside = {"b/image.dcm": IMAGE, "cut.dcm": IMAGE[:-9], "notes.txt": b"notes", "empty": b"", "directory/": b""}
    ends, bodies = read(tmp_path / "folder", {"deep/export.zip": zipped(inside, method)})
    assert ends == {
        "deep/export.zip": "packed",
        "deep/export.zip/b/image.dcm": "sent",
        "deep/export.zip/cut.dcm": "truncated",
        "deep/export.zip/empty": "empty-file",
        "deep/export.zip/notes.txt": "not-dicom",
    }
    assert bodies == {"deep/export.zip/b/image.dcm": sent(IMAGE)}
    assert [path.name for path in (tmp_path / "folder").rglob("*")] == ["deep", "export.zip"]


# Of its header: an extra field, a name, a comment and a checksum (RFC 1952).
HEADER = b"\x1f\x8b\x08\x1e" + bytes(6) + b"\4\0abcd../../../etc/passwd\0comment\0"
WITH_ALL_FIELDS = HEADER + struct.pack("<H", zlib.crc32(HEADER) & 0xFFFF) + gzip.compress(IMAGE)[10:]


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(IMAGE),
        gzip.compress(IMAGE) + bytes(512),
        gzip.compress(IMAGE[:100]) + gzip.compress(IMAGE[100:]),
        WITH_ALL_FIELDS,
    ],
    ids=["plain", "padded", "two streams", "all fields"],
)  # fmt: skip
def test_a_gzip_file_is_the_image_in_it(tmp_path: Path, data: bytes) -> None:
    ends, bodies = read(tmp_path / "folder", {"image.dcm.gz": data, "of no name": data})
    assert ends == {
        "image.dcm.gz": "packed",
        "image.dcm.gz/image.dcm": "sent",
        "of no name": "packed",
        "of no name/file": "sent",
    }
    assert set(bodies.values()) == {sent(IMAGE)}


def test_a_packed_file_in_a_packed_file_is_unpacked_and_no_third(tmp_path: Path) -> None:
    inner = zipped({"image.dcm": IMAGE, "more.gz": gzip.compress(IMAGE), "more.zip": zipped({"c": IMAGE})})
    files = {"a.zip": zipped({"a.dcm.gz": gzip.compress(IMAGE), "b.zip": inner, "z.dcm": IMAGE})}
    ends, _ = read(tmp_path / "folder", files)
    assert ends == {
        "a.zip": "packed",
        "a.zip/a.dcm.gz": "packed",
        "a.zip/a.dcm.gz/a.dcm": "sent",
        "a.zip/b.zip": "packed",
        "a.zip/b.zip/image.dcm": "sent",
        "a.zip/b.zip/more.gz": "packed-kind",
        "a.zip/b.zip/more.zip": "packed-kind",
        "a.zip/z.dcm": "sent",
    }


def test_a_zip_is_known_by_its_content_and_may_begin_with_something_else(tmp_path: Path) -> None:
    whole = zipped({"a": IMAGE})
    prefixed = b"PK00" + whole  # as some programs split them
    files = {
        "export": whole,
        "export.dcm": prefixed,
        "with comment": whole[:-2] + b"\5\0hello",
        "padded": whole + bytes(99),
    }
    ends, _ = read(tmp_path / "folder", files)
    assert {name: ends[name] for name in files} == dict.fromkeys(files, "packed")
    assert {name: ends[f"{name}/a"] for name in files} == dict.fromkeys(files, "sent")
    assert read(tmp_path / "empty", {"empty.zip": zipped({})})[0] == {"empty.zip": "packed"}


def test_a_large_zip_in_the_form_of_zip64_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)
    data = zipped({"a": IMAGE, "b": IMAGE, "c": IMAGE})
    assert b"PK\6\6" in data
    ends, bodies = read(tmp_path / "folder", {"a.zip": data})
    assert set(ends.values()) == {"packed", "sent"}
    assert len(bodies) == 3


def test_a_dicom_file_that_is_also_a_zip_is_dicom(tmp_path: Path) -> None:
    polyglot = b"PK\3\4" + bytes(124) + IMAGE[128:]
    ends, bodies = read(tmp_path / "folder", {"a.zip": polyglot})
    assert ends == {"a.zip": "sent"}
    assert bodies["a.zip"][:132] == bytes(128) + b"DICM", "Orthanc would unpack it"


def test_an_office_document_is_a_zip_too_and_images_with_its_marks_do_not_stay_behind(tmp_path: Path) -> None:
    document = zipped({"[Content_Types].xml": b"<xml/>", "word/document.xml": b"<xml/>", "word/media/a.dcm": IMAGE})
    ends, _ = read(tmp_path / "folder", {"report.docx": document})
    assert ends == {
        "report.docx": "packed",
        "report.docx/[Content_Types].xml": "not-dicom",
        "report.docx/word/document.xml": "not-dicom",
        "report.docx/word/media/a.dcm": "sent",
    }


# --- names ----------------------------------------------------------------------------------------------------------
def raw_zip(names: list[bytes], flags: int = 0) -> bytes:
    """A zip with names that zipfile would not write; each member is the image."""
    packed = zlib.compress(IMAGE, 9)[2:-4]
    entry = struct.Struct("<4s6H3L5H2L")
    crc, made, directory = zlib.crc32(IMAGE), b"", b""
    for name in names:
        sizes = struct.pack("<3L2H", crc, len(packed), len(IMAGE), len(name), 0)
        directory += entry.pack(
            b"PK\1\2", 20, 20, flags, 8, 0, 0, crc, len(packed), len(IMAGE), len(name), 0, 0, 0, 0, 0, len(made)
        )
        directory += name
        made += b"PK\3\4" + struct.pack("<5H", 20, flags, 8, 0, 0) + sizes + name + packed
    return (
        made
        + directory
        + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, len(names), len(names), len(directory), len(made), 0)
    )


def test_names_inside_are_shown_and_are_no_paths(tmp_path: Path) -> None:
    names = {
        b"../../../etc/passwd": "etc/passwd",
        b"/absolute": "absolute",
        b"..\\..\\windows": "windows",
        b"C:\\export\\im1": "C:/export/im1",
        b"a\0b": "a\\x00b",
        b"line\nbreak\x1b[31m": "line\\x0abreak\\x1b[31m",
        b"": "file",
        b"..": "8-file",
        b"./.": "9-file",
        "Снимок".encode("cp866"): "Снимок",
        "Жұлын".encode(): "Жұлын",
        b"\xff\xfe": "\xa0■",
        b"same": "same",
        b"SAME": "SAME",
        b"same/below": "15-same-below",
        b"x" * 65_535: "x" * 300,
        b"y/" * 30_000 + b"y": "/".join("y" * 10),
    }
    ends, bodies = read(tmp_path / "folder", {"a.zip": raw_zip([*names, b"same"])})
    assert set(ends) == {"a.zip", *(f"a.zip/{shown}" for shown in names.values()), "a.zip/18-same"}
    assert set(bodies.values()) == {sent(IMAGE)}
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a.zip"]


def test_many_members_of_one_name_are_told_apart_in_time(tmp_path: Path) -> None:
    began = time.process_time()
    names = packed.Names("a.zip")
    assert len({names.free("im/" * 9 + "age") for _ in range(50_000)}) == 50_000
    assert len({names.free("\1" * 65_000) for _ in range(250)}) == 250
    # Names that are taken by others of the form in which they are told apart.
    names = packed.Names("b.zip")
    shown = [*(f"{number}-a" for number in range(20_000, 40_000)), *["a"] * 20_000]
    assert len(set(map(names.free, shown))) == 40_000
    assert time.process_time() - began < 5


def test_long_names_do_not_exhaust_the_importer() -> None:
    """Each stands behind the path of the archive, has ten directories, and takes four bytes a letter."""
    names = packed.Names("p" * 1_000)
    shown = (f"{number:05}{'/xxxxxxxxxxxxxxxxxxxxxxxxx' * 9}/\U0001f600" for number in range(50_000))
    tracemalloc.start()
    with pytest.raises(RejectedError, match="the names of all files in it are too long"):
        max(map(names.free, shown))
    _, highest = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert highest < 60 << 20


# --- what cannot be unpacked ----------------------------------------------------------------------------------------
def changed(data: bytes, signature: bytes, offset: int, value: bytes) -> bytes:
    at = data.index(signature) + offset
    return data[:at] + value + data[at + len(value) :]


@pytest.mark.parametrize(
    ("flags_or_method", "value", "reason"),
    [(6, b"\1\0", "packed-encrypted"), (6, b"\x41\0", "packed-encrypted")]
    + [(8, bytes([method, 0]), "packed-kind") for method in (1, 6, 9, 12, 14, 93, 95, 97, 98, 99)],
)
def test_a_member_that_cannot_be_unpacked_fails_and_the_others_do_not(
    tmp_path: Path, flags_or_method: int, value: bytes, reason: str
) -> None:
    """The header of the first member in the directory."""
    data = changed(zipped({"a": IMAGE, "b": IMAGE}), b"PK\1\2", flags_or_method + 2, value)
    ends, _ = read(tmp_path / "folder", {"x.zip": data})
    assert ends == {"x.zip": "packed", "x.zip/a": reason, "x.zip/b": "sent"}


def test_a_link_in_a_zip_is_not_followed(tmp_path: Path) -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as made:
        link = zipfile.ZipInfo("link.dcm")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        made.writestr(link, "/etc/passwd")
    assert read(tmp_path / "folder", {"a.zip": target.getvalue()})[0]["a.zip/link.dcm"] == "symbolic-link"


def stored() -> bytes:
    return zipped({"a": IMAGE}, zipfile.ZIP_STORED)


DAMAGED: dict[str, Callable[[], bytes]] = {
    "cut": lambda: stored()[:-30],
    "cut in the middle": lambda: stored()[:200],
    "another checksum": lambda: changed(stored(), b"PK\1\2", 16, b"\0\0\0\0"),
    "another size": lambda: changed(stored(), b"PK\1\2", 24, b"\xff\0\0\0"),
    "a byte": lambda: changed(stored(), b"1.2.1", 0, b"9"),
    "a byte of what is deflated": lambda: changed(zipped({"a": IMAGE}), b"PK\3\4", 60, b"\xff\xff\xff"),
    "a name that is too long": lambda: changed(stored(), b"PK\3\4", 26, b"\xff\xff"),
    "a directory that is none": lambda: changed(stored(), b"PK\1\2", 0, b"PK\0\0"),
    "a directory elsewhere": lambda: changed(stored(), b"PK\5\6", 16, b"\xff\xff\xff\x7f"),
    "a long directory": lambda: changed(stored(), b"PK\5\6", 12, b"\xff\xff\0\0"),
    "zip64 that is none": lambda: changed(stored(), b"PK\5\6", 8, b"\xff" * 12),
    "a member elsewhere": lambda: changed(stored(), b"PK\1\2", 42, b"\xff\xff\xff\x7f"),
    "gzip, cut": lambda: gzip.compress(IMAGE)[:-9],
    "gzip, another checksum": lambda: gzip.compress(IMAGE)[:-8] + bytes(8),
    "gzip, its first bytes": lambda: gzip.compress(IMAGE)[:3],
    "gzip, and more": lambda: gzip.compress(IMAGE) + b"more",
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_packed_file_fails_as_such(tmp_path: Path, kind: str) -> None:
    ends, bodies = read(tmp_path / "folder", {"x": DAMAGED[kind]()})
    assert ends in (
        {"x": "packed-damaged"},
        {"x": "packed", f"x/{'file' if 'gzip' in kind else 'a'}": "packed-damaged"},
    ) or (kind == "zip64 that is none" and ends == {"x": "packed-too-large"})
    assert not bodies


def test_a_member_that_is_not_where_the_directory_says_fails_alone(tmp_path: Path) -> None:
    data = changed(zipped({"a": IMAGE, "b": IMAGE}), b"PK\1\2", 42, b"\1\0\0\0")
    ends, _ = read(tmp_path / "folder", {"x": data})
    assert ends == {"x": "packed", "x/a": "packed-damaged", "x/b": "sent"}


def test_one_of_several_volumes_fails(tmp_path: Path) -> None:
    assert read(tmp_path / "folder", {"x": changed(stored(), b"PK\5\6", 4, b"\1\0")})[0] == {"x": "packed-kind"}


def test_without_unpacking_a_packed_file_is_refused(tmp_path: Path) -> None:
    """As a part of an upload."""
    deliver(tmp_path, {"a.gz": gzip.compress(IMAGE), "b.zip": stored()})
    files = iter([FileOutcome("a.gz", Outcome.PENDING), FileOutcome("b.zip", Outcome.PENDING)])
    with closing(read_batch(Source(tmp_path, "north", tmp_path, LIMITS), files, 1 << 20, 9)) as batch:
        assert [outcome.reason for outcome in batch.outcomes] == ["packed-kind", "packed-kind"]


# --- packed files made to exhaust ------------------------------------------------------------------------------------
def overlapping(count: int) -> bytes:
    """All members share one block of deflated zeros."""
    whole = zipped({"a": bytes(1 << 20)})
    at = whole.index(b"PK\1\2")
    entry = whole[at : whole.index(b"PK\5\6")]
    return (
        whole[:at] + entry * count + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(entry) * count, at, 0)
    )


def quoted(count: int) -> bytes:
    """Each member begins with the headers of those behind it, in a stored block of its own (Fifield 2019)."""
    kernel = zlib.compress(bytes(1 << 20), 9)[2:-4]
    headers: list[bytes] = []
    data = kernel
    for number in range(count):
        quote = headers[-1] if headers else b""
        block = b"\0" + struct.pack("<2H", len(quote), len(quote) ^ 0xFFFF) + quote if quote else b""
        data = block + data[len(quote) :] if quote else data
        name = b"%d" % number
        header = b"PK\3\4" + struct.pack("<5H3L2H", 20, 0, 8, 0, 0, 0, len(data), 1 << 20, len(name), 0) + name
        headers.append(header)
        data = header + data
    directory, offset = b"", 0
    for number in reversed(range(count)):
        name = b"%d" % number
        rest = len(data) - offset - 40
        fields = (20, 20, 0, 8, 0, 0, 0, rest, 1 << 20, len(name), 0, 0, 0, 0, 0, offset)
        directory += b"PK\1\2" + struct.pack("<6H3L5H2L", *fields) + name
        offset += len(headers[number]) + 5
    return data + directory + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(directory), len(data), 0)


def millions(count: int) -> bytes:
    entry = b"PK\1\2" + bytes(42)
    end = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(entry) * count, 4)
    end += struct.pack("<4sLQL", b"PK\6\7", 0, 4 + len(entry) * count, 1)
    return (
        b"PK\3\4"
        + entry * count
        + end
        + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    )


def lying(count: int) -> bytes:
    """It says that it has one member."""
    entry = b"PK\1\2" + bytes(42)
    return b"PK\3\4" + entry * count + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(entry) * count, 4, 0)


def nested(levels: int) -> bytes:
    data = zipped({"bomb": bytes(4 << 20)})
    for level in range(levels):
        data = zipped({f"{level}.zip": data, f"{level}b.zip": data})
    return data


BOMBS: dict[str, Callable[[], bytes]] = {
    "overlapping": lambda: overlapping(20_000),
    "quoted": lambda: quoted(500),
    "four million members": lambda: millions(4_000_000),
    "members that it does not count": lambda: lying(300_000),
    "nested": lambda: nested(9),
    "more than an image may have": lambda: zipped({"a": IMAGE[:-40] + bytes(20 << 20), "b": bytes(20 << 20)}),
    "zeros in gzip": lambda: gzip.compress(IMAGE[:-40] + bytes(300 << 20), 1),
    "streams without number": lambda: gzip.compress(b"", 1) * 200_000,
    "it says little": lambda: changed(zipped({"a": IMAGE + bytes(50 << 20)}), b"PK\1\2", 24, b"\x10\0\0\0"),
    "it says very much": lambda: changed(zipped({"a": IMAGE}), b"PK\1\2", 24, b"\xff\xff\xff\xfe"),
    "ends without number": lambda: b"PK\3\4" + b"PK\5\6" * 100_000,
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_costs_little(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "folder"
    deliver(folder, {"x": BOMBS[kind]()})
    (tmp_path / "scratch").mkdir()
    began = time.process_time()
    tracemalloc.start()
    ends, bodies = read_folder(folder, ["x"], tmp_path / "scratch", LIMITS)
    _, highest = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert time.process_time() - began < 10
    assert highest < 60 << 20
    assert not bodies
    assert any(reason.startswith("packed-") or reason in ("too-large", "damaged") for reason in ends.values()), ends
    assert len(ends) < 20


def test_what_grows_more_than_it_says_is_given_up(tmp_path: Path) -> None:
    """The size at the end of a gzip file is that of its last stream."""
    growing = gzip.compress(IMAGE[:-40] + bytes(20 << 20), 1) + gzip.compress(b"")
    ends, _ = read(tmp_path / "folder", {"a.gz": growing, "b.zip": zipped({"c.gz": growing})})
    assert ends == {
        "a.gz": "packed",
        "a.gz/a": "packed-too-large",
        "b.zip": "packed",
        "b.zip/c.gz": "packed",
        "b.zip/c.gz/c": "packed-too-large",
    }


def test_what_is_no_image_in_a_packed_file_may_have_any_size_and_is_not_unpacked(tmp_path: Path) -> None:
    ends, _ = read(tmp_path / "folder", {"a.zip": zipped({"video.mp4": b"\0\0\0\x18ftypmp42" + bytes(30 << 20)})})
    assert ends == {"a.zip": "packed", "a.zip/video.mp4": "not-dicom"}
    large = IMAGE[:-40] + os.urandom(9 << 20)
    ends, _ = read(tmp_path / "other", {"a.zip": zipped({"large.dcm": large})})
    assert ends == {"a.zip": "packed", "a.zip/large.dcm": "too-large"}


def test_more_than_is_unpacked_of_one_packed_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "MOST_MEMBERS", 3)
    data = zipped({str(number): IMAGE for number in range(4)})
    assert read(tmp_path / "number", {"a.zip": data})[0] == {"a.zip": "packed-too-large"}
    monkeypatch.setattr(packed, "MOST_MEMBERS", 4)
    monkeypatch.setattr(packed, "MOST_UNPACKED", 4 * len(IMAGE) - 1)
    assert read(tmp_path / "size", {"a.zip": data})[0] == {"a.zip": "packed-too-large"}


def test_what_grows_in_what_has_grown_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "HARMLESS_TOTAL", 4 << 20)
    monkeypatch.setattr(packed, "MOST_GROWTH", 20)
    monkeypatch.setattr(packed, "HARMLESS", 2 << 20)
    inner = zipped({"image": IMAGE + bytes(1 << 20)})
    ends, bodies = read(tmp_path / "folder", {"a.zip": zipped({f"{number:03}.zip": inner for number in range(100)})})
    assert 1 <= len(bodies) <= 4
    assert list(ends.values()).count("packed-too-large") == 100 - len(bodies)


def test_packed_files_of_a_delivery_have_so_many_files_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "MOST_ENTRIES", 5)
    files = {f"{number}.zip": zipped({"a": IMAGE, "b": IMAGE}) for number in range(3)}
    ends, bodies = read(tmp_path / "folder", files)
    assert (ends["1.zip"], ends["2.zip"], len(bodies)) == ("packed", "packed-too-large", 4)


def test_odd_packed_files_never_crash_the_reader(tmp_path: Path) -> None:
    print(f"IMAGING_SEED={SEED}")
    random_ = random.Random(SEED)
    originals = [
        zipped({"a": IMAGE, "b/c": b"text"}),
        stored(),
        gzip.compress(IMAGE),
        raw_zip([b"x", b"x/y"]),
        nested(1),
    ]
    for number in range(400):
        data = bytearray(random_.choice(originals))
        for _ in range(random_.randrange(1, 4)):
            place = random_.choice((random_.randrange(len(data)), max(0, len(data) - random_.randrange(1, 120))))
            odd = random_.choice((b"", b"\xff", b"\0\0", b"PK\5\6", random_.randbytes(4)))
            data[place : place + random_.randrange(3)] = odd
        ends, _ = read(tmp_path / str(number), {"x": bytes(data)})
        assert set(ends.values()) <= KNOWN, number


KNOWN = {
    "sent", "packed", "not-dicom", "packed-damaged", "packed-kind", "packed-encrypted", "packed-too-large",
    "symbolic-link", "damaged", "truncated", "empty-file", "invalid-identifiers", "missing-identifiers", "too-large",
}  # fmt: skip


# --- the journal ----------------------------------------------------------------------------------------------------
def test_a_changed_packed_file_is_listed_anew(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.add("job", "north", "folder")
    deliver(tmp_path / "folder", {"a.zip": b"1", "b.dcm": b"2"})
    assert journal.list_files("job", tree.entries(tmp_path / "folder")) == 2
    inside = [FileOutcome(f"a.zip/{number}", Outcome.PENDING, size=9, packed="a.zip") for number in range(3)]
    journal.write_outcomes("job", [FileOutcome("a.zip", Outcome.KEPT, "packed")], inside)
    assert [file.path for file in journal.files("job", Outcome.PENDING)] == [*(file.path for file in inside), "b.dcm"]
    ends = [FileOutcome("a.zip/0", Outcome.STORED), FileOutcome("a.zip/1", Outcome.FAILED, "damaged")]
    journal.write_outcomes("job", ends)
    assert journal.list_files("job", tree.entries(tmp_path / "folder")) == 0
    assert journal.counts("job")[Outcome.STORED] == 1
    (tmp_path / "folder" / "b.dcm").write_bytes(b"other")
    assert journal.list_files("job", tree.entries(tmp_path / "folder")) == 1
    assert journal.counts("job")[Outcome.STORED] == 1
    (tmp_path / "folder" / "a.zip").write_bytes(b"other")
    assert journal.list_files("job", tree.entries(tmp_path / "folder")) == 1
    assert [file.path for file in journal.files("job", *Outcome)] == ["a.zip", "b.dcm"]
    journal.close()


# --- deliveries -----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as made:
        yield made


class Place:
    """An inbox and what it leads to."""

    def __init__(self, root: Path, nursery: Nursery) -> None:
        self.root, self.nursery, self.platform = root, nursery, Platform()
        (root / "inbox" / "north").mkdir(parents=True)

    def carry(self, failpoint: str = "") -> None:
        if failpoint:
            killed = self.nursery.start(self.root, self.platform.url, failpoint=f"{failpoint}:kill")
            assert killed.wait(20) == -signal.SIGKILL, "the failpoint was not reached"
        process = self.nursery.start(self.root, self.platform.url)
        assert wait_until(self.settled, 60, process), (self.root / "log").read_text()[-3000:]
        process.kill()

    def settled(self) -> bool:
        spool = self.root / "inbox" / ".spool" / "north"
        return not list((self.root / "inbox" / "north").iterdir()) and not (spool.is_dir() and list(spool.iterdir()))

    def folder(self, kind: str, name: str) -> Path | None:
        return next((self.root / kind / "north").glob(f"*/{name}"), None)

    def report(self, kind: str, name: str) -> dict:
        return json.loads((self.folder(kind, name) / "report.json").read_text())


@pytest.mark.parametrize(
    "failpoint",
    [
        "",
        "study-claimed",
        "batch-sent",
        "batch-journalled",
        "files-verified",
        "places-chosen",
        "failed-file-moved",
        "folder-moved",
        "report-written",
    ],
)
def test_a_delivery_with_packed_files_ends_the_same_whenever_it_is_killed(
    tmp_path: Path, nursery: Nursery, failpoint: str
) -> None:
    place, random_ = Place(tmp_path, nursery), random.Random(failpoint)
    study, series = uid(random_), uid(random_)
    images = [instance(random_, study, series) for _ in range(12)]
    good = zipped({f"im/{number}": data for number, data in enumerate(images[:9])} | {"read.me": b"text"})
    bad = zipped({"10.dcm": images[9], "cut.dcm": images[10][:-20], "11.dcm.gz": gzip.compress(images[10])})
    files = {
        "good.zip": good,
        "deep/bad.zip": bad,
        "12.dcm.gz": gzip.compress(images[11]),
        "a.7z": b"7z\xbc\xaf\x27\x1c" + bytes(99),
    }
    deliver(tmp_path / "inbox" / "north" / "study", files)
    place.carry(failpoint)
    assert set(place.platform.md5s()) == {sop_uid(data) for data in images}
    processed, failed = place.folder("processed", "study"), place.folder("failed", "study")
    assert sorted(path.name for path in processed.rglob("*") if path.is_file()) == [
        "12.dcm.gz",
        "good.zip",
        "report.json",
    ]
    assert (failed / "deep" / "bad.zip").read_bytes() == bad
    assert (failed / "a.7z").exists()
    for told in (place.report("processed", "study"), place.report("failed", "study")):
        assert told["files"] == {"stored": 12, "kept": 5, "failed": 2}
        assert {failure["path"]: failure["reason"] for failure in told["failures"]} == {
            "a.7z": "packed-kind",
            "deep/bad.zip/cut.dcm": "truncated",
        }
        assert {kept["path"]: kept["reason"] for kept in told["kept"]} == {
            "12.dcm.gz": "packed",
            "deep/bad.zip": "packed",
            "deep/bad.zip/11.dcm.gz": "packed",
            "good.zip": "packed",
            "good.zip/read.me": "not-dicom",
        }
    assert "is in this folder as a whole" in (failed / "REASON.txt").read_text()
    if not failpoint:  # and again
        put_back(failed, tmp_path / "failed", tmp_path / "inbox")
        place.carry()
        assert place.report("processed", "study.2")["files"] == {"stored": 2, "kept": 2, "failed": 2}
        there = {path.name for path in place.folder("failed", "study").rglob("*") if path.is_file()}
        assert there == {"a.7z", "bad.zip", "report.json", "REASON.txt"}
        # The folder in processed/, with its report, delivered once more.
        delivered = {path.name: path.read_bytes() for path in processed.iterdir() if path.is_file()}
        deliver(tmp_path / "inbox" / "north" / "twice", delivered)
        place.carry()
        assert place.folder("failed", "twice") is None
        twice = place.folder("processed", "twice")
        assert {path.name for path in twice.iterdir()} == {"12.dcm.gz", "good.zip", "report.json", "report.2.json"}
        again = json.loads((twice / "report.2.json").read_text())
        assert again["files"] == {"stored": 10, "kept": 4, "failed": 0}
        assert {"path": "report.json", "reason": "not-dicom"} in again["kept"]
        assert set(place.platform.md5s()) == {sop_uid(data) for data in images}
    place.platform.close()


def test_notes_of_stored_images_are_told_in_the_report(tmp_path: Path, nursery: Nursery) -> None:
    from imaging_importer.settle import Settler
    from imaging_importer.spool import Spool

    place = Place(tmp_path, nursery)
    for name in ("inbox/.spool", "processed", "failed"):
        (tmp_path / name).mkdir(exist_ok=True)
    deliver(tmp_path / "inbox" / "north" / "study", {"a.dcm": b"1", "b.dcm": b"2"})
    with closing(Journal(tmp_path / "journal")) as journal:
        spool = Spool(tmp_path / "inbox" / ".spool", journal)
        job_id = spool.take_folder("north", tmp_path / "inbox" / "north" / "study")
        journal.list_files(job_id, tree.entries(spool.folder(journal.job(job_id))))
        notes = {"not-displayable": "a transfer syntax that is retired", "text-corrected": ""}
        journal.write_outcomes(
            job_id, [FileOutcome("a.dcm", Outcome.STORED, notes=notes), FileOutcome("b.dcm", Outcome.STORED)]
        )
        settler = Settler(tmp_path / "processed", tmp_path / "failed", journal, spool)
        settler.choose(journal.job(job_id))
        for _ in settler.move(journal.job(job_id)):
            pass
    told = place.report("processed", "study")
    assert told["notes"] == [
        {"path": "a.dcm", "note": "not-displayable", "detail": "a transfer syntax that is retired"},
        {"path": "a.dcm", "note": "text-corrected", "detail": ""},
    ]
    assert (told["failures"], told["kept"], told["meaning"].keys()) == ([], [], notes.keys())
    place.platform.close()


def test_every_maker_of_images_that_stayed_behind_is_imported(tmp_path: Path, nursery: Nursery) -> None:
    """Beside one good image."""
    place, random_ = Place(tmp_path, nursery), random.Random(3)
    images = [instance(random_, uid(random_), uid(random_)) for _ in range(2)]
    bare = images[0][144 + struct.unpack_from("<L", images[0], 140)[0] :]
    files = {"bare": struct.pack("<HH", 8, 6) + b"SQ\0\0\0\0\0\0" + bare, "image.dcm.gz": gzip.compress(images[1])}
    deliver(tmp_path / "inbox" / "north" / "study", files)
    place.carry()
    assert set(place.platform.md5s()) == {sop_uid(data) for data in images}
    assert place.folder("failed", "study") is None
    place.platform.close()
