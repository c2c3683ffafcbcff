"""Measures how much of the archive each clinic uses, and which clinics have used their whole quota."""

import threading
import time
from collections.abc import Callable, Mapping

# The sum takes a moment if there are very many studies, and it is needed before every step.
LOOK_EVERY = 3.0


class Quotas:
    """Looks at the clinics' use of the archive. Safe to use from several threads."""

    def __init__(self, look: Callable[[], dict[str, int]], quotas: Mapping[str, int]) -> None:
        self._look = look
        self._quotas = quotas
        self._lock = threading.Lock()
        self._next_look = 0.0
        self._used = dict.fromkeys(quotas, 0)

    def used(self) -> dict[str, int]:
        """Bytes by clinic; 0 for a clinic whose last study is gone."""
        with self._lock:
            if time.monotonic() >= self._next_look:
                self._used = dict.fromkeys(self._used, 0) | self._look()
                self._next_look = time.monotonic() + LOOK_EVERY
            return self._used

    def may_begin(self, clinic: str) -> bool:
        """Whether a clinic's next delivery may begin."""
        return not self.shortage(clinic)

    def shortage(self, clinic: str) -> str:
        """The sentence that a clinic has used its quota; empty if it has not, or has no quota."""
        quota = self._quotas.get(clinic)
        if quota is None or self.used()[clinic] < quota:
            return ""
        return (
            f"The clinic has used its {quota / 1e9:.0f} GB of the archive: ask the administrator. Its deliveries wait, "
            "and go on by themselves once studies are deleted or it may use more"
        )

    def shortages(self) -> dict[str, str]:
        """The clinics that have used their quota, each with these words."""
        return {clinic: told for clinic in self._quotas if (told := self.shortage(clinic))}
