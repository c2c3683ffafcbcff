"""Access ends: of people who are removed, disabled or logged out, within the life of one token; of studies, at once."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jwt
import pytest
import requests
from deliveries import Study
from keycloak_admin import ask_keycloak
from platform_client import Platform, User

LONGEST_TOKEN_SECONDS = 300
# Long enough to log in and look, on a busy machine.
SHORT_TOKEN_SECONDS = 12


@contextmanager
def token_life(platform: Platform, seconds: int) -> Iterator[None]:
    before = json.loads(ask_keycloak(platform, "GET", "imaging")[0])["accessTokenLifespan"]
    assert before == LONGEST_TOKEN_SECONDS
    ask_keycloak(platform, "PUT", "imaging", {"accessTokenLifespan": seconds})
    try:
        yield
    finally:
        ask_keycloak(platform, "PUT", "imaging", {"accessTokenLifespan": before})


class Person:
    """A physician whom nobody else needs, logged in as in a browser."""

    def __init__(self, platform: Platform, clinics: tuple[str, ...] = ("denscan-central",)) -> None:
        self.platform = platform
        name = f"leaver-{secrets.token_hex(4)}"
        password = secrets.token_urlsafe(18)
        body = {
            "username": name, "email": f"{name}@example.org", "firstName": "A", "lastName": "Leaver", "enabled": True,
            "credentials": [{"type": "password", "value": password, "temporary": False}],
        }  # fmt: skip
        self.path = f"imaging/users/{ask_keycloak(platform, 'POST', 'imaging/users', body)[1].rsplit('/', 1)[1]}"
        role = json.loads(ask_keycloak(platform, "GET", "imaging/roles/physician")[0])
        ask_keycloak(platform, "POST", f"{self.path}/role-mappings/realm", [role])
        self.groups = []
        for clinic in clinics:
            group = json.loads(ask_keycloak(platform, "GET", f"imaging/group-by-path/clinics/{clinic}")[0])
            self.groups.append(f"{self.path}/groups/{group['id']}")
            ask_keycloak(platform, "PUT", self.groups[-1])
        self.tokens = platform.login(User(name, password, ("physician",), clinics))
        self.session = platform.session()
        self.carry(self.tokens)

    def remove(self) -> None:
        ask_keycloak(self.platform, "DELETE", self.path)

    def carry(self, tokens: dict[str, str]) -> None:
        self.session.headers["Authorization"] = f"Bearer {tokens['access_token']}"

    def renew(self) -> requests.Response:
        form = {"grant_type": "refresh_token", "client_id": "ohif", "refresh_token": self.tokens["refresh_token"]}
        url = f"{self.platform.realm_url}/protocol/openid-connect/token"
        return self.platform.session().post(url, data=form, timeout=30)

    def opens(self, study: Study) -> int:
        url = f"{self.platform.url}/dicom-web/studies/{study.study_uid}/series/{study.series_uid}/metadata"
        return self.session.get(url, timeout=30).status_code


@pytest.fixture
def person(platform: Platform) -> Iterator[Callable[[], Person]]:
    made: list[Person] = []

    def person() -> Person:
        made.append(Person(platform))
        return made[-1]

    yield person
    for one in made:
        one.remove()


def until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def test_a_token_lives_five_minutes(platform, person):
    claims = jwt.decode(person().tokens["access_token"], options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == LONGEST_TOKEN_SECONDS


def test_a_token_is_worth_nothing_from_its_end_on_and_a_disabled_or_logged_out_user_gets_no_other(
    platform, person, central_study
):
    with token_life(platform, SHORT_TOKEN_SECONDS):
        disabled, logged_out = person(), person()
        assert (disabled.opens(central_study), logged_out.opens(central_study)) == (200, 200)
        user = json.loads(ask_keycloak(platform, "GET", disabled.path)[0])
        ask_keycloak(platform, "PUT", disabled.path, {**user, "enabled": False})
        ask_keycloak(platform, "POST", f"{logged_out.path}/logout")
        for one in (disabled, logged_out):
            renewed = one.renew()
            assert (renewed.status_code, renewed.json()["error"]) == (400, "invalid_grant")
        for one in (disabled, logged_out):
            end = jwt.decode(one.tokens["access_token"], options={"verify_signature": False})["exp"]
            until(lambda end=end: time.time() > end + 0.5, 60, "the clock stands still")
            # The study is in the gateway's memory and in the proxy's cache; the token is in the gateway's memory.
            assert one.opens(central_study) == 401


def test_who_is_removed_from_a_clinic_loses_it_with_the_next_token(platform, person, central_study):
    leaver = person()
    assert leaver.opens(central_study) == 200
    ask_keycloak(platform, "DELETE", leaver.groups[0])
    leaver.carry(leaver.renew().json())
    assert leaver.opens(central_study) == 404
    assert leaver.session.get(f"{platform.url}/dicom-web/studies", timeout=30).json() == []


# ------------------------------------------------------------------------------------------------ studies


def frame(platform: Platform, session: requests.Session, study: Study) -> requests.Response:
    path = f"{study.study_uid}/series/{study.series_uid}/instances/{study.sop_uid}/frames/1"
    return session.get(f"{platform.url}/dicom-web/studies/{path}", timeout=30)


def psql(platform: Platform, statements: str) -> str:
    command = ("runuser", "-u", "postgres", "--", "psql", "-qAt1", "-v", "ON_ERROR_STOP=1", "registry", "-c")
    return platform.on_host(*command, statements).strip()


def orthanc_id(patient_id: str, study_uid: str) -> str:
    """Orthanc's identifier of a study."""
    digest = hashlib.sha1(f"{patient_id}|{study_uid}".encode()).hexdigest()  # noqa: S324
    return "-".join(digest[place : place + 8] for place in range(0, 40, 8))


