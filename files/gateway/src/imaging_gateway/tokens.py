"""The caller of a request: access tokens of Keycloak are checked here and nowhere else (RFC 7519, RFC 8725)."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import jwt

from imaging_gateway import metrics, passes
from imaging_gateway.config import TokenConfig
from imaging_gateway.grammar import CLINIC

log = logging.getLogger(__name__)

# Clocks may differ: a token may seem to come from the near future. No token is accepted after its end.
LEEWAY_SECONDS = 5
LONGEST_TOKEN = 8192
CACHED_TOKENS = 10_000
# A token with an unknown key id makes the gateway fetch the keys again. The interval is limited, so that somebody who
# forges ids cannot flood Keycloak.
REFETCH_SECONDS = 10
# The keys are also fetched at this interval, so that a key withdrawn from the realm stops working here.
REFRESH_SECONDS = 300

CLINIC_GROUP = re.compile(rf"/clinics/({CLINIC})")
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")

ALL_CLINICS = "*"


class TokenError(Exception):
    """There is no token, or one that must not be accepted. The caller gets 401."""


class NoKeysError(Exception):
    """No signing key is known yet, so no caller can be identified. The caller gets 503."""


@dataclass(frozen=True)
class Caller:
    """Somebody with a valid token, and the facts that the token holds about them."""

    subject: str
    username: str
    client: str
    session: str
    roles: frozenset[str]
    clinics: tuple[str, ...]
    expires: float
    unattended: bool = False
    """A gateway, warming nginx's cache: nobody sees what it asks for."""

    @property
    def scope(self) -> str:
        """The clinics as the registry's setting `registry.clinics` takes them; empty means none at all."""
        return ALL_CLINICS if "admin" in self.roles else ",".join(self.clinics)

    def may_see(self, clinic: str) -> bool:
        """Return whether the caller may see a study of this clinic."""
        return "admin" in self.roles or clinic in self.clinics


# The exceptions that an answer without a key set leads to.
_NO_KEY_SET = (ValueError, TypeError, KeyError)

FetchKeys = Callable[[], Awaitable[dict[str, Any]]]


async def fetch_jwks(url: str) -> dict[str, Any]:
    """Fetch the realm's key set (RFC 7517). Raises aiohttp.ClientError, TimeoutError, or any of _NO_KEY_SET."""
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as client,
        client.get(url, allow_redirects=False) as response,
    ):
        response.raise_for_status()
        document = await response.json(content_type=None)
    return {"keys": list(document["keys"])}


