"""`orthanc_postgresql_plugin`: a file is taken only if its checksum is right, and refused before anything changes.

Runs the role's own tasks on the controller, against a file server on loopback.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from project import ROOT

PLUGIN = b"\x7fELF the plugin that the operator chose"
DAMAGED = PLUGIN.replace(b"chose", b"chosE")
SHA256 = hashlib.sha256(PLUGIN).hexdigest()
PLAY = """
- hosts: localhost
  connection: local
  tasks:
    - ansible.builtin.include_role: {name: orthanc, tasks_from: plugin.yml}
"""


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a file server that has the plugin and a damaged copy of it."""
    directory = tmp_path_factory.mktemp("mirror")
    (directory / "plugin.so").write_bytes(PLUGIN)
    (directory / "damaged.so").write_bytes(DAMAGED)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=directory))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def fetch(choice: object, cache: Path) -> subprocess.CompletedProcess[str]:
    """Run the role's plugin tasks for a choice of the operator."""
    variables = {
        "orthanc_postgresql_plugin": choice,
        "orthanc_artifacts_path": str(cache),
        "ansible_python_interpreter": sys.executable,
    }
    play = cache.parent / "play.yml"
    play.write_text(PLAY)
    return subprocess.run(
        [Path(sys.executable).parent / "ansible-playbook", "-i", "localhost,", play, "-e", json.dumps(variables)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_ROLES_PATH": str(ROOT / "roles")},
    )


def test_a_file_with_the_right_checksum_is_kept_and_not_fetched_again(mirror: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    choice = {"url": f"{mirror}/plugin.so", "sha256": SHA256}
    first, second = fetch(choice, cache), fetch(choice, cache)
    assert first.returncode == second.returncode == 0, first.stdout + first.stderr
    assert "changed=0" in second.stdout
    (kept,) = cache.iterdir()
    assert kept.read_bytes() == PLUGIN


def test_a_damaged_file_stops_the_run_and_is_not_kept(mirror: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    result = fetch({"url": f"{mirror}/damaged.so", "sha256": SHA256}, cache)
    assert result.returncode != 0
    assert "checksum" in result.stdout + result.stderr
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    "choice",
    [
        {"url": "http://127.0.0.1/plugin.so"},
        {"url": "http://127.0.0.1/plugin.so", "sha256": ""},
        {"url": "http://127.0.0.1/plugin.so", "sha256": SHA256[:-1]},
        {"url": "http://127.0.0.1/plugin.so", "sha256": SHA256, "verify": False},
        {"url": "ftp://127.0.0.1/plugin.so", "sha256": SHA256},
        "upstream",
    ],
    ids=["no-checksum", "empty-checksum", "short-checksum", "unknown-key", "other-protocol", "unknown-word"],
)
def test_a_choice_that_cannot_be_verified_is_refused_in_words(choice: object, tmp_path: Path) -> None:
    result = fetch(choice, tmp_path / "cache")
    assert result.returncode != 0
    assert "orthanc_postgresql_plugin must be `debian`, or a mapping with `url`" in result.stdout + result.stderr
    assert not (tmp_path / "cache").exists()
