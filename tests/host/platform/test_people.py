"""An operator adds a clinic and its first physician, with the commands of the README."""

from __future__ import annotations

import json
from functools import partial

import jwt
import platform_client
import pytest
from keycloak_admin import ask_keycloak, user_id
from platform_client import Platform, User, state_path

CLINIC = "added-clinic"


make = partial(platform_client.make, timeout=120)


@pytest.fixture(scope="module")
def clinic() -> str:
    added = make("add-clinic", f"CLINIC_ID={CLINIC}", "CLINIC_NAME=An added clinic")
    assert added.returncode == 0, added.stdout[-2000:]
    return CLINIC


def test_a_new_physician_gets_a_password_that_is_not_shown(clinic):
    added = make("add-user", "USERNAME=added.physician", "EMAIL=added@example.org", f"CLINIC={clinic}")
    assert added.returncode == 0, added.stdout[-2000:]
    password = (state_path() / "secrets/users/added.physician").read_text().strip()
    assert len(password) >= 16
    assert password not in added.stdout + added.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["add-user", "USERNAME=Bad Name", "EMAIL=a@example.org", f"CLINIC={CLINIC}"], "username"),
        (["add-user", "USERNAME=good.name", "EMAIL=nobody", f"CLINIC={CLINIC}"], "email"),
        (["add-user", "USERNAME=good.name", "EMAIL=a@example.org", "CLINIC="], "clinic"),
        (["add-user", "USERNAME=good.name", "EMAIL=a@example.org", f"CLINIC={CLINIC}", "ROLE=boss"], "roles"),
        (["add-clinic", "CLINIC_ID=Bad_Id", "CLINIC_NAME=x"], "clinic_id"),
        (["disable-user", "USERNAME="], "username"),
        (["remove-user", "USERNAME=physician-denscan-central"], "is kept by the inventory"),
        (["rename-user", "USERNAME=physician-denscan-central", "NEW_USERNAME=other"], "is kept by the inventory"),
        (["rename-user", "USERNAME=nobody.here", "NEW_USERNAME=x"], "new_username 'x' is not usable"),
        (["rename-user", "USERNAME=nobody.here", "NEW_USERNAME=other.name"], "there is no user 'nobody.here'"),
        (["rename-clinic", "CLINIC_ID=denscan-central", "NAME=Another"], "is kept by the inventory"),
        (["rename-clinic", "CLINIC_ID=added-clinc", "NAME=Another"], "There is no clinic 'added-clinc'"),
        (["logout", "ALL=1", "USERNAME=nobody.here"], "logout-all ends the sessions of everybody"),
        (["logout", "ALL=yes"], "username is missing"),
        (["logout", "USERNAME=nobody.here"], "there is no user 'nobody.here'"),
    ],
)
def test_what_is_wrong_is_named_before_anything_changes(arguments, named):
    refused = make(*arguments)
    assert refused.returncode != 0
    assert named in " ".join(refused.stdout.split())
    assert "changed=1" not in refused.stdout


def listed(*arguments: str) -> list[dict[str, object]]:
    done = make(*arguments, "FORMAT=json")
    assert done.returncode == 0, done.stderr[-2000:]
    rows: list[dict[str, object]] = json.loads(done.stdout)
    return rows


def test_the_clinics_are_listed_with_what_they_have(platform: Platform, clinic: str) -> None:
    assert make("add-user", "USERNAME=listed.physician", "EMAIL=listed@example.org", f"CLINIC={clinic}").returncode == 0
    count = "SELECT count(*) FROM registry.study WHERE clinic_id = 'denscan-central' AND revision > 0"
    studies = int(platform.on_host("runuser", "-u", "postgres", "--", "psql", "-tAc", count, "registry"))

    clinics = {one["id"]: one for one in listed("list-clinics")}

    assert clinics["denscan-central"]["studies"] == studies
    assert (clinics["denscan-central"]["last_received"] is None) == (studies == 0)
    assert clinics[clinic]["name"] == "An added clinic"
    assert (clinics[clinic]["studies"], clinics[clinic]["last_received"]) == (0, None)
    assert clinics[clinic]["users"] == len(listed("list-users", f"CLINIC={clinic}"))


