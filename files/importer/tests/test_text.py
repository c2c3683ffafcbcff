# ruff: noqa: E501, RUF001 - Cyrillic letters are what it is about
"""Names and PatientIDs are read once, here, and stored so that every program reads the same.

Each rule of imaging_importer.dicom.charsets and .correction, with pydicom as the independent reader of what comes out.
"""

from __future__ import annotations

import io
import itertools
import os
import random
import struct
import subprocess
import tempfile
import time
import tracemalloc
from pathlib import Path

import pydicom
import pytest
import yaml
from imaging_importer.dicom.charsets import FOREIGN, Reader, declared, decode, guess, marked
from imaging_importer.dicom.correction import NOTE
from imaging_importer.dicom.elements import (
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    Encoding,
    encode_element,
    encode_item,
)
from imaging_importer.dicom.instance import Instance, read_instance
from imaging_importer.dicom.stamp import former, stamp
from imaging_importer.reasons import RejectedError
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from real_files import real_files
from test_compatibility import CORRECTED

SCRATCH = Path(tempfile.gettempdir())
CLINIC = "denscan-central"
MARK = "\N{REPLACEMENT CHARACTER}"
CYRILLIC = {"windows-1251": "cp1251", "rk1048": "kz1048", "iso-8859-5": "iso8859_5", "koi8-r": "koi8_r"}


Item = dict[str, "bytes | list[Item]"]
ENCODINGS = {
    ExplicitVRLittleEndian: EXPLICIT_LITTLE,
    ExplicitVRBigEndian: EXPLICIT_BIG,
    ImplicitVRLittleEndian: IMPLICIT_LITTLE,
}


def made(
    charset: bytes | None = None,
    syntax: str = ExplicitVRLittleEndian,
    undefined: bool = False,
    **values: bytes | list[Item],
) -> bytes:
    """A file whose values have exactly these bytes; `undefined`: the lengths of sequences and items."""
    identity = {
        "SOPClassUID": b"1.2.840.10008.5.1.4.1.1.7\0",
        "SOPInstanceUID": b"1.2.3\0",
        "StudyInstanceUID": b"1.2.1\0",
        "SeriesInstanceUID": b"1.2.2\0",
        "PatientID": b"P1",
    }
    named = {} if charset is None else {"SpecificCharacterSet": charset}
    meta = encode_element(EXPLICIT_LITTLE, 0x00020010, b"UI", syntax.encode() + b"\0" * (len(syntax) % 2))
    head = (
        bytes(128) + b"DICM" + encode_element(EXPLICIT_LITTLE, 0x00020000, b"UL", struct.pack("<L", len(meta))) + meta
    )
    return head + data_set(ENCODINGS[syntax], identity | named | values, undefined)


def data_set(encoding: Encoding, values: Item, undefined: bool) -> bytes:
    data = b""
    for tag, value in sorted((tag_for_keyword(keyword), value) for keyword, value in values.items()):
        vr = b"OB" if tag == 0x7FE00010 else dictionary_VR(tag).encode()
        if isinstance(value, bytes):
            data += encode_element(encoding, tag, vr, value + b" " * (len(value) % 2))
            continue
        items = [data_set(encoding, item, undefined) for item in value]
        if not undefined:
            data += encode_element(encoding, tag, vr, b"".join(encode_item(encoding, item) for item in items))
            continue
        mark = struct.Struct(encoding.order + "HHL").pack
        wrapped = b"".join(mark(0xFFFE, 0xE000, 0xFFFFFFFF) + item + mark(0xFFFE, 0xE00D, 0) for item in items)
        head = encode_element(encoding, tag, vr, b"")[:-4] + b"\xff\xff\xff\xff"
        data += head + wrapped + mark(0xFFFE, 0xE0DD, 0)
    return data


