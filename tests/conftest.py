"""What the tests of a running platform share."""

from __future__ import annotations

import os

import pytest
from platform_client import Platform

# `make test` would hand its options down, and the make that a test runs would print its directory among its answers.
for name in ("MAKEFLAGS", "MAKELEVEL"):
    os.environ.pop(name, None)


@pytest.fixture(scope="session")
def platform() -> Platform:
    return Platform()
