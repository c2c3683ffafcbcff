#!/usr/bin/python
"""Ansible module: a clinic leaves the platform."""

from __future__ import annotations

DOCUMENTATION = r"""
module: clinic_removal
short_description: Remove a clinic, and decide what becomes of its studies
description:
  - Refuses while deliveries of the clinic wait or are being imported. Also refuses if the clinic owns studies and
    nobody said what to do with them. Nothing is changed then.
  - Then it takes these steps. Their order makes sure that a run which stops leaves less access than before.
    The registry no longer lists the clinic. The clinic's software loses its clients.
    Users who belong to no other clinic are disabled and logged out. The clinic's group is removed.
    Its studies are deleted if that was asked. Its empty inbox is removed. Another run goes on where this one stopped.
  - Studies that are kept still belong to the removed clinic. Its group has no members, so only administrators see them.
  - The importer deletes studies one after the other, as it does for an administrator. Each deletion is on record.
  - Deliveries that were imported or failed, the access log and backups are not touched.
requirements: [python3-psycopg (version 3) on the host]
options:
  keycloak_url: {type: str, required: true, description: "Keycloak's address with its path, as in http://ADDRESS:PORT/auth."}
  keycloak_client_id: {type: str, required: true, description: Service account in the realm master.}
  keycloak_client_secret: {type: str, required: true, description: Its secret.}
  realm: {type: str, default: imaging, description: Name of the realm.}
  registry_host: {type: str, required: true, description: Host of the registry's PostgreSQL.}
  registry_port: {type: int, required: true, description: Its port.}
  registry_name: {type: str, required: true, description: Name of the database.}
  registry_user: {type: str, required: true, description: Role that may execute registry.remove_clinic.}
  registry_password: {type: str, required: true, description: Its password.}
  clinic_id: {type: str, required: true, description: Id of the clinic.}
  studies:
    type: str
    choices: [refuse, keep, delete]
    default: refuse
    description: The treatment of its studies. C(refuse) removes only a clinic that owns none.
  inbox_path: {type: path, required: true, description: The inbox of all clinics.}
  importer_url: {type: str, required: true, description: Address of the importer.}
  importer_secret: {type: str, required: true, description: Secret that the importer wants for its status.}
  orthanc_url: {type: str, required: true, description: Address of Orthanc.}
  orthanc_user: {type: str, default: gateway, description: Orthanc's user in whose name studies are deleted.}
  orthanc_password: {type: str, required: true, description: Its password.}
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
author: [The imaging platform's authors]
"""

EXAMPLES = r"""
- name: Remove a clinic whose studies nobody needs any more
  clinic_removal:
    keycloak_url: "{{ identity_keycloak_url }}"
    keycloak_client_id: imaging-ansible
    keycloak_client_secret: "{{ identity_keycloak_client_secret }}"
    registry_host: "{{ identity_registry_host }}"
    registry_port: "{{ identity_registry_port }}"
    registry_name: registry
    registry_user: registry_operator
    registry_password: "{{ identity_registry_password }}"
    clinic_id: denscan-almaty
    studies: delete
    inbox_path: /data/inbox
    importer_secret: "{{ importer_secret }}"
    orthanc_password: "{{ orthanc_password }}"
"""

RETURN = r"""
changes:
  description: The changes.
  returned: success
  type: list
  elements: str
studies:
  description: How many studies it owned before.
  returned: success
  type: int
disabled:
  description: Usernames of the users who belonged only to it and are disabled now.
  returned: success
  type: list
  elements: str
left:
  description: Usernames of the users who are in other clinics too.
  returned: success
  type: list
  elements: str
clients:
  description: Ids of its software's clients.
  returned: success
  type: list
  elements: str
"""

import base64
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from ansible.module_utils.basic import AnsibleModule  # type: ignore[import-untyped]
from ansible.module_utils.imaging.keycloak import (  # type: ignore[import-untyped]
    CONNECTION,
    Json,
    Keycloak,
    KeycloakError,
    Plan,
    carry_out,
    merged,
)
from ansible.module_utils.imaging.registry import (  # type: ignore[import-untyped]
    REGISTRY,
    Registry,
    RegistryError,
)

# The importer reads its clinics and looks over the inbox every ten seconds.
IMPORTER_LEARNS_SECONDS = 60
# Deleting waits for Orthanc's disk, and for the importer's work on studies at that time.
TIMEOUT_SECONDS = 600
ATTEMPTS = 5
# A clinic's software (module clinic_client) has this attribute at its client, and this prefix in its account's name.
CLINIC = "imaging.clinic"
SOFTWARE = "service-account-"


class RemovalError(Exception):
    """The reason why the clinic is not removed, or not wholly: in words for the administrator."""


