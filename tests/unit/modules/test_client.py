"""Facts that only the fake can show: how often the modules ask Keycloak, and with which requests."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from ansible.module_utils.imaging import flows
from ansible.module_utils.imaging import registry as registry_utils
from desk import Desk
from fake_keycloak import FakeKeycloak
from support import IMPLIED_ROLES, ROOT, declared_realm


def writes(fake: FakeKeycloak) -> list[str]:
    return [f"{method} {path}" for method, path, _ in fake.requests if method != "GET"]


def test_nothing_is_written_when_all_is_as_declared(desk: Desk, fake: FakeKeycloak, person: dict[str, Any]) -> None:
    desk.realm(**declared_realm())
    desk.users(person)
    fake.requests.clear()

    desk.realm(**declared_realm())
    desk.users(person)

    assert fake.requests
    assert writes(fake) == []


def test_check_mode_writes_nothing(desk: Desk, fake: FakeKeycloak, person: dict[str, Any]) -> None:
    fake.requests.clear()

    desk.users(person, check=True)
    desk.clinics({"id": "new-clinic", "name": "New"}, check=True)
    desk.realm(settings={"failureFactor": 3}, check=True)

    assert writes(fake) == []


def test_everybody_is_logged_out_by_one_request(desk: Desk, fake: FakeKeycloak) -> None:
    fake.requests.clear()
    predicted = desk.account(None, "logout-all", check=True)
    assert writes(fake) == []

    done = desk.account(None, "logout-all")

    assert done.changed
    assert done.diff == predicted.diff
    assert [write.rpartition("/")[2] for write in writes(fake)] == ["logout-all"]


def test_thirteen_users_share_one_token(desk: Desk, fake: FakeKeycloak, person: dict[str, Any]) -> None:
    users = [{**person, "username": f"u-{person['username']}-{n}", "email": f"{n}{person['email']}"} for n in range(13)]
    fake.tokens.clear()

    desk.users(*users)

    assert len(fake.tokens) == 1


def test_a_token_that_is_about_to_end_is_replaced(
    desk: Desk, fake: FakeKeycloak, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr("ansible.module_utils.imaging.keycloak.time.monotonic", lambda: clock[0])
    fake.tokens.clear()
    desk.api.get("")
    first = set(fake.tokens)

    clock[0] += 49
    desk.api.get("")
    assert fake.tokens == first

    clock[0] += 2
    desk.api.get("")
    assert len(fake.tokens) == 2


def test_a_user_is_created_without_groups_because_an_unknown_one_breaks_keycloak(
    desk: Desk, fake: FakeKeycloak, person: dict[str, Any]
) -> None:
    fake.requests.clear()

    desk.users(person)

    created = next(body for method, path, body in fake.requests if method == "POST" and path.endswith("/users"))
    assert "groups" not in created


def test_a_client_is_never_written_with_the_secret_masked(empty: Desk, fake: FakeKeycloak) -> None:
    client = {"client_id": "grafana", "secret": "Grafana-secret", "redirect_uris": ["https://a/login"]}
    empty.realm(clients=[client])
    fake.requests.clear()

    empty.realm(clients=[{**client, "name": "Grafana"}])

    written = [body for method, path, body in fake.requests if method == "PUT" and re.search(r"/clients/[^/]+$", path)]
    assert written
    assert {body.get("secret", "Grafana-secret") for body in written} == {"Grafana-secret"}


def test_a_login_flow_that_keycloak_did_not_keep_does_not_take_the_place_of_the_one_before(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = desk.api.get("")["browserFlow"]
    build = flows._build
    monkeypatch.setattr(flows, "_build", lambda keycloak, alias, steps: build(keycloak, alias, steps[:1]))

    outcome = desk.realm(second_factor_roles=["admin"], groups=["clinics"])

    assert "Keycloak did not keep the login flow as it was built, so the one of before stays" in outcome.result["msg"]
    assert desk.api.get("")["browserFlow"] == before


def test_a_registry_that_refuses_is_named_without_its_password(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        Error = RuntimeError

        @staticmethod
        def connect(**arguments: object) -> None:
            raise RuntimeError("password authentication failed")

    monkeypatch.undo()
    monkeypatch.setattr(registry_utils, "psycopg", Refusing)

    outcome = desk.clinics({"id": "denscan", "name": "DenScan"})

    assert "The registry 'registry' on 127.0.0.1 refuses 'registry_operator'" in outcome.result["msg"]
    assert "registry-secret-5d" not in outcome.printed


def test_without_the_library_of_postgresql_the_package_is_named(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(registry_utils, "psycopg", None)

    assert "apt-get install python3-psycopg" in desk.clinics({"id": "denscan", "name": "DenScan"}).result["msg"]


def test_the_implied_roles_of_the_specification_are_those_of_the_role() -> None:
    variables = yaml.safe_load((ROOT / "roles/identity/vars/main.yml").read_text())
    assert variables["__identity_implied_roles"] == IMPLIED_ROLES
