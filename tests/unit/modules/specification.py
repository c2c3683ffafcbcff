"""The promises of the modules for Keycloak: run against the fake here, against Keycloak in tests/unit/keycloak.

Every test works in a realm of its own name, or in the shared one with users, clinics and clients of its own.
"""

from __future__ import annotations

from typing import Any

import pytest
from ansible.module_utils.imaging.clients import clients_with_seen_secrets  # type: ignore[import-untyped]
from ansible.module_utils.imaging.keycloak import merged  # type: ignore[import-untyped]
from desk import NUMBERS, PASSWORD, Desk, Server
from support import declared_realm

# --- the realm -------------------------------------------------------------------------------------------------------


def test_the_declared_realm_is_predicted_exactly_then_made_then_left_alone(empty: Desk) -> None:
    declared = declared_realm()

    predicted = empty.realm(**declared, check=True)
    assert empty.api.get("") is None, "check mode wrote"
    made = empty.realm(**declared)
    again = empty.realm(**declared)

    assert made.changed
    assert made.diff == predicted.diff
    assert not again.changed, again.diff
    assert not empty.realm(**declared, check=True).changed
    assert empty.api.get("")["accessTokenLifespan"] == 300


def test_keycloaks_own_password_client_is_switched_off(desk: Desk) -> None:
    assert not desk.client("admin-cli")["enabled"]


def test_the_client_of_the_viewer_admits_the_code_flow_with_pkce_only(desk: Desk) -> None:
    ohif = desk.client("ohif")

    assert ohif["publicClient"]
    assert ohif["standardFlowEnabled"]
    assert not ohif["implicitFlowEnabled"]
    assert not ohif["directAccessGrantsEnabled"]
    assert not ohif["fullScopeAllowed"]
    assert ohif["attributes"]["pkce.code.challenge.method"] == "S256"
    assert ohif["redirectUris"] == ["https://imaging.example.org/callback"]
    assert ohif["attributes"]["post.logout.redirect.uris"] == "https://imaging.example.org/*"
    assert ohif["optionalClientScopes"] == [], "an offline token would outlive the session"


def test_a_setting_changed_by_hand_is_set_back_and_nothing_else_is_touched(empty: Desk) -> None:
    empty.realm(settings={"accessTokenLifespan": 300})
    empty.api.put("", {"accessTokenLifespan": 9000, "displayName": "Somebody's"})

    outcome = empty.realm(settings={"accessTokenLifespan": 300})

    assert outcome.diff == {
        "before": {"realm": {"accessTokenLifespan": 9000}},
        "after": {"realm": {"accessTokenLifespan": 300}},
    }
    assert empty.api.get("")["displayName"] == "Somebody's"


def steps(desk: Desk) -> list[tuple[int, str, str]]:
    """The login that the realm uses: how deep, requirement, authenticator or kind."""
    flow = desk.api.get("")["browserFlow"]
    found = desk.api.get(f"/authentication/flows/{flow}/executions")
    return [(one["level"], one["requirement"], one.get("providerId", "flow")) for one in found]


def test_members_of_the_roles_must_pass_a_second_factor_and_the_others_may(empty: Desk) -> None:
    declared = declared_realm()
    empty.realm(**declared)

    assert steps(empty) == [
        (0, "ALTERNATIVE", "auth-cookie"),
        (0, "ALTERNATIVE", "flow"),
        (1, "REQUIRED", "auth-username-password-form"),
        (1, "CONDITIONAL", "flow"),
        (2, "REQUIRED", "conditional-user-role"),
        (2, "REQUIRED", "auth-otp-form"),
        (1, "CONDITIONAL", "flow"),
        (2, "REQUIRED", "conditional-user-role"),
        (2, "REQUIRED", "conditional-user-role"),
        (2, "REQUIRED", "auth-otp-form"),
        (1, "CONDITIONAL", "flow"),
        (2, "REQUIRED", "conditional-user-role"),
        (2, "REQUIRED", "conditional-user-role"),
        (2, "REQUIRED", "conditional-user-configured"),
        (2, "REQUIRED", "auth-otp-form"),
    ]


@pytest.mark.parametrize(("roles", "asked"), [(["*"], "REQUIRED"), ([], "CONDITIONAL")])
def test_the_login_changes_with_what_is_declared_and_leaves_no_old_one_behind(
    empty: Desk, roles: list[str], asked: str
) -> None:
    empty.realm(**declared_realm())

    changed = {"second_factor_roles": roles}
    predicted = empty.realm(**changed, check=True)
    done = empty.realm(**changed)

    assert done.diff == predicted.diff
    assert list(done.diff["after"]) == ["login"]
    assert not empty.realm(**changed).changed
    assert steps(empty)[3][:2] == (1, asked)
    ours = [flow["alias"] for flow in empty.api.get("/authentication/flows") if flow["alias"].startswith("imaging")]
    assert ours == [empty.api.get("")["browserFlow"]]


