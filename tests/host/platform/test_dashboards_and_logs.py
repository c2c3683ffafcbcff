"""Grafana's and Loki's roles against an apt repository of ours, whose two packages stand in for the vendor's.

Repository, key, configuration, units, proxy and log shipping are the real ones; only the two programs are not.
"""

from __future__ import annotations

import json
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stand_in_repository
from platform_client import ROOT, Platform
from time_lapse import wait_for

STAND_INS = Path(__file__).parent / "stand_ins"
REPOSITORY = "/srv/stand-in-repository"
# Loki's state directory is Loki's alone.
RECEIVED = "/var/lib/loki/received.jsonl"


def play(*playbooks: str | Path, **variables: Any) -> str:
    ansible = Path(sys.executable).parent / "ansible-playbook"
    command = [ansible, "-i", "inventories/sandbox", "-e", json.dumps(variables), *playbooks]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def settings(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The two deployed from the repository; answers the variables that say where it is."""
    directory = tmp_path_factory.mktemp("repository")
    fingerprint = stand_in_repository.build(directory, STAND_INS)
    platform.on_host("rm", "-rf", REPOSITORY)
    subprocess.run(["docker", "cp", directory, f"{platform.container}:{REPOSITORY}"], check=True, capture_output=True)
    variables = {"grafana_apt_repository": f"file://{REPOSITORY}", "grafana_apt_key_fingerprints": [fingerprint]}
    variables["grafana_required"] = True
    play("playbooks/validate.yml", STAND_INS / "nginx.yml", "playbooks/dashboards.yml", **variables)
    yield variables
    units = ("grafana-server", "loki", "syslog-ng")
    platform.on_host("systemctl", "stop", *units)
    platform.on_host("apt-get", "purge", "--yes", "-qq", "grafana", "loki", "syslog-ng-core", "syslog-ng-mod-http")
    left = [f"/etc/systemd/system/{unit}.service.d" for unit in units]
    left += [f"/etc/systemd/system/imaging.target.d/{name}.conf" for name in ("grafana", "loki", "log_shipping")]
    left += [f"/etc/prometheus/targets/{name}.yml" for name in ("grafana", "loki")]
    left += ["/etc/apt/sources.list.d/grafana.sources", "/etc/apt/keyrings/grafana.asc", "/etc/grafana", "/etc/loki"]
    left += [REPOSITORY, "/var/lib/loki", "/var/lib/grafana", "/var/lib/private/imaging-log-shipping"]
    platform.on_host("rm", "-rf", *left)
    # The next run of site.yml takes /grafana out of nginx.
    platform.on_host("systemctl", "daemon-reload")


def received(platform: Platform) -> list[dict[str, str]]:
    return [json.loads(line) for line in platform.on_host("cat", RECEIVED, check=False).splitlines()]


def log(platform: Platform, *lines: str) -> None:
    """Log lines as a service does that writes to its standard error."""
    name = f"imaging-importer-{secrets.token_hex(4)}"
    path = f"/run/{name}"
    write = ["docker", "exec", "-i", platform.container, "sh", "-c", f"cat > {path}"]
    subprocess.run(write, input="\n".join(lines) + "\n", text=True, check=True)
    platform.on_host("systemd-run", "--quiet", "--wait", f"--unit={name}", "sh", "-c", f"cat {path} >&2; rm {path}")


def test_a_second_run_changes_nothing(settings: dict[str, Any]) -> None:
    output = play("playbooks/validate.yml", "playbooks/dashboards.yml", **settings)
    assert set(re.findall(r"changed=(\d+)", output)) == {"0"}


def test_a_key_that_is_not_the_pinned_one_is_refused(platform: Platform, settings: dict[str, Any]) -> None:
    arguments = "name=other url=file:///nowhere key_url=file:///srv/stand-in-repository/gpg.key"
    ansible = Path(sys.executable).parent / "ansible"
    command = [ansible, "-i", "inventories/sandbox", "imaging", "-m", "vendor_repository"]
    command += ["-a", f"{arguments} fingerprints=B53AE77BADB630A683046005963FA27710458545"]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode != 0
    assert settings["grafana_apt_key_fingerprints"][0] in done.stdout
    assert "Nothing was changed" in done.stdout
    assert platform.on_host("ls", "/etc/apt/keyrings/").split() == ["grafana.asc"]


def test_grafana_is_reached_through_nginx_with_its_configuration(platform: Platform, settings: dict[str, Any]) -> None:
    answer = platform.session().get(f"{platform.url}/grafana/d/overview?x=1", timeout=30)
    assert answer.status_code == 200
    told = answer.json()
    assert told["path"] == "/grafana/d/overview?x=1"
    assert told["headers"]["Host"] == platform.url.removeprefix("https://")
    assert told["headers"]["X-Forwarded-Proto"] == "https"
    assert told["root_url"] == f"{platform.url}/grafana/"
    assert told["secrets"] == ["client_secret", "secret_key"]
    assert len(told["dashboards"]) == 8
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]


def test_the_realm_knows_grafana_and_asks_for_a_login(platform: Platform, settings: dict[str, Any]) -> None:
    query = {
        "client_id": "grafana",
        "response_type": "code",
        "scope": "openid",
        "redirect_uri": f"{platform.url}/grafana/login/generic_oauth",
        "code_challenge": secrets.token_urlsafe(32),
        "code_challenge_method": "S256",
    }
    address = f"{platform.realm_url}/protocol/openid-connect/auth"
    assert 'id="kc-form-login"' in platform.session().get(address, params=query, timeout=60).text
    elsewhere = platform.session().get(address, params=query | {"redirect_uri": "https://example.org/"}, timeout=60)
    assert elsewhere.status_code == 400


def test_a_line_arrives_as_it_was_written(platform: Platform, settings: dict[str, Any]) -> None:
    mark = secrets.token_hex(8)
    lines = [
        f'{mark} "quoted" and \\back\\slashed, {{json: "yes"}}',
        f"{mark} Сабыр Қайрат: 心臓, é, 😀",
        f"{mark} tab\there, percent %s $MESSAGE ${{unit}}",
        f"{mark} " + "long " * 400,
    ]
    log(platform, *lines)
    found = wait_for(
        "the lines",
        lambda: (
            got if len(got := [entry for entry in received(platform) if mark in entry.get("line", "")]) >= 4 else []
        ),
    )
    assert {entry["line"].rstrip() for entry in found} == {line.rstrip() for line in lines}
    for entry in found:
        assert entry["level"] == "info"
        assert re.fullmatch(r"imaging-importer-[0-9a-f]+", entry["unit"])


def test_requests_arrive_without_query(platform: Platform, settings: dict[str, Any]) -> None:
    mark = secrets.token_hex(8)
    platform.session().get(f"{platform.url}/{mark}?PatientName=Secret", timeout=30)
    (entry,) = wait_for(
        "the request", lambda: [entry for entry in received(platform) if mark in entry.get("line", "")][:1]
    )
    assert entry["unit"] == "nginx-requests"
    assert json.loads(entry["line"])["path"] == f"/{mark}"
    assert "Secret" not in entry["line"]


def test_nothing_is_lost_while_loki_is_away(platform: Platform, settings: dict[str, Any]) -> None:
    mark = secrets.token_hex(8)
    lines = [f"{mark} {number}" for number in range(2000)]
    platform.on_host("systemctl", "stop", "loki")
    log(platform, *lines[:1000])
    platform.on_host("systemctl", "restart", "syslog-ng")
    log(platform, *lines[1000:])
    platform.on_host("systemctl", "start", "loki")

    def missing() -> set[str]:
        return set(lines) - {entry["line"] for entry in received(platform) if "line" in entry}

    wait_for("every line", lambda: not missing())


def test_loki_refused_nothing(platform: Platform, settings: dict[str, Any]) -> None:
    entries = received(platform)
    assert entries
    assert [entry for entry in entries if "refused" in entry] == []


def test_prometheus_measures_the_two(platform: Platform, settings: dict[str, Any]) -> None:
    def up() -> bool:
        query = "http://127.0.0.1:9090/api/v1/query?query=up%7Bjob%3D~%22grafana%7Cloki%22%7D"
        found = json.loads(platform.on_host("curl", "-s", query))["data"]["result"]
        return [series["value"][1] for series in found] == ["1", "1"]

    wait_for("both targets up", up)
