#!/usr/bin/python
"""Make the directories of a role in one round trip."""

from __future__ import annotations

DOCUMENTATION = r"""
module: directories
short_description: Make directories with their owners and modes
description:
  - Makes a list of directories as C(ansible.builtin.file) makes one. Each task asks the host once. A deployment that
    changes nothing consists mostly of such questions.
options:
  paths:
    description: The directories, parents first.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Absolute path.
        type: path
        required: true
      mode:
        description: Permissions, as octal text.
        type: str
        required: true
      owner:
        description: User and group that own it.
        type: str
        default: root
attributes:
  check_mode:
    support: full
    description: Tells what would change, also while an owner does not exist yet.
  diff_mode:
    support: full
    description: Names each directory with what is, and what shall be.
author: [The imaging platform's authors]
"""

EXAMPLES = r"""
- name: Make the directories of the gateway
  directories:
    paths:
      - {path: /opt/imaging/gateway, mode: "0755"}
      - {path: /etc/imaging/credentials/gateway, mode: "0700"}
"""

RETURN = r"""
paths:
  description: Directories that were made or changed, or would be.
  returned: always
  type: list
  elements: str
"""

import grp
import pwd
import stat
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule  # type: ignore[import-untyped]


def state(path: Path) -> dict[str, str]:
    """Return owner, group and mode of a directory; empty when there is none. Links are followed."""
    if not path.is_dir():
        return {}
    found = path.stat()
    try:
        owner = pwd.getpwuid(found.st_uid).pw_name
        group = grp.getgrgid(found.st_gid).gr_name
    except KeyError:  # left by a user that is gone
        owner, group = str(found.st_uid), str(found.st_gid)
    return {"owner": owner, "group": group, "mode": f"{stat.S_IMODE(found.st_mode):04o}"}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "paths": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "path": {"type": "path", "required": True},
                    "mode": {"type": "str", "required": True},
                    "owner": {"type": "str", "default": "root"},
                },
            }
        },
        supports_check_mode=True,
    )
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    for entry in module.params["paths"]:
        path, owner = Path(entry["path"]), entry["owner"]
        wanted = {"owner": owner, "group": owner, "mode": f"{int(entry['mode'], 8):04o}"}
        found = state(path)
        if found == wanted:
            continue
        before[entry["path"]], after[entry["path"]] = found, wanted
        if module.check_mode:
            continue
        try:
            # Closed to others until its owner and mode are set.
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            module.set_owner_if_different(entry["path"], owner, False)
            module.set_group_if_different(entry["path"], owner, False)
            path.chmod(int(entry["mode"], 8))
        except OSError as error:
            module.fail_json(msg=f"{path} cannot be made a directory of {owner}: {error.strerror}")
    module.exit_json(changed=bool(after), paths=list(after), diff={"before": before, "after": after})


if __name__ == "__main__":
    main()
