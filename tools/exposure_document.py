"""Writes the exposure of each unit of a deployed host into docs/ARCHITECTURE.md: `make docs-exposure`."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

from on_host import find

PAGE = Path(__file__).parents[1] / "docs/ARCHITECTURE.md"
BEGIN = "<!-- Written by `make docs-exposure`: changes here are overwritten. -->\n"
END = "<!-- The end of what it writes. -->\n"
# Their packages come from a vendor's apt repository. A host that cannot reach it has none of these.
OPTIONAL = ("grafana-server.service", "loki.service", "syslog-ng.service")

OnHost = Callable[[str], str]
"""Runs one command on the host and gives its standard output."""


def units(on_host: OnHost) -> list[str]:
    """The services of the platform that every host has. If a service has a timer, the target wants the timer."""
    wanted = on_host("systemctl show --property=Wants --value imaging.target").split()
    timed = {"imaging-backup.service", "imaging-updates.service"}
    return sorted(timed | {unit for unit in wanted if unit.endswith(".service")} - {*OPTIONAL})


def open_settings(on_host: OnHost, unit: str) -> set[str]:
    """The exposures that systemd finds in a unit."""
    said = json.loads(on_host(f"systemd-analyze security --no-pager --json=short {unit}"))
    return {setting["name"].rstrip("=") for setting in said if float(setting["exposure"] or 0)}


def exposure(on_host: OnHost, unit: str) -> float:
    """The mark that systemd gives a unit, from 0 (best) to 10."""
    said = on_host(f"systemd-analyze security --no-pager {unit}")
    return float(said.rpartition("Overall exposure level for ")[2].partition(": ")[2].split()[0])


def render(on_host: OnHost) -> str:
    """The text between the marks: the table, and before it the exposures that every unit has."""
    found = {unit: open_settings(on_host, unit) for unit in units(on_host)}
    common = set.intersection(*found.values())
    named = ", ".join(f"`{name}`" for name in sorted(common))
    lines = [
        textwrap.fill(f"Open in each of them: {named}.", 118, break_on_hyphens=False),
        "",
        "| Unit | Exposure | What else is open in it |",
        "|---|---|---|",
    ]
    for mark, unit in sorted((exposure(on_host, unit), unit) for unit in found):
        others = ", ".join(f"`{name}`" for name in sorted(found[unit] - common)).replace("|", r"\|")
        lines.append(f"| `{unit.removesuffix('.service')}` | {mark} | {others or 'nothing'} |")
    return "\n".join(lines) + "\n"


def written() -> str:
    """The present text of the page between the marks."""
    _, _, rest = PAGE.read_text().partition(BEGIN)
    return rest.partition(END)[0]


def main() -> None:
    """Write the table from the host of the given inventory."""
    host = find(sys.argv[1], "imaging")

    def on_host(command: str) -> str:
        words = host.command(["sh", "-c", command])
        return subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout

    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + render(on_host) + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
