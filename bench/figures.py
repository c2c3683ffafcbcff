"""The results of a benchmark: printed at once, and written to a file that the documentation quotes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from host import describe_machine


@dataclass
class Figures:
    """Figures in the order they were measured."""

    measured: list[dict[str, object]] = field(default_factory=list)

    def at_least(self, name: str, value: float, aim: float, basis: str) -> None:
        """Record a ratio, which is better the larger it is."""
        self._add(name, f"{value:.2f} times", f"at least {aim:g} times", value >= aim, basis)

    def at_most(self, name: str, value: float, aim: float, unit: str, basis: str) -> None:
        """Record a time or a size, which is better the smaller it is."""
        self._add(name, f"{value:.1f} {unit}", f"at most {aim:g} {unit}", value <= aim, basis)

    def _add(self, name: str, value: str, aim: str, met: bool, basis: str) -> None:
        self.measured.append({"figure": name, "measured": value, "aim": aim, "met": met, "basis": basis})
        print(f"{'met   ' if met else 'MISSED'} {name}: {value} (aim: {aim}); {basis}", flush=True)

    def write(self, path: Path) -> None:
        """Write all as JSON, with the machine they belong to."""
        path.parent.mkdir(exist_ok=True)
        document = {"machine": describe_machine(), "figures": self.measured}
        path.write_text(json.dumps(document, ensure_ascii=False, indent=2) + "\n")
