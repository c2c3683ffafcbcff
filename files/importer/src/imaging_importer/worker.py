"""Carries folders and uploads, with fair turns for clinics. Work that fails for now is tried again, without a limit.

A few lanes (threads) carry jobs in small steps. A free lane takes the next step of the clinic that was served longest
ago. A clinic has at most one lane. Within a clinic, a job that somebody waits for goes first, by turns with folders. So
a clinic waits for at most one step of another one, however much that one delivers.
"""

import logging
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, wait
from dataclasses import dataclass, field

from imaging_importer.batch import Batch
from imaging_importer.delivery import Carrier, Step
from imaging_importer.journal import SAME_TROUBLE, Job, Journal, Outcome, State
from imaging_importer.metrics import Metrics
from imaging_importer.reasons import TransientError, UnavailableError
from imaging_importer.ways_in.tickets import Tickets

log = logging.getLogger(__name__)

LANES = 3
# Seconds that a lane continues with one job before it looks whether others wait.
SLICE = 0.25
# A clinic that was served within so many seconds is expected to come back.
CROWDED_FOR = 60.0
# Jobs that have begun and not ended. Each may have two batches of files open.
MOST_BEGUN = 16
# A batch of so many bytes takes Orthanc long and several times its size in memory, so only one of these runs at a time.
HEAVY = 64 << 20

# Errors that are not the importer's own mistake. They may pass, after any time.
PASSING = (TransientError, OSError, sqlite3.Error, MemoryError)

FIRST_DELAY = 1.0
LONGEST_DELAY = 60.0


class StoppingError(Exception):
    """The service stops. Unfinished work is left, and continues after the next start."""


def delay(attempt: int) -> float:
    """Seconds to wait after the n-th failure in a row: exponential, capped, with jitter."""
    longest: float = min(LONGEST_DELAY, FIRST_DELAY * 2 ** min(attempt, 10))
    return longest * random.uniform(0.5, 1)  # noqa: S311 - no secret


@dataclass
class Begun:
    """A job whose steps are under way."""

    steps: Generator[Step, None, None]
    coming: Future[Batch] | None = None

    def is_ready(self) -> bool:
        """Whether the next step can be taken without waiting for a disk."""
        return self.coming is None or self.coming.done()

    def is_heavy(self) -> bool:
        """Whether the next step sends a large batch."""
        if self.coming is None or not self.coming.done() or self.coming.exception():
            return False
        return sum(prepared.weight for prepared in self.coming.result().instances) >= HEAVY


@dataclass
class Turn:
    """The next work of a lane: steps of one job."""

    job: Job
    begun: Begun
    heavy: bool


@dataclass
class Served:
    """A clinic's turns."""

    at: float = 0.0  # monotonic: end of its last turn
    folder_next: bool = False  # its last turn was for a job that somebody waits for
    resting: dict[str, tuple[int, float]] = field(default_factory=dict)  # job id -> failures in a row, time of the next


