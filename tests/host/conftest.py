"""The running platform, which every test below this folder needs and no other test may ask for."""

from __future__ import annotations

import pytest
from platform_client import Platform


@pytest.fixture(scope="session")
def platform() -> Platform:
    return Platform()
