"""The tokens that the running platform accepts, tried with a signing key that its realm trusts.

A second RSA key is put into the realm for the time of these tests, so that tokens can be made which differ from a
good one in exactly one claim.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jwt
import pytest
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from keycloak_admin import ask_keycloak
from platform_client import Platform

Claims = dict[str, object]


def new_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem(key: rsa.RSAPrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def number(value: int) -> str:
    raw = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@pytest.fixture(scope="module")
def trusted_key(platform: Platform) -> Iterator[tuple[rsa.RSAPrivateKey, str]]:
    """A key of the realm and its key id."""
    key = new_key()
    realm = json.loads(ask_keycloak(platform, "GET", "imaging")[0])
    component = {
        "name": "test-key",
        "providerId": "rsa",
        "providerType": "org.keycloak.keys.KeyProvider",
        "parentId": realm["id"],
        "config": {"privateKey": [pem(key)], "priority": ["-100"], "algorithm": ["RS256"]},
    }
    _, location = ask_keycloak(platform, "POST", "imaging/components", component)
    try:
        keys = platform.session().get(f"{platform.realm_url}/protocol/openid-connect/certs", timeout=30).json()["keys"]
        modulus = number(key.public_key().public_numbers().n)
        yield key, next(entry["kid"] for entry in keys if entry.get("n") == modulus)
    finally:
        ask_keycloak(platform, "DELETE", f"imaging/components/{Path(location).name}")


@pytest.fixture(scope="module")
def claims(platform: Platform) -> Callable[..., Claims]:
    """The claims of a real token, as good for five minutes as if just issued."""
    token = platform.login(platform.user("physician", "denscan-central"))["access_token"]
    real: Claims = jwt.decode(token, options={"verify_signature": False})

    def claims(**changes: object) -> Claims:
        now = int(time.time())
        return {**real, "iat": now, "exp": now + 300, **changes}

    return claims


@pytest.fixture(scope="module")
def forge(trusted_key: tuple[rsa.RSAPrivateKey, str]) -> Callable[[Claims], str]:
    key, kid = trusted_key
    return lambda content: jwt.encode(content, key, algorithm="RS256", headers={"kid": kid})


def studies(platform: Platform, *authorization: str) -> requests.Response:
    headers = {"Authorization": authorization[0]} if authorization else {}
    return platform.session().get(f"{platform.url}/dicom-web/studies", headers=headers, timeout=30)


@pytest.fixture(scope="module", autouse=True)
def _key_is_known(platform, forge, claims) -> None:
    """The control: a token that is right in every claim is let in, as soon as the gateway has met the new key."""
    deadline = time.monotonic() + 90
    while studies(platform, f"Bearer {forge(claims())}").status_code != 200:
        assert time.monotonic() < deadline, "the gateway does not take a new key of the realm"
        time.sleep(2)


def unsigned(content: Claims) -> str:
    head = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    body = base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()
    return f"{head}.{body}."


def refused(answer: requests.Response) -> bool:
    return answer.status_code == 401 and answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_no_token(platform):
    assert refused(studies(platform))


@pytest.mark.parametrize("authorization", ["Bearer", "Bearer x", "Bearer a.b.c", "Basic YWRtaW46YWRtaW4=", "Token x"])
def test_no_real_token(platform, authorization):
    assert refused(studies(platform, authorization))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"exp": 1}, id="expired-long-ago"),
        pytest.param({"exp": None}, id="never-expires"),
        pytest.param({"nbf": 99999999999}, id="not-yet-valid"),
        pytest.param({"iss": "https://evil.example/auth/realms/imaging"}, id="wrong-issuer"),
        pytest.param({"aud": "account"}, id="wrong-audience"),
        pytest.param({"aud": None}, id="no-audience"),
        pytest.param({"typ": "ID"}, id="id-token"),
        pytest.param({"typ": "Refresh"}, id="refresh-token"),
    ],
)
def test_one_wrong_claim(platform, forge, claims, changes):
    content = {key: value for key, value in claims(**changes).items() if value is not None}
    assert refused(studies(platform, f"Bearer {forge(content)}"))


def test_expired_just_now(platform, forge, claims):
    now = int(time.time())
    assert refused(studies(platform, f"Bearer {forge(claims(iat=now - 400, exp=now - 100))}"))


def test_unsigned_token(platform, claims):
    assert refused(studies(platform, f"Bearer {unsigned(claims())}"))


def test_wrong_key_under_a_known_key_id(platform, trusted_key, claims):
    token = jwt.encode(claims(), new_key(), algorithm="RS256", headers={"kid": trusted_key[1]})
    assert refused(studies(platform, f"Bearer {token}"))


def test_public_key_used_as_a_shared_secret(platform, trusted_key, claims):
    key, kid = trusted_key
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )  # fmt: skip
    head = base64.urlsafe_b64encode(json.dumps({"alg": "HS256", "kid": kid}).encode()).rstrip(b"=")
    body = base64.urlsafe_b64encode(json.dumps(claims()).encode()).rstrip(b"=")

    signature = base64.urlsafe_b64encode(hmac.digest(public, head + b"." + body, hashlib.sha256)).rstrip(b"=")
    token = b".".join((head, body, signature)).decode()
    assert refused(studies(platform, f"Bearer {token}"))


def test_token_in_the_query_is_not_taken(platform, forge, claims):
    token = forge(claims())
    for parameter in ("token", "access_token"):
        answer = platform.session().get(f"{platform.url}/dicom-web/studies", params={parameter: token}, timeout=30)
        assert refused(answer)


@pytest.mark.parametrize(
    "groups", [[], ["/clinics"], ["/clinics/"], ["denscan-central"], ["/clinics/denscan-central/x"]]
)
def test_groups_that_are_not_a_clinic_give_no_clinic(platform, forge, claims, central_study, groups):
    answer = studies(platform, f"Bearer {forge(claims(groups=groups))}")
    assert answer.status_code in (200, 204, 404)
    assert central_study.study_uid not in answer.text


@pytest.mark.parametrize("roles", [[], ["auditor"], ["offline_access", "Physician"]])
def test_roles_that_may_not_view_see_nothing(platform, forge, claims, central_study, roles):
    answer = studies(platform, f"Bearer {forge(claims(realm_access={'roles': roles}))}")
    assert answer.status_code == 404
    assert central_study.study_uid not in answer.text
