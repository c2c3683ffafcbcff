"""Guessing passwords: few are passed on from one address for one name. That shuts nobody out who is somewhere else."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import replace

import pytest
from keycloak_admin import ask_keycloak
from platform_client import Platform, User

MOST_WRONG = 5


@pytest.fixture
def victim(platform: Platform) -> Iterator[tuple[User, str]]:
    """A user with a password, and their id."""
    user = User(f"victim-{secrets.token_hex(4)}", secrets.token_urlsafe(18), (), ())
    body = {
        "username": user.username, "email": f"{user.username}@example.org", "firstName": "A", "lastName": "Victim",
        "enabled": True, "credentials": [{"type": "password", "value": user.password, "temporary": False}],
    }  # fmt: skip
    key = ask_keycloak(platform, "POST", "imaging/users", body)[1].rsplit("/", 1)[1]
    yield user, key
    ask_keycloak(platform, "DELETE", f"imaging/users/{key}")


def outcome(platform: Platform, user: User) -> int:
    """The status that the login ends with: 302 lets in, 200 is the form again, 429 nginx's refusal."""
    try:
        platform.login(user)
    except AssertionError as error:
        return int(str(error).rpartition(": ")[2])
    return 302


def test_a_right_password_forgets_wrong_ones(platform: Platform, victim: tuple[User, str]) -> None:
    user, _ = victim
    for number in range(MOST_WRONG - 1):
        assert outcome(platform, replace(user, password=f"wrong-{number}")) == 200
    assert outcome(platform, user) == 302, "as fast as they go, they shut nobody out"
    assert outcome(platform, replace(user, password="wrong")) == 200
    assert outcome(platform, user) == 302


def test_few_wrong_passwords_for_one_name_are_passed_on(platform: Platform, victim: tuple[User, str]) -> None:
    user, key = victim
    session = platform.login(user)["refresh_token"]
    for number in range(MOST_WRONG):
        spelt = user.username.upper() if number % 2 else f" {user.username}"
        assert outcome(platform, replace(user, username=spelt, password=f"wrong-{number}")) == 200
    assert outcome(platform, user) == 429

    known = json.loads(ask_keycloak(platform, "GET", f"imaging/attack-detection/brute-force/users/{key}")[0])
    assert known["numFailures"] == MOST_WRONG
    assert not known["disabled"], "from anywhere else the owner gets in"
    assert outcome(platform, platform.user("physician", "denscan-central")) == 302, "others here do, too"
    form = {"grant_type": "refresh_token", "client_id": "ohif", "refresh_token": session}
    renewed = platform.session().post(f"{platform.realm_url}/protocol/openid-connect/token", data=form, timeout=30)
    assert renewed.status_code == 200, "who is logged in notices nothing"
