"""Shows on one screen whether the platform is well: services, versions, ports, certificate, disks, backup, imports.

`imaging-status` ends with 1 if something is wrong. `--json` prints the same for scripts. `--services` looks only at the
services, as the end of a deployment does. It changes nothing and knows no secret. It runs as root, because the firewall
lets no other user ask every service.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from printable import printable
from strict_toml import SettingsError, read

CONFIGURATION = Path("/etc/imaging/status.toml")
CONTROLLERS = Path("/sys/fs/cgroup/cgroup.controllers")
TIMEOUT = 10
# Beyond these limits, something is wrong. The alerts of the role monitoring have the same limits.
CERTIFICATE_DAYS = 14
DISK_FREE = 0.2
BACKUP_HOURS = 36
REPOSITORY_MINUTES = 120
UNPROVEN_DAYS = 100
PENDING_SECONDS = 3600
TESTING_DAYS = 3


@dataclass(frozen=True)
class Service:
    """A service from the configuration. A health `url` must answer `expects`; a health `command` must end with 0.

    An https `url` is asked at `address`; the address of its name in DNS does not count.
    """

    name: str
    unit: str
    ports: list[int] = field(default_factory=list)
    package: str = ""
    version: str = ""
    url: str = ""
    address: str = ""
    expects: int = 200
    command: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Config:
    """All settings."""

    domain: str
    ca_file: str  # of the authority that signed nginx's certificate; empty if the host trusts it anyway
    paths: list[Path]  # paths on the disks to look at
    nginx: str  # address of nginx on this host
    importer: str  # address of its metrics
    metrics: Path  # directory of the node exporter's textfile collector
    services: list[Service]


@dataclass(frozen=True)
class ServiceState:
    """The observed state of a service; `trouble` is empty when it is well."""

    name: str
    unit: str
    state: str
    healthy: bool
    ports: list[int]
    version: str
    trouble: str


@dataclass(frozen=True)
class Fact:
    """One more fact that people want to know: in words, as numbers, and with its problem, if it has one."""

    name: str
    text: str
    values: dict[str, Any]
    trouble: str = ""


def output_of(*command: str) -> str:
    """The output of a command; empty if there is no such command."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT).stdout  # noqa: S603 # names of ours
    except (OSError, subprocess.TimeoutExpired):
        return ""


class OwnNginx(http.client.HTTPSConnection):
    """The platform by its public name, at nginx of this host; the address of the name in DNS does not count."""

    def connect(self) -> None:
        raw = socket.create_connection((self.address, self.port), self.timeout)
        self.sock = self.context.wrap_socket(raw, server_hostname=self.host)

    def __init__(self, host: str, address: str, ca_file: str) -> None:
        self.address = address
        self.context = ssl.create_default_context(cafile=ca_file or None)
        # Some hospitals have authorities without key identifiers. Browsers and curl accept them.
        self.context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        super().__init__(host, timeout=TIMEOUT, context=self.context)


def ask(url: str, address: str = "", ca_file: str = "") -> tuple[int, bytes]:
    """Status and body of the answer. Raises OSError and http.client.HTTPException."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    connection = (
        OwnNginx(host, address, ca_file)
        if parts.scheme == "https"
        else http.client.HTTPConnection(host, parts.port, timeout=TIMEOUT)
    )
    try:
        connection.request("GET", parts.path or "/")
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def unit_states(units: list[str]) -> dict[str, str]:
    """Each unit's state in systemd's words: active, failed, inactive, …; `missing` if systemd does not know it."""
    shown = output_of("systemctl", "show", "--property=LoadState,ActiveState", *units).split("\n\n")
    states = {}
    for unit, block in zip(units, shown, strict=False):
        properties = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        loaded = properties.get("LoadState") == "loaded"
        states[unit] = properties.get("ActiveState", "unknown") if loaded else "missing"
    return states


def listening_ports(tables: str) -> set[int]:
    """The TCP ports on which something listens, from /proc/net/tcp and tcp6."""
    rows = (line.split() for line in tables.splitlines())
    return {int(row[1].rpartition(":")[2], 16) for row in rows if len(row) > 3 and row[3] == "0A"}


def package_versions(packages: list[str]) -> dict[str, str]:
    """Each installed package's version."""
    shown = output_of("dpkg-query", "--show", "--showformat=${Package}\t${Version}\n", *packages)
    return dict(line.split("\t") for line in shown.splitlines())


