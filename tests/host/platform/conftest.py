"""Fixtures of the tests that talk to a running platform from outside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from deliveries import Study, copy_with_new_uids
from platform_client import Platform
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid


@pytest.fixture(scope="session")
def deliver(
    platform: Platform, upload: Callable[[str, Path], None], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Study]:
    """Deliver a new MR study to a clinic and wait until its physician can see it."""
    source = Path(str(get_testdata_file("DICOMDIR"))).parent / "98892003"

    def deliver(clinic: str) -> Study:
        folder = tmp_path_factory.mktemp("delivery") / "study"
        study = copy_with_new_uids(source, folder)
        upload(clinic, folder)
        platform.wait_for_study(platform.api(platform.user("physician", clinic)), study.study_uid)
        return Study(clinic, study.study_uid, study.series_uid, study.sop_uid)

    return deliver


@pytest.fixture(scope="session")
def central_study(deliver: Callable[[str], Study]) -> Study:
    return deliver("denscan-central")


@pytest.fixture(scope="session")
def almaty_study(deliver: Callable[[str], Study]) -> Study:
    return deliver("denscan-almaty")


@pytest.fixture(scope="session")
def unknown_study() -> Study:
    return Study("", generate_uid(), generate_uid(), generate_uid())


@pytest.fixture(scope="session")
def central_physician(platform: Platform) -> requests.Session:
    return platform.api(platform.user("physician", "denscan-central"))


@pytest.fixture(scope="session")
def almaty_physician(platform: Platform) -> requests.Session:
    return platform.api(platform.user("physician", "denscan-almaty"))
