"""The files of the role monitoring as they are rendered, and Debian's programs that check them."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from typing import Any

import jinja2
import yaml
from project import ROOT as PROJECT
from wired import Wired

ROLE = PROJECT / "roles" / "monitoring"
TOOLS = PROJECT / ".cache/monitoring-tools/usr/bin"  # put there by tests/packages.sh


@cache
def wired() -> dict[str, Any]:
    return Wired().of("monitoring")


def render(template: str, **variables: Any) -> str:
    """A template of the role with its defaults, as Ansible renders it; `variables` are set on top."""
    text = (ROLE / "templates" / template).read_text()
    # Ansible reads a template's own delimiters from its first line.
    header = re.match(r"#jinja2: variable_start_string:'(.+)', variable_end_string:'(.+)'\n", text)
    start, end = header.groups() if header else ("{{", "}}")
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        variable_start_string=start,
        variable_end_string=end,
        autoescape=False,  # noqa: S701
    )
    environment.filters["to_json"] = json.dumps
    known = {
        **wired(),
        **yaml.safe_load((ROLE / "defaults/main.yml").read_text()),
        **yaml.safe_load((ROLE / "vars/main.yml").read_text()),
        "monitoring_domain": "imaging.example.org",
        "monitoring_orthanc_username": "prometheus",
        "inventory_hostname": "host",
        **variables,
    }
    return environment.from_string(text[header.end() :] if header else text).render(known)


def alerts() -> list[dict[str, Any]]:
    """Every alert rule, as Prometheus reads it."""
    return [rule for group in yaml.safe_load(render("alerts.yml.j2"))["groups"] for rule in group["rules"]]


def run(tool: str, *arguments: str) -> str:
    """Run promtool or amtool; fails with what it says."""
    done = subprocess.run([TOOLS / tool, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def dashboard_sources() -> dict[str, dict[str, Any]]:
    """What is written down of each dashboard, by file name."""
    paths = sorted((PROJECT / "roles/grafana/files/dashboards").glob("*.yml"))
    return {path.stem: yaml.safe_load(path.read_text()) for path in paths}


def panel_expressions(kind: str) -> Iterator[tuple[str, str]]:
    """Every expression of every panel of a kind (`measures`: PromQL, `logs`: LogQL), and where it stands."""
    for name, source in dashboard_sources().items():
        for row in source["rows"]:
            for panel in row["panels"]:
                for expression in panel.get(kind, {}).values():
                    yield f"{name}: {panel['title']}", expression.replace("$__rate_interval", "1m")
