"""An apt repository with packages that stand in for Grafana and Loki, signed by a key that is thrown away."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from email.utils import formatdate
from pathlib import Path

UNIT = """[Unit]
Description=Stand-in for tests, not {name}
[Service]
User={name}
ExecStart=/usr/bin/false
[Install]
WantedBy=multi-user.target
"""
CONTROL = """Package: {name}
Version: 99.0~standin
Architecture: all
Maintainer: The tests of the imaging platform <nobody@example.org>
Depends: python3
Description: stand-in for tests, not the real {name}
"""
POSTINST = """#!/bin/sh
set -e
id {name} >/dev/null 2>&1 || useradd --system --no-create-home --home-dir /var/lib/{name} {name}
systemctl daemon-reload
"""


def build(directory: Path, programs: Path) -> str:
    """Make the repository in `directory` of the two programs; returns the fingerprint of its key."""
    packages = [
        package(directory, "grafana", programs / "grafana", "usr/share/grafana/bin/grafana", "grafana-server"),
        package(directory, "loki", programs / "loki", "usr/bin/loki", "loki"),
    ]
    suite = directory / "dists/stable"
    index = suite / "main/binary-all/Packages"
    for path in (index, suite / "main/binary-amd64/Packages", suite / "main/binary-arm64/Packages"):
        path.parent.mkdir(parents=True)
        path.write_text("\n".join(packages))
    listed = "".join(
        f" {hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_size} {path.relative_to(suite)}\n"
        for path in sorted(suite.rglob("Packages"))
    )
    (suite / "Release").write_text(
        "Origin: stand-in\nSuite: stable\nCodename: stable\nArchitectures: all amd64 arm64\nComponents: main\n"
        f"Date: {formatdate(usegmt=True)}\nSHA256:\n{listed}"
    )
    return sign(directory, suite)


def package(directory: Path, name: str, program: Path, installed: str, unit: str) -> str:
    """Build a package; returns its entry in the index."""
    root = directory / "build" / name
    files = {
        f"lib/systemd/system/{unit}.service": (UNIT.format(name=name), 0o644),
        installed: (program.read_text(), 0o755),
        "DEBIAN/control": (CONTROL.format(name=name), 0o644),
        "DEBIAN/postinst": (POSTINST.format(name=name), 0o755),
    }
    for path, (text, mode) in files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)
    built = directory / f"{name}.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", root, built], check=True, capture_output=True)
    content = built.read_bytes()
    checksum = hashlib.sha256(content).hexdigest()
    return f"{CONTROL.format(name=name)}Filename: {built.name}\nSize: {len(content)}\nSHA256: {checksum}\n"


def sign(directory: Path, suite: Path) -> str:
    """Sign the release with a new key and put the public one beside it; returns the key's fingerprint."""
    home = directory / "gnupg"
    home.mkdir(mode=0o700)
    environment = {**os.environ, "GNUPGHOME": str(home)}
    gpg = ["gpg", "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""]

    def run(*arguments: str) -> str:
        return subprocess.run([*gpg, *arguments], env=environment, check=True, capture_output=True, text=True).stdout

    run("--quick-generate-key", "Stand-in <nobody@example.org>", "rsa3072", "sign", "1d")
    fingerprint = re.search(r"^fpr:+([0-9A-F]{40}):", run("--with-colons", "--list-keys"), re.MULTILINE)
    assert fingerprint
    (directory / "gpg.key").write_text(run("--armor", "--export"))
    run("--clearsign", "--output", str(suite / "InRelease"), str(suite / "Release"))
    subprocess.run(["gpgconf", "--kill", "all"], env=environment, check=False)
    return fingerprint[1]
