"""The page about who may ask for what says what the gateway does."""

from __future__ import annotations

from access_document import render
from project import ROOT


def test_the_access_page_is_written_from_the_present_allow_list() -> None:
    assert (ROOT / "docs/ACCESS.md").read_text() == render(), "run `make docs`"
