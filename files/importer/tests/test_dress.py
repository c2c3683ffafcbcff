"""DICOM in unusual dress is read, or fails with a reason; certainly no DICOM is only what does not begin like it."""

from __future__ import annotations

import gzip
import io
import os
import random
import struct
import tarfile
import warnings
import zipfile
from pathlib import Path

import pydicom
import pytest
from deliveries import sample
from imaging_importer.reasons import CompanionError, RejectedError
from real_files import real_files
from test_strict import (
    CLASS,
    DEFLATED,
    EXPLICIT,
    IDENTITY,
    IMPLICIT,
    PIXELS,
    data_set,
    deflated,
    el,
    implicit,
    item,
    meta,
    part10,
    refusal,
    sent,
    uid,
)

BIG = "1.2.840.10008.1.2.2"
SEED = int(os.environ.get("IMAGING_SEED") or random.SystemRandom().randrange(1 << 32))
LONG = (b"OB", b"OW", b"SQ", b"UN", b"UT")
PREAMBLES = {
    "preamble and DICM": bytes(128) + b"DICM",
    "nothing": b"",
    "DICM at byte 0": b"DICM",
    "preamble without DICM": bytes(128),
    "preamble of something, without DICM": b"II*\0" + b"\7" * 124,
    "preamble and another word": bytes(128) + b"dicm",
}


def other(explicit: bytes, is_explicit: bool, order: str) -> bytes:
    """Elements in explicit VR little endian (no sequence with content among them), written in another encoding."""
    made, position = b"", 0
    while position < len(explicit):
        group, number = struct.unpack_from("<HH", explicit, position)
        vr = explicit[position + 4 : position + 6]
        head = 12 if vr in LONG else 8
        (length,) = struct.unpack_from("<L" if vr in LONG else "<H", explicit, position + (8 if vr in LONG else 6))
        value = explicit[position + head : position + head + length]
        width = {b"UL": 4, b"US": 2, b"OW": 2}.get(vr, 1)
        if order == ">":
            value = b"".join(value[at : at + width][::-1] for at in range(0, len(value), width))
        made += struct.pack(order + "HH", group, number)
        if not is_explicit:
            made += struct.pack(order + "L", length)
        elif vr in LONG:
            made += vr + b"\0\0" + struct.pack(order + "L", length)
        else:
            made += vr + struct.pack(order + "H", length)
        made += value
        position += head + length
    return made


ENCODINGS = {"explicit": (True, "<"), "implicit": (False, "<"), "big endian": (True, ">"), "implicit big": (False, ">")}
SYNTAX = {"explicit": EXPLICIT, "implicit": IMPLICIT, "big endian": BIG}
FIRST = {
    "an identifier": b"",
    "a character set": el(0x00080005, "CS", b"ISO_IR 192"),
    "an empty sequence": el(0x00080006, "SQ"),
    "a group length": el(0x00080000, "UL", b"\x60\0\0\0"),
    "length to end": el(0x00080001, "UL", b"\x60\0\0\0"),
    "a private creator": el(0x00070010, "LO", b"ACME ") + el(0x00071001, "OB", bytes(5000)),
    "large private elements": el(0x00070010, "LO", b"ACME ") + el(0x00071001, "OB", bytes(90_000)),
    "a tag of group 0004": el(0x00041500, "CS", b"A "),
    "a tag that nobody knows": el(0x00080002, "LO", b"A ") + el(0x00080004, "LO", b"AB"),
}


def read(data: bytes) -> pydicom.Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(io.BytesIO(data))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("preamble", PREAMBLES)
@pytest.mark.parametrize("syntax", SYNTAX)
def test_file_meta_information_in_any_dress_is_written_anew_in_one(encoding: str, preamble: str, syntax: str) -> None:
    data = other(data_set(), *ENCODINGS[syntax])
    plain = sent(part10(data, meta(SYNTAX[syntax])))
    dressed = PREAMBLES[preamble] + other(meta(SYNTAX[syntax]), *ENCODINGS[encoding]) + data
    assert sent(dressed) == plain
    assert read(plain).PixelData == (other(el(0x00280010, "OW", PIXELS), *ENCODINGS[syntax])[-len(PIXELS) :])


def test_file_meta_information_may_begin_with_any_of_its_elements() -> None:
    syntax = el(0x00020010, "UI", uid(EXPLICIT))
    for first in (b"", el(0x00020001, "OB", b"\0\1"), el(0x00020002, "UI", CLASS), el(0x00020012, "UI", b"1.2\0")):
        for encoding in ENCODINGS.values():
            assert read(sent(other(first + syntax, *encoding) + data_set())).StudyInstanceUID == "1.2.1"


