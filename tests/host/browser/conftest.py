"""A physician's own browser: Debian's Chromium, which trusts the platform's authority as a workstation would."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest
from deliveries import copy_with_new_uids
from platform_client import Platform
from playwright.sync_api import Browser, sync_playwright
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid
from reader import Delivery, Reader

CHROMIUM = "/usr/bin/chromium"
SERIES = Path(str(get_testdata_file("DICOMDIR"))).parent


@pytest.fixture(scope="session")
def deliver(
    platform: Platform, upload: Callable[[str, Path], None], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str, str], Delivery]:
    """Deliver a series of pydicom's to a clinic, dated as said, and wait until its physician can see it."""

    def deliver(clinic: str, series: str, study_date: str) -> Delivery:
        folder = tmp_path_factory.mktemp("delivery") / "study"
        mark = generate_uid().split(".")[-1][-8:]
        patient = {"PatientName": f"Browser{mark}^Test", "PatientID": f"BROWSER-{mark}"}
        study = copy_with_new_uids(SERIES / series, folder, **patient, StudyDate=study_date)
        upload(clinic, folder)
        platform.wait_for_study(platform.api(platform.user("physician", clinic)), study.study_uid)
        first = min(
            folder.iterdir(), key=lambda file: int(pydicom.dcmread(file, stop_before_pixels=True).InstanceNumber)
        )
        return Delivery(f"Browser{mark}", study.study_uid, first)

    return deliver


@pytest.fixture(scope="session")
def older(deliver: Callable[[str, str, str], Delivery]) -> Delivery:
    """An MR study of denscan-central."""
    return deliver("denscan-central", "98892003/MR700", "20990101")


@pytest.fixture(scope="session")
def newer(deliver: Callable[[str, str, str], Delivery]) -> Delivery:
    """A CT study of denscan-central."""
    return deliver("denscan-central", "98892001/CT5N", "20990102")


@pytest.fixture(scope="session")
def foreign(deliver: Callable[[str, str, str], Delivery]) -> Delivery:
    """A CT study of denscan-almaty."""
    return deliver("denscan-almaty", "98892001/CT5N", "20990103")


@pytest.fixture(scope="session")
def browser(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    home = tmp_path_factory.mktemp("home")
    store = home / ".pki" / "nssdb"
    store.mkdir(parents=True)
    for arguments in (["-N", "--empty-password"], ["-A", "-t", "C,,", "-n", "imaging", "-i", platform.ca_file]):
        subprocess.run(["certutil", "-d", f"sql:{store}", *arguments], check=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            env={**os.environ, "HOME": str(home)},
            args=[
                *(["--no-sandbox"] if os.geteuid() == 0 else []),
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-default-apps",
                "--disable-sync",
                "--no-first-run",
                "--no-proxy-server",
                "--use-gl=angle",
                "--use-angle=swiftshader",
                "--enable-unsafe-swiftshader",
            ],
        )
        yield browser
        browser.close()


@pytest.fixture
def open_browser(
    platform: Platform, browser: Browser, request: pytest.FixtureRequest
) -> Iterator[Callable[[], Reader]]:
    """Open browser windows that share nothing, like workstations. The last page of each is kept as a screenshot."""
    readers: list[Reader] = []

    def open_browser() -> Reader:
        context = browser.new_context(viewport={"width": 1400, "height": 900})
        readers.append(Reader(platform, context.new_page(), request.node.name))
        return readers[-1]

    yield open_browser
    for number, reader in enumerate(readers):
        reader.screenshot(f"last-{number}")
        reader.page.context.close()
