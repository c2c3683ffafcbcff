"""Rules for the whole host, whatever service it carries."""

from __future__ import annotations

import re
import secrets as random_secrets

import exposure_document
import pytest
from testinfra.host import Host
from wired import Wired

from .conftest import SERVICES, SecretSearch, show

# These three ports are what somebody outside can reach of the platform.
OPEN_PORTS = {22, 80, 443}

FIREWALL = """\
table inet imaging {
	set clients {
		type ipv4_addr
		size 65535
		flags dynamic
	}

	set clients6 {
		type ipv6_addr
		size 65535
		flags dynamic
	}

	chain input {
		type filter hook input priority filter; policy drop;
		ct state established,related accept
		ct state invalid drop
		iif "lo" accept
		icmp type { destination-unreachable, time-exceeded, parameter-problem } accept
		icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } accept
		icmp type echo-request limit rate 10/second burst 5 packets accept
		icmpv6 type echo-request limit rate 10/second burst 5 packets accept
		tcp dport { 22, 80, 443 } ct state new add @clients { ip saddr ct count over 512 } reject with tcp reset
		tcp dport { 22, 80, 443 } ct state new add @clients6 { ip6 saddr & ffff:ffff:ffff:ffff:: ct count over 512 } reject with tcp reset
		tcp dport { 22, 80, 443 } ct state new accept
	}

	chain forward {
		type filter hook forward priority filter; policy drop;
	}

	chain output {
		type filter hook output priority filter; policy accept;
		oif "lo" tcp flags syn jump loopback
	}

	chain loopback {
		tcp sport { PORTS } jump answers
		tcp dport { PORTS } jump requests
	}

	chain answers {
ANSWERS		drop
	}

	chain requests {
		meta skuid 0 accept
REQUESTS		meta l4proto tcp reject with tcp reset
	}
}
"""  # noqa: E501 - as nft itself writes it


# --- the machine ------------------------------------------------------------------------------------------------------


def test_nothing_failed_to_start(host: Host) -> None:
    assert host.check_output("systemctl list-units --failed --plain --no-legend") == ""


# The services on the ports of loopback, and the users who may ask there besides root. nginx' master opens its own.
GUARDED = {
    "postgres_port": ("postgres", {"orthanc", "keycloak", "imaging-gateway", "imaging-importer"}),
    "orthanc_port": ("orthanc", {"imaging-importer", "www-data", "prometheus"}),
    "keycloak_http_port": ("keycloak", {"imaging-gateway", "www-data"}),
    "keycloak_management_port": ("keycloak", {"prometheus"}),
    "gateway_listen_port": ("imaging-gateway", {"www-data", "prometheus"}),
    "importer_listen_port": ("imaging-importer", {"www-data", "prometheus"}),
    "nginx_status_port": ("root", {"prometheus"}),
    "nginx_loopback_port": ("root", {"imaging-gateway"}),
    "monitoring_prometheus_port": ("prometheus", {"prometheus"}),
    "monitoring_alertmanager_port": ("prometheus", {"prometheus"}),
    "monitoring_node_exporter_port": ("prometheus", {"prometheus"}),
    "monitoring_nginx_exporter_port": ("prometheus", {"prometheus"}),
    "monitoring_blackbox_exporter_port": ("prometheus", {"prometheus"}),
    "monitoring_postgres_exporter_port": ("prometheus", {"prometheus"}),
    "monitoring_mtail_port": ("mtail", {"prometheus"}),
}


def test_the_whole_firewall_is_ours(host: Host, wired: Wired) -> None:
    rows = (line.split(":") for line in host.check_output("cat /etc/passwd").splitlines())
    users = {name: int(number) for name, _, number, *_ in rows}
    answers, requests = "", ""
    guarded = {wired[name]: who for name, who in GUARDED.items()}
    for port, (owner, callers) in guarded.items():
        numbers = ", ".join(map(str, sorted(users[caller] for caller in callers)))
        answers += f"\t\ttcp sport {port} meta skuid {users[owner]} return\n"
        if callers:
            asked_by = f"{{ {numbers} }}" if len(callers) > 1 else numbers
            requests += f"\t\ttcp dport {port} meta skuid {asked_by} accept\n"
    expected = FIREWALL.replace("PORTS", ", ".join(map(str, sorted(guarded))))
    expected = expected.replace("ANSWERS", answers).replace("REQUESTS", requests)
    assert host.check_output("nft --stateless --terse list ruleset") == expected.rstrip("\n")


