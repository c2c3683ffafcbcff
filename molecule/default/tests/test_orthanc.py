"""Orthanc as it runs: one port with a password, and everything dangerous closed."""

from __future__ import annotations

import json
from ipaddress import ip_address
from typing import Protocol

import pytest
from testinfra.host import Host
from wired import Wired

UNIT = "imaging-orthanc.service"
SECRETS = "/etc/imaging/credentials/orthanc/secrets.json"
# Asks Orthanc as one of its users. On the host, so that the password is in no command line.
ASK = f"""
import base64, json, sys, urllib.error, urllib.request
lines = [line for line in open({SECRETS!r}) if not line.lstrip().startswith("//")]
user, url = sys.argv[1:]
request = urllib.request.Request(url)
if user != "nobody":
    password = json.loads("".join(lines))["RegisteredUsers"][user]
    request.add_header("Authorization", "Basic " + base64.b64encode((user + ":" + password).encode()).decode())
try:
    with urllib.request.urlopen(request) as answer:
        print(json.dumps([answer.status, answer.read().decode()]))
except urllib.error.HTTPError as error:
    print(json.dumps([error.code, error.read().decode()]))
"""


class Orthanc(Protocol):
    """Status and body of a GET by a user (`nobody`: without credentials)."""

    def __call__(self, user: str, path: str) -> tuple[int, str]: ...


@pytest.fixture
def ask(host: Host, wired: Wired) -> Orthanc:
    address = f"http://{wired['orthanc_listen_address']}:{wired['orthanc_port']}"

    def get(user: str, path: str) -> tuple[int, str]:
        status, body = json.loads(host.check_output("python3 -c %s %s %s", ASK, user, address + path))
        return status, body

    return get


def test_it_listens_on_loopback_only_and_the_dicom_port_is_closed(host: Host, wired: Wired) -> None:
    address, port = wired["orthanc_listen_address"], wired["orthanc_port"]
    assert ip_address(address).is_loopback
    sockets = host.socket.get_listening_sockets()
    assert {socket for socket in sockets if socket.endswith(f":{port}")} == {f"tcp://{address}:{port}"}
    assert not [socket for socket in sockets if socket.endswith((":4242", ":104", ":11112"))]


def test_the_packaged_service_cannot_start(host: Host) -> None:
    assert host.file("/etc/systemd/system/orthanc.service").linked_to == "/dev/null"


def test_the_version_has_no_known_holes(host: Host) -> None:
    version = host.package("orthanc").version
    assert tuple(int(part) for part in version.split("+")[0].split(".")) >= (1, 12, 11)


def test_nobody_enters_without_a_password(ask: Orthanc) -> None:
    assert ask("nobody", "/system")[0] == 401


@pytest.mark.parametrize("user", ["importer", "gateway"])
def test_the_two_services_enter(ask: Orthanc, user: str) -> None:
    assert ask(user, "/system")[0] == 200


def test_the_index_is_in_postgresql(ask: Orthanc) -> None:
    system = json.loads(ask("gateway", "/system")[1])
    assert system["DatabaseBackendPlugin"].endswith("libOrthancPostgreSQLIndex.so")
    assert system["StorageAreaPlugin"] is None


def test_only_the_two_plugins_are_loaded(ask: Orthanc) -> None:
    plugins = json.loads(ask("gateway", "/plugins")[1])
    assert sorted(set(plugins) - {"explorer.js"}) == ["dicom-web", "postgresql-index"]


@pytest.mark.parametrize("path", ["/app/explorer.html", "/webdav/", "/wado?requestType=WADO"])
def test_a_side_way_is_closed(ask: Orthanc, path: str) -> None:
    assert ask("gateway", path)[0] == 404


@pytest.mark.parametrize("path", ["/modalities", "/peers", "/dicom-web/servers"])
def test_it_knows_nobody_to_send_images_to(ask: Orthanc, path: str) -> None:
    assert json.loads(ask("gateway", path)[1]) == []


def test_an_error_says_nothing_about_the_archive(ask: Orthanc) -> None:
    assert ask("gateway", "/studies/unknown") == (404, "")


def test_it_gives_metrics(ask: Orthanc) -> None:
    status, metrics = ask("gateway", "/tools/metrics-prometheus")
    assert status == 200
    assert "orthanc_count_studies" in metrics


def test_images_are_readable_by_orthanc_alone(host: Host) -> None:
    storage = host.file("/data/dicom")
    assert (storage.user, storage.group, storage.mode) == ("orthanc", "orthanc", 0o750)
    assert host.check_output("find /data/dicom -mindepth 1 -perm /077 | head -1") == ""


def test_the_configuration_that_others_may_read_holds_no_password(host: Host) -> None:
    readable = host.file("/etc/imaging/orthanc/orthanc.json").content_string
    assert "Password" not in readable
    assert "RegisteredUsers" not in readable