def test_a_step_of_the_login_that_was_weakened_by_hand_is_set_back(empty: Desk) -> None:
    empty.realm(**declared_realm())
    before = steps(empty)
    path = f"/authentication/flows/{empty.api.get('')['browserFlow']}/executions"
    must = empty.api.get(path)[3]
    empty.api.put(path, must | {"requirement": "DISABLED"})
    assert steps(empty) != before

    assert empty.realm(**declared_realm()).changed

    assert steps(empty) == before


def test_without_a_word_on_it_the_login_stays_as_it_is(empty: Desk) -> None:
    empty.realm(settings={"accessTokenLifespan": 300})
    assert empty.api.get("")["browserFlow"] == "browser"


def test_realm_attributes_that_are_not_named_survive(empty: Desk) -> None:
    empty.realm(settings={})
    before = empty.api.get("")["attributes"]

    empty.realm(settings={"attributes": {"adminEventsExpiration": "86400"}})

    assert empty.api.get("")["attributes"] == {**before, "adminEventsExpiration": "86400"}


def test_a_setting_that_keycloak_does_not_know_is_refused_by_name(empty: Desk) -> None:
    outcome = empty.realm(settings={"acessTokenLifespan": 300})

    assert "acessTokenLifespan" in outcome.result["msg"]
    assert outcome.result["failed"]


def test_a_mail_server_is_refused_because_its_password_comes_back_masked(empty: Desk) -> None:
    assert "masked" in empty.realm(settings={"smtpServer": {"host": "mail"}}).result["msg"]


def test_lists_are_compared_without_their_order(empty: Desk) -> None:
    client = {"client_id": "lists", "redirect_uris": ["https://a/x", "https://b/y"]}
    empty.realm(clients=[client])

    assert not empty.realm(clients=[{**client, "redirect_uris": ["https://b/y", "https://a/x"]}]).changed


def test_whatever_was_added_to_a_client_by_hand_goes(desk: Desk) -> None:
    ohif = desk.client("ohif")
    mapper = {
        "name": "forged",
        "protocol": "openid-connect",
        "protocolMapper": "oidc-hardcoded-claim-mapper",
        "config": {"claim.name": "groups", "claim.value": "/clinics/other", "access.token.claim": "true"},
    }
    desk.api.put(
        f"/clients/{ohif['id']}", {**ohif, "redirectUris": ["https://evil/*"], "directAccessGrantsEnabled": True}
    )
    desk.api.create(f"/clients/{ohif['id']}/protocol-mappers/models", mapper)
    desk.api.create(f"/clients/{ohif['id']}/scope-mappings/realm", [desk.api.get("/roles/user-manager")])
    offline = next(scope["id"] for scope in desk.api.get("/client-scopes") if scope["name"] == "offline_access")
    desk.api.put(f"/clients/{ohif['id']}/optional-client-scopes/{offline}")

    predicted = desk.realm(**declared_realm(), check=True)
    outcome = desk.realm(**declared_realm())

    assert outcome.diff == predicted.diff
    assert set(outcome.diff["after"]) == {
        "client ohif",
        "client ohif: optional scopes",
        "client ohif: mapper forged",
        "client ohif: roles in tokens",
    }
    now = desk.client("ohif")
    assert now["redirectUris"] == ["https://imaging.example.org/callback"]
    assert {one["name"] for one in now["protocolMappers"]} == {"groups", "realm roles", "audience"}
    assert not desk.realm(**declared_realm()).changed


def test_a_mapper_changed_by_hand_is_set_back(desk: Desk) -> None:
    ohif = desk.client("ohif")
    groups = next(one for one in ohif["protocolMappers"] if one["name"] == "groups")
    config = {**groups["config"], "full.path": "false"}
    desk.api.put(f"/clients/{ohif['id']}/protocol-mappers/models/{groups['id']}", {**groups, "config": config})

    outcome = desk.realm(**declared_realm())

    assert outcome.diff["after"] == {"client ohif: mapper groups": {"config": {"full.path": "true"}}}
    assert not desk.realm(**declared_realm()).changed


