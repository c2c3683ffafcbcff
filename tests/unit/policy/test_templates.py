"""House rules for what is written onto hosts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .conftest import PROJECT, ROLES

TEMPLATES = [path for role in ROLES for path in role.templates]
UNITS = [path for path in TEMPLATES if re.search(r"\.service(\.conf)?\.j2$", path.name)]

# Settings that every unit of ours has, with these very values.
CONFINED = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "ProtectProc": "invisible",
    "ProtectClock": "yes",
    "ProtectControlGroups": "yes",
    "ProtectHostname": "yes",
    "ProtectKernelLogs": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelTunables": "yes",
    "LockPersonality": "yes",
    "RestrictNamespaces": "yes",
    "RestrictRealtime": "yes",
    "RestrictSUIDSGID": "yes",
    "SystemCallArchitectures": "native",
}
# Settings that every unit of ours has, with a value of its own.
DECIDED = {"CapabilityBoundingSet", "MemoryMax", "Restart", "RestrictAddressFamilies", "SystemCallFilter", "UMask"}

STARTED_BY_DEBIAN = {"certbot.service.conf.j2"}  # by the package's own timer

each_template = pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: str(path.relative_to(PROJECT / "roles")))
each_unit = pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)


def settings(path: Path) -> list[tuple[str, str]]:
    return re.findall(r"^(\w+)=(.*)$", path.read_text(), re.MULTILINE)


def test_there_are_units() -> None:
    assert len(UNITS) >= 6


@each_template
def test_a_template_starts_by_saying_who_manages_it(path: Path) -> None:
    role = path.relative_to(PROJECT / "roles").parts[0]
    first_lines = path.read_text().splitlines()[:2]  # a script's first is its interpreter
    assert any(f"Managed by Ansible, role {role}: changes here are overwritten." in line for line in first_lines)


@each_unit
def test_a_unit_starts_and_stops_with_imaging_target(path: Path) -> None:
    assert ("PartOf", "imaging.target") in settings(path)
    if path.name in STARTED_BY_DEBIAN:
        return
    timer = path.with_name(path.name.replace(".service.j2", ".timer.j2"))
    starter = timer if timer.is_file() else path
    assert ("PartOf", "imaging.target") in settings(starter)
    assert ("WantedBy", "imaging.target") in settings(starter)


@each_unit
def test_a_unit_is_confined(path: Path) -> None:
    found = settings(path)
    assert [f"{name}={value}" for name, value in CONFINED.items() if (name, value) not in found] == []
    assert DECIDED - {name for name, _ in found} == set()


@each_unit
def test_only_nginx_and_who_asks_authority_or_mirror_talk_beyond_this_host(path: Path) -> None:
    if path.name not in {"nginx.service.conf.j2", "certbot.service.conf.j2", "imaging-updates.service.j2"}:
        assert ("IPAddressDeny", "any") in settings(path)


@each_unit
def test_no_unit_is_given_a_secret_in_its_environment_or_arguments(path: Path) -> None:
    for name, value in settings(path):
        if name.startswith(("Environment", "Exec")):
            assert not re.search(r"password|secret", value.replace("%d", ""), re.IGNORECASE), f"{name}={value}"
