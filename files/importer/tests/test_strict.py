"""A file that two parsers could read differently is refused, or written so that they cannot. Nothing else changes."""

from __future__ import annotations

import io
import os
import re
import struct
import tempfile
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import jinja2
import pydicom
import pytest
import yaml
from imaging_importer import config
from imaging_importer.batch import Batch, Source, read_batch
from imaging_importer.dicom.instance import Limits, read_instance
from imaging_importer.dicom.stamp import stamp
from imaging_importer.journal import FileOutcome, Outcome
from imaging_importer.reasons import CompanionError, RejectedError

SCRATCH = Path(tempfile.gettempdir())
IMPLICIT, EXPLICIT, DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"
UNDEFINED = 0xFFFFFFFF
LONG = {"OB", "OW", "SQ", "UN", "UT"}


def el(tag: int, vr: str, value: bytes = b"", length: int | None = None) -> bytes:
    """One element, explicit VR little endian."""
    length = len(value) if length is None else length
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode()
    return head + (b"\0\0" + struct.pack("<L", length) if vr in LONG else struct.pack("<H", length)) + value


def implicit(tag: int, value: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(value) if length is None else length) + value


def item(content: bytes = b"", length: int | None = None) -> bytes:
    return implicit(0xFFFEE000, content, length)


END_OF_ITEM, END_OF_SEQUENCE = implicit(0xFFFEE00D), implicit(0xFFFEE0DD)
CLASS = b"1.2.840.10008.5.1.4.1.1.7\0"
IDENTITY = {
    0x00080016: CLASS,
    0x00080018: b"1.2.3\0",
    0x00100020: b"P1",
    0x0020000D: b"1.2.1\0",
    0x0020000E: b"1.2.2\0",
}
PIXELS = b"\1\2\3\4" * 8


def data_set(*more: bytes, pixels: bool = True) -> bytes:
    """A small image in explicit VR; more elements go where they belong, by their tags."""
    made = [el(tag, "LO" if tag == 0x00100020 else "UI", value) for tag, value in IDENTITY.items()] + list(more)
    made += [el(0x7FE00010, "OW", PIXELS)] if pixels else []
    return b"".join(sorted(made, key=lambda data: struct.unpack_from("<HH", data)))


def implicit_data_set(*more: bytes) -> bytes:
    made = [implicit(tag, value) for tag, value in IDENTITY.items()] + list(more) + [implicit(0x7FE00010, PIXELS)]
    return b"".join(sorted(made, key=lambda data: struct.unpack_from("<HH", data)))


def uid(value: str) -> bytes:
    return value.encode() + b"\0" * (len(value) % 2)


def meta(syntax: str = EXPLICIT, *more: bytes) -> bytes:
    content = el(0x00020002, "UI", CLASS) + el(0x00020010, "UI", uid(syntax)) + b"".join(more)
    return el(0x00020000, "UL", struct.pack("<L", len(content))) + content


def part10(data: bytes, head: bytes | None = None) -> bytes:
    return bytes(128) + b"DICM" + (meta() if head is None else head) + data


