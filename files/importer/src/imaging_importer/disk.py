"""Measures the free space of the file systems that deliveries pass through, and says whether it is too little."""

import shutil
import threading
import time
from collections.abc import Iterable
from pathlib import Path

# A look is cheap, but it is done before every step.
LOOK_EVERY = 2.0


class Disk:
    """Looks at the file systems of some directories. Safe to use from several threads."""

    def __init__(self, directories: Iterable[Path], reserve: int) -> None:
        self._directories = list(directories)
        self._reserve = reserve
        self._lock = threading.Lock()
        self._next_look = 0.0
        self._free: dict[Path, int] = {}

    def free(self) -> dict[Path, int]:
        """Free bytes, each file system once, under the first of its directories."""
        with self._lock:
            if time.monotonic() >= self._next_look:
                self._next_look = time.monotonic() + LOOK_EVERY
                systems = {directory.stat().st_dev: directory for directory in reversed(self._directories)}
                self._free = {directory: shutil.disk_usage(directory).free for directory in systems.values()}
            return self._free

    def has_room(self) -> bool:
        """Whether deliveries may go on."""
        return not self.shortage()

    def shortage(self) -> str:
        """The places with too little room, in words; empty if there is enough everywhere."""
        return "; ".join(
            f"{free / 1e9:.1f} GB are free at {directory} and {self._reserve / 1e9:.1f} GB stay reserved: "
            "deliveries wait until there is room again"
            for directory, free in self.free().items()
            if free < self._reserve
        )
