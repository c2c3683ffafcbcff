"""Whatever goes wrong, and wherever: it is tried again, or ends with a reason; never both, never neither.

One delivery of everything is carried by the importer's own lanes in this process, on a real disk and journal; Orthanc
and PostgreSQL answer from memory. First it is counted what is asked of each of them. Then each of these calls goes
wrong in each way that there is (the tables below), from that call on, until the job has failed a few times or ended;
then all is well again, and the job has to end with every delivered file where it belongs.
"""

from __future__ import annotations

import errno
import hashlib
import http
import json
import os
import random
import shutil
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests
import urllib3.exceptions
from deliveries import contents, deliver, instance, sop_uid, uid
from imaging_importer import delivery, failpoints, reasons, registry, snapshot, worker
from imaging_importer.archive import Archive
from imaging_importer.delivery import Carrier
from imaging_importer.journal import Job, Journal
from imaging_importer.metrics import Metrics
from imaging_importer.orthanc import OrthancClient
from imaging_importer.quarantine import Quarantine
from imaging_importer.reasons import RejectedError, TransientError
from imaging_importer.recorder import Recorder
from imaging_importer.registry import PostgresRegistry
from imaging_importer.spool import Spool, lock
from imaging_importer.tickets import Tickets
from imaging_importer.worker import Worker
from importer_fakes import Platform, _Handler
from importer_process import config_for

REMOVE = shutil.rmtree
FAILURES = 3  # after so many the fault is gone
TURNS = 200


class Faults:
    """Counts calls by name while it is on; from the chosen call of one name on, each of that name fails."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.name, self.number = "", 0
        self.fail: Callable[[], Any] | None = None
        self.on = False
        self._lock = threading.Lock()

    def arm(self, name: str, number: int, fail: Callable[[], Any] | None) -> None:
        self.calls.clear()
        self.name, self.number, self.fail = name, number, fail

    def reach(self, name: str) -> bool:
        """Count a call; whether it fails."""
        if not self.on:
            return False
        with self._lock:
            self.calls[name] += 1
            return self.fail is not None and name == self.name and self.calls[name] >= self.number

    def wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            return self.fail() if self.reach(name) else real(*arguments, **options)

        return wrapped

    def __enter__(self) -> None:
        self.on = True

    def __exit__(self, *_: object) -> None:
        self.on = False


class Rows:
    """What a cursor gives."""

    def __init__(self, rows: list[tuple[Any, ...]]) -> None:
        self._rows = rows

    def fetchall(self) -> list[tuple[Any, ...]]:
        return self._rows


class House:
    """The importer without its threads: a delivery is carried turn by turn."""

    def __init__(self, root: Path, faults: Faults, platform: Platform) -> None:
        self.root, self.faults, self.platform = root, faults, platform
        for name in ("inbox/north", "processed", "failed", "state"):
            (root / name).mkdir(parents=True)
        self._lock = lock(root / "inbox" / ".spool")
        self.journal = Journal(root / "state" / "journal.sqlite")
        self.spool = Spool(root / "inbox" / ".spool", self.journal)
        self.spool.recover()
        archive = Archive(root / "processed", root / "failed", self.journal, self.spool)
        registry_ = PostgresRegistry({})
        self.metrics = Metrics()
        carrier = Carrier(
            config_for(root, "http://orthanc"), self.journal, self.spool, archive, registry_,
            Recorder(self.journal, registry_), lambda: OrthancClient("http://orthanc", "u", "p"),
            Quarantine(self.journal), Tickets(),
        )  # fmt: skip
        self.worker = Worker(
            self.journal, carrier, Tickets(), self.metrics, lambda *_: None, lambda: True, lambda _: True
        )  # fmt: skip
        self.stumbled = 0

    def close(self) -> None:
        self.journal.close()
        os.close(self._lock)

    def claim(self) -> bool:
        """As the scanner does; whether the folder is in the spool."""
        folder = self.root / "inbox" / "north" / "study"
        there = folder.exists()
        with self.faults:
            try:
                if self.spool.unsettled:
                    self.spool.recover()
                if there:
                    self.spool.claim_folder("north", folder)
            except (OSError, sqlite3.Error):
                if os.environ.get("DBG"): import traceback; traceback.print_exc()
                self.stumbled += 1
        return not folder.exists() and not self.spool.unsettled

    def turn(self) -> None:
        """As a lane does."""
        with self.faults:
            try:
                if not (turn := self.worker._next()):
                    time.sleep(0.001)  # a batch is being read
                else:
                    try:
                        self.worker._take(turn)
                    finally:
                        self.worker._end(turn)
            except Exception:
                if os.environ.get("DBG"): import traceback; traceback.print_exc()
                self.stumbled += 1

    def ended(self) -> bool:
        return not self.journal.open_jobs() and not self.worker._begun

    def tries(self) -> int:
        """How often something is to be tried again."""
        return self.stumbled + sum(self.metrics._values["imaging_importer_retries_total"].values())

    def carry(self, until: Callable[[], bool]) -> None:
        for _ in range(TURNS):
            if until():
                return
            self.turn()
        raise AssertionError(f"neither ended nor tried again: {self.journal.open_jobs()}")


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    made = Faults()
    monkeypatch.setattr(worker, "FIRST_DELAY", 0.0)
    monkeypatch.setattr(worker, "LONGEST_DELAY", 0.0)
    monkeypatch.setattr(delivery, "PAUSES", (0.0,))
    return made


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch, faults: Faults) -> Iterator[Platform]:
    """Orthanc by requests and the registry by psycopg, both in memory."""
    made = Platform()
    monkeypatch.setattr(requests.Session, "request", lambda _self, *rest, **more: ask(made, faults, *rest, **more))
    monkeypatch.setattr(psycopg, "connect", lambda **_: Connection(made, faults))
    yield made
    made.close()


def handler(platform: Platform, command: str, headers: dict[str, str]) -> _Handler:
    made = _Handler.__new__(_Handler)
    made.platform, made.command, made.headers = platform, command, headers
    return made


def ask(platform: Platform, faults: Faults, method: str, url: str, **options: Any) -> requests.Response:
    params, data = options.get("params"), options.get("data")
    request = requests.Request(method, url, params=params, headers=options.get("headers")).prepare()
    body = data.encode() if isinstance(data, str) else b"".join(data or ())
    path = request.path_url
    name = "orthanc"
    fault = faults.fail() if faults.reach(name) else None  # may raise
    status, content = fault or handler(platform, method, dict(request.headers))._answer(path, body)
    answer = requests.Response()
    answer.status_code, answer._content, answer.request = status, content, request
    return answer


class Connection:
    """psycopg's, of a registry in memory."""

    def __init__(self, platform: Platform, faults: Faults) -> None:
        self._platform, self._faults = platform, faults

    def close(self) -> None:
        pass

    def execute(self, statement: str, values: tuple[Any, ...]) -> Rows:
        if self._faults.reach("registry"):
            return self._faults.fail()
        function = statement.partition("registry.")[2].partition("(")[0]
        values = [getattr(value, "obj", value) for value in values]
        answer = handler(self._platform, "POST", {})._registry(function, values)
        return Rows([tuple(row) for row in answer] if isinstance(answer, list) else [(answer,)])


