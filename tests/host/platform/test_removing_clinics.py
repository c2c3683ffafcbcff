"""A clinic leaves: with its studies kept, taken over again, and deleted."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import platform_client
import pytest
import requests
from deliveries import copy_with_new_uids
from keycloak_admin import ask_keycloak
from platform_client import ROOT, Platform, User, state_path
from pydicom.data import get_testdata_file
from time_lapse import wait_for

CLINIC = "leaving-clinic"
ALONE, BOTH, SOFTWARE = "leaving.alone", "leaving.both", "leaving-software"
SECRET = state_path() / "secrets/clients" / SOFTWARE

make = partial(platform_client.make, timeout=300)


def done(*arguments: str) -> str:
    ran = make(*arguments)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-1000:]
    return " ".join(ran.stdout.split())


def refused(*arguments: str) -> str:
    ran = make(*arguments)
    assert ran.returncode != 0, ran.stdout[-3000:]
    assert "changed=1" not in ran.stdout
    return " ".join(ran.stdout.split())


def changes(printed: str) -> int:
    """How many tasks changed the host."""
    recap = re.search(r"\bsandbox : ok=\d+ changed=(\d+) ", printed)
    assert recap, printed[-2000:]
    return int(recap[1])


def account(platform: Platform, username: str) -> dict[str, object]:
    (found,) = json.loads(ask_keycloak(platform, "GET", f"imaging/users?username={username}&exact=true")[0])
    return dict(found)


def groups_of(platform: Platform, username: str) -> list[str]:
    groups = json.loads(ask_keycloak(platform, "GET", f"imaging/users/{account(platform, username)['id']}/groups")[0])
    return sorted(group["path"] for group in groups)


def registry(platform: Platform, statement: str) -> str:
    return platform.on_host("runuser", "-u", "postgres", "--", "psql", "-tAc", statement, "registry").strip()


def orthanc_has(platform: Platform, admin: requests.Session, study_uid: str) -> bool:
    query = {"Level": "Study", "Query": {"StudyInstanceUID": study_uid}}
    return bool(admin.post(f"{platform.url}/orthanc/tools/find", json=query, timeout=60).json())


@pytest.fixture(scope="module")
def admin(platform: Platform) -> requests.Session:
    return platform.api(platform.user("admin", "denscan-central"))


def add_people(platform: Platform) -> User:
    """Somebody of this clinic alone, with a password of their own, somebody of two clinics, and software."""
    done("add-user", f"USERNAME={ALONE}", "EMAIL=alone@example.org", f"CLINIC={CLINIC}")
    done("add-user", f"USERNAME={BOTH}", "EMAIL=both@example.org", f"CLINIC={CLINIC},denscan-central")
    done("add-client", f"CLIENT_ID={SOFTWARE}", f"CLINIC={CLINIC}")
    user = User(ALONE, "Leaving-Horse-81-battery", ("physician",), (CLINIC,))
    path = f"imaging/users/{account(platform, ALONE)['id']}"
    names = {"firstName": "Left", "lastName": "Alone", "email": "alone@example.org", "enabled": True}
    ask_keycloak(platform, "PUT", path, {**names, "requiredActions": []})
    own = {"type": "password", "value": user.password, "temporary": False}
    ask_keycloak(platform, "PUT", f"{path}/reset-password", own)
    return user


@pytest.fixture(scope="module")
def study(platform: Platform, admin: requests.Session, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A study of a clinic that is about to leave."""
    done("add-clinic", f"CLINIC_ID={CLINIC}", "CLINIC_NAME=A leaving clinic")
    inbox = f"{platform.inbox}/{CLINIC}"
    wait_for("the inbox is made", lambda: exists(platform, inbox), 60)
    folder = tmp_path_factory.mktemp("leaving") / "study"
    uid = copy_with_new_uids(Path(str(get_testdata_file("DICOMDIR"))).parent / "98892003", folder).study_uid
    platform.deliver(CLINIC, folder, "study")
    platform.wait_for_study(admin, uid)
    # The study is shown before its folder is put away.
    status = partial(admin.get, f"{platform.url}/import/status", timeout=30)
    wait_for("the import ends", lambda: CLINIC not in {one["clinic"] for one in status().json()["importing"]}, 60)
    yield uid
    make("remove-clinic", f"CLINIC_ID={CLINIC}", "STUDIES=delete", f"CONFIRM={CLINIC}")
    for username in (ALONE, BOTH):
        make("remove-user", f"USERNAME={username}")


def exists(platform: Platform, path: str) -> bool:
    return subprocess.run(["docker", "exec", platform.container, "test", "-e", path], check=False).returncode == 0


