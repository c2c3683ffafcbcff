"""Says who waits for the end of which job.

Such a job goes before the folders of its clinic, whose senders went home.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from imaging_importer.journal import FileOutcome


@dataclass
class Ticket:
    """Held by a caller that waits for the end of a job."""

    job_id: str
    clinic: str
    outcomes: list[FileOutcome] | None = None
    _called: threading.Event = field(default_factory=threading.Event)

    def wait(self, seconds: float) -> list[FileOutcome] | None:
        """What became of each file; None when the job cannot be ended now."""
        self._called.wait(seconds)
        return self.outcomes

    def call(self, outcomes: list[FileOutcome] | None) -> None:
        """End the wait."""
        self.outcomes = outcomes
        self._called.set()


class Tickets:
    """All tickets that are out. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._out: dict[str, Ticket] = {}

    def issue(self, clinic: str, take: Callable[[], str]) -> Ticket:
        """A ticket for the job that `take` makes. Under the lock: the job must not end before its ticket is out."""
        with self._lock:
            ticket = Ticket(take(), clinic)
            self._out[ticket.job_id] = ticket
        return ticket

    def waiting(self, clinic: str) -> list[str]:
        """The jobs that somebody of this clinic waits for, the first one first."""
        with self._lock:
            return [ticket.job_id for ticket in self._out.values() if ticket.clinic == clinic]

    def answer(self, job_id: str, outcomes: Callable[[], list[FileOutcome] | None]) -> None:
        """Tell whoever waits for this job, if anybody does."""
        with self._lock:
            ticket = self._out.pop(job_id, None)
        if ticket:
            ticket.call(outcomes())

    def drop(self, ticket: Ticket) -> None:
        """Nobody waits any more."""
        with self._lock:
            self._out.pop(ticket.job_id, None)
