"""Finds folders in the inbox and waits until they are stable: unchanged for the cooldown between two looks at
everything below.

Looking into a folder costs; listing the inbox does not. So a folder is looked into when it appears, when its
cooldown is over and when something hints at a change (an event, a new time of the folder itself). Times are
monotonic: a clock that jumps hurts nothing.
"""

import contextlib
import logging
import os
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from imaging_importer import tree
from imaging_importer.spool import Spool
from imaging_importer.watch import Watch

log = logging.getLogger(__name__)

# An event burst is over when nothing came for so long; only then is the folder looked into again.
QUIET = 1.0

# Taking thousands of folders at once lasts; who watches over the scanner hears of it in between. In seconds.
LONGEST_TICK = 30.0


@dataclass
class Waiting:
    """A folder in the inbox, or one clinic's loose file."""

    path: Path
    clinic: str
    is_folder: bool
    found_at: float  # seconds since 1970, for people
    touched: float  # monotonic: when something hinted at a change
    looked: float | None = None  # monotonic: when the present fingerprint was first seen
    due: float = 0.0  # monotonic: when to look next
    look: tree.Look | None = None
    own_mtime_ns: int = 0
    why: str = "new"
    watches: list[int] = field(default_factory=list)


class Inbox:
    """The inbox of all clinics. `tick` runs in one thread; the counters may be read from any."""

    def __init__(
        self,
        root: Path,
        spool: Spool,
        clinics: Callable[[], set[str]],
        claimed: Callable[[], None],
        cooldown: float,
        interval: float,
        patience: float,
    ) -> None:
        self._root = root
        self._spool = spool
        self._clinics = clinics
        self._claimed = claimed
        self._cooldown = cooldown
        self._interval = interval
        self._patience = patience
        self._next_scan = 0.0
        self._lock = threading.Lock()
        self._hints: set[Path] = set()
        self._watch = Watch(self._hint, self._overflow)
        self._clinic_watches: dict[Path, int] = {}
        self.waiting: dict[Path, Waiting] = {}
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

    def tick(self) -> None:
        """Do what is due. Call about once a second. Raises OSError when the inbox itself cannot be read."""
        now = time.monotonic()
        self._take_hints(now)
        if now >= self._next_scan:
            self._next_scan = now + self._interval
            self._scan(now)
        loose: dict[str, list[Waiting]] = {}
        for item in list(self.waiting.values()):
            if time.monotonic() - now > LONGEST_TICK:
                break
            if item.due <= now and now - item.touched >= min(QUIET, self._cooldown):
                try:
                    stable = self._is_stable(item, now)
                    if stable and item.is_folder:
                        self._claim_folder(item)
                    elif stable:
                        loose.setdefault(item.clinic, []).append(item)
                except FileNotFoundError:
                    self._forget(item)
                except OSError as error:
                    item.why = f"cannot be read: {error.strerror or error}"
                    item.due = now + self._cooldown
        for clinic, items in loose.items():
            self._claim_files(clinic, items)

    def _take_hints(self, now: float) -> None:
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
        """List the clinics' folders: what is new, what is gone, whose own time changed."""
        started = time.monotonic()
        clinics = self._clinics()
        seen: set[Path] = set()
        unknown: dict[str, int] = {}
        self._watch_clinic(self._root)
        for entry in os.scandir(self._root):
            if entry.name.startswith("."):
                continue
            if not entry.is_dir(follow_symlinks=False):
                unknown["(directly in the inbox)"] = unknown.get("(directly in the inbox)", 0) + 1
            elif entry.name not in clinics:
                unknown[tree.printable(entry.name)] = sum(1 for _ in os.scandir(entry.path))
            else:
                try:
                    self._scan_clinic(Path(entry.path), entry.name, seen, now)
                except OSError as error:  # the other clinics' folders can be read
                    log.warning("%s cannot be read: %s", entry.path, error)
        for path in self.waiting.keys() - seen:
            self._forget(self.waiting[path])
        self.unknown = unknown
        self.last_scan = time.time()
        self.scan_seconds = time.monotonic() - started

    def _scan_clinic(self, folder: Path, clinic: str, seen: set[Path], now: float) -> None:
        self._watch_clinic(folder)
        for delivered in os.scandir(folder):
            with contextlib.suppress(FileNotFoundError):  # renamed or withdrawn since it was listed
                self._see(Path(delivered.path), clinic, delivered.stat(follow_symlinks=False), now)
                seen.add(Path(delivered.path))

    def _see(self, path: Path, clinic: str, status: os.stat_result, now: float) -> None:
        item = self.waiting.get(path)
        if item is None:
            self.waiting[path] = Waiting(
                path, clinic, stat.S_ISDIR(status.st_mode), time.time(), now - QUIET, own_mtime_ns=status.st_mtime_ns
            )
        elif item.own_mtime_ns != status.st_mtime_ns:
            item.own_mtime_ns = status.st_mtime_ns
            item.due = now

    def _is_stable(self, item: Waiting, now: float) -> bool:
        seen = tree.look(item.path) if item.is_folder else _look_at_file(item.path)
        if item.looked is None or item.look is None or seen.fingerprint != item.look.fingerprint:
            item.why = "cooling down"
            item.looked = now
            item.look = seen
            item.due = now + self._cooldown
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
        elif self._spool.leases_work and _being_written(item):
            item.why = "upload still running: a file is open for writing"
        else:
            return True
        item.due = now + self._cooldown
        return False

    def _claim_folder(self, item: Waiting) -> None:
        self._watch.remove(item.watches)
        item.watches = []
        job_id = self._spool.claim_folder(item.clinic, item.path)
        # Not the folder's name: technicians name folders after patients, and the journal is not for those.
        log.info("job %s: claimed a folder of clinic %s", job_id, item.clinic)
        self._forget(item)
        self._claimed()

    def _claim_files(self, clinic: str, items: list[Waiting]) -> None:
        try:
            job_id = self._spool.claim_files(clinic, [item.path for item in items])
        except OSError as error:
            for item in items:
                item.why = f"cannot be taken: {error.strerror or error}"
            return
        log.info("job %s: claimed %d loose files of clinic %s", job_id, len(items), clinic)
        for item in items:
            self._forget(item)
        self._claimed()

    def _forget(self, item: Waiting) -> None:
        self._watch.remove(item.watches)
        self.waiting.pop(item.path, None)

    def _watch_clinic(self, directory: Path) -> None:
        if directory not in self._clinic_watches and (descriptor := self._watch.add(directory)):
            self._clinic_watches[directory] = descriptor


def _being_written(item: Waiting) -> bool:
    if item.is_folder:
        return tree.being_written(item.path)
    return tree.held_open(item.path.parent, item.path.name)


def _look_at_file(path: Path) -> tree.Look:
    """A file copied directly into the clinic's folder."""
    status = path.lstat()
    fingerprint = b"%d %d %d" % (status.st_ino, status.st_size, status.st_mtime_ns)
    return tree.Look(fingerprint, 1, status.st_size, False, ())
