"""The importer's knowledge, at the time of the import, about whether an image can be displayed."""

import random
import struct
import tracemalloc
from pathlib import Path

import pytest
import yaml
from imaging_importer.dicom import display
from imaging_importer.dicom.instance import read_instance
from imaging_importer.reasons import CompanionError, RejectedError
from odd_pixels import CASES, compressed, native, pictures
from real_files import real_files
from special_files import video

ROOT = Path(__file__).parents[3]

# Of the real files that are imported. The frames of each were asked of a running platform, and what was in doubt was
# looked at in the viewer: these are not shown.
REAL = {
    **dict.fromkeys(("charset_files/chrJapMulti.dcm", "charset_files/chrJapMultiExplicitIR6.dcm"), "no-pixels"),
    "charset_files/chrKoreanMulti.dcm": "no-pixels",
    **dict.fromkeys(("test_files/SC_rgb_rle_32bit.dcm", "test_files/SC_rgb_rle_32bit_2frame.dcm"), "bits"),
    **dict.fromkeys(("test_files/rtdose_rle.dcm", "test_files/rtdose_rle_1frame.dcm"), "bits"),
    **dict.fromkeys(("test_files/rtdose_expb.dcm", "test_files/rtdose_expb_1frame.dcm"), "bits"),
    **dict.fromkeys(("data/SC_rgb_expb_32bit.dcm", "data/SC_rgb_expb_32bit_2frame.dcm"), "bits"),
    "test_files/SC_ybr_full_422_uncompressed.dcm": "colours",
    "test_files/badVR.dcm": "frame-count",
}
WITHOUT_PIXELS = "pydicom/test_files/dicomdirtests/TINY_ALPHA/"


def code(data: bytes, scratch: Path) -> str | None:
    path = scratch / "image"
    path.write_bytes(data)
    with path.open("rb") as file:
        instance = read_instance(file, scratch)
        try:
            return display.code_of(display.note_of(instance))
        finally:
            instance.close()


@pytest.mark.parametrize("case", CASES)
def test_each_kind_is_known(case: str, tmp_path: Path) -> None:
    make, expected = CASES[case]
    assert code(make(), tmp_path) == expected


def test_every_code_is_reached_and_nginx_has_its_words() -> None:
    assert {expected for _, expected in CASES.values()} == {None, *display.WHY}
    told = yaml.safe_load((ROOT / "roles/nginx/vars/main.yml").read_text())["__nginx_undisplayable"]
    assert told == display.WHY


def test_of_real_files_only_those_are_complained_of_that_are_not_shown(tmp_path: Path) -> None:
    wrong, seen = {}, set()
    for name, path in real_files().items():
        expected = "no-pixels" if name.startswith(WITHOUT_PIXELS) else REAL.get(name.partition("/")[2])
        try:
            found = code(path.read_bytes(), tmp_path)
        except (CompanionError, RejectedError):
            continue
        seen.add(found)
        if found != expected:
            wrong[name] = found
    assert wrong == {}
    assert seen == {None, *REAL.values()}


def test_a_video_is_displayed_where_the_viewer_takes_it_for_one(tmp_path: Path) -> None:
    path = tmp_path / "video"
    video(path, ROOT / "tests/data/red.mp4")
    assert code(path.read_bytes(), tmp_path) is None
    syntax, colours = "1.2.840.10008.1.2.4.102", {"PhotometricInterpretation": "YBR_PARTIAL_420"}
    assert code(compressed([bytes(100)], syntax, number="90", **colours), tmp_path) is None
    assert code(compressed([bytes(100)], syntax, number="89", **colours), tmp_path) == "syntax"
    assert code(compressed([bytes(100)], syntax, number="90"), tmp_path) == "syntax"


def test_nothing_that_the_reader_lets_through_is_stumbled_over(tmp_path: Path) -> None:
    """An error here would be reported as damage of the file."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    random_ = random.Random(seed)
    samples = [make() for make, _ in CASES.values()]
    judged = 0
    for _ in range(600):
        data = bytearray(random_.choice(samples))
        for _ in range(random_.randrange(1, 6)):
            data[random_.randrange(132, len(data))] = random_.choice(
                (0, 1, 2, 8, 127, 128, 255, random_.randrange(256))
            )
        try:
            assert code(bytes(data), tmp_path) in (None, *display.WHY)
        except (CompanionError, RejectedError):
            continue
        judged += 1
    assert judged > 100


def test_a_file_with_many_fragments_and_wild_numbers_is_judged_at_once(tmp_path: Path) -> None:
    frames = pictures(1, "JPEG")[0]
    assert code(compressed([frames[:2]] * 20_000, number="999999999", table=False), tmp_path) == "frames-missing"
    assert code(native(number="9" * 300), tmp_path) == "frame-count"
    assert code(native(Rows=65535, Columns=65535, number="999999999"), tmp_path) == "pixels-short"
    # A table of whatever length is not read unless it has as many entries as there are frames.
    data = compressed([frames] * 3, fragments=2, table=False)
    empty, full = (struct.pack("<HHL", 0xFFFE, 0xE000, size) for size in (0, 1 << 20))
    assert code(data.replace(empty, full + bytes(1 << 20)), tmp_path) == "fragments"


def test_a_million_fragments_are_not_held_together(tmp_path: Path) -> None:
    head, _, _ = compressed([bytes(4)], number="2", table=False).partition(b"\xfe\xff\x00\xe0")
    empty, delimiter = b"\xfe\xff\x00\xe0" + bytes(4), b"\xfe\xff\xdd\xe0" + bytes(4)
    path = tmp_path / "image"
    path.write_bytes(head + empty + b"\xfe\xff\x00\xe0\x02\0\0\0\xff\xd8" * 300_000 + delimiter)
    with path.open("rb") as file:
        instance = read_instance(file, tmp_path)
        tracemalloc.start()
        assert display.undisplayable(instance) == "frame-count"
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        instance.close()
    assert highest < 1 << 20
    assert code(head + delimiter, tmp_path) == "no-pixels"


def test_the_table_is_compared_with_where_the_fragments_are(tmp_path: Path) -> None:
    random_ = random.Random(3)
    for _ in range(200):
        sizes = [random_.choice((2, 4, 6)) for _ in range(4)]
        begins = [sum(8 + size for size in sizes[:number]) for number in range(4)]
        offsets = random_.choice(([0, random_.choice(begins)], [random_.choice(begins), begins[2]], [0, 3], [0, 99]))
        head, _, _ = compressed([bytes(4)], number="2", table=False).partition(b"\xfe\xff\x00\xe0")
        pieces = [
            struct.pack("<2L", *offsets),
            *(b"\xff\xd8"[: 2 * (n < 2)] + bytes(s - 2 * (n < 2)) for n, s in enumerate(sizes)),
        ]
        data = head + b"".join(struct.pack("<HHL", 0xFFFE, 0xE000, len(piece)) + piece for piece in pieces)
        is_right = offsets[0] == 0 < offsets[1] and offsets[1] in begins
        assert code(data + b"\xfe\xff\xdd\xe0" + bytes(4), tmp_path) == (None if is_right else "fragments")
