"""Images other than plain slices, in a real browser: each kind that the viewer knows must be seen, not only fetched."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path

import cbct
import numpy as np
import pydicom
import pytest
from canvas import CANVAS, correlation, fitted, shown, shown_in_colour, windowed
from deliveries import copy_with_new_uids
from numpy.typing import NDArray
from PIL import Image
from platform_client import ROOT, Platform
from playwright.sync_api import expect
from pydicom.pixels import apply_color_lut
from reader import PATIENCE_MS, Reader
from real_files import real_files
from special_files import pdf, segmentation, video

CLINIC = "denscan-central"
PATIENT = {
    "PatientName": "Kinds^Test",
    "PatientID": f"KINDS-{time.time_ns()}",
    "StudyDate": "20990104",
    "StudyTime": "120000",
}
PALETTE = "pydicom/test_files/examples_palette.dcm"
ENHANCED_CT = "pydicom-data/data/eCT_Supplemental.dcm"
ECG = "pydicom/test_files/waveform_ecg.dcm"
RED = (192, 32, 32)
"""Of tests/data/red.mp4: two seconds of H.264 in one colour, made with ffmpeg."""

OpenBrowser = Callable[[], Reader]
Studies = dict[str, str]


@pytest.fixture(scope="module")
def voxels() -> NDArray[np.int16]:
    return cbct.volume()


@pytest.fixture(scope="module")
def studies(platform: Platform, tmp_path_factory: pytest.TempPathFactory, voxels: NDArray[np.int16]) -> Studies:
    """Deliver one study of each kind; kind -> StudyInstanceUID, when all are in the study list."""
    folder = tmp_path_factory.mktemp("delivery") / "kinds"
    folder.mkdir()
    found = {
        "pdf": pdf(folder / "pdf", **PATIENT).StudyInstanceUID,
        "video": video(folder / "video", ROOT / "tests/data/red.mp4", **PATIENT).StudyInstanceUID,
    }
    for name in (PALETTE, ENHANCED_CT, ECG):
        copy = copy_with_new_uids(real_files()[name], folder / Path(name).stem, PatientID=PATIENT["PatientID"])
        found[name] = copy.study_uid
    scan = cbct.cbct(voxels, **PATIENT)
    scan.save_as(folder / "cbct")
    found["cbct"] = scan.StudyInstanceUID
    series = real_files()[PALETTE].parent / "dicomdirtests" / "98892001" / "CT5N"
    found["segmentation"] = copy_with_new_uids(series, folder / "ct", **PATIENT).study_uid
    segmentation(folder / "segmentation", [pydicom.dcmread(file) for file in sorted((folder / "ct").iterdir())])
    platform.deliver(CLINIC, folder, f"kinds-{time.time_ns()}")
    session = platform.api(platform.user("physician", CLINIC))
    for study in found.values():
        platform.wait_for_study(session, study)
    return found


def look(platform: Platform, open_browser: OpenBrowser, study: str) -> Reader:
    """Open a study in the viewer, with the notices out of the way."""
    reader = open_browser()
    reader.log_in(platform.user("physician", CLINIC), f"/viewer?StudyInstanceUIDs={study}")
    # The tour lies over everything, but does not come with each kind.
    tour = reader.page.get_by_text("Skip all")
    reader.page.add_locator_handler(tour, lambda skip: skip.click())
    reader.page.get_by_text("Confirm and hide").click()
    return reader


def wait_until(reader: Reader, seen: Callable[[], float], enough: float) -> float:
    """Look again until there is enough to see; how much there was to see at best."""
    deadline = time.monotonic() + PATIENCE_MS / 1000
    best = seen()
    while best < enough and time.monotonic() < deadline:
        reader.page.wait_for_timeout(500)
        best = max(best, seen())
    reader.screenshot("seen")
    return best


def share(chosen: np.ndarray) -> float:
    return float(chosen.mean())


def near(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (np.abs(picture - np.array(colour)) < 40).all(axis=-1)


def test_an_image_with_a_palette_is_shown_in_its_colours(
    platform: Platform, open_browser: OpenBrowser, studies: Studies
) -> None:
    reader = look(platform, open_browser, studies[PALETTE])
    dataset = pydicom.dcmread(real_files()[PALETTE])
    colours = (apply_color_lut(dataset.pixel_array, dataset) >> 8).astype(np.uint8)

    def likeness() -> float:
        canvas = shown_in_colour(reader.page)
        return correlation(canvas, fitted(colours, canvas.shape[:2]))

    reader.page.wait_for_selector(CANVAS)
    assert wait_until(reader, likeness, 0.95) > 0.95
    canvas = shown_in_colour(reader.page)
    assert share(np.ptp(canvas, axis=-1) > 30) > 0.01, "all is grey"
    assert reader.policy_violations() == []


def test_an_enhanced_ct_with_a_supplemental_palette_is_shown(
    platform: Platform, open_browser: OpenBrowser, studies: Studies
) -> None:
    reader = look(platform, open_browser, studies[ENHANCED_CT])
    dataset = pydicom.dcmread(real_files()[ENHANCED_CT])
    # Of both frames: values and window, which an enhanced image keeps in its functional groups.
    shared = dataset.SharedFunctionalGroupsSequence[0]
    rescale, window = shared.PixelValueTransformationSequence[0], shared.FrameVOILUTSequence[0]
    values = dataset.pixel_array[0] * float(rescale.RescaleSlope) + float(rescale.RescaleIntercept)
    picture = windowed(values, float(window.WindowCenter), float(window.WindowWidth))

    def likeness() -> float:
        canvas = shown(reader.page)
        return correlation(canvas, fitted(picture, (canvas.shape[0], canvas.shape[1])))

    reader.page.wait_for_selector(CANVAS)
    assert wait_until(reader, likeness, 0.95) > 0.95
    assert reader.policy_violations() == []


def test_a_cone_beam_ct_of_400_slices_in_one_file_is_scrolled_and_cut_in_three_directions(
    platform: Platform, open_browser: OpenBrowser, studies: Studies, voxels: NDArray[np.int16]
) -> None:
    reader = look(platform, open_browser, studies["cbct"])

    def likeness(cut: NDArray[np.int16], viewport: int = 0) -> float:
        canvas = shown(reader.page, viewport)
        return correlation(canvas, fitted(windowed(cut, *cbct.WINDOW), (canvas.shape[0], canvas.shape[1])))

    reader.page.wait_for_selector(CANVAS)
    assert wait_until(reader, lambda: likeness(voxels[0]), 0.95) > 0.95
    reader.page.locator(CANVAS).hover()
    for _ in range(50):
        reader.page.mouse.wheel(0, 100)
    assert wait_until(reader, lambda: likeness(voxels[50]), 0.95) > 0.95
    assert likeness(voxels[0]) < 0.5

    reader.page.locator("[data-cy=Layout]").click()
    reader.page.locator("[data-cy=MPR]").click()
    expect(reader.page.locator(CANVAS)).to_have_count(3)
    middle = [size // 2 for size in voxels.shape]
    # Head up; the first slice is the lowest.
    cuts = (voxels[middle[0]], voxels[::-1, :, middle[2]], voxels[::-1, middle[1]])
    for viewport, cut in enumerate(cuts):
        assert wait_until(reader, lambda at=viewport, cut=cut: likeness(cut, at), 0.95) > 0.95, viewport
    assert reader.policy_violations() == []


def test_a_video_of_an_endoscope_plays(platform: Platform, open_browser: OpenBrowser, studies: Studies) -> None:
    reader = look(platform, open_browser, studies["video"])
    reader.page.wait_for_selector(CANVAS)
    assert wait_until(reader, lambda: share(near(shown_in_colour(reader.page), RED)), 0.5) > 0.5
    assert reader.policy_violations() == []


def test_an_ecg_shows_its_leads(platform: Platform, open_browser: OpenBrowser, studies: Studies) -> None:
    reader = look(platform, open_browser, studies[ECG])
    reader.page.wait_for_selector(CANVAS)
    # Each lead crosses the picture from left to right.
    assert wait_until(reader, lambda: share((shown(reader.page) > 150).any(axis=0)), 0.9) > 0.9
    assert reader.policy_violations() == []


def test_a_pdf_shows_its_page(platform: Platform, open_browser: OpenBrowser, studies: Studies) -> None:
    reader = look(platform, open_browser, studies["pdf"])

    def white() -> float:
        picture = Image.open(io.BytesIO(reader.page.locator("object").screenshot())).convert("L")
        return share(np.asarray(picture) > 240)

    assert wait_until(reader, white, 0.1) > 0.1, "no white page"
    assert reader.policy_violations() == []


def test_a_segmentation_lies_over_its_image(platform: Platform, open_browser: OpenBrowser, studies: Studies) -> None:
    reader = look(platform, open_browser, studies["segmentation"])
    reader.page.wait_for_selector(CANVAS)

    def coloured() -> float:
        return share(np.ptp(shown_in_colour(reader.page), axis=-1) > 20)

    assert coloured() == 0
    reader.page.locator("[data-cy^=study-browser-thumbnail-no-image]").dblclick()
    # The middle ninth of the image, which is fitted into a wider canvas.
    assert wait_until(reader, coloured, 0.05) > 0.05
    assert reader.policy_violations() == []
