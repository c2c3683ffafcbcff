"""Every service of ours refuses a configuration that it does not understand word by word, before it opens anything."""

from __future__ import annotations

import json
import os
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from loading import load
from project import ROOT

sys.path[:0] = [str(ROOT / "files/gateway/src"), str(ROOT / "files/backup/src"), str(ROOT / "files/importer/src")]

from imaging_backup import cli  # noqa: E402
from imaging_gateway import __main__ as gateway  # noqa: E402
from imaging_importer import cli as importer  # noqa: E402

status = load(ROOT / "files/status/imaging_status.py")
updates = load(ROOT / "files/updates/imaging_updates.py")

# Runs a service with a configuration, without credentials, as far as its settings lead. The result is how it ends.
RUN: dict[str, Callable[[Path], object]] = {
    "gateway": lambda path: run_gateway(path),
    "backup": lambda path: cli.main(["--config", str(path), "check-config"]),
    "importer": lambda path: importer.main(["--config", str(path), "check-config"]),
    "status": lambda path: status.main(["--config", str(path), "--check-config"]),
    "updates": lambda path: updates.main(["check-config", "--config", str(path)]),
}
GOOD = {
    "gateway": """
listen_address = "127.0.0.1"
listen_port = 8090
public_url = "https://imaging.example.org"
proxy_url = ""
[token]
issuer = "https://imaging.example.org/auth/realms/imaging"
audience = "imaging-gateway"
jwks_url = "http://127.0.0.1:8180/certs"
[registry]
host = "/run/postgresql"
port = 5432
database = "registry"
user = "registry_gateway"
""",
    "backup": """
environment = "north"
domain = "imaging.example.org"
path = "/var/backups/imaging"
keep_count = 7
keep_days = 14
include_images = true
recipients = []
repository = ""
repository_cache = "/var/cache/imaging-backup"
metrics = "/var/lib/prometheus/node-exporter"
settings = "/etc/imaging"
letsencrypt = "/etc/letsencrypt"
storage = "/data/dicom"
cache = "/var/cache/nginx"
journal = "/var/lib/imaging-importer"
[postgresql]
programs = "/usr/lib/postgresql/17/bin"
socket = "/run/postgresql"
port = 5432
data = "/var/lib/postgresql/17/main"
loader = "imaging-restore"
[keycloak]
url = "http://127.0.0.1:8180/auth"
client = "imaging-ansible"
realm = "imaging"
version = "26.7.3"
""",
    "status": """
domain = "imaging.example.org"
ca_file = ""
paths = ["/data"]
nginx = "127.0.0.1"
importer = "http://127.0.0.1:8080/metrics"
metrics = "/var/lib/prometheus/node-exporter"
[[services]]
name = "Gateway"
unit = "imaging-gateway.service"
ports = [8090]
package = "none"
version = "1.0.0"
url = "http://127.0.0.1:8090/health/ready"
address = ""
expects = 200
command = ["true"]
""",
    "importer": """
[paths]
inbox = "/data/inbox"
processed = "/data/processed"
failed = "/data/failed"
state = "/var/lib/imaging-importer"
[scan]
cooldown = 60.0
interval = 10.0
patience = 900.0
[orthanc]
url = "http://127.0.0.1:8042"
user = "importer"
batch_bytes = 16777216
batch_count = 50
[registry]
host = "/run/postgresql"
port = 5432
dbname = "registry"
user = "registry_importer"
[http]
host = "127.0.0.1"
port = 8080
[upload]
public_url = "https://imaging.example.org/dicom-web"
request_bytes = 1048576
[limits]
instance_bytes = 1048576
inflated_bytes = 1048576
[disk]
reserve_bytes = 1000000000
[charsets]
[quotas]
""",
    "updates": """
sources = "/etc/apt/sources.list.d/imaging-testing.sources"
tracker = ""
metrics = "/var/lib/prometheus/node-exporter"
""",
}
# Of a service in the status these say all that is needed.
OPTIONAL = {f"services[0].{key}" for key in ("ports", "package", "version", "url", "address", "expects", "command")}


def run_gateway(path: Path) -> None:
    sys.argv = ["imaging-gateway", "--config", str(path), "check-config"]
    gateway.main()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


