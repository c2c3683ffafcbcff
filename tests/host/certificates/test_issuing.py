"""Certificates by a real ACME server (Debian's pebble, beside the platform on the sandbox host) and the operator's.

The tests build on each other, in their order: a host with its own authority's certificate gets one of the ACME server,
which is renewed, fails to be, and gives way to a provided one. At the end the host is what it was.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from platform_client import ROOT, Platform, state_path
from time_lapse import TimeLapse, wait_for

PEBBLE = "/run/imaging-pebble"
DIRECTORY = "https://localhost:14000/dir"
SETTINGS = {
    "pebble": {
        "listenAddress": "127.0.0.1:14000",
        "managementListenAddress": "127.0.0.1:15000",
        "certificate": f"{PEBBLE}/server.pem",
        "privateKey": f"{PEBBLE}/server-key.pem",
        "httpPort": 80,
        "tlsPort": 443,
        "externalAccountBindingRequired": False,
    }
}


class Host:
    """The sandbox host under other certificates than its own."""

    def __init__(self, platform: Platform, trusted: Path) -> None:
        self.platform, self.trusted = platform, trusted
        self.name = platform.url.removeprefix("https://")
        self.address = socket.gethostbyname(self.name)
        self.settings: dict[str, object] = {}

    def start_authority(self) -> None:
        """Start pebble with a certificate for itself. It issues certificates by a root that it makes at its start."""
        on_host = self.platform.on_host
        on_host("mkdir", "-p", PEBBLE)
        self.write(f"{PEBBLE}/pebble.json", json.dumps(SETTINGS))
        subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
        files = ("-keyout", f"{PEBBLE}/server-key.pem", "-out", f"{PEBBLE}/server.pem")
        on_host("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, *files)
        on_host(
            *("systemd-run", "--quiet", "--collect", "--unit=imaging-pebble"),
            # It would wait some seconds before it validates, and refuse some sound requests to test clients.
            *("--setenv=PEBBLE_VA_NOSLEEP=1", "--setenv=PEBBLE_WFE_NONCEREJECT=0"),
            *("pebble", "-config", f"{PEBBLE}/pebble.json"),
        )
        root = ("curl", "-sf", "--cacert", f"{PEBBLE}/server.pem", "https://localhost:15000/roots/0")
        wait_for("pebble answers", lambda: on_host(*root, check=False), 30)
        self.trust("pebble-itself", on_host("cat", f"{PEBBLE}/server.pem"))
        self.trust("pebble-root", on_host(*root))

    def stop_authority(self) -> None:
        self.platform.on_host("systemctl", "stop", "imaging-pebble", check=False)

    def trust(self, name: str, certificate: str) -> None:
        (self.trusted / f"{name}.crt").write_text(certificate)

    def write(self, path: str, text: str) -> None:
        command = ["docker", "exec", "-i", self.platform.container, "sh", "-c", f"cat > {path}"]
        subprocess.run(command, input=text, text=True, check=True)

    def play(
        self, playbook: str, *arguments: str, sandbox: str = "", **settings: object
    ) -> subprocess.CompletedProcess[str]:
        """Run a playbook under the present settings, on another sandbox if one is named."""
        own = [str(path) for path in sorted(Path("/usr/local/share/ca-certificates").glob("*.crt"))]
        certificates = [str(path) for path in sorted(self.trusted.glob("*.crt"))]
        variables = {"imaging_extra_ca_files": own + certificates, **self.settings, **settings}
        command = ["ansible-playbook", "-i", "inventories/sandbox", playbook, "-e", json.dumps(variables), *arguments]
        environment = os.environ | ({"SANDBOX": sandbox} if sandbox else {})
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    def shown(self) -> x509.Certificate:
        """The certificate that nginx shows now."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with (
            socket.create_connection((self.address, 443), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname=self.name) as tls,
        ):
            return x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"")

    def issuer(self) -> str:
        return self.shown().issuer.rfc4514_string()


class Visitors:
    """Requests without a pause, each over a new connection, until told to stop."""

    def __init__(self, host: Host) -> None:
        self.host, self.answers, self.failures = host, 0, []
        self.serials: set[int] = set()
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._visit) for _ in range(4)]

    def __enter__(self) -> Visitors:
        for thread in self._threads:
            thread.start()
        wait_for("there are visitors", lambda: self.answers > 50, 60)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _visit(self) -> None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        while not self._ended.is_set():
            try:
                connection = http.client.HTTPConnection(self.host.name)
                plain = socket.create_connection((self.host.address, 443), timeout=20)
                connection.sock = tls = context.wrap_socket(plain, server_hostname=self.host.name)
                connection.request("GET", "/")
                answer = connection.getresponse()
                if answer.status != 200 or not answer.read():
                    self.failures.append(f"{answer.status} {answer.reason}")
                shown = tls.getpeercert(binary_form=True) or b""
                self.serials.add(x509.load_der_x509_certificate(shown).serial_number)
                connection.close()
                self.answers += 1
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))


