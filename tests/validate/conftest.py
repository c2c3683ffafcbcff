"""The checks are loaded from where Ansible finds them: neither place is a Python package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

PROJECT = Path(__file__).parents[2]


def load(path: str) -> ModuleType:
    name = f"tests_validate_{Path(path).stem}"
    spec = importlib.util.spec_from_file_location(name, PROJECT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def inventory_check() -> ModuleType:
    return load("playbooks/action_plugins/inventory_check.py")


@pytest.fixture(scope="session")
def host_check() -> ModuleType:
    return load("library/host_check.py")
