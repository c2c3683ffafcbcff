"""A removed clinic is hidden from the services. Its studies still have an owner, and its id is not given away."""

from __future__ import annotations

import psycopg
import pytest


@pytest.fixture
def operator(registry):
    with registry.connect("registry_operator") as connection:
        yield connection


def removed(operator) -> dict[str, int]:
    return {row[0]: row[3] for row in operator.execute("SELECT * FROM registry.removed_clinics()")}


def listed(connection) -> list[str]:
    return [row[0] for row in connection.execute("SELECT clinic_id FROM registry.list_clinics()")]


@pytest.fixture
def north_removed(importer, operator):
    importer.add("1.1", "north")
    importer.add("1.2", "south")
    assert operator.execute("SELECT registry.remove_clinic('north')").fetchone() == (True,)
    assert operator.execute("SELECT registry.remove_clinic('north')").fetchone() == (False,), "it is removed once"


@pytest.mark.usefixtures("north_removed")
def test_it_is_no_longer_listed_and_keeps_its_studies_for_administrators(operator, gateway):
    assert "north" not in listed(operator)
    assert removed(operator) == {"north": 1}
    assert "1.1" in gateway.search("*")


@pytest.mark.usefixtures("north_removed")
def test_its_id_comes_back_only_by_readmission(operator):
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="clinic north was removed"):
        operator.execute("SELECT registry.upsert_clinic('north', 'Somebody else')")
    assert operator.execute("SELECT registry.readmit_clinic('north', 'North again')").fetchone() == (True,)
    assert ("north", "North again") in operator.execute("SELECT * FROM registry.list_clinics()").fetchall()
    assert removed(operator) == {}
    assert operator.execute("SELECT registry.readmit_clinic('south', 'x')").fetchone() == (False,), "it is not removed"


@pytest.mark.usefixtures("north_removed")
def test_the_operator_erases_studies_of_removed_clinics_alone_and_it_is_on_record(operator, gateway):
    assert operator.execute("SELECT registry.studies_of_clinic('north')").fetchall() == [("1.1",)]
    for study, erased in (("1.1", True), ("1.2", False)):
        assert operator.execute("SELECT registry.log_erasure(%s)", (study,)).fetchone() == (erased,)
        assert operator.execute("SELECT registry.forget_erased_study(%s)", (study,)).fetchone() == (erased,)
    assert gateway.search("*") == ["1.2"]
    statement = "SELECT username, action, clinic_id, study_uid FROM registry.read_access_log(NULL, NULL, NULL, NULL, 9)"
    assert gateway.ask("*", statement) == [("(operator)", "delete", "north", "1.1")]


@pytest.mark.usefixtures("north_removed")
def test_what_the_importer_had_taken_before_still_ends(importer, operator):
    importer.add("1.3", "north")
    assert removed(operator) == {"north": 2}


@pytest.mark.parametrize("role", ["registry_gateway", "registry_importer"])
@pytest.mark.parametrize(
    "call",
    [
        "remove_clinic('north')",
        "readmit_clinic('north', 'x')",
        "removed_clinics()",
        "studies_of_clinic('north')",
        "log_erasure('1.1')",
        "forget_erased_study('1.1')",
    ],
)
def test_it_is_the_operators_alone(registry, role, call):
    with registry.connect(role) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(f"SELECT registry.{call}")
