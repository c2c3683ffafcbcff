"""The work of a technician, in a real browser on the running platform."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from deliveries import copy_with_new_uids
from platform_client import Platform
from playwright.sync_api import expect
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid
from reader import PATIENCE_MS, Reader
from real_sizes import panoramic
from stow import encoded

CLINIC = "denscan-central"
SERIES = Path(str(get_testdata_file("DICOMDIR"))).parent / "98892001" / "CT5N"


@pytest.fixture
def on_disk(tmp_path: Path) -> tuple[str, list[Path]]:
    """A patient's name, and files of a study of that patient on the technician's computer."""
    mark = generate_uid().split(".")[-1][-8:]
    folder = tmp_path / "study"
    copy_with_new_uids(SERIES, folder, PatientName=f"Upload{mark}^Test", PatientID=f"UP-{mark}", StudyDate="20990201")
    return f"Upload{mark}", sorted(folder.iterdir())


def test_what_a_technician_uploads_in_the_viewer_is_in_the_list_and_on_the_import_page(
    platform: Platform, open_browser: Callable[[], Reader], on_disk: tuple[str, list[Path]]
) -> None:
    patient, files = on_disk
    reader = open_browser()
    reader.log_in(platform.user("technician", CLINIC))
    reader.page.get_by_role("button", name="Upload").first.click()
    reader.page.locator("input[type=file]").first.set_input_files(files)
    # Exactly: on the way it says "0 of 5 files completed."
    completed = reader.page.get_by_text(f"{len(files)} files completed.", exact=True)
    expect(completed).to_be_visible(timeout=PATIENCE_MS)
    reader.screenshot("uploaded")
    answers = platform.api(platform.user("physician", CLINIC)).get(
        f"{platform.url}/dicom-web/studies", params={"PatientName": f"{patient}*"}, timeout=30
    )
    (study,) = answers.json()
    assert study["00201208"]["Value"] == [len(files)]
    assert reader.policy_violations() == []

    # The same session: nobody logs in twice.
    reader.open("/import")
    done = reader.page.locator("#done_today tbody tr")
    expect(done.first).to_contain_text("imported", timeout=PATIENCE_MS)
    reader.screenshot("import")
    reader.page.set_viewport_size({"width": 390, "height": 844})
    reader.screenshot("import-on-a-phone")
    assert reader.page.evaluate("document.documentElement.scrollWidth") <= 390, "nothing sticks out on a phone"
    assert reader.policy_violations() == []


def test_a_panoramic_x_ray_is_uploaded_in_the_viewer(
    platform: Platform, open_browser: Callable[[], Reader], tmp_path: Path
) -> None:
    """2.8 MB in one request, as the viewer sends it: with its length, over HTTP/2."""
    mark = generate_uid().split(".")[-1][-8:]
    image = panoramic(PatientName=f"Panoramic{mark}^Test", PatientID=f"PX-{mark}", StudyDate="20990202")
    (tmp_path / "panoramic.dcm").write_bytes(encoded(image))
    reader = open_browser()
    reader.log_in(platform.user("technician", CLINIC))
    reader.page.get_by_role("button", name="Upload").first.click()
    reader.page.locator("input[type=file]").first.set_input_files(tmp_path / "panoramic.dcm")
    expect(reader.page.get_by_text(re.compile(r"^1 files? completed\.$"))).to_be_visible(timeout=PATIENCE_MS)
    answers = platform.api(platform.user("physician", CLINIC)).get(
        f"{platform.url}/dicom-web/studies", params={"PatientID": f"PX-{mark}"}, timeout=30
    )
    (study,) = answers.json()
    assert study["0020000D"]["Value"] == [image.StudyInstanceUID]


def test_the_import_page_says_why_a_delivery_failed_and_shows_no_other_clinics(
    platform: Platform, open_browser: Callable[[], Reader], tmp_path: Path
) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "empty.dcm").write_bytes(b"")
    mark = generate_uid().split(".")[-1][-8:]
    platform.deliver(CLINIC, folder, f"ct-thorax-{mark}")

    reader = open_browser()
    reader.log_in(platform.user("technician", CLINIC), "/import")
    row = reader.page.locator("#failed tbody tr").filter(has_text=f"ct-thorax-{mark}")
    expect(row).to_contain_text("The file is empty", timeout=PATIENCE_MS)
    reader.screenshot("failed")

    other = open_browser()
    other.log_in(platform.user("technician", "partner-clinic"), "/import")
    expect(other.page.locator("#waiting")).to_be_visible(timeout=PATIENCE_MS)
    assert mark not in other.page.content()

    physician = open_browser()
    physician.log_in(platform.user("physician", CLINIC), "/import")
    expect(physician.page.locator("#message")).to_contain_text("takes the role technician", timeout=PATIENCE_MS)
