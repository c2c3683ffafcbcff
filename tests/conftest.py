"""What the tests of a running platform share."""

from __future__ import annotations

import pytest
from platform_client import Platform


@pytest.fixture(scope="session")
def platform() -> Platform:
    return Platform()
