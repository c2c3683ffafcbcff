"""Ansible callback: what a command said on the hosts, and nothing else, so that scripts can read it."""

from __future__ import annotations

import sys

from ansible.executor.task_result import CallbackTaskResult  # type: ignore[import-untyped]
from ansible.plugins.callback import CallbackBase  # type: ignore[import-untyped]

DOCUMENTATION = r"""
name: said_by_host
type: stdout
short_description: Prints what a command said on the hosts
description:
  - Prints the standard output of an ad-hoc command as it came, host after host, whether or not the command succeeded.
  - Why a host could not be asked goes to standard error.
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """`said_by_host`."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "said_by_host"

    def v2_runner_on_ok(self, result: CallbackTaskResult) -> None:
        """The command succeeded."""
        print(result.result["stdout"])

    def v2_runner_on_failed(self, result: CallbackTaskResult, ignore_errors: bool = False) -> None:  # noqa: ARG002 - Ansible's own
        """The command failed, which its output tells, or it was never run."""
        if said := result.result.get("stdout"):
            print(said)
        else:
            print(f"{result.host.name}: {result.result['msg']}", file=sys.stderr)

    def v2_runner_on_unreachable(self, result: CallbackTaskResult) -> None:
        """Nobody answers at the host's address."""
        print(f"{result.host.name}: {result.result['msg']}", file=sys.stderr)