class Services:
    """Importer and Orthanc, as root on the host reaches them. Raises RemovalError when they do not answer."""

    def __init__(self, parameters: dict[str, Any]) -> None:
        self._importer: str = parameters["importer_url"]
        self._orthanc: str = parameters["orthanc_url"]
        self._door = f"Bearer {parameters['importer_secret']}"
        password = f"{parameters['orthanc_user']}:{parameters['orthanc_password']}".encode()
        self._password = f"Basic {base64.b64encode(password).decode()}"

    def deliveries(self, clinic_id: str) -> int:
        """How many deliveries of the clinic the importer has taken and not ended."""
        status = self._json(self._importer, "/status.json", {"Authorization": self._door, "X-Clinics": clinic_id})
        return int(status["importing_total"]) + len(status["arriving"])

    def has_let_go(self, clinic_id: str) -> bool:
        """Whether the importer has learnt that the inbox's folder of this name is no clinic's."""
        status = self._json(self._importer, "/status.json", {"Authorization": self._door, "X-Clinics": "*"})
        return clinic_id in status["unknown_clinics"]

    def delete(self, study_uid: str) -> None:
        """Delete the study in Orthanc by the importer, under each PatientID."""
        for attempt in range(ATTEMPTS):
            found = self._json(self._orthanc, "/tools/lookup", {"Authorization": self._password}, study_uid.encode())
            studies = [one["ID"] for one in found if one["Type"] == "Study"]
            if not studies:
                return
            for study in studies:
                self._delete(f"/studies/{study}")
            if attempt:
                time.sleep(attempt)
        raise RemovalError(f"study {study_uid} is still in Orthanc (see journalctl -u imaging-importer). Run it again")

    def _delete(self, path: str) -> None:
        request = Request(self._importer + path, method="DELETE", headers={"Authorization": self._password})  # noqa: S310
        try:
            urlopen(request, timeout=TIMEOUT_SECONDS).close()  # noqa: S310 - http, loopback
        except HTTPError as error:
            # 404: somebody else deleted it. 503: the registry learns of it later, or nothing was deleted. Both: look
            # again.
            if error.code not in (404, 503):
                raise RemovalError(f"the importer refuses to delete a study (HTTP {error.code})") from None
        except OSError as error:
            raise RemovalError(f"the importer at {self._importer} does not answer ({error})") from None

    def _json(self, url: str, path: str, headers: dict[str, str], body: bytes | None = None) -> Json:
        name = "importer" if url == self._importer else "Orthanc"
        try:
            with urlopen(Request(url + path, body, headers), timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
                return json.load(answer)
        except OSError as error:
            raise RemovalError(f"{name} at {url} does not answer ({error}); `imaging-status` says more") from None


@dataclass(frozen=True)
class People:
    """The users and software of a clinic, as Keycloak's representations."""

    group: Json
    alone: list[Json]  # users of this clinic and no other
    others: list[Json]  # users of other clinics too
    clients: list[Json]

    @classmethod
    def of(cls, keycloak: Keycloak, clinic_id: str) -> People:
        """Ask Keycloak."""
        group = keycloak.get(f"/group-by-path/clinics/{clinic_id}")
        alone: list[Json] = []
        others: list[Json] = []
        members = f"/groups/{group['id']}/members" if group else None
        for user in keycloak.get(members, max="-1", briefRepresentation="false") if members else []:
            if not user["username"].startswith(SOFTWARE):
                groups = keycloak.get(f"/users/{user['id']}/groups", max="1000")
                clinics = [one for one in groups if one["path"].startswith("/clinics/")]
                (others if len(clinics) > 1 else alone).append(user)
        clients = [one for one in keycloak.get("/clients") or [] if one.get("attributes", {}).get(CLINIC) == clinic_id]
        return cls(group, alone, others, clients)


def plan_people(keycloak: Keycloak, plan: Plan, people: People, clinic_id: str) -> None:
    """Shut out its software first, then its people, then remove the group that gave them access."""
    for client in people.clients:
        plan.add(
            *(f"client {client['clientId']}", {"clinic": clinic_id}, None),
            lambda client=client: keycloak.delete(f"/clients/{client['id']}"),
        )

    def shut_out(user: Json) -> None:
        # A PUT drops every profile field and attribute that it does not list, so it carries all that exist.
        keycloak.put(f"/users/{user['id']}", merged(user, {"enabled": False}))
        keycloak.create(f"/users/{user['id']}/logout", {})

    for user in people.alone:
        if user["enabled"]:
            plan.add(
                *(f"user {user['username']}", {"enabled": True}, {"enabled": False}), lambda user=user: shut_out(user)
            )
    if people.group:
        members = sorted(user["username"] for user in people.alone + people.others)
        plan.add(
            *(f"group /clinics/{clinic_id}", {"members": members}, None),
            lambda: keycloak.delete(f"/groups/{people.group['id']}"),
        )


def wait_until_the_importer_has_let_go(services: Services, inbox: Path) -> None:
    """After this, nothing new is taken for the clinic."""
    end = time.monotonic() + IMPORTER_LEARNS_SECONDS
    while inbox.exists() and not services.has_let_go(inbox.name):
        if time.monotonic() > end:
            raise RemovalError(f"the importer still watches {inbox} (see journalctl -u imaging-importer). Run it again")
        time.sleep(1)
    if services.deliveries(inbox.name):
        raise RemovalError("a delivery came at the last moment. Run it again when `imaging-importer status` has none")


def entries(inbox: Path) -> Iterator[Path]:
    """The content of the clinic's inbox."""
    return inbox.iterdir() if inbox.is_dir() else iter(())


def refuse(registry: Registry, services: Services, asked: dict[str, Any], inbox: Path, studies: list[str]) -> None:
    """Raise RemovalError when the clinic cannot be removed now."""
    clinic_id, known = asked["clinic_id"], registry.names()
    if clinic_id not in known and clinic_id not in registry.removed():
        raise RemovalError(f"there is no clinic '{clinic_id}'; `make list-clinics` shows those that there are")
    waiting, taken = sum(1 for _ in entries(inbox)), services.deliveries(clinic_id)
    if waiting or taken:
        raise RemovalError(
            f"{waiting} deliveries wait in {inbox} and {taken} are being imported. Let them end, or take them out of "
            "the inbox; `imaging-importer status` on the host names them. Nothing was changed"
        )
    if studies and clinic_id in known and asked["studies"] == "refuse":
        raise RemovalError(
            f"the clinic '{clinic_id}' owns {len(studies)} studies, so nothing was changed. Say what becomes of them: "
            "STUDIES=keep (-e studies=keep) leaves them to administrators alone, STUDIES=delete (-e studies=delete) "
            "deletes them for good"
        )


def plan_removal(
    keycloak: Keycloak, registry: Registry, services: Services, asked: dict[str, Any], studies: list[str]
) -> tuple[Plan, People]:
    """All steps, in order."""
    plan, clinic_id = Plan(), asked["clinic_id"]
    inbox = Path(asked["inbox_path"]) / clinic_id
    name = registry.names().get(clinic_id)
    if name is not None:
        plan.add(f"clinic {clinic_id}", {"name": name}, None, lambda: registry.remove(clinic_id))
    people = People.of(keycloak, clinic_id)
    plan_people(keycloak, plan, people, clinic_id)

    def erase() -> None:
        # Asked again, because a study may have come while the importer did not know yet.
        for study_uid in registry.studies(clinic_id):
            registry.log_erasure(study_uid)
            services.delete(study_uid)
            registry.forget_erased(study_uid)

    if inbox.is_dir():
        plan.add(
            *(f"importer: {clinic_id}", {"watched": True}, {"watched": False}),
            lambda: wait_until_the_importer_has_let_go(services, inbox),
        )
    if studies and asked["studies"] == "delete":
        plan.add(f"studies of {clinic_id}", {"studies": len(studies)}, {"studies": 0}, erase)
    if inbox.is_dir():
        plan.add(str(inbox), {"state": "directory"}, None, inbox.rmdir)
    return plan, people


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **CONNECTION,
            **REGISTRY,
            "registry_password": {"type": "str", "required": True, "no_log": True},
            "clinic_id": {"type": "str", "required": True},
            "studies": {"type": "str", "choices": ["refuse", "keep", "delete"], "default": "refuse"},
            "inbox_path": {"type": "path", "required": True},
            "importer_url": {"type": "str", "required": True},
            "importer_secret": {"type": "str", "required": True, "no_log": True},
            "orthanc_url": {"type": "str", "required": True},
            "orthanc_user": {"type": "str", "default": "gateway"},
            "orthanc_password": {"type": "str", "required": True, "no_log": True},
        },
        supports_check_mode=True,
    )
    asked = module.params
    keycloak, registry, services = Keycloak.of(module), Registry(asked), Services(asked)
    try:
        studies = registry.studies(asked["clinic_id"])
        refuse(registry, services, asked, Path(asked["inbox_path"]) / asked["clinic_id"], studies)
        plan, people = plan_removal(keycloak, registry, services, asked, studies)
        carry_out(
            *(module, keycloak, plan),
            changes=[change.what for change in plan.changes],
            studies=len(studies),
            disabled=sorted(user["username"] for user in people.alone),
            left=sorted(user["username"] for user in people.others),
            clients=sorted(client["clientId"] for client in people.clients),
        )
    except (KeycloakError, RegistryError, RemovalError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"the clinic is removed, but its inbox is not: {error}. Look what is there, run it again")


if __name__ == "__main__":
    main()
