"""Make Grafana's dashboards of what we write down: panels that ask a question, and expressions that answer it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

COLUMNS = 24
HEIGHTS = {"state": 4, "stat": 4, "graph": 8, "table": 8, "logs": 14}
WIDTHS = {"state": 4, "stat": 4, "graph": 12, "table": 24, "logs": 24}
GREEN, YELLOW, RED = "green", "yellow", "red"


def dashboard(source: dict[str, Any], runbooks_url: str) -> dict[str, Any]:
    """Build one dashboard in Grafana's JSON model from its description in files/dashboards."""
    return {
        "uid": source["uid"],
        "title": source["title"],
        "description": source["question"],
        "tags": ["imaging"],
        "schemaVersion": 39,
        "editable": False,
        "graphTooltip": 1,  # one crosshair over all panels
        "refresh": "30s",
        "time": {"from": source.get("from", "now-6h"), "to": "now"},
        "timezone": "browser",
        "links": [{"type": "dashboards", "tags": ["imaging"], "title": "", "asDropdown": False, "keepTime": True}],
        "templating": {"list": [variable(one) for one in source.get("variables", [])]},
        "panels": list(lay_out(source["rows"], runbooks_url)),
    }


def variable(source: dict[str, str]) -> dict[str, Any]:
    """A choice above the panels: the values of a label of Loki."""
    return {
        "name": source["name"],
        "label": source["label"],
        "type": "query",
        "datasource": {"type": "loki", "uid": "loki"},
        "query": {"label": source["name"], "type": 1, "stream": ""},
        "includeAll": True,
        "multi": True,
        "allValue": ".+",
        "current": {"text": "All", "value": "$__all"},
        "refresh": 2,
    }


def lay_out(rows: list[dict[str, Any]], runbooks_url: str) -> Iterator[dict[str, Any]]:
    """Place panels from left to right, a heading above each row; a panel that does not fit begins a new line."""
    number, y = 1, 0
    for row in rows:
        heading = {"h": 1, "w": COLUMNS, "x": 0, "y": y}
        yield {"id": number, "type": "row", "title": row["title"], "collapsed": False, "gridPos": heading, "panels": []}
        number, y = number + 1, y + 1
        x = line = 0
        for source in row["panels"]:
            width = source.get("width", WIDTHS[source["kind"]])
            height = source.get("height", HEIGHTS[source["kind"]])
            if x + width > COLUMNS:
                x, y, line = 0, y + line, 0
            position = {"h": height, "w": width, "x": x, "y": y}
            yield {"id": number, "gridPos": position, **panel(source, runbooks_url)}
            number, x, line = number + 1, x + width, max(line, height)
        y += line


def panel(source: dict[str, Any], runbooks_url: str) -> dict[str, Any]:
    """One panel without its place."""
    kind = source["kind"]
    store = "loki" if "logs" in source else "prometheus"
    expressions: dict[str, str] = source["logs" if store == "loki" else "measures"]
    made: dict[str, Any] = {
        "type": {"state": "stat", "stat": "stat", "graph": "timeseries", "table": "table", "logs": "logs"}[kind],
        "title": source["title"],
        "description": source.get("description", ""),
        "datasource": {"type": store, "uid": store},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": {"type": store, "uid": store},
                "expr": expression,
                "legendFormat": legend,
                "instant": store == "prometheus" and kind != "graph",
                "range": store == "loki" or kind == "graph",
                **({"format": "table"} if kind == "table" else {}),
            }
            for index, (legend, expression) in enumerate(expressions.items())
        ],
        "fieldConfig": {"defaults": field(source), "overrides": []},
        "options": OPTIONS[kind](source),
        "links": [
            {"title": f"What to do: {name}", "url": f"{runbooks_url}#{name.lower()}", "targetBlank": True}
            for name in source.get("runbooks", [])
        ],
    }
    if kind == "table":
        hidden = dict.fromkeys(["Time", "Value", "__name__", "instance", "job"], True)
        made["transformations"] = [{"id": "organize", "options": {"excludeByName": hidden}}]
    return made


def field(source: dict[str, Any]) -> dict[str, Any]:
    """Unit, thresholds and words of a panel's values."""
    made: dict[str, Any] = {"unit": source.get("unit", "short"), "noValue": source.get("empty", "-")}
    if source["kind"] == "state":
        words = {"0": {"text": "no", "color": RED, "index": 0}, "1": {"text": "yes", "color": GREEN, "index": 1}}
        made["mappings"] = [{"type": "value", "options": words}]
    steps: list[dict[str, Any]] = [{"color": source.get("base", GREEN), "value": None}]
    steps += [{"color": color, "value": value} for value, color in source.get("thresholds", {}).items()]
    made["thresholds"] = {"mode": "absolute", "steps": steps}
    if source["kind"] == "graph":
        made["min"] = 0
        made["custom"] = {
            "lineWidth": 1,
            "fillOpacity": 10,
            "showPoints": "never",
            "stacking": {"mode": "normal" if source.get("stacked") else "none"},
            "thresholdsStyle": {"mode": "line" if source.get("thresholds") else "off"},
        }
        made["color"] = {"mode": "palette-classic"}
    else:
        made["color"] = {"mode": "thresholds"}
    return made


OPTIONS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "state": lambda _: {"colorMode": "background", "graphMode": "none", "reduceOptions": {"calcs": ["lastNotNull"]}},
    "stat": lambda _: {"colorMode": "value", "graphMode": "none", "reduceOptions": {"calcs": ["lastNotNull"]}},
    "graph": lambda _: {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "table": lambda _: {"showHeader": True},
    "logs": lambda _: {"showTime": True, "wrapLogMessage": True, "sortOrder": "Descending", "enableLogDetails": True},
}


class FilterModule:
    """The class that Ansible looks for in a filter plugin."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"dashboard": dashboard}
