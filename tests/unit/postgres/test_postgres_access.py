"""The module postgres_access plans exactly the statements that close the gap, and tells no secret."""

from __future__ import annotations

from typing import Any

import pytest
from loading import load
from project import ROOT

SOURCE = ROOT / "roles/postgres/library/postgres_access.py"
PASSWORD = "specification"
# As PostgreSQL 17 stored it after ALTER ROLE … PASSWORD 'specification'.
VERIFIER = (
    "SCRAM-SHA-256$4096:NsDje+Pboz/6Qr3VwglvhQ==$LB8M+/Vo4H13ydiKxN3cKBSb4a9G66ih9dFn35ejcDc=:"
    "XnZPil3BOFj2Zlr2loeeH4RDpnqBmsZmtMNlbEHP5/4="
)


access = load(SOURCE)


def role(**changes: Any) -> dict[str, Any]:
    return {"name": "registry_gateway", "login": True, "password": PASSWORD, "member_of": [], **changes}


def stored_role(**changes: Any) -> dict[str, Any]:
    powers = dict.fromkeys(access.FORBIDDEN, False)
    return {"rolcanlogin": True, "rolpassword": VERIFIER, "member_of": [], **powers, **changes}


def database(**changes: Any) -> dict[str, Any]:
    return {"name": "registry", "owner": "registry_owner", "connect": ["registry_gateway"], **changes}


def stored_database(*grants: tuple[str, str], owner: str = "registry_owner") -> dict[str, Any]:
    return {"owner": owner, "grants": [{"grantee": grantee, "privilege": privilege} for grantee, privilege in grants]}


def statements(actions: list[Any]) -> list[str]:
    return [action.statement.as_string(None) for action in actions]


def test_a_password_is_recognised_in_the_verifier_that_postgresql_stores() -> None:
    assert access.matches_verifier(PASSWORD, VERIFIER)


@pytest.mark.parametrize(
    "verifier", [None, "", "md5c5f0d6b8a7e4a3f5e0a1c2d3e4f5a6b7", VERIFIER.replace("LB8M", "LB8N")]
)
def test_another_verifier_or_an_old_md5_one_is_not_recognised(verifier: str | None) -> None:
    assert not access.matches_verifier(PASSWORD, verifier)


def test_a_role_and_a_database_as_wanted_need_no_statement() -> None:
    assert access.plan_role(role(), stored_role(), "new verifier") == []
    assert access.plan_database(database(), stored_database(("registry_gateway", "CONNECT"))) == []


def test_a_missing_role_is_created_with_its_verifier_never_its_password() -> None:
    assert statements(access.plan_role(role(), None, VERIFIER)) == [
        f"CREATE ROLE \"registry_gateway\" LOGIN PASSWORD '{VERIFIER}'"
    ]


def test_a_missing_owner_that_must_not_log_in_is_created_without_login_or_password() -> None:
    assert statements(access.plan_role(role(login=False, password=None), None, None)) == [
        'CREATE ROLE "registry_gateway" NOLOGIN PASSWORD NULL'
    ]


def test_a_changed_password_is_set_and_one_no_longer_wanted_removed() -> None:
    (changed,) = statements(access.plan_role(role(password="another"), stored_role(), "new verifier"))
    assert changed == "ALTER ROLE \"registry_gateway\" PASSWORD 'new verifier'"
    (removed,) = statements(access.plan_role(role(password=None), stored_role(), None))
    assert removed == 'ALTER ROLE "registry_gateway" PASSWORD NULL'


@pytest.mark.parametrize(("column", "word"), access.FORBIDDEN.items())
def test_powers_that_no_service_needs_are_taken_away(column: str, word: str) -> None:
    assert statements(access.plan_role(role(), stored_role(**{column: True}), VERIFIER)) == [
        f'ALTER ROLE "registry_gateway" NO{word}'
    ]


def test_a_role_is_a_member_of_exactly_the_roles_named() -> None:
    wanted = role(name="monitoring", password=None, member_of=["pg_monitor"])
    assert statements(access.plan_role(wanted, None, None)) == [
        'CREATE ROLE "monitoring" LOGIN PASSWORD NULL',
        'GRANT "pg_monitor" TO "monitoring"',
    ]
    stored = stored_role(rolpassword=None, member_of=["pg_read_all_data"])
    assert statements(access.plan_role(wanted, stored, None)) == [
        'REVOKE "pg_read_all_data" FROM "monitoring"',
        'GRANT "pg_monitor" TO "monitoring"',
    ]


def test_a_new_database_is_closed_to_everybody_but_those_named() -> None:
    assert statements(access.plan_database(database(), None)) == [
        'CREATE DATABASE "registry" OWNER "registry_owner"',
        'REVOKE CONNECT ON DATABASE "registry" FROM PUBLIC',
        'REVOKE TEMPORARY ON DATABASE "registry" FROM PUBLIC',
        'GRANT CONNECT ON DATABASE "registry" TO "registry_gateway"',
    ]


def test_who_is_no_longer_named_may_no_longer_connect() -> None:
    stored = stored_database(("registry_gateway", "CONNECT"), ("former", "CONNECT"), ("former", "CREATE"))
    assert statements(access.plan_database(database(), stored)) == [
        'REVOKE CONNECT ON DATABASE "registry" FROM "former"',
        'REVOKE CREATE ON DATABASE "registry" FROM "former"',
    ]


def test_a_database_of_another_owner_is_handed_over() -> None:
    stored = stored_database(("registry_gateway", "CONNECT"), owner="postgres")
    assert statements(access.plan_database(database(), stored)) == [
        'ALTER DATABASE "registry" OWNER TO "registry_owner"'
    ]


def test_what_people_are_told_contains_no_password_and_no_verifier() -> None:
    actions = access.plan_role(role(), None, VERIFIER) + access.plan_role(
        role(password="another"), stored_role(), VERIFIER
    )
    told = " ".join(action.told for action in actions)
    assert told == "create role registry_gateway set the password of role registry_gateway"


def test_a_hostile_name_stays_a_name() -> None:
    (statement,) = statements(access.plan_role(role(name='x"; DROP ROLE y; --', password=None), None, None))
    assert statement == 'CREATE ROLE "x""; DROP ROLE y; --" LOGIN PASSWORD NULL'


def test_a_misspelt_role_is_named_before_anything_is_done() -> None:
    assert access.find_mistakes([role()], [database(owner="registry_gateway", connect=["registry_gatewy"])]) == [
        "database registry names the role registry_gatewy, which is not in the list of roles"
    ]


def test_a_password_that_would_need_normalising_is_refused() -> None:
    assert access.find_mistakes([role(password="пароль")], []) == [
        "the password of role registry_gateway must be printable ASCII and not empty"
    ]
