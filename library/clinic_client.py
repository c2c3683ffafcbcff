#!/usr/bin/python
"""Ansible module: a clinic's own software, with the same checks as people."""

from __future__ import annotations

DOCUMENTATION = r"""
module: clinic_client
short_description: Let a clinic's own software in, or shut it out
description:
  - Keeps a confidential Keycloak client with a service account. It gets tokens only by client credentials
    (RFC 6749, 4.4). The service account belongs to exactly one clinic and has exactly the given roles. So its tokens
    say the same as those of a person, and the gateway treats both alike.
  - Refuses to touch a client that it has not made.
options:
  keycloak_url: {type: str, required: true, description: "Keycloak's address with its path, as in http://ADDRESS:PORT/auth."}
  keycloak_client_id: {type: str, required: true, description: Service account in the realm master.}
  keycloak_client_secret: {type: str, required: true, description: Its secret.}
  realm: {type: str, default: imaging, description: Name of the realm.}
  client_id: {type: str, required: true, description: "Id of the software, lower case, as in ris-almaty."}
  state:
    type: str
    choices: [present, renewed, absent]
    default: present
    description: Whether it is let in. C(renewed) gives present software another secret, and changes nothing else.
  clinic: {type: str, description: Id of its clinic; required when it is to be let in.}
  roles:
    type: list
    elements: str
    choices: [physician, technician]
    default: [physician]
    description: What it may do, exactly.
  secret: {type: str, description: Its secret; required unless it is to be shut out.}
  scopes:
    type: list
    elements: str
    default: [basic, profile, service_account]
    description: Exact client scopes. Keycloak adds C(service_account) to every client with a service account.
  mappers:
    type: list
    elements: dict
    default: []
    description: Protocol mappers, exactly. The same as those of the viewer, so that its tokens look the same.
    options:
      name: {type: str, required: true, description: Name.}
      type: {type: str, required: true, description: "Provider id, as in oidc-audience-mapper."}
      config: {type: dict, required: true, description: Configuration under Keycloak's names, all strings.}
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
author: [The imaging platform's authors]
"""

EXAMPLES = r"""
- name: Let the clinic's information system in
  clinic_client:
    keycloak_url: "{{ identity_keycloak_url }}"
    keycloak_client_id: imaging-ansible
    keycloak_client_secret: "{{ identity_keycloak_client_secret }}"
    client_id: ris-almaty
    clinic: denscan-almaty
    roles: [physician]
    secret: "{{ ris_secret }}"
    mappers: "{{ mappers }}"
"""

RETURN = r"""
client_id:
  description: Id of the client.
  returned: success
  type: str
"""

import re
from typing import Any

from ansible.module_utils.basic import AnsibleModule  # type: ignore[import-untyped]
from ansible.module_utils.imaging.clients import (  # type: ignore[import-untyped]
    CLINIC,
    MAPPER,
    SECRET_UNSEEN,
    find_client,
    hide_secret,
    need,
    plan_client,
)
from ansible.module_utils.imaging.grammar import CLINIC_ID  # type: ignore[import-untyped]
from ansible.module_utils.imaging.keycloak import (  # type: ignore[import-untyped]
    CONNECTION,
    Json,
    Keycloak,
    KeycloakError,
    Plan,
    carry_out,
    differing,
    merged,
)


