"""Which tokens are taken, and what they are believed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from imaging_gateway import passes, tokens
from imaging_gateway.tokens import NoKeysError, TokenError, TokenVerifier

SECRET = "of all gateways"


@pytest.fixture
def verifier(realm, token_config):
    return TokenVerifier(token_config, SECRET, realm.jwks)


def encoded(part):
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


async def test_a_valid_token_tells_who_calls(realm, verifier):
    token = realm.token(("south", "north"), roles=("technician", "offline_access"))
    caller = await verifier.identify([f"Bearer {token}"])
    assert (caller.username, caller.subject, caller.client, caller.session) == (
        "anna",
        "0b2e8c0e-sub",
        "ohif",
        "session-1",
    )
    assert caller.clinics == ("north", "south")
    assert "technician" in caller.roles
    assert caller.scope == "north,south"
    assert (caller.may_see("north"), caller.may_see("west")) == (True, False)


def no_signature(realm):
    return f"{encoded({'alg': 'none', 'typ': 'JWT', 'kid': 'first'})}.{encoded(realm.claims())}."


def signed_with_the_public_key(realm):
    pem = (
        realm.keys["first"]
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    text = f"{encoded({'alg': 'HS256', 'typ': 'JWT', 'kid': 'first'})}.{encoded(realm.claims())}"
    return f"{text}.{encoded(hmac.digest(pem, text.encode(), hashlib.sha256))}"


def own_key(realm, **headers):
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return jwt.encode(realm.claims(), key, "RS256", headers={"kid": "first", **headers})


def tampered(realm):
    head, _, signature = realm.token(("north",)).split(".")
    return f"{head}.{encoded(realm.claims(('south',)))}.{signature}"


FORGED = {
    "alg none": no_signature,
    "HS256 with the public key as secret": signed_with_the_public_key,
    "wrong key under a known key id": own_key,
    "a key brought along in the header": lambda realm: own_key(
        realm, jwk=realm.jwk("first", realm.keys["first"], "sig", "RS256")
    ),
    "a key set URL in the header": lambda realm: own_key(realm, jku="http://evil.test/jwks"),
    "claims changed under a true signature": tampered,
    "unknown key id": lambda realm: realm.token(kid="unheard-of"),
    "the realm's key for encryption": lambda realm: jwt.encode(
        realm.claims(), realm.encryption_key, "RS256", headers={"kid": "for-encryption"}
    ),
    "no key id": lambda realm: jwt.encode(realm.claims(), realm.keys["first"], "RS256"),
    "RS512": lambda realm: jwt.encode(realm.claims(), realm.keys["first"], "RS512", headers={"kid": "first"}),
    "expired": lambda realm: realm.token(exp=int(time.time()) - 10),
    "not valid yet": lambda realm: realm.token(nbf=int(time.time()) + 60),
    "issued in the future": lambda realm: realm.token(iat=int(time.time()) + 60),
    "without expiry": lambda realm: realm.token(exp=None),
    "without subject": lambda realm: realm.token(sub=None),
    "wrong issuer": lambda realm: realm.token(iss="https://imaging.test/auth/realms/master"),
    "issuer of another host": lambda realm: realm.token(iss="https://evil.test/auth/realms/imaging"),
    "wrong audience": lambda realm: realm.token(aud=["account"]),
    "no audience": lambda realm: realm.token(aud=None),
    "an ID token": lambda realm: realm.token(typ="ID"),
    "a refresh token": lambda realm: realm.token(typ="Refresh"),
    "no type": lambda realm: realm.token(typ=None),
    "too long": lambda realm: realm.token(filler="x" * 8192),
    "not a token": lambda realm: "abc",
    "empty": lambda realm: "",
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED.keys())
async def test_forged_and_foreign_tokens_are_not_taken(realm, verifier, forge):
    await verifier.identify([f"Bearer {realm.token()}"])
    with pytest.raises(TokenError):
        await verifier.identify([f"Bearer {forge(realm)}"])


@pytest.mark.parametrize(
    "headers",
    [
        lambda token: [],
        lambda token: [f"Bearer {token}", f"Bearer {token}"],
        lambda token: [token],
        lambda token: [f"Basic {token}"],
        lambda token: [f"Bearer{token}"],
        lambda token: [f"Bearer {token}, Bearer {token}"],
    ],
)
async def test_the_header_must_be_one_bearer_token(realm, verifier, headers):
    with pytest.raises(TokenError):
        await verifier.identify(headers(realm.token()))


async def test_a_remembered_token_still_expires(realm, verifier, monkeypatch):
    header = [f"Bearer {realm.token()}"]
    await verifier.identify(header)
    later = time.time() + 306
    monkeypatch.setattr(time, "time", lambda: later)
    with pytest.raises(TokenError, match="expired"):
        await verifier.identify(header)


async def test_a_clock_that_is_few_seconds_ahead_is_forgiven_but_no_token_lives_longer(realm, verifier):
    await verifier.identify([f"Bearer {realm.token(nbf=int(time.time()) + 2)}"])
    with pytest.raises(TokenError, match="expired"):
        await verifier.identify([f"Bearer {realm.token(exp=int(time.time()) - 1)}"])


async def test_memory_of_tokens_is_bounded(realm, verifier, monkeypatch):
    monkeypatch.setattr(tokens, "CACHED_TOKENS", 3)
    for _ in range(5):
        await verifier.identify([f"Bearer {realm.token()}"])
    assert len(verifier._passed) == 3


class TestRotation:
    async def test_a_new_key_is_fetched_when_first_used_but_not_on_every_forgery(self, realm, verifier, monkeypatch):
        await verifier.identify([f"Bearer {realm.token()}"])
        assert realm.fetched == 1
        for _ in range(20):
            with pytest.raises(TokenError):
                await verifier.identify([f"Bearer {realm.token(kid='forged')}"])
        assert realm.fetched == 1
        realm.keys["second"] = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        monkeypatch.setattr(tokens, "REFETCH_SECONDS", 0)
        await verifier.identify([f"Bearer {realm.token(key='second')}"])
        assert realm.fetched == 2

    async def test_a_withdrawn_key_ends_the_tokens_signed_with_it(self, realm, verifier):
        header = [f"Bearer {realm.token()}"]
        await verifier.identify(header)
        first = realm.keys["first"]
        realm.keys = {"second": rsa.generate_private_key(public_exponent=65537, key_size=2048)}
        await verifier.refresh_keys()
        with pytest.raises(TokenError):
            await verifier.identify(header)
        realm.keys = {"first": first}

    async def test_known_keys_hold_while_keycloak_is_away(self, realm, verifier):
        await verifier.refresh_keys()
        realm.down = True
        await verifier.refresh_keys()
        await verifier.identify([f"Bearer {realm.token()}"])

    async def test_without_any_key_nothing_is_decided(self, realm, verifier):
        realm.down = True
        with pytest.raises(NoKeysError):
            await verifier.identify([f"Bearer {realm.token()}"])


@pytest.mark.parametrize(
    ("claims", "clinics"),
    [
        (
            {"groups": ["/clinics/north", "/clinics/north/ward", "/other/south", "clinics/west", "/clinics/"]},
            ("north",),
        ),
        ({"groups": ["/clinics/*", "/clinics/a,b", "/clinics/UPPER", "/clinics/north\n"]}, ()),
        ({"groups": "/clinics/north"}, ()),
        ({"groups": None}, ()),
        ({"groups": [["/clinics/north"], 7, None]}, ()),
    ],
)
async def test_only_a_clinics_own_group_makes_a_member(realm, verifier, claims, clinics):
    caller = await verifier.identify([f"Bearer {realm.token(**claims)}"])
    assert caller.clinics == clinics
    assert caller.scope == ",".join(clinics)


async def test_a_name_cannot_forge_a_line_of_the_journal(realm, verifier):
    caller = await verifier.identify([f"Bearer {realm.token(preferred_username='a' + chr(10) + 'b' + chr(0))}"])
    assert caller.username == "ab"


class TestPasses:
    async def test_a_gateway_takes_the_pass_that_another_has_made(self, realm, token_config):
        others = passes.issue(SECRET, "north", 120)
        caller = await TokenVerifier(token_config, SECRET, realm.jwks).identify([f"Bearer {others}"])
        assert (caller.clinics, caller.roles, caller.unattended) == (("north",), frozenset({"physician"}), True)

    async def test_a_pass_survives_a_change_of_the_realms_keys(self, realm, verifier):
        own = f"Bearer {passes.issue(SECRET, 'north', 120)}"
        await verifier.refresh_keys()
        assert (await verifier.identify([own])).unattended

    @pytest.mark.parametrize(
        "forge",
        [
            lambda: passes.issue("another platform's", "north", 120),
            lambda: passes.issue(SECRET, "north", 120).replace("north", "south"),
            lambda: passes.issue(SECRET, "north", -1),
            lambda: passes.issue(SECRET, "north", 120)[:-1],
            lambda: passes.issue(SECRET, "north,south", 120),
            lambda: passes.issue(SECRET, "*", 120),
            lambda: passes.PREFIX,
            lambda: passes.PREFIX + "\u0660" * 70,
        ],
        ids=["by a stranger", "for another clinic", "over", "cut", "for two", "for all", "empty", "no ASCII"],
    )
    async def test_no_other_pass_is_taken(self, verifier, forge):
        with pytest.raises(TokenError):
            await verifier.identify([f"Bearer {forge()}"])
