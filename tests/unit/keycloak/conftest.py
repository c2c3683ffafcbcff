"""The real Keycloak for the specification of the modules.

Given by IMAGING_TEST_KEYCLOAK_URL, IMAGING_TEST_KEYCLOAK_CLIENT_ID and IMAGING_TEST_KEYCLOAK_SECRET_FILE, or started
here from the archive that role keycloak pins: built once beside the archive, run with a database in memory.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import yaml
from ports import free_port
from project import ROOT

sys.path.insert(0, str(ROOT / "tests/unit/modules"))
pytest.register_assert_rewrite("specification", "desk")

from desk import Server, applied, desk, empty, person, registry  # noqa: E402

__all__ = ["applied", "desk", "empty", "person", "registry"]

CACHE = Path(os.environ.get("IMAGING_ARTIFACTS_PATH", Path.home() / ".cache/imaging-platform"))
BUILD = [
    "--db=dev-mem",
    "--http-relative-path=/auth",
    "--http-management-relative-path=/",
    "--health-enabled=true",
    "--features-disabled=ciba,device-flow,impersonation",
]
START_SECONDS = 180


def archive() -> Path:
    """The pinned archive, fetched and verified as the role does it."""
    playbook = CACHE / "fetch-keycloak.yml"
    CACHE.mkdir(parents=True, exist_ok=True)
    playbook.write_text(
        "- {hosts: localhost, connection: local, gather_facts: false, vars: {keycloak_artifacts_path: "
        f"'{CACHE}'}}, tasks: [{{import_role: {{name: keycloak, tasks_from: fetch}}}}]}}\n"
    )
    command = [
        Path(sys.executable).with_name("ansible-playbook"),
        "-i",
        "localhost,",
        "-e",
        f"@{ROOT}/vars/versions.yml",
        playbook,
    ]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")})
    playbook.unlink()
    return CACHE / f"keycloak-{version()}.tar.gz"


def version() -> str:
    return str(yaml.safe_load((ROOT / "vars/versions.yml").read_text())["keycloak_version"])


def built() -> Path:
    """An installation with our build options, kept for the next run."""
    options = hashlib.sha256(" ".join(BUILD).encode()).hexdigest()[:12]
    home = CACHE / f"test-keycloak-{version()}-{options}"
    if not (home / "built").exists():
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        subprocess.run(["tar", "-xzf", archive(), "-C", home, "--strip-components=1"], check=True)
        subprocess.run([home / "bin/kc.sh", "build", *BUILD], check=True, stdout=subprocess.DEVNULL)
        (home / "built").touch()
    return home


@pytest.fixture(scope="session")
def keycloak(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if "IMAGING_TEST_KEYCLOAK_URL" in os.environ:
        yield Server(
            os.environ["IMAGING_TEST_KEYCLOAK_URL"],
            os.environ.get("IMAGING_TEST_KEYCLOAK_CLIENT_ID", "imaging-ansible"),
            Path(os.environ["IMAGING_TEST_KEYCLOAK_SECRET_FILE"]).read_text().strip(),
        )
        return
    if shutil.which("java") is None:
        pytest.skip("needs Java 17 or newer: apt-get install openjdk-17-jre-headless")

    directory = tmp_path_factory.mktemp("keycloak")
    port, management, secret = free_port(), free_port(), secrets.token_urlsafe(32)
    configuration = directory / "keycloak.conf"
    configuration.touch(mode=0o600)
    configuration.write_text(
        f"hostname=https://imaging.example.org/auth\nhttp-enabled=true\nhttp-host=127.0.0.1\nhttp-port={port}\n"
        f"http-management-host=127.0.0.1\nhttp-management-port={management}\ncache=local\nproxy-headers=xforwarded\n"
        f"bootstrap-admin-client-id=imaging-ansible\nbootstrap-admin-client-secret={secret}\n"
    )
    log = directory / "log"
    with log.open("w") as output:
        command = [built() / "bin/kc.sh", f"--config-file={configuration}", "start", "--optimized"]
        process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            wait(process, f"http://127.0.0.1:{management}/health/ready", log)
            yield Server(f"http://127.0.0.1:{port}/auth", "imaging-ansible", secret)
        finally:
            process.terminate()
            process.wait(30)


def wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        assert process.poll() is None, f"Keycloak did not start:\n{log.read_text()}"
        try:
            with urlopen(url, timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.5)
    pytest.fail(f"Keycloak was not ready after {START_SECONDS} s:\n{log.read_text()}")