def refusal(service: str, path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """A service's message about a configuration before it ends with a failure; empty if it accepts it."""
    try:
        ended = RUN[service](path)
    except SystemExit as error:
        ended = error.code
    return "" if not ended else f"{ended if isinstance(ended, str) else ''}{capsys.readouterr().err}"


def written(path: Path, content: dict[str, Any]) -> Path:
    """The content as TOML, each table inline."""

    def text(value: object) -> str:
        if isinstance(value, dict):
            return "{" + ", ".join(f"{key} = {text(one)}" for key, one in value.items()) + "}"
        return f"[{', '.join(map(text, value))}]" if isinstance(value, list) else json.dumps(value)

    path.write_text("".join(f"{key} = {text(value)}\n" for key, value in content.items()))
    return path


def tables(content: dict[str, Any], name: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Each table of a configuration, with the prefix of its keys."""
    yield name, content
    for key, value in content.items():
        if isinstance(value, dict):
            yield from tables(value, f"{name}{key}.")
        for place, one in enumerate(value if isinstance(value, list) else ()):
            if isinstance(one, dict):
                yield from tables(one, f"{name}{key}[{place}].")


KEYS = [
    (service, prefix, key)
    for service, text in GOOD.items()
    for prefix, table in tables(tomllib.loads(text))
    for key in table
]
# The keys of two sections are ids of clinics, which only the inventory knows.
BY_CLINIC = ("charsets.", "quotas.")
TABLES = [
    (service, prefix)
    for service, text in GOOD.items()
    for prefix, _ in tables(tomllib.loads(text))
    if prefix not in BY_CLINIC
]


def table_of(content: dict[str, Any], prefix: str) -> dict[str, Any]:
    return next(table for name, table in tables(content) if name == prefix)


@pytest.mark.parametrize("service", GOOD)
def test_a_good_one_is_taken(service, tmp_path, capsys):
    assert refusal(service, written(tmp_path / "good.toml", tomllib.loads(GOOD[service])), capsys) == ""


@pytest.mark.parametrize(("service", "prefix", "key"), KEYS)
def test_a_key_that_is_missing_is_named(service, prefix, key, tmp_path, capsys):
    content = tomllib.loads(GOOD[service])
    del table_of(content, prefix)[key]
    said = refusal(service, written(tmp_path / "service.toml", content), capsys)
    if prefix + key in OPTIONAL:
        assert said == ""
    else:
        assert f"{tmp_path}/service.toml: " in said
        assert f"{prefix}{key} is missing" in said or f"the section [{prefix}{key}] is missing" in said


@pytest.mark.parametrize(("service", "prefix", "key"), KEYS)
def test_a_value_of_another_type_is_named_with_what_it_takes(service, prefix, key, tmp_path, capsys):
    good = table_of(tomllib.loads(GOOD[service]), prefix)[key]
    wrong: list[object] = {
        str: [1, True, ["text"], {"a": 1}],
        int: ["1", True, 1.5, [1]],
        float: ["1", True, [1.5]],
        bool: [0, "true", []],
        list: ["text", {"a": 1}, [[1]], ["text", 1], [True]],
        dict: ["text", 1, []],
    }[type(good)]
    for value in wrong:
        content = tomllib.loads(GOOD[service])
        table_of(content, prefix)[key] = value
        said = refusal(service, written(tmp_path / "service.toml", content), capsys)
        assert f"{tmp_path}/service.toml: {prefix}{key}" in said.replace("the section [", ""), (value, said)
        assert " takes " in said or "is missing" in said or "is not known" in said, (value, said)


@pytest.mark.parametrize(("service", "prefix"), TABLES)
@pytest.mark.parametrize("value", [1, {"a": 1}], ids=["key", "section"])
def test_whatever_is_not_known_is_named(service, prefix, value, tmp_path, capsys):
    content = tomllib.loads(GOOD[service])
    table_of(content, prefix)["surplus"] = value
    said = refusal(service, written(tmp_path / "service.toml", content), capsys)
    assert f"{tmp_path}/service.toml: " in said
    assert f"{prefix}surplus" in said
    assert "is not known" in said


@pytest.mark.parametrize("service", GOOD)
@pytest.mark.parametrize("damage", [b"key = ", b"\xff = 1", None], ids=["no TOML", "no UTF-8", "no file"])
def test_a_file_that_cannot_be_read_is_named(service, damage, tmp_path, capsys):
    path = tmp_path / "service.toml"
    if damage is not None:
        path.write_bytes(damage)
    assert f"{path} cannot be read: " in refusal(service, path, capsys)


@pytest.mark.parametrize("service", ["backup", "status", "updates"])
def test_a_relative_path_is_refused(service, tmp_path, capsys):
    content = tomllib.loads(GOOD[service]) | {"metrics": "here"}
    said = refusal(service, written(tmp_path / "service.toml", content), capsys)
    assert "metrics takes an absolute path, not 'here'" in said


def test_each_service_that_reads_settings_reads_them_by_the_one_reader():
    """A link or, in a script, an import: nobody has a copy that could become another reader."""
    common = ROOT / "files/common/strict_toml.py"
    for package in ("gateway/src/imaging_gateway", "backup/src/imaging_backup", "importer/src/imaging_importer"):
        assert (ROOT / "files" / package / "strict_toml.py").resolve() == common
    for script in ("status/imaging_status.py", "updates/imaging_updates.py"):
        assert "from strict_toml import SettingsError, read\n" in (ROOT / "files" / script).read_text()
        assert "import tomllib" not in (ROOT / "files" / script).read_text()
