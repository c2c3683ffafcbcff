"""Every address and port of ours stands once, in vars/wiring.yml. A change there changes it everywhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from wired import Wired

from .conftest import PROJECT, ROLES, files_in_git, load_yaml

WIRING: dict[str, Any] = load_yaml(PROJECT / "vars/wiring.yml")
PORTS = {name: value for name, value in WIRING.items() if re.search(r"_port$", name) and isinstance(value, int)}
ADDRESS = re.compile(r"(?<![\w.])(127(?:\.\d+){3}|0\.0\.0\.0|localhost|(?<!:)::1)(?![\w.])")
PORT = re.compile(rf"(?<![\w.])({'|'.join(map(str, PORTS.values()))})(?![\w])")
# The name that Ansible has for the controller is no address.
CONTROLLER = re.compile(r"(hosts|delegate_to): localhost|hostvars(\['localhost'\]|\.localhost)")

OURS = "|".join(
    (
        r"(roles|playbooks|library|module_utils|inventories)/",
        r"vars/\w+\.yml$",
        r"files/\w+/(src/|\w+\.py$)",
        r"(Makefile|[\w-]+\.yml)$",
    )
)

# Places where an address may stand nevertheless, and why.
EXCEPTIONS = {
    ("roles/nginx/tasks/certificate-self-signed.yml", "0.0.0.0"): "any address, which the authority may not certify",  # noqa: S104
    ("playbooks/restore-drill/deploy.yml", "127.0.0.1"): "the throw-away host finds itself under the platform's name",
}


def ours() -> Iterator[Path]:
    """The files that run on hosts and against them."""
    for path in files_in_git():
        name = str(path.relative_to(PROJECT))
        if re.match(OURS, name) and path.resolve() != PROJECT / "vars/wiring.yml":
            yield path


def literals() -> dict[tuple[str, str], list[int]]:
    """Each address and each port of ours that stands in a file, with its lines."""
    found: dict[tuple[str, str], list[int]] = {}
    for path in ours():
        try:
            lines = path.read_text().splitlines()
        except UnicodeDecodeError:
            continue  # a picture
        for number, line in enumerate(lines, 1):
            line = CONTROLLER.sub("", line)
            for match in (*ADDRESS.finditer(line), *PORT.finditer(line)):
                found.setdefault((str(path.relative_to(PROJECT)), match[1]), []).append(number)
    return found


def test_the_search_finds_an_address_and_a_port() -> None:
    assert [match[1] for match in ADDRESS.finditer("a=127.0.0.1 b=[::1]:1 http://localhost/ 0.0.0.0")] == [
        "127.0.0.1", "::1", "localhost", "0.0.0.0",  # noqa: S104
    ]  # fmt: skip
    assert [match[1] for match in PORT.finditer('":8042" 18042 8180, 1.2.3.9090')] == ["8042", "8180"]
    assert ADDRESS.search("listen [::]:80; 1127.0.0.1 IP:::/0 localhosts a::1") is None


def test_no_address_and_no_port_stands_outside_the_wiring() -> None:
    assert {place: lines for place, lines in literals().items() if place not in EXCEPTIONS} == {}


@pytest.mark.parametrize("place", EXCEPTIONS, ids=lambda place: place[0])
def test_an_exception_is_still_needed(place: tuple[str, str]) -> None:
    assert place in literals()


def test_the_wiring_says_each_address_and_port_once() -> None:
    text = re.sub(r"^\s*#.*$", "", (PROJECT / "vars/wiring.yml").read_text(), flags=re.MULTILINE)
    for port in PORTS.values():
        assert len(re.findall(rf"(?<![\w.]){port}(?!\w)", text)) == 1, port
    assert len(set(PORTS.values())) == len(PORTS)


@cache
def guards() -> list[dict[str, Any]]:
    """The firewall's rules for each port, dashboards among them."""
    guarded: list[dict[str, Any]] = Wired(**DASHBOARDS)["base_guarded_ports"]
    return guarded


def test_every_port_that_is_wired_is_guarded() -> None:
    assert sorted(guard["port"] for guard in guards()) == sorted(PORTS.values())


# --- everything elsewhere ---------------------------------------------------------------------------------------------

