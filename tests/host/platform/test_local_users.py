"""Somebody with an account on the host: may not ask the services, and is believed by nobody in a service's place."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import requests
from platform_client import Platform
from time_lapse import wait_for

STRANGER = "stranger"
RULESET = "/etc/nftables.conf"

# Answers every request as the gateway says yes, and says who came.
IMPOSTOR = """
import socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), reuse_port=False)
print("listening", flush=True)
while True:
    connection, _ = listener.accept()
    print("somebody came", flush=True)
    connection.settimeout(1)
    try:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 204 Yes\\r\\nX-Study-Revision: 1\\r\\nConnection: close\\r\\n\\r\\n")
    except OSError:
        pass
    connection.close()
"""

# In a network of its own, where no service runs: who answers whom on each port of the ruleset, by IPv4 and IPv6, and by
# Multipath TCP, whose sockets the kernel keeps in another way.
MATRIX = """
import json, os, socket, sys
answers, callers = json.loads(sys.argv[1])
os.system("ip link set lo up")
assert os.system("nft -f /etc/nftables.conf") == 0

def outcome(family, protocol, port, owner, caller):
    address = "127.0.0.1" if family == socket.AF_INET else "::1"
    os.seteuid(owner)
    server = socket.socket(family, socket.SOCK_STREAM, protocol)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((address, port))
    server.listen(1)
    os.seteuid(0)
    os.seteuid(caller)
    client = socket.socket(family, socket.SOCK_STREAM, protocol)
    client.settimeout(0.3)
    try:
        client.connect((address, port))
        return "answered"
    except TimeoutError:
        return "silence"
    except ConnectionRefusedError:
        return "refused"
    finally:
        os.seteuid(0)
        client.close()
        server.close()

stranger = int(sys.argv[2])
wrong = []
for family in (socket.AF_INET, socket.AF_INET6):
    for protocol in (socket.IPPROTO_TCP, 262):
        for port, owner in answers.items():
            asked = {0, *callers.get(port, ())}
            seen = {who: outcome(family, protocol, int(port), owner, who) for who in asked}
            seen["the stranger asks"] = outcome(family, protocol, int(port), owner, stranger)
            # Silence takes a while: once a port and once a caller is enough.
            seen["the stranger answers"] = outcome(family, protocol, int(port), stranger, max(asked))
            right = dict.fromkeys(asked, "answered")
            right |= {"the stranger asks": "refused", "the stranger answers": "silence"}
            if seen != right:
                wrong.append((family.name, protocol, port, str(seen)))
