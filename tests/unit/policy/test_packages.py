"""A package of ours says what each of its modules is for."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from .conftest import PROJECT

PACKAGES = sorted(path.parent for path in PROJECT.glob("files/*/src/**/__init__.py"))


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_a_package_names_each_of_its_modules_once_with_what_it_is_for_and_nothing_else(package: Path) -> None:
    said = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
    modules = {path.stem for path in package.glob("*.py")} | {
        path.parent.name for path in package.glob("*/__init__.py")
    }
    assert sorted(re.findall(r"^(\w+): \S", said, re.MULTILINE)) == sorted(modules - {"__init__"})
    assert "`" not in said
