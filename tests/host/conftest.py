"""The running platform, which every test below this folder needs and no other test may ask for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import requests
import stow
from platform_client import Platform


@pytest.fixture(scope="session")
def platform() -> Platform:
    return Platform()


@pytest.fixture(scope="session")
def upload(platform: Platform) -> Callable[[str, Path], None]:
    """Bring a study of a folder into a clinic as its software does, at once: a folder in the inbox rests first."""
    technicians: dict[str, requests.Session] = {}

    def upload(clinic: str, folder: Path) -> None:
        if clinic not in technicians:
            technicians[clinic] = platform.api(platform.user("technician", clinic))
        files = [path.read_bytes() for path in sorted(folder.iterdir())]
        answer = stow.send(platform, technicians[clinic], files)
        assert answer.status_code == 200, answer.text

    return upload