def test_the_secret_of_a_client_is_set_and_never_shown(empty: Desk) -> None:
    client = {"client_id": "grafana", "secret": "first-Grafana-secret", "redirect_uris": ["https://a/login"]}
    made = empty.realm(clients=[client])
    again = empty.realm(clients=[client])
    rotated = empty.realm(clients=[{**client, "secret": "second-Grafana-secret"}])

    assert not again.changed
    assert rotated.changed
    assert empty.client("grafana")["secret"] == "second-Grafana-secret"
    for outcome in (made, again, rotated):
        assert "Grafana-secret" not in outcome.printed


def test_the_administrative_rights_are_exact_and_not_in_the_role_that_tokens_carry(desk: Desk) -> None:
    management = desk.client("realm-management")["id"]
    extra = desk.api.get(f"/clients/{management}/roles/impersonation")
    desk.api.create("/roles/user-manager/composites", [extra])

    outcome = desk.realm(**declared_realm())

    assert "impersonation" in outcome.diff["before"]["role user-manager: roles of realm-management"]["members"]
    included = {one["name"] for one in desk.api.get(f"/roles/user-manager/composites/clients/{management}")}
    assert included == {
        "manage-users",
        "view-users",
        "query-users",
        "query-groups",
        "view-realm",
        "view-events",
    }
    assert not desk.api.get("/roles/admin")["composite"]


def test_a_user_attribute_joins_the_profile_and_the_others_stay(empty: Desk) -> None:
    licence = {"name": "licence", "display_name": "Medical licence"}

    predicted = empty.realm(user_attributes=[licence], check=True)
    made = empty.realm(user_attributes=[licence])

    assert made.diff == predicted.diff
    assert not empty.realm(user_attributes=[licence]).changed
    profile = empty.api.get("/users/profile")
    assert [one["name"] for one in profile["attributes"]] == ["username", "email", "firstName", "lastName", "licence"]
    assert profile["groups"], "the groups of the profile were dropped"


def test_the_realms_are_apart(empty: Desk) -> None:
    empty.realm(groups=["clinics"])

    assert empty.api.get("/group-by-path/clinics/denscan-central") is None


# --- clinics ---------------------------------------------------------------------------------------------------------


def test_a_clinic_is_a_group_and_a_row_predicted_exactly_and_made_once(desk: Desk) -> None:
    clinic_ = {"id": f"clinic-{next(NUMBERS)}", "name": "Clinic of the North"}

    predicted = desk.clinics(clinic_, check=True)
    assert desk.registry == {}, "check mode wrote"
    made = desk.clinics(clinic_)

    assert made.changed
    assert made.diff == predicted.diff
    assert not desk.clinics(clinic_).changed
    assert desk.registry == {clinic_["id"]: clinic_["name"]}
    assert desk.api.get(f"/group-by-path/clinics/{clinic_['id']}")["description"] == "Clinic of the North"


def test_renaming_a_clinic_keeps_what_else_hangs_on_its_group(desk: Desk) -> None:
    clinic_ = {"id": f"clinic-{next(NUMBERS)}", "name": "Old name"}
    desk.clinics(clinic_)
    group = desk.api.get(f"/group-by-path/clinics/{clinic_['id']}")
    desk.api.put(f"/groups/{group['id']}", {**group, "attributes": {"contact": ["+7 700"]}})

    outcome = desk.clinics({**clinic_, "name": "New name"})

    now = desk.api.get(f"/group-by-path/clinics/{clinic_['id']}")
    assert now["description"] == "New name"
    assert now["attributes"] == {"contact": ["+7 700"]}
    assert desk.registry[clinic_["id"]] == "New name"
    path = f"group /clinics/{clinic_['id']}"
    assert outcome.diff["before"][path] == {"description": "Old name"}


def test_a_description_that_was_erased_by_hand_comes_back(desk: Desk) -> None:
    clinic_ = {"id": f"clinic-{next(NUMBERS)}", "name": "Clinic"}
    desk.clinics(clinic_)
    group = desk.api.get(f"/group-by-path/clinics/{clinic_['id']}")
    desk.api.put(f"/groups/{group['id']}", {"name": group["name"]})
    assert not desk.api.get(f"/group-by-path/clinics/{clinic_['id']}").get("description")

    assert desk.clinics(clinic_).changed
    assert desk.api.get(f"/group-by-path/clinics/{clinic_['id']}")["description"] == "Clinic"


@pytest.mark.parametrize("forged", ["a/b", "../x", "Denscan", "-a", "a", "x" * 64, "клиника", "a b", "a\n", ""])
def test_a_clinic_id_that_could_forge_a_path_is_refused_before_anything_is_asked(desk: Desk, forged: str) -> None:
    outcome = desk.clinics({"id": forged, "name": "x"})

    assert outcome.result["failed"]
    assert "lower case letters, digits and hyphens" in outcome.result["msg"]


