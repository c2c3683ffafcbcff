"""The conformance statement says what gateway and importer do."""

from __future__ import annotations

from conformance_document import render
from project import ROOT


def test_the_conformance_statement_is_written_from_the_present_code() -> None:
    assert (ROOT / "docs/CONFORMANCE.md").read_text() == render(), "run `make docs`"
