"""The stamp changes three things and nothing else, in every transfer syntax, and the same file gives the same bytes."""

import io
import struct
import tempfile
import warnings
from pathlib import Path

import pydicom
import pytest
from deliveries import sample
from imaging_importer.dicom.instance import read_instance
from imaging_importer.dicom.stamp import stamp
from imaging_importer.reasons import CompanionError, RejectedError
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian
from real_files import EXCEPTIONS, IMPORTED, expected, real_files
from test_compatibility import CORRECTED

SCRATCH = Path(tempfile.gettempdir())
CLINIC = "denscan-central"
INSTITUTION_NAME, EQUIPMENT, ORIGINAL = 0x00080080, 0x0018A001, 0x04000561
STAMPED_AND_GROUP_LENGTHS = (INSTITUTION_NAME, EQUIPMENT, ORIGINAL, 0x00080000, 0x00180000, 0x04000000)


def stamped(data: bytes, clinic: str = CLINIC, scratch: Path = SCRATCH) -> bytes:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        body = stamp(read_instance(file, scratch), clinic, scratch)
        result = b"".join(body.chunks())
        assert len(result) == body.size
        return result


def read(data: bytes) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(io.BytesIO(data), force=True)


def raw_elements(ds: Dataset) -> dict[int, tuple[str, bytes | int | None]]:
    """Tag -> VR and raw value of every top-level element as it stands in the file (sequences: as read)."""
    found = {}
    for tag in list(ds.keys()):
        element = ds.get_item(tag)
        value = element.value
        found[int(tag)] = (element.VR, value if isinstance(value, (bytes, type(None))) else str(value))
    return found


