"""Runs a module in this process as Ansible would, and renders the realm that role identity declares."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from unittest.mock import patch

import ansible.module_utils
import yaml
from ansible.module_utils.testing import patch_module_args
from jinja2.nativetypes import NativeEnvironment
from project import ROOT

DOMAIN = "imaging.example.org"

# Ansible lays module_utils/ of the project into this package when it sends a module to a host.
if str(ROOT / "module_utils") not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(str(ROOT / "module_utils"))


@dataclass
class Outcome:
    """The answer of a module: its result, and every character it printed."""

    result: dict[str, Any]
    printed: str

    @property
    def changed(self) -> bool:
        return bool(self.result["changed"])

    @property
    def diff(self) -> dict[str, Any]:
        diff: dict[str, Any] = self.result["diff"]
        return diff


def run(module: ModuleType, arguments: dict[str, Any], *, check: bool = False) -> Outcome:
    """Run the module with these arguments, the way Ansible does: JSON in, JSON out."""
    printed = io.StringIO()
    internal = {"_ansible_check_mode": check, "_ansible_diff": True}
    given = patch_module_args({**arguments, **internal})
    # Where other tests have loaded Ansible's own side, a warning would go to the terminal and not into the answer.
    on_host = patch("ansible.module_utils._internal.is_controller", False)
    with on_host, given, contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        module.main()
    return Outcome(json.loads(printed.getvalue()), printed.getvalue())


def declared_realm() -> dict[str, Any]:
    """The arguments role identity gives to keycloak_realm, from its own defaults and variables."""
    variables: dict[str, Any] = {"identity_domain": DOMAIN}
    for part in ("defaults", "vars"):
        variables |= yaml.safe_load((ROOT / "roles/identity" / part / "main.yml").read_text())
    environment = NativeEnvironment()

    def render(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: render(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [render(inner) for inner in value]
        if isinstance(value, str) and "{{" in value:
            # A variable may refer to another one, down to plain text.
            return render(environment.from_string(value).render(variables))
        return value

    return {
        "settings": render(variables["__identity_settings"]),
        "roles": render(variables["__identity_roles"]),
        "second_factor_roles": ["admin", "user-manager"],
        "groups": ["clinics"],
        "clients": render(variables["__identity_clients"]),
        "disabled_clients": render(variables["__identity_disabled_clients"]),
        "user_attributes": render(variables["__identity_user_attributes"]),
    }


IMPLIED_ROLES = {"admin": ["user-manager"]}
