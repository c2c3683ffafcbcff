"""A login through the real Keycloak gives the token of docs/ARCHITECTURE.md, and no more power than it names."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qs, urlencode, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import pytest
from desk import PASSWORD, Desk
from second_factor import Phones, answer_to, asked_by
from support import DOMAIN, declared_realm

CALLBACK = f"https://{DOMAIN}/callback"
# A token goes with each of a viewer's hundred requests: it must stay small.
TOKEN_BYTES = 1300


class Stay(HTTPRedirectHandler):
    """Shows redirects instead of following them: they lead to the public name."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


class Browser:
    """As much of a browser as the login page needs, coming through nginx."""

    def __init__(self, url: str, realm: str, phones: Phones) -> None:
        self.url = url
        self.phones = phones
        self.realm = f"{url}/realms/{realm}/protocol/openid-connect"
        self.cookies: dict[str, str] = {}
        self.opener = build_opener(Stay)

    def ask(
        self, url: str, form: dict[str, str] | None = None, body: Any = None, **headers: str
    ) -> tuple[int, dict[str, str], str]:
        url = re.sub(r"^https://[^/]+/auth", self.url, url)
        data = json.dumps(body) if body is not None else urlencode(form) if form is not None else None
        request = Request(url, data=data and data.encode(), headers=headers)
        request.add_header("X-Forwarded-Proto", "https")
        request.add_header("Cookie", "; ".join(f"{name}={value}" for name, value in self.cookies.items()))
        try:
            answer = self.opener.open(request, timeout=30)
        except HTTPError as error:
            answer = error
        for cookie in answer.headers.get_all("Set-Cookie", []):
            name, _, value = cookie.split(";")[0].partition("=")
            self.cookies[name] = value
        return answer.status, dict(answer.headers), answer.read().decode()

    def code(
        self, username: str, client: str, redirect: str, password: str = PASSWORD, **other: str
    ) -> tuple[dict[str, list[str]], str, str]:
        """Log in; the query of the redirect, the verifier, and the page when there is no redirect."""
        verifier = secrets.token_urlsafe(48)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        query = {
            "client_id": client,
            "redirect_uri": redirect,
            "response_type": "code",
            "scope": "openid",
            "code_challenge": challenge,
            "code_challenge_method": "S256",
            **other,
        }
        status, headers, page = self.ask(f"{self.realm}/auth?{urlencode({k: v for k, v in query.items() if v})}")
        if status == 200:
            action = re.search(r'action="([^"]+)"', page)
            assert action, page
            _, headers, page = self.ask(html.unescape(action[1]), {"username": username, "password": password})
            if "execution=CONFIGURE_TOTP" in headers.get("Location", ""):
                _, headers, page = self.ask(headers["Location"])
            if asked := answer_to(page, username, self.phones):
                _, headers, page = self.ask(*asked)
        returned = urlsplit(headers.get("Location", ""))
        return parse_qs(returned.query or returned.fragment), verifier, page

    def tokens(self, username: str, client: str = "ohif", redirect: str = CALLBACK) -> dict[str, str]:
        answer, verifier, page = self.code(username, client, redirect)
        assert "code" in answer, (answer, page)
        form = {
            "grant_type": "authorization_code",
            "client_id": client,
            "redirect_uri": redirect,
            "code": answer["code"][0],
            "code_verifier": verifier,
        }
        _, _, content = self.ask(f"{self.realm}/token", form)
        tokens: dict[str, str] = json.loads(content)
        return tokens

    def token(self, username: str, client: str = "ohif", redirect: str = CALLBACK) -> str:
        return self.tokens(username, client, redirect)["access_token"]

    def renew(self, refresh_token: str) -> tuple[int, dict[str, str]]:
        form = {"grant_type": "refresh_token", "client_id": "ohif", "refresh_token": refresh_token}
        status, _, content = self.ask(f"{self.realm}/token", form)
        answer: dict[str, str] = json.loads(content)
        return status, answer


def claims(token: str) -> dict[str, Any]:
    payload = token.split(".")[1]
    decoded: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return decoded


@pytest.fixture
def browser(desk: Desk, tmp_path: Path) -> Browser:
    return Browser(desk.server.url, desk.realm_name, Phones(tmp_path / "phones.json"))


