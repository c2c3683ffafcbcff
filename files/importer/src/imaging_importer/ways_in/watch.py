"""inotify as a hint that something changed in a folder.

The full scan decides: nothing depends on the arrival of an event.
"""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import pyinotify  # type: ignore[import-untyped]

log = logging.getLogger(__name__)

MASK = (
    pyinotify.IN_CREATE
    | pyinotify.IN_MODIFY
    | pyinotify.IN_ATTRIB
    | pyinotify.IN_CLOSE_WRITE
    | pyinotify.IN_MOVED_TO
    | pyinotify.IN_MOVED_FROM
    | pyinotify.IN_DELETE
    | pyinotify.IN_ONLYDIR
    | pyinotify.IN_DONT_FOLLOW
)


class Watch:
    """Watches directories one by one and calls `changed(directory)`, or `overflowed()` when the kernel dropped
    events.
    """

    def __init__(self, changed: Callable[[Path], None], overflowed: Callable[[], None]) -> None:
        self._changed = changed
        self._overflowed = overflowed
        self._manager = pyinotify.WatchManager()
        self._notifier = pyinotify.Notifier(self._manager, self._handle, timeout=1000)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="inotify", daemon=True)
        self._full = False

    def start(self) -> None:
        """Begin to deliver events."""
        self._thread.start()

    def stop(self) -> None:
        """Stop within a second."""
        self._stopping.set()
        self._thread.join(2)

    def add(self, directory: Path) -> int | None:
        """Watch one directory; return its watch descriptor, or None if it is gone or the kernel grants none."""
        try:
            descriptors = self._manager.add_watch(str(directory), MASK, quiet=False)
        except (pyinotify.WatchManagerError, OSError) as error:
            if not self._full and directory.exists():
                self._full = True
                log.warning("inotify does not watch %s (%s): the scan finds what it cannot tell", directory, error)
            return None
        return next((descriptor for descriptor in descriptors.values() if descriptor > 0), None)

    def remove(self, descriptors: list[int]) -> None:
        """Forget watches. Those of removed directories are gone already."""
        self._manager.rm_watch(descriptors, quiet=True)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                if self._notifier.check_events():
                    self._notifier.read_events()
                    self._notifier.process_events()
            except Exception:
                log.exception("inotify stumbled; the scan goes on")
                self._overflowed()
                self._stopping.wait(1)

    def _handle(self, event: pyinotify.Event) -> None:
        if event.mask & pyinotify.IN_Q_OVERFLOW:
            self._overflowed()
        elif getattr(event, "path", ""):
            self._changed(Path(event.path))
