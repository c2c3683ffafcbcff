"""The access log is added to and read, never changed; an auditor reads what concerns the own clinics."""

from __future__ import annotations

import json

import psycopg
import pytest

ENTRY = {
    "at": "2026-01-02T03:04:05+00:00",
    "username": "anna",
    "subject": "s",
    "client": "ohif",
    "address": "192.0.2.7",
    "action": "view",
    "clinic_id": "north",
    "study_uid": "1.1",
    "detail": None,
}


@pytest.fixture
def log(gateway):
    def log(*entries: dict[str, object]) -> None:
        gateway.ask(None, "SELECT registry.log_access(%s)", json.dumps([{**ENTRY, **entry} for entry in entries]))

    return log


@pytest.mark.parametrize("together", [True, False])
def test_a_row_that_is_sent_again_is_there_once(log, read, together):
    keyed = {"view_key": "0e1c9a52-6f0a-4d2b-9a52-6f0a4d2b9a52"}
    if together:
        log(keyed, keyed)
    else:
        log(keyed)
        log(keyed, {"username": "somebody.else"})
    assert read("*") == (["anna"] if together else ["somebody.else", "anna"])


def test_rows_of_a_release_that_gave_no_key_are_all_there(log, read):
    log({}, {})
    assert read("*") == ["anna", "anna"]


@pytest.fixture
def read(gateway):
    def read(scope, columns="username", study=None, who=None, since=None, before=None, limit=100):
        statement = f"SELECT {columns} FROM registry.read_access_log(%s, %s, %s, %s, %s)"  # noqa: S608
        rows = gateway.ask(scope, statement, study, who, since, before, limit)
        return [row[0] if len(row) == 1 else row for row in rows]

    return read


@pytest.fixture
def accesses(log):
    log(
        {"username": "north-reader"},
        {"username": "south-reader", "clinic_id": "south", "study_uid": "1.2"},
        {"username": "both", "action": "list", "clinic_id": "north,south", "study_uid": None},
        {"username": "admin", "action": "list", "clinic_id": "*", "study_uid": None},
        {"username": "admin", "action": "delete", "clinic_id": None, "study_uid": None, "detail": "DELETE /orthanc/x"},
        {"username": "stranger", "action": "list", "clinic_id": None, "study_uid": None},
    )


@pytest.mark.usefixtures("accesses")
@pytest.mark.parametrize(
    ("scope", "visible"),
    [
        (None, []),
        ("", []),
        ("west", [("admin", "*")]),
        ("north", [("admin", "*"), ("both", "north"), ("north-reader", "north")]),
        ("south", [("admin", "*"), ("both", "south"), ("south-reader", "south")]),
        ("nor", [("admin", "*")]),
        (
            "*",
            [
                ("stranger", None),
                ("admin", None),
                ("admin", "*"),
                ("both", "north,south"),
                ("south-reader", "south"),
                ("north-reader", "north"),
            ],
        ),
    ],
)
def test_an_auditor_reads_what_concerns_the_own_clinics_newest_first(read, scope, visible):
    assert read(scope, "username, clinic_id") == visible


@pytest.mark.parametrize("row", ["*", "north,south", "north,south,west"])
@pytest.mark.parametrize(
    ("scope", "sees"), [("north", True), ("south", False), ("west", False), ("south,west", False), ("*", True)]
)
def test_a_study_in_a_row_of_several_clinics_is_shown_to_its_own_clinic_alone(importer, log, read, row, scope, sees):
    """Somebody of several clinics, or an administrator, looked at the record of a study of north."""
    importer.add("1.7", "north", name="NORTH")
    log({"username": "admin", "action": "audit", "clinic_id": row, "study_uid": "1.7"})
    assert read(scope, "study_uid") == (["1.7"] if sees else [])
    assert read(scope, "study_uid", study="1.7") == (["1.7"] if sees else [])


def test_a_row_of_one_clinic_stays_its_own_when_the_study_changes_hands(importer, log, read):
    importer.add("1.7", "south", name="SOUTH")
    log({"study_uid": "1.7"})
    assert read("north", "study_uid") == ["1.7"]
    assert read("south") == []


@pytest.mark.usefixtures("accesses")
def test_filters_and_pages(read):
    assert read("*", study="1.2") == ["south-reader"]
    assert read("*", who="admin") == ["admin", "admin"]
    assert read("north", study="1.2") == [], "another clinic's study"
    assert read("*", who="admi%") == []
    newest = read("*", "entry_id", limit=2)
    assert len(newest) == 2
    assert read("*", "username", before=newest[-1], limit=2) == ["admin", "both"]


def test_the_time_limits(log, read):
    log({"username": "early"}, {"username": "late", "at": "2026-03-01T00:00:00+00:00"})
    assert read("north", since="2026-02-01T00:00:00+00:00") == ["late"]


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM registry.access_log",
        "INSERT INTO registry.access_log (at, username, subject, client, action) VALUES (now(), 'x', 'x', 'x', 'view')",
        "UPDATE registry.access_log SET username = 'nobody'",
        "DELETE FROM registry.access_log",
        "TRUNCATE registry.access_log",
        "DROP TABLE registry.access_log",
        "ALTER TABLE registry.access_log DISABLE ROW LEVEL SECURITY",
        "CREATE OR REPLACE FUNCTION registry.log_access(entries jsonb) RETURNS void LANGUAGE sql AS 'SELECT'",
        "SELECT setval('registry.access_log_entry_id_seq', 1)",
    ],
)
@pytest.mark.parametrize("role", ["registry_gateway", "registry_importer", "registry_operator"])
def test_nobody_who_logs_in_can_change_it(registry, role, statement):
    with registry.connect(role) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement)


@pytest.mark.parametrize("role", ["registry_importer", "registry_operator"])
def test_only_the_gateway_reads_it(registry, role):
    with registry.connect(role) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("SELECT * FROM registry.read_access_log(null, null, null, null, 1)")
