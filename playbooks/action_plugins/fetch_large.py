"""Ansible action: bring a file of any size from a host to the controller. See library/fetch_large.py.

In pieces, because Ansible hands over what a command as root says only as a whole; scp and sftp know nothing of becoming
root, and a backup file with everybody's images should not be made readable to somebody else for their sake.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import os
import shlex
from typing import Any

from ansible.errors import AnsibleActionFail  # type: ignore[import-untyped]
from ansible.plugins.action import ActionBase  # type: ignore[import-untyped]

PIECE_BYTES = 8 * 2**20


class ActionModule(ActionBase):  # type: ignore[misc]
    """`fetch_large`."""

    _VALID_ARGS = frozenset({"src", "dest"})

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Copy piece by piece; the digest of the whole tells whether all of them arrived as they were."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        source = shlex.quote(self._task.args["src"])
        sent = self._on_host(f"sha256sum < {source}").split()[0]
        received, size = hashlib.sha256(), 0
        with open(self._task.args["dest"], "wb", opener=_private) as destination:
            for number in itertools.count():
                command = f"dd if={source} bs={PIECE_BYTES} skip={number} count=1 iflag=fullblock status=none | base64"
                piece = base64.b64decode(self._on_host(command))
                destination.write(piece)
                received.update(piece)
                size += len(piece)
                if len(piece) < PIECE_BYTES:
                    break
        if received.hexdigest() != sent:
            raise AnsibleActionFail(f"{self._task.args['src']} was changed meanwhile, or damaged on its way here")
        return result | {"changed": True, "size": size, "sha256": sent}

    def _on_host(self, command: str) -> str:
        done = self._low_level_execute_command(command)
        if done["rc"] != 0:
            raise AnsibleActionFail(f"{self._task.args['src']} cannot be read on the host: {done['stderr'].strip()}")
        return str(done["stdout"])


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, mode=0o600)
