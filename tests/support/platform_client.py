"""A person or a script that uses a running platform from outside, as `make info` describes it."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
import secrets
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import requests
from project import ROOT
from second_factor import Phones, answer_to


def make(*arguments: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run make as somebody who is not at the keyboard."""
    command = ["make", *arguments]
    return subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=timeout
    )


@dataclass(frozen=True)
class User:
    username: str
    password: str = field(repr=False)
    roles: tuple[str, ...]
    clinics: tuple[str, ...]


class Platform:
    """The sandbox whose name is in the environment variable SANDBOX (default: sandbox)."""

    def __init__(self) -> None:
        described = subprocess.run(["make", "-s", "info"], cwd=ROOT, check=True, capture_output=True, text=True)
        self.info = json.loads(described.stdout)
        self.url: str = self.info["url"]
        self.ca_file: str = self.info["ca_file"]
        self.container: str = self.info["container"]
        self.inbox: str = self.info["inbox"]
        self.realm_url = f"{self.url}/auth/realms/imaging"
        self.phones = Phones(state_path() / "phones.json")
        self.users = {
            user["username"]: User(user["username"], user["password"], tuple(user["roles"]), tuple(user["clinics"]))
            for user in self.info["users"]
        }

    def user(self, role: str, clinic: str) -> User:
        return self.users[f"{role}-{clinic}"]

    def session(self) -> requests.Session:
        session = requests.Session()
        session.verify = self.ca_file
        session.trust_env = False
        return session

    def login(self, user: User, client: str = "ohif", page: str = "/callback") -> dict[str, str]:
        """Log in as the viewer does (authorisation code with PKCE, RFC 7636), or as another client; the tokens.

        A user who is asked for a one-time password gives it, and sets one up first if necessary.
        """
        session, verifier = self.session(), secrets.token_urlsafe(48)
        answer = self.give_password(session, user, client, page, verifier)
        # At most: set up a one-time password, and give one.
        for _ in range(2):
            if asked := answer_to(answer.text, user.username, self.phones):
                answer = self.send(session, *asked)
        if "code=" not in answer.headers.get("Location", ""):
            raise AssertionError(f"{user.username} was not let in: {answer.status_code}")
        form = {
            "grant_type": "authorization_code",
            "client_id": client,
            "code": parse_qs(urlsplit(answer.headers["Location"]).query)["code"][0],
            "redirect_uri": f"{self.url}{page}",
            "code_verifier": verifier,
        }
        tokens = session.post(f"{self.realm_url}/protocol/openid-connect/token", data=form, timeout=60)
        tokens.raise_for_status()
        return dict(tokens.json())

    def give_password(
        self, session: requests.Session, user: User, client: str, page: str, verifier: str
    ) -> requests.Response:
        """Begin a login and send the password: the answer, a page of Keycloak's or the way back to the client."""
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        query = {
            "client_id": client,
            "response_type": "code",
            "scope": "openid",
            "redirect_uri": f"{self.url}{page}",
            "state": secrets.token_urlsafe(16),
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        form_page = session.get(f"{self.realm_url}/protocol/openid-connect/auth", params=query, timeout=60)
        form_page.raise_for_status()
        action = re.search(r'<form[^>]*id="kc-form-login"[^>]*action="([^"]+)"', form_page.text, re.DOTALL)
        if not action:
            raise AssertionError(f"no login form in the answer to the authorisation request: {form_page.text[:500]}")
        return self.send(session, html.unescape(action[1]), {"username": user.username, "password": user.password})

    def send(self, session: requests.Session, action: str, form: dict[str, str]) -> requests.Response:
        """Send a form of the login; Keycloak leads on to that of an action that is due."""
        answer = session.post(action, data=form, allow_redirects=False, timeout=60)
        if answer.headers.get("Location", "").startswith(f"{self.realm_url}/login-actions/"):
            answer = session.get(answer.headers["Location"], allow_redirects=False, timeout=60)
        return answer

    def api(self, user: User) -> requests.Session:
        """A session that carries the user's access token, and another one when that is about to end."""
        return Api(self, user)

    def on_host(self, *command: str, check: bool = True) -> str:
        return subprocess.run(
            ["docker", "exec", self.container, *command], check=check, capture_output=True, text=True
        ).stdout

    def is_well(self) -> bool:
        """Whether `imaging-status` finds every service well."""
        command = ["docker", "exec", self.container, "imaging-status", "--services"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def deliver(self, clinic: str, folder: Path, name: str) -> None:
        """Copy a folder into the clinic's inbox, as a technician does."""
        target = f"{self.container}:{self.inbox}/{clinic}/{name}"
        subprocess.run(["docker", "cp", str(folder), target], check=True, capture_output=True)

    def wait_for_study(self, session: requests.Session, study_uid: str, seconds: float = 180) -> dict[str, object]:
        """Wait until the study list shows the study; returns its QIDO-RS entry."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            answer = session.get(f"{self.url}/dicom-web/studies", params={"StudyInstanceUID": study_uid}, timeout=30)
            answer.raise_for_status()
            studies = answer.json() if answer.status_code == 200 else []
            if studies:
                return dict(studies[0])
            time.sleep(1)
        raise AssertionError(f"the study {study_uid} was not in the study list after {seconds} s")


class Api(requests.Session):
    """Somebody's requests, for as long as the tests take: a token lives five minutes."""

    def __init__(self, platform: Platform, user: User) -> None:
        super().__init__()
        self.verify = platform.ca_file
        self.trust_env = False
        self._log_in = lambda: platform.login(user)
        self._renew()

    def _renew(self) -> None:
        asked = time.monotonic()
        tokens = self._log_in()
        self._ends = asked + int(tokens["expires_in"]) * 0.8
        self.headers["Authorization"] = f"Bearer {tokens['access_token']}"

    def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
        if time.monotonic() > self._ends:
            self._renew()
        return super().prepare_request(request)


def state_path() -> Path:
    return Path.home() / ".local/share/imaging-platform" / os.environ.get("SANDBOX", "sandbox")
