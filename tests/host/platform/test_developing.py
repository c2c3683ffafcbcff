"""`make up-dev`: a saved file runs on the host, and the end of it leaves the host as it was."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from platform_client import ROOT, Platform
from ports import free_port
from time_lapse import wait_for

MARK = "a developer was here"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for service in ("gateway", "importer"):
        shutil.copytree(ROOT / f"files/{service}/src", tmp_path / service / "src")
    return tmp_path


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def watcher(platform: Platform, source: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    options = ["--name", platform.container, "--source", str(source), "--port", str(port)]
    command = [sys.executable, str(ROOT / "tools/develop.py"), "run", *options]
    watcher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert watcher.stdout is not None
    try:
        while "Prometheus is at" not in watcher.stdout.readline():
            assert watcher.poll() is None
        yield watcher
    finally:
        watcher.send_signal(signal.SIGINT)
        watcher.wait(60)


def test_what_is_saved_runs_with_verbose_logs_and_is_taken_back(
    platform: Platform, watcher: subprocess.Popen[str], source: Path, port: int
) -> None:
    began = time.time()

    def logged(words: str) -> bool:
        log = platform.on_host("journalctl", f"--since=@{began:.0f}", "--unit=imaging-gateway", "--output=cat")
        return words in log

    def environment() -> str:
        return platform.on_host("systemctl", "show", "--property=Environment", "imaging-gateway", "imaging-importer")

    assert environment().count("IMAGING_LOG_LEVEL=DEBUG") == 2
    assert requests.get(f"http://127.0.0.1:{port}/-/ready", timeout=10).status_code == 200

    module = source / "gateway/src/imaging_gateway/__init__.py"
    before = module.read_text()
    module.write_text(f"{before}\nimport sys\n\nprint('{MARK}', file=sys.stderr)\n")
    wait_for("what was saved runs", lambda: logged(MARK), 60)
    wait_for("its logs are verbose", lambda: logged("DEBUG asyncio"), 30)
    deployed = "/opt/imaging/gateway/imaging_gateway/__init__.py"

    module.write_text("what Python does not understand")
    assert watcher.stdout is not None
    while "the host keeps what it had" not in watcher.stdout.readline():
        assert watcher.poll() is None
    assert MARK in platform.on_host("cat", deployed)

    module.write_text(before)
    wait_for("it is as before", lambda: platform.on_host("cat", deployed) == before, 60)

    watcher.send_signal(signal.SIGINT)
    assert watcher.wait(60) == 0
    assert "IMAGING_LOG_LEVEL" not in environment()
    ready = "http://127.0.0.1:8090/health/live"
    wait_for("the gateway is back", lambda: platform.on_host("curl", "-fsS", ready, check=False), 60)