def sent(data: bytes) -> bytes:
    """The bytes that the importer would send."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        return b"".join(stamp(read_instance(file, SCRATCH), "north", SCRATCH).chunks())


def refusal(data: bytes) -> RejectedError:
    with pytest.raises(RejectedError) as refused:
        sent(data)
    return refused.value


STAMPED = sent(part10(data_set()))


# --- value representations ------------------------------------------------------------------------------------------
UNKNOWN_VRS = ["ZZ", "??", "ox", "OX", "AA", "  ", "lo", "px", "\0\0", "\x18\0"]


@pytest.mark.parametrize("vr", UNKNOWN_VRS)
@pytest.mark.parametrize("where", ["item", "file meta information"])
def test_an_unknown_vr_is_refused_inside_of_others(vr: str, where: str) -> None:
    """DCMTK reads 16 or 32 bits of length, by the letters; others otherwise: one of them finds other elements."""
    odd = el(0x00091001, vr, b"\4\0\0\0")
    if where == "item":
        data = part10(data_set(el(0x0040A730, "SQ", item(odd))))
    else:
        data = part10(data_set(), meta(EXPLICIT, el(0x00020012, vr, b"1.2.3.")))
    refused = refusal(data)
    assert refused.reason == "damaged"
    tag = "(0009,1001)" if where == "item" else "(0002,0012)"
    assert re.search(re.escape(tag) + " at byte .*which DICOM does not know", refused.detail)


def unknown(tag: int, vr: str, value: bytes, wide: bool) -> bytes:
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode("latin-1")
    return head + (b"\0\0" + struct.pack("<L", len(value)) if wide else struct.pack("<H", len(value))) + value


@pytest.mark.parametrize("wide", [False, True], ids=["16 bits", "32 bits"])
@pytest.mark.parametrize("vr", UNKNOWN_VRS)
def test_an_unknown_vr_with_one_reading_is_written_as_un(vr: str, wide: bool) -> None:
    """Several, of one width; a group length that would be untrue goes."""
    values = {0x00091001: b"ab", 0x00091002: b"", 0x00280006: b"\0\0", 0x00291010: b"\7" * 300}
    made = [unknown(tag, vr, value, wide) for tag, value in values.items()]
    made.append(el(0x00090000, "UL", struct.pack("<L", 26 if wide else 18)))
    read = pydicom.dcmread(io.BytesIO(sent(part10(data_set(*made)))))
    for tag, value in values.items():
        raw = read.get_item(tag)
        assert (raw.VR, raw.value or b"") == ("UN", value)
    assert (0x00090000 in read) == wide


@pytest.mark.parametrize(
    ("tag", "vr", "value"),
    [
        (0x00200013, "IS", b"99999999999999"),
        (0x00200013, "IS", b"1.5 "),
        (0x00720082, "SV", struct.pack("<q", -(2**60) - 1)),
        (0x00720083, "UV", struct.pack("<Q", 2**64 - 1)),
        (0x00720072, "DS", b"12345678901234567.123456789 "),
    ],
)
def test_numbers_beyond_what_metadata_can_tell_are_stored_as_delivered(tag: int, vr: str, value: bytes) -> None:
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode()
    odd = head + (b"\0\0" + struct.pack("<L", len(value)) if vr in ("SV", "UV") else struct.pack("<H", len(value)))
    assert odd + value in sent(part10(data_set(odd + value)))


def test_an_unknown_vr_with_two_readings_is_refused() -> None:
    """With a length of 16 bits it hides nothing; with one of 32 bits the identifiers of another study."""
    rest = data_set(el(0x00080005, "CS", b"ISO_IR 192"))
    hidden = el(0x00291010, "OB", data_set())
    odd = struct.pack("<HH", 0x0007, 0x1001) + b"ZZ" + struct.pack("<HL", 4, len(rest) + 12)
    refused = refusal(part10(odd + rest + hidden))
    assert (refused.reason, "two ways" in refused.detail) == ("unknown-vr", True)


@pytest.mark.parametrize("tag", [0x00080018, 0x00100020, 0x0020000D, 0x7FE00010])
def test_who_an_image_is_is_never_guessed(tag: int) -> None:
    data = part10(data_set())
    at = data.index(struct.pack("<HH", tag >> 16, tag & 0xFFFF), 200)
    refused = refusal(data[: at + 4] + b"??" + data[at + 6 :])
    assert (refused.reason, "guessed" in refused.detail) == ("unknown-vr", True)


def test_unknown_vrs_cost_no_more_than_they_may() -> None:
    """So many that each reading of each had to be tried for each of those before it."""
    many = b"".join(unknown(0x00091001 + 2 * number, "??", b"\0" * 4, bool(number % 2)) for number in range(2000))
    began = time.process_time()
    assert refusal(part10(data_set(many))).reason == "unknown-vr"
    assert time.process_time() - began < 1


@pytest.mark.parametrize("tag", [0x0020000D, 0x0020000E, 0x00080018, 0x00100020])
def test_an_identifier_that_stands_twice_is_refused(tag: int) -> None:
    again = el(tag, "LO" if tag == 0x00100020 else "UI", b"1.2.9\0")
    for data in (data_set(again), data_set() + again, again + data_set()):
        assert refusal(part10(data)).reason == "damaged"


def test_an_element_twice_in_an_item_is_refused() -> None:
    twice = item(el(0x00080100, "SH", b"A ") + el(0x00080102, "SH", b"B ") + el(0x00080100, "SH", b"C "))
    assert "twice" in refusal(part10(data_set(el(0x0040A730, "SQ", twice)))).detail


def test_elements_are_put_in_order_and_nothing_else_changes() -> None:
    elements = [el(0x0020000E, "UI", b"1.2.2\0"), el(0x7FE00010, "OW", PIXELS), el(0x00080018, "UI", b"1.2.3\0")]
    elements += [el(0x00080016, "UI", CLASS), el(0x00100020, "LO", b"P1"), el(0x0020000D, "UI", b"1.2.1\0")]
    assert sent(part10(b"".join(elements))) == STAMPED


def test_the_order_within_an_item_is_left_alone() -> None:
    """DCMTK sorts it while it reads, and no identifier of the image is in an item."""
    sequence = el(0x0040A730, "SQ", item(el(0x00080102, "SH", b"B ") + el(0x00080100, "SH", b"A ")))
    assert sequence in sent(part10(data_set(sequence)))


# --- sequences ------------------------------------------------------------------------------------------------------
CODE = el(0x00080100, "SH", b"AB")
OPEN = el(0x0040A730, "SQ", item(CODE, UNDEFINED), UNDEFINED)


@pytest.mark.parametrize(
    "sequence",
    [
        el(0x0040A730, "SQ", item(CODE) + b"\0\0\0\0"),
        el(0x0040A730, "SQ", item(CODE), 24),
        el(0x0040A730, "SQ", item(CODE, 8) + b"AB"),
        el(0x0040A730, "SQ", item(CODE, 12)),
        el(0x0040A730, "SQ", item(CODE, UNDEFINED)),
        el(0x0040A730, "SQ", item(CODE) + END_OF_SEQUENCE),
        el(0x0040A730, "SQ", item(CODE + END_OF_ITEM)),
        el(0x0040A730, "SQ", item(CODE + END_OF_SEQUENCE)),
        el(0x0040A730, "SQ", item(CODE) + CODE),
        el(0x0040A730, "SQ", CODE),
        el(0x0040A730, "SQ", END_OF_SEQUENCE),
        el(0x0040A730, "SQ", item(OPEN, 40)),
        OPEN + END_OF_SEQUENCE,
        OPEN + END_OF_ITEM + END_OF_ITEM,
        OPEN + implicit(0xFFFEE00D, length=4) + END_OF_SEQUENCE,
        OPEN + END_OF_ITEM + implicit(0xFFFEE0DD, length=8),
        el(0x0040A730, "LO", CODE, 0xFFFF),
        el(0x0040A730, "OB", item(CODE) + END_OF_SEQUENCE, UNDEFINED),
        el(0x0040A730, "UT", item(CODE) + END_OF_SEQUENCE, UNDEFINED),
        el(0x0040A730, "UN", item(CODE) + END_OF_SEQUENCE, UNDEFINED),
        item(CODE),
        END_OF_ITEM,
        END_OF_SEQUENCE,
        el(0x00000010, "US", b"\0\0"),
        el(0x00020010, "UI", b"1.2\0"),
    ],
)
def test_what_does_not_fill_its_place_exactly_is_refused(sequence: bytes) -> None:
    assert refusal(part10(data_set() + sequence)).reason in ("damaged", "truncated")
    between = data_set(pixels=False) + sequence + el(0x7FE00010, "OW", PIXELS)
    assert refusal(part10(between)).reason in ("damaged", "truncated")


@pytest.mark.parametrize("tag", [0x0040A730, 0x00091001, 0x00091010], ids=["known", "private", "private too"])
@pytest.mark.parametrize(
    "value",
    [
        item(implicit(0x00080100, b"AB"), UNDEFINED),
        item(implicit(0x00080100, b"AB")) + b"\0\0",
        item(implicit(0x00080100, b"AB", 20)),
        item(CODE),
        END_OF_SEQUENCE + implicit(0x0020000D, b"1.2.9\0"),
    ],
)
def test_in_implicit_vr_what_may_be_a_sequence_must_be_one(tag: int, value: bytes) -> None:
    """Whether it is one says the dictionary, and DCMTK's knows other private elements than ours."""
    data = implicit_data_set(implicit(tag, value))
    assert refusal(part10(data, meta(IMPLICIT))).reason == "damaged"
    assert implicit(0x00091001, b"any bytes ") in sent(
        part10(implicit_data_set(implicit(0x00091001, b"any bytes ")), meta(IMPLICIT))
    )


