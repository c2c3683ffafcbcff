#!/usr/bin/python
"""Ansible module: log in through nginx as a person does, and look at a study."""

from __future__ import annotations

DOCUMENTATION = r"""
module: platform_visit
short_description: Log in through nginx as the viewer does, and look at the newest studies
description:
  - Takes the steps of a browser - login page, authorisation code with PKCE, token, study list and, if asked, one image.
  - If a step fails, the message is the answer to that step. Changes only the platform's own record of who saw what.
options:
  url: {type: str, required: true, description: "The platform's address, as in https://imaging.example.org."}
  ca_file: {type: path, description: "Authority of its certificate (PEM). The default is those that the host trusts."}
  username: {type: str, required: true, description: Name of the user who logs in.}
  password: {type: str, required: true, description: Their password.}
  image: {type: bool, default: true, description: Whether an image of the newest studies that have one is read.}
attributes:
  check_mode: {support: full, description: It does the same.}
  diff_mode: {support: none}
author: [The imaging platform's authors]
"""

EXAMPLES = r"""
- name: Log in and look at an image
  platform_visit:
    url: https://imaging.example.org
    ca_file: /etc/imaging/tls/ca.pem
    username: restore-drill
    password: "{{ password }}"
"""

RETURN = r"""
studies: {description: "How many studies the list showed, a hundred at most.", type: int, returned: success}
image_bytes: {description: Size of the image that was read; 0 when there was none., type: int, returned: success}
"""

import base64
import hashlib
import html
import re
import secrets
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import requests
from ansible.module_utils.basic import AnsibleModule  # type: ignore[import-untyped]

CLIENT, PAGE = "ohif", "/callback"
# The newest of all these studies, because a clinic may deliver many reports or ECGs after its last image.
STUDIES = 100
STUDY_UID, SERIES_UID, SOP_UID, ROWS = "0020000D", "0020000E", "00080018", "00280010"
FRAME = 'multipart/related; type="application/octet-stream"; transfer-syntax=*'
TIMEOUT_SECONDS = 60


class VisitError(Exception):
    """The visit ended early. The message says where and with which answer."""


@dataclass(frozen=True)
class Seen:
    """The results of a visit."""

    studies: int
    image_bytes: int


def visit(url: str, ca_file: str | None, username: str, password: str, image: bool) -> Seen:
    """Log in and look. Raises VisitError."""
    session = requests.Session()
    session.verify = ca_file or True
    # The host must not reach itself through a proxy.
    session.trust_env = False
    try:
        session.headers["Authorization"] = f"Bearer {log_in(session, url, username, password)}"
        studies = _json(session, f"{url}/dicom-web/studies?limit={STUDIES}", "the study list")
        return Seen(len(studies), read_image(session, url, studies) if image and studies else 0)
    except requests.RequestException as error:
        raise VisitError(f"{url} does not answer: {error}") from error


def log_in(session: requests.Session, url: str, username: str, password: str) -> str:
    """Authorisation code with PKCE (RFC 7636), as the viewer asks for it; the access token. Raises VisitError."""
    realm = f"{url}/auth/realms/imaging/protocol/openid-connect"
    verifier = secrets.token_urlsafe(48)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    query = {
        "client_id": CLIENT,
        "response_type": "code",
        "scope": "openid",
        "redirect_uri": url + PAGE,
        "state": secrets.token_urlsafe(16),
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    page = session.get(f"{realm}/auth", params=query, timeout=TIMEOUT_SECONDS)
    form = re.search(r'<form[^>]*id="kc-form-login"[^>]*action="([^"]+)"', page.text, re.DOTALL)
    if not form:
        raise VisitError(f"the login page was not shown: status {page.status_code}")
    who = {"username": username, "password": password}
    answer = session.post(html.unescape(form[1]), data=who, allow_redirects=False, timeout=TIMEOUT_SECONDS)
    code = parse_qs(urlsplit(answer.headers.get("Location", "")).query).get("code")
    if not code:
        raise VisitError(f"{username} was not let in: status {answer.status_code}")
    exchange = {
        "grant_type": "authorization_code",
        "client_id": CLIENT,
        "code": code[0],
        "redirect_uri": url + PAGE,
        "code_verifier": verifier,
    }
    tokens = session.post(f"{realm}/token", data=exchange, timeout=TIMEOUT_SECONDS)
    if tokens.status_code != requests.codes.ok:
        raise VisitError(f"no token was given: status {tokens.status_code}")
    return str(tokens.json()["access_token"])


def read_image(session: requests.Session, url: str, studies: list[dict[str, Any]]) -> int:
    """Read the first image of the newest study that has one; its size in bytes, 0 where none has. Raises VisitError."""
    for study in studies:
        address = f"{url}/dicom-web/studies/{_value(study, STUDY_UID)}"
        for instance in _json(session, f"{address}/metadata", "a study's metadata"):
            if ROWS in instance:
                place = f"series/{_value(instance, SERIES_UID)}/instances/{_value(instance, SOP_UID)}/frames/1"
                frame = session.get(f"{address}/{place}", headers={"Accept": FRAME}, timeout=TIMEOUT_SECONDS)
                if frame.status_code != requests.codes.ok:
                    raise VisitError(f"an image of {address} was not given: status {frame.status_code}")
                return len(frame.content)
    return 0


def _json(session: requests.Session, address: str, what: str) -> list[dict[str, Any]]:
    answer = session.get(address, headers={"Accept": "application/dicom+json"}, timeout=TIMEOUT_SECONDS)
    if answer.status_code == requests.codes.no_content:
        return []
    if answer.status_code != requests.codes.ok:
        raise VisitError(f"{what} was not shown: status {answer.status_code}")
    found: list[dict[str, Any]] = answer.json()
    return found


def _value(attributes: dict[str, Any], tag: str) -> str:
    return str(attributes[tag]["Value"][0])


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "ca_file": {"type": "path"},
            "username": {"type": "str", "required": True},
            "password": {"type": "str", "required": True, "no_log": True},
            "image": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    try:
        seen = visit(**{name: module.params[name] for name in ("url", "ca_file", "username", "password", "image")})
    except VisitError as error:
        module.fail_json(msg=f"The visit ended: {error}")
    module.exit_json(changed=False, studies=seen.studies, image_bytes=seen.image_bytes)


if __name__ == "__main__":
    main()
