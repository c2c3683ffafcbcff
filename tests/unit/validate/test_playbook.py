"""The real playbook on real inventories: errors are reported, and no host is touched before everything is right."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from project import ROOT


class Inventory:
    """An inventory like a hospital's, for a host whose ssh only writes down that it was called."""

    def __init__(self, place: Path) -> None:
        self.directory = place / "inventory"
        self.home = place / "home"
        self.contacts = place / "contacts"
        self.ssh = place / "ssh"
        self.ssh.write_text(f'#!/bin/sh\necho "$@" >> {self.contacts}\nexit 255\n')
        self.ssh.chmod(0o755)
        group = self.directory / "group_vars" / "all"
        group.mkdir(parents=True)
        # This inventory has all the links that an inventory of the project has.
        for link in (ROOT / "inventories" / "production" / "group_vars" / "all").iterdir():
            if link.is_symlink():
                (group / link.name).symlink_to(link.resolve())
        self.set_hosts(imaging=["hospital"])

    def write(self, name: str, content: Any) -> None:
        (self.directory / name).write_text(yaml.safe_dump(content))

    def set(self, **variables: Any) -> None:
        self.write("group_vars/all/main.yml", variables)

    def set_hosts(self, **groups: list[str]) -> None:
        host = {"ansible_host": "192.0.2.1", "ansible_ssh_executable": str(self.ssh)}
        self.write("hosts.yml", {group: {"hosts": dict.fromkeys(hosts, host)} for group, hosts in groups.items()})

    def validate(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.play("playbooks/validate.yml", *arguments)

    def play(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        playbook = Path(sys.executable).with_name("ansible-playbook")
        command = [playbook, "-i", self.directory, *arguments]
        environment = os.environ | {"HOME": str(self.home), "ANSIBLE_NOCOLOR": "1"}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)

    @property
    def secrets(self) -> list[Path]:
        return [path for path in self.home.rglob("secrets/*") if path.is_file()]


@pytest.fixture
def inventory(tmp_path: Path) -> Inventory:
    return Inventory(tmp_path)


def test_a_good_inventory_goes_on_to_the_host(inventory: Inventory) -> None:
    inventory.set(imaging_environment="hospital", imaging_domain="imaging.denscan.kz")
    result = inventory.validate()
    assert "UNREACHABLE" in result.stdout
    assert inventory.contacts.exists()


def test_all_problems_are_told_with_file_and_line_before_the_host_is_touched(inventory: Inventory) -> None:
    inventory.set(
        imaging_environment="hospital",
        imaging_domain="https://imaging.denscan.kz",
        imaging_tls_mod="self-signed",
        imaging_clinics=[{"id": "Almaty", "name": "Almaty"}],
    )
    result = inventory.validate()
    assert result.returncode != 0
    assert "has 3 problems; no host was touched" in result.stdout
    file = inventory.directory / "group_vars/all/main.yml"
    assert f'imaging_domain ({file}, line 4) is "https://imaging.denscan.kz": it has a scheme' in result.stdout
    assert "imaging_tls_mod " in result.stdout
    assert "did you mean imaging_tls_mode?" in result.stdout
    assert "imaging_clinics[0].id" in result.stdout
    assert not inventory.contacts.exists()


def test_a_missing_variable_is_told_once_and_not_what_depends_on_it(inventory: Inventory) -> None:
    inventory.set(imaging_environment="hospital", base_packages=["{{ imaging_domain }}"])
    result = inventory.validate()
    assert "has one problem" in result.stdout
    assert "imaging_domain is missing" in result.stdout
    assert not inventory.contacts.exists()


def test_an_expression_that_cannot_be_evaluated_is_named(inventory: Inventory) -> None:
    inventory.set(imaging_environment="hospital", imaging_domain="imaging.{{ hospital_nmae }}.kz")
    result = inventory.validate()
    assert "imaging_domain" in result.stdout
    assert "'hospital_nmae' is undefined" in result.stdout
    assert not inventory.contacts.exists()


def test_a_role_s_variable_is_checked_against_the_role(inventory: Inventory) -> None:
    inventory.set(imaging_environment="hospital", imaging_domain="imaging.denscan.kz", base_open_tcp_ports="443")
    result = inventory.validate()
    assert "base_open_tcp_ports" in result.stdout
    assert 'is "443", but it takes a list' in result.stdout
    assert not inventory.contacts.exists()


def test_no_secret_is_made_where_it_must_not_lie(inventory: Inventory) -> None:
    inventory.set(imaging_environment="hospital", imaging_domain="imaging.denscan.kz", imaging_secrets_path="secrets")
    result = inventory.validate()
    assert "imaging_secrets_path" in result.stdout
    assert "has one problem" in result.stdout
    assert not inventory.contacts.exists()
    assert not (ROOT / "secrets").exists()
    assert not (ROOT / "playbooks" / "secrets").exists()


def test_no_secret_is_shown_however_loud_the_run(inventory: Inventory) -> None:
    inventory.set(imaging_environment="hospital", imaging_domain="imaging.denscan.kz", imaging_tls_mode="none")
    result = inventory.validate("-vvv")
    assert "has one problem" in result.stdout
    assert inventory.secrets, "the run evaluates variables that hold secrets, so it makes them"
    for secret in inventory.secrets:
        assert secret.read_text().split()[0] not in result.stdout + result.stderr


def test_the_command_line_is_checked_too(inventory: Inventory) -> None:
    inventory.set(imaging_environment="hospital", imaging_domain="imaging.denscan.kz")
    result = inventory.validate("-e", "imaging_domian=other.kz")
    assert "imaging_domian is not a variable of the platform; did you mean imaging_domain?" in result.stdout
    assert not inventory.contacts.exists()


def test_an_inventory_without_hosts_is_refused(inventory: Inventory) -> None:
    inventory.set(imaging_environment="hospital", imaging_domain="imaging.denscan.kz")
    inventory.write("hosts.yml", {"servers": {"hosts": {"hospital": {}}}})
    result = inventory.validate()
    assert result.returncode != 0
    assert "no host in the group `imaging`" in result.stderr


PLAYBOOKS = [str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("playbooks/**/*.yml"))]