def test_a_study_that_is_moved_is_its_new_owners_at_once_and_one_that_is_deleted_nobodys(
    platform, deliver, central_physician, almaty_physician
):
    study = deliver("denscan-central")
    listed = {"params": {"StudyInstanceUID": study.study_uid}, "timeout": 30}
    (attributes,) = central_physician.get(f"{platform.url}/dicom-web/studies", **listed).json()
    for _ in range(2):  # now it is in the cache
        assert frame(platform, central_physician, study).status_code == 200

    psql(
        platform,
        f"""SELECT registry.forget_study('{study.study_uid}');
            SELECT registry.claim_study('{study.study_uid}', 'denscan-almaty');
            SELECT registry.record_study('{study.study_uid}', 'denscan-almaty', '{{}}')""",
    )
    # Only the registry's notification to the gateway remains.
    until(lambda: frame(platform, central_physician, study).status_code == 404, 5, "its former clinic still has it")
    assert central_physician.get(f"{platform.url}/dicom-web/studies", **listed).json() == []
    for _ in range(2):
        assert frame(platform, almaty_physician, study).status_code == 200

    admin = platform.api(platform.user("admin", "denscan-central"))
    resource = f"studies/{orthanc_id(attributes['00100020']['Value'][0], study.study_uid)}"
    assert admin.delete(f"{platform.url}/orthanc/{resource}", timeout=60).status_code == 200
    # The answer came after the registry had forgotten it: no reconciler was waited for.
    rows = psql(platform, f"SELECT count(*) FROM registry.study WHERE study_uid = '{study.study_uid}'")  # noqa: S608
    assert rows == "0"
    until(lambda: frame(platform, almaty_physician, study).status_code == 404, 5, "it is still served")
    assert almaty_physician.get(f"{platform.url}/dicom-web/studies", **listed).json() == []
    assert frame(platform, admin, study).status_code == 404, "an administrator gets it from the cache"


# ------------------------------------------------------------------------------------------------ the database itself

AS_GATEWAY = """
import asyncio, json, sys, asyncpg
async def main():
    password = open("/etc/imaging/credentials/gateway/registry-password").read().strip()
    where = {"host": "/var/run/postgresql", "database": "registry", "user": "registry_gateway"}
    db = await asyncpg.connect(**where, password=password)
    for setting in json.loads(sys.argv[1]):
        async with db.transaction():
            if setting is not None:
                await db.execute("SELECT set_config('registry.clinics', $1, true)", setting)
            rows = await db.fetch("SELECT clinic_id, study_uid FROM registry.study")
            print(json.dumps([list(row) for row in rows]))
    for statement in json.loads(sys.argv[2]):
        try:
            await db.execute(statement)
            print("done")
        except asyncpg.InsufficientPrivilegeError:
            print("refused")
asyncio.run(main())
"""


def test_the_gateways_role_sees_the_clinics_of_its_setting_and_changes_no_record(platform, central_study, almaty_study):
    """Asked on the host with the gateway's own password, as far as a faulty or attacked gateway could reach."""
    settings = ["denscan-central", "denscan-almaty", "", None]
    statements = [
        "SELECT * FROM registry.access_log",
        "UPDATE registry.access_log SET username = 'nobody'",
        "DELETE FROM registry.access_log",
        "TRUNCATE registry.access_log",
        "UPDATE registry.study SET clinic_id = 'denscan-almaty'",
        "SET ROLE registry_owner",
    ]
    answer = platform.on_host("python3", "-c", AS_GATEWAY, json.dumps(settings), json.dumps(statements)).splitlines()
    central, almaty, empty, unset = map(json.loads, answer[: len(settings)])
    assert ["denscan-central", central_study.study_uid] in central
    assert ["denscan-almaty", almaty_study.study_uid] in almaty
    assert {clinic for clinic, _ in central} == {"denscan-central"}
    assert {clinic for clinic, _ in almaty} == {"denscan-almaty"}
    assert (empty, unset) == ([], [])
    assert answer[len(settings) :] == ["refused"] * len(statements)