def test_a_preamble_that_orthanc_would_unpack_is_not_sent() -> None:
    plain = part10(data_set(), meta(EXPLICIT))
    assert sent(b"PK\3\4" + plain[4:]) == sent(plain)
    assert sent(b"II*\0" + plain[4:])[:4] == b"II*\0"


def test_a_deflated_image_in_unusual_dress_is_read() -> None:
    for preamble in PREAMBLES.values():
        dressed = preamble + other(meta(DEFLATED), False, "<") + deflated(data_set())
        assert sent(dressed) == sent(part10(deflated(data_set()), meta(DEFLATED)))


@pytest.mark.parametrize("encoding", SYNTAX)
@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("preamble", PREAMBLES)
def test_a_data_set_without_meta_information_may_begin_with_anything(preamble: str, first: str, encoding: str) -> None:
    data = other(FIRST[first] + data_set(), *ENCODINGS[encoding])
    if first == "a tag that nobody knows" and encoding == "implicit":
        return  # in implicit VR only known tags tell a data set from any bytes
    if first == "large private elements" and preamble.startswith("preamble ") and preamble != "preamble and DICM":
        return  # more than is looked at, where DICOM does not belong
    stored = read(sent(PREAMBLES[preamble] + data))
    assert stored.file_meta.TransferSyntaxUID == SYNTAX[encoding]
    assert (stored.StudyInstanceUID, len(stored.PixelData)) == ("1.2.1", len(PIXELS))


@pytest.mark.parametrize("length", [None, 0xFFFFFFFF])
@pytest.mark.parametrize("tag", [0x00080006, 0x00081140, 0x00080051])
def test_a_data_set_may_begin_with_a_sequence_that_has_items(tag: int, length: int | None) -> None:
    end = implicit(0xFFFEE0DD) if length else b""
    one = item(implicit(0x00080100, b"AB"))
    assert read(sent(el(tag, "SQ", item(el(0x00080100, "SH", b"AB")) + end, length) + rest(tag))).PatientID == "P1"
    implicit_rest = other(rest(tag), False, "<")
    assert read(sent(implicit(tag, one + end, length) + implicit_rest)).PatientID == "P1"


def rest(tag: int) -> bytes:
    """An image whose elements stand behind `tag`."""
    identity = {number: value for number, value in IDENTITY.items() if number > tag}
    behind = b"".join(el(number, "LO" if number == 0x00100020 else "UI", value) for number, value in identity.items())
    before = b"".join(el(number, "UI", value) for number, value in IDENTITY.items() if number < tag)
    return before + behind + el(0x7FE00010, "OW", PIXELS)


def test_a_data_set_may_begin_in_the_patient_s_group() -> None:
    """The rest stands behind it, out of order, as some programs write."""
    for encoding in SYNTAX:
        data = other(el(0x00100010, "PN", b"A^B ") + data_set(), *ENCODINGS[encoding])
        assert read(sent(data)).PatientName == "A^B"


def test_meta_information_without_transfer_syntax_is_read_where_the_data_set_tells_it() -> None:
    head = el(0x00020002, "UI", CLASS)
    for name, syntax in SYNTAX.items():
        stored = read(sent(part10(other(data_set(), *ENCODINGS[name]), head)))
        assert stored.file_meta.TransferSyntaxUID == syntax
    fragments = el(0x7FE00010, "OB", item() + item(b"\xff\xd8") + implicit(0xFFFEE0DD), 0xFFFFFFFF)
    assert refusal(part10(data_set(fragments, pixels=False), head)).reason == "missing-transfer-syntax"


