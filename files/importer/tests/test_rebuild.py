"""`imaging-importer rebuild`: the registry is compared with Orthanc, and made to agree only when that is asked for."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from campaign import stamped
from deliveries import instance, uid
from imaging_importer.cli import main
from imaging_importer.orthanc import OrthancClient
from imaging_importer.rebuild import rebuild
from imaging_importer.registry import PostgresRegistry
from importer_fakes import Platform


class Both:
    """An Orthanc and a registry that nobody kept in agreement."""

    def __init__(self, platform: Platform, registry) -> None:
        self.platform = platform
        self.random = random.Random(6)
        self.connection = {
            "host": str(registry.cluster.socket),
            "dbname": registry.name,
            "user": "registry_importer",
        }
        self.registry = PostgresRegistry(self.connection)
        self.orthanc = OrthancClient(platform.url, "importer", "secret")

    def study(self, clinic: str, patient: str = "P1", study_uid: str = "") -> str:
        """A study in Orthanc that carries this clinic's id."""
        study_uid = study_uid or uid(self.random)
        self.platform.store(stamped(instance(self.random, study_uid, uid(self.random), patient), clinic))
        return study_uid

    def differences(self, apply: bool = False, adopt: tuple[str, ...] = ("north", "south")) -> dict[str, str]:
        return {found.study_uid: found.what for found in rebuild(self.orthanc, self.registry, apply, set(adopt))}

    def owner(self, study_uid: str) -> str | None:
        row = self.registry.recorded_study(study_uid)
        return row.clinic_id if row and row.revision else None


@pytest.fixture
def both(registry) -> Iterator[Both]:
    platform = Platform()
    yield Both(platform, registry)
    platform.close()


def test_a_lost_registry_is_rebuilt(both: Both, monkeypatch) -> None:
    monkeypatch.setattr("imaging_importer.rebuild.PAGE", 4)
    studies = {both.study(clinic): clinic for clinic in ("north", "south") * 5}
    assert both.differences() == {uid: f"has no row: is recorded for {clinic}" for uid, clinic in studies.items()}
    assert {both.owner(uid) for uid in studies} == {None}, "nothing is changed unless it is asked for"
    both.differences(apply=True)
    assert {uid: both.owner(uid) for uid in studies} == studies
    assert both.differences() == {}


def test_no_study_is_given_away_by_its_institution_name_alone(both: Both) -> None:
    """The stamp does not decide either. It is in these files, and anybody can write it."""
    mine, theirs = both.study("north"), both.study("south")
    for adopt in ((), ("west",)):
        differences = both.differences(apply=True, adopt=adopt)
        assert {uid: "has no owner" in what for uid, what in differences.items()} == {mine: True, theirs: True}
        assert (both.owner(mine), both.owner(theirs)) == (None, None)
    both.differences(apply=True, adopt=("north",))
    assert (both.owner(mine), both.owner(theirs)) == ("north", None)


def test_a_study_of_no_known_clinic_stays_invisible(both: Both) -> None:
    study = both.study("old-hospital")
    for _ in range(2):
        assert both.differences(apply=True) == {
            study: "InstitutionName 'old-hospital' is no clinic: it stays invisible"
        }
    assert both.owner(study) is None


def test_a_row_without_a_study_goes(both: Both) -> None:
    study = both.study("north")
    both.differences(apply=True)
    both.platform.delete_study(study)
    assert list(both.differences()) == [study]
    assert both.owner(study) == "north"
    both.differences(apply=True)
    assert both.registry.recorded_study(study) is None


def test_a_claim_whose_first_image_may_be_on_the_way_stays(both: Both) -> None:
    both.registry.claim_study("1.2.3", "north")
    assert both.differences(apply=True) == {}
    assert both.registry.recorded_study("1.2.3")


def test_other_attributes_are_told_by_tag_and_recorded(both: Both) -> None:
    study = both.study("north")
    both.differences(apply=True)
    both.study("north", study_uid=study)  # one more instance, which the registry is not told of
    assert both.differences(apply=True) == {study: "differs in 00201208: is recorded for north"}
    assert both.differences() == {}


def test_the_registrys_owner_is_right_and_not_the_name_in_the_file(both: Both) -> None:
    study = both.study("south")
    both.registry.claim_study(study, "north")
    found = [difference.what for difference in rebuild(both.orthanc, both.registry, apply=True)]
    assert found[0] == "belongs to north, InstitutionName says 'south': the owner stays"
    assert both.owner(study) == "north"


def test_two_patients_under_one_study_are_left_to_a_person(both: Both) -> None:
    study = both.study("north")
    both.study("north", "P2", study)
    (what,) = both.differences(apply=True).values()
    assert "two PatientIDs" in what
    assert both.owner(study) is None


def test_the_command_changes_nothing_by_itself(both: Both, tmp_path, monkeypatch, capsys) -> None:
    study = both.study("north")
    for name in ("orthanc-password", "registry-password", "upload-secret"):
        (tmp_path / name).write_text("secret\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    monkeypatch.setattr("imaging_importer.cli.load", lambda _: config(both, tmp_path))
    assert main(["rebuild"]) == 0
    assert "1 differences; --apply would mend 0 of them, nothing was changed" in capsys.readouterr().out
    assert main(["rebuild", "--apply"]) == 0
    assert main(["rebuild", "--adopt", "north"]) == 0
    assert "--apply would mend 1 of them" in capsys.readouterr().out
    assert both.owner(study) is None
    assert main(["rebuild", "--apply", "--adopt", "north"]) == 0
    assert both.owner(study) == "north"
    both.platform.faults.down = True
    assert main(["rebuild"]) == 1
    assert "orthanc" in capsys.readouterr().err


def config(both: Both, tmp_path):
    from importer_process import config_for

    registry = (both.connection["host"], 5432, both.connection["dbname"], both.connection["user"])
    return config_for(tmp_path, both.platform.url, registry=registry)


def test_a_study_that_orthanc_cannot_list_keeps_no_other_from_being_recorded(both: Both) -> None:
    bad, good = both.study("north"), both.study("north")
    both.platform.faults.untellable = bad
    assert both.differences(apply=True).keys() == {bad, good}
    assert (both.owner(bad), both.owner(good)) == (None, "north")
