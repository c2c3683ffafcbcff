"""Ansible lookup: the hosts of a job. Each play names its hosts by it, so each play refuses hosts that cannot work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ansible.errors import AnsibleLookupError  # type: ignore[import-untyped]
from ansible.plugins.lookup import LookupBase  # type: ignore[import-untyped]

DOCUMENTATION = r"""
name: hosts_of
short_description: The hosts of a job
description:
  - Returns the hosts of the inventory's group of that name. A group that the inventory leaves out, or leaves empty, has
    the hosts of C(imaging).
  - Refuses an inventory whose hosts cannot work, before a play with this lookup touches any of them.
options:
  _terms:
    description: One of the jobs, or C(imaging) for every host of the platform.
    required: true
"""

EVERY_HOST = "imaging"
JOBS = ("postgres", "orthanc", "keycloak", "gateway", "importer", "nginx", "monitoring")

Groups = Mapping[str, list[str]]


def find_hosts(name: str, groups: Groups) -> list[str]:
    """The hosts of a job, or of the whole platform."""
    if name not in (EVERY_HOST, *JOBS):
        raise AnsibleLookupError(f"{name} is no job: it is one of {', '.join(JOBS)}, or {EVERY_HOST} for every host")
    return groups.get(name) or groups.get(EVERY_HOST) or []


def find_problems(groups: Groups) -> Iterator[str]:
    """The errors in the groups of an inventory, each in one sentence."""
    every = groups.get(EVERY_HOST) or []
    if not every:
        yield f"There is no host in the group `{EVERY_HOST}`. Name it there, as inventories/production/hosts.yml does."
        return
    for name in (EVERY_HOST, *JOBS):
        hosts = groups.get(name) or []
        for stranger in (host for host in hosts if host not in every):
            yield f"The group `{name}` names {stranger}, which is not in the group `{EVERY_HOST}`."
        if len(hosts) > 1:
            yield f"The group `{name}` has {len(hosts)} hosts: {', '.join(hosts)}."
    apart = {job: hosts[0] for job in JOBS if len(hosts := find_hosts(job, groups)) == 1 and hosts[0] in every}
    if len(set(apart.values())) > 1:
        yield f"The jobs are on different hosts: {', '.join(f'{job} on {host}' for job, host in apart.items())}."


def refusal(problems: list[str], sources: list[str]) -> str:
    """The message for the administrator."""
    return "\n".join(
        [
            f"The hosts of the inventory ({', '.join(sources)}) cannot carry the platform; no host was touched.",
            *(f"- {problem}" for problem in problems),
            "A platform has one host, because each service reaches the others on loopback.",
            f"Name one host in `{EVERY_HOST}`. Leave out the groups of the jobs, or name the same host in each.",
        ]
    )


class LookupModule(LookupBase):  # type: ignore[misc]
    """`hosts_of`."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **_: object) -> list[str]:
        assert variables is not None  # noqa: S101 - the base class says None, the executor never does
        groups: Groups = variables["groups"]
        if problems := list(find_problems(groups)):
            raise AnsibleLookupError(refusal(problems, variables["ansible_inventory_sources"]))
        return [host for term in terms for host in find_hosts(term, groups)]
