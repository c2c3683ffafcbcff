"""How the tests that need no host share two processes."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let one process have a file's tests, and one process all that ask the real Keycloak, which is started once."""
    for item in items:
        together = item.path.parent.name if item.path.parent.name == "keycloak" else str(item.path)
        item.add_marker(pytest.mark.xdist_group(together))