def test_without_the_realm_the_error_says_what_to_apply_first(empty: Desk) -> None:
    empty.realm(settings={})

    assert "has no group /clinics" in empty.clinics({"id": "denscan", "name": "x"}).result["msg"]


# --- users -----------------------------------------------------------------------------------------------------------


def test_a_user_is_predicted_exactly_then_made_then_left_alone(desk: Desk, person: dict[str, Any]) -> None:
    predicted = desk.users(person, check=True)
    assert desk.api.get("/users", username=person["username"], exact="true") == [], "check mode wrote"
    made = desk.users(person)
    again = desk.users(person)

    assert made.result["users"] == [{"username": person["username"], "action": "created"}]
    assert made.diff == predicted.diff
    assert not again.changed, again.diff
    assert again.result["users"][0]["action"] == "unchanged"
    assert desk.groups_of(person["username"]) == {"/clinics/denscan-central"}
    assert desk.roles_of(person["username"]) == {"physician"}


def test_many_users_come_in_one_call(desk: Desk, person: dict[str, Any]) -> None:
    other = {**person, "username": f"other-{next(NUMBERS)}", "email": f"o{next(NUMBERS)}@example.org"}

    outcome = desk.users(person, other)

    assert [one["action"] for one in outcome.result["users"]] == ["created", "created"]
    assert not desk.users(person, other).changed


def test_names_and_addresses_are_compared_in_the_lower_case_keycloak_keeps(desk: Desk, person: dict[str, Any]) -> None:
    shouted = {**person, "username": person["username"].upper(), "email": person["email"].upper()}
    desk.users(shouted)

    assert not desk.users(shouted).changed
    assert not desk.users(person).changed


def test_the_first_password_is_temporary_unless_said_otherwise(desk: Desk, person: dict[str, Any]) -> None:
    other = {
        **person,
        "username": f"demo-{next(NUMBERS)}",
        "email": f"d{next(NUMBERS)}@example.org",
        "temporary": False,
    }
    desk.users(person, other)

    assert desk.user(person["username"])["requiredActions"] == ["UPDATE_PASSWORD"]
    assert desk.user(other["username"])["requiredActions"] == []


def test_a_password_is_set_once(desk: Desk, person: dict[str, Any]) -> None:
    desk.users(person)

    assert not desk.users({**person, "password": "Another-Password-123"}).changed


def test_no_password_and_no_secret_is_ever_printed(desk: Desk, person: dict[str, Any]) -> None:
    another = {**person, "username": f"{person['username']}-2", "email": f"2{person['email']}", "password": "Sesame-1"}
    outcomes = [
        desk.users(person, check=True),
        desk.users(person),
        desk.users(another),  # refused by the policy
        desk.clinics({"id": "a", "name": "x"}),
    ]

    assert outcomes[2].result["failed"], outcomes[2].printed
    for outcome in outcomes:
        assert PASSWORD not in outcome.printed
        assert "Sesame-1" not in outcome.printed
        assert "registry-secret-5d" not in outcome.printed
        assert desk.server.client_secret not in outcome.printed


def test_a_password_against_the_policy_leaves_no_half_made_user(desk: Desk, person: dict[str, Any]) -> None:
    outcome = desk.users({**person, "password": "Sesame-1"})

    assert outcome.result["failed"]
    assert person["username"] in outcome.result["msg"]
    assert desk.api.get("/users", username=person["username"], exact="true") == []


def test_a_new_user_without_a_password_is_refused(desk: Desk, person: dict[str, Any]) -> None:
    assert "needs a password" in desk.users({**person, "password": None}).result["msg"]


def test_clinics_and_roles_are_exact(desk: Desk, person: dict[str, Any]) -> None:
    desk.users(person)
    moved = {**person, "clinics": ["denscan-almaty"], "roles": ["technician"]}

    predicted = desk.users(moved, check=True)
    outcome = desk.users(moved)

    name = person["username"]
    assert outcome.diff == predicted.diff
    assert outcome.diff["before"][f"user {name}: clinics"] == {"members": ["denscan-central"]}
    assert outcome.diff["after"][f"user {name}: clinics"] == {"members": ["denscan-almaty"]}
    assert desk.groups_of(name) == {"/clinics/denscan-almaty"}
    assert desk.roles_of(name) == {"technician"}


