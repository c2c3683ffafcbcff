"""One file, or a few, of each odd kind that hospitals have, and what is right for each of them.

All are small and made here. `ends` says how a file may end: `stored`, `kept`, or a reason of the importer's; more than
one where the standard leaves a choice. `why` is the importer's code of what cannot be displayed; empty: each frame
equals `frames`.
"""

from __future__ import annotations

# ruff: noqa: RUF001 - Cyrillic letters are what it is about
import gzip
import io
import struct
import zipfile
from dataclasses import dataclass

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import pixel_array
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
    generate_uid,
)
from real_files import real_files
from strange_files import encoded, image

STORED, KEPT = "stored", "kept"
GRADIENT = np.arange(256, dtype=np.uint16).reshape(16, 16)

Frames = tuple[NDArray[np.generic], ...]


@dataclass(frozen=True)
class Case:
    """A kind: the files, and what is right."""

    files: dict[str, bytes]
    """By name."""
    ends: tuple[str, ...] = (STORED,)
    dataset: FileDataset | None = None
    """The first image; none where there is nothing to be stored."""
    patient_name: str = "Stranger^Test"
    patient_id: str = "STRANGER"
    why: str = ""
    frames: Frames = (GRADIENT,)


def cases() -> dict[str, Case]:
    """Every kind; each is a study of its own."""
    made = {**patient_ids(), **names(), **dresses(), **undisplayable(), **readable(), **compressed()}
    return {kind.replace(" ", "-"): case for kind, case in made.items()}


def replaced(data: bytes, tag: int, vr: bytes, value: bytes, marker: bytes = b"@@@@") -> bytes:
    """Bytes that pydicom would not write, in the place of a marker (explicit VR, short length)."""
    value += b" " * (len(value) % 2)
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr
    old = head + struct.pack("<H", len(marker)) + marker
    assert data.count(old) == 1
    return data.replace(old, head + struct.pack("<H", len(value)) + value)


def one(dataset: FileDataset, data: bytes | None = None, name: str = "image.dcm", **right: object) -> Case:
    return Case({name: encoded(dataset) if data is None else data}, dataset=dataset, **right)  # type: ignore[arg-type]


# --- identity and names -------------------------------------------------------------------------------------------
IDS = {
    "UTF-8 without a charset": (None, "Иванов01".encode(), "Иванов01"),
    "cp1251 without a charset": (None, "Иванов01".encode("cp1251"), "Иванов01"),
    "cp1251 called UTF-8": (b"ISO_IR 192", "Иванов01".encode("cp1251"), "Иванов01"),
    "cp1251 called WINDOWS-1251": (b"WINDOWS-1251", "Иванов01".encode("cp1251"), "Иванов01"),
    "UTF-8 misspelt": (b"ISO_IR_192", "Иванов01".encode(), "Иванов01"),
    "leading blanks": (b"ISO_IR 100", b"  AB12", "AB12"),
    "leading NUL": (b"ISO_IR 100", b"\0\0AB12", "AB12"),
    "ISO_IR 144": (b"ISO_IR 144", "Иванов01".encode("iso8859-5"), "Иванов01"),
    "UTF-8": (b"ISO_IR 192", "Иванов01".encode(), "Иванов01"),
    "65 characters and more": (b"ISO_IR 100", b"P" * 100, "P" * 100),
}
SLICES = 60
"""More than the importer sends in one batch."""

LONG = "Новокаменская" * 4 + "Константинов"
NAMES = {
    "code extensions, Cyrillic": (
        b"ISO 2022 IR 6\\ISO 2022 IR 144",
        b"^".join(b"\x1b-L" + part.encode("iso8859-5") for part in ("Иванова", "Асель")),
        "Иванова^Асель",
    ),
    "code extensions, Japanese": (
        b"ISO 2022 IR 6\\ISO 2022 IR 87",
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B",
        "Yamada^Tarou",
    ),
    "cp1251 without a charset": (None, "Иванова^Асель".encode("cp1251"), "Иванова^Асель"),
    "cp1251 called UTF-8": (b"ISO_IR 192", "Иванова^Асель".encode("cp1251"), "Иванова^Асель"),
    "KOI8-R without a charset": (None, "Иванова^Мария".encode("koi8-r"), "Иванова^Мария"),
    "UTF-8 without a charset": (None, "Иванова^Асель".encode(), "Иванова^Асель"),
    # Three components of 64 characters, more than Orthanc's database has room for.
    "cp1251, long": (None, f"{LONG}^{LONG}^{LONG}".encode("cp1251"), f"{LONG}^{LONG}^{LONG}"),
    "Kazakh in UTF-8": (b"ISO_IR 192", "Қайрат^Әсель".encode(), "Қайрат^Әсель"),
    "Kazakh in RK1048 without a charset": (None, "Қайрат^Әсель".encode("kz1048"), "Қайрат^Әсель"),
    "Latin": (b"ISO_IR 100", "Müller^Jörg".encode("latin-1"), "Müller^Jörg"),
}  # fmt: skip


