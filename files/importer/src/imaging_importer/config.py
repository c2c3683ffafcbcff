"""The importer's settings, read from TOML; secrets come as files in $CREDENTIALS_DIRECTORY."""

import os
from dataclasses import dataclass
from pathlib import Path

from imaging_importer import strict_toml
from imaging_importer.dicom.charsets import FOREIGN
from imaging_importer.dicom.instance import Limits
from imaging_importer.strict_toml import SettingsError

# The directory from which systemd takes the service's credentials. Root's commands have no CREDENTIALS_DIRECTORY and
# read them there.
HOST_CREDENTIALS = Path("/etc/imaging/credentials/importer")


@dataclass(frozen=True)
class Paths:
    """The directories where deliveries begin and end."""

    inbox: Path
    processed: Path
    failed: Path
    state: Path

    @property
    def spool(self) -> Path:
        """Deliveries wait here.

        The directory is inside the inbox, because taking a folder is a rename. It is hidden, so that no scan enters it.
        """
        return self.inbox / ".spool"


@dataclass(frozen=True)
class Scan:
    """The times for looking at the inbox, in seconds."""

    cooldown: float  # a folder that has not changed for so long is complete
    interval: float  # between full scans of the inbox
    patience: float  # an upload whose unfinished files rest longer counts as broken off


@dataclass(frozen=True)
class Orthanc:
    """The archive. One STOW-RS request carries at most so much, but always one instance."""

    url: str
    user: str
    batch_bytes: int
    batch_count: int


@dataclass(frozen=True)
class RegistryDatabase:
    """Connection parameters, as psycopg calls them."""

    host: str
    port: int
    dbname: str
    user: str


@dataclass(frozen=True)
class Http:
    """The address where the importer listens."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """The address where the running service answers."""
        return f"http://{self.host}:{self.port}"


@dataclass(frozen=True)
class Upload:
    """Uploads through nginx."""

    public_url: str  # address of DICOMweb for clients outside
    request_bytes: int  # of one STOW-RS request


@dataclass(frozen=True)
class ImageLimits:
    """The limits of one image, which is also one part of an upload."""

    instance_bytes: int
    inflated_bytes: int


@dataclass(frozen=True)
class Disk:
    """Deliveries wait if a file system that they pass through has less free space."""

    reserve_bytes: int


@dataclass(frozen=True)
class Config:
    """The whole configuration of the service without its secrets, a section each."""

    paths: Paths
    scan: Scan
    orthanc: Orthanc
    registry: RegistryDatabase
    http: Http
    upload: Upload
    limits: ImageLimits
    disk: Disk
    quotas: dict[str, int]  # bytes of the archive, by clinic; a clinic that is not named has no quota
    charsets: dict[str, str]  # the character set that a clinic writes if an image names none, or a wrong one

    @property
    def image_limits(self) -> Limits:
        """The limits as the reader of DICOM takes them."""
        return Limits(self.limits.instance_bytes, self.limits.inflated_bytes)


@dataclass(frozen=True)
class Secrets:
    """The credentials of the service."""

    orthanc_password: str
    registry_password: str
    upload_secret: str  # a caller who has it may upload and see the deliveries


def load(path: Path) -> Config:
    """Read the configuration file. Raises SettingsError."""
    config = strict_toml.read(Config, path)
    sections = {name: vars(getattr(config, name)) for name in ("scan", "orthanc", "http", "upload", "limits", "disk")}
    for section, settings in (sections | {"quotas": config.quotas}).items():
        for name, value in settings.items():
            if not isinstance(value, str) and value <= 0:
                raise SettingsError(f"{path}: {section}.{name} takes a number above 0, not {value}")
    for clinic, name in config.charsets.items():
        if name not in FOREIGN:
            raise SettingsError(f"{path}: charsets.{clinic} takes one of {', '.join(FOREIGN)}, not {name!r}")
    return config


def load_secrets() -> Secrets:
    """Read the credentials. Raises SettingsError."""
    return Secrets(_credential("orthanc-password"), _credential("registry-password"), _credential("upload-secret"))


def _credential(name: str) -> str:
    path = Path(os.environ.get("CREDENTIALS_DIRECTORY", HOST_CREDENTIALS)) / name
    try:
        secret = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"the credential {name} cannot be read: {error}") from error
    if not secret:
        raise SettingsError(f"the credential {name} is empty")
    return secret
