"""Guessing passwords: Keycloak alone locks an account, for a while, and nobody else's."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import replace

import pytest
from keycloak_admin import ask_keycloak
from platform_client import Platform, User

WRONG_IN_A_ROW = 10


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


def refused(platform: Platform, user: User) -> bool:
    try:
        platform.login(user)
    except AssertionError as error:
        # 200 is the login page again, and not the front door's 429.
        return str(error).endswith("was not let in: 200")
    return False


def test_an_account_whose_password_is_guessed_is_locked_for_a_while(
    platform: Platform, victim: tuple[User, str]
) -> None:
    user, key = victim
    assert refused(platform, replace(user, password="wrong"))
    assert not refused(platform, user)
    for number in range(WRONG_IN_A_ROW):
        assert refused(platform, replace(user, password=f"wrong-{number}"))
    assert refused(platform, user)

    status = json.loads(ask_keycloak(platform, "GET", f"imaging/attack-detection/brute-force/users/{key}")[0])
    assert status["disabled"]
    assert json.loads(ask_keycloak(platform, "GET", f"imaging/users/{key}")[0])["enabled"]  # locked, not shut out
    assert not refused(platform, platform.user("physician", "denscan-central"))

    ask_keycloak(platform, "DELETE", f"imaging/attack-detection/brute-force/users/{key}")
    assert not refused(platform, user)
