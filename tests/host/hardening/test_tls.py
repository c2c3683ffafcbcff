"""nginx as testssl.sh sees it (Debian's package, on the sandbox host)."""

from __future__ import annotations

import json

from platform_client import Platform

REPORT = "/run/imaging-testssl.json"
# Its own authority has no list of what it revoked: distributing one is what a real authority is for.
SELF_SIGNED = {"cert_revocation"}


def test_testssl_finds_nothing_of_medium_severity_or_above_but_what_is_self_signed(platform: Platform) -> None:
    packages = ("testssl.sh", "bsdextrautils", "dnsutils")
    platform.on_host("apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages)
    try:
        platform.on_host(
            *("testssl", "--quiet", "--warnings", "off", "--color", "0", "--ip", "127.0.0.1", "--severity", "LOW"),
            *("--add-ca", "/etc/imaging/tls/ca.pem", "--jsonfile", REPORT, "--overwrite", platform.url),
            check=False,  # its exit code counts findings
        )
        found = json.loads(platform.on_host("cat", REPORT))
    finally:
        platform.on_host("rm", "-f", REPORT)
        platform.on_host("apt-get", "purge", "-y", "-qq", *packages)
    # A finding of low severity that is always there: it has looked.
    assert "DNS_CAArecord" in {finding["id"] for finding in found}
    serious = [one for one in found if one["severity"] in {"MEDIUM", "HIGH", "CRITICAL", "FATAL"}]
    assert [one for one in serious if one["id"] not in SELF_SIGNED] == []