def corrected(data: bytes, charset: str = "") -> tuple[Dataset, Instance, bytes]:
    """The stored text, as pydicom reads it, the instance, and the bytes."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        instance = read_instance(file, SCRATCH)
        after = b"".join(stamp(instance, CLINIC, SCRATCH, charset).chunks())
    return pydicom.dcmread(io.BytesIO(after)), instance, after


def as_before(data: bytes) -> bytes:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        return b"".join(former(read_instance(file, SCRATCH), CLINIC, SCRATCH).chunks())


def stays(data: bytes) -> bool:
    """Whether its text is stored as it was delivered."""
    _, instance, after = corrected(data)
    return NOTE not in instance.notes and after == as_before(data)


# --- which character set --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("charset", "name", "read"),
    [
        (b"ISO 2022 IR 6\\ISO 2022 IR 144", b"\x1b-L" + "Иванова".encode("iso8859-5") + b"^\x1b-L" + "Асель".encode("iso8859-5"), "Иванова^Асель"),
        (b"\\ISO 2022 IR 144", b"\x1b-L" + "Иванова".encode("iso8859-5") + b"^" + "Асель".encode("iso8859-5"), "Иванова^Асель"),
        (b"\\ISO 2022 IR 144", "Иванова^Асель".encode("iso8859-5"), "Иванова^Асель"),
        (b"ISO 2022 IR 6\\ISO 2022 IR 87", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", "Yamada^Tarou=山田^太郎"),
        (b"", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", "Yamada^Tarou=山田^太郎"),
        (b"ISO 2022 IR 13\\ISO 2022 IR 87", "ﾔﾏﾀﾞ".encode("shift_jis") + b"=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J", "ﾔﾏﾀﾞ=山田^太郎"),
        (b"\\ISO 2022 IR 149", b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab", "Hong^Gildong=洪^吉洞=홍"),
        (b"\\ISO 2022 IR 58", b"Zhang=\x1b$)A" + "张".encode("gb2312"), "Zhang=张"),
        (b"ISO 2022 IR 100\\ISO 2022 IR 144\\ISO 2022 IR 126", "Ülo".encode("latin-1") + b"^\x1b-L" + "Иван".encode("iso8859-5") + b" \x1b-F" + "Διον".encode("iso8859-7"), "Ülo^Иван Διον"),
        (None, "Иванова^Асель".encode("cp1251"), "Иванова^Асель"),
        (b"ISO_IR 6", "Иванова^Асель".encode("cp1251"), "Иванова^Асель"),
        (b"ISO_IR 192", "Иванова^Асель".encode("cp1251"), "Иванова^Асель"),
        (b"ISO_IR 100", "Иванова^Асель".encode("cp1251"), "Иванова^Асель"),
        (b"ISO_IR 100", "Әсел^Қайрат".encode("kz1048"), "Әсел^Қайрат"),
        (b"ISO_IR 144", "Иванова^Асель".encode("cp1251"), "Иванова^Асель"),
        (b"WINDOWS-1251", "Иванова^Асель".encode("cp1251"), "Иванова^Асель"),
        (b"cp1251", "Ива".encode("cp1251"), "Ива"),
        (b"KOI8-R", "Иванова^Асель".encode("koi8-r"), "Иванова^Асель"),
        (b"ISO_IR_144", "Иванова^Асель".encode("iso8859-5"), "Иванова^Асель"),
        (b"ISO-8859-5", "Иванова^Асель".encode("iso8859-5"), "Иванова^Асель"),
        (b"ISO_IR 1O0", "Иванова^Асель".encode("cp1251"), "Иванова^Асель"),
        (b"ISO_IR_192", "Иванова^Әсел".encode(), "Иванова^Әсел"),
        (b"UTF-8", "Иванова^Әсел".encode(), "Иванова^Әсел"),
        (b"\\ISO_IR 192", "Иванова^Әсел".encode(), "Иванова^Әсел"),
        (None, "Иванова^Әсел".encode(), "Иванова^Әсел"),
        (b"ISO_IR 100", "Иванова^Әсел".encode(), "Иванова^Әсел"),
        (b"ISO_IR 100", "Müller^Jürgen".encode(), "Müller^Jürgen"),
        (b"ISO_IR 144", "Сон".encode(), "Сон"),
        (b"WINDOWS-1251", "Иванова^Асель".encode(), "Иванова^Асель"),
        (b"ISO_IR 100", "O’Brien^Zoë".encode("cp1252"), "O’Brien^Zoë"),
        (b"ISO_IR 203", "Žižek^Œ".encode("iso8859-15"), "Žižek^Œ"),
        (b"GB18030", "Иванова^Мария".encode("cp1251"), "Иванова^Мария"),
        (b"GBK", "Кузнецов^Пётр".encode("koi8-r"), "Кузнецов^Пётр"),
        (b"GB18030", "Иванова^Мария".encode(), "Иванова^Мария"),
    ],
)  # fmt: skip
def test_a_name_is_read_wherever_its_bytes_allow(charset: bytes | None, name: bytes, read: str) -> None:
    ds, instance, after = corrected(made(charset, PatientName=name, PatientID=name))
    assert str(ds.PatientName) == read
    assert ds.PatientID == read == instance.patient_id
    assert ds.SpecificCharacterSet == "ISO_IR 192"
    assert instance.notes[NOTE].startswith("read as ")
    assert corrected(after)[2] == after, "what is exported and delivered again passes unchanged"


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        (b"WINDOWS-1251", b"IVANOV^IVAN"),
        (None, b"IVANOV^IVAN"),
        (b"ISO 2022 IR 6\\ISO 2022 IR 87", b"Yamada^Tarou"),
        (b"ISO_IR 192", "Иванова^Әсел".encode()),
        (b"ISO_IR 144", "Иванова^Асель".encode("iso8859-5")),
        (b"ISO_IR 144", "ИВАНОВ^ТАРАС".encode("iso8859-5")),
        (b"ISO_IR 144", "ТИХО".encode("iso8859-5")),
        (b"ISO_IR 100", "Müller^Jürgen".encode("latin-1")),
        (b"ISO_IR 100", "Ångström^Åsa".encode("latin-1")),
        (b"ISO_IR 100", "François^Noël".encode("latin-1")),
        (b"ISO_IR 100", "Öö^Ää".encode("latin-1")),
        (b"ISO_IR 101", "Dvořák^Łó".encode("iso8859-2")),
        (b"ISO_IR 148", "Çavuşoğlu".encode("iso8859-9")),
        (b"ISO_IR 126", "Διονυσιος".encode("iso8859-7")),
        (b"ISO_IR 138", "שרון".encode("iso8859-8")),
        (b"ISO_IR 127", "قباني".encode("iso8859-6")),
        (b"ISO_IR 166", "นามสกุล".encode("tis-620")),
        (b"ISO_IR 13", "ﾔﾏﾀﾞ^ﾀﾛｳ".encode("shift-jis")),
        (b"GB18030", "王^小东".encode("gb18030")),
        (b"GBK", "王^小东".encode("gbk")),
        (b"GB18030", "李^婷婷".encode("gb18030")),
        (b"GB18030", "罗艳^梓涵".encode("gb18030")),
    ],
)
def test_a_name_that_says_truly_how_it_is_written_stays_as_it_is(charset: bytes | None, name: bytes) -> None:
    """Byte for byte, and Orthanc reads what we read of the PatientID (each of these was tried)."""
    data = made(charset, PatientName=name, PatientID=name)
    assert stays(data)
    assert corrected(data)[1].patient_id == corrected(data)[0].PatientID


NAMES = (
    "Иванова^Асель", "ИВАНОВ^ПЁТР", "Петров^Иван^Сергеевич", "КУЗНЕЦОВА^АННА", "Ким", "ЦОЙ^ВИКТОР", "Ли^Сергей", "ШАЙХЫ^ЕРЛАН",
    "Щукина^Юлия", "Сатпаев^Каныш", "Ахметов^Нурлан", "ЖУМАБАЕВА^АЙГУЛЬ", "Иванов01", "Чехов", "ЯКОВЛЕВ", "Фёдоров^Фёдор",
)  # fmt: skip
KAZAKH = ("Қайрат^Нұрсұлтан", "ӘСЕЛ^ҒАЛИЯ", "Өмірбек^Гүлнар", "ҚОНАЕВ^ҰЛЖАН", "Нұрғалиева^Шәкәрім", "Тілеуберді")


@pytest.mark.parametrize("name", [*NAMES, *KAZAKH])
def test_cyrillic_without_a_name_is_found_out_from_the_letters(name: str) -> None:
    for codec in CYRILLIC.values() if name in NAMES else ["kz1048"]:
        found = guess([name.encode(codec)])
        assert found, codec
        assert name.encode(codec).decode(found) == name, codec


@pytest.mark.parametrize("name", ["Müller", "Ångström^Åsa", "François", "Ärzte", "Öberg^Zoë", "Üßü", "Éloïse^Björk"])
def test_latin_letters_are_not_taken_for_cyrillic_ones(name: str) -> None:
    assert guess([name.encode("latin-1")]) == ""
    ds, instance, _ = corrected(made(None, PatientName=name.encode("latin-1")))
    assert MARK in str(ds.PatientName)
    assert "marked" in instance.notes[NOTE]


def test_a_clinics_own_character_set_decides_where_none_is_named() -> None:
    for name, codec, text in (
        ("windows-1252", "cp1252", "Müller"), ("windows-1251", "cp1251", "Київ"), ("gb18030", "gb18030", "王小东"), ("koi8-r", "koi8-r", "ЛЕОН"),
    ):  # fmt: skip
        ds, instance, _ = corrected(made(None, PatientName=text.encode(codec)), name)
        assert str(ds.PatientName) == text
        assert instance.notes[NOTE] == f"read as {name}" or codec == "gb18030"
    true = made(b"ISO_IR 144", PatientName="Иванова".encode("iso8859-5"))
    assert str(corrected(true, "windows-1251")[0].PatientName) == "Иванова"
    assert str(corrected(made(None, PatientName="Иванова".encode()), "windows-1251")[0].PatientName) == "Иванова"


@pytest.mark.parametrize(
    ("own", "codec", "name"),
    [
        ("windows-1251", "cp1251", "Ан"), ("windows-1251", "cp1251", "Ли^Ян"), ("windows-1251", "cp1251", "Яхъяев^Ф"),
        ("rk1048", "kz1048", "Әл^Ли"), ("gb18030", "gb18030", "王^小东"), ("gb18030", "gb18030", "张"), ("euc-kr", "euc_kr", "김희중"),
    ],
)  # fmt: skip
def test_a_latin_set_that_a_clinic_does_not_write_is_untrue(own: str, codec: str, name: str) -> None:
    """Devices name ISO_IR 100 by themselves. A name in Latin letters stays one, whatever else the clinic writes."""
    assert str(corrected(made(b"ISO_IR 100", PatientName=name.encode(codec)), own)[0].PatientName) == name
    for latin in ("Müller^Jürgen", "Öz^Üç", "Åsa", "François"):
        ds, instance, _ = corrected(made(b"ISO_IR 100", PatientName=latin.encode("latin-1")), own)
        assert str(ds.PatientName) == latin
        assert NOTE not in instance.notes
    for signs in ("3×3 mm", "37°", "5 µm", "10²", "½", "kg/m²"):
        data = made(b"ISO_IR 100", StudyDescription=signs.encode("latin-1"))
        assert corrected(data, own)[0].StudyDescription == signs
    assert (
        str(corrected(made(b"ISO_IR 101", PatientName="Łó".encode("iso8859-2")), "windows-1252")[0].PatientName) == "Łó"
    )


@pytest.mark.parametrize("name", [b"ISO_IR 192", b"ISO_IR 144"])
def test_a_character_set_is_named_where_every_program_looks_for_it(name: bytes) -> None:
    """Orthanc does not read it in an element of VR UN, and would take the PatientID for another."""
    text = "Иванов01".encode("utf-8" if name == b"ISO_IR 192" else "iso8859-5")
    declared_ = encode_element(EXPLICIT_LITTLE, 0x00080005, b"CS", name)
    data = made(name, PatientID=text).replace(declared_, encode_element(EXPLICIT_LITTLE, 0x00080005, b"UN", name))
    ds, instance, after = corrected(data)
    assert (ds.PatientID, instance.patient_id) == ("Иванов01", "Иванов01")
    assert encode_element(EXPLICIT_LITTLE, 0x00080005, b"CS", b"ISO_IR 192") in after
    assert corrected(after)[2] == after


def test_the_patients_name_and_id_decide_before_all_other_text() -> None:
    """They are the same in every image of a study, other text is not."""
    name, other = "ЛЕОНИД^ИВАНОВ".encode("koi8-r"), "Снимок грудной клетки, поликлиника".encode("cp1251")
    for text in (b"", other, "Врач".encode()):
        ds, _, _ = corrected(made(None, PatientID=name, PatientComments=text))
        assert ds.PatientID == "ЛЕОНИД^ИВАНОВ"
    assert ds.PatientComments == "Врач", "what is UTF-8 is read as that, whatever is beside it"
    ds, _, _ = corrected(made(None, PatientID="Иванов".encode(), PatientComments=other))
    assert (ds.PatientID, ds.PatientComments) == ("Иванов", other.decode("cp1251"))
    ds, _, _ = corrected(made(None, PatientComments=other))
    assert ds.PatientComments == other.decode("cp1251")


def test_what_nothing_can_read_is_marked_and_told_apart() -> None:
    """Never empty, and two ids stay two."""
    ids = [bytes(pair) for pair in itertools.permutations(b"A\x81\x98\xff\xfe", 3)]
    read = [corrected(made(None, PatientID=value))[1].patient_id for value in ids]
    assert len(set(read)) == len(ids)
    assert all(read)
    assert marked(b"A\xff\0\x1b\n") == f"A{MARK}FF{MARK}00{MARK}1B\n"


@pytest.mark.parametrize(("charset", "codec"), [(b"ISO_IR 192", "utf-8"), (None, "utf-8"), (b"GB18030", "gb18030")])
def test_a_text_that_was_cut_in_a_character_keeps_what_is_whole(charset: bytes | None, codec: str) -> None:
    name = ("Нұрмағамбетов" if codec == "utf-8" else "王小东").encode(codec)
    ds, _, _ = corrected(made(charset, PatientName=name[:-1]))
    assert str(ds.PatientName) == name.decode(codec)[:-1] + marked(
        name[-len(name.decode(codec)[-1].encode(codec)) : -1]
    )


# --- PatientID ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [258, 3000])
def test_one_that_is_too_long_is_refused_in_words(size: int) -> None:
    with pytest.raises(RejectedError, match=f"{size} bytes"):
        corrected(made(None, PatientID=b"P" * size))


@pytest.mark.parametrize(
    ("charset", "value", "read"),
    [
        (None, "Иванов01".encode(), "Иванов01"), (None, "Иванов01".encode("cp1251"), "Иванов01"),
        (b"ISO_IR 192", "Иванов01".encode("cp1251"), "Иванов01"), (b"WINDOWS-1251", "Иванов01".encode("cp1251"), "Иванов01"),
        (b"ISO_IR_192", "Иванов01".encode(), "Иванов01"), (b"ISO_IR 144", "Иванов01".encode("iso8859-5"), "Иванов01"),
        (b"ISO_IR 192", "Иванов01".encode(), "Иванов01"), (b"ISO_IR 144", "  Иванов01".encode("iso8859-5"), "Иванов01"),
        (b"ISO_IR 100", b"  AB12", "AB12"), (b"ISO_IR 100", b"AB12  ", "AB12"), (None, b"\0AB12", "AB12"), (None, b"AB12\0\0", "AB12"),
        (None, b" \0 AB 12 \0", "AB 12"), (None, b"", ""), (None, b"    ", ""), (None, b"A\\B~", "A\\B~"),
        (None, b"A\0B", f"A{MARK}00B"), (None, b"A" * 200, "A" * 200),
    ],
)  # fmt: skip
def test_a_patient_id_has_one_reading(charset: bytes | None, value: bytes, read: str) -> None:
    """However it is written; padding says nothing (PS3.5 6.2)."""
    ds, instance, after = corrected(made(charset, PatientID=value))
    assert instance.patient_id == read
    stored = ds.get_item("PatientID").value or b""
    assert not (read and stored.startswith((b" ", b"\0")))
    assert b"\0" not in stored.strip(b"\0 ")
    assert (
        stored.strip(b" \0").decode("iso8859-5" if ds.get("SpecificCharacterSet") == "ISO_IR 144" else "utf-8") == read
    )
    assert corrected(after)[2] == after


def test_a_padded_patient_id_is_all_that_is_changed() -> None:
    data = made(b"ISO_IR 100", PatientID=b"  AB12", PatientName=b"Test^Case")
    ds, instance, _ = corrected(data)
    assert (ds.SpecificCharacterSet, ds.PatientID) == ("ISO_IR 100", "AB12")
    assert instance.notes[NOTE] == "the PatientID is written plainly"
    (kept,) = ds.OriginalAttributesSequence[0].ModifiedAttributesSequence
    assert kept.get_item("PatientID").value == b"  AB12"
    assert list(kept.keys()) == [pydicom.tag.Tag("PatientID")]


def test_a_sign_that_is_another_in_a_japanese_set_is_left_to_orthanc() -> None:
    assert corrected(made(b"ISO_IR 13", PatientID=b"A~B"))[1].patient_id is None
    assert corrected(made(b"ISO_IR 13", PatientID=b"AB"))[1].patient_id == "AB"


def test_a_patient_id_that_orthanc_has_no_room_for_is_refused_in_words() -> None:
    assert corrected(made(None, PatientID=b"A" * 256))[1].patient_id == "A" * 256
    for value in (b"A" * 257, "Иван".encode("cp1251") * 33):
        with pytest.raises(RejectedError, match="the archive has room for 256"):
            corrected(made(None, PatientID=value))


# --- what is changed, and what is not -------------------------------------------------------------------------------
def nested(name: bytes) -> list[Item]:
    own: Item = {"SpecificCharacterSet": b"ISO_IR 144", "TextValue": "Заключение".encode("iso8859-5")}
    return [{"PersonName": name, "ConceptNameCodeSequence": [{"CodeMeaning": name}]}, own]


@pytest.mark.parametrize("undefined", [True, False])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_nested_text_is_corrected_with_all_lengths_around_it(syntax: str, undefined: bool) -> None:
    name = "Иванова".encode("cp1251")
    after, _, data = corrected(made(None, syntax, undefined, PatientName=name, ContentSequence=nested(name)))
    first, own = after.ContentSequence
    assert (str(first.PersonName), first.ConceptNameCodeSequence[0].CodeMeaning) == ("Иванова", "Иванова")
    assert (own.TextValue, own.SpecificCharacterSet) == ("Заключение", "ISO_IR 192")
    assert corrected(data)[2] == data
    places = [item.get("SelectorSequencePointer") for item in after.OriginalAttributesSequence[0][0x04000551].value]
    assert 0x0040A730 in places
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        dump = subprocess.run(["dcmdump", "-q", "+P", "0008,0104", file.name], capture_output=True, check=True)
    assert "Иванова".encode() in dump.stdout, "DCMTK reads the same"


def test_group_lengths_in_an_item_are_put_right() -> None:
    name = encode_element(EXPLICIT_LITTLE, 0x0040A123, b"PN", "Иванова ".encode("cp1251"))
    length = encode_element(EXPLICIT_LITTLE, 0x00400000, b"UL", struct.pack("<L", len(name)))
    item = encode_item(EXPLICIT_LITTLE, length + name)
    ds, _, _ = corrected(made() + encode_element(EXPLICIT_LITTLE, 0x0040A730, b"SQ", item))
    assert ds.ContentSequence[0][0x00400000].value == 8 + len("Иванова".encode())


def test_text_in_a_sequence_of_unknown_vr_is_found() -> None:
    value = "Иванова ".encode("cp1251")
    inner = struct.pack("<HHL", 0x0040, 0xA123, len(value)) + value
    item = struct.pack("<HHL", 0xFFFE, 0xE000, len(inner)) + inner
    element = b"\x40\x00\x30\xa7UN\0\0\xff\xff\xff\xff" + item + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    _, _, after = corrected(made() + element)
    assert "Иванова".encode() in after
    assert corrected(after)[2] == after


def test_a_text_too_long_for_its_vr_stays_text() -> None:
    """LT has 16 bits of length. A text that UTF-8 makes longer is written as UT, not cut."""
    text = "Описание " * 6000
    ds, _, _ = corrected(made(None, PatientName="Иванова".encode("cp1251"), PatientComments=text.encode("cp1251")))
    assert ds["PatientComments"].VR == "UT"
    assert ds.PatientComments == text.rstrip()


def test_originals_are_kept_as_the_standard_asks() -> None:
    """Conforming elements are there under their own character set, others by place and bytes."""
    name = b"\x1b-L" + "Иванова".encode("iso8859-5") + b" "
    terms = b"ISO 2022 IR 6\\ISO 2022 IR 144"
    original = corrected(made(terms, PatientName=name, InstitutionName=name))[0].OriginalAttributesSequence
    assert [item.ReasonForTheAttributeModification for item in original] == ["CORRECT", "COERCE"]
    (kept,) = original[0].ModifiedAttributesSequence
    assert (str(kept.PatientName), kept.InstitutionName) == ("Иванова", "Иванова")
    assert kept.SpecificCharacterSet == ["ISO 2022 IR 6", "ISO 2022 IR 144"]
    assert 0x04000551 not in original[0]
    assert original[1].ModifiedAttributesSequence[0].InstitutionName == "Иванова", "coerced from what was corrected"

    name = "Иванова ".encode("cp1251")
    (item, _) = corrected(made(b"WINDOWS-1251", PatientName=name))[0].OriginalAttributesSequence
    kept = item.ModifiedAttributesSequence[0]
    assert not kept.get_item("PatientName").value
    assert not kept.get_item("SpecificCharacterSet").value
    found = {entry.SelectorAttribute: entry[0x04000552].value for entry in item[0x04000551].value}
    assert found == {0x00080005: b"WINDOWS-1251", 0x00100010: name}


def test_a_signature_over_a_text_that_has_to_be_corrected_is_refused() -> None:
    more: Item = {
        "MACParametersSequence": [{"DataElementsSigned": b"\x08\0\x18\0\x10\0\x10\0"}],
        "DigitalSignaturesSequence": [{"Signature": b"1234"}],
    }
    assert stays(made(b"ISO_IR 192", PatientName="Иванова".encode(), **more))
    assert corrected(made(None, PatientID="Иванова".encode("cp1251"), **more))[1].patient_id == "Иванова"
    with pytest.raises(RejectedError, match="signed"):
        corrected(made(None, PatientName="Иванова".encode("cp1251"), **more))


def leaves(ds: Dataset, way: tuple[int, ...] = ()) -> dict[tuple[int, ...], pydicom.DataElement]:
    found = {}
    for element in ds:
        if element.tag in (0x00080080, 0x0018A001, 0x04000561) or not element.tag & 0xFFFF:
            continue
        if element.VR == "SQ":
            for number, item in enumerate(element.value):
                found |= leaves(item, (*way, int(element.tag), number))
        else:
            found[*way, int(element.tag)] = element
    return found


@pytest.mark.parametrize("name", sorted(CORRECTED))
def test_of_a_real_file_nothing_but_text_is_changed(name: str) -> None:
    data = real_files()[name].read_bytes()
    before, (after, _, stored) = pydicom.dcmread(io.BytesIO(data)), corrected(data)
    assert corrected(stored)[2] == stored
    old, new = leaves(before), leaves(after)
    assert old.keys() - new.keys() == set()
    assert new.keys() - old.keys() <= {(0x00080005,)}
    for place, element in old.items():
        if element.tag not in (0x00080005, 0x00100020):
            unknown = element.VR == "UN" or new[place].VR == "UN"
            assert unknown or str(new[place].value).rstrip() == str(element.value).rstrip(), place


def test_whatever_is_written_comes_back() -> None:
    """Seeded: text of any alphabet and set, at any depth; the stored text reads as it was written, and pixels stay."""
    seed = int(os.environ.get("TEST_SEED", random.randrange(1 << 30)))
    print(f"TEST_SEED={seed}")
    chance = random.Random(seed)
    sets = [
        (b"ISO_IR 144", "iso8859-5"),
        (b"WINDOWS-1251", "cp1251"),
        (b"ISO_IR_192", "utf-8"),
        (b"KOI8-R", "koi8-r"),
        (b"rk1048", "kz1048"),
    ]
    keywords = (
        "PatientName",
        "StudyDescription",
        "PatientComments",
        "AccessionNumber",
        "InstitutionAddress",
        "InstitutionName",
        "LongCodeValue",
    )
    for _ in range(60):
        charset, codec = chance.choice(sets)
        words = {
            keyword: chance.choice(NAMES[:5]) + " " * chance.randrange(3) + chance.choice(("", "Ivan", "№1"))
            for keyword in keywords
        }
        values: Item = {keyword: text.encode(codec, "ignore") for keyword, text in words.items()}
        pixels = chance.randbytes(64)
        syntax = chance.choice([ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        data = made(charset, syntax, **values, ContentSequence=nested(values["PatientName"]), PixelData=pixels)
        ds, _, after = corrected(data)
        for keyword in keywords:
            if keyword != "InstitutionName":
                assert str(ds[keyword].value) == values[keyword].decode(codec).rstrip(), keyword
        assert (
            ds.ContentSequence[0].ConceptNameCodeSequence[0].CodeMeaning == values["PatientName"].decode(codec).rstrip()
        )
        assert ds.PixelData == pixels
        assert corrected(after)[2] == after


def test_noise_is_never_lost() -> None:
    """Seeded: any bytes at all, under any set at all, give a file that pydicom reads, that is stable, and not empty."""
    seed = int(os.environ.get("TEST_SEED", random.randrange(1 << 30)))
    print(f"TEST_SEED={seed}")
    chance = random.Random(seed)
    sets = [
        None,
        b"",
        b"ISO_IR 192",
        b"ISO_IR 100",
        b"ISO_IR 144",
        b"ISO 2022 IR 6\\ISO 2022 IR 144",
        b"\\ISO 2022 IR 149",
        b"GB18030",
        b"x",
    ]
    for _ in range(300):
        value = bytes(chance.choices((*b"Iv^=\\\x1b$-(LB0 ", *range(0x80, 0x100)), k=chance.randrange(1, 24)))
        ds, instance, after = corrected(made(chance.choice(sets), PatientName=value, PatientID=value))
        assert instance.patient_id == ds.get_item("PatientID").value.strip(b" ").decode(
            {"ISO_IR 144": "iso8859-5", "ISO_IR 100": "latin-1", "GB18030": "gb18030"}.get(
                str(ds.get("SpecificCharacterSet")), "utf-8"
            )
        ), value
        assert bool(instance.patient_id) == bool(value.strip(b" \0"))
        assert corrected(after)[2] == after, value


def test_text_without_end_does_not_exhaust_the_importer() -> None:
    """A stranger's file is all text: it is judged by a part, corrected in seconds, or refused."""
    name = "Иванова ".encode("cp1251")
    began = time.process_time()
    ds, _, _ = corrected(made(None, ContentSequence=[{"PersonName": name} for _ in range(5_000)]))
    assert str(ds.ContentSequence[4_999].PersonName) == "Иванова"
    ds, _, _ = corrected(made(None, TextValue=name * 20_000))
    assert ds.TextValue.startswith("Иванова")
    assert time.process_time() - began < 20
    one: Item = {"PersonName": name}
    declaring: list[Item] = [one, *[{"SpecificCharacterSet": b"ISO_IR 144"}] * 50_000]
    for values in ({"TextValue": name * 300_000}, {"ContentSequence": [one] * 50_001}, {"ContentSequence": declaring}):
        with pytest.raises(RejectedError, match="2 MiB of text, beyond ASCII"):
            corrected(made(None, **values))


