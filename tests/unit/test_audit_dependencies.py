"""The real pip-audit and npm against stand-ins of their services: findings fail, silence and refusal do not."""

from __future__ import annotations

import gzip
import http.server
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from loading import load
from project import ROOT

JINJA = {
    "id": "GHSA-jjjj",
    "aliases": ["CVE-2099-1"],
    "summary": "a hole",
    "affected": [
        {
            "package": {"name": "jinja2", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.0"}]}],
        }
    ],
}
DCMJS = {
    "id": 1,
    "url": "https://advisories.example/GHSA-dddd",
    "title": "Another hole",
    "severity": "high",
    "vulnerable_versions": "<99",
    "cwe": [],
    "cvss": {"score": 7, "vectorString": None},
}
# As in OHIF's: pinned packages, others, and its own siblings.
VIEWER = {
    "name": "@ohif/app",
    "version": "3.13.2",
    "dependencies": {"react": "18.3.1", "dcmjs": "0.41.0", "lodash": "^4.17.21", "@ohif/core": "3.13.2"},
}


class Service:
    """Answers as OSV and as npm's registry do; status other than 200 refuses everything."""

    def __init__(self) -> None:
        self.status = 200
        self.python: dict[str, Any] = {}
        self.npm: dict[str, Any] = {}
        self.asked: set[str] = set()


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Service]:
    service = Service()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            question = json.loads(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            if self.path == "/osv":
                name = question["package"]["name"]
                service.asked.add(name)
                answer = {"vulns": [service.python[name]]} if name in service.python else {}
            else:
                service.asked |= question.keys()
                answer = {name: [service.npm[name]] for name in question if name in service.npm}
            self.say(service.status, json.dumps(answer).encode())

        def do_GET(self) -> None:
            self.say(404, b"{}")

        def say(self, status: int, text: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("PIP_AUDIT_VULNERABILITY_SERVICE", "osv")
    monkeypatch.setenv("PIP_AUDIT_OSV_URL", f"{url}/osv")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("npm_config_registry", f"{url}/")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm"))
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    yield service
    server.shutdown()
    server.server_close()


@pytest.fixture
def audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program, with a small package in the viewer's place."""
    audit = load(ROOT / "tools/audit_dependencies.py")
    content = json.dumps(VIEWER).encode()
    with tarfile.open(tmp_path / "viewer.tgz", "w:gz") as archive:
        entry = tarfile.TarInfo("package/package.json")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    monkeypatch.setattr(audit, "fetch", lambda *_: tmp_path / "viewer.tgz")
    return audit


def test_every_pinned_package_is_asked_about_and_nothing_found_is_well(audit, service, capsys):
    assert audit.main() == 0
    said = capsys.readouterr().out
    assert said.count("no known vulnerabilities") == 2, said
    assert {"ansible-core", "pip-audit", "@ohif/app", "react", "dcmjs"} <= service.asked
    assert not {"@ohif/core", "lodash"} & service.asked


def test_a_finding_is_named_and_fails(audit, service, capsys):
    service.python["jinja2"] = JINJA
    service.npm["dcmjs"] = DCMJS
    assert audit.main() == 1
    said = capsys.readouterr().out
    assert "CVE-2099-1, GHSA-jjjj; mended in 99" in said
    assert "GHSA-dddd; Another hole (high)" in said


def test_an_exception_is_told_with_its_reason_and_fails_nothing(audit, service, capsys, monkeypatch):
    service.python["jinja2"] = JINJA
    monkeypatch.setitem(audit.EXCEPTIONS, "CVE-2099-1", "no template here is anybody else's")
    assert audit.main() == 0
    assert "(excepted: no template here is anybody else's)" in capsys.readouterr().out


def test_who_refuses_is_named_and_fails_nothing(audit, service, capsys):
    service.status = 405
    assert audit.main() == 0
    assert capsys.readouterr().out.count("not audited, the vulnerabilities' data cannot be reached: ") == 2


def test_a_service_that_knows_no_package_has_audited_none(audit, monkeypatch):
    """pip-audit succeeds then."""
    silent = {"dependencies": [{"name": "jinja2", "skip_reason": "Dependency not found"}]}
    monkeypatch.setattr(audit, "answer_of", lambda *_: silent)
    with pytest.raises(audit.UnknownError, match="Dependency not found"):
        audit.python_packages()


def test_one_package_that_the_service_does_not_know_is_named(audit, service, monkeypatch, capsys):
    some = {"dependencies": [{"name": "jinja2", "skip_reason": "?"}, {"name": "lxml", "version": "6", "vulns": []}]}
    monkeypatch.setattr(audit, "answer_of", lambda command, _: some if "pip_audit" in command else {})
    assert audit.main() == 0
    assert "unknown to the service: jinja2" in capsys.readouterr().out