def test_who_gets_another_role_logs_in_anew_and_who_loses_one_does_not(desk: Desk, person: dict[str, Any]) -> None:
    desk.users({**person, "roles": ["physician", "technician"]})

    desk.users(person)
    assert not desk.user(person["username"]).get("notBefore")
    desk.users({**person, "roles": ["admin"]})

    assert desk.user(person["username"])["notBefore"] > 0


def test_a_group_that_is_no_clinic_is_left_alone(desk: Desk, person: dict[str, Any]) -> None:
    desk.users(person)
    committee = f"committee-{next(NUMBERS)}"
    desk.api.create("/groups", {"name": committee})
    group = desk.api.get(f"/group-by-path/{committee}")
    desk.api.put(f"/users/{desk.user(person['username'])['id']}/groups/{group['id']}")

    assert not desk.users(person).changed
    assert desk.groups_of(person["username"]) == {"/clinics/denscan-central", f"/{committee}"}


def test_an_admin_also_manages_users_and_loses_that_with_the_role(desk: Desk, person: dict[str, Any]) -> None:
    desk.users({**person, "roles": ["admin"]})
    assert desk.roles_of(person["username"]) == {"admin", "user-manager"}

    desk.users(person)
    assert desk.roles_of(person["username"]) == {"physician"}


def test_an_unknown_clinic_or_role_is_named_before_anything_is_written(desk: Desk, person: dict[str, Any]) -> None:
    outcome = desk.users({**person, "clinics": ["no-such-clinic"], "roles": ["surgeon"]})

    assert "there is no clinic 'no-such-clinic'" in outcome.result["msg"]
    assert "there is no role 'surgeon'" in outcome.result["msg"]
    assert desk.api.get("/users", username=person["username"], exact="true") == []


def test_changing_one_field_keeps_every_other(empty: Desk, person: dict[str, Any]) -> None:
    empty.realm(user_attributes=[{"name": "licence", "display_name": "Licence"}], roles=[{"name": "physician"}])
    person = {**person, "clinics": [], "attributes": {"licence": "KZ-1"}}
    empty.users(person)

    outcome = empty.users({**person, "attributes": {}, "last_name": "Bekova"})

    name = person["username"]
    assert outcome.diff == {
        "before": {f"user {name}": {"lastName": "Omarova"}},
        "after": {f"user {name}": {"lastName": "Bekova"}},
    }
    now = empty.user(name)
    assert (now["firstName"], now["lastName"], now["email"]) == ("Aigerim", "Bekova", person["email"])
    assert now["attributes"] == {"licence": ["KZ-1"]}
    assert now["requiredActions"] == ["UPDATE_PASSWORD"]


def test_an_attribute_is_written_and_the_profile_is_kept(empty: Desk, person: dict[str, Any]) -> None:
    empty.realm(user_attributes=[{"name": "licence", "display_name": "Licence"}], roles=[{"name": "physician"}])
    person = {**person, "clinics": []}
    empty.users(person)

    assert empty.users({**person, "attributes": {"licence": "KZ-2"}}).changed
    assert not empty.users({**person, "attributes": {"licence": "KZ-2"}}).changed
    assert empty.user(person["username"])["lastName"] == "Omarova"


def test_an_attribute_the_realm_would_drop_is_refused(desk: Desk, person: dict[str, Any]) -> None:
    assert (
        "does not declare the attribute 'licence'"
        in desk.users({**person, "attributes": {"licence": "1"}}).result["msg"]
    )


def test_a_user_can_be_shut_out_and_removed(desk: Desk, person: dict[str, Any]) -> None:
    desk.users(person)

    desk.users({**person, "enabled": False})
    assert not desk.user(person["username"])["enabled"]

    gone = {"username": person["username"], "state": "absent"}
    assert desk.users(gone, check=True).diff == desk.users(gone).diff
    assert desk.api.get("/users", username=person["username"], exact="true") == []
    assert not desk.users(gone).changed


@pytest.mark.parametrize("name", ["ab", "a/b", "x y", "ай-гуль"])
def test_an_unusable_username_is_refused(desk: Desk, person: dict[str, Any], name: str) -> None:
    assert "is not usable" in desk.users({**person, "username": name}).result["msg"]


# --- a clinic's own software -----------------------------------------------------------------------------------------


@pytest.fixture
def software() -> dict[str, Any]:
    """An information system of one clinic, with the viewer's mappers."""
    (viewer,) = [client for client in declared_realm()["clients"] if client["client_id"] == "ohif"]
    return {
        "client_id": f"ris-{next(NUMBERS)}",
        "clinic": "denscan-central",
        "roles": ["physician"],
        "secret": "first-software-secret",
        "mappers": viewer["mappers"],
    }


