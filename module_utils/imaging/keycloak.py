"""Shared by the modules that use Keycloak: its Admin REST API and the plan of changes.

A module first reads everything it manages, then plans every write, and then applies the plan. Check mode stops before
the last step, so its prediction is what a real run does. Hosts have only the standard library.

Source: Keycloak 26 Admin REST API, OpenID Connect Core 1.0 and RFC 6749 section 4.4 (client credentials).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

from ansible.module_utils.basic import AnsibleModule  # type: ignore[import-untyped]

# The values of JSON.
Json: TypeAlias = Any

TIMEOUT_SECONDS = 30
# Keycloak's admin tokens live 60 s. A token that ends soon is not used for another request.
TOKEN_MARGIN_SECONDS = 10
HIDDEN = "(hidden)"

# The arguments with which every module reaches Keycloak; documented in each module.
CONNECTION: dict[str, dict[str, Any]] = {
    "keycloak_url": {"type": "str", "required": True},
    "keycloak_client_id": {"type": "str", "required": True},
    "keycloak_client_secret": {"type": "str", "required": True, "no_log": True},
    "realm": {"type": "str", "default": "imaging"},
}


class KeycloakError(Exception):
    """Keycloak refused or did not answer. The message says the request, the answer and what to do."""


class Keycloak:
    """The Admin REST API of one realm, as the service account that role keycloak creates in the realm `master`.

    `absent_ok` is for check mode before the first run: when nothing listens at the address, everything reads as absent.
    Raises KeycloakError whenever Keycloak cannot be reached or refuses.
    """

    def __init__(self, url: str, client_id: str, client_secret: str, realm: str, *, absent_ok: bool = False) -> None:
        self.url = url.rstrip("/")
        self.realm = realm
        self.absent = False
        self._client_id = client_id
        self._client_secret = client_secret
        self._absent_ok = absent_ok
        self._token = ""
        self._token_ends = 0.0

    @classmethod
    def of(cls, module: AnsibleModule) -> Keycloak:
        """The client for a module whose arguments include CONNECTION."""
        arguments = module.params
        return cls(
            arguments["keycloak_url"],
            arguments["keycloak_client_id"],
            arguments["keycloak_client_secret"],
            arguments["realm"],
            absent_ok=module.check_mode,
        )

    def get(self, path: str, **query: str) -> Json:
        """Read a resource below the realm (`/users`, …; the realm itself is ``); None if it does not exist."""
        return self._call("GET", self._in_realm(path, query), missing_ok=True)[0]

    def create(self, path: str, body: Json) -> str:
        """POST a new resource below the realm and return its id, the last part of the answer's Location."""
        return self._call("POST", self._in_realm(path), body)[1].rsplit("/", 1)[-1]

    def create_realm(self) -> None:
        """Create the realm, enabled, with Keycloak's defaults."""
        self._call("POST", "/admin/realms", {"realm": self.realm, "enabled": True})

    def put(self, path: str, body: Json = None) -> None:
        """Replace a resource below the realm."""
        self._call("PUT", self._in_realm(path), body)

    def delete(self, path: str, body: Json = None) -> None:
        """Delete a resource below the realm, or the members listed in body."""
        self._call("DELETE", self._in_realm(path), body)

    def _in_realm(self, path: str, query: dict[str, str] | None = None) -> str:
        return f"/admin/realms/{quote(self.realm, safe='')}{path}" + (f"?{urlencode(query)}" if query else "")

    def _call(self, method: str, path: str, body: Json = None, *, missing_ok: bool = False) -> tuple[Json, str]:
        if not self._authenticate():
            return None, ""
        try:
            return self._send(method, path, body)
        except HTTPError as error:
            if error.code == 404 and missing_ok:
                return None, ""
            raise KeycloakError(_explain(method, path, error)) from None

    def _send(self, method: str, path: str, body: Json) -> tuple[Json, str]:
        request = Request(self.url + path, method=method)  # noqa: S310 - the operator gives the address
        request.add_header("Authorization", f"Bearer {self._token}")
        if body is not None:
            request.add_header("Content-Type", "application/json")
            request.data = json.dumps(body).encode()
        try:
            with urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
                content = answer.read()
                return (json.loads(content) if content else None), answer.headers.get("Location", "")
        except HTTPError:
            raise
        except OSError as error:
            raise KeycloakError(f"Keycloak at {self.url} did not answer {method} {path}: {error}") from None

    def _authenticate(self) -> bool:
        """Get a token that lasts for the next request; False if Keycloak is absent and that is accepted."""
        if self.absent:
            return False
        if time.monotonic() < self._token_ends:
            return True
        form = {
            "grant_type": "client_credentials",
            "client_id": self._client_id,
            "client_secret": self._client_secret,
        }
        address = f"{self.url}/realms/master/protocol/openid-connect/token"
        asked = time.monotonic()
        try:
            with urlopen(Request(address, data=urlencode(form).encode()), timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
                token = json.load(answer)
        except HTTPError as error:
            if error.code == 404:
                raise KeycloakError(
                    f"There is no Keycloak at {self.url} (HTTP 404). keycloak_url takes the address with its path, "
                    "as in http://ADDRESS:PORT/auth"
                ) from None
            raise KeycloakError(
                f"Keycloak at {self.url} refuses the service account '{self._client_id}' (HTTP {error.code}). Its "
                "secret is set when Keycloak first starts with an empty database and never changes by itself. Put the "
                "secret of that day back, or stop imaging-keycloak and make a new account with `kc.sh bootstrap-admin "
                "service`."
            ) from None
        except OSError as error:
            reason = error.reason if isinstance(error, URLError) else error
            if self._absent_ok and isinstance(reason, ConnectionRefusedError):
                self.absent = True
                return False
            raise KeycloakError(
                f"Keycloak does not answer at {self.url} ({reason}). Is it running? `systemctl status imaging-keycloak`"
            ) from None
        self._token = token["access_token"]
        self._token_ends = asked + token["expires_in"] - TOKEN_MARGIN_SECONDS
        return True


def _explain(method: str, path: str, error: HTTPError) -> str:
    try:
        answer = json.loads(error.read())
        said = answer.get("errorMessage") or answer.get("error_description") or answer.get("error") or answer
        if isinstance(answer.get("errors"), list):
            said = "; ".join(f"{one.get('field')}: {one.get('errorMessage')}" for one in answer["errors"])
    except (ValueError, AttributeError):
        said = "no reason given"
    message = f"Keycloak refuses {method} {path} (HTTP {error.code}): {said}"
    if error.code == 403:
        message += ". The service account has lost its role `admin` in the realm `master`; give it back in the console."
    return message


# --- comparing -------------------------------------------------------------------------------------------------------


def differing(wanted: dict[str, Any], current: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The part of `wanted` that `current` does not have, as (before, after); both empty when they agree.

    Keys that `wanted` does not name are not managed and do not count. The order in lists does not count, because
    Keycloak keeps sets and returns them in any order.
    """
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    for key, value in wanted.items():
        now = current.get(key)
        if isinstance(value, dict):
            inner_before, inner_after = differing(value, now or {})
            if inner_after:
                before[key], after[key] = inner_before, inner_after
        elif _unordered(value) != _unordered(now):
            before[key], after[key] = now, value
    return before, after


def merged(current: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`current` with `changes` laid over it, dictionaries merged. A PUT that replaces must carry all of this."""
    result = dict(current)
    for key, value in changes.items():
        result[key] = merged(current.get(key) or {}, value) if isinstance(value, dict) else value
    return result


def _unordered(value: Json) -> Json:
    if isinstance(value, list):
        return sorted((_unordered(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
    return value


# --- planning --------------------------------------------------------------------------------------------------------


@dataclass
class Change:
    """One write: the managed keys before and after (None: the thing does not exist), without secrets."""

    what: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    apply: Callable[[], object]


@dataclass
class Plan:
    """Every write a run needs, in order."""

    changes: list[Change] = field(default_factory=list)

    def add(
        self, what: str, before: dict[str, Any] | None, after: dict[str, Any] | None, apply: Callable[[], object]
    ) -> None:
        """Plan one write."""
        self.changes.append(Change(what, before, after, apply))

    def members(
        self,
        what: str,
        current: set[str],
        wanted: set[str],
        join: Callable[[str], object],
        leave: Callable[[str], object],
    ) -> None:
        """Plan that a set has exactly the wanted members: one write for each that joins or leaves."""
        if current == wanted:
            return

        def apply() -> None:
            for member in sorted(wanted - current):
                join(member)
            for member in sorted(current - wanted):
                leave(member)

        self.add(what, {"members": sorted(current)}, {"members": sorted(wanted)}, apply)

    def result(self) -> dict[str, Any]:
        """The module's results: `changed` and `diff`, the same in check mode and in a real run."""
        return {
            "changed": bool(self.changes),
            "diff": {
                "before": {change.what: change.before for change in self.changes},
                "after": {change.what: change.after for change in self.changes},
            },
        }


def carry_out(module: AnsibleModule, keycloak: Keycloak, plan: Plan, **extra: Json) -> None:
    """Apply the plan, unless in check mode, and leave the module with its result."""
    if keycloak.absent:
        module.warn(f"Nothing listens at {keycloak.url} yet: everything is reported as still to be made.")
    if not module.check_mode:
        for change in plan.changes:
            try:
                change.apply()
            except KeycloakError as error:
                raise KeycloakError(f"{change.what}: {error}") from None
    module.exit_json(**plan.result(), **extra)
