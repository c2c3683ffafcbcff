"""Ansible action: render a role's templates and send them to the host together. See library/config_files.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail  # type: ignore[import-untyped]
from ansible.plugins.action import ActionBase  # type: ignore[import-untyped]
from ansible.template import trust_as_template  # type: ignore[import-untyped]


class ActionModule(ActionBase):  # type: ignore[misc]
    """`config_files`."""

    _VALID_ARGS = frozenset({"files"})

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Render every file that names a template, then let the module compare and write."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        files = [self._with_content(dict(file), task_vars or {}) for file in self._task.args["files"]]
        result.update(self._execute_module("config_files", {"files": files}, task_vars=task_vars))
        return result

    def _with_content(self, file: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        if ("template" in file) == ("content" in file):
            raise AnsibleActionFail(f"{file.get('dest')}: give either a template or the content")
        if "template" in file:
            source = self._find_needle("templates", file.pop("template"))
            task_vars = {**task_vars, **file.pop("vars", {})}
            templar = self._templar.copy_with_new_env(
                searchpath=[str(Path(source).parent)], available_variables=task_vars
            )
            text = trust_as_template(self._loader.get_text_file_contents(source))
            # As ansible.builtin.template renders.
            file["content"] = templar.template(text, escape_backslashes=False, overrides={"trim_blocks": True})
        return file
