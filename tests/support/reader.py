"""Somebody who reads images in a browser."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

from platform_client import ROOT, Platform, User
from playwright.sync_api import Page, expect
from second_factor import ASKED, SET_UP

SCREENSHOTS = ROOT / "artifacts" / "screenshots"

# Starting takes seconds on a busy machine: the application is 26 MB of script.
PATIENCE_MS = 90_000


@dataclass(frozen=True)
class Delivery:
    """A study that was dropped into an inbox, under a patient of its own."""

    patient: str
    """As the study list shows it: family name, comma, given name."""
    study_uid: str
    first_image: Path


class Reader:
    """Somebody in front of a browser window."""

    def __init__(self, platform: Platform, page: Page, test: str) -> None:
        self.platform = platform
        self.page = page
        self.test = test
        self.console: list[str] = []
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda message: self.console.append(message.text))
        self._asked_at = 0.0
        for event in ("request", "requestfinished", "requestfailed"):
            page.on(event, self._note_request)

    def open(self, path: str = "/") -> None:
        self.page.goto(f"{self.platform.url}{path}", timeout=PATIENCE_MS)

    def _note_request(self, _: object) -> None:
        self._asked_at = time.monotonic()

    def settle(self) -> None:
        """Wait until the page has asked for nothing for a second and a half."""
        self._asked_at = time.monotonic()
        deadline = time.monotonic() + PATIENCE_MS / 1000
        while time.monotonic() - self._asked_at < 1.5:
            assert time.monotonic() < deadline, "the page never stops asking"
            self.page.wait_for_timeout(100)

    def at_login(self) -> None:
        expect(self.page.locator("#kc-form-login")).to_be_visible(timeout=PATIENCE_MS)

    def log_in(self, user: User, path: str = "/") -> None:
        """Open an address, be sent to Keycloak, and come back logged in."""
        self.open(path)
        self.at_login()
        self.screenshot("login")
        self.page.fill("#username", user.username)
        self.page.fill("#password", user.password)
        self.page.click("#kc-login")
        if "admin" in user.roles:
            self.give_code(user)
        self.page.wait_for_url(re.compile(re.escape(self.platform.url) + r"/(?!auth/|callback)"))

    def give_code(self, user: User) -> None:
        """Set up the phone, if it is the first login, else give the code that it shows."""
        expect(self.page.locator(f"#{SET_UP}, #{ASKED}")).to_be_visible(timeout=PATIENCE_MS)
        phones = self.platform.phones
        if self.page.locator(f"#{SET_UP}").is_visible():
            self.screenshot("set-up")
            secret = self.page.locator("#totpSecret").get_attribute("value")
            assert secret
            self.page.fill("#totp", phones.set_up(user.username, secret))
            self.page.click("#saveTOTPBtn")
        else:
            self.screenshot("code")
            self.page.fill("#otp", phones.code(user.username))
            self.page.click("#kc-login")

    def screenshot(self, name: str) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{self.test}-{name}.png")

    def policy_violations(self) -> list[str]:
        """The actions of the page that the Content-Security-Policy prevented."""
        return [line for line in self.console if "Content Security Policy" in line]
