"""Three services read a configuration each, and refuse alike what should not stand in it, naming it in words."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from platform_client import ROOT

Settings = dict[str, Any]

SETTINGS: dict[str, Settings] = {
    "importer": {
        "paths": {"inbox": "/inbox", "processed": "/processed", "failed": "/failed", "state": "/state"},
        "scan": {"cooldown": 60, "interval": 0.5, "patience": 3600},
        "orthanc": {"url": "http://localhost:1", "user": "importer", "batch_bytes": 16777216, "batch_count": 50},
        "registry": {"host": "localhost", "port": 5432, "dbname": "registry", "user": "registry_importer"},
        "http": {"host": "localhost", "port": 8080},
        "upload": {"public_url": "https://imaging.test/dicom-web", "request_bytes": 1048576},
        "limits": {"instance_bytes": 1048576, "inflated_bytes": 1048576},
        "disk": {"reserve_bytes": 1000000000},
        "quotas": {"north": 5000000000},
        "charsets": {"north": "koi8-r"},
    },
    "gateway": {
        "listen_address": "localhost",
        "listen_port": 8090,
        "public_url": "https://imaging.test",
        "proxy_url": "",
        "token": {"issuer": "https://imaging.test/auth", "audience": "gateway", "jwks_url": "http://localhost:1/certs"},
        "registry": {"host": "/run/postgresql", "port": 5432, "database": "registry", "user": "registry_gateway"},
    },
    "backup": {
        "environment": "test",
        "domain": "imaging.test",
        "path": "/backups",
        "keep_count": 7,
        "keep_days": 14,
        "include_images": False,
        "recipients": ["age1"],
        "repository": "",
        "repository_cache": "/cache",
        "metrics": "/metrics",
        "settings": "/settings",
        "letsencrypt": "/letsencrypt",
        "storage": "/storage",
        "cache": "/images",
        "journal": "/journal",
        "postgresql": {"programs": "/programs", "socket": "/run/postgresql", "data": "/data", "loader": "loader"},
        "keycloak": {"url": "http://localhost:1/auth", "client": "ansible", "realm": "imaging", "version": "26"},
    },
}
# What an operator's variables fill: a key is the id of a clinic.
OF_CLINICS = ("quotas", "charsets")
# Texts that only look like paths: where a socket is.
TEXTS = ("registry.host", "postgresql.socket")


@dataclass(frozen=True)
class Service:
    name: str
    file: Path

    def load(self, settings: Settings) -> Any:
        self.file.write_text(toml(settings))
        return import_module(f"imaging_{self.name}.config").load(self.file)

    def refuses(self, settings: Settings, *words: str) -> None:
        """It raises what its command shows as one line, and nothing that is a mistake of its own."""
        with pytest.raises(Exception) as refusal:  # noqa: PT011 - each service has its own
            self.load(settings)
        assert type(refusal.value).__module__.startswith(f"imaging_{self.name}."), repr(refusal.value)
        assert str(self.file) in str(refusal.value)
        for word in words:
            assert word in str(refusal.value)


@pytest.fixture
def service(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
    monkeypatch.setattr(sys, "path", [str(ROOT / f"files/{request.param}/src"), *sys.path])
    for secret in ("registry-password", "orthanc-password", "upload-secret", "warm-secret"):
        (tmp_path / secret).write_text("secret")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    return Service(request.param, tmp_path / "settings.toml")


def toml(settings: Settings) -> str:
    """TOML writes texts, numbers, true and lists as JSON does."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items() if not isinstance(value, dict)]
    for section, values in settings.items():
        if isinstance(values, dict):
            lines += [f"[{section}]", *(f'"{key}" = {json.dumps(value)}' for key, value in values.items())]
    return "\n".join(lines) + "\n"


def keys(settings: Settings) -> Iterator[tuple[str, ...]]:
    for key, value in settings.items():
        yield from ((key, inner) for inner in value) if isinstance(value, dict) else [(key,)]


def changed(settings: Settings, *path: str, value: Any = None) -> Settings:
    """The settings with another value at a place, or without it."""
    settings = copy.deepcopy(settings)
    table = settings
    for name in path[:-1]:
        table = table[name]
    if value is None:
        del table[path[-1]]
    else:
        table[path[-1]] = value
    return settings


