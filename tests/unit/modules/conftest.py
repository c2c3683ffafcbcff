"""The fake Keycloak stands where tests/unit/keycloak has the real one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
pytest.register_assert_rewrite("specification", "desk")

from desk import Server, applied, desk, empty, person, registry  # noqa: E402
from fake_keycloak import FakeKeycloak  # noqa: E402

__all__ = ["applied", "desk", "empty", "person", "registry"]


@pytest.fixture(scope="session")
def fake() -> Iterator[FakeKeycloak]:
    server = FakeKeycloak()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def keycloak(fake: FakeKeycloak) -> Server:
    return Server(fake.url, fake.client_id, fake.client_secret)
