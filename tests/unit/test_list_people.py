"""The list of clinics and users, as an administrator sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from loading import load
from project import ROOT

people = load(ROOT / "tools/list_people.py")

PEOPLE: dict[str, list[dict[str, Any]]] = {
    "clinics": [{"id": "north"}, {"id": "south"}],
    "users": [{"username": "aigerim", "clinics": ["north", "south"]}, {"username": "ivan", "clinics": ["south"]}],
}


def test_the_users_of_a_clinic_are_its_own() -> None:
    assert [user["username"] for user in people.chosen(PEOPLE, "users", "north")] == ["aigerim"]
    assert [user["username"] for user in people.chosen(PEOPLE, "users", "")] == ["aigerim", "ivan"]


def test_a_clinic_that_is_not_there_is_no_empty_list() -> None:
    with pytest.raises(people.NothingToShowError, match="no clinic 'west'"):
        people.chosen(PEOPLE, "users", "west")


def test_an_inventory_without_our_hosts_is_named(tmp_path: Path) -> None:
    (tmp_path / "hosts.yml").write_text("all: {hosts: {}}")

    with pytest.raises(people.NothingToShowError, match="no host in the group `imaging`"):
        people.ask(str(tmp_path / "hosts.yml"))


def test_the_table_has_words_for_what_is_unset_and_stays_in_line() -> None:
    rows = [
        {"name": "Айгерим", "roles": ["physician", "auditor"], "second_factor": False},
        {"name": None, "roles": [], "second_factor": True},
    ]

    assert people.table(rows, ["name", "roles", "second_factor"]).splitlines() == [
        "NAME     ROLES               SECOND FACTOR",
        "Айгерим  physician, auditor  no",
        "-        -                   yes",
    ]


def test_a_name_cannot_steer_the_terminal() -> None:
    assert "\x1b" not in people.table([{"name": "\x1b[2Jgone\nforged"}], ["name"])
    assert len(people.table([{"name": "\x1b[2Jgone\nforged"}], ["name"]).splitlines()) == 2
