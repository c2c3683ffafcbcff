"""The tests of real faults divide durations, and nothing that only looks like one."""

from __future__ import annotations

import pytest
from monitoring_files import render
from time_lapse import hurry


@pytest.mark.parametrize(
    ("text", "hurried"),
    [
        ("scrape_interval: 15s", "scrape_interval: 1000ms"),
        ("for: 5m\n", "for: 20000ms\n"),
        ("increase(x[15m]) or (x unless x offset 15m)", "increase(x[60000ms]) or (x unless x offset 60000ms)"),
        ("{repeat_interval: 12h}", "{repeat_interval: 2880000ms}"),
        ("x > 36 * 3600", "x > 36 * 3600"),
        ("targets: 127.0.0.1:9090", "targets: 127.0.0.1:9090"),
    ],
)
def test_a_duration_is_a_fifteenth(text: str, hurried: str) -> None:
    assert hurry(text) == hurried


def test_every_rule_is_hurried() -> None:
    assert "[15m]" not in hurry(render("alerts.yml.j2"))
