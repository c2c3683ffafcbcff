"""However much one clinic delivers, by whatever way, another one hardly feels it."""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import pytest
from deliveries import deliver, instance, uid
from imaging_importer.journal import Journal, State
from imaging_importer.metrics import Metrics
from imaging_importer.recorder import Recorder
from imaging_importer.ways_in.folders import Inbox
from imaging_importer.ways_in.tickets import Tickets
from imaging_importer.ways_in.uploads import UPLOADS_AT_ONCE, Places
from imaging_importer.web import MOST_CONNECTIONS
from imaging_importer.worker import LANES, MOST_BEGUN, Worker
from importer_fakes import Platform
from importer_process import UPLOAD_SECRET, start, wait_until
from uploads import multipart, upload

# --- the lanes --------------------------------------------------------------------------------------------------------


class Carrier:
    """Carries jobs of so many steps, and writes down who was carried, and with whom together."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.lock = threading.Lock()
        self.running: list[str] = []
        self.steps: list[str] = []  # the job of each step
        self.together: list[list[str]] = []
        self.open = 0
        self.most_open = 0
        self.sizes: dict[str, int] = {}  # job -> bytes of each of its batches
        self.length: dict[str, int] = {}
        self.crowded: dict[str, bool] = {}

    def carry(self, job, crowded):
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            done = self.journal.job(job.id).attempts
            for _ in range(self.length.get(job.id, 5) - done):
                batch: Future = Future()
                bodies = [SimpleNamespace(weight=self.sizes.get(job.id, 0))]
                batch.set_result(SimpleNamespace(instances=bodies))
                yield batch
                self._step(job, crowded)
                self.journal.trouble(job.id, "")
            self.tickets.answer(job.id, lambda: None)
            self.journal.finish(job.id)
        finally:
            self.open -= 1

    def _step(self, job, crowded) -> None:
        with self.lock:
            self.running.append(job.id)
            self.together.append(sorted(self.running))
            self.steps.append(job.id)
            self.crowded[job.id] = crowded()
        time.sleep(0.02)
        with self.lock:
            self.running.remove(job.id)


class Lanes:
    """A worker whose lanes run for as long as `until` is not true."""

    def __init__(self, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("imaging_importer.worker.SLICE", 0)  # every step is a turn
        self.journal = journal
        self.carrier = Carrier(journal)
        self.tickets = self.carrier.tickets = Tickets()
        self.room = True
        self.full: set[str] = set()  # clinics that have used their quota
        self.worker = Worker(
            journal,
            self.carrier,
            self.tickets,
            Metrics(),
            lambda *_: None,
            lambda: self.room,
            lambda clinic: clinic not in self.full,
        )

    def job(self, clinic: str, number: int, steps: int = 5, size: int = 0) -> str:
        job_id = f"{clinic}-{number:03}"
        self.journal.add(job_id, clinic, "folder")
        self.carrier.length[job_id], self.carrier.sizes[job_id] = steps, size
        return job_id

    def run(self, until: Callable[[], bool]) -> None:
        stopping = threading.Event()
        threads = [threading.Thread(target=self.worker.run, args=(stopping,)) for _ in range(LANES)]
        for thread in threads:
            thread.start()
        reached = wait_until(until, 60)
        stopping.set()
        self.worker.wake()
        for thread in threads:
            thread.join()
        assert reached


@pytest.fixture
def lanes(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> Lanes:
    return Lanes(journal, monkeypatch)


def test_clinics_go_by_turns_whatever_each_has_waiting(lanes: Lanes, journal: Journal) -> None:
    for number in range(40):
        lanes.job("greedy", number)
    for clinic in "abcd":
        lanes.job(clinic, 0)
    lanes.run(lambda: not set(journal.open_clinics()) - {"greedy"})
    small = sum(not step.startswith("greedy") for step in lanes.carrier.steps)
    assert small == 20
    assert len(lanes.carrier.steps) - small <= 8, "the greedy one had more turns than each of the others"


def test_a_clinic_has_one_lane_and_different_clinics_go_together(lanes: Lanes, journal: Journal) -> None:
    for number in range(6):
        for clinic in ("north", "south", "west", "east"):
            lanes.job(clinic, number)
    lanes.run(lambda: not journal.open_jobs())
    clinics = [[job.partition("-")[0] for job in jobs] for jobs in lanes.carrier.together]
    assert all(len(set(running)) == len(running) for running in clinics)
    assert max(map(len, clinics)) == LANES


def test_only_one_large_batch_is_sent_at_a_time(lanes: Lanes, journal: Journal) -> None:
    large = [lanes.job(clinic, 0, size=600 << 20) for clinic in ("north", "south", "west", "east")]
    small = lanes.job("small", 0)
    lanes.run(lambda: not journal.open_jobs())
    assert max(len(set(running) & set(large)) for running in lanes.carrier.together) == 1
    assert lanes.carrier.steps[-5:].count(small) == 0, "it waited for the large ones"


def test_who_waits_goes_before_the_clinics_folders_and_the_folders_still_move(lanes: Lanes, journal: Journal) -> None:
    folder = lanes.job("north", 0, steps=50)
    waited_for = [
        lanes.tickets.issue("north", lambda number=number: lanes.job("north", number, steps=1))
        for number in range(1, 9)
    ]
    lanes.run(lambda: all(not journal.is_open(ticket.job_id) for ticket in waited_for))
    assert lanes.carrier.steps[0] == waited_for[0].job_id
    assert 3 <= lanes.carrier.steps.count(folder) <= 12


def test_with_more_jobs_than_may_be_begun_all_end(lanes: Lanes, journal: Journal) -> None:
    for number in range(3 * MOST_BEGUN):
        lanes.job(f"clinic{number}", 0, steps=3)
    lanes.run(lambda: not journal.open_jobs())
    assert lanes.carrier.most_open <= MOST_BEGUN
    assert len(lanes.carrier.steps) == 9 * MOST_BEGUN


def test_a_job_that_fails_for_ever_holds_up_neither_its_clinic_nor_others(
    lanes: Lanes, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, carry = lanes.job("north", 0), lanes.carrier.carry

    def fail(job, crowded):
        if job.id == bad:
            raise OSError("a disk that is broken at this place")
        yield from carry(job, crowded)

    monkeypatch.setattr(lanes.carrier, "carry", fail)
    lanes.job("north", 1)
    lanes.job("south", 0)
    lanes.run(lambda: [job.id for job in journal.open_jobs()] == [bad])
    assert journal.job(bad).error == "a disk that is broken at this place"


def test_batches_are_small_only_while_others_have_work(lanes: Lanes, journal: Journal) -> None:
    lanes.job("north", 0)
    lanes.run(lambda: not journal.open_jobs())
    assert lanes.carrier.crowded == {"north-000": False}
    lanes.job("south", 0)
    lanes.run(lambda: not journal.open_jobs())
    assert lanes.carrier.crowded["south-000"], "north was there a moment ago"


def test_without_room_nothing_is_begun_and_what_is_stored_is_ended(lanes: Lanes, journal: Journal) -> None:
    waiting = lanes.job("north", 0)
    journal.advance(lanes.job("south", 0), State.VERIFIED)
    lanes.room = False
    lanes.run(lambda: [job.id for job in journal.open_jobs()] == [waiting])
    assert waiting not in lanes.carrier.steps
    lanes.room = True
    lanes.run(lambda: not journal.open_jobs())


def test_two_hold_different_studies_and_not_the_same(journal: Journal) -> None:
    recorder = Recorder(journal, None)
    order: list[str] = []

    def other(studies: list[str]) -> None:
        with recorder.holding(studies):
            order.append(",".join(studies))

    with recorder.holding(["1", "2"]), recorder.holding(["2"]):
        threads = [threading.Thread(target=other, args=(studies,)) for studies in (["3", "2"], ["4"])]
        for thread in threads:
            thread.start()
        assert wait_until(lambda: order == ["4"], 10)
        order.append("released")
    for thread in threads:
        thread.join(10)
    assert order == ["4", "released", "3,2"]


# --- the places for uploads -------------------------------------------------------------------------------------------


def test_one_clinic_has_half_of_the_places_and_leaves_some_to_each_that_comes() -> None:
    places = Places(UPLOADS_AT_ONCE)
    taken = {clinic: sum(places.enter(clinic) for _ in range(100)) for clinic in "abcd"}
    assert taken["a"] == UPLOADS_AT_ONCE // 2
    assert all(taken.values())
    places.leave("a")
    assert places.enter("e")


# --- the inbox --------------------------------------------------------------------------------------------------------


def test_a_clinic_with_very_much_in_its_inbox_does_not_keep_the_scanner(tmp_path: Path, monkeypatch) -> None:
    """10,000 folders and one of very many files, against one folder: it is looked at and taken in its turn."""
    taken: list[str] = []

    class Spool:
        leases_work = False

        def take_folder(self, clinic: str, path: Path) -> str:
            time.sleep(0.002)  # renames and syncs
            taken.append(clinic)
            path.rmdir()
            return path.name

    for number in range(10_000):
        (tmp_path / "greedy" / f"{number}").mkdir(parents=True)
    (tmp_path / "modest" / "study").mkdir(parents=True)

    def look(path: Path):
        for _ in range(10**6 if path.name == "0" else 3):
            yield
        return SimpleNamespace(fingerprint=b"same", files=1, size=1, unfinished=False, directories=())

    monkeypatch.setattr("imaging_importer.tree.look", look)
    inbox = Inbox(tmp_path, Spool(), lambda: {"greedy", "modest"}, lambda: None, 0.3, 30, 3600)
    longest = 0.0
    end = time.monotonic() + 30
    while "modest" not in taken and time.monotonic() < end:
        began = time.monotonic()
        inbox.tick()
        longest = max(longest, time.monotonic() - began)
    assert "modest" in taken
    assert len(taken) < 2000
    assert longest < 5


def test_what_is_remembered_of_the_inbox_is_bounded_and_the_rest_is_counted(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("imaging_importer.ways_in.folders.MOST_WAITING", 100)
    for clinic, count in (("greedy", 200), ("modest", 5)):
        for number in range(count):
            (tmp_path / clinic / f"{number}").mkdir(parents=True)
    inbox = Inbox(tmp_path, None, lambda: {"greedy", "modest"}, lambda: None, 60, 60, 3600)
    inbox._scan(time.monotonic())
    remembered = [path.parent.name for path in inbox.waiting]
    assert remembered.count("modest") == 5
    assert remembered.count("greedy") <= 50
    assert remembered.count("greedy") + inbox.further["greedy"] == 200
    for path in list(inbox.waiting)[:40]:
        path.rmdir()
    inbox._scan(time.monotonic())
    assert len(inbox.waiting) + sum(inbox.further.values()) == 165


# --- all together -----------------------------------------------------------------------------------------------------

SLOWEST = (2000, 1.0, 1.0)


class House:
    """A running importer with two clinics, and an Orthanc that has to work for each byte."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.random = random.Random(3)
        self.platform = Platform()
        sizes = {"limits": [1 << 30, 1 << 30], "upload_bytes": 1 << 30, "batch_bytes": 16 << 20, "batch_count": 50}
        self.process = start(root, self.platform.url, slowest=SLOWEST, **sizes)
        assert wait_until(lambda: "ready: inbox" in self.log(), 120, self.process), self.log()
        self.port = int(self.log().rpartition("status on http://127.0.0.1:")[2].partition("/")[0])
        assert wait_until(lambda: upload(self.port, body=b"", Content_Type="x/y").status == 415, 120), self.log()

    def log(self) -> str:
        log = self.root / "log"
        return log.read_text() if log.exists() else ""

    def image(self, pixels: int = 0) -> bytes:
        """An image that has so many bytes more."""
        data = instance(self.random, uid(self.random), uid(self.random))
        if pixels:
            data = data[: data.index(b"\xe0\x7f\x10\x00OW")] + b"\xe0\x7f\x10\x00OW\0\0" + pixels.to_bytes(4, "little")
            data += bytes(pixels)
        return data

    def upload(self, clinic: str) -> float:
        """Seconds until an image of a clinic is visible."""
        data = self.image()
        began = time.monotonic()
        assert upload(self.port, [data], clinic).status == 200
        return time.monotonic() - began

    def folder(self, clinic: str) -> float:
        study = uid(self.random)
        began = time.monotonic()
        image = instance(self.random, study, uid(self.random))
        deliver(self.root / "inbox" / clinic / f"study {study[-9:]}", {"0.dcm": image})
        assert wait_until(lambda: study in self.platform.recorded, 60), self.log()
        return time.monotonic() - began


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.process.kill()
    made.process.wait()
    made.platform.close()


