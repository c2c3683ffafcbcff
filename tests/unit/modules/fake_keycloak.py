"""A Keycloak of our own, in this process: the part of the Admin REST API that the modules use, with its habits.

Every habit that has bitten somebody is imitated here, and the same specification runs against the real Keycloak
(tests/unit/keycloak), so that the fake cannot drift from it unseen.
"""

from __future__ import annotations

import json
import re
import threading
import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

MANAGEMENT_ROLES = [
    "manage-users", "view-users", "query-users", "query-groups", "view-realm", "view-clients", "query-clients",
    "view-events", "manage-realm", "manage-clients", "impersonation",
]  # fmt: skip
DEFAULT_SCOPES = ["web-origins", "acr", "roles", "profile", "basic", "email"]
SERVICE_SCOPE = "service_account"
OPTIONAL_SCOPES = ["address", "phone", "offline_access", "microprofile-jwt"]
REALM_KEYS = {
    "realm", "enabled", "displayName", "loginTheme", "internationalizationEnabled", "supportedLocales", "defaultLocale",
    "sslRequired", "registrationAllowed", "resetPasswordAllowed", "editUsernameAllowed", "loginWithEmailAllowed",
    "duplicateEmailsAllowed", "rememberMe", "passwordPolicy", "bruteForceProtected", "permanentLockout",
    "failureFactor", "bruteForceStrategy", "quickLoginCheckMilliSeconds", "maxDeltaTimeSeconds",
    "maxSecondaryAuthFailures", "revokeRefreshToken", "refreshTokenMaxReuse",
    "waitIncrementSeconds", "maxFailureWaitSeconds", "accessTokenLifespan", "ssoSessionIdleTimeout",
    "ssoSessionMaxLifespan", "eventsEnabled", "eventsExpiration", "eventsListeners", "adminEventsEnabled",
    "adminEventsDetailsEnabled", "attributes", "browserFlow", "otpPolicyType", "otpPolicyAlgorithm", "otpPolicyDigits",
    "otpPolicyPeriod", "otpPolicyLookAheadWindow", "otpPolicyCodeReusable",
}  # fmt: skip


class RefusedError(Exception):
    """Keycloak's answer to a request it does not accept."""

    def __init__(self, status: int, **body: Any) -> None:
        super().__init__(status)
        self.status = status
        self.body = body


def fresh(**values: Any) -> dict[str, Any]:
    return {"id": str(uuid.uuid4()), **values}


class Realm:
    """One realm as it is after POST /admin/realms."""

    def __init__(self, name: str) -> None:
        self.representation = {
            "realm": name, "enabled": True, "accessTokenLifespan": 300, "eventsEnabled": False,
            "eventsListeners": ["jboss-logging"], "bruteForceProtected": False, "sslRequired": "external",
            "attributes": {"parRequestUriLifespan": "60", "cibaInterval": "5"}, "browserFlow": "browser",
        }  # fmt: skip
        self.flows = {"browser": fresh(alias="browser", topLevel=True, _steps=[])}
        self.configs: dict[str, dict[str, Any]] = {}
        self.roles = {f"default-roles-{name}": fresh(name=f"default-roles-{name}", composite=True, _includes=set())}
        self.groups: dict[str, dict[str, Any]] = {}
        self.users: dict[str, dict[str, Any]] = {}
        self.scopes = {scope: fresh(name=scope) for scope in [*DEFAULT_SCOPES, SERVICE_SCOPE, *OPTIONAL_SCOPES]}
        self.management = {role: fresh(name=role) for role in MANAGEMENT_ROLES}
        management = fresh(clientId="realm-management", defaultClientScopes=[], optionalClientScopes=[])
        password_client = fresh(clientId="admin-cli", enabled=True, defaultClientScopes=[], optionalClientScopes=[])
        self.clients = {client["id"]: client for client in (management, password_client)}
        self.profile: dict[str, Any] = {
            "attributes": [{"name": one} for one in ("username", "email", "firstName", "lastName")],
            "groups": [{"name": "user-metadata"}],
        }

    def group_at(self, path: str) -> dict[str, Any] | None:
        return next((group for group in self.groups.values() if group["path"] == path), None)


