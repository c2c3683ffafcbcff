"""The specification of Orthanc that the importer's tests have a fake for, against the platform's own Orthanc."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from platform_client import ROOT, Platform, state_path
from ports import free_port
from time_lapse import wait_for

for directory in ("src", "tests"):
    sys.path.append(str(ROOT / "files/importer" / directory))
pytest.register_assert_rewrite("orthanc_specification")

from imaging_importer.orthanc import OrthancClient  # noqa: E402
from orthanc_specification import *  # noqa: E402, F403


@pytest.fixture(scope="module")
def orthanc(platform: Platform) -> Iterator[OrthancClient]:
    """Orthanc by a tunnel of root's, whom the guard of the host's loopback lets ask."""
    told = dict(re.findall(r'^(url|user) = "(.*)"$', orthanc_section(platform), re.MULTILINE))
    password = platform.on_host("cat", "/etc/imaging/credentials/importer/orthanc-password").strip()
    port = free_port()
    keys = state_path() / "ssh"
    options = [f"UserKnownHostsFile={keys}/known_hosts", "ExitOnForwardFailure=yes", "BatchMode=yes"]
    command = ["ssh", "-N", "-i", str(keys / "id_ed25519"), "-L", f"127.0.0.1:{port}:{told['url'].partition('//')[2]}"]
    command += [f"-o{option}" for option in options]
    tunnel = subprocess.Popen([*command, f"root@{platform.container.replace('-', '.', 1)}.test"])
    try:
        wait_for("the tunnel is open", lambda: answers(port), 30)
        yield OrthancClient(f"http://127.0.0.1:{port}", told["user"], password)
    finally:
        tunnel.terminate()
        tunnel.wait()


def orthanc_section(platform: Platform) -> str:
    configuration = platform.on_host("cat", "/etc/imaging/importer.toml")
    return configuration.partition("[orthanc]")[2].partition("\n[")[0]


def answers(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0
