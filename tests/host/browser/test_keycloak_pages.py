"""Keycloak's own pages by the routes that there are: the console, the account page, and the way out."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from platform_client import Platform, User
from playwright.sync_api import Response, expect
from reader import PATIENCE_MS, Reader

CLINIC = "denscan-central"
CONSOLE = "/auth/admin/imaging/console/"
ACCOUNT = "/auth/realms/imaging/account/"
# The console asks for other realms, and must not get them.
NOT_ROUTED = {"/auth/admin/realms"}


def missing(reader: Reader) -> set[str]:
    """Take down what the pages ask for in vain."""
    paths: set[str] = set()

    def note(response: Response) -> None:
        path = urlsplit(response.url).path
        if path.startswith("/auth/") and response.status == 404:
            paths.add(path)

    reader.page.on("response", note)
    return paths


def log_in(reader: Reader, user: User, path: str) -> None:
    """These pages are at addresses of Keycloak's own, which `Reader.log_in` waits to leave."""
    reader.open(path)
    reader.at_login()
    reader.page.fill("#username", user.username)
    reader.page.fill("#password", user.password)
    reader.page.click("#kc-login")
    if "admin" in user.roles:
        reader.give_code(user)
    reader.page.wait_for_url(lambda url: path.partition("#")[0] in url, timeout=PATIENCE_MS)


def test_the_console_gets_what_it_asks_for(platform: Platform, open_browser: Callable[[], Reader]) -> None:
    reader = open_browser()
    in_vain = missing(reader)
    log_in(reader, platform.user("admin", CLINIC), f"{CONSOLE}#/imaging/users")
    for section in ("users", "groups", "clients", "realm-roles", "sessions", "events", "realm-settings"):
        reader.open(f"{CONSOLE}#/imaging/{section}")
        reader.settle()
        reader.screenshot(section)
    assert in_vain - NOT_ROUTED == set()


def test_the_account_page_gets_what_it_asks_for(platform: Platform, open_browser: Callable[[], Reader]) -> None:
    reader = open_browser()
    in_vain = missing(reader)
    log_in(reader, platform.user("physician", CLINIC), ACCOUNT)
    expect(reader.page.get_by_text("Personal info").first).to_be_visible(timeout=PATIENCE_MS)
    for page in ("account-security/signing-in", "account-security/device-activity", "applications"):
        reader.open(ACCOUNT + page)
        reader.settle()
        reader.screenshot(page.replace("/", "-"))
    assert in_vain == set()