def unhealthy(service: Service, ca_file: str) -> str:
    """The reason why the service is not healthy; empty if it is, or if there is nothing to ask."""
    if service.command:
        return "" if run_ok(service.command) else f"{service.command[0]} says no"
    if not service.url:
        return ""
    try:
        status, _ = ask(service.url, service.address, ca_file)
    except ssl.SSLCertVerificationError as error:
        return f"its certificate is not accepted: {error.verify_message}"
    except (OSError, http.client.HTTPException) as error:
        return f"{service.url} does not answer: {error}"
    return "" if status == service.expects else f"{service.url} answers {status}"


def run_ok(command: list[str]) -> bool:
    """Whether a command succeeds."""
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=TIMEOUT)  # noqa: S603 # root's own file
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def look_at_services(services: list[Service], ca_file: str) -> list[ServiceState]:
    """Look at all of them at once: the unit is active, it answers, and it listens on its ports."""
    states = unit_states([service.unit for service in services])
    versions = package_versions([service.package for service in services if service.package])
    tables = "".join(path.read_text() for path in map(Path, ("/proc/net/tcp", "/proc/net/tcp6")) if path.exists())
    open_ports = listening_ports(tables)
    with ThreadPoolExecutor(len(services)) as pool:
        answers = list(pool.map(lambda service: unhealthy(service, ca_file), services))
    seen = []
    for service, answer in zip(services, answers, strict=True):
        state = states.get(service.unit, "unknown")
        closed = [port for port in service.ports if port not in open_ports]
        troubles = [f"the unit is {state}" if state != "active" else "", answer]
        troubles += [f"nobody listens on port {', '.join(map(str, closed))}" if closed else ""]
        trouble = "; ".join(filter(None, troubles))
        version = service.version or versions.get(service.package, "")
        seen.append(ServiceState(service.name, service.unit, state, not trouble, service.ports, version, trouble))
    return seen