# --- the delivery -----------------------------------------------------------------------------------------------------


def delivered() -> dict[str, bytes]:
    random_ = random.Random(11)
    study, series = uid(random_), uid(random_)
    image = instance(random_, study, series)
    return {
        "a.dcm": image,
        "deep/b.dcm": instance(random_, uid(random_), uid(random_)),
        "deep/cut.dcm": image[:2000],
        "note.txt": b"note",
    }


FILES = delivered()
DIGESTS = sorted(hashlib.sha256(data).hexdigest() for data in FILES.values())
COUNT = iter(range(1 << 30))


def everything(root: Path) -> list[str]:
    return sorted(digest for name in ("inbox", "processed", "failed") for digest in contents(root / name))


def carry_one(base: Path, faults: Faults, platform: Platform, fault: tuple[str, int, Any]) -> tuple[str, ...]:
    """One delivery that meets one fault; how it was met: `retried`, and the reasons of what ended by it."""
    for kept in (platform.identity, platform.instances, platform.owner, platform.recorded):
        kept.clear()
    root = base / str(next(COUNT))
    house = House(root, faults, platform)
    try:
        deliver(root / "inbox" / "north" / "study", FILES)
        faults.arm(*fault)
        while not house.claim() and house.tries() < FAILURES:
            assert everything(root) == DIGESTS, "lost while it was claimed"
        house.carry(lambda: house.ended() or house.tries() >= FAILURES)
        retried = house.tries() > 0
        faults.fail = None
        assert set(everything(root)) == set(DIGESTS), "lost"
        assert house.claim(), "not taken, although all is well"
        house.carry(house.ended)
        assert everything(root) == DIGESTS, "not as delivered at the end"
        return (*(["retried"] if retried else []), *check_end(house))
    finally:
        house.close()
        REMOVE(root)