@pytest.fixture(scope="module")
def host(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    host = Host(platform, tmp_path_factory.mktemp("trusted"))
    platform.on_host("apt-get", "install", "-y", "-qq", "--no-install-recommends", "pebble")
    platform.on_host("systemctl", "disable", "--now", "pebble.service", check=False)
    yield host
    host.settings = {}
    host.stop_authority()
    ended = host.play("site.yml")
    # An authority that the inventory once named stays trusted until somebody removes it: here, the tests.
    platform.on_host("sh", "-c", "rm -f /usr/local/share/ca-certificates/pebble-* && update-ca-certificates --fresh")
    platform.on_host("apt-get", "purge", "-y", "-qq", "pebble", "certbot")
    platform.on_host("rm", "-rf", PEBBLE, "/etc/letsencrypt", "/etc/imaging/tls/provided.pem")
    assert ended.returncode == 0, ended.stdout[-3000:]


@pytest.fixture
def bare() -> Iterator[str]:
    """A host on which nothing was ever deployed, as the name of a sandbox."""
    name = f"{os.environ.get('SANDBOX', 'sandbox')}-bare"
    sandbox = [sys.executable, str(ROOT / "tools/sandbox.py")]
    subprocess.run([*sandbox, "up", "--name", f"imaging-{name}"], check=True)
    yield name
    subprocess.run([*sandbox, "down", "--name", f"imaging-{name}"], check=True)
    shutil.rmtree(state_path().parent / name, ignore_errors=True)


def said(played: subprocess.CompletedProcess[str]) -> str:
    """The output of a run, without the line breaks that Ansible puts between words."""
    return " ".join(played.stdout.split())


def recap(played: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """The host's counts at the end of a run."""
    (line,) = re.findall(r"^sandbox +: (.*)$", played.stdout, re.MULTILINE)
    return {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", line)}


def assert_refused_as_never_deployed(played: subprocess.CompletedProcess[str], mode: str) -> None:
    assert played.returncode != 0
    assert f"was not deployed with imaging_tls_mode: {mode}" in said(played), played.stdout[-3000:]
    assert "Run site.yml" in said(played)
    assert recap(played)["changed"] == 0


def test_a_check_before_the_first_run_goes_to_its_end(host: Host, bare: str) -> None:
    played = host.play("site.yml", "--check", sandbox=bare, imaging_tls_mode="letsencrypt")
    assert played.returncode == 0, played.stdout[-3000:]


def test_a_renewal_alone_does_not_change_to_an_authority(host: Host) -> None:
    played = host.play("playbooks/certificates.yml", imaging_tls_mode="letsencrypt", imaging_acme_directory=DIRECTORY)
    assert_refused_as_never_deployed(played, "letsencrypt")


def test_a_first_certificate_that_is_refused_leaves_a_platform_that_runs(host: Host) -> None:
    host.settings = {"imaging_tls_mode": "letsencrypt", "imaging_acme_directory": DIRECTORY}
    before = host.shown().serial_number
    played = host.play("site.yml")
    assert played.returncode != 0
    for words in ("has not issued a certificate for", "1. DNS:", "2. Port 80:", "3. The way out:", "run `make certs`"):
        assert words in said(played)
    assert host.shown().serial_number == before


def test_the_first_certificate_is_issued_and_shown(host: Host) -> None:
    host.start_authority()
    played = host.play("site.yml")
    assert played.returncode == 0, played.stdout[-3000:]
    assert "Pebble" in host.issuer()
    # Everybody who trusts that authority, and nobody asked for more than the name.
    context = ssl.create_default_context(cafile=host.trusted / "pebble-root.crt")
    with (
        socket.create_connection((host.address, 443), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=host.name),
    ):
        pass


def test_another_run_changes_nothing(host: Host) -> None:
    shown = host.shown().serial_number
    for mode in ((), ("--check",)):
        played = host.play("site.yml", *mode)
        assert played.returncode == 0, played.stdout[-3000:]
        assert recap(played)["changed"] == 0, played.stdout
    assert host.shown().serial_number == shown


def test_a_renewal_under_load_fails_nobody(host: Host) -> None:
    before = host.shown().serial_number
    with Visitors(host) as visitors:
        played = host.play("playbooks/certificates.yml", renew=1)
        time.sleep(2)
    assert played.returncode == 0, played.stdout[-3000:]
    assert visitors.failures == []
    after = host.shown().serial_number
    assert visitors.serials == {before, after}
    assert before != after
    print(f"{visitors.answers} requests over new connections, none failed")


def due(host: Host) -> None:
    """Have the timer's own unit find the certificate due."""
    edit(host, r"/renew_before_expiry/d")
    edit(host, r"1i renew_before_expiry = 9999 days")


def edit(host: Host, change: str) -> None:
    host.platform.on_host("sed", "-i", change, f"/etc/letsencrypt/renewal/{host.name}.conf")


def test_the_timers_unit_renews_what_is_due(host: Host) -> None:
    before = host.shown().serial_number
    assert host.platform.on_host("systemctl", "is-enabled", "certbot.timer").strip() == "enabled"
    due(host)
    host.platform.on_host("systemctl", "start", "certbot.service")
    wait_for("nginx shows the new one", lambda: host.shown().serial_number != before, 20)


# As it is left when imaging_domain was changed: the former name leads elsewhere by now, so no authority renews it.
FORMER = """
set -e
cd /etc/letsencrypt
cp -R archive/$0 archive/former.test
mkdir live/former.test
for link in live/$0/*.pem; do
  ln -s ../../archive/former.test/$(basename $(readlink $link)) live/former.test/$(basename $link)
done
sed "s/$0/former.test/; s/:14000/:14001/" renewal/$0.conf > renewal/former.test.conf
"""


def test_the_certificate_of_a_former_name_is_left_alone(host: Host) -> None:
    before = host.shown().serial_number
    due(host)
    host.platform.on_host("sh", "-c", FORMER, host.name)
    host.platform.on_host("systemctl", "start", "certbot.service")
    wait_for("nginx shows the new one", lambda: host.shown().serial_number != before, 20)
    # It could not have been renewed, and that would have been told as CertificateNotRenewed.
    with pytest.raises(subprocess.CalledProcessError):
        host.platform.on_host("certbot", "--quiet", "renew", "--no-random-sleep-on-renew", "--cert-name=former.test")


def test_a_renewal_that_fails_is_told_and_keeps_the_old_certificate(host: Host) -> None:
    time_lapse = TimeLapse(host.platform)
    before = host.shown().serial_number
    # Nobody answers there. To stop pebble would be another trouble: it forgets its accounts.
    edit(host, "s/:14000/:14001/")
    time_lapse.start()
    try:
        host.platform.on_host("systemctl", "start", "certbot.service", check=False)
        time_lapse.wait_for("CertificateNotRenewed", "firing")
        assert host.shown().serial_number == before
        assert "UnitFailed" not in time_lapse.state()
        edit(host, "s/:14001/:14000/")
        host.platform.on_host("systemctl", "start", "certbot.service")
        time_lapse.wait_for("CertificateNotRenewed", "resolved")
    finally:
        time_lapse.stop()


def test_a_provided_certificate_is_laid_down_and_replaced(host: Host, tmp_path: Path) -> None:
    host.settings = {
        "imaging_tls_mode": "provided",
        "imaging_tls_certificate_file": str(tmp_path / "chain.pem"),
        "imaging_tls_key_file": str(tmp_path / "key.pem"),
    }
    # An RSA key, as many hospitals' authorities give.
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=Hospital"]
    command += ["-addext", f"subjectAltName=DNS:{host.name}"]
    command += ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "chain.pem")]
    subprocess.run(command, check=True, capture_output=True)
    host.trust("pebble-hospital", (tmp_path / "chain.pem").read_text())
    assert_refused_as_never_deployed(host.play("playbooks/certificates.yml"), "provided")
    played = host.play("site.yml")
    assert played.returncode == 0, played.stdout[-3000:]
    assert host.issuer() == "CN=Hospital"
    before = host.shown().serial_number

    subprocess.run(command, check=True, capture_output=True)
    host.trust("pebble-hospital", (tmp_path / "chain.pem").read_text())
    played = host.play("playbooks/certificates.yml")
    assert "29 more days" in said(played), played.stdout[-3000:]
    assert host.shown().serial_number != before

    # A certificate that is no longer shown is no longer renewed, and nobody gets an alert about it.
    host.stop_authority()
    host.platform.on_host("systemctl", "start", "certbot.service")
    assert host.platform.on_host("systemctl", "is-failed", "certbot.service", check=False).strip() != "failed"


def test_a_wrong_file_is_refused_before_anything_changes(host: Host, tmp_path: Path) -> None:
    before = host.shown().serial_number
    (tmp_path / "chain.pem").write_text("no certificate")
    played = host.play("site.yml", imaging_tls_certificate_file=str(tmp_path / "chain.pem"))
    assert "holds no certificate in PEM form" in said(played)
    assert played.returncode != 0
    assert recap(played)["changed"] == 0
    assert host.shown().serial_number == before