class Worker:
    """The lanes, and the choice of the next clinic. `run` is the loop of one lane."""

    def __init__(
        self,
        journal: Journal,
        carrier: Carrier,
        tickets: Tickets,
        metrics: Metrics,
        report: Callable[[str, str], None],
        has_room: Callable[[], bool],
        may_begin: Callable[[str], bool],
    ) -> None:
        self._journal = journal
        self._carrier = carrier
        self._tickets = tickets
        self._metrics = metrics
        self._report = report
        self._has_room = has_room
        self._may_begin = may_begin
        self._changed = threading.Condition()
        self._clinics: dict[str, Served] = {}
        self._begun: dict[str, Begun] = {}
        self._busy: dict[str, Turn] = {}  # by clinic
        self._outage = 0  # failures in a row of a service that every job needs
        self._resumed = 0.0  # monotonic: until then that service is not asked

    def wake(self) -> None:
        """Wake the lanes: there may be something to do."""
        with self._changed:
            self._changed.notify_all()

    def run(self, stopping: threading.Event) -> None:
        """Carry jobs until the service stops."""
        while not stopping.is_set():
            try:
                with self._changed:
                    turn = self._next()
                    if turn is None:
                        self._changed.wait(1.0)
                        continue
                try:
                    self._carry(turn)
                finally:
                    self._end(turn)
            except StoppingError:
                return
            except Exception:
                log.exception("no job can be taken, because the journal or a disk cannot be read; it is tried again")
                stopping.wait(1.0)

    def _next(self) -> Turn | None:
        """The next steps, of the clinic that was served longest ago and has work that can be done now."""
        if time.monotonic() < self._resumed:
            return None
        clinics = self._journal.open_clinics()
        has_room = self._has_room()
        served = {clinic: self._clinics.setdefault(clinic, Served()) for clinic in clinics if clinic not in self._busy}
        for clinic in sorted(served, key=lambda clinic: served[clinic].at):
            for job in self._candidates(clinic, served[clinic]):
                begins = job.state in (State.TAKEN, State.LISTED)
                if begins and not has_room:
                    continue
                # A begun job is ended first. Else it would keep its place among MOST_BEGUN from other clinics.
                if begins and not job.ends and job.id not in self._begun and not self._may_begin(clinic):
                    continue
                if turn := self._turn(job):
                    self._busy[clinic] = turn
                    return turn
        return None

    def _candidates(self, clinic: str, served: Served) -> list[Job]:
        """The clinic's next jobs: the first ones that are waited for, and the oldest folder; none that rests."""
        now = time.monotonic()
        resting = {job_id for job_id, (_, until) in served.resting.items() if until > now}
        waited_for = self._tickets.waiting(clinic)
        awaited = [self._journal.job(job_id) for job_id in waited_for if job_id not in resting][:2]
        passed_over = resting.union(waited_for)
        oldest = self._journal.open_jobs(len(passed_over) + 1, clinic)
        folders = [job for job in oldest if job.id not in passed_over][:1]
        return folders + awaited if served.folder_next else awaited + folders

    def _turn(self, job: Job) -> Turn | None:
        begun = self._begun.get(job.id)
        if begun is None:
            if len(self._begun) >= MOST_BEGUN:
                return None
            begun = self._begun[job.id] = Begun(self._carrier.carry(job, lambda: self._is_crowded(job.clinic)))
        heavy = begun.is_heavy()
        if not begun.is_ready() or (heavy and any(turn.heavy for turn in self._busy.values())):
            return None
        return Turn(job, begun, heavy)

    def _is_crowded(self, clinic: str) -> bool:
        """Whether another clinic has work, or had some a moment ago and may come back."""
        since = time.monotonic() - CROWDED_FOR
        return any(other != clinic and served.at > since for other, served in self._clinics.copy().items())

    def _carry(self, turn: Turn) -> None:
        """Take steps of a job until its time is over, it has to wait or it ends."""
        job, begun = turn.job, turn.begun
        until = time.monotonic() + SLICE
        try:
            while True:
                begun.coming = next(begun.steps)
                if begun.coming:
                    wait([begun.coming], max(0.0, until - time.monotonic()))
                    if not begun.coming.done():
                        begun.coming.add_done_callback(lambda _: self.wake())
                        return
                if begun.is_heavy() or time.monotonic() >= until:
                    return
        except StopIteration:
            self._outage = 0
            self._forget(job, rests=False)
            self._finished(job)
        except StoppingError:
            raise
        except Exception as error:
            self._forget(job, rests=True)
            self._failed(job, error)

    def _end(self, turn: Turn) -> None:
        """Give way to the others."""
        job, begun = turn.job, turn.begun
        closing = False
        with self._changed:
            # If as many jobs are begun as may be, each gives way after a turn, and later continues where it was.
            if job.id in self._begun and len(self._begun) >= MOST_BEGUN:
                del self._begun[job.id]
                closing = True
            served = self._clinics.setdefault(job.clinic, Served())
            served.at = time.monotonic()
            served.folder_next = job.id in self._tickets.waiting(job.clinic)
            del self._busy[job.clinic]
            self._changed.notify_all()
        if closing:
            begun.steps.close()

    def _forget(self, job: Job, rests: bool) -> None:
        """End the job's steps: all are done, or the job rests and begins again."""
        with self._changed:
            self._begun.pop(job.id, None)
            resting = self._clinics[job.clinic].resting
            failures, _ = resting.pop(job.id, (0, 0.0))
            if rests:
                resting[job.id] = (failures + 1, time.monotonic() + delay(failures))

    def _failed(self, job: Job, error: Exception) -> None:
        passes = isinstance(error, PASSING)
        if isinstance(error, UnavailableError):
            self._report(error.service, str(error))
            with self._changed:
                # All lanes meet the same outage, so it counts once. Next time, another job goes first. If this job
                # stops the service, the others are carried nevertheless.
                if time.monotonic() >= self._resumed:
                    self._resumed = time.monotonic() + delay(self._outage)
                    self._outage += 1
        elif not passes:
            log.exception("job %s: unexpected", job.id)
        cause = error.service if isinstance(error, UnavailableError) else type(error).__name__
        self._metrics.count("imaging_importer_retries_total", cause=cause)
        self._tickets.answer(job.id, lambda: None)
        log.warning("job %s: will be tried again: %s", job.id, error)
        try:
            # An error of our own often has no words, or only one. Its type says more.
            self._journal.trouble(job.id, str(error) if passes else f"{type(error).__name__}: {error}")
            if not passes and self._journal.job(job.id).repeated >= SAME_TROUBLE:
                log.error("job %s: the importer stumbles over it each time and gives it up", job.id)
                self._journal.give_up(job.id)
        except sqlite3.Error as journal_error:
            log.warning("job %s: the journal cannot be written: %s", job.id, journal_error)

    def _finished(self, job: Job) -> None:
        summary = self._journal.finished_summary(job.id)
        files = summary.files
        for outcome, count in files.items():
            self._metrics.count("imaging_importer_files_total", count, clinic=job.clinic, outcome=outcome.value)
        for reason, count in summary.reasons.items():
            self._metrics.count("imaging_importer_failures_total", count, clinic=job.clinic, reason=reason)
        for note, count in summary.notes.items():
            self._metrics.count("imaging_importer_notes_total", count, clinic=job.clinic, note=note)
        result = summary.result
        self._metrics.count("imaging_importer_deliveries_total", clinic=job.clinic, outcome=result)
        self._metrics.count("imaging_importer_bytes_total", summary.size, clinic=job.clinic)
        self._metrics.took(time.time() - job.taken_at)
        log.info(
            "job %s: %s: %d stored, %d kept, %d failed %s",
            job.id, result, files[Outcome.STORED], files[Outcome.KEPT], files[Outcome.FAILED], summary.reasons or "",
        )  # fmt: skip
