"""Orthanc decides, and not the importer's reading: what it reads, stops at, or does not store; and how a claim ends."""

from __future__ import annotations

import io
import json
import os
import signal
import sqlite3
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from campaign import stamped
from deliveries import changed, deliver, instance, report, sop_uid, uid
from imaging_importer import cli
from imaging_importer.config import Secrets
from imaging_importer.journal import SCHEMAS, Journal, Outcome, State
from imaging_importer.quarantine import HOPELESS
from imaging_importer.reasons import UNTOLD
from imaging_importer.spool import CALLER, Spool, lock
from importer_fakes import Faults, HttpRegistry
from importer_process import UPLOAD_SECRET, config_for, wait_until
from test_uploads import House
from uploads import CALLER as WHO
from uploads import upload


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    house = House(tmp_path_factory.mktemp("house"))
    yield house
    house.process.kill()
    house.process.wait()
    house.platform.close()


@pytest.fixture
def house(shared: House, request: pytest.FixtureRequest) -> House:
    """A running importer whose Orthanc has no faults; folders are called after the test."""
    faults = Faults()
    shared.platform.faults = faults
    shared.prefix = request.node.name.translate({ord("["): "-", ord("]"): " "}) + " "
    shared.platform.access_log.clear()
    with shared.platform.lock:
        shared.platform.identity.clear()
        shared.platform.instances.clear()
    return shared


def image(house: House, study: str = "", patient: str = "P1", marker: str = "") -> bytes:
    """An image of a study of its own; `marker` is what the fake Orthanc looks for in it."""
    ds = pydicom.dcmread(io.BytesIO(instance(house.random, study or uid(house.random), uid(house.random), patient)))
    ds.PatientComments = marker
    if "~" in patient:  # some readers see an overline, so Orthanc's reading is not known before
        ds.SpecificCharacterSet = "ISO_IR 13"
    buffer = io.BytesIO()
    ds.save_as(buffer)
    return buffer.getvalue()


def study_of(data: bytes) -> str:
    return str(pydicom.dcmread(io.BytesIO(data), specific_tags=["StudyInstanceUID"]).StudyInstanceUID)


def send(house: House, clinic: str, folder: str, files: list[bytes]) -> dict[str | None, str]:
    """Deliver a folder, wait for its end: the reasons that its report gives."""
    begin(house, clinic, folder, files)
    return end(house, clinic, folder)


def begin(house: House, clinic: str, folder: str, files: list[bytes]) -> None:
    folder = house.prefix + folder
    building = house.root / f"building-{clinic}-{folder}"
    deliver(building, {f"{number:03}.dcm": data for number, data in enumerate(files)})
    building.rename(house.root / "inbox" / clinic / folder)


def end(house: House, clinic: str, folder: str) -> dict[str | None, str]:
    folder = house.prefix + folder

    def ended() -> bool:
        return any(row["folder"] == folder and row["clinic"] == clinic for row in finished(house))

    assert wait_until(ended, 60, house.process), house.log()[-3000:]
    if not list((house.root / "failed" / clinic).glob(f"*/{folder}")):
        return {}
    return report(house.root, clinic, folder)


