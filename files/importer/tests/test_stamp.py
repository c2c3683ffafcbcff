"""The stamp changes three things and nothing else, in every transfer syntax, and the same file gives the same bytes."""

import io
import struct
import tempfile
import warnings
from pathlib import Path

import pydicom
import pytest
from deliveries import SAMPLES, sample
from imaging_importer.instance import read_instance
from imaging_importer.reasons import CompanionError, RejectedError
from imaging_importer.stamp import stamp
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

try:
    import data_store

    MORE_SAMPLES = Path(data_store.__file__).parent / "data"
except ImportError:  # pydicom-data is for the controller, not for hosts
    MORE_SAMPLES = SAMPLES

SCRATCH = Path(tempfile.gettempdir())
CLINIC = "denscan-central"
INSTITUTION_NAME, EQUIPMENT, ORIGINAL = 0x00080080, 0x0018A001, 0x04000561

# Real files that are no instances, and why. Every other file must be stamped.
REFUSED = {
    "JPEGLSNearLossless_08.dcm": "missing-identifiers",
    "JPEGLSNearLossless_16.dcm": "missing-identifiers",
    "MR_truncated.dcm": "truncated",
    "SC_rgb_jls_lossy_line.dcm": "missing-identifiers",
    "SC_rgb_jls_lossy_sample.dcm": "missing-identifiers",
    "UN_sequence.dcm": "missing-identifiers",
    "bad_sequence.dcm": "invalid-identifiers",
    "chrSQEncoding.dcm": "missing-identifiers",
    "chrSQEncoding1.dcm": "missing-identifiers",
    "emri_small_jpeg_2k_lossless_too_short.dcm": "truncated",
    "empty_charset_LEI.dcm": "missing-identifiers",
    "meta_missing_tsyntax.dcm": "missing-transfer-syntax",
    "nested_priv_SQ.dcm": "missing-identifiers",
    "no_meta.dcm": "not-dicom",
    "no_meta_group_length.dcm": "missing-identifiers",
    "priv_SQ.dcm": "missing-identifiers",
    "rtplan_truncated.dcm": "truncated",
}

REAL_FILES = sorted(
    path
    for directory in (SAMPLES, SAMPLES.parent / "charset_files", MORE_SAMPLES)
    for path in directory.rglob("*")
    if path.is_file() and (path.suffix == ".dcm" or path.read_bytes()[128:132] == b"DICM")
)


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


@pytest.mark.parametrize("path", REAL_FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_other_element_stays_as_it_was(path: Path) -> None:
    data = path.read_bytes()
    try:
        after = stamped(data)
    except (CompanionError, RejectedError) as refusal:
        assert refusal.reason in ("dicomdir", REFUSED.get(path.name))  # noqa: PT017 - both outcomes are expected
        return
    assert path.name not in REFUSED
    old, new = read(data), read(after)
    if old.file_meta:
        assert new.file_meta == old.file_meta
        assert after[:128] == data[:128]
    old_elements, new_elements = raw_elements(old), raw_elements(new)
    for tag in (INSTITUTION_NAME, EQUIPMENT, ORIGINAL, 0x00080000, 0x00180000, 0x04000000):
        old_elements.pop(tag, None)
        new_elements.pop(tag, None)
    assert new_elements == old_elements

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


def test_the_previous_name_keeps_its_bytes_in_any_character_set() -> None:
    ds = dataset(SpecificCharacterSet="ISO_IR 192", InstitutionName="Клиника №1")
    after = read(stamped(written(ds)))
    assert after.InstitutionName == CLINIC
    assert after.OriginalAttributesSequence[0].ModifiedAttributesSequence[0].InstitutionName == "Клиника №1"


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
    for cut in range(1, len(whole), max(1, len(whole) // 200)):
        try:
            after = stamped(whole[:cut])
        except (CompanionError, RejectedError):
            continue
        assert "PixelData" not in read(after)