def test_a_token_says_which_clinics_and_roles_and_for_whom_it_is(desk: Desk, browser: Browser, person: Any) -> None:
    desk.users({**person, "clinics": ["denscan-central", "denscan-almaty"], "temporary": False})

    token = browser.token(person["username"])

    said = claims(token)
    assert sorted(said["groups"]) == ["/clinics/denscan-almaty", "/clinics/denscan-central"]
    assert said["realm_access"] == {"roles": ["physician"]}
    assert said["aud"] == "imaging-gateway"
    assert said["iss"].endswith(f"/auth/realms/{desk.realm_name}")
    assert said["typ"] == "Bearer"
    assert said["azp"] == "ohif"
    assert said["preferred_username"] == person["username"]
    assert {"sub", "sid"} <= set(said)
    assert said["exp"] - said["iat"] == 300
    assert "resource_access" not in said
    assert len(token) < TOKEN_BYTES


def test_an_administrators_token_from_the_viewer_does_not_open_the_admin_api(
    desk: Desk, browser: Browser, person: Any
) -> None:
    desk.users({**person, "roles": ["admin"], "temporary": False})
    users = f"{browser.url}/admin/realms/{desk.realm_name}/users"

    token = browser.token(person["username"])
    assert claims(token)["realm_access"] == {"roles": ["admin"]}
    assert browser.ask(users, Authorization=f"Bearer {token}")[0] == 403

    console = f"{desk.issuer}/auth/admin/{desk.realm_name}/console/"
    console_browser = Browser(browser.url, desk.realm_name, browser.phones)
    token = console_browser.token(person["username"], "security-admin-console", console)
    assert browser.ask(users, Authorization=f"Bearer {token}")[0] == 200
    providers = f"{browser.url}/admin/realms/{desk.realm_name}/identity-provider/instances"
    assert browser.ask(providers, Authorization=f"Bearer {token}")[0] == 403


def test_a_physician_cannot_use_the_console(desk: Desk, browser: Browser, person: Any) -> None:
    desk.users({**person, "temporary": False})
    console = f"{desk.issuer}/auth/admin/{desk.realm_name}/console/"

    token = browser.token(person["username"], "security-admin-console", console)

    users = f"{browser.url}/admin/realms/{desk.realm_name}/users"
    assert browser.ask(users, Authorization=f"Bearer {token}")[0] == 403


@pytest.mark.parametrize(
    ("changed", "refusal"),
    [
        ({"code_challenge": ""}, "Missing parameter"),
        ({"code_challenge_method": "plain"}, "Invalid parameter"),
        ({"response_type": "token"}, "not allowed to initiate browser login with given response_type"),
    ],
)
def test_the_viewers_client_takes_nothing_but_a_code_with_pkce(
    desk: Desk, browser: Browser, changed: dict[str, str], refusal: str
) -> None:
    answer, _, page = browser.code("nobody", "ohif", CALLBACK, **changed)

    assert "code" not in answer
    assert refusal in (answer.get("error_description", [""])[0] or page), (answer, page)


def test_another_address_to_return_to_is_refused(desk: Desk, browser: Browser) -> None:
    _, _, page = browser.code("nobody", "ohif", f"https://{DOMAIN}/callback/../other")

    assert "Invalid parameter: redirect_uri" in page


def test_the_password_grant_is_closed(desk: Desk, browser: Browser, person: Any) -> None:
    desk.users({**person, "temporary": False})
    form = {"grant_type": "password", "client_id": "ohif", "username": person["username"], "password": PASSWORD}

    status, _, content = browser.ask(f"{browser.realm}/token", form)

    assert (status, json.loads(content)["error"]) == (400, "unauthorized_client")


def test_a_temporary_password_must_be_changed_before_anything_is_seen(
    desk: Desk, browser: Browser, person: Any
) -> None:
    desk.users(person)

    answer, _, _ = browser.code(person["username"], "ohif", CALLBACK)

    assert "code" not in answer
    assert answer["execution"] == ["UPDATE_PASSWORD"]


def test_the_events_keycloak_keeps_do_not_hold_passwords(desk: Desk, person: Any) -> None:
    desk.users(person)
    desk.account(person["username"], "reset-password", password=PASSWORD)

    events = json.dumps(desk.api.get("/admin-events", max="200"))

    assert person["username"] in events
    assert PASSWORD not in events