def certificate(domain: str, address: str, ca_file: str) -> Fact:
    """The time that the certificate that browsers get is still valid."""
    nginx = OwnNginx(domain, address, ca_file)
    try:
        nginx.connect()
        ends = ssl.cert_time_to_seconds(str((nginx.sock.getpeercert() or {})["notAfter"]))
    except (OSError, KeyError) as error:
        return Fact("certificate", "not seen", {"days": None}, f"the certificate was not seen: {error}")
    finally:
        nginx.close()
    days = int((ends - time.time()) // 86400)
    trouble = f"the certificate ends in {days} days" if days < CERTIFICATE_DAYS else ""
    return Fact("certificate", f"good for {days} days", {"days": days}, trouble)


def disk(paths: list[Path]) -> list[Fact]:
    """The free space of each file system that holds one of the paths."""
    by_device: dict[int, list[str]] = {}
    missing = [path for path in paths if not path.exists()]
    for path in paths:
        if path not in missing:
            by_device.setdefault(path.stat().st_dev, []).append(str(path))
    facts = [Fact(f"disk {path}", "is not there", {"paths": [str(path)]}, f"{path} is not there") for path in missing]
    for together in by_device.values():
        usage = shutil.disk_usage(together[0])
        share = usage.free / usage.total
        names = ", ".join(together)
        trouble = f"the disk of {names} has {share:.0%} free" if share < DISK_FREE else ""
        values = {"paths": together, "free_bytes": usage.free, "total_bytes": usage.total}
        facts.append(Fact("disk", f"{share:.0%} free ({usage.free / 1e9:.0f} GB) for {names}", values, trouble))
    return facts


def memory_limits() -> list[Fact]:
    """A warning that the kernel does not enforce the services' memory limits, if it does not."""
    if CONTROLLERS.exists() and "memory" in CONTROLLERS.read_text().split():
        return []
    text = "NOT enforced: this kernel has no memory controller in cgroup2, so one service may take all of the memory"
    return [Fact("memory limits", text, {"enforced": False})]


def measured(text: str) -> dict[str, float]:
    """Samples without labels in Prometheus' text format."""
    rows = (line.split() for line in text.splitlines() if not line.startswith("#"))
    return {row[0]: float(row[1]) for row in rows if len(row) == 2 and "{" not in row[0]}


def backup(samples: dict[str, float], failed: bool, now: float) -> Fact:
    """The time of the last good backup."""
    at = samples.get("imaging_backup_last_success_timestamp_seconds")
    trouble = "the last backup failed: journalctl -u imaging-backup" if failed else ""
    if at is None:
        return Fact("backup", "none yet", {"age_seconds": None}, trouble)
    hours = (now - at) / 3600
    if hours > BACKUP_HOURS:
        trouble = trouble or f"the last good backup is {hours:.0f} hours old"
    return Fact("backup", f"{hours:.0f} hours ago", {"age_seconds": round(now - at)}, trouble)


def repository(samples: dict[str, float], failed: bool, now: float) -> list[Fact]:
    """The time when the repository last got everything; nothing if there is no repository."""
    at = samples.get("imaging_backup_repository_last_success_timestamp_seconds")
    trouble = "the repository takes nothing in: journalctl -u imaging-backup-push" if failed else ""
    if at is None:
        return [Fact("repository", "nothing yet", {"age_seconds": None}, trouble)] if failed else []
    minutes = (now - at) / 60
    if minutes > REPOSITORY_MINUTES:
        trouble = trouble or f"what is in the repository is {minutes:.0f} minutes old"
    return [Fact("repository", f"{minutes:.0f} minutes ago", {"age_seconds": round(now - at)}, trouble)]


def restore_drill(samples: dict[str, float], now: float) -> Fact:
    """The time of the last restore drill."""
    unproven = (now - samples.get("imaging_restore_drill_unproven_since_timestamp_seconds", now)) / 86400
    late = f"for {unproven:.0f} days no backup has been restored to try it" if unproven > UNPROVEN_DAYS else ""
    at = samples.get("imaging_restore_drill_timestamp_seconds")
    if at is None:
        return Fact("restore drill", "none yet", {"age_seconds": None}, late)
    good = samples.get("imaging_restore_drill_success") == 1
    days = (now - at) / 86400
    trouble = late if good else "the last restore drill failed"
    text = f"{'passed' if good else 'FAILED'} {days:.0f} days ago"
    return Fact("restore drill", text, {"age_seconds": round(now - at), "passed": good}, trouble)


def updates(samples: dict[str, float], now: float) -> Fact:
    """Newer versions in Debian testing of packages that came from it, and the known holes that they close."""
    at = samples.get("imaging_testing_last_check_timestamp_seconds")
    if at is None:
        return Fact("updates", "not looked for yet", {"pending": None, "holes": None})
    pending = round(samples.get("imaging_testing_updates_pending", 0))
    holes = samples.get("imaging_testing_vulnerabilities")
    values = {"pending": pending, "holes": None if holes is None else round(holes)}
    if now - at > TESTING_DAYS * 86400:
        return Fact(
            "updates", "unknown", values, "the mirror of Debian testing does not answer: journalctl -u imaging-updates"
        )
    text = f"{pending} of Debian testing, " + ("known holes unknown" if holes is None else f"{holes:.0f} known holes")
    trouble = f"Debian testing closes {holes:.0f} known holes: make update-testing" if holes else ""
    if holes is None and pending:
        trouble = "Debian testing has newer versions, which may close holes: make update-testing"
    return Fact("updates", text, values, trouble)


def imports(metrics_url: str) -> Fact:
    """The deliveries that the importer has not finished."""
    try:
        status, body = ask(metrics_url)
    except (OSError, http.client.HTTPException):
        status, body = 0, b""
    if status != 200:
        return Fact("imports", "unknown", {"pending": None}, "the importer does not say what is pending")
    text = body.decode()
    waiting = [line for line in text.splitlines() if line.startswith("imaging_importer_waiting_deliveries")]
    pending = round(sum(float(line.split()[-1]) for line in waiting))
    oldest = measured(text).get("imaging_importer_oldest_pending_age_seconds", 0.0)
    trouble = f"a delivery has been waiting for {oldest / 60:.0f} minutes" if oldest > PENDING_SECONDS else ""
    text = f"{pending} pending" + (f", the oldest for {oldest:.0f} s" if pending else "")
    return Fact("imports", text, {"pending": pending, "oldest_seconds": round(oldest)}, trouble)


def textfile_samples(directory: Path) -> dict[str, float]:
    """The numbers that programs without a port leave for the node exporter."""
    samples: dict[str, float] = {}
    for path in sorted(directory.glob("*.prom")):
        samples |= measured(path.read_text())
    return samples


def look_at_the_rest(config: Config) -> list[Fact]:
    """All facts that are not about a service."""
    now = time.time()
    samples = textfile_samples(config.metrics)
    makes, pushes = "imaging-backup.service", "imaging-backup-push.service"
    states = unit_states([makes, pushes])
    return [
        certificate(config.domain, config.nginx, config.ca_file),
        *disk(config.paths),
        *memory_limits(),
        backup(samples, states[makes] == "failed", now),
        *repository(samples, states[pushes] == "failed", now),
        restore_drill(samples, now),
        updates(samples, now),
        imports(config.importer),
    ]


def troubles_of(services: list[ServiceState], facts: list[Fact]) -> list[str]:
    """All problems, one sentence each."""
    return [f"{seen.name}: {seen.trouble}" for seen in services if seen.trouble] + [
        fact.trouble for fact in facts if fact.trouble
    ]


def as_text(domain: str, services: list[ServiceState], facts: list[Fact]) -> str:
    """One screen for people."""
    rows = [("SERVICE", "UNIT", "STATE", "HEALTH", "PORTS", "VERSION")]
    for seen in services:
        health = "ok" if seen.healthy else "WRONG"
        ports = " ".join(map(str, seen.ports)) or "-"
        unit = seen.unit.removesuffix(".service")
        rows.append((seen.name, unit, seen.state, health, ports, seen.version or "-"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += ["", *(f"{fact.name.capitalize():<14} {fact.text}" for fact in facts), ""]
    troubles = troubles_of(services, facts)
    lines += ["WRONG:", *(f"- {trouble}" for trouble in troubles)] if troubles else [f"{domain} is well."]
    return "\n".join(lines)


def as_json(domain: str, services: list[ServiceState], facts: list[Fact]) -> str:
    """The same for scripts."""
    troubles = troubles_of(services, facts)
    described = {
        "domain": domain,
        "well": not troubles,
        "troubles": troubles,
        "services": [asdict(seen) for seen in services],
        "disks": [fact.values for fact in facts if fact.name.startswith("disk")],
    }
    described |= {fact.name.replace(" ", "_"): fact.values for fact in facts if not fact.name.startswith("disk")}
    return json.dumps(described, indent=2)


def main(arguments: list[str] | None = None) -> int:
    """Look, print the result, and end with 1 if something is wrong."""
    parser = argparse.ArgumentParser(prog="imaging-status", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="say it to a script")
    parser.add_argument("--services", action="store_true", help="look at the services and nothing else")
    parser.add_argument("--check-config", action="store_true", help="say whether the configuration can be used")
    parser.add_argument("--config", type=Path, default=CONFIGURATION, help="default: %(default)s")
    options = parser.parse_args(arguments)
    if os.geteuid() != 0:
        parser.error("the services answer root alone: run it with sudo")
    try:
        config = read(Config, options.config)
    except SettingsError as error:
        sys.exit(f"imaging-status: {printable(str(error))}")
    if options.check_config:
        return 0
    seen = look_at_services(config.services, config.ca_file)
    facts = [] if options.services else look_at_the_rest(config)
    render = as_json if options.json else as_text
    print("\n".join(map(printable, render(config.domain, seen, facts).split("\n"))))
    return 1 if troubles_of(seen, facts) else 0


if __name__ == "__main__":
    sys.exit(main())
