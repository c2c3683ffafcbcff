#!/usr/bin/env python3
"""Run a command on the host of an inventory that does a job: on_host.py INVENTORY JOB [--tty] -- COMMAND…

Ansible's own variables say where the host is, which user logs in and with which key. The words of the command arrive
unchanged. Output and exit status are the command's.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ansible import constants  # type: ignore[import-untyped]
from ansible.cli.inventory import InventoryCLI  # type: ignore[import-untyped]
from ansible.errors import AnsibleError  # type: ignore[import-untyped]
from ansible.module_utils.parsing.convert_bool import boolean  # type: ignore[import-untyped]
from ansible.plugins.loader import become_loader, connection_loader, init_plugin_loader  # type: ignore[import-untyped]
from ansible.template import Templar  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "playbooks/lookup_plugins"))

from hosts_of import EVERY_HOST, JOBS, find_hosts  # noqa: E402


class HostError(Exception):
    """The reason why no host can be asked, in words for the administrator."""


@dataclass(frozen=True)
class Host:
    """The way to the host: the words of ssh, or none for this machine, and the user who runs the command."""

    ssh: tuple[str, ...]
    address: str
    sudo_user: str = ""
    sudo_password: str = field(default="", repr=False)

    def command(self, words: list[str], *, tty: bool = False) -> list[str]:
        """The command for this machine that runs the words there."""
        if self.sudo_user:
            # On a terminal, sudo asks for a password.
            asked = [] if tty else ["--stdin", "--prompt="] if self.sudo_password else ["--non-interactive"]
            if self.sudo_password and not tty:
                # Where sudo needs no password it reads none, and the command would read it, psql even log it.
                words = ["sh", "-c", 'exec "$@" </dev/null', "sh", *words]
            words = ["sudo", *asked, f"--user={self.sudo_user}", "--", *words]
        if not self.ssh:
            return words
        # ssh sends one text to the login user's shell.
        return [*self.ssh, *(["-t"] if tty else []), "--", self.address, shlex.join(words)]


def variables_of(inventory: str, job: str) -> dict[str, Any]:
    """The inventory's variables of the one host that does the job, evaluated by Ansible. Raises HostError."""
    client = InventoryCLI(["ansible-inventory", "--inventory", inventory, "--list"])
    client.parse()
    init_plugin_loader()
    try:
        loader, known, manager = client._play_prereqs()  # as ansible-inventory begins
        groups = known.get_groups_dict()
        hosts = find_hosts(job, groups)
        if len(hosts) != 1:
            group = job if groups.get(job) else EVERY_HOST
            names = f" ({', '.join(hosts)})" if hosts else ""
            raise HostError(
                f"the group {group} of the inventory {inventory} has {len(hosts) or 'no'} hosts{names}. "
                "This command is for exactly one. Nothing was run."
            )
        said = manager.get_vars(host=known.get_host(hosts[0]))
        templar = Templar(loader=loader, variables=said)
        ours = {"inventory_hostname", "ansible_connection", "ansible_become", "ansible_become_method"}
        for loader, kind, plugin in ((connection_loader, "connection", "ssh"), (become_loader, "become", "sudo")):
            loader.get(plugin, class_only=True)
            ours |= set(constants.config.get_plugin_vars(kind, plugin))
        return {name: templar.template(said[name]) for name in ours if name in said}
    except AnsibleError as error:
        raise HostError(f"the inventory {inventory} cannot be read: {error}") from error


def find(inventory: str, job: str) -> Host:
    """The one host that does the job. Raises HostError."""
    said = variables_of(inventory, job)
    name = said["inventory_hostname"]
    # These take aliases of a variable, the environment and ansible.cfg into account, as Ansible does.
    of_ssh = partial(constants.config.get_config_value, plugin_type="connection", plugin_name="ssh", variables=said)
    of_sudo = partial(constants.config.get_config_value, plugin_type="become", plugin_name="sudo", variables=said)
    connection, method = said.get("ansible_connection", "ssh"), said.get("ansible_become_method", "sudo")
    if connection not in ("ssh", "ansible.builtin.ssh", "local", "ansible.builtin.local"):
        raise HostError(f"the inventory {inventory} reaches {name} by {connection}; this command goes by ssh alone")
    local = connection.endswith("local")
    if not local and of_ssh("password"):
        raise HostError(f"the inventory {inventory} logs in to {name} with a password; this command needs a key")
    user = of_ssh("remote_user")
    sudo_user = of_sudo("become_user") if boolean(said.get("ansible_become", True)) else ""
    if sudo_user == user and not local:
        sudo_user = ""
    if sudo_user and method not in ("sudo", "ansible.builtin.sudo"):
        raise HostError(f"the inventory {inventory} becomes {sudo_user} on {name} by {method}; this command needs sudo")
    ssh = ["ssh", "-o", "LogLevel=ERROR"]
    if port := of_ssh("port"):
        ssh += ["-p", str(port)]
    if user:
        ssh += ["-l", user]
    if key := of_ssh("private_key_file"):
        ssh += ["-i", str(Path(key).expanduser())]
    if not of_ssh("host_key_checking"):
        ssh += ["-o", "StrictHostKeyChecking=no"]
    ssh += shlex.split(of_ssh("ssh_common_args")) + shlex.split(of_ssh("ssh_extra_args"))
    return Host(() if local else tuple(ssh), of_ssh("host"), sudo_user, of_sudo("become_pass") or "")


def main() -> int:
    """Run the command and return its exit status, unless its program replaces this one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("inventory")
    parser.add_argument("job", choices=[EVERY_HOST, *JOBS])
    parser.add_argument("--tty", action="store_true", help="the command is for somebody at a terminal")
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    asked, words = parser.parse_args(sys.argv[1:end]), sys.argv[end + 1 :]
    if not words:
        parser.error("there is no command after --")
    try:
        host = find(asked.inventory, asked.job)
    except HostError as error:
        print(f"on_host: {error}", file=sys.stderr)
        return 1
    # A program that reads from a pipe wants the bytes unchanged.
    tty = asked.tty and sys.stdin.isatty() and sys.stdout.isatty()
    command = host.command(words, tty=tty)
    try:
        if not host.sudo_password or tty:
            os.execvp(command[0], command)  # noqa: S606 # no shell is wanted
        return subprocess.run(command, input=f"{host.sudo_password}\n".encode(), check=False).returncode
    except FileNotFoundError:
        print(f"on_host: this machine has no program {command[0]}. Nothing was run.", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
