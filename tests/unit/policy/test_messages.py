"""No program reads another's messages for people as data, so a new wording breaks nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .conftest import PROJECT

YAML = re.compile(
    r"""['"] (?:not )?in (?:\(?\w+\.)(?:stdout|stderr|msg|content)\b"""  # 'a word' in command.stdout
    r"""|\.(?:stdout|stderr|msg|content)\b[^|{}]*\bis (?:not )?(?:search|match|regex|contains)\b"""
    r"""|\b(?:regex_search|select\('(?:search|match))[^}]*\.(?:stdout|stderr|msg)\b"""
)
PYTHON = re.compile(
    r"""(?:\bin|==|!=) (?:str\(\w*error\w*\)|\w+\.(?:stderr|msg)\b)|str\(\w*error\w*\)(?:\.\w+\(\))? (?:==|!=)"""
    r"""|re\.\w+\([^)]*(?:str\(\w*error\w*\)|\.stderr)|\berror\.args\[0\] (?:==|in)"""
)
# The text that is read here is a table, or is only passed on.
HARMLESS = {
    "Data page checksum version:": "a table of pg_controldata, in the language C",
    "done.stderr.splitlines()": "the last line is shown",
}


def lines(*patterns: str) -> list[tuple[Path, str]]:
    paths = sorted(path for pattern in patterns for path in PROJECT.glob(pattern) if "tests" not in path.parts)
    return [(path, line) for path in paths for line in path.read_text().splitlines()]


def reading(form: re.Pattern[str], *patterns: str) -> list[str]:
    return [
        f"{path.relative_to(PROJECT)}: {line.strip()}"
        for path, line in lines(*patterns)
        if form.search(line) and not any(harmless in line for harmless in HARMLESS)
    ]


def test_no_play_reads_a_sentence() -> None:
    assert (
        reading(YAML, "playbooks/**/*.yml", "roles/*/tasks/*.yml", "roles/*/handlers/*.yml", "roles/*/vars/*.yml") == []
    )


def test_no_program_reads_a_sentence() -> None:
    assert reading(PYTHON, "files/**/src/**/*.py", "files/*/*.py", "library/*.py", "module_utils/**/*.py") == []


@pytest.mark.parametrize(
    "line",
    [
        "when: \"'images: none' in __checked.stdout\"",
        "that: __nginx.content | b64decode is search('kind')",
        "failed_when: done.stderr is not search('already exists')",
    ],
)
def test_a_play_that_does_is_found(line: str) -> None:
    assert YAML.search(line.replace(" | b64decode", ""))


@pytest.mark.parametrize(
    "line",
    [
        'if str(error) == "unexpected end of data":',
        'if "no space" in str(error).lower():',
        'if "refused" in done.stderr:',
        'found = re.search("already", str(error))',
    ],
)
def test_a_program_that_does_is_found(line: str) -> None:
    assert PYTHON.search(line)