def check_end(house: House) -> list[str]:
    """What ended is where it says, and is stored or has a reason; the reasons beside the one that there has to be."""
    (summary,) = house.journal.finished_summaries(0, 9)
    assert house.metrics._values["imaging_importer_deliveries_total"] == {
        (("clinic", "north"), ("outcome", summary.result)): 1
    }, "ended, and not counted once"
    assert not list((house.root / "inbox").glob(".spool/north/*")), "ended, and still in the spool"
    assert not list((house.root / "inbox" / "north").iterdir())
    assert list((house.root / "inbox" / ".spool" / ".scratch").iterdir()) == []
    folders = list((house.root / "failed").glob("north/*/*"))
    assert len(folders) == 1
    report = json.loads((folders[0] / "report.json").read_text())
    assert (folders[0] / "REASON.txt").read_text()
    reasons_ = {failure["path"]: failure["reason"] for failure in report["failures"]}
    assert set(reasons_.values()) <= set(reasons.SENTENCES)
    assert "deep/cut.dcm" in reasons_ or "." in reasons_
    stored = house.platform.md5s()
    for name in ("a.dcm", "deep/b.dcm"):
        place = list((house.root / ("failed" if name in reasons_ else "processed")).glob(f"north/*/*/{name}"))
        assert len(place) == 1 or "." in reasons_, f"{name} is not where it is said to be"
        assert name in reasons_ or sop_uid(FILES[name]) in stored, f"{name} is told as stored and is not"
    reasons_.pop("deep/cut.dcm", None)
    return sorted(set(reasons_.values()))


def walk(
    tmp_path: Path, faults: Faults, platform: Platform, names: list[str], kinds: dict[str, Callable[[], Any]]
) -> dict[str, set[tuple[str, ...]]]:
    """Each kind of fault at each call of these names; how each kind was met."""
    faults.arm("", 0, None)
    assert carry_one(tmp_path, faults, platform, ("", 0, None)) == ()
    calls = Counter({name: faults.calls[name] for name in names})
    assert all(calls.values()), f"never called: {calls}"
    print(dict(calls), f"{calls.total() * len(kinds)} cases")
    met: dict[str, set[tuple[str, ...]]] = {}
    wrong: list[str] = []
    for kind, fail in kinds.items():
        for name in names:
            for number in range(1, calls[name] + 1):
                try:
                    met.setdefault(kind, set()).add(carry_one(tmp_path, faults, platform, (name, number, fail)))
                except AssertionError as error:
                    wrong.append(f"{kind} at call {number} of {name}: {str(error).splitlines()[0]}")
    assert not wrong, f"{len(wrong)} wrong:\n" + "\n".join(wrong)
    return met


# --- the file system --------------------------------------------------------------------------------------------------

CALLS = {
    os: (
        "open", "scandir", "stat", "rename", "mkdir", "fsync", "pread", "unlink", "rmdir", "pathconf", "lstat", "memfd_create",
    ),
}  # fmt: skip
ACROSS = {shutil: ("copy2", "copystat", "rmtree")}
ERRNOS = (
    "EACCES", "EBUSY", "EDQUOT", "EEXIST", "EILSEQ", "EINVAL", "EIO", "EISDIR", "ELOOP", "EMFILE", "ENAMETOOLONG",
    "ENFILE", "ENODEV", "ENOENT", "ENOMEM", "ENOSPC", "ENOTDIR", "ENOTEMPTY", "EPERM", "EROFS", "ESTALE", "ETIMEDOUT",
    "ETXTBSY", "EXDEV", "ENXIO", "EUCLEAN", "EOVERFLOW", "EOPNOTSUPP",
)  # fmt: skip


def raising(error: Exception | Callable[[], Exception]) -> Callable[[], Any]:
    def fail() -> Any:
        raise error() if callable(error) else error

    return fail


def os_error(name: str) -> Callable[[], Any]:
    number = getattr(errno, name)
    return raising(lambda: OSError(number, os.strerror(number), "a file"))


def instrument(monkeypatch: pytest.MonkeyPatch, faults: Faults, calls: dict[Any, tuple[str, ...]]) -> list[str]:
    for module, functions in calls.items():
        for function in functions:
            monkeypatch.setattr(module, function, faults.wrap(function, getattr(module, function)))
    return [function for functions in calls.values() for function in functions]


def across(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processed/ and failed/ are on another file system."""
    rename = os.rename

    def refuse(source: Any, target: Any, **options: Any) -> None:
        is_out = ".moving" in str(source) or os.path.basename(str(source)).startswith((".report", ".REASON"))
        here = os.readlink(f"/proc/self/fd/{options['src_dir_fd']}") if options else str(source)
        there = os.readlink(f"/proc/self/fd/{options['dst_dir_fd']}") if options else str(target)
        if not is_out and ("/.spool/" in here) and "/.spool/" not in there:
            raise OSError(errno.EXDEV, "another file system")
        rename(source, target, **options)

    monkeypatch.setattr(os, "rename", refuse)


@pytest.mark.parametrize("kinds", [ERRNOS[::2], ERRNOS[1::2]], ids=" ".join)
@pytest.mark.parametrize("far", [False, True], ids=["", "other-file-system"])
def test_the_file_system(tmp_path: Path, monkeypatch, faults, platform, far: bool, kinds: tuple[str, ...]) -> None:
    if far:
        across(monkeypatch)
    names = instrument(monkeypatch, faults, CALLS | (ACROSS if far else {}))
    met = walk(tmp_path, faults, platform, names, {name: os_error(name) for name in kinds})
    for kind, ends in met.items():
        print(kind, ends)
