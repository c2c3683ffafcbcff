"""The project read as data: roles, tasks, templates, and what git keeps."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from project import ROOT as PROJECT

OUR_MODULES = {path.stem for path in (*PROJECT.glob("library/*.py"), *PROJECT.glob("roles/*/library/*.py"))}


def load_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text()) if path.is_file() else None


@dataclass(frozen=True)
class Role:
    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def defaults(self) -> dict[str, Any]:
        return load_yaml(self.path / "defaults/main.yml") or {}

    @cached_property
    def variables(self) -> dict[str, Any]:
        return load_yaml(self.path / "vars/main.yml") or {}

    @cached_property
    def options(self) -> dict[str, dict[str, Any]]:
        """The entries of meta/argument_specs.yml for each public variable, all entry points together."""
        entry_points = (load_yaml(self.path / "meta/argument_specs.yml") or {}).get("argument_specs", {})
        return {
            name: option for point in entry_points.values() for name, option in (point.get("options") or {}).items()
        }

    @cached_property
    def templates(self) -> list[Path]:
        return sorted(path for path in self.path.glob("templates/**/*") if path.is_file())

    @cached_property
    def handlers(self) -> list[Task]:
        return list(tasks_in(self.path / "handlers/main.yml"))

    @cached_property
    def tasks(self) -> list[Task]:
        return [task for path in sorted(self.path.glob("tasks/*.yml")) for task in tasks_in(path)]


@dataclass(frozen=True)
class Task:
    file: Path
    data: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.file.relative_to(PROJECT)}: {self.data.get('name')}"

    @property
    def module(self) -> str:
        return next((key for key in self.data if "." in key or key in OUR_MODULES), "")

    @property
    def arguments(self) -> dict[str, Any]:
        arguments = self.data.get(self.module)
        return arguments if isinstance(arguments, dict) else {}

    @property
    def text(self) -> str:
        """The parts of the task that could appear in a log: everything except its conditions."""
        return yaml.safe_dump({key: value for key, value in self.data.items() if key not in ("when", "name", "until")})

    @property
    def notifies(self) -> list[str]:
        notify = self.data.get("notify", [])
        return [notify] if isinstance(notify, str) else notify


def flatten(file: Path, items: list[dict[str, Any]]) -> Iterator[Task]:
    for item in items:
        inner = [part for key in ("block", "rescue", "always") for part in item.get(key, [])]
        if inner:
            # The keywords of a block hold for the tasks in it.
            said = {key: item[key] for key in ("no_log", "when", "become") if key in item}
            yield from flatten(file, [said | part for part in inner])
        else:
            yield Task(file, item)


def tasks_in(file: Path) -> Iterator[Task]:
    """Tasks of a task file or, when its items are plays, of each play."""
    for item in load_yaml(file) or []:
        if "hosts" in item:
            for section in ("pre_tasks", "tasks", "post_tasks", "handlers"):
                yield from flatten(file, item.get(section, []))
        elif "ansible.builtin.import_playbook" not in item:
            yield from flatten(file, [item])


ROLES = [Role(path) for path in sorted((PROJECT / "roles").iterdir()) if path.is_dir()]
PLAYBOOKS = sorted([*PROJECT.glob("*.yml"), *PROJECT.glob("playbooks/**/*.yml"), *PROJECT.glob("molecule/*/*.yml")])
TASKS = [
    *(task for role in ROLES for task in (*role.tasks, *role.handlers)),
    *(task for path in PLAYBOOKS if path.name != "molecule.yml" for task in tasks_in(path)),
]
SCHEMA: dict[str, dict[str, Any]] = load_yaml(PROJECT / "vars/schema.yml")["argument_specs"]["main"]["options"]


def is_secret(option: dict[str, Any]) -> bool:
    """Whether a variable holds a secret, itself or somewhere inside."""
    return bool(option.get("no_log")) or any(is_secret(inner) for inner in (option.get("options") or {}).values())


def mentions(text: str, name: str) -> bool:
    """Whether a text reads a variable: a key of a mapping (`name:`) and a part of a longer name do not."""
    return re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-]|:\s|:$)", text, re.MULTILINE) is not None


def files_in_git() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    return [PROJECT / name for name in listed.split("\0") if name and (PROJECT / name).is_file()]