def test_the_users_of_a_clinic_are_listed_and_nobody_else(platform: Platform, clinic: str) -> None:
    assert make("add-user", "USERNAME=listed.physician", "EMAIL=listed@example.org", f"CLINIC={clinic}").returncode == 0

    users = {one["username"]: one for one in listed("list-users", f"CLINIC={clinic}")}

    assert users["listed.physician"] == {
        "username": "listed.physician", "name": users["listed.physician"]["name"], "email": "listed@example.org",
        "clinics": [clinic], "roles": ["physician"], "enabled": True, "second_factor": False,
    }  # fmt: skip
    assert platform.user("physician", "denscan-central").username not in users
    everybody = {str(one["username"]) for one in listed("list-users")}
    assert platform.user("physician", "denscan-central").username in everybody
    assert not [name for name in everybody if name.startswith("service-account-")]
    table = make("list-users", f"CLINIC={clinic}").stdout.splitlines()
    assert table[0].split()[:3] == ["USERNAME", "NAME", "EMAIL"]
    assert len(table) == 1 + len(users)


def test_users_of_a_clinic_that_is_not_there_are_refused() -> None:
    refused = make("list-users", "CLINIC=nowhere")
    assert refused.returncode != 0
    assert "there is no clinic 'nowhere'" in refused.stderr


def test_a_clinic_gets_another_name_and_keeps_its_id(clinic: str) -> None:
    try:
        renamed = make("rename-clinic", f"CLINIC_ID={clinic}", "NAME=A renamed clinic")
        assert renamed.returncode == 0, renamed.stdout[-2000:]
        assert {one["id"]: one["name"] for one in listed("list-clinics")}[clinic] == "A renamed clinic"
    finally:
        make("rename-clinic", f"CLINIC_ID={clinic}", "NAME=An added clinic")


@pytest.fixture
def leaver(platform: Platform, clinic: str) -> User:
    """A physician with a password of their own, as after the first login."""
    name = "leaving.physician"
    added = make("add-user", f"USERNAME={name}", "EMAIL=leaving@example.org", f"CLINIC={clinic}")
    assert added.returncode == 0, added.stdout[-2000:]
    user = User(name, "Leaving-Horse-79-battery", ("physician",), (clinic,))
    own = {"type": "password", "value": user.password, "temporary": False}
    ask_keycloak(platform, "PUT", f"imaging/users/{user_id(platform, name)}/reset-password", own)
    names = {"firstName": "Leaving", "lastName": "Physician", "email": "leaving@example.org", "enabled": True}
    ask_keycloak(platform, "PUT", f"imaging/users/{user_id(platform, name)}", names)
    return user


def renewed(platform: Platform, tokens: dict[str, str]) -> int:
    """The status of the answer when the viewer renews its token."""
    form = {"grant_type": "refresh_token", "client_id": "ohif", "refresh_token": tokens["refresh_token"]}
    return platform.session().post(f"{platform.realm_url}/protocol/openid-connect/token", data=form).status_code


def test_a_user_is_logged_out_disabled_given_another_password_and_removed(platform: Platform, leaver: User) -> None:
    tokens = platform.login(leaver)
    assert renewed(platform, tokens) == 200
    assert make("logout", f"USERNAME={leaver.username}").returncode == 0
    assert renewed(platform, tokens) == 400

    tokens = platform.login(leaver)
    assert make("disable-user", f"USERNAME={leaver.username}").returncode == 0
    assert renewed(platform, tokens) == 400
    with pytest.raises(AssertionError, match="was not let in"):
        platform.login(leaver)

    assert make("enable-user", f"USERNAME={leaver.username}").returncode == 0
    tokens = platform.login(leaver)
    reset = make("reset-password", f"USERNAME={leaver.username}")
    kept = state_path() / f"secrets/users/{leaver.username}"
    assert kept.read_text().strip() not in reset.stdout + reset.stderr
    assert kept.stat().st_mode & 0o777 == 0o600
    assert renewed(platform, tokens) == 400
    with pytest.raises(AssertionError, match="was not let in"):
        platform.login(leaver)

    assert make("remove-user", f"USERNAME={leaver.username}").returncode == 0
    assert not kept.exists()
    assert json.loads(ask_keycloak(platform, "GET", f"imaging/users?username={leaver.username}&exact=true")[0]) == []