def account_of(desk: Desk, client_id: str) -> tuple[set[str], set[str]]:
    """Groups and roles of a client's service account."""
    account = desk.api.get(f"/clients/{desk.client(client_id)['id']}/service-account-user")["id"]
    groups = {group["path"] for group in desk.api.get(f"/users/{account}/groups")}
    roles = {role["name"] for role in desk.api.get(f"/users/{account}/role-mappings/realm")}
    return groups, roles - {f"default-roles-{desk.realm_name}"}


def test_software_is_predicted_exactly_then_let_in_then_left_alone(desk: Desk, software: dict[str, Any]) -> None:
    predicted = desk.software(**software, check=True)
    assert desk.api.get("/clients", clientId=software["client_id"]) == [], "check mode wrote"
    made = desk.software(**software)

    assert made.changed
    assert made.diff == predicted.diff
    again = desk.software(**software)
    assert not again.changed, again.diff
    assert not desk.software(**software, check=True).changed
    assert account_of(desk, software["client_id"]) == ({"/clinics/denscan-central"}, {"physician"})


def test_software_gets_tokens_by_its_secret_and_in_no_other_way(desk: Desk, software: dict[str, Any]) -> None:
    desk.software(**software)

    client = desk.client(software["client_id"])
    assert client["serviceAccountsEnabled"]
    assert not client["publicClient"]
    ways_of_people = ("standardFlowEnabled", "implicitFlowEnabled", "directAccessGrantsEnabled", "fullScopeAllowed")
    assert [way for way in ways_of_people if client[way]] == []
    assert client["redirectUris"] == []
    assert client["optionalClientScopes"] == []
    roles = desk.api.get(f"/clients/{client['id']}/scope-mappings/realm")
    assert {role["name"] for role in roles} == {"physician"}


def test_software_has_exactly_one_clinic_and_the_given_roles(desk: Desk, software: dict[str, Any]) -> None:
    desk.software(**software)
    moved = {**software, "clinic": "denscan-almaty", "roles": ["technician", "physician"]}

    predicted = desk.software(**moved, check=True)
    outcome = desk.software(**moved)

    assert outcome.diff == predicted.diff
    assert account_of(desk, software["client_id"]) == ({"/clinics/denscan-almaty"}, {"physician", "technician"})
    assert not desk.software(**moved).changed


def test_what_was_added_to_software_by_hand_goes(desk: Desk, software: dict[str, Any]) -> None:
    desk.software(**software)
    client = desk.client(software["client_id"])
    account = desk.api.get(f"/clients/{client['id']}/service-account-user")["id"]
    other = desk.api.get("/group-by-path/clinics/denscan-almaty")["id"]
    desk.api.put(f"/users/{account}/groups/{other}")
    desk.api.create(f"/users/{account}/role-mappings/realm", [desk.api.get("/roles/admin")])
    desk.api.put(f"/clients/{client['id']}", {**client, "directAccessGrantsEnabled": True})

    assert set(desk.software(**software).diff["after"]) == {
        f"client {software['client_id']}",
        f"client {software['client_id']}: clinic",
        f"client {software['client_id']}: roles",
    }
    assert account_of(desk, software["client_id"]) == ({"/clinics/denscan-central"}, {"physician"})


def test_software_can_be_shut_out(desk: Desk, software: dict[str, Any]) -> None:
    desk.software(**software)
    gone = {"client_id": software["client_id"], "state": "absent"}

    predicted = desk.software(**gone, check=True)
    assert desk.software(**gone).diff == predicted.diff
    assert desk.api.get("/clients", clientId=software["client_id"]) == []
    assert not desk.software(**gone).changed


def test_the_secret_of_software_changes_and_is_never_shown(desk: Desk, software: dict[str, Any]) -> None:
    outcomes = [
        desk.software(**software, check=True),
        desk.software(**software),
        desk.software(**{**software, "secret": "second-software-secret"}),
    ]

    assert outcomes[2].changed
    assert desk.client(software["client_id"])["secret"] == "second-software-secret"
    for outcome in outcomes:
        assert "software-secret" not in outcome.printed


def test_another_secret_leaves_all_else_of_the_software_as_it_is(desk: Desk, software: dict[str, Any]) -> None:
    desk.software(**software)
    renewed = {"client_id": software["client_id"], "state": "renewed", "secret": "second-software-secret"}
    before = desk.client(software["client_id"])

    predicted = desk.software(**renewed, check=True)
    outcome = desk.software(**renewed)

    assert outcome.diff == predicted.diff
    assert "software-secret" not in outcome.printed
    after = desk.client(software["client_id"])
    changing = {"secret", "attributes"}
    assert {key: value for key, value in after.items() if key not in changing} == {
        key: value for key, value in before.items() if key not in changing
    }
    assert after["secret"] == "second-software-secret"
    assert account_of(desk, software["client_id"]) == ({"/clinics/denscan-central"}, {"physician"})
    assert "no client 'nobody'" in desk.software(**{**renewed, "client_id": "nobody"}).result["msg"]


