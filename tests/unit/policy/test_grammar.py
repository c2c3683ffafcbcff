"""The grammar of clinic ids and of user names stands where code cannot share it: all copies are one."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible.plugins.test.core import match
from grammar_examples import CLINIC_IDS, NO_CLINIC_IDS, NO_USERNAMES, USERNAMES
from loading import load

from .conftest import PROJECT

sys.path.insert(0, str(PROJECT / "files/gateway/src"))

from imaging_gateway import grammar as gateway

modules = load(PROJECT / "module_utils/imaging/grammar.py")
inventory = load(PROJECT / "playbooks/action_plugins/inventory_check.py")
CLINIC_ID, USERNAME = modules.CLINIC_ID, modules.USERNAME

# Classes of characters, one behind the other, of which one has small letters.
PATTERN = re.compile(r"(?:\[[^\]\s]*\](?:\{\d+,?\d*\}|[+*?])?)+")
ABOUT = re.compile(r"clinic|client_id|user_?name", re.IGNORECASE)
# They name no clinic and no user, but what is allowed in them is alike.
ELSEWHERE = {r"[a-z0-9][a-z0-9-]{0,62}": "the environment"}


def sources() -> Iterator[tuple[Path, str]]:
    """The files in git, without documents, tests and recorded data."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=PROJECT, capture_output=True, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        path = PROJECT / name
        if path.is_symlink() or not path.is_file() or {"tests", "docs"} & {*Path(name).parts} or name.endswith(".md"):
            continue
        try:
            yield Path(name), path.read_text()
        except UnicodeDecodeError:
            continue


def copies(text: str) -> Iterator[str]:
    """The patterns in a text that say what an id looks like, or stand on a line about one."""
    for line in text.splitlines():
        for found in PATTERN.findall(line):
            if "a-z" in found and (ABOUT.search(line) or found.startswith("[a-z0-9][")):
                yield found


def differing(text: str) -> list[str]:
    return [one for one in copies(text) if one not in {CLINIC_ID, USERNAME, *ELSEWHERE}]


def test_every_copy_says_the_same() -> None:
    assert {path: found for path, text in sources() if (found := differing(text))} == {}


def test_they_are_found_where_they_are_known_to_stand() -> None:
    places = {str(path) for path, text in sources() if CLINIC_ID in [*copies(text)]}
    assert places >= {
        "files/gateway/src/imaging_gateway/grammar.py",
        "files/registry/0001_studies.sql",
        "module_utils/imaging/grammar.py",
        "playbooks/action_plugins/inventory_check.py",
        "playbooks/add-clinic.yml",
        "vars/schema.yml",
    }


@pytest.mark.parametrize(
    "another",
    [
        'CLINIC = re.compile(r"[a-z0-9][a-z0-9-]{0,62}[a-z0-9]")',
        'CLINIC = re.compile(r"[a-z0-9-]{2,63}")',
        "that: clinic is match('^[a-z][a-z0-9-]+$')",
        "CHECK (clinic_id ~ '^[a-z0-9_-]*$')",
        "if (!/^[A-Za-z0-9-]{2,63}$/.test(clinic)) {",
        '"~^[a-z0-9][a-z0-9-]{1,64}$" $http_x_clinic;',
        "that: username is match('^[a-z0-9][a-z0-9._-]{2,254}$')",
    ],
)
def test_another_copy_that_differs_is_found(another: str) -> None:
    assert differing(another) != []


def in_playbooks(grammar: str) -> list[tuple[str, str]]:
    """Each literal of a playbook that holds the grammar: which playbook's, and the literal."""
    found = []
    for path in sorted((PROJECT / "playbooks").rglob("*.yml")):
        for literal in re.findall(r"match'?[(,] ?'([^']+)'", path.read_text()):
            if grammar in literal:
                found.append((path.name, literal))
    return found


def full(pattern: str) -> Callable[[str], bool]:
    return lambda text: re.fullmatch(pattern, text) is not None


def by_ansible(pattern: str) -> Callable[[str], bool]:
    return lambda text: match(text, pattern)


CLINIC_READERS = {
    "the gateway": full(gateway.CLINIC),
    "the modules": full(CLINIC_ID),
    "the inventory": lambda text: inventory.CLINIC_ID.fullmatch(text) is not None,
    **{f"{name}, {place}": by_ansible(literal) for place, (name, literal) in enumerate(in_playbooks(CLINIC_ID))},
}
USERNAME_READERS = {
    "the modules": full(USERNAME),
    "the inventory": lambda text: inventory.USERNAME.fullmatch(text) is not None,
    **{f"{name}, {place}": by_ansible(literal) for place, (name, literal) in enumerate(in_playbooks(USERNAME))},
}


def test_playbooks_are_among_the_readers() -> None:
    assert len(CLINIC_READERS) > 8
    assert len(USERNAME_READERS) > 4


@pytest.mark.parametrize("reader", CLINIC_READERS)
def test_each_reader_takes_the_same_clinic_ids(reader: str) -> None:
    assert [text for text in CLINIC_IDS if not CLINIC_READERS[reader](text)] == []
    assert [text for text in NO_CLINIC_IDS if CLINIC_READERS[reader](text)] == []


@pytest.mark.parametrize("reader", USERNAME_READERS)
def test_each_reader_takes_the_same_user_names(reader: str) -> None:
    assert [text for text in USERNAMES if not USERNAME_READERS[reader](text)] == []
    assert [text for text in NO_USERNAMES if USERNAME_READERS[reader](text)] == []