def patient_ids() -> dict[str, Case]:
    """A study of one patient whose PatientID is written in a way that is wrong but common, or right."""
    made = {}
    for kind, (charset, value, read) in IDS.items():
        study, series = generate_uid(), generate_uid()
        files = {}
        for number in range(SLICES if "cp1251" in kind or "leading" in kind else 2):
            dataset = image(
                PatientID="@@@@", StudyInstanceUID=study, SeriesInstanceUID=series, InstanceNumber=number + 1
            )
            files[f"{number:03}.dcm"] = in_charset(dataset, charset, 0x00100020, b"LO", value)
        made[f"id {kind}"] = Case(files, dataset=dataset, patient_id=read)
    return made


def names() -> dict[str, Case]:
    """Names in each character set, and in none."""
    made = {}
    for kind, (charset, value, read) in NAMES.items():
        dataset = image(PatientName="@@@@")
        made[f"name {kind}"] = one(dataset, in_charset(dataset, charset, 0x00100010, b"PN", value), patient_name=read)
    return made


def in_charset(dataset: FileDataset, charset: bytes | None, tag: int, vr: bytes, value: bytes) -> bytes:
    if charset is not None:
        dataset.SpecificCharacterSet = "ISO_IR 100"
    data = replaced(encoded(dataset), tag, vr, value)
    return data if charset is None else replaced(data, 0x00080005, b"CS", charset, b"ISO_IR 100")


# --- dress --------------------------------------------------------------------------------------------------------
def dresses() -> dict[str, Case]:
    """Readable DICOM in unusual dress, archives, and what is certainly no DICOM."""
    implicit = image()
    implicit.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    syntax = _implicit(0x00020010, b"1.2.840.10008.1.2\0")
    meta = _implicit(0x00020000, struct.pack("<L", len(syntax))) + syntax
    late, bare, first, packed, zipped = image(), image(), image(), image(), image()
    box = io.BytesIO()
    with zipfile.ZipFile(box, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../deeper/IMG1", encoded(zipped))
        archive.writestr("readme.txt", "Made by a viewer.")
    return {
        "dress implicit meta information without preamble": one(implicit, meta + _body(implicit)),
        "dress DICM at byte 0": one(late, encoded(late)[128:]),
        "dress bare data set": one(bare, _body(bare)),
        "dress bare data set that begins with a sequence": one(
            first, struct.pack("<HH2sHL", 8, 6, b"SQ", 0, 0) + _body(first)
        ),
        "dress gzip": one(packed, gzip.compress(encoded(packed)), "image.dcm.gz"),
        "dress zip": one(zipped, box.getvalue(), "study.zip"),
        "dress text": Case({"readme.txt": b"Made by a viewer.\n"}, ends=(KEPT,)),
        "dress DICOMDIR under another name": Case(
            {"INDEX": real_files()["pydicom/test_files/dicomdirtests/DICOMDIR"].read_bytes()}, ends=(KEPT,)
        ),
    }  # fmt: skip


def _implicit(tag: int, value: bytes) -> bytes:
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(value)) + value


def _body(dataset: FileDataset) -> bytes:
    data = encoded(dataset)
    return data[144 + struct.unpack("<L", data[140:144])[0] :]


# --- what cannot be displayed -------------------------------------------------------------------------------------
def undisplayable() -> dict[str, Case]:
    """Stored as they are; of those that nothing shows, it is told why."""
    pieces = image(Rows=64, Columns=64, BitsAllocated=8, BitsStored=8, HighBit=7, NumberOfFrames=2, Modality="US")
    drawn = [np.full((64, 64), value, np.uint8) + np.arange(64, dtype=np.uint8) for value in (10, 90)]
    _compress(
        pieces, JPEGBaseline8Bit, encapsulate([_jpeg(frame) for frame in drawn], fragments_per_frame=3, has_bot=False)
    )
    no_length = image()
    colour = image(
        SamplesPerPixel=3, BitsAllocated=8, BitsStored=8, HighBit=7, PhotometricInterpretation="YBR_FULL_422",
        PlanarConfiguration=0, PixelData=bytes(512),
    )  # fmt: skip
    retired, floats, twelve = image(), image(BitsAllocated=32, BitsStored=32, HighBit=31), image(PixelData=bytes(384))
    _compress(retired, UID("1.2.840.10008.1.2.4.52"), encapsulate([bytes(100)]))
    floats.FloatPixelData = GRADIENT.astype("<f4").tobytes()
    del floats.PixelData
    twelve.BitsAllocated = 12
    data = encoded(no_length)
    made = {
        "display fragments without offsets": one(pieces, why="fragments"),
        "display meta group length 0": one(no_length, data[:140] + bytes(4) + data[144:]),
        "display YBR_FULL_422": one(colour, why="colours"),
        "display retired syntax": one(retired, why="syntax"),
        "display floating point": one(floats, why="float"),
        "display 12 bits allocated": one(twelve, why="bits"),
    }
    for kind, value in (("empty", b""), ("0", b"0"), ("1.0", b"1.0")):
        dataset = image(NumberOfFrames=7777)
        made[f"display NumberOfFrames {kind}"] = one(
            dataset, replaced(encoded(dataset), 0x00280008, b"IS", value, b"7777"), why="frame-count"
        )
    return made


