#!/usr/bin/python
"""Ansible module: refuse a host that cannot carry the platform. It looks and changes nothing."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_check
short_description: Refuse a host that cannot carry the platform
description:
  - Looks at the operating system, systemd, the architecture, the memory and the free disk space, and changes nothing.
  - Looks whether a newer Keycloak or Orthanc than the one to be deployed is installed, or has migrated its database.
    Neither can go back to an older version. A database that does not run is not asked.
  - Fails once, with a list of everything that is wrong.
options:
  minimum_memory_mb:
    description: Memory in MB (2^20 bytes) that the host must have.
    type: int
    required: true
  minimum_disk_gb:
    description: Disk space in GB (10^9 bytes) that must be free below each of the paths.
    type: int
    required: true
  paths:
    description: Directories that will hold data; the nearest existing parent is looked at.
    type: list
    elements: path
    required: true
  keycloak_version:
    description: Version of Keycloak that is to be deployed.
    type: str
    required: true
  orthanc_below:
    description: Version of Orthanc from which on an installed one is too new; empty, when any may stay.
    type: str
    default: ""
  orthanc_index_revision:
    description: Newest revision of Orthanc's index that the plugin to be deployed knows; 0, when that is not known.
    type: int
    default: 0
  clinics:
    description: Ids of the clinics that the inventory names.
    type: list
    elements: str
    default: []
attributes:
  check_mode: {support: full}
  diff_mode: {support: none}
author: [The imaging platform's authors]
"""

EXAMPLES = r"""
- name: Refuse a host that cannot carry the platform
  host_check:
    minimum_memory_mb: 3500
    minimum_disk_gb: 10
    paths: [/data/inbox, /data/dicom]
    keycloak_version: 26.7.3
    orthanc_index_revision: 1
    clinics: [denscan-almaty]
"""

RETURN = r"""
msg: {description: Everything that is wrong with the host., type: str, returned: failure}
"""

import os
import platform
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule  # type: ignore[import-untyped]

SYSTEM = ("debian", "13")
KEYCLOAK_HOME = Path("/opt/imaging/keycloak")
# The version that Keycloak records of each migration; Orthanc's property 4, the revision of its index.
KEYCLOAK_MIGRATIONS = "SELECT version FROM migration_model"
ORTHANC_REVISION = "SELECT value FROM globalproperties WHERE property = 4"
REMOVED_CLINICS = "SELECT clinic_id FROM registry.clinic WHERE removed_at IS NOT NULL"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Host:
    """The facts of a host: memory in MB (2^20 bytes), free disk space in GB (10^9 bytes) for each path."""

    system: str
    release: str
    pretty_name: str
    has_systemd: bool
    machine: str
    memory_mb: int
    free_gb: dict[str, float]
    keycloak: str = ""  # the newest version that is installed or has migrated its database
    orthanc: str = ""
    orthanc_index_revision: int = 0


@dataclass(frozen=True)
class Release:
    """The release that is to be deployed."""

    keycloak: str
    orthanc_below: str
    orthanc_index_revision: int


def find_downgrades(host: Host, release: Release) -> list[str]:
    """The programs that are newer on the host than in this release, in words."""
    problems = []
    way_out = "Deploy a release of the platform that has it, or restore a backup of before onto an empty host"
    if numbers(host.keycloak) > numbers(release.keycloak):
        problems.append(
            f"it has Keycloak {host.keycloak}, whose database does not go back to {release.keycloak}. {way_out}"
        )
    if release.orthanc_below and numbers(host.orthanc) >= numbers(release.orthanc_below):
        problems.append(
            f"it has Orthanc {host.orthanc}, and orthanc_release asks for an older one, to which it does not go back. "
            "Leave orthanc_release as it was, or restore a backup onto an empty host"
        )
    if release.orthanc_index_revision and host.orthanc_index_revision > release.orthanc_index_revision:
        problems.append(
            f"the index of its Orthanc has the revision {host.orthanc_index_revision}, made by a newer plugin; the one "
            f"to be deployed knows {release.orthanc_index_revision}. Leave orthanc_postgresql_plugin as it was, or "
            "restore a backup of before"
        )
    return problems


