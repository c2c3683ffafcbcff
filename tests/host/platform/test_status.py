"""`make status`: one screen, the same for scripts, and a failure that names what is wrong."""

from __future__ import annotations

import json
import subprocess

from platform_client import ROOT, Platform


def status(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "-s", "status", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )


def test_every_service_is_well_and_shown_with_its_version(platform: Platform) -> None:
    told = json.loads(status("JSON=1").stdout)
    assert [seen["name"] for seen in told["services"] if not seen["healthy"] or not seen["version"]] == []
    assert told["certificate"]["days"] > 14
    # The sandbox's disk is the tester's own.
    others = [trouble for trouble in told["troubles"] if not trouble.startswith("the disk of")]
    assert others == []
    assert (status().returncode == 0) is told["well"]


def test_a_stopped_service_makes_it_fail_and_is_named(platform: Platform) -> None:
    platform.on_host("systemctl", "stop", "mtail.service")
    try:
        told = status()
        assert told.returncode != 0
        assert "- mtail: the unit is inactive" in told.stdout
        assert "nobody listens on port 3903" in told.stdout
    finally:
        platform.on_host("systemctl", "start", "mtail.service")
