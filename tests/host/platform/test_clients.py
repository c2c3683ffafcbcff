"""A clinic's own software gets in by the same gate: added with make, used as docs/ADMIN.md shows, shut out again."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jwt
import platform_client
import pytest
import requests
from deliveries import Study
from downloads import digests, mixed_study, stored
from keycloak_admin import ask_keycloak
from platform_client import ROOT, Platform, state_path

CLIENT, CLINIC = "ris-almaty", "denscan-almaty"
SECRET = state_path() / "secrets/clients" / CLIENT


make = partial(platform_client.make, timeout=120)


@pytest.fixture(scope="module")
def secret() -> Iterator[str]:
    """The software is let in; its secret."""
    added = make("add-client", f"CLIENT_ID={CLIENT}", f"CLINIC={CLINIC}")
    assert added.returncode == 0, added.stdout[-2000:]
    secret = SECRET.read_text()
    assert secret not in added.stdout + added.stderr
    yield secret
    if SECRET.exists():
        make("remove-client", f"CLIENT_ID={CLIENT}")


def ask_for_token(platform: Platform, secret: str, **form: str) -> requests.Response:
    form = {"grant_type": "client_credentials", "client_id": CLIENT, "client_secret": secret, **form}
    return platform.session().post(f"{platform.realm_url}/protocol/openid-connect/token", data=form, timeout=30)


@pytest.fixture(scope="module")
def software(platform: Platform, secret: str) -> requests.Session:
    session = platform.session()
    session.headers["Authorization"] = f"Bearer {ask_for_token(platform, secret).json()['access_token']}"
    return session


def test_the_secret_is_a_file_of_the_administrators_own(secret):
    assert SECRET.stat().st_mode & 0o777 == 0o600
    assert SECRET.parent.stat().st_mode & 0o777 == 0o700
    assert re.fullmatch(r"[A-Za-z0-9]{48}", secret), "no newline at the end: curl sends the file as it is"


def test_adding_it_again_changes_nothing(secret):
    again = make("add-client", f"CLIENT_ID={CLIENT}", f"CLINIC={CLINIC}")
    assert re.search(r"sandbox\s+: .*changed=0 .*failed=0", again.stdout), again.stdout[-2000:]
    assert SECRET.read_text() == secret


def test_its_token_says_what_a_persons_says(platform, software):
    token = software.headers["Authorization"].removeprefix("Bearer ")
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["groups"] == [f"/clinics/{CLINIC}"]
    assert claims["realm_access"] == {"roles": ["physician"]}
    assert (claims["aud"], claims["azp"], claims["typ"]) == ("imaging-gateway", CLIENT, "Bearer")
    assert claims["exp"] - claims["iat"] == 300
    assert "resource_access" not in claims


def test_it_sees_its_clinic_and_no_other(platform, software, almaty_study: Study, central_study: Study):
    studies = f"{platform.url}/dicom-web/studies"
    assert software.get(f"{studies}/{almaty_study.study_uid}/series", timeout=30).status_code == 200
    assert software.get(f"{studies}/{central_study.study_uid}/series", timeout=30).status_code == 404
    for path in ("/orthanc/studies", "/audit/entries"):
        assert software.get(f"{platform.url}{path}", timeout=30).status_code == 404


@pytest.mark.parametrize("form", [{"grant_type": "password", "username": "x", "password": "x"}, {"client_secret": "x"}])
def test_it_gets_a_token_by_its_secret_and_in_no_other_way(platform, secret, form):
    refused = ask_for_token(platform, secret, **form)
    assert refused.status_code in (400, 401)
    assert refused.json()["error"] in ("unauthorized_client", "invalid_client")


def test_nobody_logs_in_with_its_client(platform, secret):
    query = {
        "client_id": CLIENT,
        "response_type": "code",
        "scope": "openid",
        "redirect_uri": f"{platform.url}/callback",
    }
    answer = platform.session().get(
        f"{platform.realm_url}/protocol/openid-connect/auth", params=query, allow_redirects=False, timeout=30
    )
    assert answer.status_code == 400
    assert "Location" not in answer.headers


@pytest.fixture
def workplace(platform: Platform, secret: str, tmp_path: Path) -> Path:
    (tmp_path / f"{CLIENT}.secret").write_text(secret)
    return tmp_path


def example(platform: Platform, language: str) -> str:
    """The code block of docs/ADMIN.md, for this platform."""
    section = (ROOT / "docs/ADMIN.md").read_text().split("\n## A clinic's own software\n")[1].split("\n## ")[0]
    blocks = re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)
    (block,) = [block for block in blocks if "https://imaging.example.org" in block]
    return block.replace("https://imaging.example.org", platform.url)


def run_example(platform: Platform, workplace: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    ca = {"CURL_CA_BUNDLE": platform.ca_file, "REQUESTS_CA_BUNDLE": platform.ca_file, "NO_PROXY": "*", "no_proxy": "*"}
    environment = {**os.environ, **ca}
    return subprocess.run(
        command, cwd=workplace, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.parametrize(("language", "program"), [("sh", "/bin/bash"), ("python", sys.executable)])
@pytest.mark.usefixtures("almaty_study")
def test_the_examples_of_the_documentation_work(platform, workplace, central_study, language, program):
    script = workplace / "example"
    script.write_text(example(platform, language))
    run = run_example(platform, workplace, [program, *(["-e"] if language == "sh" else []), str(script)])
    assert run.returncode == 0, run.stderr[-2000:]
    assert {"sh": '"0020000D"', "python": CLINIC}[language] in run.stdout
    assert central_study.study_uid not in run.stdout


def test_the_download_of_the_documentation_brings_every_file_as_it_is_stored(platform, workplace, tmp_path_factory):
    made = mixed_study(platform, CLINIC, tmp_path_factory.mktemp("kinds"))
    study = made["video"].StudyInstanceUID
    text = (ROOT / "docs/ADMIN.md").read_text()
    (download,) = re.findall(r"```sh\n(study=.*?)```", text, re.DOTALL)
    script = workplace / "example"
    script.write_text(example(platform, "sh") + download.replace("1.2.840.113619.2.5", study))
    run = run_example(platform, workplace, ["/bin/bash", "-e", str(script)])
    assert run.returncode == 0, run.stderr[-2000:]
    files = [path.read_bytes() for path in workplace.glob("*.dcm")]
    admin = platform.api(next(user for user in platform.users.values() if "admin" in user.roles))
    assert len(files) == len(made)
    assert digests(files) == stored(platform, admin, study)

    script.write_text(example(platform, "python"))
    run = run_example(platform, workplace, [sys.executable, str(script)])
    assert {line.split()[0] for line in run.stdout.splitlines()} == {
        dataset.SOPInstanceUID for dataset in made.values()
    }


def test_another_secret_replaces_the_first_at_once_and_nothing_else(platform, secret):
    client = f"imaging/clients?clientId={CLIENT}"
    (before,) = json.loads(ask_keycloak(platform, "GET", client)[0])

    renewed = make("new-client-secret", f"CLIENT_ID={CLIENT}")

    assert renewed.returncode == 0, renewed.stdout[-2000:]
    another = SECRET.read_text()
    assert another != secret
    assert SECRET.stat().st_mode & 0o777 == 0o600
    assert another not in renewed.stdout + renewed.stderr
    assert ask_for_token(platform, secret).status_code == 401
    assert ask_for_token(platform, another).status_code == 200
    (after,) = json.loads(ask_keycloak(platform, "GET", client)[0])
    changing = {"secret": "", "attributes": {}}  # the attributes have the time when it was made
    assert before | changing == after | changing


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["add-client", "CLIENT_ID=good-id", "CLINIC=denscan-almaty,denscan-central"], "exactly one clinic"),
        (["add-client", "CLIENT_ID=good-id", f"CLINIC={CLINIC}", "ROLE=admin"], "roles "),
        (["add-client", "CLIENT_ID=ohif", f"CLINIC={CLINIC}"], "client of the platform itself"),
        (["new-client-secret", "CLIENT_ID=ohif"], "client of the platform itself"),
        (["new-client-secret", "CLIENT_ID=nobody"], "there is no client"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_changes(arguments, named):
    refused = make(*arguments)
    assert refused.returncode != 0
    assert named in refused.stdout
    assert "changed=1" not in refused.stdout


def test_removed_software_gets_no_more_tokens(platform, secret):
    """The last test of this module. The tokens that the client still has end like any other, see test_ends.py."""
    last = SECRET.read_text()
    assert make("remove-client", f"CLIENT_ID={CLIENT}").returncode == 0
    assert not SECRET.exists()
    for one in (secret, last):
        assert ask_for_token(platform, one).status_code == 401