def find_removed(clinics: list[str], removed: list[str]) -> list[str]:
    """The clinics of the inventory that were removed from the host, in words."""
    return [
        f"imaging_clinics names {clinic}, which was removed with remove-clinic. Delete the entry `id: {clinic}` from "
        f"imaging_clinics, or bring the clinic back with `make add-clinic CLINIC_ID={clinic} CLINIC_NAME=…`"
        for clinic in clinics
        if clinic in removed
    ]


def numbers(version: str) -> tuple[int, ...]:
    """A value that compares as versions do: `1.13.0+dfsg-1` is 1.13.0."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found.group().split(".")) if found else ()


def find_problems(host: Host, minimum_memory_mb: int, minimum_disk_gb: int) -> list[str]:
    """All problems of the host, in words."""
    problems = []
    if (host.system, host.release) != SYSTEM:
        problems.append(f"it runs {host.pretty_name}; the platform needs Debian 13 (trixie)")
    if not host.has_systemd:
        problems.append("it was not booted with systemd, which starts and confines every service of the platform")
    if host.machine not in ARCHITECTURES:
        problems.append(f"its architecture is {host.machine}; the platform needs {' or '.join(ARCHITECTURES.values())}")
    if host.memory_mb < minimum_memory_mb:
        problems.append(f"it has {host.memory_mb} MB of memory; imaging_minimum_memory_mb is {minimum_memory_mb}")
    for path, free_gb in host.free_gb.items():
        if free_gb < minimum_disk_gb:
            problems.append(f"{free_gb:.1f} GB are free below {path}; imaging_minimum_disk_gb is {minimum_disk_gb}")
    return problems


def free_gb(path: str) -> float:
    """Free space in GB (10^9 bytes) where `path` lies or will lie."""
    existing = next(parent for parent in (Path(path), *Path(path).parents) if parent.exists())
    status = os.statvfs(existing)
    return status.f_bavail * status.f_frsize / 1e9


def output(*command: str) -> str:
    """The output of a command; nothing when it is not there, fails or hangs."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout  # noqa: S603 # constants
    except (OSError, subprocess.TimeoutExpired):
        return ""


def query(database: str, statement: str) -> list[str]:
    """The rows of a query; none when there is no such database."""
    psql = ("psql", "--no-psqlrc", "--no-align", "--tuples-only", f"--dbname={database}", f"--command={statement}")
    return output("runuser", "--user=postgres", "--", *psql).split()


def look(paths: list[str]) -> Host:
    """Look at the host that this runs on."""
    release = platform.freedesktop_os_release()
    memory = re.search(r"^MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return Host(
        system=release.get("ID", ""),
        release=release.get("VERSION_ID", ""),
        pretty_name=release.get("PRETTY_NAME", "an unknown system"),
        has_systemd=Path("/run/systemd/system").is_dir(),
        machine=platform.machine(),
        memory_mb=int(memory.group(1)) // 1024 if memory else 0,
        free_gb={path: free_gb(path) for path in paths},
        keycloak=max(
            [KEYCLOAK_HOME.resolve().name.removeprefix("keycloak-"), *query("keycloak", KEYCLOAK_MIGRATIONS)],
            key=numbers,
        ),
        orthanc=output("dpkg-query", "--show", "--showformat=${Version}", "orthanc"),
        orthanc_index_revision=max(map(int, query("orthanc", ORTHANC_REVISION)), default=0),
    )


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "minimum_memory_mb": {"type": "int", "required": True},
            "minimum_disk_gb": {"type": "int", "required": True},
            "paths": {"type": "list", "elements": "path", "required": True},
            "keycloak_version": {"type": "str", "required": True},
            "orthanc_below": {"type": "str", "default": ""},
            "orthanc_index_revision": {"type": "int", "default": 0},
            "clinics": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    parameters = module.params
    host = look(parameters["paths"])
    release = Release(parameters["keycloak_version"], parameters["orthanc_below"], parameters["orthanc_index_revision"])
    problems = find_problems(host, parameters["minimum_memory_mb"], parameters["minimum_disk_gb"])
    problems += find_downgrades(host, release)
    problems += find_removed(parameters["clinics"], query("registry", REMOVED_CLINICS))
    if problems:
        module.fail_json(msg="The host cannot carry the platform: " + "; ".join(problems))
    module.exit_json(changed=False)


if __name__ == "__main__":
    main()
