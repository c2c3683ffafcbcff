"""Takes uploads by STOW-RS (PS3.18 10.5).

An upload is received to disk and handed over as a delivery like any folder. It is answered when it is stored, verified
and recorded.

An upload that is not received completely is always removed. A complete one is a job in the journal, which ends by
itself, even if nobody waits for the answer any longer.
"""

import errno
import json
import logging
import os
import shutil
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any
from uuid import uuid4

from imaging_importer import failpoints, tree
from imaging_importer.dicom.instance import Limits, read_instance
from imaging_importer.journal import FileOutcome, Outcome
from imaging_importer.reasons import SENTENCES, CompanionError, RejectedError, told
from imaging_importer.spool import Spool
from imaging_importer.ways_in import stow
from imaging_importer.ways_in.body import MalformedError, Parts, Source, TooLargeError, open_body
from imaging_importer.ways_in.stow import Part
from imaging_importer.ways_in.tickets import Ticket, Tickets
from imaging_importer.web import SLOWEST, Answer, Request, TooSlowError, as_text

log = logging.getLogger(__name__)

# Each holds a thread for as long as its sender takes.
UPLOADS_AT_ONCE = 32
MOST_PARTS = 20_000
# Longer than any healthy import of one upload, shorter than the time that the proxy waits.
PATIENCE = 540.0

DICOM = "application/dicom"
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

AWAY = "The archive does not answer just now. Nothing of this upload was kept: send it again in a moment.\n"
BUSY = (
    "Too many uploads of this clinic run at once. Nothing of this one was kept: send it again when another has ended.\n"
)
FULL = "The archive's disk is full. Nothing of this upload was kept: tell the administrator, then send it again.\n"
NO_ROOM = (
    "The archive's disk is nearly full, so nothing is taken until there is room again. Nothing of this upload was "
    "kept: tell the administrator, then send it again.\n"
)
LATER = (
    "The upload was received completely and is safe, but it cannot be stored just now. It is stored as soon as the "
    "archive answers again. Sending it once more does no harm.\n"
)
SLOW = (
    f"The upload came more slowly than {SLOWEST >> 10} KiB a second. Nothing of it was kept: send it over a better "
    "line, or in smaller requests one after the other.\n"
)
WRONG_TYPE = 'Only multipart/related; type="application/dicom" is taken, with parts of application/dicom.\n'


class WrongTypeError(Exception):
    """The request's content is no DICOM."""


@dataclass
class Reception:
    """An upload that is arriving, for the status page."""

    clinic: str
    since: float  # seconds since 1970
    received: int = 0  # bytes


