"""Records which callers wait for the end of which job.

Such a job goes before the folders of its clinic, because nobody waits for those.
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
        """The result of each file; None if the job cannot be ended now."""
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
        """A ticket for the job that `take` makes. The lock keeps the job from ending before its ticket exists."""
        with self._lock:
            ticket = Ticket(take(), clinic)
            self._out[ticket.job_id] = ticket
        return ticket

    def waiting(self, clinic: str) -> list[str]:
        """The jobs of this clinic that somebody waits for, in their order."""
        with self._lock:
            return [ticket.job_id for ticket in self._out.values() if ticket.clinic == clinic]

    def answer(self, job_id: str, outcomes: Callable[[], list[FileOutcome] | None]) -> None:
        """Tell the caller who waits for this job, if there is one."""
        with self._lock:
            ticket = self._out.pop(job_id, None)
        if ticket:
            ticket.call(outcomes())

    def drop(self, ticket: Ticket) -> None:
        """Forget the ticket: nobody waits any longer."""
        with self._lock:
            self._out.pop(ticket.job_id, None)