DASHBOARDS = {"imaging_dashboards": True}
MOVED_PORTS = {name: 20000 + number for number, name in enumerate(PORTS)}
# Where services listen, where others reach them, with whom they may speak: networks for documentation (RFC 5737).
LISTEN, REACH, ALLOWED, PROXY = "192.0.2.1", "198.51.100.1", "203.0.113.0/24", "192.0.2.2"
TASK_VARIABLES: dict[str, list[dict[str, Any]]] = {
    "monitoring/templates/service.conf.j2": [
        {"unit": unit} for unit in load_yaml(PROJECT / "roles/monitoring/vars/main.yml")["__monitoring_units"]
    ],
    "backup/templates/imaging-backup.service.j2": [
        {"__description": "", "__command": "create", "__credentials": [], "__repository_path": []}
    ],
    "backup/templates/imaging-backup.timer.j2": [{"__description": "", "__schedule": "", "__spread": ""}],
    "hardening/templates/sshd.conf.j2": [{"__keys_alone": True}],
    "nginx/templates/nginx.conf.j2": [{"__nginx_viewer_release": "/opt/imaging/viewer/1"}],
}


@pytest.fixture(scope="module")
def rendered() -> dict[str, str]:
    """Every template of every role, with each port and each address moved."""
    port_of = {name: re.findall(r"\w+_port", value)[0] for name, value in WIRING["__imaging_at"].items()}
    reached = {name: f"{REACH}:{MOVED_PORTS[port]}" for name, port in port_of.items()}
    users = {user for guard in guards() for user in (guard["owner"], *guard["callers"])}
    moved = Wired(
        **DASHBOARDS,
        **MOVED_PORTS,
        __imaging_listen_address=LISTEN,
        __imaging_allowed_addresses=[ALLOWED],
        postgres_listen_addresses=[LISTEN],
        postgres_client_addresses=[ALLOWED],
        keycloak_proxy_addresses=[PROXY],
        __imaging_postgres_host=REACH,
        __imaging_nginx_host=REACH,
        __imaging_at=reached,
        ansible_facts={
            "getent_passwd": {user: ["x", str(1000 + number)] for number, user in enumerate(sorted(users))},
            "getent_group": {"sudo": ["x", "27", ""]},
        },
        __base_release_uris={"stdout": "'http://mirror.example.org/debian/dists/trixie/InRelease'"},
    )
    texts = {}
    for path in (path for role in ROLES for path in role.templates):
        name = str(path.relative_to(PROJECT / "roles"))
        for number, variables in enumerate(TASK_VARIABLES.get(name, [{}])):
            texts[f"{name} {number}"] = moved.render(path, **variables)
    return texts


def test_what_is_moved_is_nowhere_where_it_was(rendered: dict[str, str]) -> None:
    left = {
        name: found
        for name, text in rendered.items()
        if (found := [match[1] for match in (*ADDRESS.finditer(text), *PORT.finditer(text))])
    }
    assert left == {}


@pytest.mark.parametrize("name", PORTS)
def test_a_moved_port_is_listened_on_or_asked(rendered: dict[str, str], name: str) -> None:
    port = str(MOVED_PORTS[name])
    assert any(re.search(rf"\b{port}\b", text) for file, text in rendered.items() if "nftables" not in file)


def test_every_unit_speaks_with_the_networks_that_it_is_allowed(rendered: dict[str, str]) -> None:
    allowed = {line for text in rendered.values() for line in re.findall(r"^IPAddressAllow=.*$", text, re.MULTILINE)}
    assert allowed == {f"IPAddressAllow={ALLOWED}"}


def test_services_listen_where_they_are_told_and_others_reach_them_where_they_are(rendered: dict[str, str]) -> None:
    text = rendered["nginx/templates/nginx.conf.j2 0"]
    assert f"listen {LISTEN}:{MOVED_PORTS['nginx_status_port']};" in text
    assert f"server {REACH}:{MOVED_PORTS['orthanc_port']};" in text
    assert f'"HttpBindAddresses" : ["{LISTEN}"]' in rendered["orthanc/templates/orthanc.json.j2 0"]
    assert f"@{REACH}:{MOVED_PORTS['postgres_port']}/orthanc" in rendered["orthanc/templates/secrets.json.j2 0"]
    assert f"{REACH}:{MOVED_PORTS['postgres_port']}/keycloak" in rendered["keycloak/templates/keycloak.conf.j2 0"]
