"""Any error, at any place: the work is tried again, or ends with a reason; never both, never neither.

One delivery of everything is carried by the importer's own lanes in this process, on a real disk and journal; Orthanc
and PostgreSQL answer from memory. First it is counted what is asked of each of them. Then each of these calls goes
wrong in each way that there is (the tables below), from that call on, until the job has failed a few times or ended;
then all is well again, and the job has to end with every delivered file where it belongs.
"""

from __future__ import annotations

import errno
import hashlib
import http
import http.client
import json
import logging
import os
import random
import re
import shutil
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests
import urllib3.exceptions
from deliveries import contents, deliver, instance, sop_uid, uid
from imaging_importer import delivery, reasons, status, worker
from imaging_importer.delivery import Carrier
from imaging_importer.journal import SAME_TROUBLE, Journal
from imaging_importer.metrics import Metrics
from imaging_importer.orthanc import OrthancClient
from imaging_importer.quarantine import Quarantine
from imaging_importer.reasons import RejectedError, TransientError
from imaging_importer.recorder import Recorder
from imaging_importer.registry import PostgresRegistry
from imaging_importer.settle import Settler, put_back
from imaging_importer.spool import Spool, lock
from imaging_importer.ways_in.tickets import Tickets
from imaging_importer.worker import Worker
from importer_fakes import Platform, _Handler, is_stow
from importer_process import config_for

ALL = bool(os.environ.get("IMAGING_LONG"))
SEED = int(os.environ.get("IMAGING_SEED") or random.SystemRandom().randrange(1 << 32))
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
    """The rows that a cursor gives."""

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
        settler = Settler(root / "processed", root / "failed", self.journal, self.spool)
        registry_ = PostgresRegistry({})
        self.metrics = Metrics()
        carrier = Carrier(
            config_for(root, "http://orthanc"), self.journal, self.spool, settler, registry_,
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

    def take(self) -> bool:
        """As the scanner does; whether the folder is in the spool."""
        folder = self.root / "inbox" / "north" / "study"
        there = folder.exists()
        with self.faults:
            try:
                if self.spool.may_hold_unknown:
                    self.spool.recover()
                if there:
                    self.spool.take_folder("north", folder)
            except (OSError, sqlite3.Error):
                self.stumbled += 1
        return not folder.exists() and not self.spool.may_hold_unknown

    def turn(self) -> None:
        """As a lane does."""
        with self.faults:
            try:
                if not (turn := self.worker._next()):
                    time.sleep(0.001)  # a batch is being read
                else:
                    try:
                        self.worker._carry(turn)
                    finally:
                        self.worker._end(turn)
            except Exception:
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
    monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)  # it says very much
    monkeypatch.setattr(worker, "FIRST_DELAY", 0.0)
    monkeypatch.setattr(worker, "LONGEST_DELAY", 0.0)
    monkeypatch.setattr(delivery, "PAUSES", (0.0,))
    return made


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Path]:
    """In memory, where there is such a place: it is many small files."""
    memory = Path("/dev/shm")  # noqa: S108
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as directory:
        yield Path(directory)


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
        while not house.take() and house.tries() < FAILURES:
            assert everything(root) == DIGESTS, "lost while it was taken"
        house.carry(lambda: house.ended() or house.tries() >= FAILURES)
        retried = house.tries() > 0
        faults.fail = None
        assert set(everything(root)) == set(DIGESTS), "lost"
        assert house.take(), "not taken, although all is well"
        house.carry(house.ended)
        assert everything(root) == DIGESTS, "not as delivered at the end"
        return (*(["retried"] if retried else []), *check_end(house))
    finally:
        house.close()
        REMOVE(root)


