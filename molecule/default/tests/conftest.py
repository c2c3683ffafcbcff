"""Shared by tests of a deployed host. Outside molecule: pytest molecule/default/tests --hosts=docker://imaging-NAME."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from testinfra.host import Host
from wired import PROJECT, SANDBOX, Wired

SERVICES = (
    "postgresql@17-main.service",
    "imaging-orthanc.service",
    "imaging-keycloak.service",
    "imaging-gateway.service",
    "imaging-importer.service",
    "nginx.service",
    "prometheus.service",
    "prometheus-alertmanager.service",
    "prometheus-blackbox-exporter.service",
    "prometheus-nginx-exporter.service",
    "prometheus-node-exporter.service",
    "prometheus-postgres-exporter.service",
    "mtail.service",
)


def environment_of(host: Host) -> str:
    """The installation's name (`imaging_environment`), from the name of its sandbox host."""
    name: str = host.backend.name
    return name.removeprefix("imaging-")


def inventory_of(host: Host) -> Path:
    """The inventory that a host was deployed from: molecule's own moves every address and port."""
    own = PROJECT / "molecule/default/inventory"
    return own if environment_of(host) == "molecule" else SANDBOX


@cache
def _wired(inventory: Path) -> Wired:
    return Wired(inventory)


@pytest.fixture
def wired(host: Host) -> Wired:
    """The variables that the host was deployed with, its addresses and ports among them."""
    return _wired(inventory_of(host))


def show(host: Host, unit: str, *properties: str) -> dict[str, str]:
    """Properties of a unit, as systemctl shows them."""
    arguments = " ".join(f"--property={name}" for name in properties)
    lines = host.check_output(f"systemctl show {arguments} {unit}").splitlines()
    return dict(line.split("=", 1) for line in lines)


@pytest.fixture(scope="session")
def secrets(request: pytest.FixtureRequest) -> dict[str, str]:
    """Every generated secret of the installation: its name and its value."""
    (name,) = request.config.option.hosts.split(",")
    environment = name.removeprefix("docker://imaging-")
    directory = Path.home() / ".local/share/imaging-platform" / environment / "secrets"
    # The password lookup may write a salt behind the password.
    found = {
        str(path.relative_to(directory)): path.read_text().split()[0]
        for path in directory.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }
    assert found, f"no secrets in {directory}"
    return found


class SecretSearch:
    """Looks on a host for texts, without ever writing one into a command line or a log."""

    PATTERNS = "/run/imaging-test-patterns"
    GREP = f"grep --text --fixed-strings --file={PATTERNS}"
    # As root: places that may not hold a secret even in a file that only root reads.
    PLACES = {  # noqa: RUF012
        "the journal": f"journalctl --no-pager --output=cat | {GREP}",
        "a log file": f"{GREP} --recursive --files-with-matches --exclude-dir=journal /var/log",
        "a temporary file": f"{GREP} --recursive --files-with-matches /tmp /var/tmp /root",
        "a process's arguments": f"{GREP} --files-with-matches /proc/[0-9]*/cmdline",
        "a process's environment": f"{GREP} --files-with-matches /proc/[0-9]*/environ",
        "a file that others may read": (
            "find / -xdev -type f -perm -o=r -size -2M -not -path '/usr/*' -print0"
            f" | xargs -0 {GREP} --files-with-matches"
        ),
        "a unit": f"systemctl show '*' --all --no-pager | {GREP}",
    }

    def __init__(self, container: str) -> None:
        self.container = container

    def _write(self, path: str, content: str) -> None:
        command = ["docker", "exec", "--interactive", self.container, "sh", "-c", f"umask 077; cat > {path}"]
        subprocess.run(command, input=content, text=True, check=True)

    def places_of(self, *texts: str) -> dict[str, int]:
        """Where one of the texts is found, and in how many lines or files."""
        self._write(self.PATTERNS, "\n".join(texts) + "\n")
        places = {}
        for place, command in self.PLACES.items():
            shell = ["docker", "exec", self.container, "sh", "-c", f"{{ {command}; }} 2>/dev/null | wc --lines"]
            count = int(subprocess.run(shell, capture_output=True, text=True, check=True).stdout)
            if count:
                places[place] = count
        return places

    def forget(self) -> None:
        subprocess.run(["docker", "exec", self.container, "rm", "-f", self.PATTERNS], check=True)


@pytest.fixture
def secret_search(host: Host) -> Iterator[SecretSearch]:
    search = SecretSearch(host.backend.name)
    yield search
    search.forget()