class Flood:
    """A clinic pours in all it can: many parallel uploads, slow ones, a large instance, folders of many files."""

    def __init__(self, house: House, clinic: str) -> None:
        self.house, self.clinic = house, clinic
        self.over = threading.Event()
        self.uploads = 0
        study, series = uid(house.random), uid(house.random)
        files = [instance(house.random, study, series) for _ in range(400)]
        deliver(house.root / "inbox" / clinic / "large", {"0.dcm": house.image(80 << 20)})
        for number in range(4):
            deliver(
                house.root / "inbox" / clinic / f"many {number}",
                {f"{place}.dcm": data for place, data in enumerate(files[number * 100 :][:100])},
            )
        self.body = multipart([house.image() for _ in range(10)], "b0")
        self.threads = [threading.Thread(target=self.send) for _ in range(10)]
        self.threads += [threading.Thread(target=self.dribble) for _ in range(10)]

    def __enter__(self) -> Flood:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()

    def send(self) -> None:
        while not self.over.is_set():
            with contextlib.suppress(OSError, http.client.HTTPException):
                answer = upload(self.house.port, body=self.body, boundary="b0", clinic=self.clinic)
                self.uploads += answer.status == 200

    def dribble(self) -> None:
        while not self.over.is_set():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.house.port)) as connection:
                connection.sendall(head(self.clinic, len(self.body)))
                for byte in self.body:
                    connection.sendall(bytes([byte]))
                    if self.over.wait(0.2):
                        return


