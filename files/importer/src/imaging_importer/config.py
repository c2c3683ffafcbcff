"""The importer's settings, read from TOML; secrets come as files in $CREDENTIALS_DIRECTORY."""

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imaging_importer.dicom.charsets import FOREIGN
from imaging_importer.dicom.instance import Limits

# Where systemd takes the service's credentials from. Root's commands have no CREDENTIALS_DIRECTORY and read them there.
HOST_CREDENTIALS = Path("/etc/imaging/credentials/importer")


class ConfigError(Exception):
    """The configuration cannot be used; the message names the key and what it takes."""


@dataclass(frozen=True)
class Config:
    """All settings. Times in seconds, sizes in bytes."""

    inbox: Path
    processed: Path
    failed: Path
    state: Path
    cooldown: float  # a folder unchanged for so long is complete
    scan_interval: float  # between full scans of the inbox
    patience: float  # how long an upload may rest with unfinished files before it counts as broken off
    orthanc_url: str
    orthanc_user: str
    orthanc_password: str
    batch_bytes: int  # one STOW-RS request carries at most so much, but always one instance
    batch_count: int
    registry: dict[str, Any]  # connection parameters of psycopg
    http_host: str
    http_port: int
    upload_secret: str  # who has it may upload and see what is delivered
    public_url: str  # where DICOMweb is reached from outside
    upload_bytes: int  # of one STOW-RS request
    limits: Limits  # of one image, which is also one part of an upload
    disk_reserve: int  # deliveries wait while less is free on a file system that they pass through
    quotas: dict[str, int]  # of the archive, by clinic; one that is not named has none
    charsets: dict[str, str]  # what a clinic writes where an image does not say so, or untruly

    @property
    def spool(self) -> Path:
        """Claimed folders wait here.

        Inside the inbox, because claiming is a rename, and hidden, so that no scan enters it.
        """
        return self.inbox / ".spool"


@dataclass(frozen=True)
class Paths:
    """What the commands need, without the secrets of the service."""

    inbox: Path
    failed: Path
    url: str  # of the running service


def load_paths(path: Path) -> Paths:
    """Read what the commands need. Raises ConfigError."""
    try:
        settings = tomllib.loads(path.read_text("utf-8"))
        http = settings["http"]
        return Paths(
            _directory(settings["paths"], "inbox"),
            _directory(settings["paths"], "failed"),
            f"http://{http['host']}:{http['port']}",
        )
    except KeyError as error:
        raise ConfigError(f"{path}: {error.args[0]} is missing") from error
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def load(path: Path) -> Config:
    """Read the configuration file and the credentials. Raises ConfigError."""
    try:
        settings = tomllib.loads(path.read_text("utf-8"))
        paths, scan, orthanc = (settings[name] for name in ("paths", "scan", "orthanc"))
        http, upload, limits = settings["http"], settings["upload"], settings["limits"]
        return Config(
            inbox=_directory(paths, "inbox"),
            processed=_directory(paths, "processed"),
            failed=_directory(paths, "failed"),
            state=_directory(paths, "state"),
            cooldown=_number(scan, "cooldown"),
            scan_interval=_number(scan, "interval"),
            patience=_number(scan, "patience"),
            orthanc_url=str(orthanc["url"]).rstrip("/"),
            orthanc_user=str(orthanc["user"]),
            orthanc_password=_credential("orthanc-password"),
            batch_bytes=int(_number(orthanc, "batch_bytes")),
            batch_count=int(_number(orthanc, "batch_count")),
            registry={**settings["registry"], "password": _credential("registry-password")},
            http_host=str(http["host"]),
            http_port=int(_number(http, "port")),
            upload_secret=_credential("upload-secret"),
            public_url=str(upload["public_url"]).rstrip("/"),
            upload_bytes=int(_number(upload, "request_bytes")),
            limits=Limits(int(_number(limits, "instance_bytes")), int(_number(limits, "inflated_bytes"))),
            disk_reserve=int(settings["disk"]["reserve_bytes"]),
            quotas={clinic: int(_number(settings["quotas"], clinic)) for clinic in settings["quotas"]},
            charsets={clinic: _charset(clinic, name) for clinic, name in settings.get("charsets", {}).items()},
        )
    except KeyError as error:
        raise ConfigError(f"{path}: {error.args[0]} is missing") from error
    except (OSError, tomllib.TOMLDecodeError, ConfigError) as error:
        raise ConfigError(f"{path}: {error}") from error


def _directory(table: dict[str, Any], key: str) -> Path:
    directory = Path(str(table[key]))
    if not directory.is_absolute():
        raise ConfigError(f"paths.{key} is {directory}; it takes an absolute path")
    return directory


def _charset(clinic: str, name: str) -> str:
    if name not in FOREIGN:
        raise ConfigError(f"charsets.{clinic} is {name!r}; it takes one of {', '.join(FOREIGN)}")
    return name


def _number(table: dict[str, Any], key: str) -> float:
    value = table[key]
    if not isinstance(value, (int, float)) or isinstance(value, bool) or value <= 0:
        raise ConfigError(f"{key} is {value!r}; it takes a number above 0")
    return value


def _credential(name: str) -> str:
    return (Path(os.environ.get("CREDENTIALS_DIRECTORY", HOST_CREDENTIALS)) / name).read_text("utf-8").rstrip("\n")
