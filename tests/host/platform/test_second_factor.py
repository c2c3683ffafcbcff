"""Administrators log in with a one-time password too: whichever client they come by, from their first login on."""

from __future__ import annotations

import json
import secrets
from functools import partial

import platform_client
import pytest
import requests
from keycloak_admin import ask_keycloak, user_id
from platform_client import Platform, User
from second_factor import ASKED, SET_UP, asked_by

CLINIC = "denscan-central"
SOME_CODE = {"otp": "000000"}

make = partial(platform_client.make, timeout=120)


def added(platform: Platform, username: str, role: str) -> User:
    """Somebody with a password of their own, as after the first login."""
    email = f"{username}@example.org"
    done = make("add-user", f"USERNAME={username}", f"EMAIL={email}", f"CLINIC={CLINIC}", f"ROLE={role}")
    assert done.returncode == 0, done.stdout[-2000:]
    user = User(username, secrets.token_urlsafe(24), (role,), (CLINIC,))
    path = f"imaging/users/{user_id(platform, username)}"
    names = {"firstName": "Second", "lastName": "Factor", "email": email, "enabled": True, "requiredActions": []}
    ask_keycloak(platform, "PUT", path, names)
    own = {"type": "password", "value": user.password, "temporary": False}
    ask_keycloak(platform, "PUT", f"{path}/reset-password", own)
    return user


@pytest.fixture(scope="module")
def admin(platform: Platform):
    yield added(platform, "second.admin", "admin")
    make("remove-user", "USERNAME=second.admin")


@pytest.fixture(scope="module")
def physician(platform: Platform):
    yield added(platform, "second.physician", "physician")
    make("remove-user", "USERNAME=second.physician")


def after_password(
    platform: Platform, user: User, client: str = "ohif", page: str = "/callback"
) -> tuple[requests.Session, requests.Response]:
    session = platform.session()
    return session, platform.give_password(session, user, client, page, secrets.token_urlsafe(48))


def second_factor_of(username: str) -> object:
    (user,) = [one for one in json.loads(make("list-users", "FORMAT=json").stdout) if one["username"] == username]
    return user["second_factor"]


@pytest.mark.parametrize(
    ("client", "page"),
    [
        ("ohif", "/callback"),
        ("pages", "/audit"),
        ("grafana", "/grafana/login/generic_oauth"),
        ("account-console", "/auth/realms/imaging/account/"),
        ("security-admin-console", "/auth/admin/imaging/console/"),
    ],
)
def test_the_password_alone_lets_no_administrator_in(platform: Platform, admin: User, client: str, page: str) -> None:
    session, answer = after_password(platform, admin, client, page)

    assert f'id="{SET_UP}"' in answer.text
    assert "Location" not in answer.headers
    query = {"client_id": "ohif", "response_type": "code", "scope": "openid", "prompt": "none"}
    query |= {"redirect_uri": f"{platform.url}/callback", "code_challenge": "a" * 43, "code_challenge_method": "S256"}
    silent = session.get(f"{platform.realm_url}/protocol/openid-connect/auth", params=query, allow_redirects=False)
    assert "error=login_required" in silent.headers["Location"], "the half of a login is a session"


def test_what_an_administrator_set_up_is_asked_for_and_each_code_is_good_once(platform: Platform, admin: User) -> None:
    platform.login(admin)
    assert second_factor_of(admin.username) is True

    code = {"otp": platform.phones.code(admin.username)}
    for sent, lets_in in ((SOME_CODE, False), (code, True), (code, False)):
        session, page = after_password(platform, admin)
        form = asked_by(page.text)
        assert form
        assert form[0] == ASKED
        answer = platform.send(session, form[1], sent)
        assert ("code=" in answer.headers.get("Location", "")) == lets_in, sent
        assert lets_in or asked_by(answer.text), "it is not asked for again"


def test_a_lost_phone_is_reset_and_ends_the_sessions(platform: Platform, admin: User) -> None:
    tokens = platform.login(admin)

    reset = make("reset-totp", f"USERNAME={admin.username}")

    assert reset.returncode == 0, reset.stdout[-2000:]
    form = {"grant_type": "refresh_token", "client_id": "ohif", "refresh_token": tokens["refresh_token"]}
    renewed = platform.session().post(f"{platform.realm_url}/protocol/openid-connect/token", data=form, timeout=30)
    assert renewed.status_code == 400
    assert second_factor_of(admin.username) is False
    assert f'id="{SET_UP}"' in after_password(platform, admin)[1].text


def test_others_are_asked_only_if_it_is_required_of_them(platform: Platform, physician: User) -> None:
    assert "code=" in after_password(platform, physician)[1].headers["Location"]

    required = make("require-totp", f"USERNAME={physician.username}")

    assert required.returncode == 0, required.stdout[-2000:]
    assert f'id="{SET_UP}"' in after_password(platform, physician)[1].text
    platform.login(physician)
    assert f'id="{ASKED}"' in after_password(platform, physician)[1].text
    assert "code=" in after_password(platform, platform.user("physician", CLINIC))[1].headers["Location"]