# --- read one way, or refused with the true reason ------------------------------------------------------------------
def readable() -> dict[str, Case]:
    """Faults outside of the pixels, and numbers beyond their VR."""
    unknown, padded, named, large = image(), image(), image(), image(InstanceNumber=7777)
    data = encoded(unknown)
    at = data.index(b"\x28\x00\x10\x00US")
    label = encoded(named)
    old, new = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2\0"
    label = label.replace(b"UI" + struct.pack("<H", len(old)) + old, b"UI" + struct.pack("<H", len(new)) + new)
    label = label[:140] + struct.pack("<L", struct.unpack("<L", label[140:144])[0] + len(new) - len(old)) + label[144:]
    return {
        "read unknown VR": one(unknown, data[:at] + b"\x28\x00\x06\x00??\x02\x00\0\0" + data[at:]),
        "read zeros behind the end": one(padded, encoded(padded) + bytes(8)),
        "read implicit VR in name only": one(named, label),
        "read IS beyond 32 bits": one(large, replaced(encoded(large), 0x00200013, b"IS", b"99999999999", b"7777")),
    }  # fmt: skip


# --- each way of writing pixels -------------------------------------------------------------------------------------
# With a decoder that is not the one that reads what the platform gives, where there are two.
SHIPPED = {
    "JPEG lossless": ("pydicom-data/data/JPEG-LL.dcm", "gdcm"),
    "JPEG extended": ("pydicom/test_files/JPGExtended.dcm", "pylibjpeg"),
    "JPEG-LS": ("pydicom-data/data/emri_small_jpeg_ls_lossless.dcm", "gdcm"),
    "JPEG 2000": ("pydicom/test_files/MR_small_jp2klossless.dcm", "gdcm"),
    "JPEG 2000 lossy": ("pydicom/test_files/JPEG2000.dcm", "gdcm"),
}


def compressed() -> dict[str, Case]:
    """Frames that must come as the pixels that were written."""
    made: dict[str, Case] = {}
    for kind, syntax in {
        "explicit": ExplicitVRLittleEndian, "implicit": ImplicitVRLittleEndian, "big endian": ExplicitVRBigEndian,
        "deflated": DeflatedExplicitVRLittleEndian, "RLE": RLELossless,
    }.items():  # fmt: skip
        frames = (GRADIENT, GRADIENT[::-1], GRADIENT.T)
        dataset = image(NumberOfFrames=3, PixelData=np.stack(frames).astype("<u2").tobytes())
        if syntax == RLELossless:
            dataset.compress(syntax, generate_instance_uid=False)
        elif syntax == ExplicitVRBigEndian:
            dataset.PixelData = np.stack(frames).astype(">u2").tobytes()
        dataset.file_meta.TransferSyntaxUID = syntax
        target = io.BytesIO()
        implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
        pydicom.dcmwrite(target, dataset, implicit_vr=implicit, little_endian=little, enforce_file_format=True)
        made[f"pixels {kind}"] = one(dataset, target.getvalue(), frames=frames)
    for kind, (name, decoder) in SHIPPED.items():
        dataset = pydicom.dcmread(real_files()[name])
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.PatientName, dataset.PatientID = "Stranger^Test", "STRANGER"
        decoded = pixel_array(dataset, raw=True, decoding_plugin=decoder)
        made[f"pixels {kind}"] = one(dataset, frames=tuple(decoded) if decoded.ndim > 2 else (decoded,))
    return made


def _compress(dataset: FileDataset, syntax: UID, data: bytes) -> None:
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = data
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True


def _jpeg(frame: NDArray[np.uint8]) -> bytes:
    target = io.BytesIO()
    Image.fromarray(frame).save(target, "JPEG")
    return target.getvalue()
