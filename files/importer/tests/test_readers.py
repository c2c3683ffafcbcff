"""DCMTK, and so Orthanc, reads the same identifiers in every file that our reader accepts.

The same odd files (odd_files.py) go to our reader and, as they would be sent, to dcmdump. IMAGING_READERS=n tries n of
them (default 2,000, `make test-readers` 100,000); the seed is printed, and IMAGING_SEED replays it.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import tempfile
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from imaging_importer.dicom.charsets import declared
from imaging_importer.dicom.elements import SPECIFIC_CHARACTER_SET
from imaging_importer.dicom.instance import PATIENT_ID, read_instance
from imaging_importer.dicom.stamp import stamp
from imaging_importer.reasons import CompanionError, RejectedError
from odd_files import odd_file
from real_files import real_files

FILES = int(os.environ.get("IMAGING_READERS", "2000"))
SEED = int(os.environ.get("IMAGING_SEED") or random.SystemRandom().randrange(1 << 32))
AT_ONCE = 50  # files that one dcmdump reads

TAGS = {
    "0008,0016": "class",
    "0008,0018": "instance",
    "0020,000d": "study",
    "0020,000e": "series",
    "0010,0020": "patient",
}
LINE = re.compile(rb"\(([0-9a-f]{4},[0-9a-f]{4})\) (..) (.*?) *#  *(\d+|u/l), *(\d+) \w+$")
COMPLAINT = re.compile(rb"[WE]: [^\n]*\n")  # also in the middle of a line
# Messages of DCMTK about a file that it does not read differently.
HARMLESS = re.compile(
    rb"W: (DcmItem: Length of element \S+ is (odd|not a multiple)"
    rb"|DcmSequenceOfItems: Length of item in sequence .* is odd"
    rb"|(DcmItem: )?Found element \S+ with VR.UN and undefined length"
    rb"|DcmItem: Dataset not in ascending tag order"  # of items: it sorts what it reads
    rb"|DcmItem: Invalid Element \S+ found in data set"
    rb"|DcmUniqueIdentifier: Element .* contains one or more space characters"
    rb"|DcmItem: Wrong VR for encapsulated PixelData)"
)


@dataclass
class Sent:
    """A file that was let through, as it would be sent, and who we say that it is."""

    number: int
    path: Path
    identifiers: dict[str, bytes]


def let_through(data: bytes, target: Path, scratch: Path) -> dict[str, bytes] | str:
    """Read and stamp as the importer does; return the identifiers, or the reason of a refusal."""
    with tempfile.TemporaryFile(dir=scratch) as file:
        file.write(data)
        file.flush()
        try:
            instance = read_instance(file, scratch)
            body = stamp(instance, "north", scratch)
        except (CompanionError, RejectedError) as refusal:
            return refusal.reason
        target.write_bytes(b"".join(body.chunks()))
        identifiers = {
            "class": instance.sop_class_uid.encode(),
            "instance": instance.sop_instance_uid.encode(),
            "study": instance.study_uid.encode(),
            "series": instance.series_uid.encode(),
        }
        if instance.find(PATIENT_ID) is not None:
            with target.open("rb") as stored:
                charset = declared(read_instance(stored, scratch).value(SPECIFIC_CHARACTER_SET))
            assert instance.patient_id is not None
            identifiers["patient"] = instance.patient_id.encode(charset.codec or charset.upper or "ascii")
        return identifiers


def dcmdump(paths: list[Path]) -> list[bytes]:
    """DCMTK's output for each file. It may crash at one; then it is asked about each alone."""
    searched = [option for tag in TAGS for option in ("+P", tag)]
    # Unbuffered, so that errors stand among the lines of their file.
    command = ["stdbuf", "-o0", "dcmdump", "+F", "+p", "-Un", "+L", "+Qn", *searched, *map(str, paths)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300, check=False)
    answers = re.split(rb"^# dcmdump \(\d+/\d+\): .*$\n", done.stdout, flags=re.MULTILINE)[1:]
    if done.returncode >= 0 and len(answers) == len(paths):
        return answers
    if len(paths) == 1:
        return [b"E: dcmdump died: " + str(done.returncode).encode() + done.stdout]
    return [answer for path in paths for answer in dcmdump([path])]


def value(vr: bytes, shown: bytes) -> bytes:
    """A value from a line of dcmdump."""
    if vr == b"UN":
        return bytes(int(byte, 16) for byte in shown.split(b"\\")) if shown[:1] != b"(" else b""
    if not shown.startswith(b"["):
        return b""
    text = re.sub(rb"&#(\d+);", lambda found: bytes([int(found[1])]), shown[1:-1])
    for name, character in ((b"lt", b"<"), (b"gt", b">"), (b"quot", b'"'), (b"apos", b"'"), (b"amp", b"&")):
        text = text.replace(b"&" + name + b";", character)
    return text


def difference(sent: Sent, answer: bytes) -> str:
    """The differences and complaints of DCMTK; empty if there are none."""
    found: dict[str, bytes] = {}
    for line in COMPLAINT.findall(answer):
        if not HARMLESS.match(line):
            return line.decode("latin-1")
    for line in COMPLAINT.sub(b"", answer).splitlines():
        if (match := LINE.match(line)) and (name := TAGS.get(match[1].decode())):
            if name in found:
                return f"{name} twice"
            found[name] = value(match[2], match[3]).rstrip(b"\0 ")
    return "" if found == sent.identifiers else f"DCMTK: {found}, we: {sent.identifiers}"


@pytest.fixture(scope="module")
def originals() -> list[bytes]:
    return [data for path in real_files().values() if 200 < len(data := path.read_bytes()) < 100_000]


def check(sent: list[Sent], keep: dict[int, bytes]) -> list[str]:
    answers = dcmdump([one.path for one in sent])
    differences = []
    for one, answer in zip(sent, answers, strict=True):
        if different := difference(one, answer):
            kept = Path(tempfile.gettempdir(), f"readers-{SEED}-{one.number}.dcm")
            kept.write_bytes(keep[one.number])
            differences.append(f"{kept}: {different}")
        one.path.unlink()
    return differences


def test_what_is_let_through_has_one_reading(tmp_path: Path, originals: list[bytes]) -> None:
    print(f"IMAGING_SEED={SEED} IMAGING_READERS={FILES}")
    random_ = random.Random(SEED)
    ends: Counter[str] = Counter()
    sent: list[Sent] = []
    made: dict[int, bytes] = {}
    differences: list[str] = []
    warnings.simplefilter("ignore")  # pydicom's, about character sets that are no more
    for number in range(FILES):
        data = odd_file(random_, originals)
        path = tmp_path / f"{number}.dcm"
        end = let_through(data, path, tmp_path)
        ends[end if isinstance(end, str) else "sent"] += 1
        if not isinstance(end, str):
            sent.append(Sent(number, path, end))
            made[number] = data
        if len(sent) == AT_ONCE or (sent and number == FILES - 1):
            differences += check(sent, made)
            sent, made = [], {}
    print(dict(ends))
    assert not differences, "\n".join(differences)
    assert ends["sent"] > FILES / 20
