"""Damaged files never crash the reader, hang it, fill the memory or reach out of the inbox: each is stamped or refused.

IMAGING_FUZZ=n tries n damaged files (default 1500); the seed is printed, and IMAGING_SEED replays it.
"""

from __future__ import annotations

import os
import random
import resource
import struct
import tempfile
import time
import tracemalloc
from pathlib import Path

import pytest
from imaging_importer.batch import Source, read_batch
from imaging_importer.dicom.instance import Limits, read_instance
from imaging_importer.dicom.stamp import stamp
from imaging_importer.journal import FileOutcome, Outcome
from imaging_importer.reasons import SENTENCES, CompanionError, RejectedError
from real_files import real_files

ROUNDS = int(os.environ.get("IMAGING_FUZZ", "1500"))
SEED = int(os.environ.get("IMAGING_SEED") or random.SystemRandom().randrange(1 << 32))
LONGEST = 5.0  # seconds of processor for one file
INTERESTING = (0, 1, 2, 7, 8, 0x7F, 0x80, 0xFF, 0xFFFF, 0xFFFE, 0xFFFFFFFF, 0xFFFFFFFE, 0x80000000, 0x7FFFFFFF)
TOKENS = (
    b"\xfe\xff\x00\xe0\xff\xff\xff\xff",  # item of undefined length
    b"\xfe\xff\x0d\xe0\0\0\0\0",
    b"\xfe\xff\xdd\xe0\0\0\0\0",
    b"\x08\x00\x80\x00SQ\0\0\xff\xff\xff\xff",
    b"\x00\x04\x61\x05UN\0\0\xff\xff\xff\xff",
    b"\x18\x00\x01\xa0SQ\0\0\xff\xff\xff\x7f",
    b"\xfe\x4f\x01\x00SQ\0\0\0\0\0\0",
)


def damaged(random_: random.Random, data: bytes, other: bytes) -> bytes:
    """One to four kinds of damage, most of it in the header."""
    result = bytearray(data)
    for _ in range(random_.randrange(1, 5)):
        end = max(1, len(result) if random_.random() < 0.2 else min(len(result), 2000))
        place = random_.randrange(end)
        kind = random_.randrange(7)
        if kind == 0:
            result[place : place + 1] = bytes([random_.randrange(256)])
        elif kind == 1:
            order = random_.choice("<>")
            width, code = random_.choice(((2, "H"), (4, "L")))
            number = random_.choice(INTERESTING) % (1 << 8 * width)
            result[place : place + width] = struct.pack(order + code, number)
        elif kind == 2:
            del result[place : place + random_.randrange(1, 200)]
        elif kind == 3:
            result[place:place] = random_.choice(TOKENS) * random_.choice((1, 1, 2, 200))
        elif kind == 4:
            start = random_.randrange(len(other))
            result[place : place + 100] = other[start : start + random_.randrange(1, 400)]
        elif kind == 5:
            del result[place:]
        else:
            result[place:place] = random_.randbytes(random_.randrange(1, 40))
    return bytes(result)


def read_and_stamp(data: bytes, scratch: Path) -> str:
    """The result of a file: "stamped", or the reason of its refusal."""
    with tempfile.TemporaryFile(dir=scratch) as file:
        file.write(data)
        file.flush()
        try:
            instance = read_instance(file, scratch)
            body = stamp(instance, "north", scratch)
        except (CompanionError, RejectedError) as refusal:
            return refusal.reason
        assert sum(map(len, body.chunks())) == body.size
        return "stamped"


@pytest.fixture(scope="module")
def originals() -> list[bytes]:
    return [data for path in real_files().values() if 0 < len(data := path.read_bytes()) < 200_000]


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, about character sets that are no more
def test_damaged_files_are_stamped_or_refused(tmp_path: Path, originals: list[bytes]) -> None:
    print(f"IMAGING_SEED={SEED} IMAGING_FUZZ={ROUNDS}")
    random_ = random.Random(SEED)
    known = {"stamped", "not-dicom", "dicomdir", *SENTENCES}
    ends = set()
    for number in range(ROUNDS):
        data = damaged(random_, random_.choice(originals), random_.choice(originals))
        began = time.process_time()
        try:
            end = read_and_stamp(data, tmp_path)
        except Exception as error:
            Path(tempfile.gettempdir(), f"fuzz-{SEED}-{number}.dcm").write_bytes(data)
            raise AssertionError(f"damaged file {number} of seed {SEED}, kept as fuzz-{SEED}-{number}.dcm") from error
        assert end in known
        assert time.process_time() - began < LONGEST, f"damaged file {number} of seed {SEED}"
        ends.add(end)
    assert {"stamped", "truncated", "damaged"} <= ends
    assert list(tmp_path.iterdir()) == []
    assert (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2 << 20
    )  # KiB; the importer itself is limited by systemd


DEEP = (
    b"\x08\x00\x80\x00SQ\0\0\xff\xff\xff\xff"
    + b"\xfe\xff\x00\xe0\xff\xff\xff\xff\x08\x00\x80\x00SQ\0\0\xff\xff\xff\xff" * 5000
)


@pytest.mark.parametrize(
    "tail",
    [
        DEEP,
        b"\x08\x00\x80\x00SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\0\0\0\0" * 20_000,
        b"\x08\x00\x80\x00UT\0\0\xfe\xff\xff\xff",
        b"\x08\x00\x80\x00LO\0\0" * 20_000,
    ],
    ids=["nested 5000 deep", "20,000 empty items", "a length of 4 GB", "20,000 empty elements"],
)
def test_small_files_made_to_exhaust_the_reader(tmp_path: Path, tail: bytes) -> None:
    head = bytes(128) + b"DICM\x02\x00\x10\x00UI\x14\x001.2.840.10008.1.2.1\0"
    began = time.process_time()
    tracemalloc.start()
    end = read_and_stamp(head + tail, tmp_path)
    _, highest = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert end in SENTENCES
    assert time.process_time() - began < LONGEST
    assert highest < 50 << 20


def test_a_deflated_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import zlib

    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = deflater.compress(bytes(64 << 20)) + deflater.flush()
    head = bytes(128) + b"DICM\x02\x00\x10\x00UI\x16\x001.2.840.10008.1.2.1.99"
    assert len(bomb) < 1 << 20
    assert read_and_stamp(head + bomb, tmp_path) == "too-large-inflated"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("swapped", ["file", "directory"])
def test_a_file_swapped_for_a_link_is_not_followed(tmp_path: Path, swapped: str) -> None:
    """Between listing and reading, the sender puts a link to a file outside in its place."""
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    for directory in (outside, folder / "deep"):
        directory.mkdir(parents=True)
    (outside / "a.dcm").write_bytes(next(iter(real_files().values())).read_bytes())
    if swapped == "file":
        (folder / "deep" / "a.dcm").symlink_to(outside / "a.dcm")
    else:
        (folder / "deep").rmdir()
        (folder / "deep").symlink_to(outside)
    source = Source(folder, "north", tmp_path, Limits())
    batch = read_batch(source, iter([FileOutcome("deep/a.dcm", Outcome.PENDING)]), 1 << 20, 9)
    assert not batch.instances
    assert [outcome.reason for outcome in batch.outcomes] == ["unreadable"]
    batch.close()
