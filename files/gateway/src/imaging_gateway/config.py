"""Configuration: one TOML file, and secrets from systemd's credentials directory."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar


class ConfigError(Exception):
    """A sentence for the operator: which file, which key, what it takes."""


@dataclass(frozen=True)
class TokenConfig:
    """What a token must carry to be taken."""

    issuer: str
    audience: str
    jwks_url: str


@dataclass(frozen=True)
class RegistryConfig:
    """How to reach the registry's database; host is a name or the directory of the socket."""

    host: str
    port: int
    database: str
    user: str
    password: str


@dataclass(frozen=True)
class Config:
    """The whole configuration of the service."""

    listen_address: str
    listen_port: int
    public_url: str
    proxy_url: str
    """Where the gateway asks through the proxy, to warm its cache; empty: never."""
    token: TokenConfig
    registry: RegistryConfig


_Section = TypeVar("_Section", Config, TokenConfig, RegistryConfig)


def load(path: Path) -> Config:
    """Read the configuration file and the credential `registry-password`.

    Raises ConfigError when a key is missing, unknown or of the wrong type, or when the credential is not there.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    registry = {**_table(path, content, "registry"), "password": _credential("registry-password")}
    return _section(
        Config,
        path,
        "",
        {
            **content,
            "token": _section(TokenConfig, path, "token.", _table(path, content, "token")),
            "registry": _section(RegistryConfig, path, "registry.", registry),
        },
    )


def _table(path: Path, content: dict[str, Any], name: str) -> dict[str, Any]:
    table = content.get(name)
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: the table [{name}] is missing")
    return table


def _section(kind: type[_Section], path: Path, prefix: str, content: dict[str, Any]) -> _Section:
    names = {field.name: field.type for field in fields(kind)}
    for name in sorted(names.keys() - content.keys()):
        raise ConfigError(f"{path}: {prefix}{name} is missing")
    for name in sorted(content.keys() - names.keys()):
        raise ConfigError(f"{path}: {prefix}{name} is not known")
    for name, value in content.items():
        if names[name] in ("str", "int") and type(value).__name__ != names[name]:
            raise ConfigError(f"{path}: {prefix}{name} must be of type {names[name]}")
    return kind(**content)


def _credential(name: str) -> str:
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if directory is None:
        raise ConfigError("CREDENTIALS_DIRECTORY is not set; start the gateway by its systemd unit")
    try:
        return (Path(directory) / name).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"the credential {name} cannot be read: {error}") from error
