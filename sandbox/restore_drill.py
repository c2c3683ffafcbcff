#!/usr/bin/env python3
"""Restore the newest backup into a throw-away host on this controller, log in there, and tell the platform how it went.

The host is deployed from the platform's own inventory under the platform's own name, with passwords of its own, and
nobody is told of its alerts. Whatever happens, it and everything that was fetched are removed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLAYBOOKS = ROOT / "playbooks/restore-drill"
SANDBOX = [sys.executable, str(ROOT / "sandbox/sandbox.py")]


class DrillError(Exception):
    """Why the backup did not come back."""


def say(text: str) -> None:
    print(f"restore-drill: {text}", flush=True)


def run(*command: str) -> None:
    """Run a command whose output people see. Raises DrillError."""
    try:
        code = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, check=False).returncode
    except FileNotFoundError as error:
        raise DrillError(f"{command[0]} is not installed on this controller") from error
    if code:
        raise DrillError(f"`{' '.join(command[:4])} …` failed; the reason is above")


def play(playbook: str, inventory: Path, **variables: str) -> None:
    """Run a playbook of the drill. Raises DrillError."""
    command = [str(Path(sys.executable).with_name("ansible-playbook")), str(PLAYBOOKS / playbook)]
    run(*command, "--inventory", str(inventory), "--extra-vars", json.dumps(variables))


def write_inventory(state: Path, inventory: Path, name: str, domain: str) -> Path:
    """An inventory of the throw-away host alone, with the variables of the platform's; its directory."""
    host = {
        "ansible_host": domain,
        "ansible_user": "root",
        "ansible_become": False,
        "ansible_ssh_private_key_file": str(state / "ssh/id_ed25519"),
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={state / 'ssh/known_hosts'}",
        "sandbox_container": name,
        "imaging_secrets_path": str(state / "secrets"),
        # It is the platform only to itself.
        "imaging_tls_mode": "self-signed",
        "imaging_alert_email_to": [],
        "imaging_alert_webhook_urls": [],
        "grafana_required": False,
    }
    directory = state / "inventory"
    directory.mkdir(mode=0o700)
    (directory / "group_vars").symlink_to((ROOT / inventory / "group_vars").resolve())
    (directory / "hosts.json").write_text(json.dumps({"imaging": {"hosts": {"drill": host}}}))
    return directory


def drill(state: Path, inventory: Path, name: str, domain: str, key: Path | None) -> str:
    """Bring the newest backup back; its path on the platform. Raises DrillError."""
    play("fetch.yml", inventory, drill_path=str(state))
    platform = json.loads((state / "platform.json").read_text())
    archive = state / Path(platform["archive"]).name
    if archive.suffix == ".age":
        if key is None:
            raise DrillError(f"{archive.name} is encrypted: name the private key, KEY=FILE")
        run("age", "--decrypt", "--identity", str(key), "--output", str(archive.with_suffix("")), str(archive))
        archive.unlink()
        archive = archive.with_suffix("")
    run(*SANDBOX, "up", "--name", name, "--domain", domain)
    own = write_inventory(state, inventory, name, domain)
    on_host = Path(platform["backups"], archive.name)
    variables = {"archive": str(on_host), "drill_archive": str(archive), "confirmed": "1", "every_image": "1"}
    play("deploy.yml", own)
    play("restore.yml", own, **variables)
    return str(platform["archive"])


def main() -> int:
    """Run the drill; its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("inventory", type=Path, help="of the platform, as inventories/production")
    parser.add_argument("--name", required=True, help="of the throw-away host")
    parser.add_argument("--key", type=Path, help="private key of age or ssh, for encrypted backups")
    options = parser.parse_args()
    domain = options.name.replace("-", ".", 1) + ".test"
    state = Path.home() / ".local/share/imaging-platform" / options.name.removeprefix("imaging-")

    begun = time.monotonic()
    restored = ""
    try:
        run(*SANDBOX, "check")
        run(*SANDBOX, "down", "--name", options.name, "--domain", domain)
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir(mode=0o700, parents=True)
        restored = drill(state, options.inventory, options.name, domain, options.key)
    except DrillError as error:
        say(str(error))
    finally:
        seconds = time.monotonic() - begun
        subprocess.run([*SANDBOX, "down", "--name", options.name, "--domain", domain], check=False)
        shutil.rmtree(state, ignore_errors=True)
    try:
        play("report.yml", options.inventory, restored=restored, seconds=f"{seconds:.0f}")
    except DrillError:
        say("the platform was not told, because it did not answer")
        return 1
    if not restored:
        say("FAILED: the newest backup did not come back. The alert RestoreDrillFailed tells it")
        return 1
    say(f"{Path(restored).name} came back, and somebody logged in, {seconds:.0f} s after the beginning")
    return 0


if __name__ == "__main__":
    os.umask(0o077)
    sys.exit(main())