def element_bytes(data: bytes) -> dict[int, bytes]:
    """Tag -> every byte of each top-level element, tag and length included, sequences and all."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        instance = read_instance(file, SCRATCH)
        plain = instance.data
        found = {}
        for element in instance.elements:
            plain.seek(element.start)
            found[element.tag] = plain.read(element.end - element.start)
        return found


def test_the_table_names_files_that_exist() -> None:
    assert EXCEPTIONS.keys() <= real_files().keys()


@pytest.mark.parametrize("name", sorted(real_files().keys() - CORRECTED))  # of these, see test_text.py
def test_every_other_element_stays_as_it_was(name: str) -> None:
    path = real_files()[name]
    data = path.read_bytes()
    try:
        after = stamped(data)
    except (CompanionError, RejectedError) as refusal:
        assert refusal.reason == expected(name, path)  # noqa: PT017 - both outcomes are expected
        return
    assert expected(name, path) == IMPORTED
    before_bytes, after_bytes = element_bytes(data), element_bytes(after)
    assert list(after_bytes) == sorted(after_bytes)
    for tag in STAMPED_AND_GROUP_LENGTHS:
        before_bytes.pop(tag, None)
        after_bytes.pop(tag, None)
    assert after_bytes == before_bytes

    old, new = read(data), read(after)
    if old.file_meta:
        assert new.file_meta == old.file_meta
        assert after[:128] == data[:128]
    old_elements, new_elements = raw_elements(old), raw_elements(new)
    for tag in STAMPED_AND_GROUP_LENGTHS:
        old_elements.pop(tag, None)
        new_elements.pop(tag, None)
    untrue = old_elements.keys() - new_elements.keys()
    assert {tag & 0xFFFF for tag in untrue} <= {0}, "nothing is dropped but group lengths that are not true"
    assert new_elements == {tag: element for tag, element in old_elements.items() if tag not in untrue}

    assert new.InstitutionName == CLINIC
    assert len(new[ORIGINAL].value) == len(old.get("OriginalAttributesSequence") or []) + 1
    assert len(new[EQUIPMENT].value) == len(old.get("ContributingEquipmentSequence") or []) + 1
    original = new[ORIGINAL].value[-1]
    assert (original.ModifyingSystem, original.ReasonForTheAttributeModification) == ("imaging-importer", "COERCE")
    assert original.AttributeModificationDateTime
    previous = original.ModifiedAttributesSequence[0]
    assert (previous.get_item(INSTITUTION_NAME).value or b"") == (_raw(old, INSTITUTION_NAME) or b"")
    assert new[EQUIPMENT].value[-1].PurposeOfReferenceCodeSequence[0].CodeValue == "109103"

    assert stamped(data) == after, "the same file must give the same bytes"
    assert stamped(after) == after, "a stamped file that comes back must pass unchanged"


def _raw(ds: Dataset, tag: int) -> bytes | None:
    return ds.get_item(tag).value if tag in ds else None


def dataset(**extra: object) -> Dataset:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.PatientID = "1.2.1", "1.2.2", "P1"
    for keyword, value in extra.items():
        setattr(ds, keyword, value)
    return ds


def written(ds: Dataset, **options: bool) -> bytes:
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("undefined_length", [True, False])
def test_existing_items_are_kept_and_stand_first(undefined_length: bool) -> None:
    item, equipment = Dataset(), Dataset()
    item.ModifyingSystem, item.ReasonForTheAttributeModification = "PACS", "CORRECT"
    equipment.Manufacturer = "Another"
    ds = dataset(OriginalAttributesSequence=Sequence([item]), ContributingEquipmentSequence=Sequence([equipment]))
    for tag in (ORIGINAL, EQUIPMENT):
        ds[tag].is_undefined_length = undefined_length
    after = read(stamped(written(ds)))
    assert [found.ModifyingSystem for found in after.OriginalAttributesSequence] == ["PACS", "imaging-importer"]
    assert [found.Manufacturer for found in after.ContributingEquipmentSequence] == ["Another", "Imaging platform"]


@pytest.mark.parametrize("carried", ["a sequence", "a sequence without end", "no sequence"])
def test_a_stamp_in_a_sequence_that_is_carried_as_un_is_known_again(carried: str) -> None:
    """An image that is exported and delivered again is no other image; UN of defined length may hold anything."""
    item = b"\xfe\xff\x00\xe0\x08\0\0\0\x08\0\x70\0\0\0\0\0" if carried != "no sequence" else b"bytes of its own"
    head = b"\x18\0\x01\xa0UN\0\0"
    if carried == "a sequence without end":
        element = head + b"\xff\xff\xff\xff" + item + b"\xfe\xff\xdd\xe0\0\0\0\0"
    else:
        element = head + struct.pack("<L", len(item)) + item
    study = b"\x20\0\x0d\0UI"
    first = stamped(written(dataset()).replace(study, element + study))
    assert (stamped(first) == first) is (carried != "no sequence")


def test_the_previous_name_keeps_its_bytes_in_any_character_set() -> None:
    ds = dataset(SpecificCharacterSet="ISO_IR 192", InstitutionName="Клиника №1")
    after = read(stamped(written(ds)))
    assert after.InstitutionName == CLINIC
    assert after.OriginalAttributesSequence[0].ModifiedAttributesSequence[0].InstitutionName == "Клиника №1"


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("", b"Klinik A "),
        ("ISO_IR 100", "Hôpital Sud".encode("latin-1") + b" "),
        ("ISO_IR 144", "Клиника".encode("iso8859_5") + b" "),
        ("GB18030", "医院".encode("gb18030")),
    ],
)
def test_the_previous_name_stays_as_it_is_under_its_own_character_set(character_set: str, name: bytes) -> None:
    """A clinic's id is ASCII, which each of DICOM's character sets begins with."""
    data = written(dataset(InstitutionName="placeholder "))
    element = b"\x08\x00\x80\x00LO" + struct.pack("<H", len(name) + len(name) % 2) + name + b" " * (len(name) % 2)
    data = data.replace(b"\x08\x00\x80\x00LO\x0c\x00placeholder ", element)
    if character_set:
        declared = character_set.encode() + b" " * (len(character_set) % 2)
        first = data.index(b"\x08\x00\x16\x00UI")
        data = data[:first] + b"\x08\x00\x05\x00CS" + struct.pack("<H", len(declared)) + declared + data[first:]
    after = stamped(data)
    elements = element_bytes(after)
    assert elements[INSTITUTION_NAME][8:].rstrip(b" ") == CLINIC.encode()
    assert element in elements[ORIGINAL]
    if character_set:
        assert elements[0x00080005][8:] == declared


def test_a_patient_id_that_orthanc_would_read_otherwise_is_written_anew() -> None:
    """To Orthanc `odd ` in a UN element is another patient than `odd`; a second batch must not look like a mismatch."""
    data = written(dataset(PatientID="odd"))
    lo = b"\x10\x00\x20\x00LO\x04\x00odd "
    assert lo in data
    after = stamped(data.replace(lo, b"\x10\x00\x20\x00UN\0\0\x04\0\0\0odd "))
    assert lo in after
    assert stamped(after) == after


@pytest.mark.parametrize("uid", ["1.2.", "1..2", ".1", "1." + "2" * 63, "1.2.a"])
def test_a_uid_that_the_registry_refuses_is_refused_before_it_is_asked(uid: str) -> None:
    ds = dataset()
    data = written(ds).replace(b"\x20\x00\x0d\x00UI\x06\x001.2.1\0", b"")
    padded = uid.encode() + b"\0" * (len(uid) % 2)
    place = data.index(b"\x20\x00\x0e\x00UI")
    data = data[:place] + b"\x20\x00\x0d\x00UI" + struct.pack("<H", len(padded)) + padded + data[place:]
    with pytest.raises(RejectedError, match="invalid-identifiers"):
        stamped(data)


def test_a_second_clinic_is_recorded_as_one_more_change() -> None:
    after = read(stamped(stamped(written(dataset(InstitutionName="Old"))), "partner-clinic"))
    assert after.InstitutionName == "partner-clinic"
    names = [item.ModifiedAttributesSequence[0].InstitutionName for item in after.OriginalAttributesSequence]
    assert names == ["Old", CLINIC]


def test_group_lengths_follow_what_was_added() -> None:
    data = written(dataset(StudyDate="20200102"))
    start = data.index(b"\x08\x00\x16\x00UI")
    end = data.index(b"\x10\x00\x20\x00LO")
    with_length = data[:start] + struct.pack("<HH2sHL", 8, 0, b"UL", 4, end - start) + data[start:]
    after = stamped(with_length)
    position = after.index(b"\x08\x00\x00\x00UL")
    (length,) = struct.unpack_from("<L", after, position + 8)
    assert after[position + 12 + length :].startswith((b"\x18\x00\x01\xa0SQ", b"\x10\x00\x20\x00LO"))


def signature(*tags: int) -> Dataset:
    parameters = Dataset()
    parameters.MACIDNumber, parameters.DataElementsSigned = 1, list(tags)
    signed = Dataset()
    signed.MACIDNumber, signed.Signature = 1, b"1234"
    return dataset(MACParametersSequence=Sequence([parameters]), DigitalSignaturesSequence=Sequence([signed]))


def test_a_signature_over_the_institution_is_refused() -> None:
    with pytest.raises(RejectedError, match="signed"):
        stamped(written(signature(0x00080018, INSTITUTION_NAME)))


def test_a_signature_over_other_elements_is_kept() -> None:
    assert read(stamped(written(signature(0x00080018)))).DigitalSignaturesSequence


@pytest.mark.parametrize("name", ["MR_small.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "rtplan.dcm"])
def test_a_bare_data_set_becomes_a_part_10_file(name: str) -> None:
    whole = sample(name).read_bytes()
    meta_length = struct.unpack_from("<L", whole, 140)[0]
    after = read(stamped(whole[144 + meta_length :]))
    assert after.InstitutionName == CLINIC
    assert after.file_meta.MediaStorageSOPInstanceUID == after.SOPInstanceUID
    assert after.PatientID == read(whole).PatientID


def test_a_file_that_lacks_only_the_preamble_gets_one() -> None:
    whole = sample("CT_small.dcm").read_bytes()
    assert stamped(whole[132:]) == stamped(bytes(128) + whole[128:])


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
def test_an_identifier_whose_vr_the_writer_did_not_know_gets_it(keyword: str) -> None:
    data = sample("CT_small.dcm").read_bytes()
    tag = tag_for_keyword(keyword)
    whole = element_bytes(data)[tag]
    assert data.count(whole) == 1
    after = stamped(data.replace(whole, whole[:4] + b"UN\0\0" + len(whole[8:]).to_bytes(4, "little") + whole[8:]))
    assert element_bytes(after)[tag] == whole


@pytest.mark.parametrize("magic", [b"MZ", b"\x7fELF", b"#!/bin/sh\n"])
def test_a_program_in_the_preamble_is_refused(magic: bytes) -> None:
    whole = sample("CT_small.dcm").read_bytes()
    with pytest.raises(RejectedError, match="executable-preamble"):
        stamped(magic + whole[len(magic) :])


def test_a_tiff_in_the_preamble_is_kept() -> None:
    """A dual-personality file (PS3.10 7.1) is legitimate."""
    whole = sample("CT_small.dcm").read_bytes()
    assert stamped(b"II*\0" + whole[4:]).startswith(b"II*\0")


@pytest.mark.parametrize("name", ["MR_small.dcm", "image_dfl.dcm", "JPEG2000.dcm", "MR_small_bigendian.dcm"])
def test_a_file_cut_anywhere_is_refused_or_whole(name: str) -> None:
    """Cut at 200 places: never a crash, and never an instance whose last element is short."""
    whole = sample(name).read_bytes()
    cuts = range(1, len(whole), max(1, len(whole) // 200))
    refused = 0
    for cut in cuts:
        try:
            after = stamped(whole[:cut])
        except (CompanionError, RejectedError):
            refused += 1
            continue
        assert "PixelData" not in read(after)
    assert refused > len(cuts) // 2
