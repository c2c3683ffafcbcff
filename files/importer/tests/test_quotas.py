"""A clinic that has used its quota waits, is told so, and nobody else notices."""

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from deliveries import deliver, instance, sop_uid, uid
from imaging_importer.journal import Journal, KnownStudy, State
from imaging_importer.orthanc import OrthancClient
from imaging_importer.quotas import Quotas
from imaging_importer.reasons import UnavailableError
from imaging_importer.reconcile import Reconciler
from imaging_importer.recorder import Recorder
from importer_fakes import HttpRegistry, Platform
from importer_process import wait_until
from old_journal import rewind
from test_fairness import Lanes
from test_limits import get
from test_uploads import House
from uploads import upload


@pytest.fixture
def platform() -> Iterator[Platform]:
    made = Platform()
    yield made
    made.close()


def status(house: House, clinics: str) -> dict[str, str]:
    return json.loads(get(house.port, "/status.json", clinics))["quotas"]


def metrics(house: House) -> str:
    return get(house.port, "/metrics")


def counts(house: House) -> int:
    """How often the reconciler has counted what Orthanc holds."""
    return sum(line == "GET /statistics" for line in house.platform.requests)


def test_a_clinic_at_its_quota_waits_and_goes_on_by_itself(tmp_path: Path) -> None:
    house = House(tmp_path, quotas={"north": 1500, "south": 1 << 40})
    try:
        first, second, third = (house.series(3) for _ in range(3))
        assert upload(house.port, first).status == 200
        assert wait_until(lambda: status(house, "*"), 20, house.process), metrics(house)
        answer = upload(house.port, second)
        assert answer.status == 507
        assert b"The clinic has used its 0 GB of the archive: ask the administrator." in answer.body
        assert b"Nothing of this upload was kept" in answer.body
        assert house.spooled() == []

        deliver(house.root / "inbox" / "north" / "study", {"0.dcm": second[0]})
        assert wait_until(lambda: len(house.spooled()) == 1, 20, house.process)
        assert upload(house.port, third, clinic="south").status == 200, "another clinic notices"
        assert sop_uid(second[0]) not in house.platform.md5s()
        assert status(house, "*").keys() == status(house, "north").keys() == {"north"}
        assert "Its deliveries wait" in status(house, "north")["north"]
        assert status(house, "south") == {}
        study = house.study(first[0])
        size = sum(
            len(house.platform.instances[key]) for key, held in house.platform.identity.items() if held[1] == study
        )
        assert f'imaging_importer_clinic_bytes{{clinic="north"}} {size}' in metrics(house)
        assert 'imaging_importer_clinic_quota_bytes{clinic="north"} 1500' in metrics(house)

        # The reconciler tells a deletion by falling counts: it must have counted what came before.
        counted = counts(house)
        assert wait_until(lambda: counts(house) >= counted + 2, 20, house.process)
        house.platform.delete_study(study)
        assert wait_until(lambda: sop_uid(second[0]) in house.platform.md5s(), 30, house.process)
        assert status(house, "*") == {}
    finally:
        house.stop()
        house.platform.close()


def test_a_quota_that_is_raised_lets_what_waits_go_on(tmp_path: Path) -> None:
    house = House(tmp_path, quotas={"north": 1500})
    try:
        assert upload(house.port, house.series(3)).status == 200
        (late,) = house.series(1)
        assert wait_until(lambda: status(house, "*"), 20, house.process)
        deliver(house.root / "inbox" / "north" / "study", {"0.dcm": late})
        assert wait_until(lambda: len(house.spooled()) == 1, 20, house.process)
        house.stop()
        house.settings["quotas"] = {"north": 1 << 40}
        house.start()
        assert wait_until(lambda: sop_uid(late) in house.platform.md5s(), 20, house.process)
    finally:
        house.stop()
        house.platform.close()