def test_it_is_refused_in_words_and_nothing_changes(platform: Platform, study: str) -> None:
    assert "Delete the entry `id: denscan-central` from imaging_clinics" in refused(
        "remove-clinic", "CLINIC_ID=denscan-central", "CONFIRM=denscan-central"
    )
    assert "there is no clinic 'nowhere'" in refused("remove-clinic", "CLINIC_ID=nowhere", "CONFIRM=nowhere")
    assert "owns 1 studies" in refused("remove-clinic", f"CLINIC_ID={CLINIC}", f"CONFIRM={CLINIC}")
    assert "takes keep" in refused("remove-clinic", f"CLINIC_ID={CLINIC}", f"CONFIRM={CLINIC}", "STUDIES=burn")
    for confirmed in ([], ["CONFIRM=denscan-central"]):
        assert "Not confirmed" in refused("remove-clinic", f"CLINIC_ID={CLINIC}", "STUDIES=keep", *confirmed)

    waiting = f"{platform.inbox}/{CLINIC}/comes"
    platform.on_host("mkdir", waiting)
    assert "1 deliveries wait" in refused("remove-clinic", f"CLINIC_ID={CLINIC}", "STUDIES=keep", f"CONFIRM={CLINIC}")
    platform.on_host("rmdir", waiting)

    assert registry(platform, f"SELECT removed_at FROM registry.clinic WHERE clinic_id = '{CLINIC}'") == ""  # noqa: S608
    assert exists(platform, f"{platform.inbox}/{CLINIC}")


def test_kept_studies_are_for_administrators_alone_until_the_clinic_is_taken_over(
    platform: Platform, admin: requests.Session, study: str
) -> None:
    user = add_people(platform)
    inbox = f"{platform.inbox}/{CLINIC}"
    seen = platform.api(user).get(f"{platform.url}/dicom-web/studies", timeout=30).json()
    assert [one["0020000D"]["Value"] for one in seen] == [[study]]

    removed = done("remove-clinic", f"CLINIC_ID={CLINIC}", "STUDIES=keep", f"CONFIRM={CLINIC}")

    assert f"Disabled, because they belonged to it alone: {ALONE}." in removed
    assert f"Still in their other clinics: {BOTH}." in removed
    assert account(platform, ALONE)["enabled"] is False
    with pytest.raises(AssertionError, match="was not let in"):
        platform.login(user)
    assert account(platform, BOTH)["enabled"] is True
    assert groups_of(platform, BOTH) == ["/clinics/denscan-central"]
    assert json.loads(ask_keycloak(platform, "GET", f"imaging/clients?clientId={SOFTWARE}")[0]) == []
    assert not SECRET.exists()
    assert not exists(platform, inbox)
    assert platform.wait_for_study(admin, study)
    (listed,) = [one for one in json.loads(make("list-clinics", "FORMAT=json").stdout) if one["id"] == CLINIC]
    assert (listed["studies"], listed["users"]) == (1, 0)
    assert listed["removed"]

    again = done("remove-clinic", f"CLINIC_ID={CLINIC}", "STUDIES=keep", f"CONFIRM={CLINIC}")
    assert changes(again) == 0
    assert not exists(platform, inbox), "the importer made the inbox again"

    add = ["add-clinic", f"CLINIC_ID={CLINIC}", "CLINIC_NAME=A clinic again"]
    assert "1 of its studies were kept, which every member would see" in refused(*add)
    assert "Delete the entry `id: leaving-clinic` from imaging_clinics" in validated(CLINIC)
    done(*add, "TAKE_OVER=1")
    done("add-user", f"USERNAME={ALONE}", "EMAIL=alone@example.org", f"CLINIC={CLINIC}")
    assert platform.wait_for_study(platform.api(user), study)
    wait_for("the clinic that came back has an inbox", lambda: exists(platform, inbox), 60)


def validated(clinic: str) -> str:
    """The first messages of site.yml for an inventory that names the clinic too."""
    named = json.dumps({"imaging_clinics": [{"id": clinic, "name": "Still there"}], "imaging_users": []})
    command = [ROOT / ".venv/bin/ansible-playbook", "-i", "inventories/sandbox", "playbooks/validate.yml", "-e", named]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert ran.returncode != 0
    return " ".join(ran.stdout.split())


def test_deleted_studies_are_gone_everywhere_and_it_is_on_record(
    platform: Platform, admin: requests.Session, study: str
) -> None:
    assert orthanc_has(platform, admin, study)

    predicted = check_mode(CLINIC)
    assert orthanc_has(platform, admin, study), "check mode deleted it"
    done("remove-clinic", f"CLINIC_ID={CLINIC}", "STUDIES=delete", f"CONFIRM={CLINIC}")

    assert changes(predicted) == 1
    assert not orthanc_has(platform, admin, study)
    assert registry(platform, f"SELECT count(*) FROM registry.study WHERE clinic_id = '{CLINIC}'") == "0"  # noqa: S608
    rows = f"SELECT username, action FROM registry.access_log WHERE study_uid = '{study}' AND action = 'delete'"  # noqa: S608
    assert registry(platform, rows) == "(operator)|delete"
    assert admin.get(f"{platform.url}/dicom-web/studies/{study}/series", timeout=30).json() == []
    assert CLINIC not in make("list-clinics").stdout
    # Nothing is left that somebody could inherit.
    done("add-clinic", f"CLINIC_ID={CLINIC}", "CLINIC_NAME=Another clinic")


def check_mode(clinic: str) -> str:
    command = [ROOT / ".venv/bin/ansible-playbook", "-i", "inventories/sandbox", "playbooks/remove-clinic.yml"]
    chosen = json.dumps({"clinic_id": clinic, "studies": "delete", "confirm": clinic})
    ran = subprocess.run(
        [*command, "--check", "-e", chosen], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert ran.returncode == 0, ran.stdout[-3000:]
    return " ".join(ran.stdout.split())
