"""Data that must be on the disk before the next step: after a power loss, either the old state or the new is there."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import time
from pathlib import Path

import pytest
from deliveries import deliver
from imaging_importer import tree
from imaging_importer.journal import FileOutcome, Journal, Outcome, State
from imaging_importer.reasons import TransientError
from imaging_importer.reconcile import Reconciler
from imaging_importer.recorder import Recorder
from imaging_importer.settle import Settler
from imaging_importer.spool import Spool, lock


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("inbox/north", "processed", "failed"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


@pytest.fixture
def journal(root: Path) -> Journal:
    return Journal(root / "journal.sqlite")


@pytest.fixture
def spool(root: Path, journal: Journal) -> Spool:
    lock(root / "inbox" / ".spool")
    return Spool(root / "inbox" / ".spool", journal)


@pytest.fixture
def events(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that are made durable, renamed and removed, in order, relative to the root, with job ids as JOB."""
    seen: list[str] = []
    fsync, rename, rmtree, add = os.fsync, os.rename, shutil.rmtree, Journal.add

    def name(path: object) -> str:
        parts = Path(str(path)).relative_to(root).parts
        parts = ["HIDDEN" if part.endswith(".moving") else part for part in parts]
        return "/".join("JOB" if part[:2] == "20" and "T" in part else part for part in parts)

    def record(kind: str, path: object) -> None:
        seen.append(f"{kind} {name(path)}")

    def on_fsync(descriptor: int) -> None:
        record("sync", Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    def on_rename(source: Path, target: Path) -> None:
        if source.name == "across" and target.name == "across":
            raise OSError(errno.EXDEV, "another file system")
        record("rename", target)
        rename(source, target)

    monkeypatch.setattr(os, "fsync", on_fsync)
    monkeypatch.setattr(Path, "rename", on_rename)
    monkeypatch.setattr(shutil, "rmtree", lambda path: (record("remove", path), rmtree(path)))
    monkeypatch.setattr(Journal, "add", lambda self, *job: (seen.append("journal"), add(self, *job)))
    return seen


def test_a_taken_folder_is_durable_before_it_is_journalled(root: Path, spool: Spool, events: list[str]) -> None:
    deliver(root / "inbox" / "north" / "study", {"a": b"1"})
    spool.take_folder("north", root / "inbox" / "north" / "study")
    assert events == [
        "rename inbox/.spool/north/JOB/study",
        "sync inbox/.spool/north/JOB",
        "sync inbox/.spool/north",
        "sync inbox/north",
        "journal",
    ]


def test_a_copy_is_durable_before_its_source_goes(root: Path, events: list[str]) -> None:
    deliver(root / "inbox" / "across", {"deep/a": b"1"})
    tree.move(root / "inbox" / "across", root / "processed" / "north" / "across")
    assert events == [
        "sync processed",
        "sync processed/north/HIDDEN",
        "sync processed/north/HIDDEN/deep/a",
        "sync processed/north/HIDDEN/deep",
        "rename processed/north/across",
        "sync processed/north",
        "remove inbox/across",
        "sync processed/north",
        "sync inbox",
    ]


def test_a_report_is_durable_before_the_job_is_done(
    root: Path, spool: Spool, journal: Journal, events: list[str]
) -> None:
    deliver(root / "inbox" / "north" / "study", {"a": b"1"})
    job_id = spool.take_folder("north", root / "inbox" / "north" / "study")
    journal.list_files(job_id, tree.entries(spool.folder(journal.job(job_id))))
    journal.write_outcomes(job_id, [FileOutcome("a", Outcome.FAILED, "damaged")])
    settler = Settler(root / "processed", root / "failed", journal, spool)
    settler.choose(journal.job(job_id))
    events.clear()
    list(settler.move(journal.job(job_id)))
    date = time.strftime("%Y-%m-%d")
    folder = f"failed/north/{date}/study"
    kept = [event.replace(job_id, "JOB") for event in events]
    assert kept[-3:] == [f"sync {folder}/.report.json.JOB", f"sync {folder}/.REASON.txt.JOB", f"sync {folder}"]
    assert f"rename {folder}" in kept
    assert kept.index(f"rename {folder}") < kept.index(f"sync failed/north/{date}")


def test_the_journal_is_on_the_disk_when_a_step_ends(journal: Journal) -> None:
    assert journal._database.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


def test_a_full_disk_while_a_folder_is_taken_needs_no_restart(
    root: Path, spool: Spool, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is in the spool and the journal could not be written: the next look finds it."""
    spool.recover()
    deliver(root / "inbox" / "north" / "study", {"a": b"1"})

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "add", full)
        with pytest.raises(sqlite3.OperationalError):
            spool.take_folder("north", root / "inbox" / "north" / "study")
    assert spool.may_hold_unknown
    deliver(root / "inbox" / "north" / "next", {"b": b"2"})
    spool.take_folder("north", root / "inbox" / "north" / "next")
    assert spool.may_hold_unknown, "another folder's success says nothing of the first"
    assert spool.recover() == 1
    assert not spool.may_hold_unknown
    assert {job.folder for job in journal.open_jobs()} == {"study", "next"}


def test_loose_files_that_were_taken_in_part_are_found(
    root: Path, spool: Spool, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.recover()
    files = {name: root / "inbox" / "north" / name for name in "ab"}
    deliver(root / "inbox" / "north", {"a": b"1", "b": b"2"})
    rename = Path.rename

    def fail_on_b(self: Path, target: Path) -> None:
        if self.name == "b":
            raise OSError(errno.ENOSPC, "full")
        rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_on_b)
    with pytest.raises(OSError, match="full"):
        spool.take_files("north", list(files.values()))
    assert spool.recover() == 1
    (job,) = journal.open_jobs()
    assert [entry.path for entry in tree.entries(spool.folder(job))] == ["a"]
    assert files["b"].read_bytes() == b"2"


def test_a_job_is_verified_before_it_is_recorded_and_settled() -> None:
    assert [state.value for state in State] == ["taken", "listed", "verified", "recorded", "settling", "settled"]


class Confused:
    """An Orthanc that has a study its QIDO-RS does not find, as when it has just started."""

    def study_attributes(self, study_uid: str) -> None:
        return None

    def study_ids(self, study_uid: str) -> set[str]:
        return {"an-id"}

    def counts(self) -> tuple[int, int, int]:
        return 1, 1, 1

    def changes(self, since: int, limit: int) -> tuple[list[dict[str, object]], int, bool]:
        return [], since, True


class Remembering:
    """A registry with one study."""

    def __init__(self) -> None:
        self.forgotten: list[str] = []
        self.asked = 0

    def forget_study(self, study_uid: str) -> bool:
        self.forgotten.append(study_uid)
        return True

    def owned_studies(self, after: str, count: int) -> list[object]:
        self.asked += 1
        return []


def test_a_study_that_orthanc_has_is_not_forgotten_because_of_an_empty_answer(journal: Journal) -> None:
    registry = Remembering()
    with pytest.raises(TransientError):
        Recorder(journal, registry).refresh(Confused(), "1.2.3", "north")
    assert registry.forgotten == []


@pytest.mark.parametrize(("swept", "due"), [(-90_000, True), (-60, False), (+90_000, True)])
def test_the_sweep_is_due_after_a_day_and_after_a_clock_that_was_ahead(journal: Journal, swept: int, due: bool) -> None:
    registry = Remembering()
    journal.set_position("swept-at", int(time.time()) + swept)
    Reconciler(journal, registry, Recorder(journal, registry), Confused()).step()
    assert (registry.asked > 0) is due