def crowded(kind: str) -> bytes:
    """A small file that has much of one kind."""
    name = "Иванова ".encode("cp1251")

    def text(tag: int, vr: bytes = b"LT", value: bytes = name) -> bytes:
        return encode_element(EXPLICIT_LITTLE, tag, vr, value)

    def sequence(tag: int, content: bytes) -> bytes:
        return encode_element(EXPLICIT_LITTLE, tag, b"SQ", encode_item(EXPLICIT_LITTLE, content))

    groups = range(0x0101, 0x8001, 2)
    if kind == "groups":
        return made(None) + b"".join(text(group << 16 | 0x10, b"LO") for group in groups)
    if kind == "sequences":
        return made(None) + b"".join(sequence(group << 16 | 0x1001, text(0x00104000)) for group in groups)
    if kind == "terms":
        terms = [b"\\".join(b"%d" % (number >> bit & 1) for bit in range(126)) + b" " for number in range(10_000)]
        return made(None, ContentSequence=[{"SpecificCharacterSet": term, "TextValue": name} for term in terms])
    if kind == "group lengths":
        lengths = b"".join(text(group << 16, b"UL", bytes(4)) for group in range(8, 0xFFF0) if group != 0x0010)
        items = encode_item(EXPLICIT_LITTLE, lengths) * 14
        return made(None, PatientName=name) + encode_element(EXPLICIT_LITTLE, 0x00400555, b"SQ", items)
    return made(None, TextValue=b"\xff" * ((2 << 20) - 100))