def head(clinic: str, length: int) -> bytes:
    return (
        f"POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {UPLOAD_SECRET}\r\n"
        f"X-Clinics: {clinic}\r\n"
        f"Content-Type: multipart/related; type=application/dicom; boundary=b0\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def test_while_one_clinic_pours_in_all_it_can_an_image_of_another_takes_at_most_twice_as_long(house: House) -> None:
    house.platform.faults.delay, house.platform.faults.cost = 0.5, 0.05
    alone = {way: statistics.median(way("north") for _ in range(3)) for way in (house.upload, house.folder)}
    with Flood(house, "south") as flood:
        assert wait_until(lambda: flood.uploads > 2, 60), house.log()
        for way, usual in alone.items():
            taken = [way("north") for _ in range(5)]
            print(f"{way.__name__}: alone {usual:.2f} s, in the flood {[round(seconds, 2) for seconds in taken]}")
            assert statistics.median(taken) < 2 * usual
        before = flood.uploads
        assert wait_until(lambda: flood.uploads > before, 60), "the flood itself is served too"


def test_an_upload_that_is_too_slow_is_ended_in_words_and_leaves_nothing(house: House) -> None:
    body = multipart([house.image()], "b0")
    with socket.create_connection(("127.0.0.1", house.port), timeout=20) as connection:
        connection.sendall(head("north", len(body)) + body[:-20])
        began = time.monotonic()
        answer = b""
        while data := connection.recv(4096):
            answer += data
    assert answer.startswith(b"HTTP/1.0 408 ")
    assert b"Nothing of it was kept" in answer
    assert time.monotonic() - began < 15
    assert not list((house.root / "inbox" / ".spool" / ".incoming").iterdir())


def test_very_many_uploads_of_one_clinic_at_once_leave_connections_for_another(house: House) -> None:
    """Each that is refused would be read on for some seconds."""
    house.platform.faults.delay = 0.2
    with contextlib.ExitStack() as stack:
        for _ in range(150):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", house.port)))
            with contextlib.suppress(OSError):
                connection.sendall(head("south", 1 << 20) + b"--b0\r\n")
        assert house.upload("north") < 10


def test_heads_that_never_end_hold_no_thread_and_the_next_request_is_answered(house: House) -> None:
    def threads() -> int:
        status = Path(f"/proc/{house.process.pid}/status").read_text()
        return int(status.partition("Threads:")[2].split()[0])

    usual = threads()
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", house.port)))
            with contextlib.suppress(OSError):
                connection.sendall(b"POST /dicom-web/studies HTTP/1.1\r\nHost: ")
        assert threads() - usual <= MOST_CONNECTIONS
        assert wait_until(lambda: house.upload("north") > 0, 30)
        assert wait_until(lambda: threads() <= usual + 2, 30), "they are ended though the senders are still there"
