"""The routes: /authorize for the proxy, the search, health and metrics."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial, wraps

import prometheus_client
from aiohttp import web

from imaging_gateway import audit, metrics, search
from imaging_gateway.accept import choose
from imaging_gateway.access_log import AccessLog
from imaging_gateway.allowlist import FRAMES, JSON, Permit, Upstream, methods, permit
from imaging_gateway.config import Config, Secrets
from imaging_gateway.grammar import CLINIC
from imaging_gateway.owners import Owners
from imaging_gateway.refusals import AcceptError, NoClinicError, RefusedError, UndisplayableError
from imaging_gateway.registry import Registry, RegistryAwayError
from imaging_gateway.request_line import parse
from imaging_gateway.tokens import Caller, FetchKeys, NoKeysError, TokenError, TokenVerifier, fetch_jwks
from imaging_gateway.warm import CacheWarmer

LARGEST_FIELD = 16384
# If a study has a larger instance, the proxy counts the bytes that Orthanc reads whole to send it, for Orthanc's
# memory.
HEAVY = 64 << 20

UNAUTHORIZED = "unauthorized"
REFUSED = "refused"
ALLOWED = "allowed"
UNDECIDED = "undecided"


@dataclass(frozen=True)
class Refusal:
    """The answer for an error: to nginx, which asks /authorize, and to a client whom the gateway answers itself."""

    outcome: str
    to_nginx: int
    to_client: int
    headers: dict[str, str] = field(default_factory=dict)


_AWAY = Refusal(UNDECIDED, 503, 503, {"Retry-After": "5"})
REFUSALS: dict[type[Exception], Refusal] = {
    TokenError: Refusal(UNAUTHORIZED, 401, 401, {"WWW-Authenticate": "Bearer"}),
    AcceptError: Refusal(REFUSED, 403, 406),
    RefusedError: Refusal(REFUSED, 403, 404),
    search.QueryError: Refusal(REFUSED, 403, 400),
    RegistryAwayError: _AWAY,
    NoKeysError: _AWAY,
}


def _refusal(error: Exception) -> Refusal:
    """The answer to the closest class of an error."""
    return next(REFUSALS[kind] for kind in type(error).__mro__ if kind in REFUSALS)


Answer = Callable[["Gateway", web.Request], Awaitable[web.Response]]


def _refusing(answer: Answer) -> Answer:
    """Let a route that answers the client itself report the error that keeps it from answering."""

    @wraps(answer)
    async def handle(gateway: Gateway, request: web.Request) -> web.Response:
        try:
            return await answer(gateway, request)
        except tuple(REFUSALS) as error:
            refusal = _refusal(error)
            text = f"{error}\n" if isinstance(error, search.QueryError) else None
            return web.Response(status=refusal.to_client, headers=refusal.headers, text=text)

    return handle


@dataclass
class Gateway:
    """The parts of the service, and the decisions made with them."""

    config: Config
    registry: Registry
    verifier: TokenVerifier
    owners: Owners
    access: AccessLog
    warmer: CacheWarmer

    async def authorize(self, request: web.Request) -> web.Response:
        """Decide for the proxy: 204 with the study's revision, 401, 403, or 503 when it cannot be decided now."""
        started = time.perf_counter()
        try:
            headers = await self._decide(await self._caller(request), request)
            outcome, status = ALLOWED, 204
        except tuple(REFUSALS) as error:
            refusal = _refusal(error)
            outcome, status, headers = refusal.outcome, refusal.to_nginx, dict(refusal.headers)
            if isinstance(error, RefusedError) and error.told:
                headers["X-Refusal"] = error.told
        metrics.DECISIONS.labels(outcome).inc()
        metrics.DECISION_SECONDS.observe(time.perf_counter() - started)
        return web.Response(status=status, headers=headers)

    async def _caller(self, request: web.Request) -> Caller:
        caller = await self.verifier.identify(request.headers.getall("Authorization", []))
        if caller.unattended and request.path != "/authorize":
            raise TokenError("a pass is for the cache alone")
        return caller

    async def _decide(self, caller: Caller, request: web.Request) -> dict[str, str]:
        asked = parse(_one(request, "X-Original-Method"), _one(request, "X-Original-URI"))
        allowed = permit(asked, caller.roles)
        # Nothing that a gateway asks for goes on record, so it gets what warms the cache and no more.
        if caller.unattended and allowed.rule.forms is not JSON:
            raise RefusedError
        address = _address(request)
        match allowed.rule.upstream:
            case Upstream.GATEWAY:
                raise RefusedError
            case Upstream.IMPORTER_STATUS:
                return {"X-Clinics": caller.scope}
            case Upstream.IMPORTER_UPLOAD:
                return {"X-Clinics": _clinic_of_upload(caller, request), "X-Caller": _introduce(caller, address)}
            case Upstream.ORTHANC if allowed.study is not None:
                accept = ",".join(request.headers.getall("X-Original-Accept", []))
                return await self._decide_study(caller, allowed, allowed.study, accept, address)
        if allowed.rule.action:
            self.access.note(caller, allowed.rule.action, address, detail=f"{asked.method} {asked.path}")
        return {"X-Orthanc-Accept": "*/*"}

    async def _decide_study(
        self, caller: Caller, allowed: Permit, study: str, accept: str, address: str
    ) -> dict[str, str]:
        owner = await self.owners.locate(caller, study)
        if owner is None and "admin" not in caller.roles:
            raise RefusedError
        form = allowed.form(accept)
        # If Orthanc has a study that the registry does not have, only an administrator may see it. Its revision is
        # never the same twice, so the proxy's cache never answers for it.
        clinic, revision, largest, _ = owner or (None, f"unregistered-{time.time_ns()}", 0, True)
        if owner and allowed.rule.forms is FRAMES:
            code = await self.owners.why_undisplayable(caller, study, owner, allowed.instance)
            if code:
                raise UndisplayableError(code)
        if not caller.unattended:
            self.access.note(caller, allowed.rule.action, address, clinic, study)
        alone = {"X-Part-Alone": form.media_type} if form.alone else {}
        heavy = {"X-Heavy": "1"} if allowed.reads_all and largest > HEAVY else {}
        return {"X-Study-Revision": str(revision), "X-Orthanc-Accept": form.orthanc, **alone, **heavy}

    @_refusing
    async def search(self, request: web.Request) -> web.Response:
        """Answer GET /dicom-web/studies, /series and /instances from the registry, the newest first."""
        started = time.perf_counter()
        base_url = f"{self.config.public_url}/dicom-web"
        caller = await self._caller(request)
        asked = parse(request.method, request.raw_path)
        allowed = permit(asked, caller.roles)
        choose(",".join(request.headers.getall("Accept", [])), JSON)
        query = search.read(asked.parameters, search.LEVELS[asked.path])
        # One more than asked for shows whether there are more.
        found = await self.registry.search(caller.scope, query.level.name, query.match, query.limit + 1, query.offset)
        self.access.note(caller, allowed.rule.action, _address(request), clinic=caller.scope or None)
        answer = search.answer(query, found[: query.limit], base_url)
        response = web.Response(
            body=json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode(),
            headers={"Content-Type": "application/dicom+json", "Cache-Control": "no-store"},
        )
        for warning in search.warnings(query, len(found) > query.limit, base_url):
            response.headers.add("Warning", warning)
        metrics.SEARCH_SECONDS.observe(time.perf_counter() - started)
        return response

    @_refusing
    async def tell_methods(self, request: web.Request) -> web.Response:
        """Answer OPTIONS with the methods that the caller's roles allow there, whether or not the study exists."""
        caller = await self._caller(request)
        asked = parse(request.method, request.raw_path)
        allowed = methods(asked.path, caller.roles)
        if not allowed:
            raise RefusedError
        return web.Response(status=204, headers={"Allow": ", ".join(allowed), "Cache-Control": "no-store"})

    @_refusing
    async def read_audit(self, request: web.Request) -> web.Response:
        """Answer GET /audit/entries with the access log of the auditor's clinics, newest first."""
        caller = await self._caller(request)
        asked = parse(request.method, request.raw_path)
        allowed = permit(asked, caller.roles)
        query = audit.read(asked.parameters)
        found = await audit.page(self.registry, caller.scope, query)
        # A look at the access log is logged too: for one study at its clinic, for more at all of the caller's clinics.
        owner = await self.owners.locate(caller, query.study) if query.study else None
        clinic = owner.clinic if owner else caller.scope or None
        self.access.note(caller, allowed.rule.action, _address(request), clinic, query.study)
        return web.json_response(found, headers={"Cache-Control": "no-store"})

    async def live(self, _request: web.Request) -> web.Response:
        """Report that the event loop runs."""
        return web.json_response({"live": True})

    async def ready(self, _request: web.Request) -> web.Response:
        """Report whether every request can be decided, and if not, what is missing."""
        checks = {
            "live": True,
            "registry": "heard" if self.owners.listening else "the registry's database does not answer",
            "keys": "known" if self.verifier.ready else f"no keys yet from {self.config.token.jwks_url}",
            "ready": self.owners.listening and self.verifier.ready,
        }
        return web.json_response(checks, status=200 if checks["ready"] else 503)

    async def tell_metrics(self, _request: web.Request) -> web.Response:
        """Answer Prometheus."""
        return web.Response(
            body=prometheus_client.generate_latest(), headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST}
        )

    async def background(self, _app: web.Application) -> AsyncIterator[None]:
        """Run the background tasks from start to stop; write the last access log rows at the end."""
        await self.registry.open()
        loops = (
            self.verifier.keep_keys_fresh,
            self.owners.keep_listening,
            self.access.keep_writing,
            self.warmer.keep_warming,
        )
        tasks = [asyncio.create_task(loop()) for loop in loops]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            await self.access.flush()
        except RegistryAwayError:
            # The journal has these rows.
            metrics.ACCESS_LOST.inc()
        await self.registry.close()