@pytest.mark.parametrize("jobs", [{}, {"gateway": ["hospital"], "postgres": ["hospital"]}])
def test_each_play_has_the_one_host(inventory: Inventory, jobs: dict[str, list[str]]) -> None:
    inventory.set(imaging_environment="hospital", imaging_domain="imaging.denscan.kz")
    inventory.set_hosts(imaging=["hospital"], **jobs)
    result = inventory.play("site.yml", "add-clinic.yml", *PLAYBOOKS, "--list-hosts")
    assert result.returncode == 0, result.stderr
    patterns = re.findall(r"pattern: (.*)", result.stdout)
    assert set(patterns) == {"['hospital']", "['localhost']"}
    assert set(re.findall(r"hosts \((\d+)\)", result.stdout)) == {"1"}


# tests/unit/policy sees to it that each other play names its hosts in the same way.
@pytest.mark.parametrize(
    "arguments",
    [
        ["site.yml"],
        ["site.yml", "--check"],
        ["add-clinic.yml", "-e", "clinic_id=denscan-almaty", "-e", "clinic_name=Almaty"],
        ["playbooks/uninstall.yml"],
        ["playbooks/restore.yml", "-e", "backup_file=/var/backups/imaging/dicom-backup.tar.zst", "-e", "confirmed=1"],
    ],
    ids=" ".join,
)
def test_hosts_that_cannot_carry_the_platform_are_refused_by_each_run(
    inventory: Inventory, arguments: list[str]
) -> None:
    inventory.set(imaging_environment="hospital", imaging_domain="imaging.denscan.kz")
    inventory.set_hosts(imaging=["hospital", "second"], orthanc=["hospital", "second"], nginx=["elsewhere"])
    result = inventory.play(*arguments)
    assert result.returncode != 0
    assert f"The hosts of the inventory ({inventory.directory}) cannot carry the platform" in result.stderr
    assert "The group `orthanc` has 2 hosts: hospital, second." in result.stderr
    assert "The group `nginx` names elsewhere, which is not in the group `imaging`." in result.stderr
    assert not inventory.contacts.exists()
    assert inventory.secrets == []


@pytest.mark.parametrize("role", ["base", "nginx", "status"])
def test_a_run_that_did_not_validate_the_hosts_does_not_leave_the_dashboards_out(
    inventory: Inventory, tmp_path: Path, role: str
) -> None:
    inventory.set(imaging_environment="hospital", imaging_domain="imaging.denscan.kz")
    playbook = tmp_path / "one_role.yml"
    playbook.write_text(yaml.safe_dump([{"name": "x", "hosts": "imaging", "gather_facts": False, "roles": [role]}]))
    result = inventory.play(str(playbook))
    assert result.returncode != 0
    assert "This run did not validate the hosts" in result.stdout
    assert "Run site.yml" in result.stdout
    assert not inventory.contacts.exists()


def test_a_run_of_some_tags_validates_all_the_same(inventory: Inventory) -> None:
    inventory.set(imaging_environment="hospital", imaging_domain="https://imaging.denscan.kz")
    result = inventory.play("site.yml", "--tags", "nginx")
    assert "has one problem; no host was touched" in result.stdout


@pytest.mark.parametrize("name", ["sandbox", "production"])
def test_the_project_s_own_inventories_have_no_problem(name: str, inventory: Inventory) -> None:
    inventory.directory = ROOT / "inventories" / name
    result = inventory.validate("-e", "ansible_connection=ssh", "-e", f"ansible_ssh_executable={inventory.ssh}")
    assert "The inventory has" not in result.stdout, result.stdout
    assert inventory.contacts.exists()