@pytest.mark.parametrize("kind", ["groups", "sequences", "terms", "group lengths", "noise"])
def test_no_file_takes_much_time_or_memory_for_its_text(kind: str) -> None:
    data = crowded(kind)
    began = time.process_time()
    corrected_only(data)
    assert time.process_time() - began < 8
    tracemalloc.start()
    corrected_only(data)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 120 << 20


def corrected_only(data: bytes) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        stamp(read_instance(file, SCRATCH), CLINIC, SCRATCH)


def test_of_a_large_sequence_the_texts_alone_are_kept() -> None:
    """Its content is not kept a second time as a whole, in memory and for all time."""
    name = b"\x1b-L" + "Иванова".encode("iso8859-5")
    pixels = encode_element(EXPLICIT_LITTLE, 0x7FE00010, b"OB", bytes(2 << 20))
    item = encode_item(EXPLICIT_LITTLE, encode_element(EXPLICIT_LITTLE, 0x00104000, b"LT", name) + pixels)
    data = made(b"\\ISO 2022 IR 144") + encode_element(EXPLICIT_LITTLE, 0x00880200, b"SQ", item)
    ds, _, after = corrected(data)
    assert ds[0x00880200][0].PatientComments == "Иванова"
    assert ds[0x00880200][0].PixelData == bytes(2 << 20)
    assert len(after) < len(data) + 4096
    (kept,) = ds.OriginalAttributesSequence[0][0x04000551].value
    assert (kept.SelectorSequencePointer, kept[0x04000552].value) == (0x00880200, name + b"\0" * (len(name) % 2))


