#!/usr/bin/env python3
"""Throw-away Debian 13 hosts with systemd, for `make up`, molecule and the tests.

A host is a Docker container that boots systemd. Its image is built here with mmdebstrap, so no image registry is asked.
If something is missing on the controller (docker.io, mmdebstrap, a running daemon), it is installed and started first.
Only the standard library is used, because this runs before anything is installed.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

STATE = Path("/var/lib/imaging-sandbox")
DAEMON_LOG = STATE / "dockerd.log"
DAEMON_PID = STATE / "dockerd.pid"
HOSTS = Path("/etc/hosts")
SUITE = "trixie"
PACKAGES = "systemd systemd-sysv dbus python3 python3-apt ca-certificates iproute2 procps sudo openssh-server tzdata"
# Packages that systemd needs to run as PID 1 in a container, and that the roles need too (nftables, unit sandboxing).
CAPABILITIES = (
    "AUDIT_CONTROL AUDIT_READ DAC_READ_SEARCH IPC_LOCK LEASE NET_ADMIN SYS_ADMIN SYS_BOOT SYS_NICE SYS_PTRACE SYS_TIME "
    "SYS_TTY_CONFIG SYSLOG"
)
MINIMUM_MEMORY_MB = 3500
MINIMUM_DISK_MB = 8000


class SandboxError(Exception):
    """A problem that the person at the terminal has to solve. The message says what and how."""


def say(text: str) -> None:
    print(f"sandbox: {text}", flush=True)


def run(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command; its standard error is shown in full when it fails."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and result.returncode != 0:
        detail = (result.stderr + result.stdout).strip()
        raise SandboxError(f"`{' '.join(command[:4])} …` failed (exit code {result.returncode}): {detail[-2000:]}")
    return result


@contextmanager
def locked(what: str) -> Iterator[None]:
    """Hold a lock, so that two sandboxes can be made at once. The kernel frees the lock when its holder ends."""
    STATE.mkdir(mode=0o755, exist_ok=True)
    with (STATE / f"{what}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# ---------------------------------------------------------------------------------------------------------------------
# The controller: the programs that must be there before a host can be made


def check_controller() -> None:
    """Report all problems before anything is changed."""
    problems = []
    if sys.version_info < (3, 11):  # noqa: UP036 # older ones are what this is about
        problems.append(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}")
    if os.geteuid() != 0:
        problems.append("root is needed to install packages and run Docker: start again with sudo")
    if not (shutil.which("docker") and shutil.which("mmdebstrap")) and not shutil.which("apt-get"):
        problems.append("docker.io and mmdebstrap are not installed and there is no apt-get to install them with")
    memory_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    if memory_mb < MINIMUM_MEMORY_MB:
        problems.append(f"this machine has {memory_mb} MB of memory, a sandbox needs {MINIMUM_MEMORY_MB} MB")
    free_mb = shutil.disk_usage("/var/lib").free // 2**20
    if free_mb < MINIMUM_DISK_MB:
        problems.append(f"/var/lib has {free_mb} MB free, a sandbox needs {MINIMUM_DISK_MB} MB")
    if problems:
        raise SandboxError("; ".join(problems))


def install_packages() -> None:
    wanted = {"dockerd": "docker.io", "docker": "docker.io", "mmdebstrap": "mmdebstrap", "iptables": "iptables"}
    wanted |= {"ssh": "openssh-client", "ssh-keygen": "openssh-client"}
    missing = sorted({package for binary, package in wanted.items() if not shutil.which(binary)})
    if missing:
        say(f"installing {', '.join(missing)}")
        run("apt-get", "update", "-qq")
        run("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-qq", *missing)


def daemon_answers() -> bool:
    return run("docker", "version", "--format", "{{.Server.Version}}", check=False).returncode == 0


def pure_cgroup2() -> bool:
    return Path("/sys/fs/cgroup/cgroup.controllers").exists()


def processes_named(name: str) -> list[int]:
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and (entry / "comm").exists() and _comm(entry) == name
    ]


def _comm(entry: Path) -> str:
    try:
        return (entry / "comm").read_text().strip()
    except OSError:  # it ended between the look and the read
        return ""


def start_daemon() -> None:
    """Make a Docker daemon answer: systemd's if there is one, else one of ours."""
    if daemon_answers():
        return
    if Path("/run/systemd/system").is_dir():
        say("starting docker.service")
        run("systemctl", "start", "docker.service")
    else:
        say("starting a Docker daemon")
        if not processes_named("dockerd"):
            # A daemon that was killed left the file. If another process has its number now, dockerd would not start.
            for stale in (Path("/var/run/docker.pid"), *Path("/var/run/docker").glob("containerd/*.pid")):
                stale.unlink(missing_ok=True)
            for containerd in processes_named("containerd"):
                os.kill(containerd, signal.SIGTERM)
        command = "exec dockerd --storage-driver=overlay2"
        if not pure_cgroup2():
            # systemd in the host needs cgroup2. It is mounted only in the daemon's own mount namespace.
            command = f"umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && {command}"
        with DAEMON_LOG.open("ab") as log:
            daemon = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
            )
        DAEMON_PID.write_text(str(daemon.pid))
    wait_for("the Docker daemon", daemon_answers, 60, f"see {DAEMON_LOG}")


