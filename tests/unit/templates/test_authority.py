"""The host's own authority: good for the platform's name, and for nothing else, however its key is used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from project import ROOT

DOMAIN = "imaging.example.org"
PLAYBOOK = """
- hosts: localhost
  connection: local
  gather_facts: false
  vars: {nginx_domain: %s, nginx_tls_path: '%s', nginx_certificate_renew: false}
  handlers: [{name: Reload nginx, ansible.builtin.debug: {msg: is told}}]
  tasks: [{ansible.builtin.include_tasks: '%s/roles/nginx/tasks/certificate-self-signed.yml'}]
"""


def play(directory: Path) -> str:
    """Have the role provide the certificate; return Ansible's output."""
    playbook = directory.with_suffix(".yml")
    playbook.write_text(PLAYBOOK % (DOMAIN, directory, ROOT))
    variable = f"ansible_python_interpreter={sys.executable}"
    command = [Path(sys.executable).with_name("ansible-playbook"), "-i", "localhost,", "-e", variable, playbook]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def openssl(directory: Path, *words: str, given: str = "") -> str:
    done = subprocess.run(["openssl", *words], cwd=directory, input=given, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tls")
    play(directory)
    return directory


def signed(tls: Path, extensions: str, issuer: str = "ca", key: str = "ca-key.pem") -> None:
    """Use the authority's key as a thief would: odd.pem, with these extensions."""
    (tls / "odd.cnf").write_text(f"basicConstraints=critical,CA:FALSE\n{extensions}\n")
    made = openssl(tls, "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
                   "odd.key", "-out", "odd.csr", "-subj", "/CN=odd")  # fmt: skip
    assert (tls / "odd.csr").exists(), made
    made = openssl(tls, "x509", "-req", "-in", "odd.csr", "-CA", f"{issuer}.pem", "-CAkey", key, "-days", "30",
                   "-extfile", "odd.cnf", "-out", "odd.pem")  # fmt: skip
    assert (tls / "odd.pem").exists(), made


def verified(tls: Path, *more: str, certificate: str = "odd.pem", authority: str = "ca.pem") -> str:
    return openssl(tls, "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", authority, *more, certificate)


def test_it_vouches_for_the_platform(tls: Path) -> None:
    assert "OK" in verified(tls, "-verify_hostname", DOMAIN, certificate="fullchain.pem")


@pytest.mark.parametrize(
    ("name", "refusal"),
    [
        ("DNS:mail.example.org", "permitted subtree violation"),
        ("DNS:example.org", "permitted subtree violation"),
        (f"DNS:{DOMAIN}.attacker.net", "permitted subtree violation"),
        (f"DNS:{DOMAIN},DNS:bank.example", "permitted subtree violation"),
        ("IP:192.0.2.1", "excluded subtree violation"),
        ("IP:2001:db8::1", "excluded subtree violation"),
    ],
)
def test_it_vouches_for_no_other_name(tls: Path, name: str, refusal: str) -> None:
    signed(tls, f"subjectAltName={name}")
    assert refusal in verified(tls)


def test_it_vouches_for_no_other_purpose_and_for_no_other_authority(tls: Path) -> None:
    signed(tls, f"subjectAltName=DNS:{DOMAIN}\nextendedKeyUsage=emailProtection")
    assert "unsuitable certificate purpose" in openssl(
        tls, "verify", "-purpose", "smimesign", "-CAfile", "ca.pem", "odd.pem"
    )
    made = openssl(tls, "x509", "-in", "ca.pem", "-noout", "-ext", "basicConstraints,nameConstraints")
    assert "CA:TRUE, pathlen:0" in made
    assert "X509v3 Name Constraints: critical" in made


def test_the_authority_of_an_earlier_release_is_made_anew_and_who_trusts_it_notices_nothing(tmp_path: Path) -> None:
    tls = tmp_path / "tls"
    tls.mkdir()
    play(tls)
    # As it was: the same key and name, without constraints; and the certificate that it had signed.
    subject = f"/CN=Imaging CA of {DOMAIN}"
    openssl(tls, "req", "-x509", "-new", "-key", "ca-key.pem", "-subj", subject, "-days", "3650", "-out", "ca.pem",
            "-config", "/dev/null", "-addext", "basicConstraints=critical,CA:TRUE,pathlen:0",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign")  # fmt: skip
    before = {path.name: path.read_bytes() for path in tls.iterdir() if path.name != "ca.csr"}
    (tls / "before.pem").write_bytes(before["ca.pem"])
    assert "Name Constraints" not in openssl(tls, "x509", "-in", "ca.pem", "-noout", "-text")

    play(tls)

    assert "Name Constraints" in openssl(tls, "x509", "-in", "ca.pem", "-noout", "-text")
    for kept in ("ca-key.pem", "privkey.pem", "fullchain.pem"):
        assert (tls / kept).read_bytes() == before[kept], kept
    for authority in ("before.pem", "ca.pem"):
        assert "OK" in verified(tls, "-verify_hostname", DOMAIN, certificate="fullchain.pem", authority=authority)
    assert "changed=0" in play(tls), "a second run changes nothing"
