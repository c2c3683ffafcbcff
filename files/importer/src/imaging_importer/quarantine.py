"""Finds the file that stops Orthanc, and does not send it again.

All clinics depend on Orthanc, which is one process. If it breaks off or hangs while instances are sent, each of these
gets a strike. A file with a strike is sent alone, so a second strike proves that this file was the cause. Strikes
belong to the delivered bytes (SHA-256). They outlive the job, the upload and the importer, and they hold for the same
file under another name or from another clinic.
"""

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterable, Iterator

from imaging_importer.batch import Prepared
from imaging_importer.journal import Journal

# A file with so many strikes is the cause.
GUILTY = 2

# If Orthanc has stored others after so many refusals of a readable file, the problem is not Orthanc's own.
HOPELESS = 3

CHUNK = 1 << 20


class Quarantine:
    """Shared by everybody who sends to Orthanc. Safe to use from several threads."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._changed = threading.Condition()
        self._together = 0
        self._alone = False
        self._stored = 0  # instances, since the start
        self._refused: dict[str, tuple[int, int]] = {}  # digest -> how often, how many were stored until then

    def strikes(self, batch: Iterable[Prepared]) -> dict[str, int]:
        """Path -> strikes, of the files that have any."""
        sizes = self._journal.struck_sizes()
        counts = {
            prepared.path: self._journal.strikes(_digest(prepared)) for prepared in batch if _size(prepared) in sizes
        }
        return {path: count for path, count in counts.items() if count}

    def strike(self, batch: Iterable[Prepared]) -> None:
        """Orthanc broke off while these were sent."""
        self._journal.strike({_digest(prepared): _size(prepared) for prepared in batch})

    def acquit(self, prepared: Prepared) -> None:
        """Orthanc answered, so this file did not stop it."""
        self._journal.acquit(_digest(prepared))

    def stored(self, count: int) -> None:
        """Orthanc stored so many instances."""
        with self._changed:
            self._stored += count

    def is_hopeless(self, prepared: Prepared) -> bool:
        """Whether a refused file is the cause, although Orthanc refused it as if its database or disk were away.

        A restart forgets the count. Then it takes longer.
        """
        digest = _digest(prepared)
        with self._changed:
            count, stored = self._refused.pop(digest, (0, -1))
            count += self._stored > stored
            if count > HOPELESS:
                return True
            self._refused[digest] = (count, self._stored)
            return False

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Send beside others, but not while a suspect is alone with Orthanc."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._together += 1
        try:
            yield
        finally:
            with self._changed:
                self._together -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Send a suspect when nothing else is being sent."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._alone = True
            self._changed.wait_for(lambda: not self._together)
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()


def _size(prepared: Prepared) -> int:
    return os.fstat(prepared.instance.file.fileno()).st_size


def _digest(prepared: Prepared) -> str:
    """SHA-256 of the file as it was delivered, without any clinic's stamp."""
    digest = hashlib.sha256()
    descriptor, position = prepared.instance.file.fileno(), 0
    while data := os.pread(descriptor, CHUNK, position):
        digest.update(data)
        position += len(data)
    return digest.hexdigest()
