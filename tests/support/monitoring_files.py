"""The files of the role monitoring as they are rendered, and Debian's programs that check them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from functools import cache
from typing import Any

import yaml
from project import ROOT as PROJECT
from wired import Wired

ROLE = PROJECT / "roles" / "monitoring"
TOOLS = PROJECT / ".cache/monitoring-tools/usr/bin"  # put there by tests/packages.sh


@cache
def wired() -> Wired:
    return Wired(monitoring_domain="imaging.example.org", inventory_hostname="host")


def render(template: str, **variables: Any) -> str:
    """A template of the role, as Ansible renders it; `variables` are set on top."""
    return wired().render(ROLE / "templates" / template, **variables)


def alerts() -> list[dict[str, Any]]:
    """Every alert rule, as Prometheus reads it."""
    return [rule for group in yaml.safe_load(render("alerts.yml.j2"))["groups"] for rule in group["rules"]]


def run(tool: str, *arguments: str) -> str:
    """Run promtool or amtool; fails with what it says."""
    done = subprocess.run([TOOLS / tool, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def dashboard_sources() -> dict[str, dict[str, Any]]:
    """The content of each dashboard, by file name."""
    paths = sorted((PROJECT / "roles/grafana/files/dashboards").glob("*.yml"))
    return {path.stem: yaml.safe_load(path.read_text()) for path in paths}


def panel_expressions(kind: str) -> Iterator[tuple[str, str]]:
    """Every expression of every panel of a kind (`measures`: PromQL, `logs`: LogQL), and where it stands."""
    for name, source in dashboard_sources().items():
        for row in source["rows"]:
            for panel in row["panels"]:
                for expression in panel.get(kind, {}).values():
                    yield f"{name}: {panel['title']}", expression.replace("$__rate_interval", "1m")
