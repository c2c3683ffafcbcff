"""The phones of a platform's users: one-time passwords by time (TOTP, RFC 6238), as an authenticator app shows them."""

from __future__ import annotations

import hashlib
import hmac
import html
import json
import os
import re
import time
from pathlib import Path

PERIOD = 30
DIGITS = 6
SET_UP, ASKED = "kc-totp-settings-form", "kc-otp-login-form"


def one_time_password(secret: bytes, step: int) -> str:
    """The code of a period of 30 seconds, counted since 1970 (RFC 4226, 5.3)."""
    digest = hmac.digest(secret, step.to_bytes(8, "big"), hashlib.sha1)
    offset = digest[-1] & 15
    number = int.from_bytes(digest[offset : offset + 4], "big") & 0x7FFFFFFF
    return f"{number % 10**DIGITS:0{DIGITS}}"


class Phones:
    """The secrets that users have set up, kept in a file of the platform's (mode 0600) from one run to the next."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def set_up(self, username: str, secret: str) -> str:
        """Keep a new secret; the code that proves it."""
        self._write({**self._read(), username: {"secret": secret, "used": []}})
        return self.code(username)

    def code(self, username: str) -> str:
        """A code that was not used yet: Keycloak takes each once, and those of the periods before and after, too."""
        phones = self._read()
        if username not in phones:
            raise AssertionError(
                f"{username} is asked for a code, whose secret is not known here: make reset-totp USERNAME={username}"
            )
        phone = phones[username]
        while True:
            now, gone = divmod(int(time.time()), PERIOD)
            # The one before is refused from the end of this period on: only with time left to send it.
            steps = (now, now + 1, now - 1) if gone < PERIOD - 10 else (now, now + 1)
            step = next((one for one in steps if one not in phone["used"]), None)
            if step is not None:
                break
            time.sleep(1)
        phone["used"] = [*(one for one in phone["used"] if one > now - 5), step]
        self._write(phones)
        return one_time_password(phone["secret"].encode(), step)

    def _read(self) -> dict[str, dict[str, list[int] | str]]:
        return json.loads(self.path.read_text()) if self.path.exists() else {}

    def _write(self, phones: dict[str, object]) -> None:
        new = self.path.with_name(f"{self.path.name}.new")
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(phones, file)
        new.replace(self.path)


def asked_by(page: str) -> tuple[str, str] | None:
    """Which form a page of the login shows, `SET_UP` or `ASKED`, and where it goes; None when it asks for no code."""
    for form in re.findall(r"<form[^>]*>", page):
        kind, action = re.search(rf'id="({SET_UP}|{ASKED})"', form), re.search(r'action="([^"]+)"', form)
        if kind and action:
            return kind[1], html.unescape(action[1])
    return None


def answer_to(page: str, username: str, phones: Phones) -> tuple[str, dict[str, str]] | None:
    """The form in which the page asks for a code: its address and its fields; None if it asks for none."""
    form = asked_by(page)
    if form is None:
        return None
    kind, action = form
    if kind == ASKED:
        return action, {"otp": phones.code(username)}
    secret = re.search(r'name="totpSecret"[^>]*value="([^"]+)"', page)
    assert secret, "the page to set up a one-time password names no secret"
    return action, {"totp": phones.set_up(username, secret[1]), "totpSecret": secret[1], "userLabel": "test"}
