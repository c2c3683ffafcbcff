"""House rules for inventories: one wiring, one list of pinned versions, one description of what the operator sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import PROJECT, ROLES, SCHEMA, is_secret, load_yaml

INVENTORIES = sorted(path for path in (PROJECT / "inventories").iterdir() if path.is_dir())
WIRING = load_yaml(PROJECT / "vars/wiring.yml")
VERSIONS = load_yaml(PROJECT / "vars/versions.yml")

each_inventory = pytest.mark.parametrize("inventory", INVENTORIES, ids=lambda path: path.name)


@each_inventory
def test_an_inventory_links_to_the_one_wiring_and_the_one_list_of_versions(inventory: Path) -> None:
    group = inventory / "group_vars/all"
    assert (group / "00-wiring.yml").resolve() == PROJECT / "vars/wiring.yml"
    assert (group / "01-versions.yml").resolve() == PROJECT / "vars/versions.yml"


@each_inventory
def test_what_an_inventory_sets_is_described(inventory: Path) -> None:
    described = {*SCHEMA, *(name for role in ROLES for name in role.options)}
    assert set(load_yaml(inventory / "group_vars/all/main.yml")) <= described


def test_what_the_operator_may_leave_out_has_the_default_that_is_described() -> None:
    for name, option in SCHEMA.items():
        if option.get("required"):
            assert name not in WIRING
        elif "{{" in str(WIRING[name]):
            assert "default" in option  # in words: it depends on the controller
        else:
            assert WIRING[name] == option["default"], name


def test_what_is_wired_to_a_secret_is_described_as_one() -> None:
    options = {name: option for role in ROLES for name, option in role.options.items()}
    wired = {name for name, value in WIRING.items() if "{{ imaging_secret_" in str(value)}
    assert wired
    assert {name for name in wired if not is_secret(options[name])} == set()


def test_every_pinned_version_stands_beside_its_checksum() -> None:
    versions = {name.removesuffix("_version") for name in VERSIONS if name.endswith("_version")} - {"imaging"}
    assert versions
    for name in versions:
        assert {f"{name}_sha256", f"{name}_sha512", f"{name}_integrity"} & set(VERSIONS), name


def test_the_sandbox_s_demo_users_are_nobody_s_elsewhere() -> None:
    for inventory in INVENTORIES:
        assert ("imaging_users" in load_yaml(inventory / "group_vars/all/main.yml")) == (inventory.name == "sandbox")
