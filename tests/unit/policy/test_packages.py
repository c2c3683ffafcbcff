"""A package of ours says what each of its modules is for."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
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


def test_the_role_installs_each_module_of_the_importer() -> None:
    said = subprocess.run(
        [
            *("ansible", "localhost", "--one-line", "-m", "ansible.builtin.debug", "-a", "var=__importer_modules"),
            *("-e", f"@{PROJECT}/roles/importer/vars/main.yml", "-e", f"role_path={PROJECT}/roles/importer"),
        ],
        cwd=PROJECT,
        env=os.environ | {"ANSIBLE_CALLBACK_RESULT_FORMAT": "json"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    source = PROJECT / "files/importer/src/imaging_importer"
    installed = json.loads(said.partition(" => ")[2])["__importer_modules"]
    assert installed == {str(path.relative_to(source)): path.read_text().rstrip("\n") for path in source.rglob("*.py")}
