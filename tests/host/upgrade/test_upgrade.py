"""A host of the previous release, in use, is brought to this one: nothing that anybody has is lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from deliveries import Study, copy_with_new_uids
from keycloak_admin import ask_keycloak
from platform_client import ROOT, Platform, User, state_path
from pydicom.data import get_testdata_file

# The commit that was landed before this release was begun. A release moves it to the one before.
PREVIOUS = "0b5f56f"
SOURCE = "98892003"
BY_HAND = "added-by-hand"
OHIF = {"client_id": "ohif", "grant_type": "refresh_token"}
# Settings that the inventory does not have, and that an administrator may make in the console.
CHANGED_IN_THE_CONSOLE = {"ssoSessionIdleTimeoutRememberMe": 4242, "displayNameHtml": "<b>ours</b>"}


def make(directory: Path, *arguments: str) -> str:
    """Run make in one of the releases, whose virtual environment is its own."""
    begun = time.monotonic()
    path = os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if not part.endswith(".venv/bin"))
    done = subprocess.run(
        ["make", *arguments],
        cwd=directory,
        env=os.environ | {"PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    print(f"make {' '.join(arguments)}: {time.monotonic() - begun:.0f} s")
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return done.stdout


def deliver(platform: Platform, folder: Path, name: str) -> Study:
    study = copy_with_new_uids(Path(str(get_testdata_file("DICOMDIR"))).parent / SOURCE, folder)
    platform.deliver("denscan-central", folder, name)
    return study


def frame(platform: Platform, session: requests.Session, study: Study) -> bytes:
    address = f"{study.study_uid}/series/{study.series_uid}/instances/{study.sop_uid}/frames/1"
    accept = {"Accept": 'multipart/related; type="application/octet-stream"; transfer-syntax=*'}
    answer = session.get(f"{platform.url}/dicom-web/studies/{address}", headers=accept, timeout=60)
    answer.raise_for_status()
    return answer.content.replace(answer.content.split(b"\r\n", 1)[0], b"")  # the boundary is chosen again each time


def rows(platform: Platform, database: str, query: str) -> list[str]:
    psql = ("runuser", "-u", "postgres", "--", "psql", "-At", "-d", database, "-c", query)
    return platform.on_host(*psql).splitlines()


STUDIES = "SELECT study_uid, clinic_id, revision FROM registry.study ORDER BY 1"
RECORD = "SELECT count(*) FROM registry.access_log"
# 1: the delivered file. Other kinds are Orthanc's own files about it, made once it was asked.
IMAGES = "SELECT uuid, compressedhash FROM public.attachedfiles WHERE filetype = 1 ORDER BY 1"
USERS = "SELECT id, username FROM public.user_entity WHERE service_account_client_link IS NULL ORDER BY 1"


@dataclass(frozen=True)
class Before:
    """The data that people had under the previous release."""

    physician: User
    study: Study
    pixels: bytes
    session: str  # a refresh token
    studies: list[str]
    record: int
    images: list[str]
    users: list[str]
    secrets: dict[Path, bytes]


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The previous release, checked out beside this one."""
    known = subprocess.run(
        ["git", "cat-file", "-e", f"{PREVIOUS}^{{commit}}"], cwd=ROOT, check=False, capture_output=True
    )
    if known.returncode != 0:
        pytest.fail(
            f"The previous release, {PREVIOUS}, is not here: a clone with its history is needed: git fetch --unshallow"
        )
    directory = tmp_path_factory.mktemp("releases") / "previous"
    subprocess.run(["git", "worktree", "add", "--detach", str(directory), PREVIOUS], cwd=ROOT, check=True)
    yield directory
    subprocess.run(["git", "worktree", "remove", "--force", str(directory)], cwd=ROOT, check=True)