def wait_for(what: str, ready: Callable[[], bool], seconds: int, hint: str) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise SandboxError(f"{what} did not become ready within {seconds} s: {hint}")
        time.sleep(0.3)


def stop_daemon() -> None:
    """Stop the daemon that `start_daemon` started, and no other."""
    if not DAEMON_PID.exists():
        return
    pid = int(DAEMON_PID.read_text())
    DAEMON_PID.unlink()
    if pid in processes_named("dockerd"):
        os.kill(pid, signal.SIGTERM)
        wait_for("the end of the Docker daemon", lambda: pid not in processes_named("dockerd"), 30, f"see {DAEMON_LOG}")


# ---------------------------------------------------------------------------------------------------------------------
# The image


def apt_options() -> list[str]:
    """The controller's `Acquire::Check-*` settings. With a mirror snapshot past its date, the host needs them too."""
    dump = run("apt-config", "dump").stdout
    return re.findall(r'^(Acquire::Check-[\w-]+ "[^"]*";)$', dump, re.MULTILINE)


def build_image() -> str:
    """Return the image's name. Build the image if this controller has not built this recipe yet."""
    command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}", "--format=tar"]
    command += [f"--aptopt={option}" for option in apt_options()]
    # A host has its own identity: its machine id comes with the first boot, its ssh keys with `admit_controller`.
    command += ["--customize-hook=rm -f $1/etc/machine-id $1/var/lib/dbus/machine-id $1/etc/ssh/ssh_host_*"]
    # Docker, not networkd, sets up the network. Waiting for networkd would only end by its timeout of two minutes.
    tarball = STATE / "image.tar"
    command += ["--customize-hook=systemctl --root=$1 mask systemd-networkd-wait-online.service", SUITE, str(tarball)]

    # The command is the recipe; a new month brings new packages.
    recipe = json.dumps([command, time.strftime("%Y-%m")])
    image = f"imaging-sandbox:{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    if run("docker", "image", "inspect", image, check=False).returncode == 0:
        return image
    say(f"building the host image (Debian {SUITE}, about half a minute)")
    run(*command)
    run("docker", "import", str(tarball), image)
    tarball.unlink()
    return image


# ---------------------------------------------------------------------------------------------------------------------
# The host


def inspect(name: str) -> dict[str, object] | None:
    result = run("docker", "inspect", "--type", "container", name, check=False)
    return json.loads(result.stdout)[0] if result.returncode == 0 else None


def address_of(name: str) -> str:
    return run("docker", "inspect", "--format", "{{.NetworkSettings.IPAddress}}", name).stdout.strip()


