"""House rules for roles: variables described, no role in another's affairs, no secret logged, no download unpinned."""

from __future__ import annotations

import re

import pytest

from .conftest import OUR_MODULES, PROJECT, ROLES, SCHEMA, TASKS, Role, Task, is_secret, mentions

each_role = pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
each_task = pytest.mark.parametrize("task", TASKS, ids=str)


# --- variables --------------------------------------------------------------------------------------------------------


@each_role
def test_every_default_is_described(role: Role) -> None:
    assert {name for name in role.defaults if not name.startswith("__")} <= set(role.options)


@each_role
def test_every_described_variable_is_required_or_has_that_default(role: Role) -> None:
    for name, option in role.options.items():
        if option.get("required"):
            assert name not in role.defaults, f"{name} is required, so it needs no default"
        else:
            assert name in role.defaults, f"{name} is neither required nor in defaults/main.yml"
            if "default" in option:
                assert option["default"] == role.defaults[name], f"the description tells another default of {name}"


@each_role
def test_every_variable_carries_the_role_s_name(role: Role) -> None:
    public = [*role.options, *(name for name in role.defaults if not name.startswith("__"))]
    internal = [*role.variables, *(name for name in role.defaults if name.startswith("__"))]
    internal += [name for task in role.tasks if (name := task.data.get("register", "")).startswith("__")]
    assert [name for name in public if not name.startswith(f"{role.name}_")] == []
    assert [name for name in internal if not name.startswith(f"__{role.name}_")] == []


@each_role
def test_every_description_says_something(role: Role) -> None:
    for name, option in role.options.items():
        assert option.get("description"), name
        assert option.get("type"), name


@each_role
def test_a_role_reads_no_variable_of_another_role_or_of_the_operator(role: Role) -> None:
    foreign = set(SCHEMA)
    for other in ROLES:
        if other.name != role.name:
            foreign |= {*other.options, *other.defaults, *other.variables}
    read = []
    for path in role.path.rglob("*"):
        if path.is_file() and path.suffix in (".yml", ".j2"):
            text = re.sub(r"^\s*#.*$", "", path.read_text(), flags=re.MULTILINE)
            read += [f"{path.relative_to(PROJECT)} reads {name}" for name in foreign if mentions(text, name)]
    assert read == []


# --- secrets ----------------------------------------------------------------------------------------------------------


@each_role
def test_a_variable_named_like_a_secret_is_described_as_one(role: Role) -> None:
    named = {name for name in role.options if re.search(r"(password|secret|token)$", name)}
    assert {name for name in named if not is_secret(role.options[name])} == set()


def secret_variables() -> set[str]:
    described = [SCHEMA, *(role.options for role in ROLES)]
    return {name for options in described for name, option in options.items() if is_secret(option)}


@each_task
def test_a_task_that_touches_a_secret_does_not_log(task: Task) -> None:
    text = task.text
    template = task.arguments.get("src", "")
    if task.module == "ansible.builtin.template" and "{{" not in template:
        text += (task.file.parents[1] / "templates" / template).read_text()
    touched = {name for name in secret_variables() if mentions(text, name)}
    if touched and not task.module.startswith("ansible.builtin.include_"):
        # Modules of ours name their own secrets, so that what they changed can still be shown.
        assert task.data.get("no_log") is True or hides_its_own(task.module), f"{task} touches {touched}"


def hides_its_own(module: str) -> bool:
    sources = [*PROJECT.glob(f"library/{module}.py"), *PROJECT.glob(f"roles/*/library/{module}.py")]
    return any('"no_log": True' in path.read_text() for path in sources)


# --- tasks ------------------------------------------------------------------------------------------------------------


@each_task
def test_a_command_says_when_it_changed_something(task: Task) -> None:
    if task.module in ("ansible.builtin.command", "ansible.builtin.shell", "ansible.builtin.raw"):
        assert "changed_when" in task.data or {"creates", "removes"} & set(task.arguments)


@each_task
def test_a_download_is_compared_with_a_checksum_of_ours(task: Task) -> None:
    if task.module == "ansible.builtin.get_url":
        assert re.match(r"sha(256|512):", task.arguments.get("checksum", ""))
    if task.module.endswith(".maven_artifact"):
        # It has no argument for one: a task right behind it compares.
        asserted = [other for other in TASKS if other.file == task.file and other.module == "ansible.builtin.assert"]
        assert any(re.search(r"checksum == \w+_sha(256|512)", str(other.arguments["that"])) for other in asserted)
    for argument in ("src", "url"):
        if task.module in ("ansible.builtin.unarchive", "ansible.builtin.uri") and "dest" in task.arguments:
            assert "://" not in str(task.arguments.get(argument, "")), "fetch it with get_url and its checksum"


@each_task
def test_nothing_is_taken_unverified(task: Task) -> None:
    assert task.arguments.get("validate_certs") is not False
    assert not task.arguments.get("allow_unauthenticated")
    assert not task.arguments.get("disable_gpg_check")
    assert not task.arguments.get("trust_as_template")


@each_task
def test_a_file_has_a_mode(task: Task) -> None:
    writes = {"copy", "template", "get_url", "maven_artifact", "assemble"}
    if task.module.rpartition(".")[2] in writes:
        assert "mode" in task.arguments


@each_role
def test_what_is_notified_exists_and_what_exists_is_notified(role: Role) -> None:
    notified = {name for task in (*role.tasks, *role.handlers) for name in task.notifies}
    assert notified == {handler.data["name"] for handler in role.handlers}


def test_our_modules_are_documented() -> None:
    for name in OUR_MODULES:
        (path,) = [*PROJECT.glob(f"library/{name}.py"), *PROJECT.glob(f"roles/*/library/{name}.py")]
        text = path.read_text()
        assert "\nDOCUMENTATION = r" in text, path
        assert f"\nmodule: {name}\n" in text, path