def test_a_good_file_stays_as_it_is() -> None:
    data = sample("MR_small.dcm").read_bytes()
    assert sent(data)[: len(data) // 100] == data[: len(data) // 100]
    preamble = b"II*\0" + b"\7" * 124 + b"DICM"
    assert sent(preamble + meta() + data_set())[:132] == preamble


@pytest.mark.parametrize("encoding", SYNTAX)
@pytest.mark.parametrize("first", ["a character set", "a group length", "an empty sequence"])
def test_a_data_set_that_breaks_off_says_so(first: str, encoding: str) -> None:
    whole = other(FIRST[first] + data_set(), *ENCODINGS[encoding])
    for end in (40, 60, 100, len(whole) - 1):
        assert refusal(whole[:end]).reason in ("truncated", "missing-identifiers"), end


@pytest.mark.parametrize("value", [b"ISO_IR 192", b"\0\0\x0a\0\0\0ISO_IR 192"], ids=["16 bits", "32 bits"])
@pytest.mark.parametrize("vr", ["??", "ZZ", "cs"])
def test_a_data_set_that_begins_with_an_unknown_vr_does_not_stay_behind_in_silence(vr: str, value: bytes) -> None:
    first = struct.pack("<HH", 8, 5) + vr.encode() + (b"\x0a\0" if value[0] else b"") + value
    for preamble in ("nothing", "preamble and DICM"):
        try:
            assert read(sent(PREAMBLES[preamble] + first + data_set())).PatientID == "P1"
        except RejectedError as refused:
            assert refused.reason in ("damaged", "unknown-vr")  # noqa: PT017 - both are right, silence is not


def test_what_looks_like_dicom_and_cannot_be_read_fails() -> None:
    data = data_set()
    assert refusal(b"\0" * 256 + b"DICM" + meta() + data).detail == "DICM stands at byte 256, not at byte 128"
    assert refusal(other(data, False, ">")).reason == "unknown-transfer-syntax"
    command = implicit(0x00000000, b"\x38\0\0\0") + implicit(0x00000002, CLASS) + implicit(0x00000100, b"\1\0")
    assert refusal(command + data).reason == "damaged"
    assert refusal(b"DICM and what is no element").reason in ("damaged", "missing-transfer-syntax", "truncated")
    assert refusal(bytes(128) + b"DICM").reason == "missing-transfer-syntax"
    for begin in (b"MZ", b"#!", b"\x7fELF"):
        program = begin + bytes(128 - len(begin))
        assert refusal(program + meta() + data).reason == "executable-preamble"
        assert refusal(program + b"DICM" + data).reason == "executable-preamble"


def test_a_directory_of_a_medium_is_known_by_its_content() -> None:
    name = "DICOMDIR-nooffset" if sample("DICOMDIR-nooffset").exists() else "dicomdirtests/DICOMDIR"
    data = sample(name).read_bytes()
    end = 144 + struct.unpack_from("<L", data, 140)[0]
    nameless = part10(data[end:], meta())
    for dressed in (data, nameless, data[end:], data[132:], b"DICM" + other(data[132:end], False, "<") + data[end:]):
        with pytest.raises(CompanionError) as kept:
            sent(dressed)
        assert kept.value.reason == "dicomdir"


# --- packed files ---------------------------------------------------------------------------------------------------
def tar(kind: str, format_: int = tarfile.GNU_FORMAT) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode=f"w:{kind}", format=format_) as made:  # type: ignore[call-overload]
        entry = tarfile.TarInfo("image.dcm")
        entry.size = len(part10(data_set()))
        made.addfile(entry, io.BytesIO(part10(data_set())))
    return target.getvalue()


def zipped() -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as made:
        made.writestr("image.dcm", part10(data_set()))
    return target.getvalue()


def old_tar() -> bytes:
    """As before POSIX: no magic."""
    header = bytearray(tar("")[:512])
    header[257:265] = bytes(8)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + tar("")[512:]


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("zip", zipped()),
        ("zip", b"PK\5\6" + bytes(18)),
        ("gzip", gzip.compress(part10(data_set()))),
        ("tar", tar("")),
        ("tar", tar("", tarfile.USTAR_FORMAT)),
        ("tar", tar("", tarfile.PAX_FORMAT)),
        ("tar", old_tar()),
        ("bzip2", tar("bz2")),
        ("xz", tar("xz")),
        ("7z", b"7z\xbc\xaf\x27\x1c\0\4" + bytes(100)),
        ("RAR", b"Rar!\x1a\x07\0" + bytes(100)),
        ("RAR", b"Rar!\x1a\x07\1\0" + bytes(100)),
        ("zstd", b"\x28\xb5\x2f\xfd" + bytes(100)),
        ("compress", b"\x1f\x9d\x90" + bytes(100)),
        ("an image of a CD", bytes(32769) + b"CD001\1" + bytes(2048)),
        ("an image of a CD", bytes(32769) + b"BEA01\1" + bytes(2048)),
    ],
)
def test_a_packed_file_is_no_image_and_does_not_stay_behind_in_silence(kind: str, data: bytes) -> None:
    refused = refusal(data)
    assert (refused.reason, refused.detail) == ("packed-kind", kind)


