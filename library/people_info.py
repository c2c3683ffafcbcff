#!/usr/bin/python
"""Ansible module: which clinics and users there are."""

from __future__ import annotations

DOCUMENTATION = r"""
module: people_info
short_description: List clinics and users
description:
  - Reads and changes nothing. Names and studies of clinics come from the registry, people from Keycloak.
  - The number of requests grows with the clinics and roles, not with the users.
requirements: [python3-psycopg (version 3) on the host]
options:
  keycloak_url: {type: str, required: true, description: "Keycloak's address with its path, as in http://ADDRESS:PORT/auth."}
  keycloak_client_id: {type: str, required: true, description: Service account in the realm master.}
  keycloak_client_secret: {type: str, required: true, description: Its secret.}
  realm: {type: str, default: imaging, description: Name of the realm.}
  roles:
    type: list
    elements: str
    required: true
    description: The platform's roles; others that a user may have are left out.
  registry_host: {type: str, required: true, description: Host of the registry's PostgreSQL.}
  registry_port: {type: int, required: true, description: Its port.}
  registry_name: {type: str, required: true, description: Name of the database.}
  registry_user: {type: str, required: true, description: Role that may execute registry.count_studies.}
  registry_password: {type: str, required: true, description: Its password.}
attributes:
  check_mode: {support: full}
  diff_mode: {support: none}
author: [The imaging platform's authors]
"""

EXAMPLES = r"""
- name: Ask who there is
  people_info:
    keycloak_url: "{{ identity_keycloak_url }}"
    keycloak_client_id: imaging-ansible
    keycloak_client_secret: "{{ identity_keycloak_client_secret }}"
    roles: [physician, technician, auditor, admin]
    registry_host: "{{ identity_registry_host }}"
    registry_port: "{{ identity_registry_port }}"
    registry_name: registry
    registry_user: registry_operator
    registry_password: "{{ identity_registry_password }}"
  register: people
"""

RETURN = r"""
clinics:
  description: >-
    By id, each as C(id), C(name), C(studies), C(last_received) (ISO 8601, UTC; null before the first study), C(users)
    and C(clients), the latter two numbers, and C(removed), when it was removed (null otherwise). Removed ones are
    listed while they own studies.
  returned: success
  type: list
  elements: dict
users:
  description: >-
    By username, each as C(username), C(name), C(email), C(clinics), C(roles), C(enabled) and C(second_factor), whether
    a one-time password is set up. Accounts of software are no users.
  returned: success
  type: list
  elements: dict
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule  # type: ignore[import-untyped]
from ansible.module_utils.imaging.keycloak import (  # type: ignore[import-untyped]
    CONNECTION,
    Keycloak,
    KeycloakError,
)
from ansible.module_utils.imaging.registry import (  # type: ignore[import-untyped]
    REGISTRY,
    Registry,
    RegistryError,
)

ALL = "-1"  # Keycloak's default is a page of a hundred.
# The name of a client's account begins with this. Keycloak allows it for users too, but no username of ours has it.
SOFTWARE = "service-account-"


def usernames(keycloak: Keycloak, path: str) -> set[str]:
    """Who is listed there; nobody where there is no such group or role."""
    return {one["username"] for one in keycloak.get(path, max=ALL, briefRepresentation="true") or []}


def members_of_clinics(keycloak: Keycloak, clinics: list[str]) -> dict[str, set[str]]:
    """By clinic id the usernames of its members, software among them."""
    members = {}
    for clinic in clinics:
        group = keycloak.get(f"/group-by-path/clinics/{clinic}")
        members[clinic] = usernames(keycloak, f"/groups/{group['id']}/members") if group else set()
    return members


def listing(keycloak: Keycloak, registry: Registry, roles: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Clinics and users as RETURN says."""
    names, holdings = registry.names(), registry.holdings()
    removed = {clinic: one for clinic, one in registry.removed().items() if holdings[clinic][0]}
    members = members_of_clinics(keycloak, sorted(names))
    holders = {role: usernames(keycloak, f"/roles/{role}/users") for role in roles}
    clinics = []
    for clinic in sorted([*names, *removed]):
        software = {one for one in members.get(clinic, ()) if one.startswith(SOFTWARE)}
        studies, last_received = holdings[clinic]
        clinics.append({
            "id": clinic, "name": names[clinic] if clinic in names else removed[clinic].name,
            "studies": studies, "last_received": last_received,
            "users": len(members.get(clinic, set()) - software), "clients": len(software),
            "removed": removed[clinic].at if clinic in removed else None,
        })  # fmt: skip
    users = [
        {
            "username": user["username"],
            "name": " ".join(filter(None, (user.get("firstName"), user.get("lastName")))),
            "email": user.get("email"),
            "clinics": [clinic for clinic in sorted(names) if user["username"] in members[clinic]],
            "roles": [role for role in roles if user["username"] in holders[role]],
            "enabled": user["enabled"],
            "second_factor": user.get("totp", False),
        }
        for user in keycloak.get("/users", max=ALL, briefRepresentation="false")
        if not user["username"].startswith(SOFTWARE)
    ]
    return {"clinics": clinics, "users": sorted(users, key=lambda user: str(user["username"]))}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **CONNECTION,
            **REGISTRY,
            "registry_password": {"type": "str", "required": True, "no_log": True},
            "roles": {"type": "list", "elements": "str", "required": True},
        },
        supports_check_mode=True,
    )
    arguments = module.params
    keycloak = Keycloak(
        arguments["keycloak_url"],
        arguments["keycloak_client_id"],
        arguments["keycloak_client_secret"],
        arguments["realm"],
    )
    try:
        module.exit_json(changed=False, **listing(keycloak, Registry(arguments), arguments["roles"]))
    except (KeycloakError, RegistryError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
