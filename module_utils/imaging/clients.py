"""Shared by the modules keycloak_realm and clinic_client: a client of the realm, exactly as declared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible.module_utils.imaging.keycloak import (  # type: ignore[import-untyped]
    HIDDEN,
    Json,
    Keycloak,
    KeycloakError,
    Plan,
    differing,
    merged,
)

MAPPER = {
    "name": {"type": "str", "required": True},
    "type": {"type": "str", "required": True},
    "config": {"type": "dict", "required": True},
}


# The client's attribute that names its clinic. It distinguishes our clients from Keycloak's and the platform's own.
CLINIC = "imaging.clinic"
# The mark of a secret that nobody has been able to read in the console. Secrets of earlier releases have no mark.
SECRET_UNSEEN = {"imaging.secret-unseen": "true"}


def plan_client(
    keycloak: Keycloak,
    plan: Plan,
    wanted: dict[str, Any],
    *,
    scopes: list[str],
    mappers: list[dict[str, Any]],
    roles: list[str],
) -> None:
    """A client: the managed keys of its ClientRepresentation, its scopes, its mappers, and the roles in its tokens.

    PUT ignores scopes, mappers and roles, so each of these has writes of its own.
    """
    name = wanted["clientId"]
    what = f"client {name}"
    # A client that does not exist yet has an id only once the first change is applied.
    current = find_client(keycloak, name)

    def path() -> str:
        return f"/clients/{find_client(keycloak, name)['id']}"

    before, after = differing(wanted, current or {})
    if current is None:
        # Without the two lists Keycloak would add every default scope of the realm.
        lists: dict[str, Any] = {"defaultClientScopes": scopes, "optionalClientScopes": []}
        plan.add(what, None, hide_secret(wanted), lambda: keycloak.create("/clients", wanted | lists))
        current = {"protocolMappers": [], **lists}
    elif after:
        plan.add(what, hide_secret(before), hide_secret(after), lambda: keycloak.put(path(), merged(current, after)))

    for kind, names in (("default", scopes), ("optional", [])):
        plan.members(
            f"{what}: {kind} scopes",
            set(current[f"{kind}ClientScopes"]),
            set(names),
            lambda one, kind=kind: keycloak.put(f"{path()}/{kind}-client-scopes/{scope_id(keycloak, one)}"),
            lambda one, kind=kind: keycloak.delete(f"{path()}/{kind}-client-scopes/{scope_id(keycloak, one)}"),
        )
    plan_mappers(keycloak, plan, what, path, current.get("protocolMappers", []), mappers)
    mapped = keycloak.get(f"/clients/{current['id']}/scope-mappings/realm") if "id" in current else []
    plan.members(
        f"{what}: roles in tokens",
        {role["name"] for role in mapped},
        set(roles),
        lambda one: keycloak.create(f"{path()}/scope-mappings/realm", [need(keycloak, f"/roles/{one}")]),
        lambda one: keycloak.delete(f"{path()}/scope-mappings/realm", [need(keycloak, f"/roles/{one}")]),
    )


def plan_mappers(
    keycloak: Keycloak,
    plan: Plan,
    what: str,
    path: Callable[[], str],
    current: list[dict[str, Any]],
    wanted: list[dict[str, Any]],
) -> None:
    """The protocol mappers of a client, exactly. An undeclared mapper could put anything into a token."""
    present = {mapper["name"]: mapper for mapper in current}
    declared = {mapper["name"]: mapper for mapper in wanted}
    for name, mapper in declared.items():
        representation = {"protocolMapper": mapper["type"], "config": mapper["config"]}
        before, after = differing(representation, present.get(name, {}))
        if name not in present:
            body = {"name": name, "protocol": "openid-connect", **representation}
            plan.add(
                f"{what}: mapper {name}",
                None,
                representation,
                lambda body=body: keycloak.create(f"{path()}/protocol-mappers/models", body),
            )
        elif after:
            body = merged(present[name], after)
            plan.add(
                f"{what}: mapper {name}",
                before,
                after,
                lambda body=body: keycloak.put(f"{path()}/protocol-mappers/models/{body['id']}", body),
            )
    for name, mapper in present.items():
        if name not in declared:
            plan.add(
                f"{what}: mapper {name}",
                {"protocolMapper": mapper["protocolMapper"]},
                None,
                lambda mapper=mapper: keycloak.delete(f"{path()}/protocol-mappers/models/{mapper['id']}"),
            )


def find_client(keycloak: Keycloak, client_id: str) -> Json:
    """The client's representation, or None."""
    found = keycloak.get("/clients", clientId=client_id)
    return found[0] if found else None


def clients_with_seen_secrets(keycloak: Keycloak) -> list[str]:
    """The software of clinics with a secret that managers of users could once read, and that was not replaced since."""
    clients = keycloak.get("/clients", max="-1") or []
    return sorted(
        client["clientId"]
        for client in clients
        if CLINIC in client.get("attributes", {}) and not SECRET_UNSEEN.items() <= client["attributes"].items()
    )


def scope_id(keycloak: Keycloak, name: str) -> str:
    """The id of a client scope; its name is not accepted in paths."""
    scopes: dict[str, str] = {scope["name"]: scope["id"] for scope in keycloak.get("/client-scopes")}
    if name not in scopes:
        raise KeycloakError(f"there is no client scope '{name}'; there are {', '.join(sorted(scopes))}")
    return scopes[name]


def need(keycloak: Keycloak, path: str) -> Json:
    """A resource that must exist."""
    found = keycloak.get(path)
    if found is None:
        raise KeycloakError(f"there is no {path} in the realm {keycloak.realm}; is the name right?")
    return found


def hide_secret(representation: dict[str, Any]) -> dict[str, Any]:
    """The representation fit for a diff: it shows that a secret changes, but not the secret."""
    return {key: HIDDEN if key == "secret" else value for key, value in representation.items()}
