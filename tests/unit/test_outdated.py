"""Newer versions are named. A source that cannot be asked is reported, and the rest is asked nevertheless."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from loading import load
from project import ROOT

PINNED = yaml.safe_load((ROOT / "vars/versions.yml").read_text())
POM = """<project xmlns="http://maven.apache.org/POM/4.0.0"><parent><version>{}</version></parent></project>"""
APT = """hospital | CHANGED | rc=0 >>
Listing...
nginx/stable-security 1.26.3-3+deb13u2 amd64 [upgradable from: 1.26.3-3+deb13u1]
"""


@pytest.fixture
def outdated(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load(ROOT / "tools/outdated.py")
    monkeypatch.setattr(sys, "argv", ["outdated", "inventories/production"])
    return module


def answer(keycloak: str, viewer: str, python: list[dict[str, str]], apt: str):
    """Clients that answer so."""

    def ask(*command: str) -> str:
        text = " ".join(command)
        if "maven_artifact" in text:
            place = text.partition("dest=")[2].split()[0]
            Path(place).write_text(POM.format(keycloak))
            return ""
        return json.dumps(python) if "pip list" in text else apt if "apt list" in text else f"{viewer}\n"

    return ask


def test_what_is_newer_is_named(outdated, monkeypatch, capsys):
    python = [
        {"name": "ansible", "version": "12.3.0", "latest_version": "13.0.0"},
        {"name": "wheel", "version": "0.40.0", "latest_version": "0.46.1"},  # nobody pins it
    ]
    monkeypatch.setattr(outdated, "ask", answer("99.0.0", "98.0.0", python, APT))
    assert outdated.main() == 0
    said = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert f"Keycloak {PINNED['keycloak_version']} -> 99.0.0" in said
    assert f"OHIF (@ohif/app) {PINNED['viewer_version']} -> 98.0.0" in said
    assert "ansible 12.3.0 -> 13.0.0" in said
    assert "nginx on hospital 1.26.3-3+deb13u1 -> 1.26.3-3+deb13u2" in said
    assert not [line for line in said if line.startswith("wheel ")]


def test_what_is_the_newest_is_called_so(outdated, monkeypatch, capsys):
    here = answer(PINNED["keycloak_version"], PINNED["viewer_version"], [], "hospital | CHANGED | rc=0 >>\n")
    monkeypatch.setattr(outdated, "ask", here)
    outdated.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all(line.endswith(": the newest") for line in lines)


def test_who_does_not_answer_is_told_and_the_others_are_asked(outdated, monkeypatch, capsys):
    whole = outdated.ask
    others = answer(PINNED["keycloak_version"], "98.0.0", [], "")

    def ask(*command: str) -> str:
        if "apt list --upgradable" in command:
            return whole("sh", "-c", "echo hospital is unreachable >&2; exit 4")
        return others(*command)

    monkeypatch.setattr(outdated, "ask", ask)
    assert outdated.main() == 0
    said = capsys.readouterr().out
    assert "Debian packages on the hosts of inventories/production: could not be asked: hospital is unreachable" in said
    assert "-> 98.0.0" in said


def test_a_client_that_is_not_there_is_told(outdated):
    with pytest.raises(outdated.UnknownError, match="No such file"):
        outdated.ask("no-such-client")
