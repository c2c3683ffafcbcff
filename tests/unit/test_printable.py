"""How strangers name their folders and files harms nobody who is shown it: one rule, in each program that shows it."""

from __future__ import annotations

import logging
import os
import random
import unicodedata
from collections.abc import Callable

import pytest
from loading import load
from project import ROOT

PROGRAMS = {
    name: load(ROOT / path)
    for name, path in {
        "importer and gateway": "files/common/printable.py",
        "backup": "files/backup/src/imaging_backup/printable.py",
        "status": "files/status/imaging_status.py",
        "list_people": "tools/list_people.py",
    }.items()
}
HARMFUL = (
    "\x1b[2J",
    "\x9b31m",  # the same in one character
    "\r",
    "\t",
    "\x00",
    "\x7f",
    "\u2028",
    "\u2029",
    "\x85",
    "\u202eFDP.exe",  # turns the reading direction
    "\u2066",
    "\u200b",  # is not seen at all
    "\ufeff",
    "\U000e0041",
    os.fsdecode(b"\xff\x9b"),
    "\ud800",
)
READABLE = ("Иванова Әсел Ұлжан", "ünïcode 医院　東京", "e\u0301 o\u0302", "שלום", "مرحبا", "a b\\c'\"<>&%s$(x)", "")


@pytest.fixture(params=PROGRAMS)
def shown(request: pytest.FixtureRequest) -> Callable[[str], str]:
    return PROGRAMS[request.param].printable


@pytest.mark.parametrize("text", HARMFUL)
def test_what_would_steer_a_terminal_or_a_reader_is_shown_as_an_escape(shown: Callable[[str], str], text: str) -> None:
    safe = shown(f"before {text} after")
    assert safe.startswith("before \\")
    assert safe.endswith(" after")
    assert all(unicodedata.category(character)[0] not in "C" for character in safe)
    assert len(safe.splitlines()) == 1
    safe.encode()


@pytest.mark.parametrize("text", READABLE)
def test_letters_of_any_language_stay_as_they_are(shown: Callable[[str], str], text: str) -> None:
    assert shown(text) == text


def test_any_text_can_be_shown(shown: Callable[[str], str]) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    random_ = random.Random(seed)
    text = "".join(chr(random_.randrange(0x110000)) for _ in range(20_000)).replace("\n", "")
    assert all(unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for character in shown(text))


def test_a_log_line_is_one_line_and_a_traceback_below_it_cannot_forge_another() -> None:
    formatter = PROGRAMS["importer and gateway"].Formatter("%(levelname)s %(name)s: %(message)s")
    error = OSError("a\nERROR root: forged\x1b[2J")
    record = logging.LogRecord("x", logging.ERROR, "", 0, "job: %s", (error,), (type(error), error, None))
    lines = formatter.format(record).split("\n")
    assert lines[0] == "ERROR x: job: a\\x0aERROR root: forged\\x1b[2J"
    assert len(lines) > 1
    assert all(line.startswith("  ") for line in lines[1:])
    assert "\x1b" not in "".join(lines)


def test_a_line_break_is_shown_where_a_name_stands_alone() -> None:
    assert PROGRAMS["importer and gateway"].printable("a\nb") == "a\\x0ab"
