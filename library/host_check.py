#!/usr/bin/python
"""Ansible module: refuse a host that cannot carry the platform. It looks and changes nothing."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_check
short_description: Refuse a host that cannot carry the platform
description:
  - Looks at the operating system, systemd, the architecture, the memory and the free disk space, and changes nothing.
  - Fails with everything that is wrong at once.
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
attributes:
  check_mode: {support: full}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: Refuse a host that cannot carry the platform
  host_check:
    minimum_memory_mb: 3500
    minimum_disk_gb: 10
    paths: [/data/inbox, /data/dicom]
"""

RETURN = r"""
msg: {description: Everything that is wrong with the host., type: str, returned: failure}
"""

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule  # type: ignore[import-untyped]

SYSTEM = ("debian", "13")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Host:
    """What a host is; memory in MB (2^20 bytes), free disk space in GB (10^9 bytes) for each path."""

    system: str
    release: str
    pretty_name: str
    has_systemd: bool
    machine: str
    memory_mb: int
    free_gb: dict[str, float]


def find_problems(host: Host, minimum_memory_mb: int, minimum_disk_gb: int) -> list[str]:
    """Everything that is wrong with the host, in words."""
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
    )


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "minimum_memory_mb": {"type": "int", "required": True},
            "minimum_disk_gb": {"type": "int", "required": True},
            "paths": {"type": "list", "elements": "path", "required": True},
        },
        supports_check_mode=True,
    )
    parameters = module.params
    problems = find_problems(look(parameters["paths"]), parameters["minimum_memory_mb"], parameters["minimum_disk_gb"])
    if problems:
        module.fail_json(msg="The host cannot carry the platform: " + "; ".join(problems))
    module.exit_json(changed=False)


if __name__ == "__main__":
    main()
