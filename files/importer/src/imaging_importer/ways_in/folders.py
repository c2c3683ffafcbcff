"""Finds folders in the inbox and waits until they are stable.

A folder is stable when everything below it stayed unchanged for the cooldown between two looks. Looking into a folder
costs time; listing the inbox does not. So a folder is looked into when it appears, when its cooldown is over and when
something hints at a change (an event, a new time of the folder itself). Each clinic gets a little time in turn. A look
that takes longer continues at its clinic's next turn, so a clinic with very many folders or files makes only itself
wait. Times are monotonic, so a clock that jumps does no harm.
"""

import contextlib
import logging
import os
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path

from imaging_importer import tree
from imaging_importer.printable import printable
from imaging_importer.spool import Spool
from imaging_importer.ways_in.watch import Watch

log = logging.getLogger(__name__)

# A burst of events is over when none came for so long. The folder is looked into again only after that.
QUIET = 1.0

# Seconds of a clinic's turn. After the same time, new folders are looked for in between.
TURN = 0.2
LONGEST_TICK = 1.0

# Folders and loose files that are remembered, of all clinics. A clinic may have half of the number that the others
# leave. The rest is counted, and looked at when earlier ones are taken.
MOST_WAITING = 40_000


@dataclass(slots=True)
class Waiting:
    """A folder in the inbox, or one clinic's loose file."""

    path: Path
    clinic: str
    is_folder: bool
    found_at: float  # seconds since 1970, for people
    touched: float  # monotonic: time of the last hint at a change
    looked: float | None = None  # monotonic: time when the present fingerprint was first seen
    due: float = 0.0  # monotonic: time of the next look
    look: tree.Look | None = None
    own_mtime_ns: int = 0
    why: str = "new"
    watches: list[int] = field(default_factory=list)
    judging: Generator[None, None, bool] | None = None  # a look that is not finished


