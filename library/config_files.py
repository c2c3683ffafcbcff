#!/usr/bin/python
"""Lay down the files of a role in one round trip. Rendering is done by playbooks/action_plugins/config_files.py."""

from __future__ import annotations

DOCUMENTATION = r"""
module: config_files
short_description: Lay down the files of a role, all valid or none
description:
  - Writes a list of files as C(ansible.builtin.template) writes one. Each task asks the host once. A deployment that
    changes nothing consists mostly of such questions.
  - Every file that would change is validated before the first is replaced. So a fault in one leaves all as they were.
  - Missing parent directories of a file are made. They belong to root and have the mode 0755.
options:
  files:
    description: The files.
    type: list
    elements: dict
    required: true
    suboptions:
      dest:
        description: Absolute path on the host.
        type: path
        required: true
      template:
        description: Name of a template of the role. Either this or O(files[].content) is required.
        type: str
      vars:
        description: Variables of this template alone, beside those of the task.
        type: dict
        default: {}
      content:
        description: The text itself.
        type: str
      mode:
        description: Permissions, as octal text.
        type: str
        default: "0644"
      owner:
        description: User and group that own it.
        type: str
        default: root
      validate:
        description: Command that refuses a faulty file. C(%s) is a draft that has the file's own name.
        type: str
attributes:
  check_mode:
    support: full
    description: Tells which files would change. Nothing is validated, because what validates may not be installed yet.
  diff_mode:
    support: full
    description: Shows each file before and after. Use C(no_log) for files with secrets.
author: [The imaging platform's authors]
"""

EXAMPLES = r"""
- name: Configure the gateway
  config_files:
    files:
      - {template: gateway.toml.j2, dest: /etc/imaging/gateway.toml}
      - template: imaging-gateway.service.j2
        dest: /etc/systemd/system/imaging-gateway.service
        validate: systemd-analyze verify %s
  notify: Restart the gateway
"""

RETURN = r"""
files:
  description: Paths that were written or whose owner or mode was changed, or would be.
  returned: always
  type: list
  elements: str
"""

import shlex
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule  # type: ignore[import-untyped]


class ConfigFile:
    """One of the files: its present state and its wanted state."""

    def __init__(self, module: AnsibleModule, wanted: dict[str, Any]) -> None:
        self._module = module
        self._wanted = wanted
        self.path = Path(wanted["dest"])
        self.before = self.path.read_text(encoding="utf-8", errors="replace") if self.path.is_file() else ""
        self.after: str = wanted["content"]
        self.outdated = not self.path.is_file() or self.before != self.after

    def draft(self) -> Path:
        """Write the text to a temporary directory and have it validated. Ends the module when it is refused."""
        # Each has its own directory: two files may have one name, and the validating program may look at the name.
        path = Path(self._module.tmpdir) / self.path.relative_to("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(self.after, encoding="utf-8")
        if self._wanted["validate"]:
            command = [word.replace("%s", str(path)) for word in shlex.split(self._wanted["validate"])]
            status, output, errors = self._module.run_command(command)
            if status != 0:
                told = (errors + output).strip()
                self._module.fail_json(msg=f"{self.path} would be faulty, so nothing was changed: {told}")
        return path

    def replace(self, draft: Path) -> None:
        """Put the draft in the file's place."""
        self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._module.atomic_move(str(draft), str(self.path))

    def set_access(self) -> bool:
        """Give owner and mode to a file that is there; whether they were others."""
        if not self.path.exists():
            return False
        changed = self._module.set_owner_if_different(str(self.path), self._wanted["owner"], False)
        changed = self._module.set_group_if_different(str(self.path), self._wanted["owner"], changed)
        return bool(self._module.set_mode_if_different(str(self.path), int(self._wanted["mode"], 8), changed))

    def difference(self) -> dict[str, str]:
        """The texts as Ansible shows them with `--diff`."""
        return {
            "before_header": str(self.path),
            "after_header": str(self.path),
            "before": self.before,
            "after": self.after,
        }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "files": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "dest": {"type": "path", "required": True},
                    "content": {"type": "str", "required": True},
                    "mode": {"type": "str", "default": "0644"},
                    "owner": {"type": "str", "default": "root"},
                    "validate": {"type": "str"},
                },
            }
        },
        supports_check_mode=True,
        no_log=True,  # the host's own log has no use for every file's text
    )
    try:
        files = [ConfigFile(module, wanted) for wanted in module.params["files"]]
        outdated = [file for file in files if file.outdated]
        if not module.check_mode:
            drafts = [(file, file.draft()) for file in outdated]
            for file, draft in drafts:
                file.replace(draft)
        changed = [str(file.path) for file in files if file.set_access() or file.outdated]
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror}")
    module.exit_json(changed=bool(changed), files=changed, diff=[file.difference() for file in outdated])


if __name__ == "__main__":
    main()