@pytest.fixture(scope="module")
def before(previous: Path, tmp_path_factory: pytest.TempPathFactory) -> Before:
    assert os.environ.get("SANDBOX", "sandbox") != "sandbox", "this test removes its host: give it a name in SANDBOX"
    make(ROOT, "down")
    shutil.rmtree(state_path(), ignore_errors=True)
    make(previous, "up")
    make(previous, "add-clinic", f"CLINIC_ID={BY_HAND}", "CLINIC_NAME=Added by hand")
    make(previous, "add-user", "USERNAME=by.hand", "EMAIL=by.hand@example.org", f"CLINIC={BY_HAND}")
    platform = Platform()
    ask_keycloak(platform, "PUT", "imaging", CHANGED_IN_THE_CONSOLE)
    physician = platform.user("physician", "denscan-central")
    study = deliver(platform, tmp_path_factory.mktemp("delivery") / "study", "before-the-upgrade")
    session = platform.api(physician)
    platform.wait_for_study(session, study.study_uid)
    pixels = frame(platform, session, study)
    time.sleep(5)  # the access log is written a moment later
    return Before(
        physician=physician,
        study=study,
        pixels=pixels,
        session=platform.login(physician)["refresh_token"],
        studies=rows(platform, "registry", STUDIES),
        record=int(rows(platform, "registry", RECORD)[0]),
        images=rows(platform, "orthanc", IMAGES),
        users=rows(platform, "keycloak", USERS),
        secrets={path: path.read_bytes() for path in (state_path() / "secrets").rglob("*") if path.is_file()},
    )


@pytest.fixture(scope="module")
def platform(before: Before) -> Platform:
    """The same host under this release."""
    make(ROOT, "up")
    return Platform()


def test_who_was_logged_in_still_is(platform, before):
    form = OHIF | {"refresh_token": before.session}
    answer = platform.session().post(f"{platform.realm_url}/protocol/openid-connect/token", data=form, timeout=60)
    assert answer.status_code == 200, answer.text


def test_the_old_password_shows_the_same_image(platform, before):
    assert frame(platform, platform.api(before.physician), before.study) == before.pixels


def test_every_study_every_image_and_every_user_is_as_it_was(platform, before):
    assert rows(platform, "registry", STUDIES) == before.studies
    assert rows(platform, "orthanc", IMAGES) == before.images
    assert set(before.users) <= set(rows(platform, "keycloak", USERS))


def test_the_record_of_who_saw_what_goes_on(platform, before):
    assert before.record > 0
    assert int(rows(platform, "registry", RECORD)[0]) >= before.record


def test_what_was_set_in_the_console_stays(platform, before):
    realm: dict[str, Any] = json.loads(ask_keycloak(platform, "GET", "imaging")[0])
    assert {name: realm[name] for name in CHANGED_IN_THE_CONSOLE} == CHANGED_IN_THE_CONSOLE


def test_what_was_added_by_hand_stays(platform, before):
    assert BY_HAND in rows(platform, "registry", "SELECT clinic_id FROM registry.clinic")
    (user,) = json.loads(ask_keycloak(platform, "GET", "imaging/users?username=by.hand&exact=true")[0])
    groups = json.loads(ask_keycloak(platform, "GET", f"imaging/users/{user['id']}/groups")[0])
    assert [group["path"] for group in groups] == [f"/clinics/{BY_HAND}"]


def test_no_secret_was_made_anew(platform, before):
    assert {path: path.read_bytes() for path in before.secrets} == before.secrets


def test_what_managers_of_users_could_read_is_worth_nothing_any_more(platform, before):
    (grafana,) = json.loads(ask_keycloak(platform, "GET", "imaging/clients?clientId=grafana")[0])
    assert grafana["secret"].encode() not in {content.strip() for content in before.secrets.values()}


def test_nothing_has_failed(platform, before):
    assert (
        platform.on_host("systemctl", "list-units", "--failed", "--plain", "--no-legend", "imaging-*", "nginx*") == ""
    )


def test_images_arrive(platform, before, tmp_path):
    study = deliver(platform, tmp_path / "study", "after-the-upgrade")
    platform.wait_for_study(platform.api(before.physician), study.study_uid)


def test_a_second_run_changes_nothing(platform, before):
    assert set(re.findall(r"changed=(\d+)", make(ROOT, "up"))) == {"0"}
