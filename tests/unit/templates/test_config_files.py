"""The results of `config_files` for a role's author, seen by running Ansible on this machine."""

from __future__ import annotations

import getpass
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from project import ROOT as PROJECT

VALIDATE = "grep -q good %s"


class Role:
    """A playbook with one task `config_files` and its templates, in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.etc = directory / "etc"
        (directory / "templates").mkdir()

    def template(self, name: str, text: str) -> None:
        (self.directory / "templates" / name).write_text(text)

    def apply(self, *files: dict[str, Any], options: tuple[str, ...] = (), no_log: bool = False) -> dict[str, Any]:
        """Run the task; its result, with everything that Ansible printed under `printed`."""
        task = {"config_files": {"files": [{"dest": str(self.etc / "a.conf"), **file} for file in files]}}
        play = {
            "hosts": "localhost",
            "connection": "local",
            "gather_facts": False,
            "vars": {"greeting": "good"},
            "tasks": [{**task, "no_log": no_log}],
        }
        playbook = self.directory / "play.yml"
        playbook.write_text(yaml.safe_dump([play]))
        (self.directory / "none.cfg").touch()  # the project's own prints other things
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(self.directory / "none.cfg"),
            "ANSIBLE_ACTION_PLUGINS": str(PROJECT / "playbooks/action_plugins"),
            "ANSIBLE_LIBRARY": str(PROJECT / "library"),
            "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
        }
        run = subprocess.run(
            [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,", *options, str(playbook)],
            cwd=PROJECT, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        printed = run.stdout + run.stderr
        report = json.loads(run.stdout[run.stdout.index("{") :])
        result: dict[str, Any] = report["plays"][0]["tasks"][0]["hosts"]["localhost"]
        return {**result, "printed": printed}


@pytest.fixture
def role(tmp_path: Path) -> Role:
    return Role(tmp_path)


def owned(**file: Any) -> dict[str, Any]:
    """A file that belongs to whoever runs the tests, so that they need not be root."""
    return {"owner": getpass.getuser(), **file}


def test_a_template_of_the_role_is_rendered_and_laid_down_once(role: Role) -> None:
    role.template("a.conf.j2", "{% if true %}\nIt is {{ greeting }}.\n{% endif %}\n")
    first = role.apply(owned(template="a.conf.j2", mode="0640"))
    assert (first["changed"], first["files"]) == (True, [str(role.etc / "a.conf")])
    assert (role.etc / "a.conf").read_text() == "It is good.\n"
    assert (role.etc / "a.conf").stat().st_mode & 0o777 == 0o640
    assert role.apply(owned(template="a.conf.j2", mode="0640"))["changed"] is False


def test_check_mode_foretells_and_writes_nothing(role: Role) -> None:
    told = role.apply(owned(content="good\n"), options=("--check", "--diff"))
    assert told["changed"] is True
    assert told["diff"][0]["after"] == "good\n"
    assert not role.etc.exists()


def test_a_fault_in_one_file_leaves_all_as_they_were(role: Role) -> None:
    role.apply(owned(content="good old\n"))
    second = str(role.etc / "b.conf")
    told = role.apply(
        owned(content="good new\n", validate=VALIDATE), owned(dest=second, content="bad\n", validate=VALIDATE)
    )
    assert "b.conf would be faulty, so nothing was changed" in told["msg"]
    assert (role.etc / "a.conf").read_text() == "good old\n"
    assert not Path(second).exists()


def test_a_draft_has_the_name_of_its_file(role: Role) -> None:
    assert role.apply(owned(content="good\n", validate="test -f %s -a a.conf = a.conf"))["changed"] is True
    told = role.apply(owned(content="x\n", validate="ls %s.missing"))
    assert "/a.conf.missing" in told["msg"]


def test_a_mode_that_someone_changed_is_put_right(role: Role) -> None:
    role.apply(owned(content="good\n", mode="0600"))
    (role.etc / "a.conf").chmod(0o666)
    assert role.apply(owned(content="good\n", mode="0600"))["changed"] is True
    assert (role.etc / "a.conf").stat().st_mode & 0o777 == 0o600


def test_a_secret_is_in_nothing_that_is_printed(role: Role) -> None:
    told = role.apply(owned(content="very-secret-word"), options=("--diff", "-vvv"), no_log=True)
    assert (role.etc / "a.conf").read_text() == "very-secret-word"
    assert "very-secret-word" not in told["printed"]


def test_a_file_without_text_or_with_two_is_refused(role: Role) -> None:
    assert "either a template or the content" in role.apply(owned())["msg"]
    assert "either a template or the content" in role.apply(owned(template="a.j2", content="x"))["msg"]
