"""The Ansible modules' calls about the registry's clinics (module_utils/imaging/registry.py), on a real registry."""

from __future__ import annotations

import importlib.util
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

FILE = Path(__file__).parents[3] / "module_utils/imaging/registry.py"


@pytest.fixture(scope="module")
def module():
    spec = importlib.util.spec_from_file_location("registry_of_modules", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def parameters(registry, user: str = "registry_operator") -> dict[str, object]:
    return {
        "registry_host": str(registry.cluster.socket),
        "registry_port": 5432,
        "registry_name": registry.name,
        "registry_user": user,
        "registry_password": "nobody-asks-for-it",
    }


@pytest.fixture
def clinics(module, registry):
    return module.Registry(parameters(registry))


def test_clinics_have_names_and_get_other_ones(clinics):
    clinics.upsert("north", "The North")
    clinics.upsert("east", "East")
    assert clinics.names() == {
        "north": "The North",
        "east": "East",
        "south": "Clinic south",
        "west": "Clinic west",
    }


def test_a_removed_clinic_is_told_with_what_it_still_owns(clinics, importer):
    before = datetime.now(UTC).replace(microsecond=0)
    importer.add("1.1", "north")
    importer.claim("1.2", "north")
    clinics.remove("north")
    assert "north" not in clinics.names()
    (clinic, removed), *others = clinics.removed().items()
    assert others == []
    assert (clinic, removed.name, removed.studies) == ("north", "Clinic north", 2)
    assert datetime.fromisoformat(removed.at) >= before


def test_a_clinic_that_comes_back_has_its_studies_and_its_new_name(clinics, importer):
    importer.add("1.1", "north")
    clinics.remove("north")
    clinics.readmit("north", "North again")
    assert clinics.names()["north"] == "North again"
    assert clinics.removed() == {}
    assert clinics.studies("north") == ["1.1"]


def test_each_clinic_s_studies_are_counted_with_the_time_of_the_newest(clinics, importer):
    importer.add("1.1", "north")
    importer.add("1.2", "north")
    studies, last = clinics.holdings()["north"]
    assert studies == 2
    assert abs((datetime.fromisoformat(last) - datetime.now(UTC)).total_seconds()) < 600
    assert clinics.holdings().get("south", (0, None)) == (0, None)


def test_a_removed_clinic_s_study_is_erased_and_that_is_on_record(clinics, importer, gateway):
    importer.add("1.1", "north")
    clinics.remove("north")
    clinics.log_erasure("1.1")
    clinics.forget_erased("1.1")
    clinics.forget_erased("1.1")
    assert clinics.studies("north") == []
    statement = "SELECT username, action, clinic_id, study_uid FROM registry.read_access_log(NULL, NULL, NULL, NULL, 9)"
    assert gateway.ask("*", statement) == [("(operator)", "delete", "north", "1.1")]


def test_a_refusal_says_which_registry_refuses_whom_and_why_and_no_password(module, registry):
    refused = module.Registry(parameters(registry, "registry_gateway"))
    with pytest.raises(
        module.RegistryError, match=r"The registry 'registry' on .* refuses 'registry_gateway': .*"
    ) as told:
        refused.remove("north")
    assert "permission denied" in str(told.value)
    assert "nobody-asks-for-it" not in str(told.value)