class FakeKeycloak:
    """Serves on a free port of loopback until stop(); `requests` has every request as (method, path, body)."""

    client_id = "imaging-ansible"
    client_secret = "fake-secret-9b1c"
    token_seconds = 60

    def __init__(self) -> None:
        self.realms: dict[str, Realm] = {}
        self.requests: list[tuple[str, str, Any]] = []
        self.tokens: set[str] = set()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, content, location = fake.handle(self.command, self.path, dict(self.headers), body)
                payload = b"" if content is None else json.dumps(content).encode()
                self.send_response(status)
                if location:
                    self.send_header("Location", location)
                self.send_header("Content-Length", str(len(payload)))
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(payload)

            do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815

            def log_message(self, *arguments: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/auth"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def handle(self, method: str, url: str, headers: dict[str, str], raw: bytes) -> tuple[int, Any, str]:
        address = urlsplit(url)
        query = {key: values[0] for key, values in parse_qs(address.query).items()}
        if address.path == "/auth/realms/master/protocol/openid-connect/token":
            form = parse_qs(raw.decode())
            given = [form.get(name) for name in ("grant_type", "client_id", "client_secret")]
            if given != [["client_credentials"], [self.client_id], [self.client_secret]]:
                return (
                    401,
                    {
                        "error": "unauthorized_client",
                        "error_description": "Invalid client or Invalid client credentials",
                    },
                    "",
                )
            token = str(uuid.uuid4())
            self.tokens.add(token)
            return 200, {"access_token": token, "expires_in": self.token_seconds}, ""
        if not address.path.startswith("/auth/"):
            return 404, {"error": "Unable to find matching target resource method"}, ""
        body = json.loads(raw) if raw else None
        self.requests.append((method, address.path, body))
        if headers.get("Authorization", "").removeprefix("Bearer ") not in self.tokens:
            return 401, {"error": "HTTP 401 Unauthorized"}, ""
        try:
            answer = self.route(method, address.path.removeprefix("/auth/admin/realms"), query, body)
        except RefusedError as refusal:
            return refusal.status, refusal.body, ""
        if method == "POST":
            # Only objects with an id of their own get a Location.
            created = f"{url}/{answer}" if isinstance(answer, str) else ""
            return (201 if created else 204), None, created
        return (204 if answer is None else 200), answer, ""

    # --- the API ---------------------------------------------------------------------------------------------------

    def route(self, method: str, path: str, query: dict[str, str], body: Any) -> Any:
        if method == "POST" and path == "":
            self.realms[body["realm"]] = Realm(body["realm"])
            return body["realm"]
        name, _, rest = path[1:].partition("/")
        realm = self.realms.get(name)
        if realm is None:
            raise RefusedError(404, error="Realm not found.")
        if method == "DELETE" and not rest:
            del self.realms[name]
            return None
        for pattern, handler in ROUTES:
            matched = re.fullmatch(pattern, rest)
            if matched:
                return handler(realm, method, query, body, *map(unquote, matched.groups()))
        raise RefusedError(404, error="Unable to find matching target resource method")


def realm_(realm: Realm, method: str, query: Any, body: Any) -> Any:
    if method == "GET":
        return realm.representation
    unknown = sorted(set(body) - REALM_KEYS)
    if unknown:
        raise RefusedError(
            400, error=f'Invalid json representation for RealmRepresentation. Unrecognized field "{unknown[0]}"'
        )
    # Habit: attributes are replaced as a whole, and are strings whatever was sent.
    if "attributes" in body:
        body["attributes"] = {name: str(value) for name, value in body["attributes"].items()}
    realm.representation.update(body)
    return None


def roles_(realm: Realm, method: str, query: Any, body: Any, *rest: str) -> Any:
    if method == "POST":
        realm.roles[body["name"]] = fresh(**body, composite=False, _includes=set())
        return body["name"]
    role = find(realm.roles, rest[0], "Could not find role")
    if method == "PUT":
        role["description"] = body.get("description")
        return None
    return {key: value for key, value in role.items() if key != "_includes"}


def composites_(realm: Realm, method: str, query: Any, body: Any, name: str, *client: str) -> Any:
    role = realm.roles[name]
    if method == "GET":
        return [realm.management[one] for one in role["_includes"]]
    names = {one["name"] for one in body}
    role["_includes"] = role["_includes"] | names if method == "POST" else role["_includes"] - names
    role["composite"] = bool(role["_includes"])
    return None


def groups_(realm: Realm, method: str, query: Any, body: Any, parent: str = "") -> Any:
    # Habit: a slash in the name forges the path of another group.
    path = (realm.groups[parent]["path"] if parent else "") + "/" + body["name"]
    if realm.group_at(path):
        raise RefusedError(409, errorMessage=f"Sibling group named '{body['name']}' already exists.")
    group = fresh(
        name=body["name"], path=path, description=body.get("description"), attributes=body.get("attributes", {})
    )
    realm.groups[group["id"]] = group
    return group["id"]


def group_(realm: Realm, method: str, query: Any, body: Any, key: str) -> Any:
    group = find(realm.groups, key, "Could not find group by id")
    if method == "GET":
        return group
    if not body.get("name"):
        raise RefusedError(400, errorMessage="Group name is missing")
    # Habit: an omitted description is erased and attributes are replaced.
    group["description"] = body.get("description")
    if "attributes" in body:
        group["attributes"] = body["attributes"]
    return None


def group_by_path_(realm: Realm, method: str, query: Any, body: Any, path: str) -> Any:
    found = realm.group_at(f"/{path}")
    if found is None:
        raise RefusedError(404, error="Group path does not exist")
    return found


def clients_(realm: Realm, method: str, query: Any, body: Any) -> Any:
    if method == "GET":
        wanted = query.get("clientId")
        return [shown(client) for client in realm.clients.values() if wanted in (None, client["clientId"])]
    defaults = {"defaultClientScopes": DEFAULT_SCOPES, "optionalClientScopes": OPTIONAL_SCOPES}
    client = fresh(**{**defaults, **body}, protocolMappers=[], _roles=set())
    realm.clients[client["id"]] = client
    if client.get("serviceAccountsEnabled"):
        # Habit: this scope joins whatever was asked for.
        client["defaultClientScopes"] = list({*client["defaultClientScopes"], SERVICE_SCOPE})
        account = fresh(
            username=f"service-account-{client['clientId']}",
            serviceAccountClientId=client["clientId"],
            _groups=set(),
            _roles={f"default-roles-{realm.representation['realm']}"},
        )
        realm.users[account["id"]] = account
    return client["id"]


def client_(realm: Realm, method: str, query: Any, body: Any, key: str) -> Any:
    client = realm.clients[key]
    if method == "DELETE":
        del realm.clients[key]
        realm.users = {
            name: user for name, user in realm.users.items() if user.get("serviceAccountClientId") != client["clientId"]
        }
        return
    # Habits: attributes merge, lists are replaced (mappers too), and scopes in the representation are ignored.
    attributes = client.get("attributes", {}) | body.get("attributes", {})
    ignored = {"defaultClientScopes", "optionalClientScopes", "id"}
    client.update({name: value for name, value in body.items() if name not in ignored}, attributes=attributes)


def service_account_(realm: Realm, method: str, query: Any, body: Any, key: str) -> Any:
    name = realm.clients[key]["clientId"]
    return shown(next(user for user in realm.users.values() if user.get("serviceAccountClientId") == name))


def client_roles_(realm: Realm, method: str, query: Any, body: Any, key: str, role: str) -> Any:
    return find(realm.management, role, "Could not find role")


def client_scopes_(realm: Realm, method: str, query: Any, body: Any, key: str, kind: str, scope: str) -> Any:
    name = next(one["name"] for one in realm.scopes.values() if one["id"] == scope)
    scopes = realm.clients[key][f"{kind}ClientScopes"]
    realm.clients[key][f"{kind}ClientScopes"] = [one for one in scopes if one != name] + [name] * (method == "PUT")


def mappers_(realm: Realm, method: str, query: Any, body: Any, key: str, mapper: str = "") -> Any:
    mappers = realm.clients[key]["protocolMappers"]
    if method == "POST":
        mappers.append(fresh(**body))
        return mappers[-1]["id"]
    mappers[:] = [one for one in mappers if one["id"] != mapper] + ([body] if method == "PUT" else [])
    return None


def client_role_scope_(realm: Realm, method: str, query: Any, body: Any, key: str) -> Any:
    roles = realm.clients[key].setdefault("_roles", set())
    if method == "GET":
        return [shown(realm.roles[name]) for name in roles]
    names = {role["name"] for role in body}
    realm.clients[key]["_roles"] = roles | names if method == "POST" else roles - names
    return None


def flows_(realm: Realm, method: str, query: Any, body: Any, key: str = "") -> Any:
    if method == "GET":
        return [shown(flow) for flow in realm.flows.values() if flow["topLevel"]]
    if method == "DELETE":
        del realm.flows[next(alias for alias, flow in realm.flows.items() if flow["id"] == key)]
        return None
    realm.flows[body["alias"]] = fresh(alias=body["alias"], topLevel=True, _steps=[])
    return realm.flows[body["alias"]]["id"]


def new_step_(realm: Realm, method: str, query: Any, body: Any, alias: str, kind: str) -> Any:
    step = fresh(requirement="DISABLED")  # habit
    if kind == "flow":
        step |= {"displayName": body["alias"], "authenticationFlow": True}
        realm.flows[body["alias"]] = fresh(alias=body["alias"], topLevel=False, _steps=[])
    else:
        step |= {"displayName": "As people read it", "providerId": body["provider"]}
    realm.flows[alias]["_steps"].append(step)
    return step["id"]


def steps_(realm: Realm, method: str, query: Any, body: Any, alias: str) -> Any:
    """Habit: the steps of flows inside come along, one level deeper."""

    def flat(name: str, level: int) -> Iterator[dict[str, Any]]:
        for step in realm.flows[name]["_steps"]:
            step["level"] = level
            yield step
            if step.get("authenticationFlow"):
                yield from flat(step["displayName"], level + 1)

    if method == "GET":
        return list(flat(alias, 0)) if alias in realm.flows else None
    next(step for step in flat(alias, 0) if step["id"] == body["id"])["requirement"] = body["requirement"]
    return None


def config_(realm: Realm, method: str, query: Any, body: Any, key: str) -> Any:
    if method == "GET":
        return realm.configs[key]
    step = next(step for flow in realm.flows.values() for step in flow["_steps"] if step["id"] == key)
    config = fresh(**body)
    realm.configs[config["id"]] = config
    step["authenticationConfig"] = config["id"]
    return config["id"]


def credentials_(realm: Realm, method: str, query: Any, body: Any, key: str, credential: str = "") -> Any:
    user = find(realm.users, key, "User not found")
    if method == "GET":
        return [{"id": "p", "type": "password"}, *user.get("_codes", [])]
    user["_codes"] = [one for one in user["_codes"] if one["id"] != credential]
    return None


def scopes_(realm: Realm, method: str, query: Any, body: Any) -> Any:
    return list(realm.scopes.values())


def profile_(realm: Realm, method: str, query: Any, body: Any) -> Any:
    if method == "GET":
        return realm.profile
    realm.profile = body
    return None


def users_(realm: Realm, method: str, query: Any, body: Any) -> Any:
    if method == "GET":
        return [shown(user) for user in realm.users.values() if user["username"] == query["username"].lower()]
    if any(path and not realm.group_at(path) for path in body.get("groups", [])):
        raise RefusedError(500, error="unknown_error")  # habit
    if len(body["username"]) < 3:
        raise RefusedError(400, field="username", errorMessage="error-invalid-length", params=["username", 3, 255])
    password = (body.get("credentials") or [{}])[0]
    check_password(realm, password.get("value", ""))
    user = fresh(
        username=body["username"].lower(),  # habit
        _groups=set(),
        _roles={f"default-roles-{realm.representation['realm']}"},
        _password=password.get("value"),
        requiredActions=["UPDATE_PASSWORD"] if password.get("temporary") else [],
    )
    write_profile(realm, user, body)
    realm.users[user["id"]] = user
    return user["id"]


def user_(realm: Realm, method: str, query: Any, body: Any, key: str) -> Any:
    user = find(realm.users, key, "User not found")
    if method == "DELETE":
        del realm.users[key]
    elif method == "GET":
        return shown(user)
    else:
        if body.get("username", user["username"]) != user["username"]:
            if not realm.representation.get("editUsernameAllowed"):
                raise RefusedError(400, field="username", errorMessage="error-user-attribute-read-only")  # habit
            user["username"] = body["username"].lower()
        write_profile(realm, user, body)
        user["requiredActions"] = body.get("requiredActions", user["requiredActions"])
    return None


def write_profile(realm: Realm, user: dict[str, Any], body: Any) -> None:
    """Habits: with attributes, fields that are not listed vanish; undeclared attributes vanish without a word."""
    fields = ("email", "firstName", "lastName")
    if "attributes" in body:
        declared = {one["name"] for one in realm.profile["attributes"]}
        for field in fields:
            user.pop(field, None)
        user["attributes"] = {name: value for name, value in body["attributes"].items() if name in declared}
    for field in fields:
        if body.get(field) is not None:
            user[field] = body[field].lower() if field == "email" else body[field]
    user["enabled"] = body.get("enabled", user.get("enabled", False))


def password_(realm: Realm, method: str, query: Any, body: Any, key: str) -> Any:
    check_password(realm, body["value"])
    realm.users[key]["_password"] = body["value"]
    realm.users[key]["requiredActions"] = ["UPDATE_PASSWORD"] if body["temporary"] else []


def user_logout_(realm: Realm, method: str, query: Any, body: Any, key: str) -> Any:
    find(realm.users, key, "User not found")["notBefore"] = int(time.time())


def logout_all_(realm: Realm, method: str, query: Any, body: Any) -> Any:
    return None


def check_password(realm: Realm, value: str) -> None:
    least = re.search(r"length\((\d+)\)", realm.representation.get("passwordPolicy", ""))
    if least and len(value) < int(least[1]):
        raise RefusedError(
            400,
            error="invalidPasswordMinLengthMessage",
            error_description=f"Invalid password: minimum length {least[1]}.",
        )


def user_groups_(realm: Realm, method: str, query: Any, body: Any, key: str, group: str = "") -> Any:
    groups = realm.users[key]["_groups"]
    if method == "GET":
        return [realm.groups[one] for one in groups]
    find(realm.groups, group, "Group not found")
    realm.users[key]["_groups"] = groups | {group} if method == "PUT" else groups - {group}
    return None


def user_roles_(realm: Realm, method: str, query: Any, body: Any, key: str) -> Any:
    roles = realm.users[key]["_roles"]
    if method == "GET":
        return [shown(realm.roles[name]) for name in roles]
    names = {role["name"] for role in body}
    realm.users[key]["_roles"] = roles | names if method == "POST" else roles - names
    return None


def find(things: dict[str, Any], key: str, otherwise: str) -> Any:
    if key not in things:
        raise RefusedError(404, error=otherwise)
    return things[key]


def shown(thing: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in thing.items() if not key.startswith("_")}


ID = "([^/]+)"
ROUTES = [
    ("authentication/flows", flows_),
    (f"authentication/flows/{ID}", flows_),
    (f"authentication/flows/{ID}/executions", steps_),
    (f"authentication/flows/{ID}/executions/(flow|execution)", new_step_),
    (f"authentication/executions/{ID}/config", config_),
    (f"authentication/config/{ID}", config_),
    (f"users/{ID}/credentials", credentials_),
    (f"users/{ID}/credentials/{ID}", credentials_),
    ("", realm_),
    ("roles", roles_),
    (f"roles/{ID}", roles_),
    (f"roles/{ID}/composites", composites_),
    (f"roles/{ID}/composites/clients/{ID}", composites_),
    ("groups", groups_),
    (f"groups/{ID}", group_),
    (f"groups/{ID}/children", groups_),
    ("group-by-path/(.+)", group_by_path_),
    ("clients", clients_),
    (f"clients/{ID}", client_),
    (f"clients/{ID}/service-account-user", service_account_),
    (f"clients/{ID}/roles/{ID}", client_roles_),
    (f"clients/{ID}/(default|optional)-client-scopes/{ID}", client_scopes_),
    (f"clients/{ID}/protocol-mappers/models", mappers_),
    (f"clients/{ID}/protocol-mappers/models/{ID}", mappers_),
    (f"clients/{ID}/scope-mappings/realm", client_role_scope_),
    ("client-scopes", scopes_),
    ("logout-all", logout_all_),
    ("users/profile", profile_),
    ("users", users_),
    (f"users/{ID}", user_),
    (f"users/{ID}/reset-password", password_),
    (f"users/{ID}/logout", user_logout_),
    (f"users/{ID}/groups", user_groups_),
    (f"users/{ID}/groups/{ID}", user_groups_),
    (f"users/{ID}/role-mappings/realm", user_roles_),
]