@pytest.mark.parametrize(
    ("asked", "roles"),
    [(["admin"], ["admin"]), (["*"], ["physician"])],
)
def test_who_must_have_a_second_factor_sets_it_up_before_the_login_ends(
    desk: Desk, browser: Browser, person: Any, asked: list[str], roles: list[str]
) -> None:
    desk.users({**person, "roles": roles, "temporary": False})
    desk.realm(second_factor_roles=asked)
    try:
        token = browser.token(person["username"])
        assert claims(token)["realm_access"] == {"roles": roles}
        another = Browser(browser.url, desk.realm_name, Phones(browser.phones.path.with_name("nothing.json")))
        with pytest.raises(AssertionError, match="is asked for a code"):
            another.token(person["username"])
    finally:
        desk.realm(second_factor_roles=["admin", "user-manager"])


def test_where_nobody_must_an_administrator_may_go_without(desk: Desk, browser: Browser, person: Any) -> None:
    desk.users({**person, "roles": ["admin"], "temporary": False})
    desk.realm(second_factor_roles=[])
    try:
        assert browser.token(person["username"])
        assert not browser.phones.path.exists(), "a phone was asked for"
    finally:
        desk.realm(second_factor_roles=["admin", "user-manager"])


# --- who manages users reads no secret ---------------------------------------------------------------------------


def test_who_manages_users_sees_no_secret_of_any_client(desk: Desk, browser: Browser, person: Any) -> None:
    secret = f"secret-of-a-client-{secrets.token_hex(8)}"
    grafana = {"client_id": "grafana", "secret": secret, "redirect_uris": [f"https://{DOMAIN}/grafana/login"]}
    declared = declared_realm()
    for _ in "made", "changed":  # each is an event that administrators read
        desk.realm(**{**declared, "clients": [*declared["clients"], {**grafana, "name": secrets.token_hex(4)}]})
    software = {"client_id": f"ris-{secrets.token_hex(4)}", "clinic": "denscan-central", "roles": ["physician"]}
    desk.software(**software, secret=secret)
    desk.users({**person, "roles": ["admin"], "temporary": False})
    console = f"{desk.issuer}/auth/admin/{desk.realm_name}/console/"
    token = browser.token(person["username"], "security-admin-console", console)

    def ask(path: str, body: Any = None) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        status, _, content = browser.ask(f"{browser.url}/admin/realms/{desk.realm_name}{path}", body=body, **headers)
        return status, content

    identities = [desk.client(one)["id"] for one in ("grafana", software["client_id"])]
    of_clients = [
        f"/clients/{one}{path}"
        for one in identities
        for path in (
            "",
            "/client-secret",
            "/client-secret/rotated",
            "/installation/providers/keycloak-oidc-keycloak-json",
        )
    ]
    for path in ("/clients", "/clients?clientId=grafana", *of_clients):
        assert ask(path)[0] == 403, path
    for path in (f"/clients/{identities[0]}/client-secret", "/partial-export?exportClients=true"):
        assert ask(path, {})[0] == 403, path
    everything = ("", "/admin-events?max=1000", "/events?max=1000", "/components", "/users?max=1000", "/roles", "/keys")
    for path in everything:
        status, content = ask(path)
        assert (status, secret in content) == (200, False), path


def test_who_manages_users_can_do_in_the_console_what_it_takes(desk: Desk, browser: Browser, person: Any) -> None:
    other = {**person, "username": f"{person['username']}.2", "email": f"2.{person['email']}", "temporary": False}
    desk.users({**person, "roles": ["admin"], "temporary": False}, other)
    console = f"{desk.issuer}/auth/admin/{desk.realm_name}/console/"
    token = browser.token(person["username"], "security-admin-console", console)
    user = f"/users/{desk.user(other['username'])['id']}"

    def ask(path: str, body: Any = None) -> int:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        return browser.ask(f"{browser.url}/admin/realms/{desk.realm_name}{path}", body=body, **headers)[0]

    for path in ("/users", user, f"{user}/groups", f"{user}/role-mappings", f"{user}/sessions", "/groups", "/events",
                 "/users/profile", f"{user}/role-mappings/realm/available", "/authentication/required-actions",
                 f"/attack-detection/brute-force{user}"):  # fmt: skip
        assert ask(path) == 200, path
    assert ask(f"{user}/role-mappings/realm", [desk.api.get("/roles/technician")]) == 204
    assert ask(f"{user}/logout", {}) == 204
    assert ask("/users", {"username": f"{other['username']}.3", "enabled": True}) == 201
    assert desk.roles_of(other["username"]) == {"physician", "technician"}


# --- sessions ------------------------------------------------------------------------------------------------------


