"""House rules for playbooks: each play and each delegated task says on which job's host it works."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import PROJECT, ROLES, TASKS, Task, load_yaml, tasks_in

FILES = sorted([*PROJECT.glob("*.yml"), *PROJECT.glob("playbooks/**/*.yml")])
PLAYS = [(path, play) for path in FILES for play in load_yaml(path) if "hosts" in play]
JOBS = ("imaging", "postgres", "orthanc", "keycloak", "gateway", "importer", "nginx", "monitoring")
HOSTS_OF = re.compile(rf"{{{{ query\('hosts_of', '({'|'.join(JOBS)})'\)( \| first)? }}}}")
SITE = PROJECT / "playbooks/site.yml"


@pytest.mark.parametrize(("path", "play"), PLAYS, ids=[f"{path.stem}: {play['name']}" for path, play in PLAYS])
def test_a_play_addresses_the_hosts_of_a_job(path: Path, play: dict[str, Any]) -> None:
    # Only the lookup refuses hosts that cannot carry the platform.
    assert play["hosts"] == "localhost" or HOSTS_OF.fullmatch(play["hosts"]), path


@pytest.mark.parametrize(("path", "play"), PLAYS, ids=[f"{path.stem}: {play['name']}" for path, play in PLAYS])
def test_a_play_on_the_controller_changes_nothing(path: Path, play: dict[str, Any]) -> None:
    if play["hosts"] == "localhost":
        assert {module for task in play["tasks"] for module in task if "." in module} <= {"ansible.builtin.assert"}, (
            path
        )


@pytest.mark.parametrize("task", [task for task in TASKS if "delegate_to" in task.data], ids=str)
def test_a_delegated_task_names_the_controller_or_a_job(task: Task) -> None:
    place = task.data["delegate_to"]
    named = re.fullmatch(r"{{ (__\w+) }}", place)
    assert place == "localhost" or (named and re.search(rf"{named[1]}: \"{HOSTS_OF.pattern}", task.file.read_text()))


def test_nothing_is_read_from_another_host() -> None:
    read = [
        path for folder in ("playbooks", "roles", "vars") for path in PROJECT.glob(f"{folder}/**/*") if path.is_file()
    ]
    assert [path for path in read if path.suffix in (".yml", ".j2") and "hostvars" in path.read_text()] == []


def test_each_role_is_deployed_once() -> None:
    deployed = [role["role"] for play in load_yaml(SITE) for role in play.get("roles", [])]
    for task in tasks_in(PROJECT / "playbooks/dashboards.yml"):
        if "tasks_from" not in task.arguments:
            deployed += task.data.get("loop", [task.arguments["name"]])
    assert sorted(deployed) == sorted(role.name for role in ROLES)


def test_whether_there_are_dashboards_is_set_in_one_place() -> None:
    setting = [task for task in TASKS if "imaging_dashboards" in task.arguments]
    assert [task.file.name for task in setting] == ["validate.yml"]
    assert "undef(" in load_yaml(PROJECT / "vars/wiring.yml")["imaging_dashboards"]


# --- names ------------------------------------------------------------------------------------------------------------

# A name that begins with another verb adds it here. `Look` and `Is` begin questions.
VERBS = """
    Add Apply Ask Bring Build Change Check Choose Close Compare Compute Configure Confine Converge Copy Create Define
    Deploy Destroy Enable Fetch Find Give Have Install Keep Lay Let List Log Make Name Prepare Prove Provide Put Read
    Record Refuse Rehearse Reload Remove Rename Renew Restart Restore Say See Set Ship Shut Start Stop Switch Take Tell
    Test Trust Unpack Update Validate Verify Wait Write
"""


def names_in(items: list[dict[str, Any]]) -> Iterator[str]:
    """The names of plays, of blocks and of the tasks in them."""
    for item in items:
        yield item.get("name", "")
        for section in ("pre_tasks", "tasks", "post_tasks", "handlers", "block", "rescue", "always"):
            yield from names_in(item.get(section, []))


LISTS = [*FILES, *PROJECT.glob("roles/*/tasks/*.yml"), *PROJECT.glob("roles/*/handlers/*.yml")]


@pytest.mark.parametrize("path", LISTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_a_name_says_what_is_done(path: Path) -> None:
    for name in names_in(load_yaml(path)):
        assert re.split(r"\W", name)[0] in VERBS.split(), f"{name!r} does not begin with a verb of the list"
        assert not name.endswith((".", "?", ":", "!")), name
