"""A package on a host holds exactly the modules of the release, whatever an older release left there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from project import ROOT
from wired import Wired

RELEASE = {"__init__.py": '"""A package."""', "carry.py": "A = 1", "ways/__init__.py": "", "ways/folders.py": "B = 2"}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return tmp_path / "package"


def install(package: Path, modules: dict[str, str] | None = None, check: bool = False) -> dict[str, Any]:
    """Run the module as Ansible does on a host: in a process, its arguments on standard input."""
    arguments = {
        "dest": str(package),
        "modules": RELEASE if modules is None else modules,
        "_ansible_check_mode": check,
        "_ansible_remote_tmp": str(package.parent),
    }
    done = subprocess.run(
        [sys.executable, ROOT / "library/python_package.py"],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
        capture_output=True,
        text=True,
        check=False,
        umask=0o077,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    assert not answer.get("failed"), answer
    return answer


def files(package: Path) -> dict[str, str]:
    return {str(path.relative_to(package)): path.read_text() for path in package.rglob("*") if path.is_file()}


def test_modules_and_sub_packages_are_installed_for_everybody_to_read(package):
    answer = install(package)
    assert answer["changed"]
    assert files(package) == {name: f"{text}\n" for name, text in RELEASE.items()}
    modes = {path.stat().st_mode & 0o777 for path in (package, package / "ways")}
    assert modes == {0o755}
    assert {path.stat().st_mode & 0o777 for path in package.rglob("*.py")} == {0o644}


def test_a_second_run_changes_nothing(package):
    install(package)
    assert not install(package)["changed"]


def test_what_moved_into_a_sub_package_is_gone_from_its_old_place_with_what_was_compiled(package):
    flat = {"__init__.py": "", "carry.py": "A = 1", "folders.py": "B = 2", "ways.py": "C = 3"}
    install(package, flat)
    (package / "__pycache__").mkdir()
    (package / "__pycache__/folders.cpython-313.pyc").write_bytes(b"compiled")
    answer = install(package)
    assert answer["removed"] == ["__pycache__", "folders.py", "ways.py"]
    assert sorted(files(package)) == sorted(RELEASE)


def test_a_sub_package_that_is_no_more_is_removed_whole(package):
    install(package)
    (package / "ways/__pycache__").mkdir()
    answer = install(package, {"__init__.py": "", "ways.py": ""})
    assert answer["removed"] == ["carry.py", "ways"]
    assert sorted(files(package)) == ["__init__.py", "ways.py"]


def test_what_stands_in_the_place_of_a_directory_or_a_file_makes_way(package):
    package.mkdir()
    (package / "ways").write_text("a file")
    (package / "carry.py").mkdir()
    (package / "__init__.py").symlink_to("/etc/hostname")
    install(package)
    assert sorted(files(package)) == sorted(RELEASE)
    assert not (package / "__init__.py").is_symlink()


@pytest.mark.parametrize("before", [{}, {"old.py": "", "ways/older.py": "", "carry.py": "A = 0"}, RELEASE])
def test_check_mode_tells_what_a_run_then_does_and_does_nothing(package, before):
    if before:
        install(package, before)
    there = files(package)
    told = install(package, check=True)
    assert files(package) == there
    assert {key: told[key] for key in ("changed", "written", "removed")} == {
        key: value for key, value in install(package).items() if key in ("changed", "written", "removed")
    }


@pytest.mark.parametrize("service", ["gateway", "importer", "backup"])
def test_a_role_installs_every_module_of_its_package_and_nothing_else(service):
    source = ROOT / f"files/{service}/src/imaging_{service}"
    modules = Wired().inside(ROOT / "roles" / service, f"{{{{ __{service}_modules }}}}")
    wanted = {str(path.relative_to(source)) for path in source.rglob("*.py")}
    assert set(modules) == wanted
    assert len(wanted) > 3
