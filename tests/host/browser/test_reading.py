"""The work of a physician, in a real browser on the running platform."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from canvas import CANVAS, correlation, expected, histogram_overlap, shown
from platform_client import Platform
from playwright.sync_api import expect
from reader import PATIENCE_MS, Delivery, Reader

OpenBrowser = Callable[[], Reader]


def wait_for_image(reader: Reader, delivery: Delivery) -> tuple[float, float]:
    """Wait until the canvas shows the delivery's first image; how well it does: histogram overlap and correlation."""
    deadline = time.monotonic() + PATIENCE_MS / 1000
    best = (0.0, 0.0)
    while time.monotonic() < deadline:
        canvas = shown(reader.page)
        wanted = expected(delivery.first_image, canvas)
        best = max(best, (histogram_overlap(canvas, wanted), correlation(canvas, wanted)))
        if best > (0.8, 0.95):
            break
        reader.page.wait_for_timeout(500)
    return best


def test_a_physician_sees_the_clinics_studies_and_only_them_newest_first(
    platform: Platform, open_browser: OpenBrowser, older: Delivery, newer: Delivery, foreign: Delivery
) -> None:
    reader = open_browser()
    reader.log_in(platform.user("physician", "denscan-central"))
    rows = reader.page.locator("table tbody tr")
    expect(rows.filter(has_text=newer.patient)).to_have_count(1, timeout=PATIENCE_MS)
    texts = rows.all_inner_texts()
    reader.screenshot("list")
    places = {delivery: [n for n, text in enumerate(texts) if delivery.patient in text] for delivery in (newer, older)}
    assert [len(found) for found in places.values()] == [1, 1]
    assert places[newer] < places[older], "the newer study is above the older"
    assert foreign.patient not in reader.page.content()
    assert reader.policy_violations() == []


def test_the_canvas_shows_the_image_that_the_file_holds(
    platform: Platform, open_browser: OpenBrowser, newer: Delivery
) -> None:
    reader = open_browser()
    reader.log_in(platform.user("physician", "denscan-central"))
    row = reader.page.locator("table tbody tr").filter(has_text=newer.patient)
    expect(row).to_have_count(1, timeout=PATIENCE_MS)
    row.dblclick()
    reader.page.wait_for_url(re.compile(rf"/viewer\?.*StudyInstanceUIDs={re.escape(newer.study_uid)}"))
    reader.page.wait_for_selector(CANVAS)
    overlap, likeness = wait_for_image(reader, newer)
    reader.screenshot("image")
    assert likeness > 0.95, f"the canvas does not show the image: correlation {likeness:.2f}"
    assert overlap > 0.8, f"the image has other grey values than the file: histogram overlap {overlap:.2f}"
    assert reader.policy_violations() == []


def test_a_pasted_link_shows_no_image_to_a_physician_of_another_clinic(
    platform: Platform, open_browser: OpenBrowser, older: Delivery, foreign: Delivery
) -> None:
    reader = open_browser()
    reader.log_in(platform.user("physician", "denscan-almaty"))
    expect(reader.page.locator("table tbody tr").filter(has_text=foreign.patient)).to_have_count(1, timeout=PATIENCE_MS)
    assert older.patient not in reader.page.content()

    answers: list[tuple[int, str]] = []
    reader.page.on("response", lambda answer: answers.append((answer.status, answer.url)))
    # The viewer asks for the study, is told of none, and asks for nothing more.
    asked = re.compile(rf"/dicom-web/studies\?.*StudyInstanceUID={re.escape(older.study_uid)}(&|$)")
    with reader.page.expect_response(asked, timeout=PATIENCE_MS) as told:
        reader.open(f"/viewer?StudyInstanceUIDs={older.study_uid}")
    assert told.value.json() == []
    reader.settle()
    reader.screenshot("pasted-link")
    assert older.patient not in reader.page.content()
    images = [url for status, url in answers if status == 200 and re.search(r"/(frames|instances|metadata)", url)]
    assert images == []
    for viewport in range(reader.page.locator(CANVAS).count()):
        assert shown(reader.page, viewport).std() == 0


def test_logging_out_ends_the_session(platform: Platform, open_browser: OpenBrowser, newer: Delivery) -> None:
    reader = open_browser()
    tokens: list[dict[str, str]] = []
    reader.page.on(
        "response",
        lambda answer: tokens.append(answer.json()) if answer.url.endswith("/token") and answer.status == 200 else None,
    )
    reader.log_in(platform.user("physician", "denscan-central"))
    expect(reader.page.locator("table tbody tr").filter(has_text=newer.patient)).to_have_count(1, timeout=PATIENCE_MS)

    reader.page.get_by_role("button", name="Open settings").click()
    reader.page.get_by_text("Logout").first.click()
    reader.at_login()

    reader.open("/")
    reader.at_login()
    answer = platform.session().post(
        f"{platform.realm_url}/protocol/openid-connect/token",
        data={"grant_type": "refresh_token", "client_id": "ohif", "refresh_token": tokens[-1]["refresh_token"]},
        timeout=60,
    )
    assert answer.status_code == 400
    assert answer.json()["error"] == "invalid_grant"