# --- certainly no DICOM ---------------------------------------------------------------------------------------------
COMPANIONS = {
    "text": b"Patient notes: the patient was seen at eight",
    "short text": b"ok",
    "blanks": b" " * 3000,
    "upper case": b"PATIENT NOTES\r\nULTRASOUND OF THE LOWER ABDOMEN, UNCHANGED\r\n" * 20,
    "text with VRs": b"    LO  OBSHPNSQCSDA" * 500,
    "Russian": "Заметки: пациент".encode("cp1251") * 30,
    "UTF-8": "Заметки: пациент".encode() * 30,
    "UTF-16": "Patient@1@2 notes, Заметки".encode("utf-16") * 30,
    "UTF-16 without a mark": "@1 @2 (0040,0031)".encode("utf-16-le") * 30,
    "about DICOM": b"What DICM means: the four letters DICM at byte 128.",
    "PDF": b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj" + bytes(300),
    "JPEG": b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1" + bytes(300),
    "PNG": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\2\0" + bytes(300),
    "BMP": b"BM6\0\x0c\0\0\0\0\0\x36\0\0\0\x28\0\0\0" + bytes(300),
    "GIF": b"GIF89a\x10\0\x10\0" + bytes(300),
    "TIFF": b"II*\0\x08\0\0\0\x10\0\xfe\0\4\0\1\0\0\0" + bytes(300),
    "TIFF of Motorola": b"MM\0*\0\0\0\x08\0\x10\0\xfe\0\4\0\0\0\1" + bytes(300),
    "XML": b'<?xml version="1.0"?><NativeDicomModel/>',
    "HTML": b"<!DOCTYPE html><html></html>",
    "JSON": b'[{"00080005": {"vr": "CS", "Value": ["ISO_IR 100"]}}]',
    "a program": b"MZ\x90\0\3\0\0\0\4\0\0\0\xff\xff\0\0\xb8" + bytes(300),
    "ELF": b"\x7fELF\2\1\1" + bytes(300),
    "Word": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(300),
    "cab": b"MSCF\0\0\0\0" + bytes(300),
    "video": b"\0\0\0\x18ftypmp42\0\0\0\0" + bytes(300),
    "AVI": b"RIFF\x24\x08\0\0AVI LIST" + bytes(300),
    "wave": b"RIFF\x24\x08\0\0WAVEfmt " + bytes(300),
    "MP3": b"ID3\4\0\0\0\0\0\x23" + bytes(300),
    "NIfTI": b"\x5c\1\0\0" + bytes(500),
    "SQLite": b"SQLite format 3\0\x10\0\1\1" + bytes(300),
    ".DS_Store": b"\0\0\0\1Bud1\0\0\x10\0\0\0\x08\0" + bytes(300),
    "AppleDouble": b"\0\5\x16\7\0\2\0\0Mac OS X        \0\2\0\0\0\x09" + bytes(300),
    "zeros": bytes(5000),
    "ones": b"\xff" * 5000,
    "pixels": bytes(range(256)) * 100,
    "numbers": b"".join(struct.pack("<L", number) for number in range(5000)),
    "small numbers": b"".join(struct.pack("<H", number) for number in range(5000)),
    "numbers of big computers": b"".join(struct.pack(">L", number) for number in range(5000)),
}


@pytest.mark.parametrize("name", COMPANIONS)
def test_what_is_no_dicom_is_a_companion(name: str) -> None:
    with pytest.raises(CompanionError) as kept:
        sent(COMPANIONS[name])
    assert kept.value.reason == "not-dicom"


def test_random_bytes_are_companions() -> None:
    print(f"IMAGING_SEED={SEED}")
    random_ = random.Random(SEED)
    for _ in range(1000):
        alphabet = random_.choice((bytes(range(256)), bytes(range(32, 127)), b"ABCDLOSHUI "))
        data = bytes(random_.choices(alphabet, k=random_.choice((1, 7, 8, 9, 50, 300))))
        with pytest.raises(CompanionError):
            sent(data)


def test_files_that_every_computer_has_are_no_images() -> None:
    """Python's own files: code, texts, programs, images, packed files."""
    for path in list(Path(os.__file__).parent.rglob("*"))[:600]:
        if not path.is_file() or path.is_symlink() or path in real_files().values() or not path.stat().st_size:
            continue
        with pytest.raises((CompanionError, RejectedError)) as refused:
            sent(path.read_bytes()[: 1 << 17])
        assert refused.value.reason in ("not-dicom", "packed-kind"), path
