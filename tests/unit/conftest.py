"""How the tests that need no host share two processes."""

from __future__ import annotations

import pytest


# Before pytest-xdist, which takes the groups over at the same moment.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let one process have a file's tests, and one process all that ask the real Keycloak, which is started once."""
    for item in items:
        folder = item.path.parent.name
        item.add_marker(pytest.mark.xdist_group(folder if folder == "keycloak" else f"{folder}-{item.path.stem}"))
