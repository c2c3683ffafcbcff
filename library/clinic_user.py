#!/usr/bin/python
"""Ansible module: users of the platform, with their clinics and roles."""

from __future__ import annotations

DOCUMENTATION = r"""
module: clinic_user
short_description: Keep users in Keycloak with their clinics and roles
description:
  - Creates, changes and removes users. Clinics and roles are exact - a user leaves the clinics and loses the roles
    that are not listed (the realm's default role stays). Groups outside /clinics and other profile fields stay.
  - A user who gets another role is logged out, because that role may ask for a second factor at the login.
  - Users that are not listed stay as they are.
options:
  keycloak_url: {type: str, required: true, description: "Keycloak's address with its path, as in http://ADDRESS:PORT/auth."}
  keycloak_client_id: {type: str, required: true, description: Service account in the realm master.}
  keycloak_client_secret: {type: str, required: true, description: Its secret.}
  realm: {type: str, default: imaging, description: Name of the realm.}
  users:
    type: list
    elements: dict
    required: true
    description: The users. One call for all of them costs one task.
    options:
      username: {type: str, required: true, description: Login name. Keycloak keeps it in lower case.}
      state: {type: str, choices: [present, absent], default: present, description: Whether the user exists.}
      email: {type: str, description: E-mail address; required when the user is to exist.}
      first_name: {type: str, description: First name; a user without one is asked for it at the next login.}
      last_name: {type: str, description: Last name; a user without one is asked for it at the next login.}
      enabled: {type: bool, default: true, description: Whether the user may log in.}
      clinics: {type: list, elements: str, default: [], description: "Ids of the user's clinics, exactly."}
      roles: {type: list, elements: str, default: [], description: "Realm roles, exactly."}
      attributes:
        type: dict
        default: {}
        description: Values of attributes that the realm declares (user_attributes of keycloak_realm). Others stay.
      password: {type: str, description: Password to begin with; required for a new user and never set again.}
      temporary: {type: bool, default: true, description: Whether the first login asks for another password.}
  implied_roles:
    type: dict
    default: {}
    description: Realm roles (values, lists) that come along with a role (key).
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
author: [The imaging platform's authors]
"""

EXAMPLES = r"""
- name: Give Aigerim access to her clinic
  clinic_user:
    keycloak_url: "{{ identity_keycloak_url }}"
    keycloak_client_id: imaging-ansible
    keycloak_client_secret: "{{ identity_keycloak_client_secret }}"
    users:
      - username: aigerim
        email: aigerim@example.org
        clinics: [denscan-almaty]
        roles: [physician]
        password: "{{ initial_password }}"
"""

RETURN = r"""
users:
  description: The action taken for each user.
  returned: success
  type: list
  elements: dict
  contains:
    username: {type: str, description: Name.}
    action: {type: str, description: "created, updated, removed or unchanged."}
"""

import re
from typing import Any

from ansible.module_utils.basic import AnsibleModule  # type: ignore[import-untyped]
from ansible.module_utils.imaging.grammar import USERNAME  # type: ignore[import-untyped]
from ansible.module_utils.imaging.keycloak import (  # type: ignore[import-untyped]
    CONNECTION,
    HIDDEN,
    Json,
    Keycloak,
    KeycloakError,
    Plan,
    carry_out,
    differing,
    merged,
)

USER = {
    "username": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "email": {"type": "str"},
    "first_name": {"type": "str"},
    "last_name": {"type": "str"},
    "enabled": {"type": "bool", "default": True},
    "clinics": {"type": "list", "elements": "str", "default": []},
    "roles": {"type": "list", "elements": "str", "default": []},
    "attributes": {"type": "dict", "default": {}},
    "password": {"type": "str", "no_log": True},
    "temporary": {"type": "bool", "default": True},
}
CLINICS = "/clinics/"


class Realm:
    """The groups of clinics and the realm roles that the users refer to, each read once."""

    def __init__(self, keycloak: Keycloak) -> None:
        self.keycloak = keycloak
        self._seen: dict[str, Any] = {}

    def clinic(self, clinic_id: str) -> Json:
        """The clinic's group, or None."""
        return self._read(f"/group-by-path{CLINICS}{clinic_id}")

    def role(self, name: str) -> Json:
        """The realm role, or None."""
        return self._read(f"/roles/{name}")

    def attributes(self) -> set[str]:
        """Names of the attributes that a user may have."""
        return {attribute["name"] for attribute in (self._read("/users/profile") or {}).get("attributes", [])}

    def _read(self, path: str) -> Json:
        if self._seen.get(path) is None:
            self._seen[path] = self.keycloak.get(path)
        return self._seen[path]