def wrong(name: str, value: Any) -> list[Any]:
    """Values of other types than this one."""
    if isinstance(value, bool):
        return [1, "true"]
    if isinstance(value, int):
        return ["5", True, [5]] if name.startswith("scan.") else ["5", True, 1.5, [5]]
    if isinstance(value, float):
        return ["5", True, [5]]
    if isinstance(value, list):
        return ["age1", [5], True]
    return [5, True, ["a"], "relative/path"] if value.startswith("/") and name not in TEXTS else [5, True, ["a"]]


EACH = pytest.mark.parametrize("service", SETTINGS, indirect=True)
EACH_KEY = pytest.mark.parametrize(
    ("service", "path"), [(name, path) for name, settings in SETTINGS.items() for path in keys(settings)],
    indirect=["service"],
    ids=lambda value: value if isinstance(value, str) else ".".join(value),
)  # fmt: skip


@EACH
def test_a_whole_configuration_is_taken(service: Service) -> None:
    assert service.load(SETTINGS[service.name])


@EACH_KEY
def test_a_missing_key_is_named(service: Service, path: tuple[str, ...]) -> None:
    if path[0] in OF_CLINICS:
        service.load(changed(SETTINGS[service.name], *path))
    else:
        service.refuses(changed(SETTINGS[service.name], *path), ".".join(path), "missing")


@EACH_KEY
def test_a_value_of_another_type_is_named_with_its_key(service: Service, path: tuple[str, ...]) -> None:
    right = SETTINGS[service.name][path[0]]
    for value in wrong(".".join(path), right if len(path) == 1 else right[path[1]]):
        service.refuses(changed(SETTINGS[service.name], *path, value=value), ".".join(path), "takes")


@EACH
def test_a_missing_section_is_named(service: Service) -> None:
    for name, value in SETTINGS[service.name].items():
        if isinstance(value, dict):
            service.refuses(changed(SETTINGS[service.name], name), name, "missing")


@EACH
def test_what_is_not_known_is_named(service: Service) -> None:
    settings = SETTINGS[service.name]
    service.refuses(settings | {"colour": "red"}, "colour", "not known")
    service.refuses(settings | {"looks": {"colour": "red"}}, "looks", "not known")
    for name, value in settings.items():
        if isinstance(value, dict) and name not in OF_CLINICS:
            service.refuses(changed(settings, name, "colour", value="red"), f"{name}.colour", "not known")


@EACH
def test_a_section_that_is_none_is_named(service: Service) -> None:
    for name, value in SETTINGS[service.name].items():
        if isinstance(value, dict):
            service.refuses(changed(SETTINGS[service.name], name, value="red"), name)


@EACH
@pytest.mark.parametrize("content", [b"this is no TOML", b"\xff\xfe", None])
def test_a_file_that_cannot_be_read_is_named(service: Service, content: bytes | None, monkeypatch) -> None:
    monkeypatch.setattr(f"{__name__}.toml", lambda _: "")
    if content is None:
        monkeypatch.setattr(Path, "write_text", lambda *_: None)
    else:
        monkeypatch.setattr(Path, "write_text", lambda path, _: path.write_bytes(content))
    service.refuses({})


IMPORTER = pytest.mark.parametrize("service", ["importer"], indirect=True)


@IMPORTER
@pytest.mark.parametrize(
    "path",
    [
        *((section, key) for section in ("scan", "limits", "disk") for key in SETTINGS["importer"][section]),
        ("orthanc", "batch_bytes"),
        ("orthanc", "batch_count"),
        ("http", "port"),
        ("upload", "request_bytes"),
        ("quotas", "north"),
    ],
    ids=".".join,
)
def test_a_number_that_cannot_be_meant_is_named(service: Service, path: tuple[str, ...]) -> None:
    for value in (0, -1):
        refused = changed(SETTINGS["importer"], *path, value=value)
        service.refuses(refused, ".".join(path), f"takes a number above 0, not {value}")


@IMPORTER
def test_a_character_set_that_nobody_writes_is_named(service: Service) -> None:
    refused = changed(SETTINGS["importer"], "charsets", "north", value="utf-8")
    service.refuses(refused, "charsets.north takes one of windows-1250, ", "not 'utf-8'")
