"""A release that is older than what the host has is refused in words, and the host stays as it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from platform_client import ROOT, Platform

REVISION = "UPDATE globalproperties SET value = '{}' WHERE property = 4"


def deploy(*arguments: str) -> subprocess.CompletedProcess[str]:
    playbook = str(Path(sys.executable).with_name("ansible-playbook"))
    return subprocess.run(
        [playbook, "-i", "inventories/sandbox", "site.yml", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("release", "told"),
    [
        ("keycloak_version=26.0.0", "does not go back to 26.0.0"),
        ("orthanc_release=trixie", "orthanc_release asks for an older one"),
    ],
)
def test_an_older_release_is_refused_before_anything_is_changed(platform: Platform, release: str, told: str) -> None:
    refused = deploy("-e", release)
    assert refused.returncode != 0
    assert told in " ".join(refused.stdout.split())
    assert "changed=0" in refused.stdout
    assert "PLAY [Deploy the platform]" not in refused.stdout


def test_an_index_that_a_newer_plugin_has_migrated_is_refused(platform: Platform) -> None:
    psql = ("runuser", "-u", "postgres", "--", "psql", "orthanc", "-c")
    platform.on_host(*psql, REVISION.format(4))
    try:
        refused = deploy()
    finally:
        platform.on_host(*psql, REVISION.format(1))
    assert refused.returncode != 0
    assert "has the revision 4, made by a newer plugin" in " ".join(refused.stdout.split())
    assert "PLAY [Deploy the platform]" not in refused.stdout
