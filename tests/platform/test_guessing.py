"""Guessing passwords: Keycloak alone pauses an account, for seconds, and nobody else's."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from keycloak_admin import ask_keycloak
from platform_client import Platform, User

WRONG_IN_A_ROW = 10
PAUSE_SECONDS = 5


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


def test_an_account_whose_password_is_guessed_pauses_for_seconds(platform: Platform, victim: tuple[User, str]) -> None:
    user, key = victim
    session = platform.login(user)["refresh_token"]
    for number in range(WRONG_IN_A_ROW - 1):
        assert refused(platform, replace(user, password=f"wrong-{number}"))
    assert not refused(platform, user), "nine in a row, as fast as they go, shut nobody out"
    for number in range(WRONG_IN_A_ROW):
        assert refused(platform, replace(user, password=f"wrong-{number}"))
    assert refused(platform, user)

    assert not refused(platform, platform.user("physician", "denscan-central"))
    assert json.loads(ask_keycloak(platform, "GET", f"imaging/users/{key}")[0])["enabled"]
    form = {"grant_type": "refresh_token", "client_id": "ohif", "refresh_token": session}
    renewed = platform.session().post(f"{platform.realm_url}/protocol/openid-connect/token", data=form, timeout=30)
    assert renewed.status_code == 200, "who is logged in notices nothing"

    time.sleep(PAUSE_SECONDS + 1)
    assert not refused(platform, user), "nobody has to unlock it"
