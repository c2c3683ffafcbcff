"""Images that are written oddly: some can be displayed nevertheless, others cannot."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.uid import UID, ExplicitVRBigEndian
from strange_files import image

JPEG, JPEG_2000, RLE, JPEG_LS = (
    "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80",
)  # fmt: skip
BYTES = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
COLOUR = {"SamplesPerPixel": 3, "PlanarConfiguration": 0, **BYTES}


def encoded(dataset: FileDataset) -> bytes:
    """Its bytes as a file, whatever its transfer syntax is called."""
    target = io.BytesIO()
    dataset.save_as(target, implicit_vr=False, little_endian=True)
    return target.getvalue()


def native(frames: int = 1, pixels: bytes | None = None, number: str | None = None, **attributes: object) -> bytes:
    """An image of 16 by 16 pixels that is not compressed; `number` is NumberOfFrames as it is written."""
    dataset = image(**attributes)
    samples, bits = int(attributes.get("SamplesPerPixel", 1)), int(attributes.get("BitsAllocated", 16))  # type: ignore[call-overload]
    dataset.PixelData = bytes(i % 251 for i in range(frames * 256 * samples * bits // 8)) if pixels is None else pixels
    if bits <= 8:
        dataset["PixelData"].VR = "OB"
    return numbered(dataset, number)


def numbered(dataset: FileDataset, number: str | None) -> bytes:
    """Its bytes, with NumberOfFrames written so."""
    if number is None:
        return encoded(dataset)
    dataset.NumberOfFrames = 7777
    value = number.encode() + b" " * (len(number) % 2)
    head = struct.pack("<HH", 0x28, 8) + b"IS"
    data = encoded(dataset)
    assert data.count(head + b"\4\0" + b"7777") == 1
    return data.replace(head + b"\4\0" + b"7777", head + struct.pack("<H", len(value)) + value)


def pictures(count: int, kind: str, options: dict[str, object] | None = None, mode: str = "L") -> list[bytes]:
    """Frames of 64 by 64 pixels as JPEG or JPEG 2000."""
    made = []
    for number in range(count):
        ramp = np.add.outer(np.arange(64), np.arange(64)) + 40 * number
        target = io.BytesIO()
        Image.fromarray(ramp.astype(np.uint8)).convert(mode).save(target, kind, **(options or {}))
        made.append(target.getvalue())
    return made


def rle(count: int) -> list[bytes]:
    """Frames of 64 by 64 pixels as RLE (PS3.5 annex G)."""
    made = []
    for number in range(count):
        rows = b"".join(bytes([63]) + bytes((row + column + number) % 256 for column in range(64)) for row in range(64))
        made.append(struct.pack("<16L", 1, 64, *[0] * 14) + rows)
    return made


def compressed(
    frames: list[bytes], syntax: str = JPEG, number: str | None = None, fragments: int = 1, table: bool = True,
    extended: bool = False, **attributes: object,
) -> bytes:  # fmt: skip
    """An image of compressed frames, each in so many fragments."""
    dataset = image(**{**BYTES, "Rows": 64, "Columns": 64, "Modality": "US", **attributes})
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    if extended:
        dataset.PixelData, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = encapsulate_extended(
            frames
        )
    else:
        dataset.PixelData = encapsulate(frames, fragments_per_frame=fragments, has_bot=table)
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    return numbered(dataset, str(len(frames)) if number is None else number)


def without(*keywords: str, **attributes: object) -> bytes:
    dataset = image(**attributes)
    for keyword in keywords:
        delattr(dataset, keyword)
    return encoded(dataset)


def floating(keyword: str, kind: str) -> bytes:
    """Pixels as floating-point numbers (PS3.3 C.7.6.24, C.7.6.25)."""
    dataset = image(BitsAllocated=int(kind[2:]) * 8)
    del dataset.PixelData, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation
    setattr(dataset, keyword, np.linspace(0, 1, 256).astype(kind).tobytes())
    return encoded(dataset)


def retabled(frames: list[bytes], fragments: int, table: list[int]) -> bytes:
    """Frames in fragments under an offset table with these entries."""
    old = struct.pack("<HHL", 0xFFFE, 0xE000, 0)
    data = compressed(frames, fragments=fragments, table=False)
    assert data.count(old) == 1
    return data.replace(
        old, struct.pack("<HHL", 0xFFFE, 0xE000, 4 * len(table)) + struct.pack(f"<{len(table)}L", *table)
    )


def relabelled(frames: list[bytes], syntax: str) -> bytes:
    """Frames under a transfer syntax that pydicom does not know, of as many letters as those of HTJ2K."""
    return compressed(frames, "1.2.840.10008.1.2.4.201").replace(b"1.2.840.10008.1.2.4.201", syntax.encode())


def group_length_zero() -> bytes:
    """(0002,0000) is 0, though the file meta information has elements."""
    data = native()
    return data[:140] + struct.pack("<L", 0) + data[144:]


def palette() -> bytes:
    dataset = image(**BYTES, PhotometricInterpretation="PALETTE COLOR", PixelData=bytes(range(256)))
    dataset["PixelData"].VR = "OB"
    for name, shift in (("Red", 0), ("Green", 85), ("Blue", 170)):
        setattr(dataset, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(
            dataset, f"{name}PaletteColorLookupTableData", np.roll(np.arange(256, dtype="<u2") * 257, shift).tobytes()
        )
    return encoded(dataset)


def report() -> bytes:
    """Not an image, though of its elements some are."""
    dataset = image(Modality="SR")
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.88.11")
    dataset.ValueType, dataset.ContentSequence = "CONTAINER", [Dataset()]
    del dataset.PixelData, dataset.Rows, dataset.Columns, dataset.BitsAllocated
    return encoded(dataset)


def segmentation(frames: int = 3) -> bytes:
    """A bit a pixel, frames not padded to whole bytes (PS3.5 8.1.1): 10 by 10 pixels."""
    dataset = image(
        BitsAllocated=1, BitsStored=1, HighBit=0, Rows=10, Columns=10, Modality="SEG", NumberOfFrames=frames,
        PixelData=bytes(-(-frames * 100 // 8) + -(-frames * 100 // 8) % 2),
    )  # fmt: skip
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.66.4")
    return encoded(dataset)


def big_endian(bits: int) -> bytes:
    """Pixels of so many bits, in the order that goes out of use."""
    dataset = image(BitsAllocated=bits, BitsStored=bits, HighBit=bits - 1, PixelData=bytes(range(256)) * (bits // 8))
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    target = io.BytesIO()
    dcmwrite(target, dataset, implicit_vr=False, little_endian=False)
    return target.getvalue()


J2K = partial(pictures, kind="JPEG2000")
"""Raw code streams, as DICOM has them, come of the option no_jp2."""
RAW: dict[str, object] = {"no_jp2": True}

Maker = Callable[[], bytes]
# How each is made, and the code why it cannot be displayed; None: it can.
CASES: dict[str, tuple[Maker, str | None]] = {
    "plain": (native, None),
    "group length 0": (group_length_zero, None),
    "palette": (palette, None),
    "8 bits": (partial(native, **BYTES), None),
    "32 bits": (partial(native, BitsAllocated=32, BitsStored=32, HighBit=31), None),
    "colour": (partial(native, PhotometricInterpretation="RGB", **COLOUR), None),
    "YBR_FULL": (partial(native, PhotometricInterpretation="YBR_FULL", **COLOUR), None),
    "two frames": (partial(native, frames=2, number="2"), None),
    "padded count": (partial(native, frames=2, number=" 2 "), None),
    "plus sign": (partial(native, frames=2, number="+2"), None),
    "leading zero": (partial(native, frames=2, number="02"), None),
    "pixels too long": (partial(native, pixels=bytes(600)), None),
    "report": (report, None),
    "segmentation": (segmentation, None),
    "JPEG": (partial(compressed, pictures(2, "JPEG")), None),
    "JPEG without a table": (partial(compressed, pictures(2, "JPEG"), table=False), None),
    "JPEG in fragments with a table": (partial(compressed, pictures(2, "JPEG"), fragments=3), None),
    "JPEG, extended table": (partial(compressed, pictures(2, "JPEG"), extended=True), None),
    "JPEG, one frame in fragments": (partial(compressed, pictures(1, "JPEG"), fragments=3, table=False), None),
    "JPEG 2000": (partial(compressed, J2K(2, options=RAW), JPEG_2000), None),
    "RLE": (partial(compressed, rle(2), RLE), None),
    "RLE without a table": (partial(compressed, rle(2), RLE, table=False), None),
    "zero byte behind the count": (partial(native, frames=2, number="2\0"), None),
    "16 bits of colour": (
        partial(native, PhotometricInterpretation="RGB", SamplesPerPixel=3, PlanarConfiguration=0), None,
    ),
    "colour by plane": (partial(native, PhotometricInterpretation="RGB", **{**COLOUR, "PlanarConfiguration": 1}), None),
    "YBR_RCT": (partial(native, PhotometricInterpretation="YBR_RCT", **COLOUR), None),
    "no interpretation of colours": (partial(native, PhotometricInterpretation="", **COLOUR), None),
    "colours called grey": (partial(native, PhotometricInterpretation="MONOCHROME2", **COLOUR), None),
    "grey called RGB": (partial(native, PhotometricInterpretation="RGB"), None),
    "rgb": (partial(native, PhotometricInterpretation="rgb", **COLOUR), None),
    "no samples": (partial(without, "SamplesPerPixel"), None),
    "no photometric interpretation": (partial(without, "PhotometricInterpretation"), None),
    "no planar configuration": (partial(native, PhotometricInterpretation="RGB", SamplesPerPixel=3, **BYTES), None),
    "no bits stored": (partial(without, "BitsStored", "HighBit"), None),
    "no pixel representation": (partial(without, "PixelRepresentation"), None),
    "signed": (partial(native, PixelRepresentation=1), None),
    "32 bits signed": (partial(native, BitsAllocated=32, BitsStored=32, HighBit=31, PixelRepresentation=1), None),
    "one frame, a table": (partial(retabled, pictures(1, "JPEG"), 3, [0]), None),
    "a frame each, a wrong table": (partial(retabled, pictures(2, "JPEG"), 1, [7, 3]), None),
    "big endian": (partial(big_endian, 16), None),
    # Images that cannot be displayed.
    "32 bits in big endian": (partial(big_endian, 32), "bits"),
    "a table that points beside": (partial(retabled, pictures(2, "JPEG"), 3, [0, 10]), "fragments"),
    "a table of fragments": (partial(retabled, pictures(2, "JPEG"), 2, [0, 1, 2, 3]), "fragments"),
    "one frame, a table that points beside": (partial(retabled, pictures(1, "JPEG"), 3, [5]), "fragments"),
    "one frame, a table of fragments": (partial(retabled, pictures(1, "JPEG"), 2, [0, 400]), "fragments"),
    "a table from the end": (partial(retabled, pictures(2, "JPEG"), 2, [700, 0]), "fragments"),
    "RLE of 32 bits": (partial(compressed, rle(1), RLE, BitsAllocated=32, BitsStored=32, HighBit=31), "bits"),
    "HSV": (partial(native, PhotometricInterpretation="HSV", **COLOUR), "colours"),
    "two samples": (partial(native, **{**COLOUR, "SamplesPerPixel": 2}), "colours"),
    "MPEG-2": (partial(compressed, [bytes(100)], "1.2.840.10008.1.2.4.100"), "syntax"),
    "JPEG in fragments without a table": (
        partial(compressed, pictures(2, "JPEG"), fragments=3, table=False), "fragments",
    ),
    "JPEG 2000 in fragments": (
        partial(compressed, J2K(2, options=RAW), JPEG_2000, fragments=2, table=False), "fragments",
    ),
    "count empty": (partial(native, number=""), "frame-count"),
    "count 0": (partial(native, number="0"), "frame-count"),
    "count 1.0": (partial(native, number="1.0"), "frame-count"),
    "count negative": (partial(native, number="-1"), "frame-count"),
    "count words": (partial(native, number="one"), "frame-count"),
    "count of two": (partial(native, number="1\\1"), "frame-count"),
    "JPEG, count empty": (partial(compressed, pictures(1, "JPEG"), number=""), "frame-count"),
    "JPEG, count 0": (partial(compressed, pictures(1, "JPEG"), number="0"), "frame-count"),
    "JPEG, more frames": (partial(compressed, pictures(3, "JPEG"), number="2", table=False), "frame-count"),
    "JPEG, fewer frames": (partial(compressed, pictures(2, "JPEG"), number="3"), "frames-missing"),
    "native, fewer frames": (partial(native, frames=2, number="3"), "pixels-short"),
    "pixels too short": (partial(native, pixels=bytes(500)), "pixels-short"),
    "pixels empty": (partial(native, pixels=b""), "no-pixels"),
    "no pixels": (partial(without, "PixelData"), "no-pixels"),
    "no rows": (partial(without, "Rows"), "no-size"),
    "no columns": (partial(without, "Columns"), "no-size"),
    "rows 0": (partial(native, Rows=0), "no-size"),
    "no bits": (partial(without, "BitsAllocated"), "no-size"),
    "YBR_FULL_422": (
        partial(native, pixels=bytes(512), PhotometricInterpretation="YBR_FULL_422", **COLOUR), "colours",
    ),
    "YBR_FULL_422 at full length": (partial(native, PhotometricInterpretation="YBR_FULL_422", **COLOUR), "colours"),
    "YBR_PARTIAL_422": (partial(native, PhotometricInterpretation="YBR_PARTIAL_422", **COLOUR), "colours"),
    "12 bits": (partial(native, pixels=bytes(384), BitsAllocated=12, BitsStored=12), "bits"),
    "64 bits": (partial(native, BitsAllocated=64, BitsStored=64, HighBit=63), "bits"),
    "24 bits": (partial(native, BitsAllocated=24, BitsStored=24, HighBit=23), "bits"),
    "1 bit": (partial(native, BitsAllocated=1, BitsStored=1, HighBit=0), "bits"),
    "1 bit stored": (partial(native, BitsAllocated=8, BitsStored=1, HighBit=0), "bits"),
    "more bits stored": (partial(native, **{**BYTES, "BitsStored": 9}), "bits"),
    "JPEG, more bits stored": (partial(compressed, pictures(1, "JPEG"), BitsStored=16), "bits"),
    "0 samples": (partial(native, SamplesPerPixel=0, pixels=bytes(512)), "colours"),
    "no such plane": (
        partial(native, PhotometricInterpretation="RGB", **{**COLOUR, "PlanarConfiguration": 2}), "colours",
    ),
    "4 samples": (partial(native, PhotometricInterpretation="CMYK", **{**COLOUR, "SamplesPerPixel": 4}), "colours"),
    "float": (partial(floating, "FloatPixelData", "<f4"), "float"),
    "double": (partial(floating, "DoubleFloatPixelData", "<f8"), "float"),
    "retired JPEG": (partial(compressed, pictures(1, "JPEG"), "1.2.840.10008.1.2.4.52"), "syntax"),
    "JPEG XL": (partial(relabelled, [bytes(100)], "1.2.840.10008.1.2.4.110"), "syntax"),
    "JPEG 2000 part 2": (partial(compressed, J2K(1, options=RAW), "1.2.840.10008.1.2.4.92"), "syntax"),
    "video in an image": (partial(compressed, [bytes(100)], "1.2.840.10008.1.2.4.102"), "syntax"),
}  # fmt: skip


def corrupt() -> bytes:
    """A JPEG whose frame is found, and in which no decoder finds a picture. The import cannot know."""
    frame = pictures(1, "JPEG")[0]
    return compressed([frame[:2] + bytes(len(frame) - 2)])