def test_software_whose_secret_could_be_seen_is_named_until_it_has_another(
    desk: Desk, software: dict[str, Any]
) -> None:
    """A client of an earlier release has no mark."""
    desk.software(**software)
    name = software["client_id"]
    client = desk.client(name)
    # Keycloak takes an attribute away that is empty.
    desk.api.put(f"/clients/{client['id']}", merged(client, {"attributes": {"imaging.secret-unseen": ""}}))

    outcome = desk.realm(**declared_realm())
    assert not outcome.changed
    assert any(name in str(warning) for warning in outcome.result["warnings"])
    assert not desk.software(**software).changed
    assert name in clients_with_seen_secrets(desk.api), "the same secret is no other one"
    desk.software(client_id=name, state="renewed", secret="second-software-secret")
    assert name not in clients_with_seen_secrets(desk.api)
    assert not desk.software(**{**software, "secret": "second-software-secret"}).changed


@pytest.mark.parametrize("client_id", ["ohif", "admin-cli", "realm-management"])
@pytest.mark.parametrize("state", ["present", "renewed", "absent"])
def test_a_client_of_the_platform_is_not_a_clinics(
    desk: Desk, software: dict[str, Any], client_id: str, state: str
) -> None:
    before = desk.client(client_id)

    assert (
        "is a client of the platform itself"
        in desk.software(**{**software, "client_id": client_id, "state": state}).result["msg"]
    )
    assert desk.client(client_id) == before


def test_an_unknown_clinic_or_an_unusable_id_is_named_before_anything_is_written(
    desk: Desk, software: dict[str, Any]
) -> None:
    assert "no clinic 'nowhere'" in desk.software(**{**software, "clinic": "nowhere"}).result["msg"]
    assert "is not usable" in desk.software(**{**software, "client_id": "RIS/x"}).result["msg"]
    assert "must be one or more of" in desk.software(**{**software, "roles": ["admin"]}).result["msg"]
    assert desk.api.get("/clients", clientId=software["client_id"]) == []


# --- the account of a user who exists --------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["disable", "remove", "logout", "reset-password"])
def test_what_happens_to_an_account_is_predicted_exactly_and_check_mode_writes_nothing(
    desk: Desk, person: dict[str, Any], action: str
) -> None:
    desk.users(person)
    before = desk.user(person["username"])
    password = {"password": "Another-Horse-78-battery"} if action == "reset-password" else {}

    predicted = desk.account(person["username"], action, **password, check=True)
    assert desk.user(person["username"]) == before
    done = desk.account(person["username"], action, **password)

    assert done.changed
    assert done.diff == predicted.diff
    assert "Another-Horse-78-battery" not in predicted.printed + done.printed


def test_a_disabled_user_keeps_everything_else_and_can_be_enabled_again(desk: Desk, person: dict[str, Any]) -> None:
    desk.users(person)
    before = desk.user(person["username"])

    desk.account(person["username"], "disable")
    disabled = desk.user(person["username"])
    assert not desk.account(person["username"], "disable").changed
    desk.account(person["username"], "enable")

    assert not disabled["enabled"]
    assert {**disabled, "enabled": True, "notBefore": 0} == {**before, "notBefore": 0}
    assert desk.user(person["username"])["enabled"]
    assert not desk.account(person["username"], "enable").changed
    assert desk.groups_of(person["username"]) == {"/clinics/denscan-central"}
    assert desk.roles_of(person["username"]) == {"physician"}


@pytest.mark.parametrize("action", ["disable", "logout", "reset-password"])
def test_whatever_shuts_out_makes_earlier_tokens_invalid(desk: Desk, person: dict[str, Any], action: str) -> None:
    desk.users(person)
    assert not desk.user(person["username"]).get("notBefore")

    desk.account(person["username"], action, **({"password": PASSWORD + "2"} if action == "reset-password" else {}))

    assert desk.user(person["username"])["notBefore"] > 0


def test_a_reset_password_is_temporary_unless_said_otherwise(desk: Desk, person: dict[str, Any]) -> None:
    desk.users({**person, "temporary": False})

    desk.account(person["username"], "reset-password", password=PASSWORD + "2")
    assert desk.user(person["username"])["requiredActions"] == ["UPDATE_PASSWORD"]
    desk.account(person["username"], "reset-password", password=PASSWORD + "3", temporary=False)
    assert desk.user(person["username"])["requiredActions"] == []


