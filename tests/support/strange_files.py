"""DICOM files of a stranger: files that two programs read as two different images, and files that stop a program."""

from __future__ import annotations

import io
import struct

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
UNDEFINED = 0xFFFFFFFF


def image(**attributes: object) -> FileDataset:
    """A small valid image."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.Modality, dataset.PatientName, dataset.PatientID = "OT", "Stranger^Test", "STRANGER"
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "20250101", "120000", "1"
    dataset.SeriesNumber, dataset.InstanceNumber = 1, 1
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 16, 16, 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.PixelData = np.arange(256, dtype="<u2").tobytes()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def encoded(dataset: FileDataset) -> bytes:
    """Its bytes as a file."""
    target = io.BytesIO()
    dataset.save_as(target, enforce_file_format=True)
    return target.getvalue()


def element(tag: int, vr: str, value: bytes | str) -> bytes:
    """One element in explicit VR little endian (PS3.5 7.1.2)."""
    value = value.encode() if isinstance(value, str) else value
    value += (b"\0" if vr in ("UI", "OB") else b" ") * (len(value) % 2)
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode()
    if vr in ("OB", "OW", "SQ", "UN", "UT"):
        return head + b"\0\0" + struct.pack("<L", len(value)) + value
    return head + struct.pack("<H", len(value)) + value


def with_two_readings(clinic: str, study: str, victim: dict[str, str], vr: bytes = b"ZZ") -> bytes:
    """A file that is an image of `study` to whom an unknown VR has 16 bits of length, and one of the victim's to whom
    it has 32 (DCMTK).

    It carries the importer's mark of the clinic already, so that nothing need be added to it. `victim` names
    PatientID, StudyInstanceUID and SeriesInstanceUID.
    """
    hidden = (
        element(0x00100010, "PN", "VICTIM^TEST")
        + element(0x00100020, "LO", victim["PatientID"])
        + element(0x0020000D, "UI", victim["StudyInstanceUID"])
        + element(0x0020000E, "UI", victim["SeriesInstanceUID"])
        + element(0x00200013, "IS", "666")
        + element(0x7FE00010, "OB", bytes(256))
    )
    plain = (
        element(0x00100010, "PN", "OWN^TEST")
        + element(0x00100020, "LO", "STRANGER")
        + element(0x0018A001, "SQ", _mark())
        + element(0x0020000D, "UI", study)
        + element(0x0020000E, "UI", generate_uid())
    )
    head = (
        element(0x00080016, "UI", SecondaryCaptureImageStorage)
        + element(0x00080018, "UI", generate_uid())
        + element(0x00080080, "LO", clinic)
    )
    blob = struct.pack("<HH", 0x0029, 0x1010) + b"OB\0\0" + struct.pack("<L", len(hidden)) + hidden
    odd = struct.pack("<HH", 0x0009, 0x1001) + vr + struct.pack("<H", 4) + struct.pack("<L", len(plain) + 12)
    return _meta() + head + odd + plain + blob


def _mark() -> bytes:
    """The item of Contributing Equipment Sequence by which the importer knows its own work."""
    purpose = (
        element(0x00080100, "SH", "109103")
        + element(0x00080102, "SH", "DCM")
        + element(0x00080104, "LO", "Modifying Equipment")
    )
    content = (
        element(0x00080070, "LO", "Imaging platform")
        + element(0x00081090, "LO", "imaging-importer")
        + element(0x0018A003, "ST", "InstitutionName set to the delivering clinic")
        + element(0x0040A170, "SQ", _delimiter(ITEM, len(purpose)) + purpose)
    )
    return _delimiter(ITEM, len(content)) + content


def _meta() -> bytes:
    content = (
        element(0x00020001, "OB", b"\0\1")
        + element(0x00020002, "UI", SecondaryCaptureImageStorage)
        + element(0x00020003, "UI", generate_uid())
        + element(0x00020010, "UI", ExplicitVRLittleEndian)
        + element(0x00020012, "UI", "2.25.1")
    )
    return bytes(128) + b"DICM" + element(0x00020000, "UL", struct.pack("<L", len(content))) + content


def nested(levels: int, defined: bool) -> bytes:
    """An image with sequences in sequences, of defined or of undefined length (PS3.5 7.5)."""
    sequence = struct.pack("<HH", 0x0040, 0xA730) + b"SQ\0\0"
    content = b""
    for _ in range(levels):
        if defined:
            item = _delimiter(ITEM, len(content)) + content
            content = sequence + struct.pack("<L", len(item)) + item
        else:
            opened = sequence + struct.pack("<L", UNDEFINED) + _delimiter(ITEM, UNDEFINED)
            content = opened + content + _delimiter(ITEM_END, 0) + _delimiter(SEQUENCE_END, 0)
    data = encoded(image())
    pixels = data.index(b"\xe0\x7f\x10\x00")
    return data[:pixels] + content + data[pixels:]


def _delimiter(tag: int, length: int) -> bytes:
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, length)