@pytest.mark.parametrize("kind", ["defined", "undefined", "UN"])
@pytest.mark.parametrize(("levels", "passes"), [(32, True), (33, False), (50, False), (20_000, False)])
def test_at_most_32_sequences_stand_in_each_other(kind: str, levels: int, passes: bool) -> None:
    if kind == "defined":
        size = levels * 20
        inner = b"".join(el(0x0040A730, "SQ", item(b"", size - 20 * n - 20), size - 20 * n - 12) for n in range(levels))
    elif kind == "undefined":
        inner = (
            el(0x0040A730, "SQ", item(b"", UNDEFINED), UNDEFINED) * levels + (END_OF_ITEM + END_OF_SEQUENCE) * levels
        )
    else:
        opened = implicit(0x0040A730, item(b"", UNDEFINED), UNDEFINED) * (levels - 1)
        inner = (
            el(0x0040A730, "UN", item(b"", UNDEFINED), UNDEFINED) + opened + (END_OF_ITEM + END_OF_SEQUENCE) * levels
        )
    if passes:
        assert inner in sent(part10(data_set(inner)))
    else:
        assert "nested deeper than 32" in refusal(part10(data_set(inner))).detail


def test_a_million_elements_are_the_most() -> None:
    items = el(0x0040A730, "SQ", item() * 1_000_001)
    assert "1,000,000" in refusal(part10(data_set(items))).detail


