"""A package of Debian testing that is behind is told, with the holes that testing closes, and taken the same day."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from functools import partial

import platform_client
import pytest
from platform_client import Platform

# This package of testing can be older without harm: none of its files differs from the real one's.
PACKAGE, UNIT = "python3-pydicom", "imaging-updates.service"
METRICS = "/var/lib/prometheus/node-exporter/imaging-updates.prom"
OLDER = f"""
set -e
cd "$(mktemp -d)"
apt-get download -qq -o APT::Sandbox::User=root {PACKAGE}
dpkg-deb --raw-extract *.deb whole
sed -i 's/^Version: .*/&~older/' whole/DEBIAN/control
dpkg-deb --build --nocheck whole older.deb > /dev/null
dpkg --install --force-downgrade older.deb > /dev/null
"""
# Debian's security tracker, on loopback, with the data for debsecan.
TRACKER = """
import sys, zlib, http.server
data = zlib.compress(sys.argv[1].encode())
class Tracker(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(data)
http.server.HTTPServer(("127.0.0.1", 8953), Tracker).serve_forever()
"""

make = partial(platform_client.make, timeout=600)


def version(platform: Platform) -> str:
    return platform.on_host("dpkg-query", "--show", "--showformat=${Version}", PACKAGE)


def looked(platform: Platform) -> dict[str, float]:
    """The file that the confined unit leaves for Prometheus."""
    platform.on_host("systemctl", "start", UNIT)
    found = re.findall(r"^imaging_testing_(\w+) (\d+)$", platform.on_host("cat", METRICS), re.MULTILINE)
    return {name: float(value) for name, value in found}


@pytest.fixture
def real(platform: Platform) -> Iterator[str]:
    """The package is an older one than testing has; the version that it should have."""
    before = version(platform)
    platform.on_host("sh", "-c", OLDER)
    assert version(platform) == f"{before}~older"
    yield before
    platform.on_host("apt-get", "install", "-qq", "-y", "--only-upgrade", PACKAGE)


@pytest.fixture
def tracker(platform: Platform, real: str) -> Iterator[None]:
    """It knows one hole that testing closes and one that it does not."""
    data = f"VERSION 1\nCVE-1-closed,,\nCVE-1-open,,\n\npydicom,0, HRF,{real},\npydicom,1, HR ,,\n\n"
    command = f"systemd-run --unit=test-tracker python3 -c {shlex.quote(TRACKER)} {shlex.quote(data)}"
    platform.on_host("sh", "-c", command)
    platform.on_host("cp", "/etc/imaging/updates.toml", "/root/updates.toml")
    platform.on_host("sed", "-i", 's|^tracker = .*|tracker = "http://127.0.0.1:8953"|', "/etc/imaging/updates.toml")
    yield
    platform.on_host("mv", "/root/updates.toml", "/etc/imaging/updates.toml")
    platform.on_host("systemctl", "stop", "test-tracker")


def test_an_update_of_testing_is_told_and_taken_the_same_day(platform: Platform, real: str) -> None:
    assert looked(platform)["updates_pending"] == 1
    assert json.loads(platform.on_host("imaging-updates", "pending"))[0]["newer"] == real
    status = json.loads(platform.on_host("imaging-status", "--json", check=False))
    assert status["updates"]["pending"] == 1

    refused = make("update-testing", "PACKAGE=nginx")
    assert refused.returncode != 0
    assert "no newer nginx" in " ".join(refused.stdout.split())
    taken = make("update-testing")

    assert taken.returncode == 0, taken.stdout[-2000:]
    assert version(platform) == real
    assert "imaging-importer" in taken.stdout
    assert looked(platform)["updates_pending"] == 0
    again = make("update-testing")
    assert re.search(r"sandbox\s+: .*changed=0 .*failed=0", again.stdout), again.stdout[-2000:]


@pytest.mark.usefixtures("tracker")
def test_the_holes_that_it_closes_are_named(platform: Platform) -> None:
    measured = looked(platform)
    assert (measured["vulnerabilities"], measured["vulnerabilities_unfixed"]) == (1, 1)
    said = platform.on_host("journalctl", "-u", UNIT, "-n", "20", "-o", "cat")
    assert f"{PACKAGE}: CVE-1-closed, closed in testing" in said
    assert f"{PACKAGE}: CVE-1-open, not closed yet in testing" in said


def test_a_mirror_that_does_not_answer_is_told_and_yesterdays_answer_is_kept(platform: Platform) -> None:
    before = looked(platform)
    source = "/etc/apt/sources.list.d/imaging-testing.sources"
    platform.on_host("cp", source, "/root/testing.sources")
    platform.on_host("sed", "-i", "s|^URIs: .*|URIs: http://127.0.0.1:9/|", source)
    try:
        assert looked(platform) == before
        assert "The mirror was not reached" in platform.on_host("journalctl", "-u", UNIT, "-n", "20", "-o", "cat")
    finally:
        platform.on_host("mv", "/root/testing.sources", source)
