"""An administrator's first two logins: a phone is set up, then asked for."""

from __future__ import annotations

import json
from collections.abc import Callable

from keycloak_admin import ask_keycloak
from platform_client import Platform
from playwright.sync_api import expect
from reader import PATIENCE_MS, Delivery, Reader


def test_an_administrator_sets_up_a_phone_and_is_asked_for_its_code(
    platform: Platform, open_browser: Callable[[], Reader], newer: Delivery, foreign: Delivery
) -> None:
    admin = platform.user("admin", "partner-clinic")
    (found,) = json.loads(ask_keycloak(platform, "GET", f"imaging/users?username={admin.username}&exact=true")[0])
    path = f"imaging/users/{found['id']}/credentials"
    for one in json.loads(ask_keycloak(platform, "GET", path)[0]):
        if one["type"] == "otp":
            ask_keycloak(platform, "DELETE", f"{path}/{one['id']}")

    first, second = open_browser(), open_browser()
    first.log_in(admin)
    second.log_in(admin)

    for reader in (first, second):
        for delivery in (newer, foreign):
            row = reader.page.locator("table tbody tr").filter(has_text=delivery.patient)
            expect(row).to_have_count(1, timeout=PATIENCE_MS)
    assert not first.policy_violations()
