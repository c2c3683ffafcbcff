"""Migrations: once each, all or nothing, and never a history that does not fit."""

from __future__ import annotations

import pytest

FIRST = {"name": "0001_first.sql", "sql": "CREATE TABLE registry.first (id integer);"}
SECOND = {"name": "0002_second.sql", "sql": "CREATE TABLE registry.second (id integer);"}


@pytest.fixture
def database(cluster):
    cluster.sql("CREATE DATABASE migrating OWNER registry_owner")
    yield "migrating"
    cluster.sql("DROP DATABASE migrating WITH (FORCE)")


def tables(cluster, database):
    with cluster.connect("postgres", database) as connection:
        rows = connection.execute(
            "SELECT tablename, tableowner FROM pg_tables WHERE schemaname = 'registry'"
        ).fetchall()
    return dict(rows)


def test_each_is_applied_once_in_order_as_the_owner(cluster, database):
    assert cluster.migrate(database, [SECOND, FIRST])["applied"] == ["0001_first.sql", "0002_second.sql"]
    again = cluster.migrate(database, [FIRST, SECOND])
    assert (again["changed"], again["applied"]) == (False, [])
    assert tables(cluster, database) == dict.fromkeys(("first", "second", "migration"), "registry_owner")


def test_check_mode_tells_what_is_pending_and_touches_nothing(cluster, database):
    told = cluster.migrate(database, [FIRST], check=True)
    assert (told["changed"], told["applied"]) == (True, ["0001_first.sql"])
    assert tables(cluster, database) == {}
    cluster.migrate(database, [FIRST])
    assert cluster.migrate(database, [FIRST], check=True)["changed"] is False


def test_check_mode_works_before_there_is_a_database(cluster):
    assert cluster.migrate("not_made_yet", [FIRST], check=True)["applied"] == ["0001_first.sql"]


def test_a_migration_that_fails_leaves_nothing_behind(cluster, database):
    broken = {"name": "0002_broken.sql", "sql": "CREATE TABLE registry.half (id integer); SELECT 1/0;"}
    failed = cluster.migrate(database, [FIRST, broken])
    assert failed["failed"] is True
    assert "0002_broken.sql" in failed["msg"]
    assert "division by zero" in failed["msg"]
    assert set(tables(cluster, database)) == {"first", "migration"}


@pytest.mark.parametrize(
    ("later", "complaint"),
    [
        ([{**FIRST, "sql": "SELECT 1;"}], "was changed after it was applied"),
        ([], "ahead of this release by 0001_first.sql"),
        ([FIRST, {"name": "0001_other.sql", "sql": "SELECT 1"}], "two migrations have the number 0001"),
        ([FIRST, {"name": "0000_late.sql", "sql": "SELECT 1"}], "comes before 0001_first.sql"),
        ([FIRST, {"name": "2_second.sql", "sql": "SELECT 1"}], "is not named like a migration"),
    ],
)
def test_a_history_that_does_not_fit_is_refused(cluster, database, later, complaint):
    cluster.migrate(database, [FIRST])
    refused = cluster.migrate(database, later)
    assert refused["failed"] is True
    assert complaint in refused["msg"]
    assert set(tables(cluster, database)) == {"first", "migration"}
