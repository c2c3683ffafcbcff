"""Kazakh and Russian patients, however their devices write them: one name in list, search, viewer; access on record."""

# ruff: noqa: RUF001 - Cyrillic letters are what it is about

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from corpus import in_charset
from platform_client import Platform
from playwright.sync_api import expect
from pydicom.uid import generate_uid
from reader import PATIENCE_MS, Reader
from stow import send
from strange_files import image

CLINIC = "denscan-central"
MARK = str(time.time_ns())[-12:]
"""The AccessionNumber and PatientID of all of them: the list is filtered by it first."""
RUSSIAN, KAZAKH = "Иванова, Мария", "Қайрат, Әсель"
WRITTEN = {
    "Kazakh": (KAZAKH, b"ISO_IR 192", "Қайрат^Әсель".encode()),
    "UTF-8": (RUSSIAN, b"ISO_IR 192", "Иванова^Мария".encode()),
    "ISO_IR 144": (RUSSIAN, b"ISO_IR 144", "Иванова^Мария".encode("iso8859-5")),
    "cp1251 without a charset": (RUSSIAN, None, "Иванова^Мария".encode("cp1251")),
}

OpenBrowser = Callable[[], Reader]


@pytest.fixture(scope="module")
def studies(platform: Platform) -> dict[str, str]:
    """Kind -> StudyInstanceUID."""
    made, files = {}, []
    for kind, (_, charset, name) in WRITTEN.items():
        made[kind] = generate_uid()
        dataset = image(StudyInstanceUID=made[kind], PatientName="@@@@", PatientID=MARK, AccessionNumber=MARK)
        files.append(in_charset(dataset, charset, 0x00100010, b"PN", name))
    answer = send(platform, platform.api(platform.user("technician", CLINIC)), files)
    assert answer.status_code == 200, answer.text
    return made


def test_the_list_shows_them_and_finds_them_as_they_are_typed(
    platform: Platform, open_browser: OpenBrowser, studies: dict[str, str]
) -> None:
    reader = open_browser()
    reader.log_in(platform.user("physician", CLINIC))
    all_rows = reader.page.locator("table tbody tr")
    expect(all_rows.nth(1)).to_be_visible(timeout=PATIENCE_MS)  # text that is typed before the first answer is lost
    # One cell for each column, beneath their headings: patient, date, modalities, description, accession number.
    filters = reader.page.locator("tr", has=reader.page.locator("#studyDateTime-start")).locator("th, td")
    patient = filters.nth(0).locator("input")
    filters.nth(4).locator("input").fill(MARK)
    rows = all_rows.filter(has_text=MARK)
    expect(rows).to_have_count(len(studies), timeout=PATIENCE_MS)
    reader.screenshot("list")
    for shown, count in ((RUSSIAN, 3), (KAZAKH, 1)):
        expect(rows.filter(has_text=shown)).to_have_count(count)
    reader.page.get_by_text("Confirm and hide").click()
    for typed, shown in (
        (RUSSIAN, RUSSIAN), ("иванова мария", RUSSIAN), ("ВАНОВ", RUSSIAN), ("Мария", RUSSIAN),
        (KAZAKH, KAZAKH), ("Кайрат", KAZAKH), ("асель", KAZAKH),
    ):  # fmt: skip
        patient.fill(typed)
        expect(rows.filter(has_text=shown)).to_have_count(3 if shown == RUSSIAN else 1)
        expect(rows.filter(has_not_text=shown)).to_have_count(0)
    assert reader.policy_violations() == []


def test_the_viewer_shows_the_same_name_and_the_auditor_who_looked(
    platform: Platform, open_browser: OpenBrowser, studies: dict[str, str]
) -> None:
    physician = platform.user("physician", CLINIC)
    reader = open_browser()
    reader.log_in(physician, f"/viewer?StudyInstanceUIDs={studies['Kazakh']}")
    tour = reader.page.get_by_text("Skip all")  # lies over everything
    reader.page.add_locator_handler(tour, lambda skip: skip.click())
    reader.page.get_by_text("Confirm and hide").click()
    for kind in ("Kazakh", "cp1251 without a charset"):
        if kind != "Kazakh":
            reader.open(f"/viewer?StudyInstanceUIDs={studies[kind]}")
        reader.page.get_by_text("Patient", exact=True).click()
        expect(reader.page.get_by_text(WRITTEN[kind][0], exact=True)).to_be_visible(timeout=PATIENCE_MS)
        reader.screenshot(kind)

    auditor = open_browser()
    auditor.log_in(platform.user("auditor", CLINIC), "/audit")
    for kind in ("Kazakh", "cp1251 without a charset"):
        views = auditor.page.locator("#entries tr").filter(has_text=studies[kind]).filter(has_text=physician.username)
        expect(views.first).to_be_visible(timeout=PATIENCE_MS)
