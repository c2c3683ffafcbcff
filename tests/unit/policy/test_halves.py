"""Tests that need a host are in tests/host, all others in tests/unit, and a target of make runs each."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .conftest import PROJECT, files_in_git

FILES = [path.relative_to(PROJECT) for path in files_in_git() if path.is_relative_to(PROJECT / "tests")]
UNIT = [path for path in FILES if path.is_relative_to("tests/unit") and path.suffix == ".py"]
TESTS = [path for path in FILES if path.name.startswith("test_")]
RECIPES = re.findall(r"^\t.*\bpytest (.*)$", (PROJECT / "Makefile").read_text(), re.MULTILINE)
RUN = {word for recipe in RECIPES for word in recipe.split() if "/tests" in word or word.startswith("tests/")}


def test_each_test_is_in_one_of_the_two_halves() -> None:
    assert [str(path) for path in TESTS if path.parts[1] not in ("unit", "host")] == []


# The fixture `platform` is out of their reach too: pytest does not find it beside them.
@pytest.mark.parametrize("path", UNIT, ids=lambda path: str(path.relative_to("tests/unit")))
def test_a_test_that_needs_no_host_cannot_ask_for_one(path: Path) -> None:
    assert re.findall(r"^\s*(?:from|import) platform_client\b.*", (PROJECT / path).read_text(), re.MULTILINE) == []


def test_the_platform_is_a_fixture_of_the_host_tests_alone() -> None:
    fixture = "def platform() -> Platform:"
    assert [str(path) for path in FILES if path.name == "conftest.py" and fixture in (PROJECT / path).read_text()] == [
        "tests/host/conftest.py"
    ]


def test_a_target_runs_every_test_that_needs_no_host() -> None:
    assert "tests/unit" in RUN


def test_a_target_runs_every_folder_of_tests_that_need_a_host() -> None:
    needing_one = {str(path.parent) for path in TESTS if path.is_relative_to("tests/host")}
    assert needing_one
    assert needing_one - RUN == set()


def test_no_target_leaves_tests_out_and_each_runs_what_exists() -> None:
    assert [recipe for recipe in RECIPES if "--ignore" in recipe or "--deselect" in recipe] == []
    assert {path for path in RUN if not (PROJECT / path).exists()} == set()
