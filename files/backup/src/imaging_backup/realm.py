"""The realm as JSON, for people and for other Keycloaks: clients, roles, groups and users, without anybody's password.

A restore uses Keycloak's database instead, which has the passwords too.
"""

import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from imaging_backup.config import Config
from imaging_backup.errors import BackupError

PAGE = 100


def export(config: Config) -> bytes:
    """The realm as Keycloak writes it (RealmRepresentation) and another can import it. Raises BackupError."""
    keycloak = _Keycloak(config)
    try:
        realm = keycloak.ask("/partial-export?exportClients=true&exportGroupsAndRoles=true", method="POST")
        realm["users"] = keycloak.users()
    except (urllib.error.URLError, OSError, ValueError, KeyError) as error:
        raise BackupError(f"Keycloak does not export the realm: {error}") from error
    return json.dumps(realm, indent=2, ensure_ascii=False).encode() + b"\n"


class _Keycloak:
    """Keycloak's admin API, as the service account that Ansible uses too."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._admin = f"{config.keycloak.url}/admin/realms/{config.keycloak.realm}"
        self._token = ""

    def ask(self, path: str, method: str = "GET") -> Any:  # noqa: ANN401 # JSON
        """The answer's JSON. A token lives a minute, so after a refusal it asks once more with a new one."""
        try:
            return self._send(urllib.request.Request(self._admin + path, method=method))  # noqa: S310 # loopback
        except urllib.error.HTTPError as error:
            if error.code != 401:
                raise
        form = {
            "grant_type": "client_credentials",
            "client_id": self._config.keycloak.client,
            "client_secret": self._config.keycloak_secret(),
        }
        url = f"{self._config.keycloak.url}/realms/master/protocol/openid-connect/token"
        request = urllib.request.Request(url, urllib.parse.urlencode(form).encode())  # noqa: S310
        self._token = self._send(request)["access_token"]
        return self._send(urllib.request.Request(self._admin + path, method=method))  # noqa: S310

    def users(self) -> list[dict[str, Any]]:
        """Every user with the groups and roles of the realm."""
        users: list[dict[str, Any]] = []
        while page := self.ask(f"/users?briefRepresentation=false&first={len(users)}&max={PAGE}"):
            for user in page:
                own = f"/users/{user['id']}"
                user["groups"] = [group["path"] for group in self.ask(f"{own}/groups")]
                user["realmRoles"] = [role["name"] for role in self.ask(f"{own}/role-mappings/realm")]
            users += page
        return users

    def _send(self, request: urllib.request.Request) -> Any:  # noqa: ANN401
        if self._token:
            request.add_header("Authorization", f"Bearer {self._token}")
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 # loopback
            return json.load(answer)
