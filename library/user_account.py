#!/usr/bin/python
"""Ansible module: changes the account of an existing user, or ends the sessions of all users."""

from __future__ import annotations

DOCUMENTATION = r"""
module: user_account
short_description: Reset a password or a second factor, log out, disable, enable, rename or remove a user
description:
  - Works on one existing user, who is named only by username. Clinics, roles and profile stay as they are.
    A name that nobody has is refused, so that a mistyped name is not taken for a success.
  - Only C(logout-all) needs no name. It ends every session of the realm.
  - C(reset-totp) removes every one-time password that the user has set up. With C(require-totp), the user sets one up
    at the next login, unless there is one.
  - An action that shuts a user out ends the user's sessions too. An access token that was issued earlier is valid until
    it ends by itself (accessTokenLifespan of the realm).
options:
  keycloak_url: {type: str, required: true, description: "Keycloak's address with its path, as in http://ADDRESS:PORT/auth."}
  keycloak_client_id: {type: str, required: true, description: Service account in the realm master.}
  keycloak_client_secret: {type: str, required: true, description: Its secret.}
  realm: {type: str, default: imaging, description: Name of the realm.}
  username: {type: str, description: Name with which the user logs in. Every action but C(logout-all) needs it.}
  action:
    type: str
    required: true
    choices: [reset-password, reset-totp, require-totp, logout, logout-all, disable, enable, rename, remove]
    description: The change.
  new_username: {type: str, description: "The new name, lower case; required by C(rename)."}
  password: {type: str, description: The new password; required by C(reset-password).}
  temporary: {type: bool, default: true, description: Whether the next login asks for another password.}
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
author: [The imaging platform's authors]
"""

EXAMPLES = r"""
- name: Shut somebody out who left
  user_account:
    keycloak_url: "{{ identity_keycloak_url }}"
    keycloak_client_id: imaging-ansible
    keycloak_client_secret: "{{ identity_keycloak_client_secret }}"
    username: aigerim
    action: disable
"""

RETURN = r"""
username:
  description: Name of the user; null after C(logout-all).
  returned: success
  type: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule  # type: ignore[import-untyped]
from ansible.module_utils.imaging.keycloak import (  # type: ignore[import-untyped]
    CONNECTION,
    HIDDEN,
    Keycloak,
    KeycloakError,
    Plan,
    carry_out,
    merged,
)

SET_UP = "CONFIGURE_TOTP"  # Keycloak's required action


def plan_action(keycloak: Keycloak, plan: Plan, asked: dict[str, Any]) -> None:
    """Plan the changes to the user, who must exist."""
    name = asked["username"].lower()
    found = keycloak.get("/users", username=name, exact="true", briefRepresentation="false")
    if not found:
        if keycloak.absent:
            return
        raise KeycloakError(f"there is no user '{name}', so nothing was changed; is the name spelt right?")
    user = found[0]
    path = f"/users/{user['id']}"

    def log_out() -> None:
        keycloak.create(f"{path}/logout", {})

    def set_enabled(enabled: bool) -> None:
        # A PUT drops every profile field and attribute that it does not list, so it carries all that exist.
        keycloak.put(path, merged(user, {"enabled": enabled}))

    if asked["action"] == "reset-password":
        credential = {"type": "password", "value": asked["password"], "temporary": asked["temporary"]}
        shown = {"password": HIDDEN, "temporary": asked["temporary"]}
        plan.add(
            *(f"user {name}: password", {"password": HIDDEN}, shown),
            lambda: keycloak.put(f"{path}/reset-password", credential),
        )
    if asked["action"] in ("disable", "enable") and user["enabled"] != (asked["action"] == "enable"):
        enabled = not user["enabled"]
        plan.add(f"user {name}", {"enabled": not enabled}, {"enabled": enabled}, lambda: set_enabled(enabled))
    codes = [one for one in keycloak.get(f"{path}/credentials") if one["type"] == "otp"]
    if asked["action"] == "reset-totp":
        # Each is a change of its own, so that an error names the one that cannot be removed.
        for code in codes:
            plan.add(
                *(f"user {name}: one-time password {code.get('userLabel') or code['id']}", {"set up": True}, None),
                lambda code=code: keycloak.delete(f"{path}/credentials/{code['id']}"),
            )
    required = user.get("requiredActions", [])
    if asked["action"] == "require-totp" and not codes and SET_UP not in required:
        wanted = {"requiredActions": [*required, SET_UP]}
        plan.add(
            *(f"user {name}", {"requiredActions": required}, wanted), lambda: keycloak.put(path, merged(user, wanted))
        )
    if asked["action"] == "rename":
        new_name = asked["new_username"].lower()
        if keycloak.get("/users", username=new_name, exact="true"):
            raise KeycloakError(f"there is a user '{new_name}' already, so nothing was changed; take another name")
        plan.add(
            *(f"user {name}", {"username": name}, {"username": new_name}),
            lambda: keycloak.put(path, merged(user, {"username": new_name})),
        )
    if asked["action"] in ("reset-password", "reset-totp", "rename", "logout") or (
        asked["action"] == "disable" and user["enabled"]
    ):
        plan.add(f"user {name}: sessions", {"sessions": "whatever there are"}, {"sessions": "none"}, log_out)
    if asked["action"] == "remove":
        plan.add(f"user {name}", {"username": name}, None, lambda: keycloak.delete(path))


def plan_logout_of_all(keycloak: Keycloak, plan: Plan) -> None:
    """Plan the end of every session of the realm, also those of administrators and of clinics' own software."""
    before, after = {"sessions": "whatever there are"}, {"sessions": "none"}
    plan.add("sessions of all users", before, after, lambda: keycloak.create("/logout-all", {}))


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **CONNECTION,
            "username": {"type": "str"},
            "action": {
                "type": "str",
                "required": True,
                "choices": [
                    *("reset-password", "reset-totp", "require-totp"),
                    *("logout", "logout-all", "disable", "enable", "rename", "remove"),
                ],
            },
            "new_username": {"type": "str"},
            "password": {"type": "str", "no_log": True},
            "temporary": {"type": "bool", "default": True},
        },
        required_if=[("action", "reset-password", ("password",)), ("action", "rename", ("new_username",))],
        supports_check_mode=True,
    )
    username = module.params["username"]
    if (username is None) != (module.params["action"] == "logout-all"):
        module.fail_json(msg="logout-all is for all users and takes no username; every other action takes one.")
    keycloak = Keycloak.of(module)
    plan = Plan()
    try:
        if username is None:
            plan_logout_of_all(keycloak, plan)
        else:
            plan_action(keycloak, plan, module.params)
        carry_out(module, keycloak, plan, username=username and username.lower())
    except KeycloakError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
