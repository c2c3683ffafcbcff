#!/usr/bin/env python3
"""Restore the newest backup into a throw-away host on this controller, log in there, and report the result.

The host is deployed from the platform's own inventory under the platform's own name. It has passwords of its own, and
its alerts are sent to nobody. The host and all fetched files are removed in any case, also when a signal stops the
drill. A stopped drill reports nothing to the platform, because it says nothing about the backup.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
PLAYBOOKS = ROOT / "playbooks/restore-drill"
SANDBOX = [sys.executable, str(ROOT / "tools/sandbox.py")]
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class DrillError(Exception):
    """The reason why the backup was not restored."""


class Stopped(BaseException):
    """Somebody stops the drill before its end. The argument is the signal's number."""


def stop(number: int, _: FrameType | None) -> NoReturn:
    """End the command that the drill waits for, and then the drill. Raises Stopped."""
    raise Stopped(number)


def say(text: str) -> None:
    print(f"restore-drill: {text}", flush=True)


def run(*command: str) -> None:
    """Run a command whose output people see. Raises DrillError."""
    try:
        # It has a session of its own, so that everything it has started ends with it when the drill is stopped.
        started = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, start_new_session=True)
    except FileNotFoundError as error:
        raise DrillError(f"{command[0]} is not installed on this controller") from error
    try:
        code = started.wait()
    except Stopped:
        os.killpg(started.pid, signal.SIGTERM)
        try:
            started.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
        raise
    if code:
        raise DrillError(f"`{' '.join(command[:4])} …` failed; the reason is above")


def play(playbook: str, inventory: Path, **variables: str) -> None:
    """Run a playbook of the drill. Raises DrillError."""
    command = [str(Path(sys.executable).with_name("ansible-playbook")), str(PLAYBOOKS / playbook)]
    run(*command, "--inventory", str(inventory), "--extra-vars", json.dumps(variables))


def variables_of(inventory: Path, host: str) -> dict[str, object]:
    """The inventory's variables of the platform's host, not evaluated: encrypted values stay encrypted."""
    command = [str(Path(sys.executable).with_name("ansible-inventory")), "--inventory", str(inventory), "--host", host]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DrillError(f"the inventory {inventory} cannot be read: {done.stderr.strip()}")
    return {name: value for name, value in json.loads(done.stdout).items() if not name.startswith("ansible_")}


def write_inventory(state: Path, variables: dict[str, object], name: str, domain: str) -> Path:
    """Write an inventory of the throw-away host alone, with the variables of the platform's host; return its file."""
    host = variables | {
        "ansible_host": domain,
        "ansible_user": "root",
        "ansible_become": False,
        "ansible_ssh_private_key_file": str(state / "ssh/id_ed25519"),
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={state / 'ssh/known_hosts'}",
        "sandbox_container": name,
        "imaging_secrets_path": str(state / "secrets"),
        # Only this host itself takes it for the platform.
        "imaging_tls_mode": "self-signed",
        "imaging_backup_repository": "",
        "imaging_alert_email_to": [],
        "imaging_alert_webhook_urls": [],
        # The user who logs in at the end is no person with a phone.
        "imaging_second_factor": "nobody",
        "grafana_required": False,
    }
    file = state / "hosts.json"
    file.write_text(json.dumps({"imaging": {"hosts": {"drill": host}}}))
    return file


def drill(state: Path, inventory: Path, name: str, domain: str, key: Path | None) -> str:
    """Fetch the newest backup; return its path on the platform. Raises DrillError."""
    play("fetch.yml", inventory, drill_path=str(state))
    platform = json.loads((state / "platform.json").read_text())
    backup_file = state / Path(platform["backup_file"]).name
    if backup_file.suffix == ".age":
        if key is None:
            raise DrillError(f"{backup_file.name} is encrypted: name the private key, KEY=FILE")
        run("age", "--decrypt", "--identity", str(key), "--output", str(backup_file.with_suffix("")), str(backup_file))
        backup_file.unlink()
        backup_file = backup_file.with_suffix("")
    run(*SANDBOX, "up", "--name", name, "--domain", domain)
    own = write_inventory(state, variables_of(inventory, platform["host"]), name, domain)
    on_host = Path(platform["backups"], backup_file.name)
    variables = {
        "backup_file": str(on_host),
        "drill_backup_file": str(backup_file),
        "confirmed": "1",
        "every_image": "1",
    }
    # The throw-away host has a key of its own.
    variables["trust"] = str(platform["key"])
    play("deploy.yml", own)
    play("restore.yml", own, **variables)
    return str(platform["backup_file"])


def main() -> int:
    """Run the drill; its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("inventory", type=Path, help="of the platform, as inventories/production")
    parser.add_argument("--name", required=True, help="of the throw-away host")
    parser.add_argument("--key", type=Path, help="private key of age or ssh, for encrypted backups")
    options = parser.parse_args()
    domain = options.name.replace("-", ".", 1) + ".test"
    state = Path.home() / ".local/share/imaging-platform" / options.name.removeprefix("imaging-")

    for each in STOPPING:
        # nohup makes it ignore the end of the terminal.
        if signal.getsignal(each) != signal.SIG_IGN:
            signal.signal(each, stop)
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
    except Stopped as stopped:
        say("stopped. The platform is told nothing, and is as it was")
        return 128 + int(stopped.args[0])
    finally:
        # No signal interrupts the removal.
        for each in STOPPING:
            signal.signal(each, signal.SIG_IGN)
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
