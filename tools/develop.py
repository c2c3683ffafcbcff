#!/usr/bin/env python3
"""Let the gateway and the importer of a sandbox host run from the working tree, for `make up-dev`.

When a file is saved, it is copied and its service restarted. Both services log every detail, and the host's Prometheus
answers on this machine. The end (Ctrl-C) takes everything back but the code; `make up` takes back the code too. It uses
only the standard library, as sandbox.py does.
"""

from __future__ import annotations

import argparse
import io
import signal
import subprocess
import sys
import tarfile
import time
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[1]
SERVICES = ("gateway", "importer")
# In /run: a reboot forgets it.
DROP_IN = "/run/systemd/system/imaging-{}.service.d/develop.conf"
VERBOSE = "[Service]\nEnvironment=IMAGING_LOG_LEVEL=DEBUG\n"


class DevelopError(Exception):
    """A problem that the person at the terminal has to solve. The message says what and how."""


def say(text: str) -> None:
    print(f"develop: {text}", flush=True)


def on_host(name: str, script: str, given: bytes = b"") -> str:
    command = ["docker", "exec", "--interactive", name, "sh", "-ec", script]
    done = subprocess.run(command, input=given, capture_output=True, check=False)
    if done.returncode:
        raise DevelopError(f"{name}: {done.stderr.decode().strip()}")
    return done.stdout.decode()


def read(package: Path) -> dict[str, bytes]:
    """The package's modules, by their path in it."""
    return {str(path.relative_to(package)): path.read_bytes() for path in sorted(package.rglob("*.py"))}


def packed(modules: dict[str, bytes]) -> bytes:
    """The modules as a tar, owned by root."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in modules.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(content), int(time.time())
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def deploy(name: str, service: str, modules: dict[str, bytes]) -> None:
    """Replace the host's modules by exactly these, and restart. After a typing error, the host stays as it is."""
    try:
        for module, content in modules.items():
            compile(content, module, "exec")
    except SyntaxError as error:
        say(f"{service}: {error}; the host keeps what it had")
        return
    place = f"/opt/imaging/{service}/imaging_{service}"
    on_host(name, f"find {place} -mindepth 1 -delete; tar -x -C {place}", packed(modules))
    # Type=notify: systemd reports a service that fails to start, and starts it again, as the next change does.
    try:
        on_host(name, f"systemctl restart imaging-{service}")
        say(f"{service}: runs from the working tree")
    except DevelopError:
        say(f"{service}: does not start, see `make logs`")


def tunnel(name: str, port: int) -> subprocess.Popen[bytes]:
    """Forward the port of this machine's loopback to the host's Prometheus, which listens on its own loopback only."""
    services = tomllib.loads(on_host(name, "cat /etc/imaging/status.toml"))["services"]
    (prometheus,) = (urlsplit(service["url"]).netloc for service in services if service["name"] == "Prometheus")
    state = Path.home() / ".local/share/imaging-platform" / name.removeprefix("imaging-") / "ssh"
    options = [f"UserKnownHostsFile={state}/known_hosts", "ExitOnForwardFailure=yes", "BatchMode=yes"]
    command = ["ssh", "-N", "-i", str(state / "id_ed25519"), "-L", f"127.0.0.1:{port}:{prometheus}"]
    command += [f"-o{option}" for option in options]
    return subprocess.Popen([*command, f"root@{name.replace('-', '.', 1)}.test"])


def end(name: str) -> None:
    """Take the verbose logs back, if they are on."""
    drop_ins = " ".join(DROP_IN.format(service) for service in SERVICES)
    units = " ".join(f"imaging-{service}" for service in SERVICES)
    script = f"""
        test "$(ls {drop_ins} 2>/dev/null)" || exit 0
        rm -f {drop_ins}; systemctl daemon-reload; systemctl restart {units}
    """
    on_host(name, script)


def run(name: str, source: Path, port: int) -> None:
    """Watch until SIGINT or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # A shell that starts it in the background would make it ignore SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    forward = tunnel(name, port)
    try:
        for service in SERVICES:
            path = DROP_IN.format(service)
            on_host(name, f"mkdir -p $(dirname {path}); cat > {path}", VERBOSE.encode())
        on_host(name, "systemctl daemon-reload")
        deployed: dict[str, dict[str, bytes]] = {}
        while True:
            for service in SERVICES:
                modules = read(source / service / f"src/imaging_{service}")
                if modules != deployed.get(service):
                    deploy(name, service, modules)
                    first = len(deployed) < len(SERVICES)
                    deployed[service] = modules
                    if first and len(deployed) == len(SERVICES):
                        say(f"Prometheus is at http://127.0.0.1:{port}/, logs by `make logs`; Ctrl-C ends")
            if forward.poll() is not None:
                raise DevelopError(f"the way to Prometheus is closed: is port {port} of this machine taken?")
            time.sleep(0.5)
    except KeyboardInterrupt:
        say("the code stays until the next `make up`")
    finally:
        forward.terminate()
        forward.wait()
        end(name)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("action", choices=["run", "end"])
    parser.add_argument("--name", default="imaging-sandbox", help="name of the host (default: %(default)s)")
    parser.add_argument("--source", type=Path, default=ROOT / "files", help="where the services' sources are")
    parser.add_argument("--port", type=int, default=9090, help="of this machine, for Prometheus (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        if arguments.action == "run":
            run(arguments.name, arguments.source, arguments.port)
        else:
            end(arguments.name)
    except DevelopError as error:
        print(f"develop: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