def ask(house: House, path: str, clinics: str = "*", method: str = "GET") -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {UPLOAD_SECRET}", "X-Clinics": clinics}
    request = urllib.request.Request(f"http://127.0.0.1:{house.port}{path}", headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def status(house: House, clinics: str = "*") -> dict[str, list[dict]]:
    return json.loads(ask(house, "/status.json", clinics)[1])


def finished(house: House, clinics: str = "*") -> list[dict]:
    seen = status(house, clinics)
    return [*seen["done_today"], *[row for row in seen["failed"] if row not in seen["done_today"]]]


def truth(house: House, folder: str, clinics: str = "*") -> dict[str, int]:
    """The reasons as the status tells them to these clinics, or to the administrator."""
    return next(row["reasons"] for row in finished(house, clinics) if row["folder"] == house.prefix + folder)


def rows(house: House, study: str) -> list[tuple[str, str, str | None]]:
    """User, clinic and detail of the access log's rows about a study."""
    return [(user, clinic, detail) for user, clinic, about, detail in house.platform.access_log if about == study]


# --- what stops Orthanc ----------------------------------------------------------------------------------------------


def test_a_file_that_stops_orthanc_costs_two_restarts_and_fails_alone_for_good(house: House) -> None:
    """The file comes again, from any sender, under any name, as a folder or an upload, and after a restart."""
    house.platform.faults.deadly = (b"DEADLY",)
    deadly, good = image(house, marker="DEADLY"), [image(house) for _ in range(12)]
    reasons = send(house, "north", "first", [*good[:6], deadly, deadly, *good[6:]])
    assert reasons == {"006.dcm": "not-accepted", "007.dcm": "not-accepted"}
    assert truth(house, "first") == {"stops-the-archive": 2}
    assert house.platform.faults.deaths == 2
    assert {sop_uid(data) for data in good} == set(house.platform.md5s())
    assert study_of(deadly) not in house.platform.owner, "its claim ends with the delivery"
    house.process.kill()
    house.process.wait()
    house.start()
    for clinic in ("north", "south"):
        assert send(house, clinic, "again", [deadly]) == {"000.dcm": "not-accepted"}
    assert upload(house.port, [deadly]).status == 409
    assert house.platform.faults.deaths == 2


def test_a_strike_outlives_the_importer_and_a_restart_gives_none(house: House) -> None:
    house.platform.faults.deadly = (b"DEADLY",)
    study = uid(house.random)
    deadly, good = image(house, study, marker="DEADLY"), image(house, study)
    before = strikes(house)
    begin(house, "north", "folder", [good, deadly])
    assert wait_until(lambda: house.platform.faults.deaths == 1, 60)
    assert wait_until(lambda: strikes(house) == before + 2, 60), "both that were on the way are suspects"
    house.process.kill()
    house.process.wait()
    house.start()
    assert end(house, "north", "folder") == {"001.dcm": "not-accepted"}
    assert house.platform.faults.deaths == 2
    assert strikes(house) == before + 1, "who was sent alone and did no harm is acquitted"


def strikes(house: House) -> int:
    with sqlite3.connect(house.root / "state" / "journal.sqlite") as database:
        return database.execute("SELECT count(*) FROM strike").fetchone()[0]


def test_a_delivery_of_many_such_files_ends_at_the_third_death(house: House) -> None:
    house.platform.faults.deadly = (b"DEADLY",)
    files = [image(house, marker=f"DEADLY {number}") for number in range(20)]
    assert set(send(house, "north", "many", files).values()) == {"not-accepted"}
    assert truth(house, "many") == {"stops-the-archive": 20}
    assert house.platform.faults.deaths <= 3


def test_an_orthanc_that_is_away_or_says_no_suspects_nobody(house: House) -> None:
    data, before = image(house, marker="POISON"), strikes(house)
    house.platform.faults.poison = b"POISON"  # 503
    begin(house, "north", "folder", [data])
    assert wait_until(lambda: any(row["attempts"] > 1 for row in status(house)["importing"]), 60)
    house.platform.faults.down = True
    time.sleep(0.5)
    assert strikes(house) == before
    house.platform.faults.down, house.platform.faults.poison = False, b""
    assert end(house, "north", "folder") == {}


def test_an_orthanc_that_hangs_is_suspected_too(tmp_path: Path) -> None:
    house = House(tmp_path, timeout=0.5)
    house.prefix = ""
    house.platform.faults.hangs = b"HANGS"
    try:
        assert send(house, "north", "folder", [image(house), image(house, marker="HANGS")]) == {
            "001.dcm": "not-accepted"
        }
        assert truth(house, "folder") == {"stops-the-archive": 1}
    finally:
        house.process.kill()
        house.process.wait()
        house.platform.close()


# --- what Orthanc reads otherwise ------------------------------------------------------------------------------------


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
def test_what_orthanc_reads_as_another_image_is_not_there_afterwards(house: House, keyword: str) -> None:
    """Into another clinic's image, series or study: nothing changes there; on record, and told to operators alone."""
    victim = image(house)
    assert send(house, "north", "victim", [victim]) == {}
    ds = pydicom.dcmread(io.BytesIO(victim))
    house.platform.faults.misread = {b"DECEIT": {keyword: str(ds[keyword].value)}}
    before = house.platform.md5s()
    good = image(house)
    deceit = image(house, study_of(good), marker="DECEIT")
    assert send(house, "south", "deceit", [good, deceit]) == {"001.dcm": "not-accepted"}
    assert truth(house, "deceit") == {"misread": 1}
    assert house.platform.md5s().keys() == before.keys() | {sop_uid(good)}
    assert house.platform.md5s()[sop_uid(victim)] == before[sop_uid(victim)]
    assert rows(house, study_of(good)) == [("(folder)", "south", None), ("(folder)", "south", "not accepted")]
    assert 'reason="misread"' in ask(house, "/metrics")[1]


def test_an_image_that_was_there_before_is_never_taken_out(house: House) -> None:
    """Other bytes under the same identifiers are a conflict; the first stay, also where Orthanc misreads the second."""
    first = image(house)
    assert send(house, "north", "first", [first]) == {}
    before = house.platform.md5s()
    ds = pydicom.dcmread(io.BytesIO(first))
    house.platform.faults.misread = {b"changed": {"SeriesInstanceUID": str(ds.SeriesInstanceUID)}}
    assert send(house, "north", "second", [changed(first)]) == {"000.dcm": "conflicting-bytes"}
    assert house.platform.md5s() == before


def in_series(data: bytes, series: str, study: str = "", **more: str) -> bytes:
    """The image under its own SOPInstanceUID in another series."""
    ds = pydicom.dcmread(io.BytesIO(data))
    ds.SeriesInstanceUID, ds.StudyInstanceUID = series, study or ds.StudyInstanceUID
    for keyword, value in more.items():
        setattr(ds, keyword, value)
    buffer = io.BytesIO()
    ds.save_as(buffer)
    return buffer.getvalue()


def test_a_sop_instance_uid_stands_once_in_a_study(house: House) -> None:
    """In another series it is a conflict, and nothing is sent; the same file again is none."""
    first = image(house)
    second = in_series(first, uid(house.random))
    assert send(house, "north", "first", [first]) == {}
    before, uploads = house.platform.md5s(), house.platform.uploads
    assert send(house, "north", "second", [second]) == {"000.dcm": "conflicting-bytes"}
    assert house.platform.uploads == uploads
    assert upload(house.port, [second]).status == 409
    assert send(house, "north", "again", [first, first]) == {}
    assert house.platform.md5s() == before
    assert len(house.platform.instances) == 1


@pytest.mark.parametrize("kill", ["", "batch-sent", "batch-verified"])
def test_of_one_delivery_the_first_file_has_the_sop_instance_uid(house: House, kill: str) -> None:
    series = [uid(house.random) for _ in range(2)]
    first = image(house)
    files = [first, in_series(first, series[0]), first, in_series(first, series[1]), image(house)]
    if kill:
        house.process.kill()
        house.process.wait()
        house.start(f"{kill}:kill")
    begin(house, "north", "folder", files)
    if kill:
        assert house.process.wait(20) == -signal.SIGKILL
        house.start()
    assert end(house, "north", "folder") == {"001.dcm": "conflicting-bytes", "003.dcm": "conflicting-bytes"}
    assert len(house.platform.instances) == 2
    assert set(house.platform.md5s()) == {sop_uid(first), sop_uid(files[4])}


def test_a_first_file_that_is_not_stored_gives_way_to_the_second(house: House) -> None:
    first = image(house, marker="REFUSED")
    house.platform.faults.refused = b"REFUSED"
    second = in_series(first, uid(house.random), PatientComments="good")
    assert send(house, "north", "folder", [first, second]) == {"000.dcm": "not-accepted"}
    assert len(house.platform.instances) == 1


def test_of_a_sop_instance_uid_in_another_study_nobody_is_told(house: House) -> None:
    """Neither of another clinic's nor of the clinic's own: it is stored."""
    first = image(house)
    assert send(house, "north", "first", [first]) == {}
    for clinic in ("north", "south"):
        assert send(house, clinic, "other", [in_series(first, uid(house.random), uid(house.random))]) == {}
    assert len(house.platform.instances) == 3


def test_what_an_earlier_release_stored_twice_stays_and_is_recognised(house: House) -> None:
    first = image(house)
    second = in_series(first, uid(house.random))
    assert send(house, "north", "first", [first]) == {}
    with house.platform.lock:
        house.platform.store(stamped(second, "north"))
    assert send(house, "north", "again", [first, second]) == {}
    assert len(house.platform.instances) == 2


def test_what_a_kill_leaves_of_a_misread_series_is_taken_out(house: House) -> None:
    house.process.kill()
    house.process.wait()
    house.start("batch-sent:kill")
    house.platform.faults.misread = {b"DECEIT": {"SeriesInstanceUID": "1.2.3"}}
    begin(house, "north", "folder", [image(house, marker="DECEIT")])
    assert house.process.wait(20) == -signal.SIGKILL
    assert len(house.platform.instances) == 1
    house.start()
    assert end(house, "north", "folder") == {"000.dcm": "not-accepted"}
    assert truth(house, "folder") == {"misread": 1}
    assert not house.platform.instances


def test_a_study_stays_one_study_whatever_orthanc_reads_for_the_patient(house: House) -> None:
    """Nobody else knows how Orthanc reads an odd PatientID. Images filed elsewhere than the first are removed."""
    study = uid(house.random)
    odd = [image(house, study, "P~1", marker=f"ODD {number}") for number in range(9)]
    other = [image(house, study, "P~2", marker=f"SOMEBODY {number}") for number in range(3)]
    house.platform.faults.misread = {b"ODD": {"PatientID": "Иванов"}, b"SOMEBODY": {"PatientID": "Петров"}}
    reasons = send(house, "north", "one", [*odd[:8], *other[:2]])
    assert reasons == {"008.dcm": "patient-mismatch", "009.dcm": "patient-mismatch"}
    assert send(house, "north", "two", [odd[8]]) == {}
    assert send(house, "north", "three", [other[2]]) == {"000.dcm": "patient-mismatch"}
    assert {identity[0] for identity in house.platform.identity.values()} == {"Иванов"}
    assert set(house.platform.md5s()) == {sop_uid(data) for data in odd}


def test_a_plain_patient_id_that_contradicts_is_refused_before_anything_is_sent(house: House) -> None:
    study = uid(house.random)
    assert send(house, "north", "first", [image(house, study, "P1")]) == {}
    uploads = house.platform.uploads
    assert send(house, "north", "second", [image(house, study, "P2")]) == {"000.dcm": "patient-mismatch"}
    assert house.platform.uploads == uploads


def test_a_kill_between_storing_and_comparing_leaves_nothing_astray(house: House) -> None:
    house.process.kill()
    house.process.wait()
    house.start("batch-sent:kill")
    study = uid(house.random)
    house.platform.faults.misread = {b"ODD": {"PatientID": "Иванов"}, b"SOMEBODY": {"PatientID": "Петров"}}
    odd, other = image(house, study, "P~1", "ODD"), image(house, study, "P~2", "SOMEBODY")
    begin(house, "north", "folder", [odd, other])
    assert house.process.wait(20) == -signal.SIGKILL
    assert len(house.platform.identity) == 2
    house.start()
    assert end(house, "north", "folder") == {"001.dcm": "patient-mismatch"}
    assert {identity[0] for identity in house.platform.identity.values()} == {"Иванов"}


# --- what Orthanc does not store -------------------------------------------------------------------------------------


def test_trouble_of_orthancs_own_is_never_the_files_fault_and_holds_up_no_other_file(house: House) -> None:
    """It reads the image and does not store it: that is its database or disk, until it has stored others meanwhile."""
    house.platform.faults.unstorable = b"HEAVY"
    heavy, good = image(house, marker="HEAVY"), image(house)
    begin(house, "north", "folder", [heavy, good])
    assert wait_until(lambda: sop_uid(good) in house.platform.md5s(), 60)
    assert wait_until(lambda: any(row["attempts"] > 1 for row in status(house)["importing"]), 60)
    house.platform.faults.unstorable = b""
    assert end(house, "north", "folder") == {}
    assert sop_uid(heavy) in house.platform.md5s()


def test_what_can_never_be_stored_ends_though_nobody_else_delivers(house: House) -> None:
    """Whether Orthanc stores anything is asked with an image of the importer's own, of which nothing stays."""
    house.platform.faults.unstorable = b"HEAVY"
    assert send(house, "north", "folder", [image(house, marker="HEAVY")]) == {"000.dcm": "not-accepted"}
    assert truth(house, "folder") == {"refused-by-archive": 1}
    assert not house.platform.instances


def test_while_orthanc_stores_nothing_at_all_no_image_is_given_up(house: House) -> None:
    house.platform.faults.unstorable = b"DICM"
    good = image(house)
    begin(house, "north", "folder", [good])
    assert wait_until(lambda: any(row["attempts"] > HOPELESS + 1 for row in status(house)["importing"]), 60)
    house.platform.faults.unstorable = b""
    assert end(house, "north", "folder") == {}
    assert sop_uid(good) in house.platform.md5s()


def test_a_study_that_the_registry_never_takes_ends_and_holds_up_no_other(house: House) -> None:
    good, bad = image(house), image(house)
    house.platform.faults.unlistable = study_of(bad)
    assert send(house, "north", "folder", [good, bad]) == {"001.dcm": "not-listable"}
    assert study_of(good) in house.platform.recorded
    assert house.platform.owner[study_of(bad)] == "north", "Orthanc has it: nobody else may claim it"


def test_a_study_that_orthanc_cannot_list_ends_and_holds_up_no_other(house: House) -> None:
    """It answers 400 for a sequence in the place of StudyDate: taken for an outage, that stopped all clinics."""
    good, bad = image(house), image(house)
    house.platform.faults.untellable = study_of(bad)
    assert send(house, "north", "folder", [good, bad]) == {"001.dcm": "not-listable"}
    assert study_of(good) in house.platform.recorded


# --- claims ----------------------------------------------------------------------------------------------------------


def test_whoever_delivers_is_told_the_same_whatever_the_truth(house: House) -> None:
    mine = image(house)
    assert send(house, "north", "mine", [mine]) == {}
    refused, foreign = image(house, marker="REFUSED"), image(house, study_of(mine))
    house.platform.faults.refused = b"REFUSED"
    answers = [upload(house.port, [data], "south") for data in (foreign, refused)]
    assert {answer.status for answer in answers} == {409}
    assert len({answer.headers["Warning"] for answer in answers}) == 1
    assert len({tuple(answer.failed.values()) for answer in answers}) == 1
    for name, data in (("foreign", foreign), ("refused", refused)):
        assert send(house, "south", name, [data]) == {"000.dcm": "not-accepted"}
    assert (truth(house, "foreign"), truth(house, "refused")) == (
        {"owned-by-another-clinic": 1}, {"refused-by-archive": 1},
    )  # fmt: skip
    assert truth(house, "foreign", "south") == truth(house, "refused", "south") == {"not-accepted": 1}
    seen = json.dumps(status(house, "south")) + str([answer.headers for answer in answers])
    for folder in (house.root / "failed" / "south").glob("*/*"):
        seen += "".join((folder / name).read_text() for name in ("REASON.txt", "report.json"))
    assert [word for word in (*UNTOLD, "another clinic", "HTTP 4") if word in seen] == []
    for data in (foreign, refused):  # an auditor of the clinic sees no difference either
        assert {(clinic, detail) for _, clinic, detail in rows(house, study_of(data)) if clinic == "south"} == {
            ("south", None), ("south", "not accepted"),
        }  # fmt: skip


def test_a_claim_without_an_image_ends_with_its_delivery(house: House) -> None:
    house.platform.faults.refused = b"REFUSED"
    refused = image(house, marker="REFUSED")
    assert send(house, "north", "folder", [refused]) == {"000.dcm": "not-accepted"}
    assert study_of(refused) not in house.platform.owner
    house.platform.faults.refused = b""
    assert send(house, "south", "folder", [refused]) == {}
    assert house.platform.owner[study_of(refused)] == "south"


def test_a_claim_that_another_delivery_of_the_clinic_needs_stays(house: House) -> None:
    """One is refused whole and ends while an image of the other is on the way: no other clinic gets in between."""
    study = uid(house.random)
    house.platform.faults.refused = b"REFUSED"
    house.platform.faults.unstorable = b"SLOW"
    slow = image(house, study, marker="SLOW")
    begin(house, "north", "slow", [slow])
    assert wait_until(lambda: study in house.platform.owner, 60)
    assert send(house, "north", "refused", [image(house, study, marker="REFUSED")]) == {"000.dcm": "not-accepted"}
    assert house.platform.owner[study] == "north"
    code, text = ask(house, f"/claims/{study}/release", method="POST")
    assert (code, "is open" in text) == (409, True)
    house.platform.faults.unstorable = b""
    assert end(house, "north", "slow") == {}
    assert house.platform.owner[study] == "north"


def test_the_sweep_ends_claims_and_shows_what_orthanc_has(house: House) -> None:
    """The state that a kill at the wrong moment leaves."""
    left, held = uid(house.random), image(house)
    assert send(house, "north", "held", [held]) == {}
    with house.platform.lock:
        house.platform.owner[left] = "north"
        del house.platform.recorded[study_of(held)]
    house.process.kill()
    house.process.wait()
    with sqlite3.connect(house.root / "state" / "journal.sqlite") as database:
        database.execute("DELETE FROM position")
        database.execute("DELETE FROM study")
    house.start()
    assert wait_until(lambda: left not in house.platform.owner, 60), house.log()
    assert wait_until(lambda: study_of(held) in house.platform.recorded, 60)


def test_an_operator_lists_and_releases_claims(house: House, monkeypatch, capsys, tmp_path: Path) -> None:
    command(house, monkeypatch, tmp_path)
    monkeypatch.setattr(cli, "PostgresRegistry", lambda _: HttpRegistry(house.platform.url))
    monkeypatch.setattr(cli, "load_secrets", lambda: Secrets("", "", UPLOAD_SECRET))
    with house.platform.lock:
        house.platform.owner["1.2.3"] = "north"
    assert cli.main(["claims"]) == 0
    assert capsys.readouterr().out == "north  1.2.3  since 2026-01-01T00:00:00Z\n"
    assert cli.main(["release", "1.2.3"]) == 0
    assert "is free" in capsys.readouterr().out
    assert "1.2.3" not in house.platform.owner
    assert cli.main(["release", "1.2.3"]) == 1
    held = image(house)
    assert send(house, "north", "held", [held]) == {}
    assert cli.main(["release", study_of(held)]) == 1
    assert house.platform.owner[study_of(held)] == "north"


def command(house: House, monkeypatch, tmp_path: Path) -> None:
    """Let the command on the host speak to this importer."""
    (tmp_path / "secret").write_text(UPLOAD_SECRET)
    monkeypatch.setattr(cli, "SECRET", tmp_path / "secret")
    running = config_for(house.root, house.platform.url, house.port)
    monkeypatch.setattr(cli, "load", lambda _: running)


def test_an_operator_ends_a_delivery_that_cannot_end(house: House, monkeypatch, capsys, tmp_path: Path) -> None:
    command(house, monkeypatch, tmp_path)
    house.platform.faults.poison = b"POISON"
    good = [image(house) for _ in range(8)]  # more than a batch
    stuck = image(house, marker="POISON")
    begin(house, "north", "stuck", [*good, stuck])
    assert wait_until(lambda: any(row["attempts"] for row in status(house)["importing"]), 60)
    (job,) = [row["job"] for row in status(house)["importing"]]
    assert cli.main(["status"]) == 0
    assert job in capsys.readouterr().out
    assert cli.main(["drop", job]) == 0
    reasons = end(house, "north", "stuck")
    assert reasons["008.dcm"] == "dropped"
    assert study_of(stuck) not in house.platform.owner
    assert "dropped" in next((house.root / "failed" / "north").glob("*/* stuck/REASON.txt")).read_text()
    assert cli.main(["drop", job]) == 1
    assert "is no open job" in capsys.readouterr().err


# --- the row of the access log ---------------------------------------------------------------------------------------


def test_one_row_for_each_delivery_and_study_before_the_first_byte(house: House) -> None:
    study = uid(house.random)
    files = [image(house, study) for _ in range(20)]  # three batches
    assert upload(house.port, files).status == 200
    assert rows(house, study) == [(WHO["username"], "north", None)]
    asked = house.platform.requests
    assert asked.index("POST /registry/log_upload") < asked.index(f"POST /dicom-web/studies/{study}")


def test_who_uploads_is_known_after_a_kill(house: House) -> None:
    """Between the spool and the journal, and where the journal is lost."""
    house.process.kill()
    house.process.wait()
    house.start("folder-spooled:kill")
    data = image(house)
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever a connection that ends raises
        upload(house.port, [data])
    assert house.process.wait(20) == -signal.SIGKILL
    house.start()
    assert wait_until(lambda: sop_uid(data) in house.platform.md5s(), 60)
    assert rows(house, study_of(data)) == [(WHO["username"], "north", None)]
    assert wait_until(lambda: not list((house.root / "inbox").rglob(CALLER)), 60)


def test_an_upload_whose_study_is_deleted_meanwhile_ends_in_an_answer(house: House) -> None:
    """Deleted when all is stored and nothing is shown yet: the answer is no success."""
    data, answers = image(house), []
    thread = threading.Thread(target=lambda: answers.append(upload(house.port, [data])))
    answered = house.platform.study

    def deleted_meanwhile(study_uid: str):
        house.platform.delete_study(study_uid)
        house.platform.study = answered
        return answered(study_uid)

    house.platform.study = deleted_meanwhile
    thread.start()
    thread.join(60)
    assert [answer.status for answer in answers] == [409]
    assert "deleted-meanwhile" in answers[0].headers["Warning"]
    assert study_of(data) not in house.platform.owner


# --- the journal -----------------------------------------------------------------------------------------------------

LAST_RELEASE = Path(__file__).with_name("journal-of-the-last-release.sql")


def test_a_journal_of_the_last_release_is_read_and_grows(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "journal.sqlite") as database:
        database.executescript(LAST_RELEASE.read_text())
    for _ in range(2):  # the second time there is nothing to add
        journal = Journal(tmp_path / "journal.sqlite")
        (job,) = journal.open_jobs()
        assert (job.id, job.caller, job.ends) == ("a", "", "")
        assert [file.path for file in journal.files("a", Outcome.PENDING)] == ["0.dcm"]
        assert journal.finished_summary("b").reasons == {"damaged": 2}
        assert journal.study("1.2.3") == ("north", "fingerprint", 0, 0, True)
        assert journal.position("swept-at") == 0  # the sizes are asked for at once
        journal.close()


def test_a_journal_keeps_its_jobs_and_reasons_when_their_words_change(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    states = ["claimed", "listed", "archiving"]
    with sqlite3.connect(path) as database:
        for schema in SCHEMAS[:7]:
            database.executescript(schema)
        database.execute("PRAGMA user_version = 7")
        for at, state in enumerate(states):
            database.execute(
                "INSERT INTO job (id, clinic, folder, state, claimed_at) VALUES (?, 'n', x'66', ?, ?)",
                (state, state, at),
            )
        for name, reason, inside in (
            ("a.zip", "archive", ""),
            ("b.zip", "archive-kind", ""),
            ("c", "stops-the-archive", "a.zip"),
        ):
            database.execute(
                "INSERT INTO file (job, path, size, mtime_ns, outcome, reason, archive)"
                " VALUES ('listed', ?, 1, 1, 'failed', ?, ?)",
                (name.encode(), reason, inside.encode()),
            )
        database.execute(
            "INSERT INTO job (id, clinic, folder, state, claimed_at, finished_at, reasons)"
            " VALUES ('done', 'n', x'66', 'archived', 5, 6, 'archive-damaged=2 refused-by-archive=3')"
        )
    journal = Journal(path)
    assert [(job.id, job.state, job.taken_at) for job in journal.open_jobs()] == [
        ("claimed", State.TAKEN, 0), ("listed", State.LISTED, 1), ("archiving", State.SETTLING, 2),
    ]  # fmt: skip
    assert [(file.path, file.reason, file.packed) for file in journal.files("listed", Outcome.FAILED)] == [
        ("a.zip", "packed", ""), ("b.zip", "packed-kind", ""), ("c", "stops-the-archive", "a.zip"),
    ]  # fmt: skip
    done = journal.finished_summary("done")
    assert (done.job.state, done.reasons) == (State.SETTLED, {"packed-damaged": 2, "refused-by-archive": 3})


def test_a_spool_knows_the_caller_of_what_the_journal_lost(tmp_path: Path) -> None:
    (tmp_path / "inbox" / "north").mkdir(parents=True)
    handle = lock(tmp_path / "inbox" / ".spool")
    first, second = (Journal(tmp_path / name) for name in ("one.sqlite", "two.sqlite"))
    upload_ = tmp_path / "inbox" / ".spool" / "upload"
    spool = Spool(tmp_path / "inbox" / ".spool", first)
    deliver(upload_, {"0.dcm": b"x"})
    spool.take_folder("north", upload_, '{"username": "tech"}')
    Spool(tmp_path / "inbox" / ".spool", second).recover()
    assert [job.caller for job in second.open_jobs()] == ['{"username": "tech"}']
    os.close(handle)


def test_a_folder_called_like_the_callers_file_is_found_again(tmp_path: Path) -> None:
    (tmp_path / "inbox/.spool/north/job-1" / CALLER).mkdir(parents=True)
    (tmp_path / "state").mkdir()
    journal = Journal(tmp_path / "state/journal.sqlite")
    Spool(tmp_path / "inbox/.spool", journal).recover()
    assert [(job.folder, job.caller) for job in journal.open_jobs()] == [(CALLER, "")]


def test_a_clinic_cannot_hold_up_a_study_of_anothers_by_naming_it(house: House) -> None:
    """Beside files that take Orthanc long, unclaimed files of a batch are released before the rest is sent."""
    first = image(house)
    assert send(house, "north", "first", [first]) == {}
    house.platform.faults.refused = b"REFUSED"
    slow = [image(house, marker=f"REFUSED {number}") for number in range(40)]  # each is tried twice
    begin(house, "south", "slow", [image(house, study_of(first)), *slow])
    assert wait_until(lambda: ("(folder)", "south", "not accepted") in rows(house, study_of(first)), 60)
    assert send(house, "north", "second", [image(house, study_of(first))]) == {}
    assert not any(row["clinic"] == "south" and row["folder"].endswith("slow") for row in finished(house))
    assert set(end(house, "south", "slow").values()) == {"not-accepted"}
