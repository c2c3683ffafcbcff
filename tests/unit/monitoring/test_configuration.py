"""What Prometheus, Alertmanager and the exporters are told, as it is rendered."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

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


def test_everything_is_asked_on_loopback() -> None:
    for job in yaml.safe_load(render("prometheus.yml.j2"))["scrape_configs"]:
        for config in job.get("static_configs", []):
            for target in config["targets"]:
                assert target.startswith("127.0.0.1:") or job["job_name"] == "probe"
