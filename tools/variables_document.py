"""Writes docs/VARIABLES.md from vars/schema.yml and the roles' argument specifications: `make docs`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
Options = dict[str, dict[str, Any]]
HEAD = """\
# Variables

`make docs` writes this page from `vars/schema.yml` and each role's `meta/argument_specs.yml`. A test fails when they
differ. Every run of a playbook first compares the inventory with the same files. It refuses a variable that is
missing, misspelt or of another type. Set variables in `inventories/production/group_vars/all/main.yml`.
[ADMIN.md](ADMIN.md#inventory-variables) says what to think of.

"""
OPERATOR = """\
## Variables of the inventory
"""
ROLES = """\
## Variables of the roles

You need these only in the rare case that the variables above are not enough. Some variables of the roles are not
listed, because you do not set them by hand. `vars/wiring.yml` computes some of them from other variables, secrets
among them. `vars/versions.yml` pins the others. You set a port once: every service that asks there, and the firewall,
follow it. A role without a heading has no other variables.
"""


def prose(description: str | list[str]) -> str:
    """A description as Ansible's documents have it, in Markdown within a table."""
    text = description if isinstance(description, str) else " ".join(description)
    return re.sub(r"\b[CMV]\(([^)]*)\)", r"`\1`", " ".join(text.split())).replace("|", "\\|")


def default(option: dict[str, Any]) -> str:
    if option.get("required"):
        return "required"
    value = option.get("default")
    if value in (None, ""):
        return "empty"
    shown = str(value).lower() if isinstance(value, bool) else str(value)
    return f"`{shown}`".replace("|", "\\|")


def kind(option: dict[str, Any]) -> str:
    """The type, and the accepted values if not all are accepted."""
    name = option.get("type", "str") + (f" of {option['elements']}" if "elements" in option else "")
    return f"{name}: {', '.join(f'`{choice}`' for choice in option['choices'])}" if "choices" in option else name


def rows(options: Options, prefix: str = "") -> Iterator[str]:
    """One row for each variable, followed by those of the values inside it."""
    for name, option in options.items():
        yield f"| `{prefix}{name}` | {kind(option)} | {default(option)} | {prose(option['description'])} |"
        yield from rows(option.get("options", {}), f"{prefix}{name}[].")


def table(options: Options) -> str:
    return "\n".join(["| Variable | Type | Default | Meaning |", "|---|---|---|---|", *rows(options)]) + "\n"


def specification(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())["argument_specs"]["main"]
    return found


def render() -> str:
    """The document."""
    wiring, versions = (yaml.safe_load((ROOT / f"vars/{file}.yml").read_text()) for file in ("wiring", "versions"))
    derived = {name for name, value in wiring.items() if "{{" in str(value) or isinstance(value, (list, dict))}
    parts = [HEAD, OPERATOR, table(specification(ROOT / "vars/schema.yml")["options"]), "\n", ROLES]
    for path in sorted(ROOT.glob("roles/*/meta/argument_specs.yml")):
        own = specification(path)
        # A value that the wiring states directly, for example a port, is a default like another.
        options = {
            name: option if name not in wiring else {**option, "required": False, "default": wiring[name]}
            for name, option in own.get("options", {}).items()
            if name not in derived | set(versions)
        }
        if options:
            parts.append(f"\n### {path.parts[-3]}\n\n{prose(own['short_description'])}.\n\n{table(options)}")
    return "".join(parts)


if __name__ == "__main__":
    sys.stdout.write(render())
