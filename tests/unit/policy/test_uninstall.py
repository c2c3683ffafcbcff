"""`make uninstall` removes everything that the roles install: a role that is forgotten there fails here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

from .conftest import PROJECT, ROLES, load_yaml

LISTS: dict[str, Any] = load_yaml(PROJECT / "vars/uninstall.yml")
WIRING: dict[str, Any] = load_yaml(PROJECT / "vars/wiring.yml")
VARIABLE = re.compile(r"{{ (\w+).*?}}")
DATA = {
    VARIABLE.sub(lambda name: WIRING[name[1]], path) for paths in LISTS["uninstall_data"].values() for path in paths
}
# The paths that the playbook finds by itself, and the directory above all data, which may be a disk of its own.
FOUND = re.compile(r"/etc/imaging(/|$)|/etc/systemd/system/[^/]+\.d(/|$)|/data$")


def strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def installed() -> set[str]:
    """Debian packages that a task asks for, or that a list of packages names."""
    names = {*WIRING["base_packages"], *from_testing()}
    for role in ROLES:
        for task in role.tasks:
            for text in strings(task.arguments.get("name", [])) if task.module == "ansible.builtin.apt" else ():
                # Either a name, with the oldest version that will do, or a list that ends with a condition.
                names |= (
                    set(re.findall(r"\['([a-z0-9.-]+)'\]", text)) if text.startswith("{{") else {text.split(">=")[0]}
                )
        names |= {
            text for name, value in role.variables.items() if name.endswith("_packages") for text in strings(value)
        }
    return names


def from_testing() -> set[str]:
    """Debian packages that come from Debian testing, by Ansible's own reading of the wiring."""
    loader = DataLoader()
    wiring = loader.load_from_file(str(PROJECT / "vars/wiring.yml"), trusted_as_template=True)
    return set(Templar(loader, variables=wiring).template(wiring["base_testing_packages"]))


def made() -> set[str]:
    """Paths outside the data that a task makes and that carry no mark, with the roles' own variables put in."""
    paths = set()
    for role in ROLES:
        known = role.defaults | role.variables
        for task in role.tasks:
            found: list[str] = []
            if task.module == "directories" and isinstance(task.arguments["paths"], list):
                found = [item["path"] for item in task.arguments["paths"]]
            elif task.module == "config_files" and isinstance(task.arguments["files"], list):
                found = [item["dest"] for item in task.arguments["files"] if "content" in item]
            elif task.module in ("python_package", "ansible.builtin.copy", "ansible.builtin.file"):
                found = [task.arguments.get("dest") or task.arguments.get("path", "")]
            if task.data.get("delegate_to") != "localhost" and "cache" not in task.data["name"]:
                paths |= {VARIABLE.sub(lambda name, known=known: str(known.get(name[1], "")), path) for path in found}
    return {path for path in paths if path.startswith("/")}


def covered(path: str) -> bool:
    removed = (*LISTS["uninstall_paths"], *DATA)
    return bool(FOUND.match(path)) or any(path == one or path.startswith(f"{one}/") for one in removed)


def test_every_package_that_a_role_installs_is_removed_or_said_to_stay() -> None:
    lists = [LISTS[f"uninstall_packages{which}"] for which in ("", "_with_data", "_that_stay")]
    listed = [name for names in lists for name in names]
    assert sorted(installed()) == sorted(listed), "each in one list"


def test_no_package_of_debian_testing_stays() -> None:
    assert {"orthanc", "python3-pydicom"} <= from_testing()
    assert from_testing() <= {*LISTS["uninstall_packages"], *LISTS["uninstall_packages_with_data"]}


def test_every_path_that_a_role_makes_is_removed_or_is_data() -> None:
    assert {path for path in made() if not covered(path)} == set()


def test_every_user_that_a_role_makes_is_removed() -> None:
    users = {task.arguments["name"] for role in ROLES for task in role.tasks if task.module == "ansible.builtin.user"}
    assert users == {*LISTS["uninstall_users"], *LISTS["uninstall_data_users"]}


def test_every_template_that_the_playbook_must_find_carries_the_mark() -> None:
    unmarked = [
        path.name
        for role in ROLES
        for path in role.templates
        if f"Managed by Ansible, role {role.name}: changes here are overwritten" not in path.read_text()
    ]
    assert unmarked == []
