"""The configuration of Prometheus, Alertmanager and the exporters, as it is rendered."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from monitoring_files import alerts, render, run

MAIL = {
    "monitoring_email_to": ["team@example.org", "night@example.org"],
    "monitoring_email_from": "imaging@example.org",
    "monitoring_smtp_server": "mail.example.org:587",
    "monitoring_smtp_username": "imaging",
    "monitoring_smtp_password": "hunter2",
}
WEBHOOKS = {"monitoring_webhook_urls": ["https://chat.example.org/hooks/secret-1", "http://127.0.0.1:9/secret-2"]}


@pytest.mark.parametrize("receivers", [{}, MAIL, WEBHOOKS, MAIL | WEBHOOKS], ids=["none", "mail", "webhooks", "both"])
def test_alertmanager_accepts_its_configuration_and_finds_no_secret_in_it(
    receivers: dict[str, Any], tmp_path: Path
) -> None:
    text = render("alertmanager.yml.j2", **receivers)
    path = tmp_path / "alertmanager.yml"
    # Debian 12's amtool does not know url_file yet; the host's does, and checks the file before it is used.
    path.write_text(re.sub(r"url_file: \S+(?=,)", "url: https://chat.example.org/", text))
    run("amtool", "check-config", str(path))
    assert "hunter2" not in text
    assert "secret" not in text


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ("alertname=OrthancDown severity=critical service=orthanc", "operators"),
        ("alertname=UnknownClinicInInbox severity=info service=importer", "operators"),
    ],
)
def test_every_alert_reaches_the_operators(labels: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "alertmanager.yml"
    path.write_text(render("alertmanager.yml.j2", **MAIL))
    assert run("amtool", "config", "routes", "test", f"--config.file={path}", *labels.split()).strip() == told


def test_what_is_silenced_is_an_alert() -> None:
    """A name that is misspelt in an inhibition would silence nothing."""
    known = {rule["alert"] for rule in alerts()}
    for rule in yaml.safe_load(render("alertmanager.yml.j2"))["inhibit_rules"]:
        for matcher in (*rule["source_matchers"], *rule["target_matchers"]):
            assert set(matcher.split('"')[1].split("|")) <= known


def test_prometheus_accepts_its_configuration(tmp_path: Path) -> None:
    path = tmp_path / "prometheus.yml"
    path.write_text(render("prometheus.yml.j2"))
    run("promtool", "check", "config", "--syntax-only", str(path))


def asked(job: dict[str, Any]) -> set[str]:
    """Every host that a job asks, or has the blackbox exporter ask; relabelling may put another for its targets."""
    replaced = [rule for rule in job.get("relabel_configs", []) if "replacement" in rule]
    addresses = [rule["replacement"] for rule in replaced if rule["target_label"] == "__address__"]
    addresses = addresses or [target for config in job.get("static_configs", []) for target in config["targets"]]
    addresses += [rule["replacement"] for rule in replaced if rule["target_label"] == "__param_target"]
    return {urlsplit(address if "//" in address else f"//{address}").hostname or address for address in addresses}


def test_everything_is_asked_on_loopback() -> None:
    configuration = yaml.safe_load(render("prometheus.yml.j2"))
    hosts = {job["job_name"]: asked(job) for job in configuration["scrape_configs"]}
    # Its addresses are in files that other roles write.
    assert hosts.pop("others") == set()
    assert {"orthanc", "probe"} < hosts.keys()
    assert {name: found for name, found in hosts.items() if found != {"127.0.0.1"}} == {}
    (alertmanager,) = configuration["alerting"]["alertmanagers"]
    assert asked(alertmanager) == {"127.0.0.1"}


def test_each_address_that_is_probed_has_a_url_to_ask() -> None:
    (job,) = [
        job for job in yaml.safe_load(render("prometheus.yml.j2"))["scrape_configs"] if job["job_name"] == "probe"
    ]
    given = {rule["regex"] for rule in job["relabel_configs"] if rule["target_label"] == "__param_target"}
    assert given == {target for config in job["static_configs"] for target in config["targets"]}