def test_elements_without_number_do_not_fill_the_memory(tmp_path: Path) -> None:
    """A batch of small files that are nothing but elements."""
    tags = [group << 16 | number for group in range(0x41, 0x49, 2) for number in range(0x1000, 0x1000 + 15_000)]
    for number in range(2):
        (tmp_path / f"{number}.dcm").write_bytes(part10(data_set(b"".join(el(tag, "LO") for tag in tags))))
    tracemalloc.start()
    with batch_of(tmp_path, "0.dcm", "1.dcm") as batch:
        held, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(batch.instances) == 2
    assert held < 5 << 20
    assert highest < 60 << 20


# --- file meta information ------------------------------------------------------------------------------------------
def test_exact_file_meta_information_stays_byte_for_byte() -> None:
    head = meta(EXPLICIT, el(0x00020012, "UI", b"1.2.9\0"), el(0x00020102, "OB", b"private "))
    assert sent(part10(data_set(), head)) == part10(b"", head) + STAMPED[len(part10(b"")) :]


@pytest.mark.parametrize(
    "head",
    [
        meta()[12:],
        el(0x00020000, "UL", struct.pack("<L", 0)) + meta()[12:],
        el(0x00020000, "UL", struct.pack("<L", 30)) + meta()[12:],
        el(0x00020000, "UL", struct.pack("<L", 4000)) + meta()[12:],
        el(0x00020000, "UI", b"1.2\0") + meta()[12:],
        el(0x00020000, "UL", b"") + meta()[12:],
        meta()[12:] + meta()[:12],
        meta()[:12] + el(0x00020010, "UI", uid(EXPLICIT)) + el(0x00020002, "UI", CLASS),
        meta(EXPLICIT, el(0x00020002, "UI", CLASS)),
    ],
    ids=["none", "0", "short", "long", "a UID", "empty", "at the end", "out of order", "an element twice"],
)
def test_file_meta_information_is_written_anew_with_a_true_length(head: bytes) -> None:
    assert sent(part10(data_set(), head)) == STAMPED


def test_file_meta_information_that_says_two_things_is_refused() -> None:
    assert refusal(part10(data_set(), meta(EXPLICIT, el(0x00020010, "UI", uid(IMPLICIT))))).reason == "damaged"


@pytest.mark.parametrize(
    "syntax",
    [
        "1.2.840.10008.1.2.9",
        "1.2.840.113619.5.2",
        "1.2.3",
        "1.2.840.10008.1.2.1\\1.2.840.10008.1.2",
        "1.2.840.10008.1.2.4.95",
    ],
)
def test_a_transfer_syntax_that_is_none_is_refused(syntax: str) -> None:
    refused = refusal(part10(data_set(), meta(syntax)))
    assert (refused.reason, refused.detail) == ("unknown-transfer-syntax", syntax)


