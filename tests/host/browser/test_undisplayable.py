"""Images that are stored and cannot be displayed, in a real browser: the reader is told, and the others still show."""

from __future__ import annotations

import io
import time
from collections.abc import Callable

import pytest
from canvas import CANVAS, shown
from odd_pixels import CASES, COLOUR, corrupt, native
from platform_client import Platform
from playwright.sync_api import expect
from pydicom import dcmread
from pydicom.uid import generate_uid
from reader import Reader
from stow import send

CLINIC = "denscan-central"
FRAGMENTS, SYNTAX = "the frames are in pieces, and nothing in the file says which", "the pixels are compressed in a way"
BAD = {
    "JPEG in fragments without a table": FRAGMENTS,
    "JPEG 2000 in fragments": FRAGMENTS,
    "float": "the pixels are floating-point numbers",
    "retired JPEG": SYNTAX,
}


@pytest.fixture(scope="module")
def study(platform: Platform) -> str:
    """One study: a good image, and one of each of the bad, in series of their own."""
    study, patient = generate_uid(), f"UNDISPLAYABLE-{time.time_ns()}"
    parts = []
    # The good one is a secondary capture as long as a video, which the viewer takes for one if it is let.
    images = {"good": native(100, number="100", PhotometricInterpretation="RGB", **COLOUR)}
    images |= {case: CASES[case][0]() for case in BAD} | {"corrupt": corrupt()}
    for number, (case, data) in enumerate(images.items(), 1):
        dataset = dcmread(io.BytesIO(data))
        dataset.StudyInstanceUID, dataset.PatientID, dataset.SeriesNumber = study, patient, number
        dataset.SeriesDescription = case
        target = io.BytesIO()
        dataset.save_as(target, implicit_vr=False, little_endian=True)
        parts.append(target.getvalue())
    answer = send(platform, platform.api(platform.user("technician", CLINIC)), parts)
    assert answer.status_code == 200, answer.text
    return study


def test_the_reader_is_told_in_one_notice_and_sees_the_others(
    platform: Platform, open_browser: Callable[[], Reader], study: str
) -> None:
    reader = open_browser()
    reader.log_in(platform.user("physician", CLINIC), f"/viewer?StudyInstanceUIDs={study}")
    reader.page.add_locator_handler(reader.page.get_by_text("Skip all"), lambda skip: skip.click())
    reader.page.get_by_text("Confirm and hide").click()
    notice = reader.page.get_by_role("alert").filter(has_text="cannot be displayed")
    # The thumbnails have asked for one image of each series.
    expect(notice).to_contain_text(f"2 images of this study are stored, but cannot be displayed: {FRAGMENTS}")
    expect(notice).to_contain_text(f"1 image of this study is stored, but cannot be displayed: {BAD['float']}")
    expect(notice).to_contain_text(f"1 image of this study is stored, but cannot be displayed: {SYNTAX}")
    # Of what the archive sends and no decoder can read the import does not know.
    expect(notice).to_contain_text("1 image of this study is stored, but cannot be displayed: the viewer cannot read")
    expect(notice).to_have_count(1)
    reader.page.wait_for_selector(CANVAS)
    reader.page.wait_for_timeout(1000)
    reader.screenshot("notice")
    assert shown(reader.page).std() > 10, "the good image is not shown"
    assert reader.policy_violations() == []

    notice.get_by_role("button", name="Close").click()
    expect(notice).to_have_count(0)
    # A user who opens one of them sees the reason again, instead of a black image.
    reader.page.get_by_text("retired JPEG").first.dblclick()
    expect(notice).to_contain_text(SYNTAX)
    reader.screenshot("opened")
    expect(reader.page.get_by_text("Something went wrong")).to_have_count(0)

    reader.page.get_by_text("Imaging", exact=True).click()
    expect(reader.page.get_by_text("Study List")).to_be_visible()
    expect(notice).to_have_count(0)


@pytest.mark.usefixtures("study")
def test_the_technician_sees_it_on_the_import_page(platform: Platform, open_browser: Callable[[], Reader]) -> None:
    reader = open_browser()
    reader.log_in(platform.user("technician", CLINIC), "/import")
    expect(reader.page.locator("#done_today tbody")).to_contain_text("4 stored, but cannot be displayed")
    reader.page.locator("#done_today").scroll_into_view_if_needed()
    reader.screenshot("import")
    assert reader.policy_violations() == []
    assert "4 stored, but cannot be displayed" in platform.on_host("imaging-importer", "status")