def _one(request: web.Request, name: str) -> str:
    values = request.headers.getall(name, [])
    if len(values) != 1:
        raise RefusedError
    return values[0]


def _clinic_of_upload(caller: Caller, request: web.Request) -> str:
    """The caller's only clinic, or the one of them that X-Clinic names. An administrator may name any clinic."""
    named = request.headers.get("X-Clinic")
    if named is None and len(caller.clinics) == 1:
        return caller.clinics[0]
    if named is None or re.fullmatch(CLINIC, named) is None or not caller.may_see(named):
        raise NoClinicError
    return named


def _introduce(caller: Caller, address: str) -> str:
    """The uploader, for the row that the importer writes to the access log when it knows the study. ASCII."""
    known = {"username": caller.username, "subject": caller.subject, "client": caller.client, "address": address}
    return json.dumps(known)


def _address(request: web.Request) -> str:
    # The proxy overwrites it; nothing else reaches this port.
    return request.headers.get("X-Real-IP", "")


GATEWAY = web.AppKey("gateway", Gateway)


def make_app(config: Config, secrets: Secrets, fetch: FetchKeys | None = None) -> web.Application:
    """Build the application; `fetch` replaces the download of the key set in tests."""
    registry = Registry(config.registry, secrets.registry_password)
    verifier = TokenVerifier(config.token, secrets.warm_secret, fetch or partial(fetch_jwks, config.token.jwks_url))
    warmer = CacheWarmer(config.proxy_url, registry, secrets.warm_secret)
    gateway = Gateway(
        config=config,
        registry=registry,
        verifier=verifier,
        owners=Owners(registry, warmer.study_changed),
        access=AccessLog(registry),
        warmer=warmer,
    )
    app = web.Application()
    app[GATEWAY] = gateway
    app.cleanup_ctx.append(gateway.background)
    app.router.add_get("/authorize", gateway.authorize, allow_head=False)
    for path in search.LEVELS:
        app.router.add_get(path, gateway.search)
    app.router.add_route("OPTIONS", "/dicom-web/{path:.*}", gateway.tell_methods)
    app.router.add_get("/audit/entries", gateway.read_audit, allow_head=False)
    app.router.add_get("/health/live", gateway.live)
    app.router.add_get("/health/ready", gateway.ready)
    app.router.add_get("/health", gateway.ready)
    app.router.add_get("/metrics", gateway.tell_metrics)
    return app
