"""Finds out why a stored image cannot be displayed as the platform serves it now.

Orthanc cuts frames out of the file, and the viewer decodes them. This module looks at no pixel. It finds the frames,
and compares them with the header.

Nothing is said against an object that is no image (a report, a plan, a segmentation, which the viewer fetches whole),
nor against an image that is not known to fail. Errors that a decoder finds inside a frame are not known here.
"""

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from pydicom.uid import UID

from imaging_importer.dicom.elements import PIXEL_DATA, UNDEFINED_LENGTH, Element
from imaging_importer.dicom.instance import DEFLATED_UID, NATIVE, Instance

# The codes are passed on; the code that shows them has the words. They end the sentence "It cannot be displayed: …".
WHY = {
    "bits": "the number of bits of a pixel is not supported",
    "colours": "the colours are written in a way that is not supported",
    "fragments": "the frames are in pieces, and nothing in the file says which piece belongs to which frame",
    "float": "the pixels are floating-point numbers, which are not supported",
    "frame-count": "the number of frames (NumberOfFrames) is missing or wrong",
    "frames-missing": "the file has fewer frames than it says",
    "no-pixels": "the file has no pixels",
    "no-size": "the file does not say how large the image is, or how its pixels are written",
    "pixels-short": "the file has fewer pixels than it says, as after a copy that broke off",
    "syntax": "the pixels are compressed in a way (transfer syntax) that is not supported",
}
NOTE = "not-displayable"

FLOAT_PIXEL_DATA, DOUBLE_FLOAT_PIXEL_DATA = 0x7FE00008, 0x7FE00009
SAMPLES_PER_PIXEL, PHOTOMETRIC_INTERPRETATION, NUMBER_OF_FRAMES = 0x00280002, 0x00280004, 0x00280008
PLANAR_CONFIGURATION, ROWS, COLUMNS, BITS_ALLOCATED, BITS_STORED = (
    0x00280006,
    0x00280010,
    0x00280011,
    0x00280100,
    0x00280101,
)

# The viewer fetches these whole and reads them itself: segmentations and parametric maps.
FETCHED_WHOLE = frozenset({
    "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7", "1.2.840.10008.5.1.4.1.1.30",
})  # fmt: skip
# Browsers play MPEG-4 and later, not MPEG-2. The viewer plays videos of endoscopes, microscopes and cameras. It takes a
# secondary capture of three seconds in the colour space of videos for one too.
VIDEO = re.compile(r"1\.2\.840\.10008\.1\.2\.4\.10[2-8](\.1)?")
VIDEO_CLASSES = frozenset({
    "1.2.840.10008.5.1.4.1.1.77.1.1.1", "1.2.840.10008.5.1.4.1.1.77.1.2.1", "1.2.840.10008.5.1.4.1.1.77.1.4.1",
})  # fmt: skip
SECONDARY_CAPTURES = frozenset({"1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.7.4"})
FRAMES_OF_A_VIDEO = 90

# The syntaxes that the viewer decodes, and the beginning of a frame in each: SOI of JPEG and JPEG-LS, SOC of JPEG 2000,
# or the box that some writers put around it.
RLE = "1.2.840.10008.1.2.5"
SOI, SOC, JP2 = b"\xff\xd8", b"\xff\x4f", b"\0\0\0\x0cjP  "
DECODED: dict[str, tuple[bytes, ...]] = {
    RLE: (),
    **{f"1.2.840.10008.1.2.4.{number}": (SOI,) for number in (50, 51, 57, 70, 80, 81)},
    **{f"1.2.840.10008.1.2.4.{number}": (SOC, JP2) for number in (90, 91, 201, 202, 203)},
}

# Without compression, the viewer takes three samples for RGB or YBR_FULL.
UNSUPPORTED_COLOURS = frozenset({b"YBR_FULL_422", b"YBR_PARTIAL_422", b"YBR_PARTIAL_420", b"HSV", b"ARGB", b"CMYK"})

COUNT = re.compile(rb"[ \0]*\+?0*([1-9][0-9]{0,8})[ \0]*")


class Fragment(NamedTuple):
    """A piece of compressed pixel data: its offset among the items (PS3.5 A.4), and its value in the file."""

    offset: int
    value: int
    end: int


def note_of(instance: Instance) -> dict[str, str]:
    """The note on an instance that cannot be displayed; none on others. The instance must still have its elements."""
    code = undisplayable(instance)
    return {NOTE: f"{code}: {WHY[code]}"} if code else {}


def code_of(notes: dict[str, str]) -> str | None:
    """The code in the notes on an instance."""
    return notes[NOTE].partition(":")[0] if NOTE in notes else None


