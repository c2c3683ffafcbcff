#!/usr/bin/python
"""Install a Python package of ours as exactly the modules of the release: one task, one round trip."""

from __future__ import annotations

DOCUMENTATION = r"""
module: python_package
short_description: Install a Python package as exactly these modules
description:
  - Writes the modules that differ and removes what else lies in and below the package's directory, such as modules of
    an older release and compiled files. C(copy) would ask the host for each file and leave the old ones behind.
options:
  dest:
    description: Directory of the package; its parent exists.
    type: path
    required: true
  modules:
    description: Every file of the package, its path below O(dest) and its text. Directories are made for sub-packages.
    type: dict
    required: true
attributes:
  check_mode:
    support: full
    description: Tells what would change, also before there is a directory.
  diff_mode: {support: none}
author: [The imaging platform's authors]
"""

EXAMPLES = r"""
- name: Install the gateway
  python_package:
    dest: /opt/imaging/gateway/imaging_gateway
    modules:
      __init__.py: "{{ lookup('ansible.builtin.file', '__init__.py') }}"
      rules/__init__.py: "{{ lookup('ansible.builtin.file', 'rules/__init__.py') }}"
"""

RETURN = r"""
written:
  description: Files that were written, or would be.
  returned: always
  type: list
  elements: str
removed:
  description: Files and directories that were removed, or would be.
  returned: always
  type: list
  elements: str
"""

import shutil
from pathlib import Path, PurePosixPath

from ansible.module_utils.basic import AnsibleModule  # type: ignore[import-untyped]


def directories(modules: dict[str, str]) -> set[str]:
    """Return the directories that the modules are in, below the package."""
    return {str(parent) for name in modules for parent in PurePosixPath(name).parents} - {"."}


def differences(package: Path, modules: dict[str, str]) -> tuple[list[str], list[str]]:
    """Return the names to write and the names to remove, so that the directory holds exactly the modules."""
    removed: list[str] = []
    same = set()
    # A directory comes before what is in it.
    for path in sorted(package.rglob("*")):
        name, is_directory = str(path.relative_to(package)), path.is_dir() and not path.is_symlink()
        if any(name.startswith(above + "/") for above in removed):
            continue
        if name not in (directories(modules) if is_directory else modules):
            removed.append(name)
        elif path.is_file() and not path.is_symlink() and path.read_bytes() == modules[name].encode():
            same.add(name)
    return sorted(modules.keys() - same), removed


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "dest": {"type": "path", "required": True},
            "modules": {"type": "dict", "required": True},
        },
        supports_check_mode=True,
    )
    package = Path(module.params["dest"])
    # The text ends with one newline, no matter how the lookup read the file.
    modules = {name: text.rstrip("\n") + "\n" for name, text in module.params["modules"].items()}
    try:
        written, removed = differences(package, modules)
        if not module.check_mode:
            # This comes first, because a file may stand where a directory has to be.
            for name in removed:
                path = package / name
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            for directory in (package, *(package / name for name in sorted(directories(modules)))):
                if not directory.is_dir():
                    directory.mkdir()
                    directory.chmod(0o755)
            for name in written:
                module.atomic_move(_draft(Path(module.tmpdir) / Path(name).name, modules[name]), str(package / name))
                (package / name).chmod(0o644)
    except OSError as error:
        module.fail_json(msg=f"cannot install {package}: {error}")
    module.exit_json(changed=bool(written or removed), written=written, removed=removed)


def _draft(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


if __name__ == "__main__":
    main()