def test_a_full_clinic_begins_nothing_and_ends_what_is_begun(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    lanes = Lanes(journal, monkeypatch)
    begun = lanes.job("north", 0, steps=20)
    lanes.run(lambda: begun in lanes.carrier.steps)
    lanes.full = {"north"}
    waits = lanes.job("north", 1)
    for number in range(3):
        lanes.job("south", number)
    lanes.run(lambda: [job.id for job in journal.open_jobs()] == [waits])
    assert waits not in lanes.carrier.steps
    journal.drop(waits)
    lanes.run(lambda: not journal.open_jobs())


def test_a_full_clinics_delivery_that_is_stored_is_ended(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    lanes = Lanes(journal, monkeypatch)
    lanes.full = {"north"}
    journal.advance(lanes.job("north", 0), State.VERIFIED)
    lanes.run(lambda: not journal.open_jobs())


def test_what_a_clinic_uses_follows_its_studies(journal: Journal) -> None:
    journal.record_study("1.1", KnownStudy("north", "a", 5))
    journal.record_study("1.2", KnownStudy("north", "a", 6))
    journal.record_study("1.3", KnownStudy("south", "a", 7))
    assert journal.used() == {"north": 11, "south": 7}
    journal.record_study("1.2", KnownStudy("south", "b", 8))  # renamed
    journal.record_study("1.3", KnownStudy("south", "b", 9))  # grown
    assert journal.used() == {"north": 5, "south": 17}
    journal.forget_study("1.1")
    assert journal.used() == {"south": 17}


def test_who_has_nothing_any_more_uses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imaging_importer.quotas.LOOK_EVERY", 0)
    used = {"north": 5, "none": 1 << 60}
    quotas = Quotas(lambda: used, {"north": 5, "new": 5})
    assert [quotas.may_begin(clinic) for clinic in ("north", "new", "none", "unknown")] == [False, True, True, True]
    del used["north"]
    assert quotas.may_begin("north")
    assert quotas.used()["north"] == 0


def test_the_journal_is_not_summed_up_at_every_step() -> None:
    looks = []
    quotas = Quotas(lambda: looks.append(1) or {}, {"north": 5})
    assert all(quotas.may_begin("north") for _ in range(100))
    assert len(looks) == 1


# --- where the sizes come from ----------------------------------------------------------------------------------------


def put(platform: Platform, study_uid: str) -> int:
    """Store one image of the clinic north; its bytes."""
    data = instance(random.Random(5), study_uid, uid(random.Random(6)))
    platform.store(data)
    platform.owner[study_uid] = "north"
    return len(data)


def test_a_study_is_measured_once_and_again_when_it_changed(platform: Platform, journal: Journal) -> None:
    size = put(platform, "1.2.3")
    recorder, orthanc = Recorder(journal, HttpRegistry(platform.url)), OrthancClient(platform.url, "u", "p")
    assert recorder.refresh(orthanc, "1.2.3", "north") == "recorded"
    assert journal.used() == {"north": size}
    assert recorder.refresh(orthanc, "1.2.3", "north") == "unchanged"
    assert sum("/statistics" in request for request in platform.requests) == 1
    platform.delete_study("1.2.3")
    assert recorder.refresh(orthanc, "1.2.3", "north") == "forgotten"
    assert journal.used() == {}


def test_studies_of_the_last_release_are_measured_by_the_first_sweep(platform: Platform, tmp_path: Path) -> None:
    size = put(platform, "1.2.3")
    first = Journal(tmp_path / "journal.sqlite")
    registry, orthanc = HttpRegistry(platform.url), OrthancClient(platform.url, "u", "p")
    Recorder(first, registry).refresh(orthanc, "1.2.3", "north")
    first.set_position("swept-at", int(time.time()))
    first.close()
    rewind(tmp_path / "journal.sqlite", 2)
    journal = Journal(tmp_path / "journal.sqlite")
    assert journal.used() == {"north": 0}
    told = platform.requests.count("POST /registry/record_study")
    Reconciler(journal, registry, Recorder(journal, registry), orthanc).step()
    assert journal.used() == {"north": size}
    assert platform.requests.count("POST /registry/record_study") == told, "nothing of it changed for the registry"
    journal.close()


def test_a_study_that_orthanc_measures_too_long_is_recorded_all_the_same(
    platform: Platform, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = put(platform, "1.2.3")
    recorder, orthanc = Recorder(journal, HttpRegistry(platform.url)), OrthancClient(platform.url, "u", "p")

    def hangs(_study_id: str) -> int:
        raise UnavailableError("orthanc", "timeout")

    with monkeypatch.context() as patched:
        patched.setattr(orthanc, "size", hangs)
        assert recorder.refresh(orthanc, "1.2.3", "north") == "recorded"
    assert journal.used() == {"north": 0}
    assert recorder.refresh(orthanc, "1.2.3", "north") == "unchanged"
    assert journal.used() == {"north": size}
