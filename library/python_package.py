#!/usr/bin/python
"""Install a Python package of ours as exactly the modules of the release: one task, one round trip."""

from __future__ import annotations

DOCUMENTATION = r"""
module: python_package
short_description: Install a Python package as exactly these modules
description:
  - Writes the modules that differ and removes what else lies in the package's directory, such as modules of an older
    release and compiled files. C(copy) would ask the host for each file and leave the old ones behind.
options:
  dest:
    description: Directory of the package; its parent exists.
    type: path
    required: true
  modules:
    description: Every file of the package, its name and its text.
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
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule  # type: ignore[import-untyped]


def differences(package: Path, modules: dict[str, str]) -> tuple[list[str], list[str]]:
    """Return the names to write and the names to remove, so that the directory holds exactly the modules."""
    there = {path.name for path in package.iterdir()} if package.is_dir() else set()
    same = {name for name in there & modules.keys() if (package / name).read_text(encoding="utf-8") == modules[name]}
    return sorted(modules.keys() - same), sorted(there - modules.keys())


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "dest": {"type": "path", "required": True},
            "modules": {"type": "dict", "required": True},
        },
        supports_check_mode=True,
    )
    package = Path(module.params["dest"])
    # One newline at the end, whatever the lookup that read the file made of it.
    modules = {name: text.rstrip("\n") + "\n" for name, text in module.params["modules"].items()}
    try:
        written, removed = differences(package, modules)
        if not module.check_mode:
            package.mkdir(mode=0o755, exist_ok=True)
            for name in written:
                module.atomic_move(_draft(Path(module.tmpdir) / name, modules[name]), str(package / name))
                (package / name).chmod(0o644)
            for name in removed:
                shutil.rmtree(package / name) if (package / name).is_dir() else (package / name).unlink()
    except OSError as error:
        module.fail_json(msg=f"cannot install {package}: {error}")
    module.exit_json(changed=bool(written or removed), written=written, removed=removed)


def _draft(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


if __name__ == "__main__":
    main()
