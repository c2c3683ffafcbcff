"""Configuration: one TOML file, and secrets from systemd's credentials directory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from imaging_gateway import strict_toml
from imaging_gateway.strict_toml import SettingsError


@dataclass(frozen=True)
class TokenConfig:
    """The fields that a token must have to be accepted."""

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


@dataclass(frozen=True)
class Config:
    """The whole configuration of the service, but for its secrets."""

    listen_address: str
    listen_port: int
    public_url: str
    proxy_url: str
    """Where the gateway asks through nginx, to warm its cache; empty: never."""
    token: TokenConfig
    registry: RegistryConfig


@dataclass(frozen=True)
class Secrets:
    """The credentials of the service."""

    registry_password: str
    warm_secret: str
    """What the gateways of one platform sign their own requests with."""


def load(path: Path) -> Config:
    """Read the configuration file. Raises SettingsError."""
    return strict_toml.read(Config, path)


def load_secrets() -> Secrets:
    """Read the credentials. Raises SettingsError."""
    return Secrets(_credential("registry-password"), _credential("warm-secret"))


def _credential(name: str) -> str:
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if directory is None:
        raise SettingsError("CREDENTIALS_DIRECTORY is not set; start the gateway by its systemd unit")
    try:
        secret = (Path(directory) / name).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"the credential {name} cannot be read: {error}") from error
    if not secret:
        raise SettingsError(f"the credential {name} is empty")
    return secret
