"""The desk a test works at: one realm and the modules on it; and the fixtures that lay it."""

from __future__ import annotations

import itertools
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.request import urlopen

import pytest
from loading import load
from support import IMPLIED_ROLES, ROOT, Outcome, declared_realm, run

keycloak_realm = load(ROOT / "library/keycloak_realm.py")
clinic = load(ROOT / "library/clinic.py")
clinic_user = load(ROOT / "library/clinic_user.py")
clinic_client = load(ROOT / "library/clinic_client.py")
user_account = load(ROOT / "library/user_account.py")
Keycloak = clinic.Keycloak

PASSWORD = "Correct-Horse-77-battery"
NUMBERS = itertools.count(1)
# A Keycloak that was given may have seen another run.
RUN = secrets.token_hex(3)


@dataclass
class Server:
    """Where a Keycloak is and who may administer it."""

    url: str
    client_id: str
    client_secret: str

    def arguments(self, realm: str) -> dict[str, str]:
        return {
            "keycloak_url": self.url,
            "keycloak_client_id": self.client_id,
            "keycloak_client_secret": self.client_secret,
            "realm": realm,
        }

    def api(self, realm: str) -> Any:
        """The Admin REST API, for a look behind the modules' back, or a hand in between."""
        return Keycloak(self.url, self.client_id, self.client_secret, realm)


class Desk:
    """One realm and the modules on it."""

    def __init__(self, server: Server, realm: str, registry: dict[str, str]) -> None:
        self.server = server
        self.realm_name = realm
        self.api = server.api(realm)
        self.registry = registry

    def realm(self, *, check: bool = False, **declared: Any) -> Outcome:
        return run(keycloak_realm, {**self.server.arguments(self.realm_name), **declared}, check=check)

    def clinics(self, *clinics: dict[str, str], check: bool = False, **other: Any) -> Outcome:
        registry = {
            "registry_host": "127.0.0.1",
            "registry_port": 5432,
            "registry_name": "registry",
            "registry_user": "registry_operator",
            "registry_password": "registry-secret-5d",
        }
        arguments = {**self.server.arguments(self.realm_name), **registry, "clinics": list(clinics), **other}
        return run(clinic, arguments, check=check)

    def users(self, *users: dict[str, Any], check: bool = False) -> Outcome:
        arguments = {"users": list(users), "implied_roles": IMPLIED_ROLES}
        return run(clinic_user, {**self.server.arguments(self.realm_name), **arguments}, check=check)

    def account(self, username: str | None, action: str, *, check: bool = False, **other: Any) -> Outcome:
        arguments = {"username": username, "action": action, **other}
        return run(user_account, {**self.server.arguments(self.realm_name), **arguments}, check=check)

    def software(self, *, check: bool = False, **software: Any) -> Outcome:
        return run(clinic_client, {**self.server.arguments(self.realm_name), **software}, check=check)

    @property
    def issuer(self) -> str:
        """The origin of the address under which Keycloak issues tokens."""
        with urlopen(f"{self.server.url}/realms/{self.realm_name}/.well-known/openid-configuration") as answer:
            issuer: str = json.load(answer)["issuer"]
        return issuer.split("/auth/")[0]

    def user(self, username: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get("/users", username=username, exact="true")[0]
        return found

    def client(self, client_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get("/clients", clientId=client_id)[0]
        return found

    def groups_of(self, username: str) -> set[str]:
        return {group["path"] for group in self.api.get(f"/users/{self.user(username)['id']}/groups")}

    def roles_of(self, username: str) -> set[str]:
        roles = self.api.get(f"/users/{self.user(username)['id']}/role-mappings/realm")
        return {role["name"] for role in roles} - {f"default-roles-{self.realm_name}"}


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The registry's table of clinics; the real one is met in the sandbox."""
    rows: dict[str, str] = {}

    class Rows:
        def __init__(self, parameters: dict[str, Any]) -> None:
            pass

        def names(self) -> dict[str, str]:
            return dict(rows)

        def removed(self) -> dict[str, Any]:
            return {}

        def upsert(self, clinic_id: str, name: str) -> None:
            rows[clinic_id] = name

    monkeypatch.setattr(clinic, "Registry", Rows)
    return rows


@pytest.fixture(scope="session")
def applied(keycloak: Server) -> Iterator[str]:
    """A realm as declared, with two clinics' groups."""
    desk = Desk(keycloak, f"applied-{RUN}", {})
    outcome = desk.realm(**declared_realm())
    assert outcome.changed, outcome.printed
    clinics = desk.api.get("/group-by-path/clinics")["id"]
    for one in ("denscan-central", "denscan-almaty"):
        desk.api.create(f"/groups/{clinics}/children", {"name": one})
    yield desk.realm_name
    keycloak.api(desk.realm_name).delete("")


@pytest.fixture
def desk(keycloak: Server, applied: str, registry: dict[str, str]) -> Desk:
    return Desk(keycloak, applied, registry)


@pytest.fixture
def empty(keycloak: Server, registry: dict[str, str]) -> Iterator[Desk]:
    """A realm that does not exist yet."""
    desk = Desk(keycloak, f"realm-{RUN}-{next(NUMBERS)}", registry)
    yield desk
    if desk.api.get("") is not None:
        desk.api.delete("")


@pytest.fixture
def person() -> dict[str, Any]:
    """A physician of one clinic whom nobody has met."""
    name = f"aigerim-{next(NUMBERS)}"
    return {
        "username": name,
        "email": f"{name}@example.org",
        "first_name": "Aigerim",
        "last_name": "Omarova",
        "clinics": ["denscan-central"],
        "roles": ["physician"],
        "password": PASSWORD,
    }