def check_end(house: House) -> list[str]:
    """Every ended file is in its place, and is stored or has a reason; return the reasons beside the expected one."""
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
    base: Path,
    faults: Faults,
    platform: Platform,
    names: list[str],
    kinds: dict[str, Callable[[], Any]],
    impossible: Collection[tuple[str, str]] = (),
) -> dict[str, set[tuple[str, ...]]]:
    """Each kind of fault, and each call of these names; how each kind was met."""
    faults.arm("", 0, None)
    assert carry_one(base, faults, platform, ("", 0, None)) == ()
    calls = [(name, number) for name in names for number in range(1, faults.calls[name] + 1)]
    assert {name for name, _ in calls} == set(names), "some is never called"
    cases = [(*call, kind) for call in calls for kind in kinds if (call[0], kind) not in impossible]
    if not ALL:  # each call, and each kind, a few times
        random_ = random.Random(SEED)
        random_.shuffle(cases)
        seen: Counter[object] = Counter()
        cases = [case for case in cases if min(count(seen, case[:2]), count(seen, case[2])) <= 2]
    print(f"IMAGING_SEED={SEED} {len(cases)} cases of {len(calls)} calls and {len(kinds)} kinds")
    met: dict[str, set[tuple[str, ...]]] = {kind: set() for kind in kinds}
    wrong: list[str] = []
    for name, number, kind in cases:
        try:
            met[kind].add(carry_one(base, faults, platform, (name, number, kinds[kind])))
        except AssertionError as error:
            wrong.append(f"{kind} at call {number} of {name}: {str(error).splitlines()[0]}")
    assert not wrong, f"{len(wrong)} wrong:\n" + "\n".join(wrong)
    return met


def count(seen: Counter[object], what: object) -> int:
    seen[what] += 1
    return seen[what]


# --- the file system --------------------------------------------------------------------------------------------------

CALLS = (
    (os, "open"), (os, "scandir"), (os, "stat"), (os, "lstat"), (os, "rename"), (os, "mkdir"), (os, "fsync"),
    (os, "pread"), (os, "unlink"), (os, "rmdir"), (os, "pathconf"), (os, "memfd_create"),
)  # fmt: skip
ACROSS = ((shutil, "copy2"), (shutil, "copystat"), (shutil, "rmtree"))
ERRNOS = (
    "EACCES", "EBUSY", "EDQUOT", "EEXIST", "EILSEQ", "EINVAL", "EIO", "EISDIR", "ELOOP", "EMFILE", "ENAMETOOLONG",
    "ENFILE", "ENODEV", "ENOENT", "ENOMEM", "ENOSPC", "ENOTDIR", "ENOTEMPTY", "ENXIO", "EOPNOTSUPP", "EOVERFLOW",
    "EPERM", "EROFS", "ESTALE", "ETIMEDOUT", "ETXTBSY", "EUCLEAN", "EXDEV",
)  # fmt: skip
# Errors that no file system gives: a file that exists is missing, or two names in one directory are on two systems.
LIES = {("unlink", "ENOENT"), ("rmdir", "ENOENT"), ("rename", "EXDEV")}
# An error that may concern one file alone ends that file. After any other error of the file system, it is tried again.
OF_A_FILE = {"EACCES", "EPERM", "ELOOP", "ENXIO", "ENOTDIR"}


def raising(make: Callable[[], BaseException]) -> Callable[[], Any]:
    def fail() -> Any:
        raise make()

    return fail


def os_error(name: str) -> Callable[[], Any]:
    number = getattr(errno, name)
    return raising(lambda: OSError(number, os.strerror(number), "a file"))