@pytest.mark.parametrize(("named", "written"), [(EXPLICIT, IMPLICIT), (IMPLICIT, EXPLICIT)])
def test_the_file_meta_information_names_how_the_data_set_is_written(named: str, written: str) -> None:
    data = data_set() if written == EXPLICIT else implicit_data_set()
    assert sent(part10(data, meta(named))) == sent(part10(data, meta(written)))


def test_a_first_element_from_which_the_encoding_would_be_guessed_wrong_is_refused() -> None:
    """DCMTK guesses where it does not know the transfer syntax; (0004,6105) looks like (0400,0561) in big endian."""
    data = part10(el(0x00046105, "LO", b"ABCD") + data_set(), meta("1.2.840.10008.1.2.7.1"))
    assert refusal(data).reason == "damaged"


@pytest.mark.parametrize("vr", ["ZZ", "??"])
def test_an_unknown_vr_of_the_first_element_is_no_implicit_vr(vr: str) -> None:
    refused = refusal(part10(el(0x00080005, vr, b"ISO_IR 100") + data_set() + bytes(1 << 20)))
    assert f"'{vr}'" in refused.detail


@pytest.mark.parametrize(
    "syntax", [f"{IMPLICIT}{' ' * 160}.1", f"{IMPLICIT} .1", f"{IMPLICIT}\0.1", f" {IMPLICIT}", f"\0{IMPLICIT}"]
)
def test_what_is_not_plainly_one_transfer_syntax_is_refused(syntax: str) -> None:
    """DCMTK takes blanks out of UIDs, wherever they are, and ends at a zero byte."""
    assert refusal(part10(implicit_data_set(), meta(syntax))).reason == "unknown-transfer-syntax"


def test_compressed_pixels_in_implicit_vr_are_refused() -> None:
    assert refusal(part10(implicit_data_set(), meta("1.2.840.10008.1.2.4.50"))).reason == "damaged"


def test_fragments_need_a_transfer_syntax_that_has_them() -> None:
    pixels = el(0x7FE00010, "OB", item() + item(b"\xff\xd8") + END_OF_SEQUENCE, UNDEFINED)
    data = data_set(pixels, pixels=False)
    assert refusal(part10(data)).reason == "damaged"
    assert pixels in sent(part10(data, meta("1.2.840.10008.1.2.4.50")))


# --- what is left over ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("count", [1, 2, 7, 8, 12, 5000, 200_000])
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_zero_bytes_behind_the_last_element_are_cut_off(count: int, syntax: str) -> None:
    whole = part10(data_set() if syntax == EXPLICIT else implicit_data_set(), meta(syntax))
    assert sent(whole + bytes(count)) == sent(whole)


@pytest.mark.parametrize("rest", [b"x", b"\0\0\0\1", bytes(20) + b"x", b"DICM" * 20, data_set()])
def test_anything_else_behind_it_is_refused(rest: bytes) -> None:
    assert refusal(part10(data_set()) + rest).reason in ("damaged", "truncated")


@pytest.mark.parametrize("size", [1, 2, 6])
def test_half_a_tag_is_refused_before_orthanc_refuses_it_without_a_word(size: int) -> None:
    odd, whole = el(0x00280009, "AT", bytes(size)), el(0x00280009, "AT", bytes(8))
    assert refusal(part10(data_set() + odd)).reason == "damaged"
    assert refusal(part10(data_set() + el(0x0040A730, "SQ", item(odd)))).reason == "damaged"
    implicit_odd = implicit(0x00280009, bytes(size))
    assert refusal(part10(implicit_data_set() + implicit_odd, meta(IMPLICIT))).reason == "damaged"
    assert whole in sent(part10(data_set() + whole))


@pytest.mark.parametrize("rest", [b"\r\n", b"\x1a", b" " * 10, b"END OF FILE.", b"\xff" * 9])
def test_what_a_program_adds_behind_the_pixels_is_not_taken_for_a_copy_that_broke_off(rest: bytes) -> None:
    pixels = el(0x7FE00010, "OW", bytes(32))
    assert refusal(part10(data_set() + pixels) + rest).reason == "damaged"
    assert refusal(part10(data_set() + pixels) + el(0xFFFCFFFC, "OB", bytes(8))[:-2]).reason == "truncated"