print(json.dumps(wrong))
"""


@pytest.fixture(scope="module")
def stranger(platform: Platform) -> Iterator[int]:
    """A fresh account without any group: its number."""
    platform.on_host("useradd", "--create-home", STRANGER, check=False)
    yield int(platform.on_host("id", "--user", STRANGER))
    platform.on_host("userdel", "--remove", STRANGER)


def as_user(platform: Platform, user: str, *command: str) -> subprocess.CompletedProcess[str]:
    run = ["docker", "exec", platform.container, "runuser", "--user", user, "--", *command]
    return subprocess.run(run, capture_output=True, text=True, check=False, timeout=60)


def rules(platform: Platform) -> tuple[dict[str, int], dict[str, list[int]]]:
    """Of each guarded port, in the words of the ruleset: who answers, who may ask besides root."""
    text = platform.on_host("cat", RULESET)
    answers = {port: int(user) for port, user in re.findall(r"tcp sport (\d+) meta skuid (\d+) return", text)}
    asked = re.findall(r"tcp dport (\d+) meta skuid \{ ([^}]+) \} accept", text)
    # Of a range of numbers, the first.
    return answers, {port: [int(who.split("-")[0]) for who in users.split(", ")] for port, users in asked}


def listening(platform: Platform) -> list[int]:
    lines = platform.on_host("ss", "--no-header", "--tcp", "--listening", "--numeric").splitlines()
    return sorted({int(line.split()[3].rpartition(":")[2]) for line in lines})


def test_every_port_of_a_service_is_guarded(platform):
    """One that somebody adds is not forgotten."""
    assert {str(port) for port in listening(platform) if port > 1024} <= set(rules(platform)[0])


def test_a_stranger_reaches_three_ports_and_nothing_else(platform, stranger):
    ports = listening(platform)
    script = (
        "import socket, sys\n"
        "for port in map(int, sys.argv[1:]):\n"
        "    with socket.socket() as client:\n"
        "        print(port, client.connect_ex(('127.0.0.1', port)))"
    )
    seen = as_user(platform, STRANGER, "python3", "-c", script, *map(str, ports)).stdout.split()
    reached = {int(port) for port, error in zip(seen[::2], seen[1::2], strict=True) if error == "0"}
    assert len(ports) > 15
    assert reached == {22, 80, 443} & set(ports)


def test_a_port_answers_from_its_services_user_alone(platform, stranger):
    """Each port, IPv4 and IPv6; everybody who may ask is answered."""
    told = platform.on_host("unshare", "--net", "python3", "-c", MATRIX, json.dumps(rules(platform)), str(stranger))
    assert json.loads(told) == []


@contextmanager
def in_place_of(platform: Platform, services: dict[str, int]) -> Iterator[list[str]]:
    """Units are stopped and the stranger listens in their places. Afterwards, the test reads what the impostors saw."""
    platform.on_host("systemctl", "stop", *services)
    seen: list[str] = []
    command = ["docker", "exec", platform.container, "runuser", "--user", STRANGER, "--"]
    command += ["timeout", "60", "python3", "-c", IMPOSTOR]
    impostors = [
        subprocess.Popen([*command, str(port)], stdout=subprocess.PIPE, text=True) for port in services.values()
    ]
    try:
        for impostor in impostors:
            assert impostor.stdout is not None
            assert impostor.stdout.readline() == "listening\n"
        yield seen
    finally:
        platform.on_host("pkill", "--uid", STRANGER)
        for impostor in impostors:
            seen += impostor.communicate()[0].splitlines()
        platform.on_host("systemctl", "start", "imaging.target")
        wait_for("every service is well", platform.is_well, 300)


def test_nginx_takes_no_answer_of_a_stranger(platform, stranger, central_study, central_physician):
    technician = platform.api(platform.user("technician", "denscan-central"))
    # Studies as a whole are never in the cache.
    study = f"/dicom-web/studies/{central_study.study_uid}"
    places = {"imaging-orthanc.service": 8042, "imaging-keycloak.service": 8180, "imaging-importer.service": 8080}
    with in_place_of(platform, places) as seen:
        answers = [
            central_physician.get(platform.url + study, timeout=30),
            technician.get(f"{platform.url}/import/status", timeout=30),
            requests.get(f"{platform.realm_url}/.well-known/openid-configuration", verify=platform.ca_file, timeout=30),
        ]
    assert [answer.status_code for answer in answers] == [503, 503, 503]
    assert seen == [], "an impostor was asked"


def test_a_false_gateway_allows_nothing_and_a_false_database_is_told_nothing(
    platform, stranger, central_study, central_physician
):
    address = f"{platform.url}/dicom-web/studies/{central_study.study_uid}/series"
    with in_place_of(platform, {"imaging-gateway.service": 8090, "postgresql@17-main.service": 5432}) as seen:
        answers = [
            central_physician.get(address, timeout=30),
            requests.get(address, verify=platform.ca_file, timeout=30),
            requests.get(f"{platform.url}/dicom-web/studies", verify=platform.ca_file, timeout=30),
        ]
        # Importer and Keycloak look for the database all the while; root asks too.
        asked = platform.on_host("pg_isready", "--host=127.0.0.1", "--timeout=5", check=False)
    assert [answer.status_code for answer in answers] == [503, 503, 503]
    assert "accepting" not in asked
    assert seen == [], "an impostor was asked"


@pytest.mark.parametrize("user", [STRANGER, "www-data", "imaging-gateway"])
@pytest.mark.parametrize(
    "command",
    [
        ("amtool", "--alertmanager.url=http://127.0.0.1:9093", "silence", "add", "service=orthanc", "-c", "hush"),
        ("amtool", "--alertmanager.url=http://127.0.0.1:9093", "alert", "add", "Untrue", "severity=critical"),
        ("curl", "--silent", "--fail", "--request", "POST", "http://127.0.0.1:9093/-/reload"),
        ("curl", "--silent", "--fail", "--request", "POST", "http://127.0.0.1:9090/-/reload"),
        ("curl", "--silent", "http://127.0.0.1:9090/api/v1/query?query=up"),
        ("curl", "--silent", "http://127.0.0.1:9000/metrics"),
        ("curl", "--silent", "http://127.0.0.1:8081/stub_status"),
        ("curl", "--silent", "http://127.0.0.1:9100/metrics"),
    ],
)
def test_alerts_and_measures_are_for_those_who_need_them(platform, stranger, user, command):
    answer = as_user(platform, user, *command)
    assert answer.returncode != 0
    assert "refused" in answer.stderr or answer.returncode == 7  # curl's number for it


def test_operators_and_prometheus_go_on_as_before(platform):
    assert platform.on_host("amtool", "--alertmanager.url=http://127.0.0.1:9093", "silence", "query", "--output=json")

    def health() -> set[str]:
        targets = json.loads(platform.on_host("curl", "--silent", "http://127.0.0.1:9090/api/v1/targets"))["data"]
        return {target["health"] for target in targets["activeTargets"]}

    # It asks each of them every 15 s.
    wait_for("every target is up", lambda: health() == {"up"}, 60)