def create(name: str, domain: str, image: str) -> None:
    say(f"creating the host {name}")
    command = [
        "docker",
        "run",
        "--detach",
        "--tty",
        "--name",
        name,
        "--hostname",
        name,
        "--add-host",
        f"{domain}:127.0.0.1",
    ]
    command += ["--cgroupns=host", "--volume=/sys/fs/cgroup:/sys/fs/cgroup:rw", "--tmpfs=/run", "--tmpfs=/tmp"]
    command += ["--env=container=docker", "--security-opt=seccomp=unconfined", "--security-opt=apparmor=unconfined"]
    command += [f"--label=imaging.domain={domain}", "--stop-signal=SIGRTMIN+3"]
    command += [f"--cap-add={capability}" for capability in CAPABILITIES.split()]
    # In a container, systemd does not change mount propagation, and a unit's credentials need it shared.
    run(*command, image, "sh", "-c", "mount --make-rshared / && exec /sbin/init")


def booted(name: str) -> bool:
    state = run("docker", "exec", name, "systemctl", "is-system-running", check=False).stdout.strip()
    return state in {"running", "degraded"}


def name_host(domain: str, address: str | None, name: str) -> None:
    """Let the controller resolve `domain` to the host; None removes the line."""
    mark = f"# {name}"
    with locked("hosts"):
        old = HOSTS.read_text()
        lines = [line for line in old.splitlines() if not line.endswith(mark)]
        if address:
            lines.append(f"{address} {domain} {mark}")
        new = "\n".join(lines) + "\n"
        if new != old:
            # The file is not replaced, because in a container it is a mount. It is never empty, because others look
            # names up.
            with HOSTS.open("r+") as hosts:
                hosts.write(new)
                hosts.truncate()


def admit_controller(name: str, domain: str) -> None:
    """Let Ansible in by ssh, as on a real host: a key of this sandbox, and the host's own key known beforehand."""
    directory = Path.home() / ".local/share/imaging-platform" / name.removeprefix("imaging-") / "ssh"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = directory / "id_ed25519"
    if not key.exists():
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(key))
    public_key = key.with_suffix(".pub").read_text().strip()
    script = f"""
        umask 077 && mkdir -p /root/.ssh && echo '{public_key}' > /root/.ssh/authorized_keys
        ls /etc/ssh/ssh_host_ed25519_key > /dev/null 2>&1 || {{ ssh-keygen -A > /dev/null && systemctl restart ssh; }}
        cat /etc/ssh/ssh_host_ed25519_key.pub
    """
    host_key = run("docker", "exec", name, "sh", "-c", script).stdout.split()
    (directory / "known_hosts").write_text(f"{domain} {host_key[0]} {host_key[1]}\n")


def up(name: str, domain: str) -> None:
    check_controller()
    with locked("controller"):
        install_packages()
        start_daemon()
        host = inspect(name)
        image = build_image() if host is None else ""
    if host is None:
        create(name, domain, image)
    elif not host["State"]["Running"]:  # type: ignore[index]
        say(f"starting the host {name}")
        run("docker", "start", name)
    wait_for(f"the host {name}", lambda: booted(name), 90, f"see `docker logs {name}`")
    name_host(domain, address_of(name), name)
    admit_controller(name, domain)
    say(f"the host {name} is up at {address_of(name)} ({domain})")


def down(name: str, domain: str) -> None:
    if shutil.which("docker"):
        with locked("controller"):
            start_daemon()
        if inspect(name):
            run("docker", "rm", "--force", "--volumes", name)
            say(f"the host {name} is gone")
    name_host(domain, None, name)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("action", choices=["check", "up", "down", "stop-daemon"])
    parser.add_argument("--name", default="imaging-sandbox", help="name of the host (default: %(default)s)")
    parser.add_argument("--domain", help="its domain (default: made from the name: imaging-x → imaging.x.test)")
    arguments = parser.parse_args()
    domain = arguments.domain or arguments.name.replace("-", ".", 1) + ".test"
    try:
        if arguments.action == "check":
            check_controller()
        elif arguments.action == "up":
            up(arguments.name, domain)
        elif arguments.action == "down":
            down(arguments.name, domain)
        else:
            stop_daemon()
    except SandboxError as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
