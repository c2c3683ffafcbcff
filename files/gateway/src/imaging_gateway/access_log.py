"""The access log: a row in the registry and a line in the journal, once for each study view and not for each frame."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

from imaging_gateway import metrics
from imaging_gateway.registry import Registry, RegistryAwayError
from imaging_gateway.tokens import Caller

log = logging.getLogger("access")

# Requests of one session for one study and one purpose are the same view until they pause this long.
VIEW_PAUSE_SECONDS = 1800
REMEMBERED_VIEWS = 20_000
WRITE_SECONDS = 1
WRITE_ROWS = 500
PENDING_ROWS = 20_000


@dataclass
class AccessLog:
    """Collects accesses and writes them in batches. While the registry is away, a limited number of them waits."""

    registry: Registry
    _views: OrderedDict[tuple[str, ...], float] = field(default_factory=OrderedDict)
    _pending: list[dict[str, Any]] = field(default_factory=list)
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)

    def note(
        self,
        caller: Caller,
        action: str,
        address: str,
        clinic: str | None = None,
        study: str | None = None,
        detail: str | None = None,
    ) -> None:
        """Record one access. `detail` names the thing when it is no study; it never holds anything of a patient."""
        view = (caller.subject, caller.session, action, study or "", detail or "")
        now = time.monotonic()
        last = self._views.pop(view, None)
        self._views[view] = now
        if len(self._views) > REMEMBERED_VIEWS:
            self._views.popitem(last=False)
        if last is not None and now - last < VIEW_PAUSE_SECONDS:
            return
        log.info(
            "action=%s user=%s subject=%s client=%s address=%s clinic=%s study=%s detail=%s",
            *(action, caller.username, caller.subject, caller.client, address, clinic, study, detail),
        )
        if len(self._pending) >= PENDING_ROWS:
            metrics.ACCESS_LOST.inc()
            return
        at = datetime.now(UTC)
        self._pending.append(
            {
                "at": at.isoformat(),
                "username": caller.username,
                "subject": caller.subject,
                "client": caller.client,
                "address": _address(address),
                "action": action,
                "clinic_id": clinic,
                "study_uid": study,
                "detail": detail,
                "view_key": _key(view, at),
            }
        )
        metrics.ACCESS_PENDING.set(len(self._pending))

    async def flush(self) -> None:
        """Write the pending rows. Raises RegistryAwayError, and keeps the rows that could not be written."""
        async with self._writing:  # otherwise two tasks would write the same rows
            while batch := self._pending[:WRITE_ROWS]:
                await self.registry.log_access(batch)
                del self._pending[: len(batch)]
                metrics.ACCESS_PENDING.set(len(self._pending))

    async def keep_writing(self) -> None:
        """Write every second without end. If the registry is away, it is tried again."""
        while True:
            await asyncio.sleep(WRITE_SECONDS)
            try:
                await self.flush()
            except RegistryAwayError as error:
                log.warning("%d access log rows wait for the registry: %s", len(self._pending), error)


def _key(view: tuple[str, ...], at: datetime) -> str:
    """The same id for the same view at all gateways. After a pause the id differs, because half an hour has passed."""
    window = int(at.timestamp() // VIEW_PAUSE_SECONDS)
    return str(uuid.UUID(bytes=hashlib.sha256(json.dumps([*view, window]).encode()).digest()[:16]))


def _address(text: str) -> str | None:
    try:
        return str(ip_address(text))
    except ValueError:
        return None