def test_a_renamed_user_is_the_same_with_another_name_and_cannot_do_it_alone(platform: Platform, leaver: User) -> None:
    tokens = platform.login(leaver)
    subject = user_id(platform, leaver.username)
    console = platform.login(leaver, "account-console", "/auth/realms/imaging/account/")["access_token"]
    account = {"url": f"{platform.realm_url}/account/", "timeout": 30}
    headers = {"Authorization": f"Bearer {console}", "Accept": "application/json"}
    own = platform.session().get(**account, headers=headers).json()
    assert own["username"] == leaver.username
    forged = platform.session().post(**account, headers=headers, json={**own, "username": "physician.forged"})
    assert (forged.status_code, user_id(platform, leaver.username)) == (400, subject), "users can rename themselves"

    assert "is a user 'listed.physician' already" in make(
        "rename-user", f"USERNAME={leaver.username}", "NEW_USERNAME=listed.physician"
    ).stdout.replace("\n", " ")
    renamed = make("rename-user", f"USERNAME={leaver.username}", "NEW_USERNAME=renamed.physician")

    assert renamed.returncode == 0, renamed.stdout[-2000:]
    try:
        assert renewed(platform, tokens) == 400
        with pytest.raises(AssertionError, match="was not let in"):
            platform.login(leaver)
        new = User("renamed.physician", leaver.password, leaver.roles, leaver.clinics)
        claims = jwt.decode(platform.login(new)["access_token"], options={"verify_signature": False})
        assert (claims["preferred_username"], claims["sub"]) == ("renamed.physician", subject)
        assert claims["groups"] == [f"/clinics/{CLINIC}"]
        kept = state_path() / "secrets/users"
        assert (kept / "renamed.physician").exists()
        assert not (kept / leaver.username).exists()
    finally:
        make("remove-user", "USERNAME=renamed.physician")


def test_everybody_is_logged_out_at_once_and_may_come_back(platform: Platform) -> None:
    people = [platform.user("physician", "denscan-central"), platform.user("physician", "denscan-almaty")]
    tokens = [platform.login(user) for user in people]
    assert [renewed(platform, one) for one in tokens] == [200, 200]

    everybody = make("logout", "ALL=1")

    assert everybody.returncode == 0, everybody.stdout[-2000:]
    assert "ends within five minutes" in " ".join(everybody.stdout.split())
    assert [renewed(platform, one) for one in tokens] == [400, 400]
    assert renewed(platform, platform.login(people[0])) == 200


def test_the_inventorys_password_is_put_back_where_it_no_longer_opens_the_account(platform: Platform) -> None:
    """As after a restore onto a host whose controller has made new secrets."""
    user = platform.user("physician", "partner-clinic")
    other = {"type": "password", "value": "Restored-Horse-80-battery", "temporary": False}
    # Keycloak refuses the last five passwords: the account is one that never had the inventory's.
    path = f"imaging/users/{user_id(platform, user.username)}"
    email = json.loads(ask_keycloak(platform, "GET", path)[0])["email"]
    groups = [group["path"] for group in json.loads(ask_keycloak(platform, "GET", f"{path}/groups")[0])]
    ask_keycloak(platform, "DELETE", path)
    ask_keycloak(
        platform, "POST", "imaging/users",
        {"username": user.username, "email": email, "firstName": "Physician", "lastName": "Partner", "enabled": True,
         "groups": groups, "credentials": [other]},
    )  # fmt: skip
    role = json.loads(ask_keycloak(platform, "GET", "imaging/roles/physician")[0])
    ask_keycloak(
        platform, "POST", f"imaging/users/{user_id(platform, user.username)}/role-mappings/realm", [role]
    )  # fmt: skip

    reset = make("reset-password", f"USERNAME={user.username}")

    assert "again the one of the inventory" in " ".join(reset.stdout.split()), reset.stdout[-2000:]
    assert platform.api(user).get(f"{platform.url}/dicom-web/studies", timeout=30).status_code in (200, 204)
