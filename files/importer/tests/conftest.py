"""Makes the importer and the fakes of its tests importable without installing them; and a journal for a test."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
for directory in (TESTS, TESTS.parent / "src"):
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))

from imaging_importer.journal import Journal  # noqa: E402 - found by what is above


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal.sqlite")
    yield made
    made.close()
