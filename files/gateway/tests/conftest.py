"""A gateway in this process, against the real registry and a realm of keys made for the test."""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from contextlib import asynccontextmanager
from pathlib import Path

# ruff: noqa: E402
# A deployment copies the source directory as it is: no compiled files may come to lie in it.
sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).parent.parent / "src"))

import jwt
import pytest
from aiohttp.test_utils import TestClient, TestServer
from cryptography.hazmat.primitives.asymmetric import rsa
from imaging_gateway.app import GATEWAY, make_app
from imaging_gateway.config import Config, RegistryConfig, Secrets, TokenConfig

ISSUER = "https://imaging.test/auth/realms/imaging"
AUDIENCE = "imaging-gateway"
SECRETS = Secrets(registry_password="trusted", warm_secret="of all gateways")


class Realm:
    """Keycloak as the gateway knows it: keys at a URL, and tokens."""

    def __init__(self) -> None:
        self.keys = {"first": rsa.generate_private_key(public_exponent=65537, key_size=2048)}
        self.encryption_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.down = False
        self.fetched = 0

    async def jwks(self) -> dict[str, object]:
        self.fetched += 1
        if self.down:
            raise TimeoutError
        keys = [self.jwk(name, key, "sig", "RS256") for name, key in self.keys.items()]
        return {"keys": [self.jwk("for-encryption", self.encryption_key, "enc", "RSA-OAEP"), *keys]}

    @staticmethod
    def jwk(name, key, use, algorithm):
        public = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        return {key: value for key, value in public.items() if key != "key_ops"} | {
            "kid": name,
            "use": use,
            "alg": algorithm,
        }

    def claims(self, clinics=("north",), roles=("physician",), **changes):
        now = int(time.time())
        claims = {
            "exp": now + 300,
            "iat": now,
            "jti": str(uuid.uuid4()),
            "iss": ISSUER,
            "aud": [AUDIENCE, "account"],
            "sub": "0b2e8c0e-sub",
            "typ": "Bearer",
            "azp": "ohif",
            "sid": "session-1",
            "preferred_username": "anna",
            "realm_access": {"roles": list(roles)},
            "groups": [f"/clinics/{clinic}" for clinic in clinics],
        }
        return {name: value for name, value in (claims | changes).items() if value is not None}

    def token(self, clinics=("north",), roles=("physician",), key="first", kid=None, headers=None, **changes):
        claims = self.claims(clinics, roles, **changes)
        return jwt.encode(claims, self.keys[key], "RS256", headers={"kid": kid or key, **(headers or {})})

    def bearer(self, *clinics, roles=("physician",), **changes):
        return {"Authorization": f"Bearer {self.token(clinics, roles, **changes)}"}


@pytest.fixture(scope="session")
def made_realm():
    return Realm()


@pytest.fixture
def realm(made_realm):
    made_realm.down, made_realm.fetched = False, 0
    made_realm.keys = {"first": made_realm.keys["first"]}
    return made_realm


@pytest.fixture
def token_config():
    return TokenConfig(issuer=ISSUER, audience=AUDIENCE, jwks_url="http://keycloak.test/certs")


class RunningGateway:
    """The gateway as nginx and its clients reach it."""

    def __init__(self, client: TestClient, realm: Realm) -> None:
        self.http = client
        self.realm = realm
        self.service = client.app[GATEWAY]

    async def ask(self, uri, headers=None, method="GET", **more):
        """Ask /authorize for a request and return (status, revision)."""
        sent = {"X-Original-Method": method, "X-Original-URI": uri, "X-Real-IP": "192.0.2.7", **(headers or {})}
        async with self.http.get("/authorize", headers=sent, **more) as response:
            assert await response.read() == b""
            return response.status, response.headers.get("X-Study-Revision")

    async def search(self, query="", headers=None):
        """Search studies and return (status, DICOM JSON or text, headers)."""
        async with self.http.get(f"/dicom-web/studies{query}", headers=headers or {}) as response:
            is_json = response.content_type == "application/dicom+json"
            return (
                response.status,
                await (response.json(content_type=None) if is_json else response.text()),
                response.headers,
            )


@pytest.fixture
def config(cluster, token_config):
    return Config(
        listen_address="127.0.0.1",
        listen_port=0,
        public_url="https://imaging.test",
        proxy_url="",
        token=token_config,
        registry=RegistryConfig(str(cluster.socket), 5432, "registry", "registry_gateway"),
    )


@pytest.fixture
async def gateway(registry, realm, config):
    async with open_gateway(config, realm) as gateway:
        await ready(gateway.http)
        yield gateway


@asynccontextmanager
async def open_gateway(config, realm):
    """Start a gateway; whether it gets ready depends on what it finds."""
    async with TestServer(make_app(config, SECRETS, realm.jwks)) as server, TestClient(server) as client:
        yield RunningGateway(client, realm)


async def ready(client):
    for _ in range(500):
        async with client.get("/health/ready") as response:
            if response.status == 200:
                return
        await asyncio.sleep(0.01)
    raise AssertionError("the gateway is not ready")
