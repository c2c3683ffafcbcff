"""sshd takes a new configuration without leaving anybody outside, whether it or systemd in its place listens."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from platform_client import ROOT, Platform

# Holds a session's connection open over what is done, knocks again, and says what became of both.
KNOCK = """
import socket, subprocess, sys, time
held = socket.create_connection(("127.0.0.1", 22), 10)
assert held.recv(4) == b"SSH-"
done = subprocess.run(["sh", "-c", sys.argv[1]], capture_output=True, text=True)
held.settimeout(1)
try:
    alive = held.recv(4096) != b""
except TimeoutError:
    alive = True
answers = []
for _ in range(3):  # the first may be the last of an sshd that ends
    with socket.create_connection(("127.0.0.1", 22), 10) as another:
        answers.append(another.recv(4) == b"SSH-")
    time.sleep(1)
print(done.returncode, alive, all(answers), done.stderr)
"""
# So many starts in so short a time would be too many for systemd.
BEFORE = "systemctl stop ssh.socket ssh.service; systemctl reset-failed ssh.socket ssh.service; systemctl start "
KINDS = {"it listens itself": f"{BEFORE} ssh.service", "systemd listens": f"{BEFORE} ssh.socket ssh.service"}


@pytest.fixture(params=KINDS)
def sshd(platform: Platform, request: pytest.FixtureRequest) -> Iterator[str]:
    was = platform.on_host("systemctl", "is-active", "ssh.socket", check=False).strip()
    platform.on_host("sh", "-c", KINDS[request.param])
    yield request.param
    platform.on_host("sh", "-c", KINDS["systemd listens" if was == "active" else "it listens itself"])


def test_what_the_page_says_after_a_change_ends_neither_sshd_nor_sessions(platform: Platform, sshd: str) -> None:
    (command,) = re.findall(r"^sshd -t && [^#\n]+", (ROOT / "docs/ADMIN.md").read_text(), re.MULTILINE)
    assert platform.on_host("python3", "-c", KNOCK, command).split()[:3] == ["0", "True", "True"]


def test_what_a_deployment_does_after_a_change_ends_neither(platform: Platform, sshd: str) -> None:
    handlers = (ROOT / "roles/hardening/handlers/main.yml").read_text()
    state = re.search(r"name: ssh\.service\n    state: (\w+)", handlers)
    assert state
    command = {"restarted": "systemctl restart ssh.service", "reloaded": "systemctl reload ssh.service"}[state[1]]
    assert platform.on_host("python3", "-c", KNOCK, command).split()[:3] == ["0", "True", "True"]