def across(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processed/ and failed/ are on another file system."""
    rename = os.rename

    def directory(path: Any, descriptor: int | None) -> str:
        return str(path) if descriptor is None else str(Path(f"/proc/self/fd/{descriptor}").readlink())

    def refuse(source: Any, target: Any, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None:
        if "/.spool/" in directory(source, src_dir_fd) and "/.spool/" not in directory(target, dst_dir_fd):
            raise OSError(errno.EXDEV, "another file system")
        rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "rename", refuse)


@pytest.mark.parametrize("far", [False, True], ids=["", "other-file-system"])
def test_the_file_system(base: Path, monkeypatch, faults: Faults, platform: Platform, far: bool) -> None:
    if far:
        across(monkeypatch)
    calls = CALLS + (ACROSS if far else ())
    for module, function in calls:
        monkeypatch.setattr(module, function, faults.wrap(function, getattr(module, function)))
    kinds = {name: os_error(name) for name in ERRNOS}
    met = walk(base, faults, platform, [function for _, function in calls], kinds, LIES)
    for kind, ends in met.items():
        ended = {reason for end in ends for reason in end} - {"retried"}
        assert ended <= ({"unreadable"} if kind in OF_A_FILE else set()), kind


# --- Orthanc ----------------------------------------------------------------------------------------------------------


def subclasses(*classes: type[BaseException]) -> list[type[BaseException]]:
    found: dict[type[BaseException], None] = {}
    for class_ in classes:
        found |= dict.fromkeys([class_, *subclasses(*class_.__subclasses__())])
    return list(found)


def made(class_: type[BaseException]) -> BaseException:
    """An exception of this class, whatever it wants to be told."""
    for arguments in (("a fault",), ("a fault", "", 0), ("a fault", "", ""), (b"", 0, 1, "a fault"), ()):
        try:
            return class_(*arguments)
        except (TypeError, AttributeError):
            continue
    error = class_.__new__(class_)
    error.args = ("a fault",)
    return error


BODIES = (
    b"", b"<html>starting</html>", b"null", b"true", b"7", b"[]", b"{}", b'"text"', b"[null]", b"[7]", b"[[]]", b"[{}]",
    b'{"ID": null}', b'{"00081199": 7}', b'{"00081199": {"Value": [{}]}}', b'[{"ID": "a", "Type"', b"\xff\xfe",
    b"[" * 9999,
)  # fmt: skip
CONNECTION = [
    class_
    for class_ in subclasses(OSError, urllib3.exceptions.HTTPError, http.client.HTTPException)
    if class_.__module__.partition(".")[0] in ("requests", "urllib3", "http", "builtins")
]


# The reasons of an end, and of which answers; none: connections that break.
FINAL_OF_ORTHANC = {
    "not-listable": {"400"},
    "misread": {"409"},
    "deleted-meanwhile": {"b'[]'"},
    "refused-by-archive": {"400"},
    "stops-the-archive": set(),
}


def test_orthanc(base: Path, faults: Faults, platform: Platform) -> None:
    kinds: dict[str, Callable[[], Any]] = {
        f"{class_.__module__}.{class_.__name__}": raising(lambda class_=class_: made(class_)) for class_ in CONNECTION
    }
    kinds |= {str(status.value): lambda status=status: (status.value, b"") for status in http.HTTPStatus}
    kinds |= {str(body[:40]): lambda body=body: (200, body) for body in BODIES}
    met = walk(base, faults, platform, ["orthanc"], kinds)
    ended = {kind: {reason for end in ends for reason in end} - {"retried"} for kind, ends in met.items()}
    # Final: a study that Orthanc cannot list, reads as another, no longer has, or stops at.
    assert {reason for reasons_ in ended.values() for reason in reasons_} <= FINAL_OF_ORTHANC.keys()
    for reason, of_kind in FINAL_OF_ORTHANC.items():
        found = {kind for kind, reasons_ in ended.items() if reason in reasons_}
        assert found <= (of_kind or {name for name in kinds if "." in name}), reason


# --- the registry -----------------------------------------------------------------------------------------------------

DATABASE_ERRORS = subclasses(psycopg.Error)


def state(class_: type[psycopg.Error]) -> str:
    """Its SQLSTATE; empty for what psycopg itself raises."""
    found = getattr(class_, "sqlstate", None)
    return found if isinstance(found, str) else ""


FINAL = {"22", "23", "54", "DataError"}


def test_the_registry(base: Path, faults: Faults, platform: Platform) -> None:
    """One of each class of SQLSTATE, and all that have none."""
    classes = {state(class_)[:2] or class_.__name__: class_ for class_ in DATABASE_ERRORS}
    classes |= {"23": psycopg.errors.UniqueViolation, "unknown clinic": psycopg.errors.ForeignKeyViolation}
    kinds = {name: raising(lambda class_=class_: class_("a fault")) for name, class_ in classes.items()}
    met = walk(base, faults, platform, ["registry"], kinds)
    for kind, ends in met.items():
        ended = {reason for end in ends for reason in end} - {"retried"}
        assert ended == ({"not-listable"} if kind in FINAL else set()), kind


@pytest.mark.parametrize("class_", DATABASE_ERRORS, ids=lambda class_: class_.__name__)
def test_each_error_of_postgresql_is_final_or_not(monkeypatch: pytest.MonkeyPatch, class_: type[psycopg.Error]) -> None:
    fail = raising(lambda: class_("a fault"))
    monkeypatch.setattr(psycopg, "connect", lambda **_: fail())
    is_final = state(class_)[:2] in FINAL if state(class_) else issubclass(class_, psycopg.DataError)
    with pytest.raises(RejectedError if is_final and state(class_) != "23503" else TransientError):
        PostgresRegistry({}).claim_study("1.2.3", "north")


# --- the journal, and the importer itself -----------------------------------------------------------------------------


def test_the_journal(base: Path, monkeypatch, faults: Faults, platform: Platform) -> None:
    monkeypatch.setattr(Journal, "_transaction", faults.wrap("journal", Journal._transaction))
    kinds = {class_.__name__: raising(lambda class_=class_: class_("a fault")) for class_ in subclasses(sqlite3.Error)}
    for kind, ends in walk(base, faults, platform, ["journal"], kinds).items():
        assert {reason for end in ends for reason in end} <= {"retried"}, kind


MISTAKES = (KeyError, TypeError, AttributeError, IndexError, ValueError, UnicodeError, AssertionError, RecursionError)
STEPS = (
    (Carrier, "_claim"), (Carrier, "_place"), (Carrier, "_verify"), (Recorder, "refresh"),
    (Quarantine, "strikes"), (Settler, "choose"), (Settler, "_report"),
)  # fmt: skip


def test_mistakes_of_our_own(base: Path, monkeypatch, faults: Faults, platform: Platform) -> None:
    for class_, name in STEPS:
        monkeypatch.setattr(class_, name, faults.wrap(name, getattr(class_, name)))
    kinds = {class_.__name__: raising(lambda class_=class_: class_("a fault")) for class_ in (*MISTAKES, MemoryError)}
    for kind, ends in walk(base, faults, platform, [name for _, name in STEPS], kinds).items():
        assert {reason for end in ends for reason in end} <= {"retried"}, kind


@pytest.mark.parametrize("step", [name for class_, name in STEPS if class_ is not Settler])
def test_a_mistake_of_our_own_that_is_made_each_time_ends(
    base: Path, monkeypatch, faults: Faults, platform: Platform, step: str
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "FAILURES", SAME_TROUBLE + 10)
    (class_,) = [class_ for class_, name in STEPS if name == step]
    monkeypatch.setattr(class_, step, faults.wrap(step, getattr(class_, step)))
    end = carry_one(base, faults, platform, (step, 1, raising(lambda: KeyError("a fault"))))
    assert end == ("retried", "importer-stumbled")


# --- what ends, and what is shown as not ending -----------------------------------------------------------------------


@pytest.fixture
def house(base: Path, faults: Faults, platform: Platform) -> Iterator[House]:
    made = House(base / "house", faults, platform)
    yield made
    made.close()


def test_a_turn_that_is_over_when_the_job_is_leaves_no_job_begun(house: House, monkeypatch) -> None:
    """Nobody would take it up again, and as many as MOST_BEGUN would keep every other delivery from being begun."""
    monkeypatch.setattr(worker, "SLICE", 0.0)  # every step is a turn
    deliver(house.root / "inbox" / "north" / "study", FILES)
    assert house.take()
    house.carry(house.ended)
    check_end(house)


def test_the_same_trouble_again_and_again_is_told_as_such(house: House, faults: Faults) -> None:
    """Remove the words that differ from time to time, until the next step is reached."""
    deliver(house.root / "inbox" / "north" / "study", FILES)
    assert house.take()
    numbers = iter(range(10**6))
    faults.arm("orthanc", 1, raising(lambda: requests.ConnectionError(f"<object at 0x{next(numbers):x}> is away")))
    house.carry(lambda: house.tries() >= SAME_TROUBLE - 1)
    (row,), _ = shown(house)
    assert (row["repeats"], house.journal.repeating()) == (False, 0)
    house.carry(lambda: house.tries() >= SAME_TROUBLE)
    (row,), (of_clinic,) = shown(house)
    assert (row["repeats"], row["repeated"], house.journal.repeating()) == (True, SAME_TROUBLE, 1)
    assert re.match(r"the same trouble 20 times since 20.*is away.*imaging-importer drop", row["trouble"])
    assert "is away" not in of_clinic["trouble"]
    assert "Ask the administrator" in of_clinic["trouble"]
    faults.fail = raising(lambda: requests.ReadTimeout("something else"))
    house.carry(lambda: house.tries() > SAME_TROUBLE)
    assert house.journal.repeating() == 0
    faults.fail = None
    house.carry(house.ended)
    assert check_end(house) == []


def shown(house: House) -> tuple[list[dict[str, Any]], ...]:
    """The open deliveries as administrators and as the clinic see them."""
    summaries = house.journal.open_summaries(9)
    return tuple([status._open(summary, is_root) for summary in summaries] for is_root in (True, False))


def test_two_open_deliveries_never_choose_one_place(house: House, faults: Faults, monkeypatch) -> None:
    """The first has chosen and cannot move yet; the second has its name, and the names of its files."""
    monkeypatch.setattr(Settler, "_move", faults.wrap("move", Settler._move))
    folder = house.root / "inbox" / "north" / "study"
    deliver(folder, FILES)
    assert house.take()
    faults.arm("move", 1, os_error("EROFS"))
    house.carry(lambda: house.tries() >= 1)
    deliver(folder, FILES | {"note.txt": b"another"})
    assert house.take()
    house.carry(lambda: house.tries() >= 4)
    faults.fail = None
    house.carry(house.ended)
    for place in ("processed", "failed"):
        assert sorted(path.name for path in (house.root / place).glob("north/*/*")) == ["study", "study.2"]
    assert sorted(path.read_bytes() for path in house.root.glob("processed/north/*/*/note.txt")) == [
        b"another",
        b"note",
    ]
    assert len(everything(house.root)) == 2 * len(FILES)


def test_a_place_that_somebody_else_has_taken_meanwhile_is_left_to_him(
    house: House, faults: Faults, monkeypatch
) -> None:
    monkeypatch.setattr(Settler, "_move", faults.wrap("move", Settler._move))
    deliver(house.root / "inbox" / "north" / "study", FILES)
    assert house.take()
    faults.arm("move", 1, os_error("EROFS"))
    house.carry(lambda: house.tries() >= 1)
    (job,) = house.journal.open_jobs()
    deliver(job.processed_path, {"a.dcm": b"somebody's"})
    faults.fail = None
    house.carry(house.ended)
    assert (job.processed_path / "a.dcm").read_bytes() == b"somebody's"
    assert [path.name for path in job.processed_path.parent.iterdir() if (path / "note.txt").exists()] == ["study.2"]


def test_a_folder_that_is_taken_away_ends(house: House) -> None:
    deliver(house.root / "inbox" / "north" / "study", FILES)
    assert house.take()
    (job,) = house.journal.open_jobs()
    REMOVE(house.spool.folder(job))
    house.carry(house.ended)
    (report,) = house.root.glob("failed/north/*/study/report.json")
    assert [failure["reason"] for failure in json.loads(report.read_text())["failures"]] == ["withdrawn"]


@pytest.mark.parametrize(
    "name", ["Ж" * 127, "Ж" * 127 + "x", "a" * 255, "\udcff" * 255], ids=("254", "255", "a", "bytes")
)
@pytest.mark.parametrize("far", [False, True], ids=["", "other-file-system"])
def test_the_longest_names_go_the_whole_way_twice_and_back(
    house: House, monkeypatch, platform: Platform, name: str, far: bool
) -> None:
    """In processed/ and failed/, and delivered again from there, to end there once more."""
    if far:
        across(monkeypatch)
    inbox = house.root / "inbox" / "north"
    for _ in range(2):
        deliver(inbox / name, FILES)
        house.spool.take_folder("north", inbox / name)
        house.carry(house.ended)
    for again in (1, 2):
        folders = sorted(house.root.glob("failed/north/*/*"))
        assert len(folders) == 2
        back = put_back(folders[0], house.root / "failed", house.root / "inbox")
        house.spool.take_folder("north", back)
        house.carry(house.ended)
        assert len(list(house.root.glob("processed/north/*/*"))) == 2, again
    assert house.tries() == 0
    assert Counter(everything(house.root)) == Counter(DIGESTS * 2)


@pytest.mark.parametrize("status_", [500, 503])
def test_an_image_that_orthanc_always_fails_on_ends_once_others_are_stored(
    house: House, platform: Platform, monkeypatch, status_: int
) -> None:
    """500 may concern the image; 503 never does. Others of its delivery are stored nevertheless."""
    bad = sop_uid(FILES["a.dcm"]).encode()
    answer = _Handler._answer

    def fails(self: _Handler, path: str, body: bytes) -> tuple[int, bytes]:
        return (status_, b"") if bad in body and is_stow(path) else answer(self, path, body)

    monkeypatch.setattr(_Handler, "_answer", fails)
    deliver(house.root / "inbox" / "north" / "study", FILES)
    assert house.take()
    random_ = random.Random(5)
    for number in range(10):
        folder = house.root / "inbox" / "south" / f"{number}"
        deliver(folder, {"a.dcm": instance(random_, uid(random_), uid(random_))})
        house.spool.take_folder("south", folder)
        house.carry(lambda number=number: "south" not in house.journal.open_clinics())
        before = house.tries()
        house.carry(lambda before=before: house.ended() or house.tries() > before)
    open_folders = [job.folder for job in house.journal.open_jobs()]
    assert ("study" in open_folders) == (status_ == 503)
    if status_ == 500:
        summary = next(s for s in house.journal.finished_summaries(0, 99) if s.job.folder == "study")
        assert summary.reasons == {"refused-by-archive": 1, "truncated": 1}
        assert summary.result == "partly-failed"
