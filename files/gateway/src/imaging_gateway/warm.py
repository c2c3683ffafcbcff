"""Warms nginx's cache. Once a study is recorded, it asks nginx for the answers that a viewer needs first.

nginx asks a gateway about this request as about any other. Every gateway of the platform accepts the request's pass.
Warming only helps: if an answer cannot be warmed now, the first viewer's request puts it into the cache.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

import aiohttp

from imaging_gateway import metrics, passes
from imaging_gateway.registry import Registry, RegistryAwayError

log = logging.getLogger(__name__)

# Only one study at a time is warmed, so that at most one of Orthanc's threads is not free for people.
WAITING_STUDIES = 1000
STUDY_SECONDS = 120
JSON = {"Accept": "application/dicom+json"}
SERIES_INSTANCE_UID = "0020000E"


@dataclass
class CacheWarmer:
    """The changed studies, and the one loop that asks for them. Without an address of the proxy it does nothing."""

    proxy_url: str
    registry: Registry
    secret: str
    _waiting: dict[str, None] = field(default_factory=dict)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def study_changed(self, study: str) -> None:
        """Note a study. Nothing changes if the study waits already or too many wait."""
        if self.proxy_url and len(self._waiting) < WAITING_STUDIES:
            self._waiting[study] = None
            self._wake.set()

    async def keep_warming(self) -> None:
        """Warm without end, in the order of the changes."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            timeout = aiohttp.ClientTimeout(total=STUDY_SECONDS)
            async with aiohttp.ClientSession(self.proxy_url, headers=JSON, timeout=timeout) as proxy:
                while self._waiting:
                    study = next(iter(self._waiting))
                    del self._waiting[study]
                    try:
                        await self._warm(proxy, study)
                    except (RegistryAwayError, aiohttp.ClientError, TimeoutError, ValueError, LookupError) as error:
                        metrics.WARMED.labels("failed").inc()
                        log.warning("study %s is not warmed: %s", study, error or type(error).__name__)

    async def _warm(self, proxy: aiohttp.ClientSession, study: str) -> None:
        found = await self.registry.locate_study("*", study)
        if found is None:  # it was forgotten, not recorded
            return
        token = {"Authorization": f"Bearer {passes.issue(self.secret, found.clinic, STUDY_SECONDS)}"}
        path = f"/dicom-web/studies/{study}/series"
        async with proxy.get(path, headers=token, raise_for_status=True) as response:
            listed = await response.json(content_type=None)
        for series in listed:
            uid = series[SERIES_INSTANCE_UID]["Value"][0]
            async with proxy.get(f"{path}/{uid}/metadata", headers=token, raise_for_status=True) as response:
                async for _ in response.content.iter_chunked(65536):
                    pass
        metrics.WARMED.labels("warmed").inc()