@pytest.mark.parametrize("length", [struct.pack("<L", 7), struct.pack("<L", 0), b"", b"1234"])
def test_a_group_length_that_is_not_true_is_dropped(length: bytes) -> None:
    assert sent(part10(data_set(el(0x00080000, "UL", length)))) == STAMPED


def deflated(data: bytes) -> bytes:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return deflater.compress(data) + deflater.flush()


def test_a_deflated_data_set_is_treated_alike() -> None:
    odd = el(0x00080000, "UL", b"1234") + data_set() + bytes(10)
    exact = sent(part10(deflated(data_set()), meta(DEFLATED)))
    assert sent(part10(deflated(odd), meta(DEFLATED))) == exact
    assert sent(exact) == exact
    assert sent(exact + bytes(2)) == exact
    assert refusal(part10(deflated(data_set(el(0x00091001, "ZZ", length=0xFFFF))), meta(DEFLATED))).reason == "damaged"
    fragments = el(0x7FE00010, "OB", item(b"") + item(b"ab") + END_OF_SEQUENCE, UNDEFINED)
    header, _, _ = data_set().partition(b"\xe0\x7f\x10\x00")
    assert "fragments" in refusal(part10(deflated(header + fragments), meta(DEFLATED))).detail
    assert refusal(exact + bytes(100)).reason == "damaged"


# --- identifiers ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("tag", [0x0020000D, 0x0020000E, 0x00080018, 0x00080016])
@pytest.mark.parametrize(
    "value",
    [
        b"1.2\\1.3",
        b" 1.2.3",
        b"1.2 .3",
        b"1.2\0.3",
        b"1.2.3\0x",
        "1.2.٣".encode(),
        b"1.2.\xb9",
        b"1." + b"2" * 64,
        b"1.2" + b" " * 160 + b".4",
        b"\t1.2",
    ],
)
def test_what_is_not_plainly_one_uid_is_refused(tag: int, value: bytes) -> None:
    others = b"".join(el(other, "UI", IDENTITY[other]) for other in sorted(IDENTITY) if other not in (tag, 0x00100020))
    assert refusal(part10(el(tag, "UI", value) + others)).reason == "invalid-identifiers"


def test_a_uid_behind_a_million_blanks_is_not_overlooked() -> None:
    data = implicit_data_set().replace(
        implicit(0x0020000D, b"1.2.1\0"), implicit(0x0020000D, b"1.2" + b" " * (2 << 20) + b".9")
    )
    assert refusal(part10(data, meta(IMPLICIT))).reason == "invalid-identifiers"


@pytest.mark.parametrize("vr", ["OB", "LO", "UT", "US", "SQ"])
def test_a_uid_that_is_written_as_something_else_is_refused(vr: str) -> None:
    others = b"".join(
        el(other, "UI", IDENTITY[other]) for other in sorted(IDENTITY) if other not in (0x0020000D, 0x00100020)
    )
    value = item() if vr == "SQ" else b"1.2.1\0"
    assert refusal(part10(others + el(0x0020000D, vr, value))).reason == "damaged"


@pytest.mark.parametrize(("vr", "value"), [("US", b"\1\0"), ("LT", b"x" * 258)])
def test_a_patient_id_that_cannot_be_one_is_refused(vr: str, value: bytes) -> None:
    patient = el(0x00100020, vr, value)
    assert refusal(part10(data_set().replace(el(0x00100020, "LO", b"P1"), patient))).reason == "damaged"


# --- the stamp ------------------------------------------------------------------------------------------------------
def test_bytes_that_look_like_a_stamp_are_none() -> None:
    """They are in a value of another item, and everything that the stamp checks is checked nevertheless."""
    at = STAMPED.index(b"\x18\x00\x01\xa0SQ")
    stamp_ = STAMPED[at + 12 : STAMPED.index(b"\x20\x00\x0d\x00UI")]
    fake = el(0x0018A001, "SQ", item(el(0x00091001, "UN", stamp_)))
    after = sent(part10(data_set(el(0x00080080, "LO", b"north "), fake)))
    assert after.count(stamp_) == 2
    assert refusal(STAMPED.replace(b"\x20\x00\x0e\x00UI", b"\x20\x00\x0e\x00ZZ")).reason == "unknown-vr"
    assert sent(STAMPED) == STAMPED


