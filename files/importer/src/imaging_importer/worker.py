"""Carries one claimed folder after the other; what cannot be done now is tried again, for as long as it takes."""

import logging
import random
import sqlite3
import threading
import time
from collections.abc import Callable

from imaging_importer.delivery import Carrier
from imaging_importer.journal import Job, Journal, Outcome
from imaging_importer.metrics import Metrics
from imaging_importer.reasons import TransientError, UnavailableError
from imaging_importer.tickets import PreemptedError, Tickets

log = logging.getLogger(__name__)

FIRST_DELAY = 1.0
LONGEST_DELAY = 60.0


class StoppingError(Exception):
    """The service stops: what is under way is left, and taken up again after the next start."""


def delay(attempt: int) -> float:
    """Seconds to wait after the n-th failure in a row: exponential, capped, with jitter."""
    longest: float = min(LONGEST_DELAY, FIRST_DELAY * 2 ** min(attempt, 10))
    return longest * random.uniform(0.5, 1)  # noqa: S311 - no secret


class Worker:
    """The one thread that carries jobs."""

    def __init__(
        self,
        journal: Journal,
        carrier: Carrier,
        tickets: Tickets,
        metrics: Metrics,
        report: Callable[[str, str], None],
    ) -> None:
        self._journal = journal
        self._carrier = carrier
        self._tickets = tickets
        self._metrics = metrics
        self._report = report
        self._wake = threading.Event()
        self._resting: dict[
            str, tuple[int, float]
        ] = {}  # job id -> failures in a row, monotonic time of the next attempt
        self._door_next = False
        self._outage = 0  # failures in a row of a service that every job needs

    def wake(self) -> None:
        """There may be a new job."""
        self._wake.set()

    def run(self, stopping: threading.Event) -> None:
        """Carry jobs until the service stops."""
        while not stopping.is_set():
            pause = 1.0
            try:
                job = self._next()
                if job is not None:
                    pause = self._carry(job)
            except StoppingError:
                return
            except Exception:
                log.exception("the journal cannot be used; it is tried again")
            if pause:
                self._wake.wait(pause) if not self._outage else stopping.wait(pause)
                self._wake.clear()

    def _next(self) -> Job | None:
        """The oldest job, and by turns one that somebody waits for; none that rests."""
        now = time.monotonic()
        awaited = [self._journal.job(job_id) for job_id in self._tickets.waiting()]
        oldest = self._journal.open_jobs(len(self._resting) + 1)
        self._door_next = not self._door_next
        jobs = awaited + oldest if self._door_next else oldest + awaited
        return next((job for job in jobs if self._resting.get(job.id, (0, 0.0))[1] <= now), None)

    def _carry(self, job: Job) -> float:
        """Carry one job; how long to wait before the next, in seconds."""
        try:
            self._carrier.carry(job)
        except StoppingError:
            raise
        except PreemptedError:
            return 0.0
        except UnavailableError as error:
            self._report(error.service, str(error))
            # Another job goes first next time: should this one be what the service stumbles over, the rest is carried.
            self._rest(job)
            self._trouble(job, error)
            self._outage += 1
            return delay(self._outage - 1)
        except Exception as error:
            if not isinstance(error, (TransientError, OSError, sqlite3.Error)):
                log.exception("job %s: unexpected", job.id)
            self._rest(job)
            self._trouble(job, error)
            return 0.0
        self._outage = 0
        self._resting.pop(job.id, None)
        self._finished(job)
        return 0.0

    def _rest(self, job: Job) -> None:
        failures = self._resting.get(job.id, (0, 0.0))[0]
        self._resting[job.id] = (failures + 1, time.monotonic() + delay(failures))

    def _trouble(self, job: Job, error: Exception) -> None:
        cause = error.service if isinstance(error, UnavailableError) else type(error).__name__
        self._metrics.count("imaging_importer_retries_total", cause=cause)
        self._tickets.settle(job.id, lambda: None)
        log.warning("job %s: will be tried again: %s", job.id, error)
        try:
            self._journal.trouble(job.id, str(error))
        except sqlite3.Error as journal_error:
            log.warning("job %s: the journal cannot be written: %s", job.id, journal_error)

    def _finished(self, job: Job) -> None:
        summary = self._journal.finished_summary(job.id)
        files = summary.files
        for outcome, count in files.items():
            self._metrics.count("imaging_importer_files_total", count, clinic=job.clinic, outcome=outcome.value)
        for reason, count in summary.reasons.items():
            self._metrics.count("imaging_importer_failures_total", count, clinic=job.clinic, reason=reason)
        result = summary.result
        self._metrics.count("imaging_importer_deliveries_total", clinic=job.clinic, outcome=result)
        self._metrics.count("imaging_importer_bytes_total", summary.size, clinic=job.clinic)
        self._metrics.took(time.time() - job.claimed_at)
        log.info(
            "job %s: %s: %d stored, %d kept, %d failed %s",
            job.id, result, files[Outcome.STORED], files[Outcome.KEPT], files[Outcome.FAILED], summary.reasons or "",
        )  # fmt: skip
