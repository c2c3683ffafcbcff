"""The checks are loaded from where Ansible finds them: neither place is a Python package."""

from __future__ import annotations

from types import ModuleType

import pytest
from loading import load
from project import ROOT


@pytest.fixture(scope="session")
def inventory_check() -> ModuleType:
    return load(ROOT / "playbooks/action_plugins/inventory_check.py")


@pytest.fixture(scope="session")
def host_check() -> ModuleType:
    return load(ROOT / "library/host_check.py")


@pytest.fixture(scope="session")
def lookup() -> ModuleType:
    return load(ROOT / "playbooks/lookup_plugins/hosts_of.py")