@dataclass
class TokenVerifier:
    """Checks tokens against the realm's present keys and remembers valid tokens until they expire."""

    config: TokenConfig
    warm_secret: str
    fetch: FetchKeys
    _keys: dict[str, jwt.PyJWK] = field(default_factory=dict)
    _fetched_at: float = float("-inf")
    _fetching: asyncio.Lock = field(default_factory=asyncio.Lock)
    _passed: OrderedDict[bytes, Caller] = field(default_factory=OrderedDict)

    @property
    def ready(self) -> bool:
        """Return whether at least one signing key is known."""
        return bool(self._keys)

    async def identify(self, authorization: list[str]) -> Caller:
        """Return the caller behind the request's Authorization headers.

        Raises TokenError, or NoKeysError while no key was ever fetched.
        """
        if len(authorization) != 1:
            raise TokenError("exactly one Authorization header is needed")
        scheme, _, token = authorization[0].partition(" ")
        if scheme.lower() != "bearer" or not token or len(token) > LONGEST_TOKEN:
            raise TokenError("a Bearer token is needed")
        digest = hashlib.sha256(token.encode()).digest()
        if token.startswith(passes.PREFIX):
            caller = self._of_pass(token)
        elif (known := self._passed.get(digest)) is not None:
            caller = known
        else:
            caller = self._verify(token, await self._key_of(token))
            self._remember(digest, caller)
        if caller.expires <= time.time():
            self._passed.pop(digest, None)
            raise TokenError("the token has expired")
        return caller

    def _of_pass(self, token: str) -> Caller:
        read = passes.read(self.warm_secret, token)
        if read is None:
            raise TokenError("a pass that no gateway has made")
        clinic, expires = read
        return Caller(
            subject="imaging-gateway",
            username="imaging-gateway",
            client="imaging-gateway",
            session="",
            roles=frozenset({"physician"}),
            clinics=(clinic,),
            expires=expires,
            unattended=True,
        )

    def _remember(self, digest: bytes, caller: Caller) -> None:
        self._passed[digest] = caller
        if len(self._passed) > CACHED_TOKENS:
            self._passed.popitem(last=False)

    async def _key_of(self, token: str) -> jwt.PyJWK:
        try:
            header = jwt.get_unverified_header(token)
        except jwt.InvalidTokenError as error:
            raise TokenError("not a token") from error
        if header.get("alg") != "RS256" or not isinstance(header.get("kid"), str):
            raise TokenError("only RS256 with a key id is taken")
        if header["kid"] not in self._keys:
            await self.refresh_keys(older_than=REFETCH_SECONDS)
        if not self._keys:
            raise NoKeysError
        try:
            return self._keys[header["kid"]]
        except KeyError as error:
            raise TokenError("the signing key is not one of the realm's") from error

    def _verify(self, token: str, key: jwt.PyJWK) -> Caller:
        try:
            token_claims = jwt.decode(
                token,
                key=key.key,
                algorithms=["RS256"],
                issuer=self.config.issuer,
                audience=self.config.audience,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iat", "iss", "aud", "sub"]},
            )
        except jwt.InvalidTokenError as error:
            raise TokenError(str(error)) from error
        # Keycloak signs ID and logout tokens with the same key. Only the type tells them from access tokens.
        if token_claims.get("typ") != "Bearer":
            raise TokenError("not an access token")
        return _caller(token_claims)

    async def refresh_keys(self, older_than: float = 0) -> None:
        """Fetch the keys unless that was tried less than `older_than` seconds ago. If it fails, the known keys stay."""
        async with self._fetching:
            if time.monotonic() - self._fetched_at < older_than:
                return
            self._fetched_at = time.monotonic()
            try:
                document = await self.fetch()
            except (aiohttp.ClientError, TimeoutError, *_NO_KEY_SET) as error:
                log.warning("keys not fetched from %s: %s", self.config.jwks_url, error or type(error).__name__)
                return
        keys = _signing_keys(document)
        if _numbers(keys) != _numbers(self._keys):
            log.info("signing keys are now %s", ", ".join(sorted(keys)) or "none")
            self._passed.clear()
        self._keys = keys
        metrics.KEYS.set(len(keys))

    async def keep_keys_fresh(self) -> None:
        """Refresh the keys without end: often until there is one, then every five minutes."""
        while True:
            await self.refresh_keys(older_than=REFETCH_SECONDS)
            await asyncio.sleep(REFRESH_SECONDS if self.ready else REFETCH_SECONDS / 5)


def _signing_keys(document: dict[str, Any]) -> dict[str, jwt.PyJWK]:
    """Keep the RSA keys for signing: Keycloak lists an encryption key beside them."""
    keys = {}
    for item in document["keys"]:
        if not isinstance(item, dict) or (item.get("kty"), item.get("use")) != ("RSA", "sig"):
            continue
        if item.get("alg", "RS256") == "RS256" and isinstance(item.get("kid"), str):
            try:
                keys[item["kid"]] = jwt.PyJWK(item, algorithm="RS256")
            except jwt.PyJWTError as error:
                log.warning("key %s is left out: %s", item["kid"], error)
    return keys


def _numbers(keys: dict[str, jwt.PyJWK]) -> dict[str, object]:
    return {name: key.key.public_numbers() for name, key in keys.items()}


def _caller(token_claims: dict[str, Any]) -> Caller:
    def text(name: str, limit: int = 255) -> str:
        # Control characters would forge lines in the journal. The registry does not accept lone surrogates as text.
        value = token_claims.get(name)
        return UNPRINTABLE.sub("", value)[:limit] if isinstance(value, str) else ""

    def texts(value: object) -> list[str]:
        return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []

    access = token_claims.get("realm_access")
    clinics = {match[1] for group in texts(token_claims.get("groups")) if (match := CLINIC_GROUP.fullmatch(group))}
    return Caller(
        subject=text("sub"),
        username=text("preferred_username"),
        client=text("azp"),
        session=text("sid"),
        roles=frozenset(texts(access.get("roles")) if isinstance(access, dict) else []),
        clinics=tuple(sorted(clinics)),
        expires=float(token_claims["exp"]),
    )