def test_a_one_time_password_is_asked_for_once_and_nothing_else_is_touched(desk: Desk, person: dict[str, Any]) -> None:
    desk.users(person)
    before = desk.user(person["username"])

    predicted = desk.account(person["username"], "require-totp", check=True)
    assert desk.user(person["username"]) == before
    assert desk.account(person["username"], "require-totp").diff == predicted.diff

    after = desk.user(person["username"])
    assert sorted(after["requiredActions"]) == ["CONFIGURE_TOTP", "UPDATE_PASSWORD"]
    assert {**after, "requiredActions": []} == {**before, "requiredActions": []}
    assert not desk.account(person["username"], "require-totp").changed


def test_who_has_no_one_time_password_is_only_logged_out_by_its_reset(desk: Desk, person: dict[str, Any]) -> None:
    desk.users(person)

    reset = desk.account(person["username"], "reset-totp")

    assert list(reset.diff["after"]) == [f"user {person['username']}: sessions"]
    assert desk.user(person["username"])["notBefore"] > 0


def test_a_renamed_user_keeps_everything_else_and_no_name_is_given_twice(desk: Desk, person: dict[str, Any]) -> None:
    desk.users(person)
    other = {**person, "username": f"other-{next(NUMBERS)}", "email": f"o{next(NUMBERS)}@example.org"}
    desk.users(other)
    name, new = person["username"], f"renamed-{next(NUMBERS)}"
    before = desk.user(name)

    taken = desk.account(name, "rename", new_username=other["username"])
    predicted = desk.account(name, "rename", new_username=new, check=True)
    assert desk.user(name) == before
    done = desk.account(name, "rename", new_username=new.upper())

    assert "already, so nothing was changed" in taken.result["msg"]
    assert done.diff == predicted.diff
    assert {**desk.user(new), "username": name, "notBefore": 0} == {**before, "notBefore": 0}
    assert desk.user(new)["notBefore"] > 0
    assert desk.groups_of(new) == {"/clinics/denscan-central"}
    assert desk.roles_of(new) == {"physician"}
    assert desk.api.get("/users", username=name, exact="true") == []


def test_a_removed_user_is_gone(desk: Desk, person: dict[str, Any]) -> None:
    desk.users(person)

    desk.account(person["username"], "remove")

    assert desk.api.get("/users", username=person["username"], exact="true") == []


@pytest.mark.parametrize("action", ["disable", "enable", "logout", "remove"])
def test_nobody_of_that_name_is_told_and_not_passed_over(desk: Desk, action: str) -> None:
    outcome = desk.account("nobody.here", action)

    assert outcome.result["failed"]
    assert "there is no user 'nobody.here', so nothing was changed" in outcome.result["msg"]


@pytest.mark.parametrize(("username", "action"), [("somebody", "logout-all"), (None, "logout"), (None, "remove")])
def test_who_is_meant_is_said_once(desk: Desk, username: str | None, action: str) -> None:
    assert "logout-all is for all users and takes no username" in desk.account(username, action).result["msg"]


# --- reaching Keycloak -----------------------------------------------------------------------------------------------


def test_a_wrong_secret_says_where_it_comes_from_and_does_not_show_it(desk: Desk) -> None:
    desk.server = Server(desk.server.url, desk.server.client_id, "wrong-secret-66")

    outcome = desk.realm(settings={})

    assert "refuses the service account" in outcome.result["msg"]
    assert "wrong-secret-66" not in outcome.printed


def test_an_address_without_keycloaks_path_is_recognised(desk: Desk) -> None:
    desk.server = Server(desk.server.url.removesuffix("/auth"), desk.server.client_id, desk.server.client_secret)

    assert "takes the address with its path" in desk.realm(settings={}).result["msg"]


def test_before_the_first_run_check_mode_predicts_everything_and_a_real_run_fails(
    desk: Desk, person: dict[str, Any]
) -> None:
    desk.server = Server("http://127.0.0.1:1/auth", desk.server.client_id, desk.server.client_secret)

    realm, users = desk.realm(**declared_realm(), check=True), desk.users(person, check=True)
    clinics = desk.clinics({"id": "denscan", "name": "DenScan"}, check=True)

    assert realm.changed
    assert users.changed
    assert clinics.changed
    assert "Nothing listens" in realm.printed
    assert "systemctl status imaging-keycloak" in desk.realm(**declared_realm()).result["msg"]
