"""The page of variables says what the inventory is compared with."""

from __future__ import annotations

from project import ROOT
from variables_document import render


def test_the_page_of_variables_is_written_from_the_present_specifications() -> None:
    assert (ROOT / "docs/VARIABLES.md").read_text() == render(), "run `make docs`"