def test_only_three_ports_are_reachable_from_outside(host: Host) -> None:
    listening = set()
    for line in host.check_output("ss --no-header --tcp --udp --listening --numeric").splitlines():
        protocol, *_, local, _peer = line.split()
        address, port = local.rsplit(":", 1)
        if not re.fullmatch(r"127(\.\d+){3}(%lo)?|\[::1\]|\[::ffff:127(\.\d+){3}\]", address):
            listening.add((protocol, int(port)))
    assert {port for _, port in listening} >= {80, 443}
    assert listening <= {("tcp", port) for port in OPEN_PORTS}


def test_the_journal_outlives_a_reboot(host: Host) -> None:
    assert list(host.file("/var/log/journal").listdir())


def test_security_updates_are_on_and_never_reboot(host: Host) -> None:
    settings = host.check_output("apt-config dump")
    assert 'APT::Periodic::Unattended-Upgrade "1";' in settings
    assert 'Unattended-Upgrade::Automatic-Reboot "false";' in settings
    assert host.service("apt-daily-upgrade.timer").is_enabled


def test_testing_gives_the_named_packages_only(host: Host) -> None:
    """An upgrade of everything must not pull the base system over to Debian testing."""
    simulated = host.check_output("apt-get --simulate dist-upgrade")
    assert "Debian:testing" not in simulated


# --- services ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", SERVICES)
def test_a_service_runs_and_starts_at_boot(host: Host, unit: str) -> None:
    service = host.service(unit)
    assert service.is_running
    assert service.is_enabled


@pytest.mark.parametrize("unit", SERVICES)
def test_a_service_starts_and_stops_with_imaging_target(host: Host, unit: str) -> None:
    assert "imaging.target" in show(host, unit, "PartOf")["PartOf"].split()
    assert unit in show(host, "imaging.target", "Wants")["Wants"].split()


def test_the_target_has_no_service_that_is_not_tested_here(host: Host) -> None:
    wanted = show(host, "imaging.target", "Wants")["Wants"].split()
    assert {unit for unit in wanted if unit.endswith(".service")} == set(SERVICES)


@pytest.mark.parametrize("unit", SERVICES)
def test_a_service_has_a_memory_limit_and_comes_back_after_a_crash(host: Host, unit: str) -> None:
    properties = show(host, unit, "MemoryMax", "Restart")
    assert properties["MemoryMax"] != "infinity"
    assert properties["Restart"] in ("on-failure", "always")


@pytest.mark.parametrize("unit", [*SERVICES, "imaging-backup.service", "imaging-updates.service"])
def test_a_service_is_confined(host: Host, unit: str) -> None:
    limit = {"nginx.service": 2.5, "imaging-backup.service": 1.6}.get(unit, 1.4)
    assert exposure_document.exposure(host.check_output, unit) <= limit


def test_the_page_says_how_exposed_each_service_is(host: Host) -> None:
    assert exposure_document.render(host.check_output) == exposure_document.written(), "run `make docs-exposure`"


@pytest.mark.parametrize("unit", SERVICES)
def test_no_service_runs_as_root(host: Host, unit: str) -> None:
    """Except a master process that opens the port and hands it to workers."""
    pid = show(host, unit, "MainPID")["MainPID"]
    user = host.check_output(f"ps -o user= -p {pid}").strip()
    assert (user == "root") == (unit == "nginx.service")


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_credentials_belong_to_root_alone(host: Host) -> None:
    found = host.check_output("find /etc/imaging/credentials -printf '%y %m %u:%g\\n' | sort -u").splitlines()
    assert set(found) == {"d 700 root:root", "f 600 root:root"}


def test_nothing_in_our_configuration_is_writable_by_a_service(host: Host) -> None:
    # Keycloak insists on a directory for its caches below its own.
    everywhere = "find /etc/imaging /opt/imaging -path '/opt/imaging/keycloak-*/data' -prune -o"
    writable = f"{everywhere} -not -type l \\( -perm /022 -o -not -user root \\) -print"
    assert host.check_output(writable) == ""


def test_the_search_for_secrets_finds_what_lies_open(host: Host, secret_search: SecretSearch) -> None:
    canary = random_secrets.token_hex(16)
    host.check_output(f"echo {canary} > /etc/imaging/canary; chmod 644 /etc/imaging/canary")
    host.check_output(f"echo {canary} > /root/canary; echo {canary} > /var/log/canary; echo {canary} | systemd-cat")
    host.check_output(f"systemd-run --unit=canary --setenv=CANARY={canary} /bin/sh -c 'sleep 60; : {canary}'")
    try:
        places = secret_search.places_of(canary)
        assert set(places) == set(secret_search.PLACES)
    finally:
        host.check_output("systemctl stop canary; rm /etc/imaging/canary /root/canary /var/log/canary")


def test_no_secret_lies_open(secrets: dict[str, str], secret_search: SecretSearch) -> None:
    assert secret_search.places_of(*secrets.values()) == {}
