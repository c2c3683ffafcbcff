"""Who opened which study: a row in the registry and a line in the journal, once per study view and not per frame."""

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
    """Collects accesses and writes them in batches; while the registry is away they wait, bounded."""

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
        """Take down one access. `detail` tells what was touched when that is no study; never anything of a patient."""
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
        """Write what is pending. Raises RegistryAwayError, and keeps what could not be written."""
        async with self._writing:  # or two would write the same rows
            while batch := self._pending[:WRITE_ROWS]:
                await self.registry.log_access(batch)
                del self._pending[: len(batch)]
                metrics.ACCESS_PENDING.set(len(self._pending))

    async def keep_writing(self) -> None:
        """Write for ever, every second; a registry that is away is tried again."""
        while True:
            await asyncio.sleep(WRITE_SECONDS)
            try:
                await self.flush()
            except RegistryAwayError as error:
                log.warning("%d access log rows wait for the registry: %s", len(self._pending), error)


def _key(view: tuple[str, ...], at: datetime) -> str:
    """The same for the same view at all gateways. After a pause it is another, since half an hour has gone by."""
    window = int(at.timestamp() // VIEW_PAUSE_SECONDS)
    return str(uuid.UUID(bytes=hashlib.sha256(json.dumps([*view, window]).encode()).digest()[:16]))


def _address(text: str) -> str | None:
    try:
        return str(ip_address(text))
    except ValueError:
        return None
