"""The command that says whether the platform is well: for root, since the services' ports answer nobody else."""

from __future__ import annotations

import json

from testinfra.host import Host


def test_nobody_but_root_may_change_the_answer(host: Host) -> None:
    for path, mode in (("/usr/local/bin/imaging-status", 0o755), ("/etc/imaging/status.toml", 0o644)):
        file = host.file(path)
        assert (file.user, file.group, file.mode) == ("root", "root", mode)


def test_it_finds_every_service_well(host: Host) -> None:
    told = json.loads(host.run("imaging-status --json --services").stdout)
    assert [service["name"] for service in told["services"] if not service["healthy"]] == []
    assert "nginx" in {service["name"] for service in told["services"]}


def test_it_tells_others_that_it_needs_root(host: Host) -> None:
    refused = host.run("runuser -u nobody -- imaging-status")
    assert refused.rc != 0
    assert "root" in refused.stderr