def test_tabs_renew_side_by_side_and_none_ends_another(desk: Desk, browser: Browser, person: Any) -> None:
    desk.users({**person, "temporary": False})
    tabs = [browser.tokens(person["username"]) for _ in range(3)]
    assert len({claims(tab["access_token"])["sid"] for tab in tabs}) == 1, "they are one session"

    for _ in range(3):
        with ThreadPoolExecutor(3) as together:
            renewed = list(together.map(browser.renew, [tab["refresh_token"] for tab in tabs]))
        assert [status for status, _ in renewed] == [200, 200, 200], renewed
        tabs = [answer for _, answer in renewed]


def test_a_refresh_token_is_good_once_and_who_uses_it_again_ends_the_line(
    desk: Desk, browser: Browser, person: Any
) -> None:
    desk.users({**person, "temporary": False})
    stolen = browser.tokens(person["username"])["refresh_token"]
    status, renewed = browser.renew(stolen)
    assert status == 200

    status, answer = browser.renew(stolen)

    assert (status, answer["error"]) == (400, "invalid_grant")
    # Nobody can tell the thief from the owner: the newest token ends as well.
    assert browser.renew(renewed["refresh_token"])[0] == 400
    # The owner's browser still knows the owner; the thief has no cookie.
    assert browser.tokens(person["username"])["access_token"]


# --- guessing ------------------------------------------------------------------------------------------------------


def lets_in(browser: Browser, username: str, password: str) -> bool:
    return (
        "code"
        in Browser.code(
            Browser(browser.url, browser.realm.split("/")[-3], browser.phones), username, "ohif", CALLBACK, password
        )[0]
    )


def test_wrong_passwords_pause_an_account_for_seconds_and_end_no_session(
    desk: Desk, browser: Browser, person: Any
) -> None:
    desk.users({**person, "temporary": False})
    name = person["username"]
    session = browser.tokens(name)
    for number in range(9):  # as fast as they go
        assert not lets_in(browser, name, f"wrong-{number}")
    assert lets_in(browser, name, PASSWORD), "nine wrong ones shut nobody out"

    for number in range(10):
        assert not lets_in(browser, name, f"wrong-{number}")
    assert not lets_in(browser, name, PASSWORD)
    assert browser.renew(session["refresh_token"])[0] == 200, "who is in stays in"
    time.sleep(6)
    assert not lets_in(browser, name, "one more")
    assert not lets_in(browser, name, PASSWORD), "each further one pauses it again"
    time.sleep(6)
    assert lets_in(browser, name, PASSWORD)
    status = desk.api.get(f"/attack-detection/brute-force/users/{desk.user(name)['id']}")
    assert status["numFailures"] == 0, "a login makes up for all"


def test_codes_of_the_second_factor_are_not_guessed_at_the_pace_of_passwords(
    desk: Desk, browser: Browser, person: Any
) -> None:
    """An attacker who tries codes has the password already. After thirty wrong ones only an administrator helps."""
    desk.users({**person, "roles": ["admin"], "temporary": False})
    name = person["username"]
    browser.token(name)
    allowed = desk.api.get("")["maxSecondaryAuthFailures"]
    assert allowed == 30
    desk.realm(settings={"maxSecondaryAuthFailures": 2})
    try:
        for number in range(3):
            guesser = Browser(browser.url, desk.realm_name, browser.phones)
            form = code_form(guesser, name)
            assert form, number
            guesser.ask(form, {"otp": "000000"})
        assert code_form(Browser(browser.url, desk.realm_name, browser.phones), name) is None
        assert not desk.user(name)["enabled"]
        desk.account(name, "enable")
        assert code_form(Browser(browser.url, desk.realm_name, browser.phones), name)
    finally:
        desk.realm(settings={"maxSecondaryAuthFailures": allowed})


def code_form(browser: Browser, username: str) -> str | None:
    """Where the form for the code goes, after the right password."""
    query = {"client_id": "ohif", "redirect_uri": CALLBACK, "response_type": "code", "scope": "openid",
             "code_challenge": "a" * 43, "code_challenge_method": "S256"}  # fmt: skip
    _, _, page = browser.ask(f"{browser.realm}/auth?{urlencode(query)}")
    action = re.search(r'action="([^"]+)"', page)
    assert action, page
    _, _, page = browser.ask(html.unescape(action[1]), {"username": username, "password": PASSWORD})
    form = asked_by(page)
    return form[1] if form else None