def plan_software(keycloak: Keycloak, plan: Plan, software: dict[str, Any]) -> None:
    """The client, and the clinic and roles of its service account."""
    name = software["client_id"]
    current = find_client(keycloak, name)
    if current is not None and CLINIC not in current.get("attributes", {}):
        raise KeycloakError(f"'{name}' is a client of the platform itself, not of a clinic; take another client id")

    if software["state"] == "absent":
        if current is not None:
            before = {"clinic": current["attributes"][CLINIC]}
            plan.add(f"client {name}", before, None, lambda: keycloak.delete(f"/clients/{current['id']}"))
        return

    # A secret that is kept has not been seen, and nobody has seen one that is written now.
    is_new = current is None or current.get("secret") != software["secret"]
    mark = SECRET_UNSEEN if is_new else {}
    if software["state"] == "renewed":
        if current is None:
            raise KeycloakError(f"there is no client '{name}'; `make add-client` lets software in")
        before, after = differing({"secret": software["secret"], "attributes": mark}, current)
        change = merged(current, after)
        plan.add(
            *(f"client {name}", hide_secret(before), hide_secret(after)),
            lambda: keycloak.put(f"/clients/{current['id']}", change),
        )
        return

    if keycloak.get(f"/group-by-path/clinics/{software['clinic']}") is None and not keycloak.absent:
        raise KeycloakError(f"there is no clinic '{software['clinic']}'; add it first (add-clinic.yml)")
    plan_client(
        *(keycloak, plan, representation(software, mark)),
        scopes=software["scopes"],
        mappers=software["mappers"],
        roles=software["roles"],
    )

    def account() -> Json:
        return need(keycloak, f"/clients/{find_client(keycloak, name)['id']}/service-account-user")

    def account_path() -> str:
        return f"/users/{account()['id']}"

    def group(clinic: str) -> str:
        return f"{account_path()}/groups/{need(keycloak, f'/group-by-path/clinics/{clinic}')['id']}"

    has_account = current is not None and current.get("serviceAccountsEnabled")
    groups = keycloak.get(f"{account_path()}/groups", max="1000") if has_account else []
    plan.members(
        f"client {name}: clinic",
        {one["path"].removeprefix("/clinics/") for one in groups},
        {software["clinic"]},
        lambda clinic: keycloak.put(group(clinic)),
        lambda clinic: keycloak.delete(group(clinic)),
    )
    roles = keycloak.get(f"{account_path()}/role-mappings/realm") if has_account else []
    plan.members(
        f"client {name}: roles",
        {role["name"] for role in roles} - {f"default-roles-{keycloak.realm}"},
        set(software["roles"]),
        lambda role: keycloak.create(f"{account_path()}/role-mappings/realm", [need(keycloak, f"/roles/{role}")]),
        lambda role: keycloak.delete(f"{account_path()}/role-mappings/realm", [need(keycloak, f"/roles/{role}")]),
    )


def representation(software: dict[str, Any], mark: dict[str, str]) -> dict[str, Any]:
    """The managed keys of Keycloak's ClientRepresentation: client credentials and nothing else."""
    return {
        "clientId": software["client_id"],
        "name": f"Software of {software['clinic']}",
        "enabled": True,
        "protocol": "openid-connect",
        "publicClient": False,
        "clientAuthenticatorType": "client-secret",
        "secret": software["secret"],
        "serviceAccountsEnabled": True,
        "standardFlowEnabled": False,
        "implicitFlowEnabled": False,
        "directAccessGrantsEnabled": False,
        "consentRequired": False,
        "fullScopeAllowed": False,
        "redirectUris": [],
        "webOrigins": [],
        "attributes": {CLINIC: software["clinic"], "client_credentials.use_refresh_token": "false", **mark},
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **CONNECTION,
            "client_id": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "renewed", "absent"], "default": "present"},
            "clinic": {"type": "str"},
            "roles": {
                "type": "list",
                "elements": "str",
                "choices": ["physician", "technician"],
                "default": ["physician"],
            },
            "secret": {"type": "str", "no_log": True},
            "scopes": {"type": "list", "elements": "str", "default": ["basic", "profile", "service_account"]},
            "mappers": {"type": "list", "elements": "dict", "default": [], "options": MAPPER},
        },
        required_if=[("state", "present", ("clinic", "secret")), ("state", "renewed", ("secret",))],
        supports_check_mode=True,
    )
    software = module.params
    if not re.fullmatch(CLINIC_ID, software["client_id"]):  # in the same form
        module.fail_json(
            msg=f"The client id '{software['client_id']}' is not usable: it takes 2 to 63 lower case letters, digits "
            "and hyphens and starts with a letter or digit, as in ris-almaty."
        )
    keycloak = Keycloak.of(module)
    plan = Plan()
    try:
        plan_software(keycloak, plan, software)
        carry_out(module, keycloak, plan, client_id=software["client_id"])
    except KeycloakError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