def test_code_extensions_are_read_as_pydicom_reads_them() -> None:
    chance = random.Random(7)
    parts = [
        b"\x1b-L" + "Иван".encode("iso8859-5"),
        b"Ivan",
        b"\x1b-F" + "Διον".encode("iso8859-7"),
        b"\x1b$B;3ED\x1b(B",
        b"\x1b$)C\xfb\xf3",
    ]
    terms = "\\ISO 2022 IR 144\\ISO 2022 IR 126\\ISO 2022 IR 87\\ISO 2022 IR 149"
    for _ in range(100):
        value = b"^".join(chance.choices(parts, k=3))
        theirs = pydicom.valuerep.PersonName(value, pydicom.charset.convert_encodings(terms.split("\\")))
        assert decode(value, declared(terms.encode())) == str(theirs)


def test_what_a_clinic_may_be_said_to_write_is_a_set_that_python_reads() -> None:
    schema = yaml.safe_load((Path(__file__).parents[3] / "vars/schema.yml").read_text("utf-8"))
    clinic = schema["argument_specs"]["main"]["options"]["imaging_clinics"]["options"]
    assert clinic["charset"]["choices"] == list(FOREIGN)
    for name, codec in FOREIGN.items():
        assert "A".encode(codec) == b"A"
        assert declared(name.encode()).codec or declared(name.encode()).upper
    assert Reader([(b"\xff", declared(b""))], [], "koi8-r").read(b"\xff", declared(b"")).text == "Ъ"
