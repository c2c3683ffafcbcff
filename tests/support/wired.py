"""Ansible's result for an inventory, its wiring and a role, without a run: variables, and templates as rendered."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar, trust_as_template
from ansible.vars.manager import VariableManager
from project import ROOT as PROJECT

SANDBOX = PROJECT / "inventories/sandbox"

init_plugin_loader([])


class Wired:
    """The variables of an inventory's first host, with secrets of its own; `changes` are set on top.

    There are no dashboards, which only a run can ask for, unless the changes say so.
    """

    def __init__(self, inventory: Path = SANDBOX, **changes: Any) -> None:
        self._loader = DataLoader()
        self._loader.set_basedir(str(PROJECT))
        hosts = InventoryManager(self._loader, sources=[str(inventory)])
        known = VariableManager(self._loader, hosts).get_vars(host=hosts.get_hosts("imaging")[0])
        self._secrets = tempfile.TemporaryDirectory()
        self._variables = {
            **known,
            "imaging_secrets_path": self._secrets.name,
            "imaging_dashboards": False,
            **changes,
        }

    def __getitem__(self, name: str) -> Any:
        return Templar(self._loader, variables=self._variables).template(self._variables[name])

    def of(self, role: str) -> dict[str, Any]:
        """Every variable of a role that the wiring or the inventory sets."""
        names = [name for name in self._variables if name.startswith(f"{role}_")]
        return {name: self[name] for name in names}

    def render(self, template: Path, **variables: Any) -> str:
        """A role's template as a task of the role renders it; `variables` are the task's own."""
        lookup = "{{ lookup('ansible.builtin.template', " + repr(str(template)) + ") }}"
        return str(self.inside(template.parent.parent, lookup, **variables))

    def inside(self, role: Path, expression: str, **variables: Any) -> Any:
        """The value of an expression in a task of a role."""
        defaults, own = (self._read(role / f"{kind}/main.yml") for kind in ("defaults", "vars"))
        known = {**defaults, **self._variables, **own, "role_path": str(role), **variables}
        return Templar(self._loader, variables=known).template(trust_as_template(expression))

    def _read(self, path: Path) -> dict[str, Any]:
        if not path.is_file():
            return {}
        found: dict[str, Any] = self._loader.load_from_file(str(path), trusted_as_template=True)
        return found