@pytest.mark.parametrize("tag", [0x0018A001, 0x04000561])
@pytest.mark.parametrize("vr", ["LO", "OB", "UT"])
def test_a_sequence_to_be_stamped_that_is_none_is_refused(tag: int, vr: str) -> None:
    """The stamp would be written over its VR and length."""
    assert refusal(part10(data_set(el(tag, vr, b"ABCD")))).reason == "damaged"


@pytest.mark.parametrize("name", [el(0x00080080, "SQ", item()), el(0x00080080, "US", b"\0\0")])
def test_an_institution_name_that_is_no_text_is_refused(name: bytes) -> None:
    assert refusal(part10(data_set(name))).reason == "damaged"


# --- what was checked is what is sent -------------------------------------------------------------------------------
@contextmanager
def batch_of(folder: Path, *names: str, limits: Limits | None = None) -> Iterator[Batch]:
    files = iter([FileOutcome(name, Outcome.PENDING) for name in names])
    batch = read_batch(Source(folder, "north", folder, limits or Limits()), files, 16 << 20, 50)
    try:
        yield batch
    finally:
        batch.close()


@pytest.mark.parametrize("size", [0, 5 << 20], ids=["small", "large"])
@pytest.mark.parametrize("how", ["overwritten", "truncated", "replaced"])
def test_a_sender_who_keeps_the_file_open_changes_nothing_that_was_read(tmp_path: Path, size: int, how: str) -> None:
    data = part10(data_set(el(0x00091001, "OB", bytes(size))))
    path = tmp_path / "a.dcm"
    path.write_bytes(data)
    with path.open("r+b") as sender, batch_of(tmp_path, "a.dcm") as batch:
        if how == "overwritten":
            sender.write(data.replace(b"1.2.1\0", b"1.9.9\0"))
            sender.flush()
            os.fsync(sender.fileno())
        elif how == "truncated":
            sender.truncate(100)
        else:
            (tmp_path / "b").write_bytes(b"another")
            (tmp_path / "b").rename(path)
        (prepared,) = batch.instances
        assert b"".join(prepared.body.chunks()) == sent(data)
        assert prepared.instance.study_uid == "1.2.1"
    assert {entry.name for entry in tmp_path.iterdir()} == {"a.dcm"}, "copies have no name and end with the batch"


def test_copies_of_what_is_refused_are_not_kept(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number}.dcm").write_bytes(part10(data_set() + b"x" * 1000))
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a kernel's directory
    with batch_of(tmp_path, *(f"{number}.dcm" for number in range(30))) as batch:
        assert len(batch.outcomes) == 30
        assert len(os.listdir("/proc/self/fd")) <= before + 1  # noqa: PTH208


def test_a_large_copy_is_not_held_in_memory(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(part10(data_set(el(0x00091001, "OB", bytes(200 << 20)))))
    tracemalloc.start()
    with batch_of(tmp_path, "a.dcm") as batch:
        assert sum(len(chunk) for chunk in batch.instances[0].body.chunks()) > 200 << 20
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert not str(Path(f"/proc/self/fd/{batch.instances[0].instance.file.fileno()}").readlink()).startswith(
            "/memfd"
        )
    assert highest < 10 << 20


# --- sizes ----------------------------------------------------------------------------------------------------------
def test_an_image_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "a.dcm").open("wb") as file:
        file.write(part10(data_set()))
        file.truncate(1 << 40)  # it would take hours
    with batch_of(tmp_path, "a.dcm") as batch:
        (outcome,) = batch.outcomes
    assert (outcome.reason, outcome.detail) == (
        "too-large",
        "it has 1,048,576 MiB; at most 590 MiB are taken in one file",
    )


def test_the_stamp_counts(tmp_path: Path) -> None:
    data = part10(data_set())
    (tmp_path / "a.dcm").write_bytes(data)
    with batch_of(tmp_path, "a.dcm", limits=Limits(len(data), 1 << 30)) as batch:
        assert [outcome.reason for outcome in batch.outcomes] == ["too-large"]
        assert not batch.instances


