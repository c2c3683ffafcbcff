"""The requirements of a host, and the messages to its administrator when it does not meet them."""

from __future__ import annotations

import dataclasses
import os
from types import ModuleType
from typing import Any

import pytest


def good_host(host_check: ModuleType) -> Any:
    return host_check.Host(
        system="debian",
        release="13",
        pretty_name="Debian GNU/Linux 13 (trixie)",
        has_systemd=True,
        machine="x86_64",
        memory_mb=4000,
        free_gb={"/data/inbox": 50.0},
    )


def problems_of(host_check: ModuleType, **changed: Any) -> list[str]:
    host = dataclasses.replace(good_host(host_check), **changed)
    found: list[str] = host_check.find_problems(host, minimum_memory_mb=3500, minimum_disk_gb=10)
    return found


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_debian_13_with_enough_of_everything_is_good(host_check: ModuleType, machine: str) -> None:
    assert problems_of(host_check, machine=machine) == []


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"release": "12", "pretty_name": "Debian GNU/Linux 12 (bookworm)"}, "Debian GNU/Linux 12 (bookworm)"),
        ({"system": "ubuntu", "release": "13", "pretty_name": "Ubuntu"}, "needs Debian 13"),
        ({"has_systemd": False}, "not booted with systemd"),
        ({"machine": "armv7l"}, "amd64 or arm64"),
        ({"memory_mb": 3499}, "3499 MB of memory; imaging_minimum_memory_mb is 3500"),
        (
            {"free_gb": {"/data/inbox": 50.0, "/data/dicom": 9.94}},
            "9.9 GB are free below /data/dicom; imaging_minimum_disk_gb is 10",
        ),
    ],
)
def test_what_is_wrong_is_told_in_words(host_check: ModuleType, changed: dict[str, Any], told: str) -> None:
    (problem,) = problems_of(host_check, **changed)
    assert told in problem


def test_everything_is_told_at_once(host_check: ModuleType) -> None:
    poor = {"release": "12", "has_systemd": False, "machine": "i686", "memory_mb": 1, "free_gb": {"/": 1.0}}
    assert len(problems_of(host_check, **poor)) == 5


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"keycloak": "26.7.4"}, "Keycloak 26.7.4, whose database does not go back to 26.7.3"),
        ({"keycloak": "27.0.0"}, "does not go back to 26.7.3"),
        ({"keycloak": "26.10.0"}, "does not go back to 26.7.3"),
        ({"orthanc": "1.13.0+dfsg-1+b1"}, "Orthanc 1.13.0+dfsg-1+b1, and orthanc_release asks for an older one"),
        ({"orthanc_index_revision": 4}, "has the revision 4, made by a newer plugin; the one to be deployed knows 1"),
    ],
)
def test_what_does_not_go_back_is_refused(host_check: ModuleType, changed: dict[str, Any], told: str) -> None:
    host = dataclasses.replace(good_host(host_check), **changed)
    (problem,) = host_check.find_downgrades(host, host_check.Release("26.7.3", "1.13", 1))
    assert told in problem


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"keycloak": "26.7.3", "orthanc": "1.12.7+dfsg-4", "orthanc_index_revision": 1},
        {"keycloak": "26.6.9"},
        {"keycloak": "9.0.3"},
    ],
)
def test_the_same_and_older_ones_are_updated(host_check: ModuleType, changed: dict[str, Any]) -> None:
    host = dataclasses.replace(good_host(host_check), **changed)
    assert host_check.find_downgrades(host, host_check.Release("26.7.3", "1.13", 1)) == []


def test_a_plugin_of_the_operator_s_choice_may_know_any_index(host_check: ModuleType) -> None:
    host = dataclasses.replace(good_host(host_check), orthanc="1.13.0", orthanc_index_revision=7)
    assert host_check.find_downgrades(host, host_check.Release("26.7.3", "", 0)) == []


def test_a_path_that_does_not_exist_yet_is_measured_at_its_nearest_parent(host_check: ModuleType) -> None:
    status = os.statvfs("/")
    free = status.f_bavail * status.f_frsize / 1e9
    assert host_check.free_gb("/nowhere/deep/below") == pytest.approx(free, rel=0.1)


def test_the_look_at_this_machine_sees_its_memory(host_check: ModuleType) -> None:
    total_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    assert host_check.look(["/"]).memory_mb == pytest.approx(total_mb, rel=0.01)


def test_a_clinic_that_was_removed_does_not_come_back_by_an_old_inventory(host_check: ModuleType) -> None:
    (problem,) = host_check.find_removed(["north", "south"], ["south", "west"])
    assert "imaging_clinics names south" in problem
    assert "Delete the entry `id: south`" in problem
    assert host_check.find_removed(["north"], []) == []
