#!/usr/bin/env python3
"""Show the clinics or users of a platform: a table for people, JSON for scripts."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PLAYBOOK = ROOT / "playbooks/list-people.yml"
COLUMNS = {
    "clinics": ["id", "name", "studies", "last_received", "users", "clients", "removed"],
    "users": ["username", "name", "email", "clinics", "roles", "enabled", "second_factor"],
}


class NothingToShowError(Exception):
    """The reason why there is no answer, in words for the administrator."""


def ask(inventory: str) -> dict[str, list[dict[str, Any]]]:
    """The result of the module people_info. Raises NothingToShowError."""
    with tempfile.NamedTemporaryFile(suffix=".json") as answer:
        command = [Path(sys.executable).with_name("ansible-playbook"), PLAYBOOK]
        where = ["-i", inventory, "-e", json.dumps({"people_file": answer.name})]
        done = subprocess.run(
            [*map(str, command), *where],
            cwd=ROOT, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if done.returncode:
            raise NothingToShowError(done.stdout + done.stderr)
        people: dict[str, list[dict[str, Any]]] = json.loads(Path(answer.name).read_text())
        return people


def chosen(people: dict[str, list[dict[str, Any]]], what: str, clinic: str) -> list[dict[str, Any]]:
    """The clinics or the users, of one clinic if it is named. Raises NothingToShowError."""
    if not clinic:
        return people[what]
    if clinic not in [one["id"] for one in people["clinics"]]:
        raise NothingToShowError(f"there is no clinic '{clinic}'; `make list-clinics` shows those that there are")
    return [user for user in people["users"] if clinic in user["clinics"]]


def cell(value: object) -> str:
    """A value as people read it. People choose names, so characters that would control a terminal are not printed."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = ", ".join(value) if isinstance(value, list) else "" if value is None else str(value)
    return printable(text) or "-"


def printable(text: str) -> str:
    r"""The text, harmless for a terminal: a character that cannot be seen is shown as \uNNNN, as JSON does."""
    return "".join(c if c.isprintable() or unicodedata.category(c) == "Zs" else json.dumps(c)[1:-1] for c in text)


def table(rows: list[dict[str, Any]], columns: list[str]) -> str:
    """The rows below the names of the columns."""
    cells = [[name.replace("_", " ").upper() for name in columns]] + [
        [cell(row[name]) for name in columns] for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=list(COLUMNS))
    parser.add_argument("--inventory", required=True)
    parser.add_argument("--clinic", default="", help="only the users of this clinic")
    parser.add_argument("--format", choices=["text", "json"], default="text")
    asked = parser.parse_args()
    try:
        rows = chosen(ask(asked.inventory), asked.what, asked.clinic)
    except NothingToShowError as error:
        print(error, file=sys.stderr)
        return 1
    if asked.format == "json":
        print("\n".join(map(printable, json.dumps(rows, ensure_ascii=False, indent=2).split("\n"))))
    else:
        print(table(rows, COLUMNS[asked.what]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