def undisplayable(instance: Instance) -> str:
    """The reason why it cannot be displayed, a key of WHY; empty if it can, or if it is no image."""
    pixels = instance.find(PIXEL_DATA)
    is_float = instance.find(FLOAT_PIXEL_DATA) or instance.find(DOUBLE_FLOAT_PIXEL_DATA)
    is_image = "Image Storage" in UID(instance.sop_class_uid).name
    if instance.sop_class_uid in FETCHED_WHOLE or not (pixels or is_float or is_image):
        return ""
    syntax = instance.syntax
    if VIDEO.fullmatch(syntax):
        is_long = _frames(instance) >= FRAMES_OF_A_VIDEO and _interpretation(instance) == b"YBR_PARTIAL_420"
        is_capture = instance.sop_class_uid in SECONDARY_CAPTURES and is_long
        return "" if instance.sop_class_uid in VIDEO_CLASSES or is_capture else "syntax"
    if syntax not in DECODED and syntax not in NATIVE and syntax != DEFLATED_UID:
        return "syntax"
    if is_float:
        return "float"
    if pixels is None or not pixels.length:
        return "no-pixels"
    rows, columns, bits = (_number(instance, tag) for tag in (ROWS, COLUMNS, BITS_ALLOCATED))
    if not rows or not columns or not bits:
        return "no-size"
    frames = _frames(instance)
    if not frames:
        return "frame-count"
    is_native = pixels.length != UNDEFINED_LENGTH
    stored = _number(instance, BITS_STORED, bits)
    if bits not in ((8, 16, 32) if is_native else (8, 16)) or stored == 1 or stored > bits:
        return "bits"
    if bits == 32 and not instance.encoding.little_endian:  # readers differ on which of its two words comes first
        return "bits"
    samples = _number(instance, SAMPLES_PER_PIXEL, 1)
    if not samples or (samples > 1 and _number(instance, PLANAR_CONFIGURATION) > 1):
        return "colours"
    if not is_native:
        return _encapsulated(instance, pixels, frames, syntax)
    if samples not in (1, 3) or _interpretation(instance) in UNSUPPORTED_COLOURS:
        return "colours"
    return "pixels-short" if pixels.length < rows * columns * frames * samples * bits // 8 else ""


def _encapsulated(instance: Instance, pixels: Element, frames: int, syntax: str) -> str:
    # There may be a million fragments. They are read twice, and are never in memory together.
    fragments = _fragments(instance, pixels)
    table = next(fragments, None)
    begins = DECODED[syntax]
    longest = max(map(len, begins), default=0)
    count, heads, is_empty = 0, 0, True
    for fragment in fragments:
        count += 1
        is_empty = is_empty and fragment.end == fragment.value
        heads += instance.walker.read(fragment.value, fragment.value + longest).startswith(begins)
    if table is None or is_empty:
        return "no-pixels"
    if begins:
        if heads < frames:
            return "frames-missing"
        if heads > frames and heads == count:
            return "frame-count"
    if count < frames:
        return "frames-missing"
    # A single frame has all fragments. With as many fragments as frames, nobody reads the table.
    if frames == count or (frames == 1 and table.end == table.value):
        return ""
    return "" if _is_cut_by(instance, table, frames, pixels) else "fragments"


def _is_cut_by(instance: Instance, table: Fragment, frames: int, pixels: Element) -> bool:
    """Whether the Basic Offset Table has the beginning of each frame."""
    if table.end - table.value != 4 * frames:
        return False
    fragments = _fragments(instance, pixels)
    next(fragments)
    offsets = (offset for (offset,) in struct.iter_unpack("<L", instance.walker.read(table.value, table.end)))
    expected: int = next(offsets)
    if expected:
        return False
    for fragment in fragments:
        if fragment.offset == expected:
            expected = next(offsets, -1)
    return expected < 0


def _fragments(instance: Instance, pixels: Element) -> Iterator[Fragment]:
    """The Basic Offset Table, then the fragments, whose offsets count from the first of them."""
    position, start, end = pixels.value, 0, pixels.end - 8
    while position < end:
        (length,) = struct.unpack("<L", instance.walker.read(position + 4, position + 8))
        yield Fragment(position - start, position + 8, position + 8 + length)
        position += 8 + length
        start = start or position


def _frames(instance: Instance) -> int:
    """The number of frames in the header; 0 if that is no number."""
    if instance.find(NUMBER_OF_FRAMES) is None:
        return 1
    count = COUNT.fullmatch(instance.value(NUMBER_OF_FRAMES, 64))
    return int(count[1]) if count else 0


def _interpretation(instance: Instance) -> bytes:
    return instance.value(PHOTOMETRIC_INTERPRETATION, 16).strip(b" \0")


def _number(instance: Instance, tag: int, default: int = 0) -> int:
    """A value of VR US."""
    value = instance.value(tag, 2)
    return int(struct.unpack(instance.encoding.order + "H", value)[0]) if len(value) == 2 else default
