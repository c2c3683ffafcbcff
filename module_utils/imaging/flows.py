"""The login: the realm's browser flow, with a second factor for users who must have one or who chose one.

The flow that comes with Keycloak asks for a one-time password only if the user has set one up. Ours always asks members
of given roles. A member who has none sets one up before the login ends. So an administrator who gives or takes a role
needs no second step. Source: Keycloak 26 Server Administration Guide, Authentication flows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import Any

from ansible.module_utils.imaging.keycloak import (  # type: ignore[import-untyped]
    Json,
    Keycloak,
    KeycloakError,
    Plan,
)

PREFIX = "imaging-browser-"
EVERYONE = "*"


@dataclass(frozen=True)
class Execution:
    """A step of a flow: an authenticator, or a flow of its own with its steps."""

    requirement: str
    what: str
    """Keycloak's provider id; of a flow its name."""
    config: dict[str, str] = field(default_factory=dict)
    steps: tuple[Execution, ...] = ()


def browser_flow(roles: list[str]) -> tuple[Execution, ...]:
    """The flow in which members of these roles pass a second factor; `*` means everyone."""
    code = Execution("REQUIRED", "auth-otp-form")
    if EVERYONE in roles:
        second = [code]
    else:
        second = []
        others: list[Execution] = []
        for role in roles:
            has = Execution("REQUIRED", "conditional-user-role", {"condUserRole": role, "negate": "false"})
            # A user with several of the roles is asked only once.
            second.append(Execution("CONDITIONAL", f"second-factor-of-{role}", steps=(*others, has, code)))
            others.append(Execution("REQUIRED", "conditional-user-role", {"condUserRole": role, "negate": "true"}))
        chose = Execution("REQUIRED", "conditional-user-configured")
        second.append(Execution("CONDITIONAL", "second-factor-of-who-has-one", steps=(*others, chose, code)))
    password = Execution("REQUIRED", "auth-username-password-form")
    return (
        Execution("ALTERNATIVE", "auth-cookie"),
        Execution("ALTERNATIVE", "password", steps=(password, *second)),
    )


def plan_browser_flow(keycloak: Keycloak, plan: Plan, roles: list[str]) -> None:
    """The realm's flow. A new one is built beside it and then replaces it, so that no login meets half of one."""
    wanted = browser_flow(roles)
    realm = keycloak.get("")
    bound = realm.get("browserFlow") if realm else None
    current = _lines(keycloak, bound) if bound else None

    def replace() -> None:
        flows = {flow["alias"]: flow["id"] for flow in keycloak.get("/authentication/flows")}
        alias = next(name for name in (f"{PREFIX}{number}" for number in count(1)) if name not in flows)
        _build(keycloak, alias, wanted)
        if _lines(keycloak, alias) != _wanted_lines(wanted):
            raise KeycloakError("Keycloak did not keep the login flow as it was built, so the one of before stays")
        keycloak.put("", {"browserFlow": alias})
        for name, key in flows.items():
            if name.startswith(PREFIX):
                keycloak.delete(f"/authentication/flows/{key}")

    if current != _wanted_lines(wanted):
        plan.add("login", {"flow": current}, {"flow": _wanted_lines(wanted)}, replace)


def _build(keycloak: Keycloak, alias: str, steps: tuple[Execution, ...]) -> None:
    flow = {"alias": alias, "providerId": "basic-flow", "topLevel": True, "builtIn": False}
    keycloak.create("/authentication/flows", flow | {"description": "Managed by Ansible, module keycloak_realm"})
    _add(keycloak, alias, alias, steps)
    # A new step is disabled. Its requirement and its settings are written to the list of all steps afterwards.
    made = keycloak.get(f"/authentication/flows/{alias}/executions")
    for step, one in zip(_flat(steps), made, strict=True):
        keycloak.put(f"/authentication/flows/{alias}/executions", one | {"requirement": step.requirement})
        if step.config:
            config = {"alias": f"{alias}-{one['id']}", "config": step.config}
            keycloak.create(f"/authentication/executions/{one['id']}/config", config)


def _add(keycloak: Keycloak, alias: str, parent: str, steps: tuple[Execution, ...]) -> None:
    for step in steps:
        path = f"/authentication/flows/{parent}/executions"
        if step.steps:
            # Names of flows are unique in a realm.
            name = f"{alias}-{step.what}"
            keycloak.create(f"{path}/flow", {"alias": name, "type": "basic-flow", "provider": "", "description": ""})
            _add(keycloak, alias, name, step.steps)
        else:
            keycloak.create(f"{path}/execution", {"provider": step.what})


def _flat(steps: tuple[Execution, ...]) -> list[Execution]:
    return [one for step in steps for one in (step, *_flat(step.steps))]


def _wanted_lines(steps: tuple[Execution, ...], level: int = 0) -> list[str]:
    lines = []
    for step in steps:
        lines += [_line(level, step.requirement, step.what, step.config), *_wanted_lines(step.steps, level + 1)]
    return lines


def _lines(keycloak: Keycloak, alias: str) -> list[str]:
    lines = []
    for one in keycloak.get(f"/authentication/flows/{alias}/executions") or []:
        what = one.get("providerId") or one["displayName"].removeprefix(f"{alias}-")
        key = one.get("authenticationConfig")
        config = keycloak.get(f"/authentication/config/{key}")["config"] if key else {}
        lines.append(_line(one["level"], one["requirement"], what, config))
    return lines


def _line(level: int, requirement: str, what: str, config: dict[str, Any] | Json) -> str:
    settings = "".join(f" {key}={value}" for key, value in sorted(config.items()))
    return f"{'  ' * level}{requirement} {what}{settings}"
