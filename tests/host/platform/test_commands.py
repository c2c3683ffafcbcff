"""Commands that no other test runs do on a running platform what docs/COMMANDS.md says of them."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import platform_client
import pytest
from deliveries import Study
from platform_client import ROOT, Platform
from time_lapse import wait_for


def make(*arguments: str) -> str:
    done = platform_client.make("-s", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def in_a_terminal(target: str, typed: str) -> str:
    """The output for somebody who types this, until the command has ended."""
    terminal, end = pty.openpty()
    command = subprocess.Popen(["make", "-s", target], cwd=ROOT, stdin=end, stdout=end, stderr=end)
    os.close(end)
    os.write(terminal, typed.encode())
    shown = b""
    # The terminal's last reader gets an error instead of an end.
    try:
        while part := os.read(terminal, 4096):
            shown += part
    except OSError:
        pass
    os.close(terminal)
    assert command.wait(30) == 0, shown.decode()
    return shown.decode()


def test_info_describes_the_platform_for_scripts(platform: Platform) -> None:
    told = json.loads(make("info"))
    assert told["url"] == platform.url
    assert {user["username"] for user in told["users"]} >= {"physician-denscan-central"}


def test_audit_tells_who_opened_a_study(platform: Platform, deliver: Callable[[str], Study]) -> None:
    study = deliver("denscan-central")
    session = platform.api(platform.user("physician", "denscan-central"))
    assert session.get(f"{platform.url}/dicom-web/studies/{study.study_uid}/metadata", timeout=60).status_code == 200

    def views() -> list[dict[str, object]]:
        entries = json.loads(make("audit", f"STUDY={study.study_uid}", "FORMAT=json"))["entries"]
        return [entry for entry in entries if entry["action"] == "view"]

    wait_for("the access log has it", views, 30)
    assert views()[0]["user"] == "physician-denscan-central"


def test_a_test_alert_reaches_those_who_tell_people(platform: Platform) -> None:
    make("test-alert")
    told = json.loads(platform.on_host("amtool", "--alertmanager.url=http://127.0.0.1:9093", "alert", "-o", "json"))
    assert "TestAlert" in {alert["labels"]["alertname"] for alert in told}


@pytest.mark.parametrize("target", ["logs", "logs-importer"])
def test_logs_are_followed(target: str) -> None:
    command = ["make", "-s", target]
    follower = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert follower.stdout is not None
        assert follower.stdout.readline().strip()
        assert follower.poll() is None
    finally:
        os.killpg(follower.pid, signal.SIGTERM)
        follower.wait(30)


def test_the_database_has_a_shell() -> None:
    assert "denscan-central" in in_a_terminal("shell-db", "SELECT clinic_id FROM registry.clinic;\n\\q\n")


def test_orthanc_has_a_shell() -> None:
    assert "user=orthanc" in in_a_terminal("shell-orthanc", "echo user=$(id -un)\nexit\n")


def test_a_failed_folder_is_delivered_again(platform: Platform, tmp_path: Path) -> None:
    (tmp_path / "letter.dcm").write_text("no DICOM")
    platform.deliver("denscan-central", tmp_path, "delivered-again")

    def failed() -> list[str]:
        place = "/data/failed/denscan-central"
        return platform.on_host("find", place, "-type", "d", "-name", "delivered-again*", check=False).split()

    wait_for("it failed", failed, 120)
    (folder,) = failed()
    assert "back in the inbox" in platform.on_host("imaging-importer", "retry", folder)
    assert failed() == []
    wait_for("it failed again", failed, 120)


def test_everything_restarts(platform: Platform) -> None:
    def begun() -> str:
        return platform.on_host("systemctl", "show", "--property=ActiveEnterTimestampMonotonic", "imaging-gateway")

    before = begun()
    make("restart")
    wait_for("it is well", lambda: json.loads(platform.on_host("imaging-status", "--json", check=False))["well"], 180)
    assert begun() != before