def plan_user(realm: Realm, plan: Plan, user: dict[str, Any], implied_roles: dict[str, list[str]]) -> str:
    """Plan one user and say what will become of them."""
    keycloak = realm.keycloak
    name = user["username"]
    found = keycloak.get("/users", username=name, exact="true", briefRepresentation="false")
    current = found[0] if found else None
    planned = len(plan.changes)

    if user["state"] == "absent":
        if current is None:
            return "unchanged"
        plan.add(f"user {name}", {"username": name}, None, lambda: keycloak.delete(f"/users/{current['id']}"))
        return "removed"

    def path() -> str:
        return f"/users/{keycloak.get('/users', username=name, exact='true')[0]['id']}"

    wanted = representation(user)
    before, after = differing(wanted, current or {})
    if current is None:
        if not user["password"]:
            raise KeycloakError(f"user {name} is new and needs a password to begin with: give `password`")
        # The password is in the same request. If the policy refuses it, no half-made user is left.
        body = {"username": name, **wanted, "credentials": [credential(user)]}
        shown = {"username": name, **wanted, "password": HIDDEN}
        plan.add(f"user {name}", None, shown, lambda: keycloak.create("/users", body))
    elif after:
        # A PUT drops every profile field and attribute that it does not list, so it carries all that exist.
        plan.add(f"user {name}", before, after, lambda: keycloak.put(path(), merged(current, after)))

    groups = keycloak.get(f"/users/{current['id']}/groups", max="1000") if current else []
    plan.members(
        f"user {name}: clinics",
        {group["path"].removeprefix(CLINICS) for group in groups if group["path"].startswith(CLINICS)},
        set(user["clinics"]),
        # `groups` in a user's representation is ignored, and an unknown one in a POST answers 500.
        lambda clinic: keycloak.put(f"{path()}/groups/{realm.clinic(clinic)['id']}"),
        lambda clinic: keycloak.delete(f"{path()}/groups/{realm.clinic(clinic)['id']}"),
    )
    mappings = keycloak.get(f"/users/{current['id']}/role-mappings/realm") if current else []
    roles = {role["name"] for role in mappings} - {f"default-roles-{keycloak.realm}"}
    wanted_roles = {*user["roles"], *(role for one in user["roles"] for role in implied_roles.get(one, []))}
    plan.members(
        f"user {name}: roles",
        roles,
        wanted_roles,
        lambda role: keycloak.create(f"{path()}/role-mappings/realm", [realm.role(role)]),
        lambda role: keycloak.delete(f"{path()}/role-mappings/realm", [realm.role(role)]),
    )
    if current is not None and wanted_roles - roles:
        # An earlier login may have passed without the second factor that the new role demands.
        before, after = {"sessions": "whatever there are"}, {"sessions": "none"}
        plan.add(f"user {name}: sessions", before, after, lambda: keycloak.create(f"{path()}/logout", {}))
    if current is None:
        return "created"
    return "updated" if len(plan.changes) > planned else "unchanged"


def representation(user: dict[str, Any]) -> dict[str, Any]:
    """The managed keys of Keycloak's UserRepresentation. Every other field is the user's own."""
    wanted: dict[str, Any] = {"email": user["email"], "enabled": user["enabled"]}
    for key, value in (("firstName", user["first_name"]), ("lastName", user["last_name"])):
        if value is not None:
            wanted[key] = value
    if user["attributes"]:
        wanted["attributes"] = {key: [str(value)] for key, value in user["attributes"].items()}
    return wanted


def credential(user: dict[str, Any]) -> dict[str, Any]:
    """Keycloak's CredentialRepresentation of a password."""
    return {"type": "password", "value": user["password"], "temporary": user["temporary"]}


def check(realm: Realm, user: dict[str, Any], implied_roles: dict[str, list[str]]) -> list[str]:
    """The groups and roles that a user refers to and the realm does not have, in words."""
    if user["state"] == "absent":
        return []
    roles = [*user["roles"], *(role for one in user["roles"] for role in implied_roles.get(one, []))]
    return [
        *(
            f"user {user['username']}: there is no clinic '{one}'; add it first (add-clinic.yml)"
            for one in user["clinics"]
            if realm.clinic(one) is None
        ),
        *(
            f"user {user['username']}: there is no role '{one}'; the roles are physician, technician, auditor and admin"
            for one in roles
            if realm.role(one) is None
        ),
        *(
            f"user {user['username']}: the realm does not declare the attribute '{one}' and Keycloak would drop it; "
            "declare it first (user_attributes of keycloak_realm)"
            for one in user["attributes"]
            if one not in realm.attributes()
        ),
    ]


def tidy(user: dict[str, Any]) -> dict[str, Any]:
    """The user with name and e-mail in lower case, as Keycloak keeps them. Raises KeycloakError for a bad name."""
    name = user["username"].lower()
    if not re.fullmatch(USERNAME, name):
        raise KeycloakError(
            f"the username '{name}' is not usable: it takes 3 to 255 letters, digits, dots, hyphens, underscores and @"
        )
    if user["state"] == "present" and not user["email"]:
        raise KeycloakError(f"user {name} needs an e-mail address: give `email`")
    return {**user, "username": name, "email": (user["email"] or "").lower()}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **CONNECTION,
            "users": {"type": "list", "elements": "dict", "required": True, "options": USER},
            "implied_roles": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    keycloak = Keycloak.of(module)
    realm = Realm(keycloak)
    implied_roles = module.params["implied_roles"]
    plan = Plan()
    try:
        users = [tidy(user) for user in module.params["users"]]
        outcome = [
            {"username": user["username"], "action": plan_user(realm, plan, user, implied_roles)} for user in users
        ]
        missing = [words for user in users for words in check(realm, user, implied_roles)]
        if missing and not module.check_mode:
            module.fail_json(msg="; ".join(missing))
        # Before the first run, the tasks before this one have still to make the clinics and roles.
        for words in missing:
            module.warn(words)
        carry_out(module, keycloak, plan, users=outcome)
    except KeycloakError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
