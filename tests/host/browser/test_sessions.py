"""The pages after a session has ended, and the auditor's page, in a real browser."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from keycloak_admin import ask_keycloak
from platform_client import Platform
from playwright.sync_api import expect
from reader import PATIENCE_MS, Delivery, Reader

OpenBrowser = Callable[[], Reader]
SHORT_TOKEN_SECONDS = 20


@pytest.fixture
def _short_tokens(platform: Platform) -> Iterator[None]:
    before = json.loads(ask_keycloak(platform, "GET", "imaging")[0])["accessTokenLifespan"]
    ask_keycloak(platform, "PUT", "imaging", {"accessTokenLifespan": SHORT_TOKEN_SECONDS})
    yield
    ask_keycloak(platform, "PUT", "imaging", {"accessTokenLifespan": before})


@pytest.mark.usefixtures("_short_tokens")
def test_a_session_that_has_ended_leads_to_the_login_page_and_not_to_a_black_image(
    platform: Platform, open_browser: OpenBrowser, newer: Delivery
) -> None:
    user = platform.user("physician", "denscan-central")
    reader = open_browser()
    reader.log_in(user)
    row = reader.page.locator("table tbody tr").filter(has_text=newer.patient)
    expect(row).to_have_count(1, timeout=PATIENCE_MS)

    (found,) = json.loads(ask_keycloak(platform, "GET", f"imaging/users?username={user.username}&exact=true")[0])
    ask_keycloak(platform, "POST", f"imaging/users/{found['id']}/logout")
    # The viewer's token ends, and it cannot be renewed: requests are refused now.
    reader.page.wait_for_timeout(SHORT_TOKEN_SECONDS * 1000)
    row.dblclick()
    reader.at_login()


def test_an_auditor_reads_who_opened_which_study(
    platform: Platform, open_browser: OpenBrowser, newer: Delivery, foreign: Delivery
) -> None:
    physician = platform.user("physician", "denscan-central")
    other = platform.user("physician", "denscan-almaty")
    for user, delivery in ((physician, newer), (other, foreign)):
        path = f"/dicom-web/studies/{delivery.study_uid}/series"
        assert platform.api(user).get(platform.url + path, timeout=30).status_code == 200

    reader = open_browser()
    reader.log_in(platform.user("auditor", "denscan-central"), "/audit")
    rows = reader.page.locator("#entries tr")
    view = rows.filter(has_text=newer.study_uid).filter(has_text=physician.username)
    expect(view.first).to_be_visible(timeout=PATIENCE_MS)
    assert foreign.study_uid not in reader.page.content()
    assert "code=" not in reader.page.url

    reader.page.fill("[name=study]", newer.study_uid)
    reader.page.get_by_role("button", name="Show").click()
    expect(rows.filter(has_not_text=newer.study_uid)).to_have_count(0)
    expect(view.first).to_be_visible()
    reader.screenshot("audit")
    reader.page.fill("[name=study]", foreign.study_uid)
    reader.page.get_by_role("button", name="Show").click()
    expect(reader.page.locator("#message")).to_contain_text("Nothing is on record", timeout=PATIENCE_MS)
    assert reader.policy_violations() == []

    reader.page.get_by_role("button", name="Log out").click()
    reader.at_login()