class Inbox:
    """The inbox of all clinics. `tick` runs in one thread; the counters may be read from any."""

    def __init__(
        self,
        root: Path,
        spool: Spool,
        clinics: Callable[[], set[str]],
        taken: Callable[[], None],
        cooldown: float,
        interval: float,
        patience: float,
    ) -> None:
        self._root = root
        self._spool = spool
        self._clinics = clinics
        self._taken = taken
        self._cooldown = cooldown
        self._interval = interval
        self._patience = patience
        self._next_scan = 0.0
        self._lock = threading.Lock()
        self._hints: set[Path] = set()
        self._watch = Watch(self._hint, self._overflow)
        self._clinic_watches: dict[Path, int] = {}
        self._served: dict[str, float] = {}  # monotonic: end of a clinic's last turn
        self._remembered: Counter[str] = Counter()
        self.waiting: dict[Path, Waiting] = {}
        self.further: dict[str, int] = {}  # entries of a clinic that are not remembered
        self.unknown: dict[str, int] = {}  # entries in folders of no known clinic
        self.overflows = 0
        self.last_scan = 0.0  # seconds since 1970
        self.scan_seconds = 0.0

    def start(self) -> None:
        """Begin to listen to inotify."""
        self._watch.start()

    def stop(self) -> None:
        """Stop listening."""
        self._watch.stop()

    def _hint(self, directory: Path) -> None:
        with self._lock:
            self._hints.add(directory)

    def _overflow(self) -> None:
        self.overflows += 1
        self._next_scan = 0.0

    def tick(self) -> bool:
        """Do the due work, for about a second; return whether there is more. Then call it at once, else in a second.

        Raises OSError when the inbox itself cannot be read.
        """
        now = time.monotonic()
        self._follow_hints(now)
        if now >= self._next_scan:
            self._next_scan = now + self._interval
            self._scan(now)
        due: dict[str, list[Waiting]] = {}
        for item in list(self.waiting.values()):
            if item.due <= now and now - item.touched >= min(QUIET, self._cooldown):
                due.setdefault(item.clinic, []).append(item)
        for items in due.values():
            items.sort(key=lambda item: item.judging is None)  # begun looks first
        end = now + LONGEST_TICK
        while due and time.monotonic() < end:
            for clinic in sorted(due, key=lambda clinic: self._served.get(clinic, 0.0)):
                due[clinic] = self._serve(clinic, due[clinic], time.monotonic() + TURN)
                self._served[clinic] = time.monotonic()
                if not due[clinic]:
                    del due[clinic]
        return bool(due)

    def _serve(self, clinic: str, items: list[Waiting], until: float) -> list[Waiting]:
        """Look at a clinic's items and take the stable ones, until its time is over; return the remaining items."""
        loose: list[Waiting] = []
        left = list(reversed(items))
        while left and time.monotonic() < until:
            item = left.pop()
            try:
                stable = self._judge(item, until)
                if stable is None:
                    left.append(item)
                elif stable and item.is_folder:
                    self._take_folder(item)
                elif stable:
                    loose.append(item)
            except FileNotFoundError:
                self._forget(item)
            except OSError as error:
                item.why = f"cannot be read: {error.strerror or error}"
                item.due = time.monotonic() + self._cooldown
        if loose:
            self._take_files(clinic, loose)
        return left[::-1]

    def _judge(self, item: Waiting, until: float) -> bool | None:
        """Whether an item may be taken; None: its look continues at the clinic's next turn."""
        steps, item.judging = item.judging or self._is_stable(item), None
        try:
            while time.monotonic() < until:
                next(steps)
        except StopIteration as end:
            return bool(end.value)
        item.judging = steps
        return None

    def _follow_hints(self, now: float) -> None:
        with self._lock:
            hints, self._hints = self._hints, set()
        for directory in hints:
            depth = len(directory.parts) - len(self._root.parts)
            if depth < 2:  # a new clinic, or a new entry of a clinic
                self._next_scan = min(self._next_scan, now)
            elif item := self.waiting.get(Path(*directory.parts[: len(self._root.parts) + 2])):
                item.touched = now
                item.due = now

    def _scan(self, now: float) -> None:
        """List the clinics' folders; find new and missing ones, and those whose own time changed."""
        started = time.monotonic()
        clinics = self._clinics()
        unknown: dict[str, int] = {}
        self.further = {clinic: number for clinic, number in self.further.items() if clinic in clinics}
        self._watch_clinic(self._root)
        for entry in os.scandir(self._root):
            if entry.name.startswith("."):
                continue
            if not entry.is_dir(follow_symlinks=False):
                unknown["(directly in the inbox)"] = unknown.get("(directly in the inbox)", 0) + 1
            elif entry.name not in clinics:
                unknown[printable(entry.name)] = sum(1 for _ in os.scandir(entry.path))
            else:
                try:
                    self._scan_clinic(Path(entry.path), entry.name, now)
                except OSError as error:  # the other clinics' folders can still be read
                    log.warning("%s cannot be read: %s", entry.path, error)
        self.unknown = unknown
        self.last_scan = time.time()
        self.scan_seconds = time.monotonic() - started

    def _scan_clinic(self, folder: Path, clinic: str, now: float) -> None:
        self._watch_clinic(folder)
        seen: set[Path] = set()
        further = 0
        until = time.monotonic() + LONGEST_TICK
        with os.scandir(folder) as listing:
            for delivered in listing:
                path = Path(delivered.path)
                if path not in self.waiting and not self._may_remember(clinic):
                    further += 1
                    continue
                with contextlib.suppress(FileNotFoundError):  # renamed or withdrawn since it was listed
                    self._see(path, clinic, delivered.stat(follow_symlinks=False), now)
                    seen.add(path)
                if time.monotonic() > until:
                    return  # the rest another time; a folder that is gone is noticed when it is looked at
        self.further[clinic] = further
        for item in [item for item in self.waiting.values() if item.clinic == clinic and item.path not in seen]:
            self._forget(item)

    def _may_remember(self, clinic: str) -> bool:
        return 2 * self._remembered[clinic] < MOST_WAITING - len(self.waiting) + self._remembered[clinic]

    def _see(self, path: Path, clinic: str, status: os.stat_result, now: float) -> None:
        item = self.waiting.get(path)
        if item is None:
            self.waiting[path] = Waiting(
                path, clinic, stat.S_ISDIR(status.st_mode), time.time(), now - QUIET, own_mtime_ns=status.st_mtime_ns
            )
            self._remembered[clinic] += 1
        elif item.own_mtime_ns != status.st_mtime_ns:
            item.own_mtime_ns = status.st_mtime_ns
            item.due = now

    def _is_stable(self, item: Waiting) -> Generator[None, None, bool]:
        now = time.monotonic()
        seen = (yield from tree.look(item.path)) if item.is_folder else _look_at_file(item.path)
        if item.looked is None or item.look is None or seen.fingerprint != item.look.fingerprint:
            item.why = "cooling down"
            item.looked = time.monotonic()
            item.look = seen
            item.due = item.looked + self._cooldown
            self._watch.remove(item.watches)
            item.watches = [found for found in map(self._watch.add, seen.directories) if found]
            return False
        unchanged = now - item.looked
        item.due = item.looked + self._cooldown
        if unchanged < self._cooldown:
            return False
        if not seen.files:
            item.why = "empty"
        elif unchanged >= self._patience:
            return True
        elif seen.unfinished or tree.is_unfinished(item.path.name):
            item.why = "upload still running: unfinished files"
        elif self._spool.leases_work and (yield from _being_written(item)):
            item.why = "upload still running: a file is open for writing"
        else:
            return True
        item.due = time.monotonic() + self._cooldown
        return False

    def _take_folder(self, item: Waiting) -> None:
        self._watch.remove(item.watches)
        item.watches = []
        job_id = self._spool.take_folder(item.clinic, item.path)
        # Not the folder's name: technicians name folders after patients, whose names must not be in the journal.
        log.info("job %s: took a folder of clinic %s", job_id, item.clinic)
        self._forget(item)
        self._taken()

    def _take_files(self, clinic: str, items: list[Waiting]) -> None:
        try:
            job_id = self._spool.take_files(clinic, [item.path for item in items])
        except OSError as error:
            for item in items:
                item.why = f"cannot be taken: {error.strerror or error}"
            return
        log.info("job %s: took %d loose files of clinic %s", job_id, len(items), clinic)
        for item in items:
            self._forget(item)
        self._taken()

    def _forget(self, item: Waiting) -> None:
        self._watch.remove(item.watches)
        item.judging = None
        if self.waiting.pop(item.path, None):
            self._remembered[item.clinic] -= 1

    def _watch_clinic(self, directory: Path) -> None:
        if directory not in self._clinic_watches and (descriptor := self._watch.add(directory)):
            self._clinic_watches[directory] = descriptor


def _being_written(item: Waiting) -> Generator[None, None, bool]:
    if item.is_folder:
        return (yield from tree.being_written(item.path))
    return tree.held_open(item.path.parent, item.path.name)


def _look_at_file(path: Path) -> tree.Look:
    """A file copied directly into the clinic's folder."""
    status = path.lstat()
    fingerprint = b"%d %d %d" % (status.st_ino, status.st_size, status.st_mtime_ns)
    return tree.Look(fingerprint, 1, status.st_size, False, ())
