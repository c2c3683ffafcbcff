"""Answers whose a study is, from a bounded memory in front of the registry. Its notifications keep the memory true."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from imaging_gateway import metrics
from imaging_gateway.registry import Owner, Registry, RegistryAwayError
from imaging_gateway.tokens import Caller

log = logging.getLogger(__name__)

REMEMBERED_STUDIES = 50_000
REMEMBERED_IMAGES = 50_000
RECONNECT_SECONDS = 1
# While the registry is away, nothing can change in it, so the known owners are still right. They are used no longer
# than a token lives, because perhaps only this service has lost the registry.
DEAF_SECONDS = 300


@dataclass
class Owners:
    """Answers whose a study is. Only studies that some caller was allowed to see are remembered."""

    registry: Registry
    on_change: Callable[[str], None]
    """Told the UID of every study that changes, once it is forgotten here."""
    _known: OrderedDict[str, Owner] = field(default_factory=OrderedDict)
    # For studies with images that cannot be displayed: study, its revision, image -> the code why, None if it can be.
    _codes: OrderedDict[tuple[str, int, str], str | None] = field(default_factory=OrderedDict)
    _changes: int = 0
    _deaf_since: float | None = 0.0

    @property
    def listening(self) -> bool:
        """Return whether the registry's notifications arrive."""
        return self._deaf_since is None

    async def locate(self, caller: Caller, study: str) -> Owner | None:
        """Return the owner of a study of the caller's clinics, else None. Raises RegistryAwayError.

        A remembered study of another clinic takes the same way to the database as a study that does not exist.
        Otherwise the time of the answer would tell them apart.
        """
        known = self._known.get(study)
        if known is not None and caller.may_see(known.clinic) and self._trusted():
            self._known.move_to_end(study)
            metrics.OWNER_LOOKUPS.labels("memory").inc()
            return known
        metrics.OWNER_LOOKUPS.labels("registry").inc()
        changes = self._changes
        found = await self.registry.locate_study(caller.scope, study)
        # An answer that a change has overtaken may be older than the change. It serves this request, but not the next.
        if found is not None and self.listening and changes == self._changes:
            self._known[study] = found
            if len(self._known) > REMEMBERED_STUDIES:
                self._known.popitem(last=False)
        return found

    async def why_undisplayable(self, caller: Caller, study: str, owner: Owner, instance: str) -> str | None:
        """Return the code why an image of the caller's study cannot be displayed. Raises RegistryAwayError."""
        if owner.all_displayable:
            return None
        key = (study, owner.revision, instance)
        if key not in self._codes:
            self._codes[key] = await self.registry.why_undisplayable(caller.scope, study, instance)
            if len(self._codes) > REMEMBERED_IMAGES:
                self._codes.popitem(last=False)
        return self._codes[key]

    def _trusted(self) -> bool:
        return self._deaf_since is None or time.monotonic() - self._deaf_since < DEAF_SECONDS

    def _forget(self, study: str) -> None:
        self._changes += 1
        self._known.pop(study, None)
        self.on_change(study)

    def _start_over(self) -> None:
        # The changes since the last connection are unknown.
        self._changes += 1
        self._known.clear()
        self._deaf_since = None
        metrics.REGISTRY_UP.set(1)
        log.info("hearing the registry's changes")

    async def keep_listening(self) -> None:
        """Follow the registry's notifications without end; connect again when they stop."""
        while True:
            try:
                await self.registry.listen(self._forget, self._start_over)
            except RegistryAwayError as error:
                if self._deaf_since is None:
                    self._deaf_since = time.monotonic()
                    metrics.REGISTRY_UP.set(0)
                    log.warning("the registry cannot be heard: %s", error)
            await asyncio.sleep(RECONNECT_SECONDS)
