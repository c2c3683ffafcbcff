#!/usr/bin/python
"""Ansible module: clinics, in Keycloak and in the registry."""

from __future__ import annotations

DOCUMENTATION = r"""
module: clinic
short_description: Keep clinics in Keycloak and in the study registry
description:
  - A clinic is the group /clinics/ID in Keycloak, whose members see its studies, and a row in the registry.
  - The clinic's name is the description of the group. Its other attributes and its members stay.
  - Clinics that are not listed stay too. The module clinic_removal removes one.
requirements: [python3-psycopg (version 3) on the host]
options:
  keycloak_url: {type: str, required: true, description: "Keycloak's address with its path, as in http://ADDRESS:PORT/auth."}
  keycloak_client_id: {type: str, required: true, description: Service account in the realm master.}
  keycloak_client_secret: {type: str, required: true, description: Its secret.}
  realm: {type: str, default: imaging, description: Name of the realm.}
  clinics:
    type: list
    elements: dict
    required: true
    description: The clinics. One call for all of them costs one task.
    options:
      id: {type: str, required: true, description: "2 to 63 lower case letters, digits, hyphens; never changed later."}
      name: {type: str, required: true, description: Name that people read.}
  readmit:
    type: str
    choices: [nobody, empty, with_studies]
    default: nobody
    description:
      - Whether a listed clinic that was removed becomes one again. C(empty) refuses where studies were kept, because
        every member would see them; C(with_studies) means just that.
  registry_host: {type: str, required: true, description: Host of the registry's PostgreSQL.}
  registry_port: {type: int, required: true, description: Its port.}
  registry_name: {type: str, required: true, description: Name of the database.}
  registry_user: {type: str, required: true, description: Role that may execute registry.upsert_clinic.}
  registry_password: {type: str, required: true, description: Its password.}
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
author: [The imaging platform's authors]
"""

EXAMPLES = r"""
- name: Make the clinics known
  clinic:
    keycloak_url: "{{ identity_keycloak_url }}"
    keycloak_client_id: imaging-ansible
    keycloak_client_secret: "{{ identity_keycloak_client_secret }}"
    clinics: [{id: denscan-almaty, name: DenScan Almaty}]
    registry_host: "{{ identity_registry_host }}"
    registry_port: "{{ identity_registry_port }}"
    registry_name: registry
    registry_user: registry_operator
    registry_password: "{{ identity_registry_password }}"
"""

RETURN = r"""
clinics:
  description: Ids of the clinics.
  returned: success
  type: list
  elements: str
"""

import re

from ansible.module_utils.basic import AnsibleModule  # type: ignore[import-untyped]
from ansible.module_utils.imaging.grammar import CLINIC_ID  # type: ignore[import-untyped]
from ansible.module_utils.imaging.keycloak import (  # type: ignore[import-untyped]
    CONNECTION,
    Keycloak,
    KeycloakError,
    Plan,
    carry_out,
    differing,
    merged,
)
from ansible.module_utils.imaging.registry import (  # type: ignore[import-untyped]
    REGISTRY,
    Registry,
    RegistryError,
    Removed,
)

PARENT = "clinics"


def plan_group(keycloak: Keycloak, plan: Plan, clinic_id: str, name: str) -> None:
    """The clinic's group. A PUT erases a description it leaves out and replaces attributes, so it carries them all."""
    current = keycloak.get(f"/group-by-path/{PARENT}/{clinic_id}")
    wanted = {"description": name}
    before, after = differing(wanted, current or {})

    def create() -> None:
        parent = keycloak.get(f"/group-by-path/{PARENT}")
        if parent is None:
            raise KeycloakError(f"the realm {keycloak.realm} has no group /{PARENT}; apply the realm first (site.yml)")
        keycloak.create(f"/groups/{parent['id']}/children", {"name": clinic_id, **wanted})

    if current is None:
        plan.add(f"group /{PARENT}/{clinic_id}", None, wanted, create)
    elif after:
        plan.add(
            f"group /{PARENT}/{clinic_id}",
            before,
            after,
            lambda: keycloak.put(f"/groups/{current['id']}", merged(current, after)),
        )


def refuse_removed(removed: dict[str, Removed], clinic_ids: list[str], readmit: str) -> None:
    """Raise RegistryError for a clinic that was removed and does not come back without being asked for."""
    for clinic_id in clinic_ids:
        if clinic_id not in removed or readmit == "with_studies":
            continue
        was, studies = f"the clinic '{clinic_id}' was removed on {removed[clinic_id].at}", removed[clinic_id].studies
        if readmit == "nobody":
            raise RegistryError(
                f"{was}. Delete the entry `id: {clinic_id}` from imaging_clinics, or bring it back with "
                f"`make add-clinic CLINIC_ID={clinic_id} CLINIC_NAME=…`. Nothing was changed here."
            )
        if studies:
            raise RegistryError(
                f"{was} and {studies} of its studies were kept, which every member would see. If it is the same, "
                "say TAKE_OVER=1 (-e take_over=1). If it is another, give it another id, or first delete the studies: "
                f"make remove-clinic CLINIC_ID={clinic_id} STUDIES=delete. Nothing was changed."
            )


def plan_row(
    registry: Registry, plan: Plan, rows: dict[str, str], removed: dict[str, Removed], clinic_id: str, name: str
) -> None:
    """The clinic's row in the registry."""
    if clinic_id in removed:
        before = {"name": removed[clinic_id].name, "removed": removed[clinic_id].at}
        plan.add(f"registry row {clinic_id}", before, {"name": name}, lambda: registry.readmit(clinic_id, name))
    elif rows.get(clinic_id) != name:
        known = {"name": rows[clinic_id]} if clinic_id in rows else None
        plan.add(f"registry row {clinic_id}", known, {"name": name}, lambda: registry.upsert(clinic_id, name))


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **CONNECTION,
            "clinics": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {"id": {"type": "str", "required": True}, "name": {"type": "str", "required": True}},
            },
            "readmit": {"type": "str", "choices": ["nobody", "empty", "with_studies"], "default": "nobody"},
            **REGISTRY,
            "registry_password": {"type": "str", "required": True, "no_log": True},
        },
        supports_check_mode=True,
    )
    for clinic in module.params["clinics"]:
        # A slash or an upper case letter in a group name could forge another clinic's path.
        if not re.fullmatch(CLINIC_ID, clinic["id"]):
            module.fail_json(
                msg=f"The clinic id '{clinic['id']}' is not usable: it takes 2 to 63 lower case letters, digits and "
                "hyphens and starts with a letter or digit, as in denscan-almaty."
            )
        if not clinic["name"].strip():
            module.fail_json(msg=f"The clinic '{clinic['id']}' needs a name that people can read.")

    keycloak = Keycloak.of(module)
    registry = Registry(module.params)
    plan = Plan()
    try:
        # The registry comes first. A member of a clinic that it does not know would see an empty list without a reason.
        groups = Plan()
        for clinic in module.params["clinics"]:
            plan_group(keycloak, groups, clinic["id"], clinic["name"])
        rows = {} if keycloak.absent else registry.names()
        removed = {} if keycloak.absent else registry.removed()
        refuse_removed(removed, [clinic["id"] for clinic in module.params["clinics"]], module.params["readmit"])
        for clinic in module.params["clinics"]:
            plan_row(registry, plan, rows, removed, clinic["id"], clinic["name"])
        plan.changes += groups.changes
        carry_out(module, keycloak, plan, clinics=[clinic["id"] for clinic in module.params["clinics"]])
    except (KeycloakError, RegistryError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
