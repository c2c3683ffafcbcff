"""Every command works on every inventory, refuses in words, or needs no host. Typed words arrive unchanged."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from verbs import ON_EVERY_INVENTORY

from .conftest import PROJECT

MAKEFILE = (PROJECT / "Makefile").read_text()
TARGETS = set(re.findall(r"^\.PHONY: ([a-z][a-z-]*)$", MAKEFILE, re.MULTILINE))
OTHER = "inventories/production"


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *arguments],
        cwd=PROJECT,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def listed(variable: str) -> set[str]:
    """The targets of one of the Makefile's lists."""
    (value,) = re.findall(rf"^{variable} := ((?:.*\\\n)*.*)$", MAKEFILE, re.MULTILINE)
    return set(value.replace("\\\n", " ").split())


SANDBOX_ONLY = listed("SANDBOX_ONLY")
NO_HOST = listed("NO_HOST")


def test_of_each_target_it_is_known_what_another_inventory_means_to_it() -> None:
    kinds = [SANDBOX_ONLY, NO_HOST, set(ON_EVERY_INVENTORY)]
    assert set.union(*kinds) == TARGETS
    assert sum(map(len, kinds)) == len(TARGETS), "a target is of two kinds"


@pytest.mark.parametrize("target", sorted(SANDBOX_ONLY))
@pytest.mark.parametrize("how", ["argument", "environment"])
def test_what_makes_fills_or_removes_a_sandbox_refuses_another_inventory(target: str, how: str) -> None:
    done = make(target, f"INVENTORY={OTHER}") if how == "argument" else make(target, INVENTORY=OTHER)
    assert done.returncode != 0
    assert done.stdout == "", "something was done"
    assert f"make {target} works on a sandbox alone, and INVENTORY is {OTHER}. Nothing was done." in done.stderr


@pytest.mark.parametrize("name", ["SANDBOX", "INVENTORY", "STUDY", "CLINIC_NAME"])
@pytest.mark.parametrize("how", ["argument", "environment"])
def test_nothing_that_is_said_is_run(tmp_path: Path, name: str, how: str) -> None:
    run = tmp_path / "run"
    said = {name: f"$(shell touch {run}a)$$(touch {run}b)`touch {run}c`';touch {run}d;'"}
    for target in ("info", "audit", "add-clinic"):
        done = (
            make("-n", target, *(f"{name}={text}" for text in said.values()))
            if how == "argument"
            else make("-n", target, **said)
        )
        assert done.returncode == 0 or name == "INVENTORY", done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("target", sorted(ON_EVERY_INVENTORY))
@pytest.mark.parametrize("inventory", ["", "inventories/prodution"])
def test_an_inventory_that_is_not_there_is_refused(target: str, inventory: str) -> None:
    done = make(target, f"INVENTORY={inventory}")
    assert done.returncode != 0
    assert done.stdout == ""
    assert f"there is no inventory '{inventory}'" in done.stderr


@pytest.mark.parametrize("target", sorted(ON_EVERY_INVENTORY))
def test_what_works_on_every_inventory_does_nothing_with_the_sandbox(target: str) -> None:
    shown = make("--dry-run", target, f"INVENTORY={OTHER}", "SANDBOX=nowhere").stdout
    assert f"'{OTHER}'" in shown
    # The drill makes a host of its own.
    assert "nowhere" not in shown.replace("imaging-drill-nowhere", "")
    assert "docker" not in shown


@pytest.mark.parametrize("target", sorted(NO_HOST - {"release"}))
def test_what_needs_no_host_knows_neither_sandbox_nor_inventory(target: str) -> None:
    shown = make("--dry-run", target, f"INVENTORY={OTHER}", "SANDBOX=nowhere").stdout
    assert OTHER not in shown
    assert "nowhere" not in shown


@pytest.mark.parametrize("spelt", ["inventories/sandbox/", "./inventories/sandbox", f"{PROJECT}/inventories/sandbox"])
def test_the_sandboxs_inventory_may_be_named(spelt: str) -> None:
    assert "tools/sandbox.py down" in make("--dry-run", "down", f"INVENTORY={spelt}").stdout


@pytest.mark.parametrize("target", ["status", "demo", "info"])
def test_a_sandbox_that_is_not_there_is_told_of_in_words(target: str) -> None:
    done = make(target, "SANDBOX=nowhere")
    assert done.returncode != 0
    assert "there is no sandbox" in done.stderr
    assert "`make up` makes one" in done.stderr
    assert "Traceback" not in done.stderr


ODD = [
    "it's",
    'say "no"',
    "$HOME",
    "$(shell id)",
    "$(id)",
    "`id`",
    "a; b",
    "a & b",
    "a, b",
    "*",
    "\\",
    "Қайрат",
    "a  b",
]


@pytest.fixture
def arguments(tmp_path: Path) -> Path:
    """Stands for a program: prints each of its arguments as a line."""
    for name in ("imaging-gateway", "ansible-playbook"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
        program.chmod(0o755)
    (tmp_path / "hosts.yml").write_text("imaging: {hosts: {pacs: {ansible_connection: local, ansible_become: false}}}")
    return tmp_path


@pytest.mark.parametrize("odd", ODD)
def test_what_is_typed_arrives_at_the_hosts_program_as_it_is(arguments: Path, odd: str) -> None:
    path = f"{arguments}/bin:{os.environ['PATH']}"
    done = make("-s", "audit", f"USER={odd}", f"STUDY={odd}", f"INVENTORY={arguments}/hosts.yml", PATH=path)
    assert done.stdout.splitlines()[1:3] == [f"--study={odd}", f"--user={odd}"], done.stderr


@pytest.mark.parametrize("odd", ODD)
def test_what_is_typed_arrives_at_a_playbook_as_it_is(arguments: Path, odd: str) -> None:
    playbook = f"PLAYBOOK={arguments}/bin/ansible-playbook"
    _, *extra = make("-s", "rename-clinic", "CLINIC_ID=x", f"NAME={odd}", playbook).stdout.splitlines()
    assert extra[::2] == ["-e", "-e"]
    assert [json.loads(given) for given in extra[1::2]] == [{"clinic_id": "x"}, {"clinic_name": odd}]


@pytest.mark.parametrize("template", ["{{ lookup('pipe', 'id') }}", "{% for one in [] %}"])
def test_a_value_that_ansible_would_evaluate_is_refused(arguments: Path, template: str) -> None:
    path = f"{arguments}/bin:{os.environ['PATH']}"
    done = make("add-clinic", "CLINIC_ID=x", f"CLINIC_NAME={template}", f"INVENTORY={arguments}/hosts.yml", PATH=path)
    assert done.returncode == 2
    assert "clinic_name may have neither {{ nor {%. Nothing was done" in done.stderr


def test_every_variable_that_a_target_reads_is_one_that_arrives_as_it_is() -> None:
    (declared,) = re.findall(r"^ARGUMENTS := ((?:.*\\\n)*.*)$", MAKEFILE, re.MULTILINE)
    ours = set(re.findall(r"^(\w+) (?::|\?|)=", MAKEFILE, re.MULTILINE)) - {"SANDBOX", "INVENTORY"}
    read = set(re.findall(r"\$[({]([A-Z_]+)[)}]", MAKEFILE)) - ours
    assert read - {"CURDIR", "HOME", "PATH", "MAKEFILE_LIST", "MAKECMDGOALS"} == set(
        declared.replace("\\\n", " ").split()
    )
