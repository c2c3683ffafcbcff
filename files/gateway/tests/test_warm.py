"""A recorded study is asked for through the proxy before anybody opens it, by the same gate as everybody."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from imaging_gateway.tokens import TokenError

from .conftest import open_gateway, ready

STUDY = "1.2.1"
SERIES = f"/dicom-web/studies/{STUDY}/series"


class Proxy:
    """The proxy as the gateway reaches it: asks the gateway about each request, as nginx does, and answers itself."""

    def __init__(self) -> None:
        self.gateway = None
        self.asked: list[tuple[str, int]] = []
        self.broken = False
        self.done = asyncio.Event()

    async def answer(self, request: web.Request) -> web.Response:
        token = {"Authorization": request.headers["Authorization"]}
        status, _ = await self.gateway.ask(request.raw_path, token)
        self.asked.append((request.raw_path, status))
        if self.broken:
            self.done.set()
            return web.Response(status=503)
        if request.raw_path == SERIES:
            return web.json_response([{"0020000E": {"vr": "UI", "Value": [uid]}} for uid in ("1.3", "1.4")])
        if request.raw_path.endswith("1.4/metadata"):
            self.foreign, _ = await self.gateway.ask("/dicom-web/studies/1.2.2/series", token)
            self.token = token
            self.done.set()
        return web.json_response([])


@pytest.fixture
async def proxy(registry, realm, config):
    proxy = Proxy()
    app = web.Application()
    app.router.add_get("/{path:.*}", proxy.answer)
    async with (
        TestServer(app) as server,
        open_gateway(dataclasses.replace(config, proxy_url=str(server.make_url("/"))), realm) as gateway,
    ):
        await ready(gateway.http)
        proxy.gateway = gateway
        yield proxy


async def test_series_and_metadata_are_asked_for_once_recorded(proxy, importer):
    importer.add("1.2.2", "south", name="SOUTH")
    importer.add(STUDY, "north", name="NORTH")
    await asyncio.wait_for(proxy.done.wait(), 20)
    assert proxy.asked[-3:] == [(path, 204) for path in (SERIES, f"{SERIES}/1.3/metadata", f"{SERIES}/1.4/metadata")]
    assert proxy.foreign == 403, "the warming sees the study's clinic and no other"


async def test_nobody_looked_so_nothing_is_in_the_access_log(proxy, importer, registry):
    importer.add(STUDY, "north", name="NORTH")
    await asyncio.wait_for(proxy.done.wait(), 20)
    await proxy.gateway.service.access.flush()
    with registry.connect("postgres") as auditor:
        assert auditor.execute("SELECT count(*) FROM registry.access_log").fetchone() == (0,)


async def test_its_token_ends_by_itself(proxy, importer, monkeypatch):
    importer.add(STUDY, "north", name="NORTH")
    await asyncio.wait_for(proxy.done.wait(), 20)
    verifier = proxy.gateway.service.verifier
    monkeypatch.setattr("imaging_gateway.tokens.time.time", lambda: 4e9)
    with pytest.raises(TokenError):
        await verifier.identify([proxy.token["Authorization"]])


async def test_a_proxy_that_is_away_stops_nothing(proxy, importer):
    proxy.broken = True
    importer.add(STUDY, "north", name="NORTH")
    await asyncio.wait_for(proxy.done.wait(), 20)
    proxy.broken = False
    proxy.done.clear()
    importer.record(STUDY, "north", name="NORTH")
    await asyncio.wait_for(proxy.done.wait(), 20)
