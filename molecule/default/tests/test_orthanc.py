"""Orthanc as it runs: one port on loopback with a password, and everything dangerous closed."""

from __future__ import annotations

import json

import pytest
from testinfra.host import Host

UNIT = "imaging-orthanc.service"
SECRETS = "/etc/imaging/credentials/orthanc/secrets.json"
# Asks Orthanc as one of its users. On the host, so that the password is in no command line.
ASK = f"""
import base64, json, sys, urllib.error, urllib.request
lines = [line for line in open({SECRETS!r}) if not line.lstrip().startswith("//")]
user, path = sys.argv[1:]
request = urllib.request.Request("http://127.0.0.1:8042" + path)
if user != "nobody":
    password = json.loads("".join(lines))["RegisteredUsers"][user]
    request.add_header("Authorization", "Basic " + base64.b64encode((user + ":" + password).encode()).decode())
try:
    with urllib.request.urlopen(request) as answer:
        print(json.dumps([answer.status, answer.read().decode()]))
except urllib.error.HTTPError as error:
    print(json.dumps([error.code, error.read().decode()]))
"""


def ask(host: Host, user: str, path: str) -> tuple[int, str]:
    """Status and body of a GET by a user (`nobody`: without credentials)."""
    status, body = json.loads(host.check_output("python3 -c %s %s %s", ASK, user, path))
    return status, body


def test_it_listens_on_loopback_only_and_the_dicom_port_is_closed(host: Host) -> None:
    sockets = host.socket.get_listening_sockets()
    assert {socket for socket in sockets if socket.endswith(":8042")} == {"tcp://127.0.0.1:8042"}
    assert not [socket for socket in sockets if socket.endswith((":4242", ":104", ":11112"))]


def test_the_packaged_service_cannot_start(host: Host) -> None:
    assert host.file("/etc/systemd/system/orthanc.service").linked_to == "/dev/null"


def test_the_version_has_no_known_holes(host: Host) -> None:
    version = host.package("orthanc").version
    assert tuple(int(part) for part in version.split("+")[0].split(".")) >= (1, 12, 11)


def test_nobody_enters_without_a_password(host: Host) -> None:
    assert ask(host, "nobody", "/system")[0] == 401


@pytest.mark.parametrize("user", ["importer", "gateway"])
def test_the_two_services_enter(host: Host, user: str) -> None:
    assert ask(host, user, "/system")[0] == 200


def test_the_index_is_in_postgresql(host: Host) -> None:
    system = json.loads(ask(host, "gateway", "/system")[1])
    assert system["DatabaseBackendPlugin"].endswith("libOrthancPostgreSQLIndex.so")
    assert system["StorageAreaPlugin"] is None


def test_only_the_two_plugins_are_loaded(host: Host) -> None:
    plugins = json.loads(ask(host, "gateway", "/plugins")[1])
    assert sorted(set(plugins) - {"explorer.js"}) == ["dicom-web", "postgresql-index"]


@pytest.mark.parametrize("path", ["/app/explorer.html", "/webdav/", "/wado?requestType=WADO"])
def test_a_side_door_is_closed(host: Host, path: str) -> None:
    assert ask(host, "gateway", path)[0] == 404


@pytest.mark.parametrize("path", ["/modalities", "/peers", "/dicom-web/servers"])
def test_it_knows_nobody_to_send_images_to(host: Host, path: str) -> None:
    assert json.loads(ask(host, "gateway", path)[1]) == []


def test_an_error_says_nothing_about_the_archive(host: Host) -> None:
    assert ask(host, "gateway", "/studies/unknown") == (404, "")


def test_it_gives_metrics(host: Host) -> None:
    status, metrics = ask(host, "gateway", "/tools/metrics-prometheus")
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