def test_what_is_no_image_may_have_any_size(tmp_path: Path) -> None:
    with (tmp_path / "a.mp4").open("wb") as file:
        file.write(b"\0\0\0\x18ftypmp42" * 50)
        file.truncate(1 << 40)
    with batch_of(tmp_path, "a.mp4") as batch:
        assert [outcome.outcome for outcome in batch.outcomes] == [Outcome.KEPT]


@pytest.mark.parametrize(("size", "limits"), [(300 << 20, Limits()), (12 << 20, Limits(1 << 30, 8 << 20))])
def test_what_grows_too_much_is_refused_while_it_is_inflated(tmp_path: Path, size: int, limits: Limits) -> None:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = deflater.compress(data_set(pixels=False) + el(0x7FE00010, "OW", b"", size))
    bomb += b"".join(deflater.compress(bytes(1 << 20)) for _ in range(size >> 20)) + deflater.flush()
    assert len(bomb) < 1 << 20
    (tmp_path / "a.dcm").write_bytes(part10(bomb, meta(DEFLATED)))
    with batch_of(tmp_path, "a.dcm", limits=limits) as batch:
        (outcome,) = batch.outcomes
    assert outcome.reason == "too-large-inflated"
    assert "MiB grow beyond" in (outcome.detail or "")


def test_blank_images_may_shrink_a_lot() -> None:
    blank = data_set(el(0x7FE00010, "OW", bytes(12 << 20)), pixels=False)
    assert sent(part10(deflated(blank), meta(DEFLATED)))


def test_text_of_any_kind_is_still_a_companion() -> None:
    with pytest.raises(CompanionError):
        sent(b"text" * 100)


def test_what_the_role_writes_is_read(tmp_path: Path) -> None:
    role = Path(__file__).parents[3] / "roles/importer"
    values = yaml.safe_load((role / "defaults/main.yml").read_text()) | {
        "importer_orthanc_url": "http://127.0.0.1:8042",
        "importer_registry_host": "127.0.0.1",
        "importer_registry_port": 5432,
        "importer_listen_address": "127.0.0.1",
        "importer_listen_port": 8080,
        "importer_public_url": "https://imaging.test/dicom-web/",
        "importer_instance_max_mb": 5,
        "importer_quotas": {"north": 500},
        "importer_charsets": {"north": "koi8-r"},
    }
    toml = jinja2.Template((role / "templates/importer.toml.j2").read_text()).render(values)
    (tmp_path / "importer.toml").write_text(toml)
    read = config.load(tmp_path / "importer.toml")
    assert read.image_limits == Limits(5 << 20, 5 << 20)
    assert (read.quotas, read.charsets) == ({"north": 500 * 10**9}, {"north": "koi8-r"})


def test_a_batch_is_as_large_as_what_orthanc_unpacks(tmp_path: Path) -> None:
    """200 parts of 16 KiB, each of 15 MiB inflated, were one batch: Orthanc took 3 GB for an upload of 3 MB."""
    largest = 1 << 20
    for number in range(5):
        identifiers = {0x00080016: b"1.2\0", 0x00080018: b"1.%d\0" % number, 0x0020000D: b"1.2\0", 0x0020000E: b"1.3\0"}
        dataset = b"".join(el(tag, "UI", uid) for tag, uid in identifiers.items()) + el(
            0x7FE00010, "OW", bytes(largest)
        )
        deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        data = deflater.compress(dataset) + deflater.flush()
        (tmp_path / str(number)).write_bytes(bytes(128) + b"DICM" + el(0x00020010, "UI", DEFLATED.encode()) + data)
    source = Source(tmp_path, "north", tmp_path, Limits())
    files = (FileOutcome(str(number), Outcome.PENDING) for number in range(5))
    with closing(read_batch(source, files, 2 * largest, 100)) as batch:
        assert (len(batch.instances), batch.outcomes) == (2, [])
    # All five: of some, the end of a mebibyte of output is the end of the input.
    files = (FileOutcome(str(number), Outcome.PENDING) for number in range(5))
    with closing(read_batch(source, files, 9 * largest, 100)) as batch:
        assert (len(batch.instances), batch.outcomes) == (5, [])
