"""A second Prometheus and Alertmanager beside the deployed ones, with their files, for which time runs faster.

They ask the same targets and judge by the same rules, receivers and inhibitions. Only each duration in the files is a
fifteenth. A webhook records the alerts that they send.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from monitoring_files import render
from platform_client import Platform

T = TypeVar("T")
FACTOR = 15
PLACE = "/run/imaging-time-lapse"
UNITS = ("webhook", "alertmanager", "prometheus")
# Problems of the machine on which the tests run. The tests are not about these.
MACHINE = {"DiskFullInFourDays", "DiskInodesLow", "DiskSpaceCritical", "DiskSpaceLow", "MemoryLow"}
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

WEBHOOK = f"""
import http.server, json
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with open("{PLACE}/sent", "a") as sent:
            for alert in body["alerts"]:
                sent.write(json.dumps(alert) + chr(10))
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass
http.server.HTTPServer(("127.0.0.1", 9299), Handler).serve_forever()
"""


def hurry(text: str) -> str:
    """Divide every duration in Prometheus' notation; 15s becomes 1000ms. Figures without a unit stay."""

    def divided(found: re.Match[str]) -> str:
        return f"{int(found[1]) * SECONDS[found[2]] * 1000 // FACTOR}ms"

    return re.sub(r"(?<=[ \[])(\d+)([smhd])(?=[\],})\s]|$)", divided, text, flags=re.MULTILINE)


@dataclass
class TimeLapse:
    """The pair, and what it has sent; `before` holds alerts that are no longer anybody's news."""

    platform: Platform
    before: set[str] = field(default_factory=set)

    def start(self) -> None:
        self.stop()
        self.platform.on_host("mkdir", "-p", PLACE)
        prometheus = hurry(self.platform.on_host("cat", "/etc/prometheus/prometheus.yml"))
        prometheus = re.sub(r"(scrape_interval|scrape_timeout): \d+ms", r"\1: 2s", prometheus)
        for deployed, ours in {
            "127.0.0.1:9093": "127.0.0.1:9293",
            "[/etc/prometheus/alerts.yml]": f"[{PLACE}/alerts.yml]",
            "/run/credentials/prometheus.service/": "/etc/imaging/credentials/prometheus/",
        }.items():
            assert deployed in prometheus
            prometheus = prometheus.replace(deployed, ours, 1)
        alertmanager = hurry(render("alertmanager.yml.j2", monitoring_webhook_urls=["a"]))
        alertmanager = re.sub(r"url_file: \S+webhook-1", f"url_file: {PLACE}/webhook-1", alertmanager)
        # Changes are sent at once, so that a test need not wait for the next round.
        alertmanager = re.sub(r"group_interval: \w+", "group_interval: 1s", alertmanager)
        self._write("prometheus.yml", prometheus)
        self._write("alerts.yml", hurry(self.platform.on_host("cat", "/etc/prometheus/alerts.yml")))
        self._write("alertmanager.yml", alertmanager)
        self._write("webhook-1", "http://127.0.0.1:9299/")
        self._write("webhook.py", WEBHOOK)
        self._write("sent", "")
        self._run("webhook", "python3", f"{PLACE}/webhook.py")
        self._run(
            "alertmanager",
            "prometheus-alertmanager",
            f"--config.file={PLACE}/alertmanager.yml",
            f"--storage.path={PLACE}/alertmanager",
            "--web.listen-address=127.0.0.1:9293",
            "--cluster.listen-address=",
        )
        self._run(
            "prometheus",
            "prometheus",
            f"--config.file={PLACE}/prometheus.yml",
            f"--storage.tsdb.path={PLACE}/metrics",
            "--web.listen-address=127.0.0.1:9290",
        )
        wait_for("every target is asked", lambda: self.query("count(up)") and not self.query("up == 0"))

    def stop(self) -> None:
        for unit in UNITS:
            self.platform.on_host("systemctl", "stop", f"imaging-time-lapse-{unit}.service", check=False)
        self.platform.on_host("rm", "-rf", PLACE)

    def _write(self, name: str, text: str) -> None:
        command = ["docker", "exec", "-i", self.platform.container, "sh", "-c", f"cat > {PLACE}/{name}"]
        subprocess.run(command, input=text, text=True, check=True)

    def _run(self, unit: str, *command: str) -> None:
        self.platform.on_host("systemd-run", "--quiet", "--collect", f"--unit=imaging-time-lapse-{unit}", *command)

    def query(self, expression: str) -> list[dict[str, object]]:
        address = "http://127.0.0.1:9290/api/v1/query"
        command = ("curl", "-sf", "-G", address, "--data-urlencode", f"query={expression}")
        # Nothing, while it starts.
        answer = json.loads(self.platform.on_host(*command, check=False) or "{}")
        found: list[dict[str, object]] = answer.get("data", {}).get("result", [])
        return found

    def sent(self) -> list[dict[str, dict[str, str]]]:
        """Every message so far: `status`, `labels` and `annotations` of an alert."""
        return [json.loads(line) for line in self.platform.on_host("cat", f"{PLACE}/sent").splitlines()]

    def state(self, **labels: str) -> dict[str, str]:
        """The last that was said of each alert that has these labels: firing or resolved."""
        return {
            alert["labels"]["alertname"]: str(alert["status"])
            for alert in self.sent()
            if labels.items() <= alert["labels"].items()
        }

    def wait_for(self, alert: str, state: str, seconds: float = 240, **labels: str) -> None:
        wait_for(f"{alert} is {state}", lambda: self.state(**labels).get(alert) == state, seconds)

    def tell_of_stopped(self, unit: str, alert: str) -> None:
        """Stop a unit until the alert fires, start it again, and wait until that is told too."""
        self.platform.on_host("systemctl", "stop", unit)
        try:
            self.wait_for(alert, "firing")
        finally:
            self.platform.on_host("systemctl", "start", unit)
        self.wait_for(alert, "resolved")

    def others(self, *expected: str) -> set[str]:
        """The other alerts: not expected, not sent before, and not about the machine."""
        return set(self.state()) - set(expected) - self.before - MACHINE


def wait_for(what: str, condition: Callable[[], T], seconds: float = 240) -> T:
    """The value of the condition, once it is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.5)
    raise AssertionError(f"not within {seconds} s: {what}")