class Places:
    """The uploads that may run at once. A clinic may have half of the places that the others leave.

    A clinic alone gets half of all places. Unless very many clinics take all they can, a place is left for the next.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._used: Counter[str] = Counter()
        self._lock = threading.Lock()

    def enter(self, clinic: str) -> bool:
        """Give a place to a clinic, if it may."""
        with self._lock:
            left_by_others = self._places - self._used.total() + self._used[clinic]
            may = 2 * self._used[clinic] < left_by_others
            self._used[clinic] += may
            return may

    def leave(self, clinic: str) -> None:
        """Give a place back."""
        with self._lock:
            self._used[clinic] -= 1


class Uploads:
    """Takes uploads. `store` runs in a thread for each request."""

    def __init__(
        self,
        spool: Spool,
        tickets: Tickets,
        clinics: Callable[[], set[str]],
        is_ready: Callable[[], bool],
        has_room: Callable[[], bool],
        quota_used: Callable[[str], str],
        taken: Callable[[], None],
        public_url: str,
        request_bytes: int,
        limits: Limits,
    ) -> None:
        self._spool = spool
        self._tickets = tickets
        self._clinics = clinics
        self._is_ready = is_ready
        self._has_room = has_room
        self._quota_used = quota_used
        self._taken = taken
        self._public_url = public_url
        self._request_bytes = request_bytes
        self._limits = limits
        self._places = Places(UPLOADS_AT_ONCE)
        self.arriving: dict[str, Reception] = {}

    def store(self, request: Request) -> Answer:
        """Answer `POST /dicom-web/studies` and `POST /dicom-web/studies/{study}`. Raises SenderGoneError."""
        # The gateway has allowed it, from the caller's token.
        clinic = request.headers.get("X-Clinics", "")
        if clinic not in self._clinics():
            return as_text(400, "There is no such clinic. Name one of yours in the header X-Clinic.\n")
        if not self._is_ready():
            return as_text(503, AWAY)
        if not self._has_room():
            return as_text(507, NO_ROOM)
        if told := self._quota_used(clinic):
            return as_text(507, f"{told}. Nothing of this upload was kept: send it again then.\n")
        if not self._places.enter(clinic):
            return as_text(503, BUSY)
        folder = self._spool.incoming / f"upload-{time.strftime('%H%M%S')}-{uuid4().hex[:12]}"
        try:
            return self._store(request, clinic, folder)
        except WrongTypeError:
            return as_text(415, WRONG_TYPE)
        except MalformedError as error:
            return as_text(400, f"The request cannot be read: {error}. Nothing of it was kept.\n")
        except TooSlowError:
            return as_text(408, SLOW)
        except TooLargeError:
            largest, part = self._request_bytes >> 20, self._limits.instance >> 20
            return as_text(
                413,
                f"At most {largest} MiB are taken in one request, {part} MiB in one part and {MOST_PARTS} parts. "
                "Nothing of it was kept: send it in smaller requests.\n",
            )
        except sqlite3.Error as error:
            log.warning("an upload of clinic %s was refused: the journal cannot be written: %s", clinic, error)
            return (
                as_text(507, FULL)
                if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL
                else as_text(503, AWAY)
            )
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            log.warning("an upload of clinic %s was refused: %s", clinic, error)
            return as_text(507, FULL)
        finally:
            self._places.leave(clinic)
            self.arriving.pop(folder.name, None)
            shutil.rmtree(folder, ignore_errors=True)

    def _store(self, request: Request, clinic: str, folder: Path) -> Answer:
        boundary = _boundary(request.headers)
        body = open_body(request.body, request.headers, self._request_bytes)
        study = request.path.removeprefix("/dicom-web/studies").lstrip("/")
        self.arriving[folder.name] = Reception(clinic, time.time())
        folder.mkdir(parents=True)
        parts = self._receive(Parts(self._count(body, folder.name), boundary), folder)
        elsewhere = [part for part in parts if study and part.study_uid and part.study_uid != study]
        for part in elsewhere:
            (folder / part.name).unlink()
        outcomes = [FileOutcome(part.name, Outcome.FAILED, "study-mismatch") for part in elsewhere]
        if len(elsewhere) < len(parts):
            tree.sync_directory(folder)
            failpoints.reach("upload-received")
            try:
                ticket = self._tickets.issue(
                    clinic, lambda: self._spool.take_folder(clinic, folder, request.headers.get("X-Caller", "{}"))
                )
            except (OSError, sqlite3.Error):
                if folder.exists():
                    raise
                return as_text(503, LATER)  # it is in the spool, where the importer finds it again
            self.arriving.pop(folder.name, None)
            imported = self._wait(ticket)
            if imported is None:
                return as_text(503, LATER)
            outcomes += imported
        self._note(request, clinic, outcomes)
        status, answer = stow.answer(parts, outcomes, self._public_url)
        reasons = sorted({told(outcome.reason) for outcome in outcomes if outcome.outcome is not Outcome.STORED})
        warnings = [("Warning", f'299 {self._public_url} "{_words(reason)}"') for reason in reasons]
        return Answer(status, "application/dicom+json", json.dumps(answer) + "\n", tuple(warnings))

    def _count(self, body: Source, name: str) -> Source:
        reception = self.arriving[name]

        class Counting:
            def read(self) -> bytes:
                data = body.read()
                reception.received += len(data)
                return data

        return Counting()

    def _receive(self, parts: Parts, folder: Path) -> list[Part]:
        """Write every part to a file, durable on disk, and read which instance it is."""
        received: list[Part] = []
        for head, content in parts:
            if len(received) == MOST_PARTS:
                raise TooLargeError
            if "Content-Type" in head and head.get_content_type() != DICOM:
                raise WrongTypeError
            name = f"{len(received) + 1:06}.dcm"
            self._write(folder / name, content)
            failpoints.reach("part-received")
            received.append(self._identify(folder, name))
        if not received:
            raise MalformedError("it has no part")
        return received

    def _write(self, path: Path, content: Iterator[bytes]) -> None:
        size = 0
        with path.open("xb") as file:
            for data in content:
                size += len(data)
                if size > self._limits.instance:
                    raise TooLargeError
                file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def _identify(self, folder: Path, name: str) -> Part:
        """The instance that a part says it is. If it cannot be read, the import finds the reason later."""
        with tree.open_file(folder, name) as file:
            try:
                instance = read_instance(file, self._spool.scratch, self._limits)
            except OSError:
                raise
            except (CompanionError, RejectedError):
                return Part(name)
            except Exception:
                log.exception("a part of an upload could not be read")
                return Part(name)
            instance.close()
            return Part(
                name, instance.study_uid, instance.series_uid, instance.sop_class_uid, instance.sop_instance_uid
            )

    def _wait(self, ticket: Ticket) -> list[FileOutcome] | None:
        self._taken()
        try:
            return ticket.wait(PATIENCE)
        finally:
            self._tickets.drop(ticket)

    def _note(self, request: Request, clinic: str, outcomes: list[FileOutcome]) -> None:
        """Log how an upload ended. The access log has it since before its first byte was stored."""
        caller: dict[str, Any] = json.loads(request.headers.get("X-Caller", "{}"))
        stored = [outcome for outcome in outcomes if outcome.outcome is Outcome.STORED]
        log.info(
            "upload of %s for clinic %s: %d stored, %d refused",
            caller.get("subject"), clinic, len(stored), len(outcomes) - len(stored),
        )  # fmt: skip


def _boundary(headers: Message) -> str:
    """The boundary that the request names. Raises WrongTypeError, MalformedError."""
    kind = headers.get_param("type", "")
    if headers.get_content_type() != "multipart/related" or not isinstance(kind, str) or kind.lower() != DICOM:
        raise WrongTypeError
    boundary = headers.get_boundary("")
    if not 0 < len(boundary) <= 70 or not boundary.isascii() or not boundary.isprintable():  # RFC 2046 5.1.1
        raise MalformedError("its Content-Type names no boundary")
    return boundary


def _words(reason: str) -> str:
    return f"{reason}: {SENTENCES[reason]}" if reason in SENTENCES else reason
