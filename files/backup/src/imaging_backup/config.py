"""The settings, read from TOML; the secret comes as a file in $CREDENTIALS_DIRECTORY."""

import os
from dataclasses import dataclass
from pathlib import Path

from imaging_backup import strict_toml
from imaging_backup.errors import BackupError
from imaging_backup.signing import SigningKey

# Names of files.
KEYCLOAK_SECRET = "keycloak-client-secret"  # noqa: S105
SIGNING_KEY = "signing-key"
LETSENCRYPT = "settings/letsencrypt"  # in a backup file


@dataclass(frozen=True)
class PostgresqlConfig:
    """The cluster of the host."""

    programs: Path
    socket: str
    port: int
    data: Path
    loader: str  # user of the host who reads dumps, and may do nothing else


@dataclass(frozen=True)
class KeycloakConfig:
    """Keycloak, and the service account that may export the realm."""

    url: str
    client: str
    realm: str
    version: str


@dataclass(frozen=True)
class Config:
    """All settings."""

    environment: str  # name of the installation, as backups hold it
    domain: str
    path: Path  # directory of backup files
    keep_count: int
    keep_days: int
    include_images: bool  # whether a backup has the images if nobody says otherwise
    recipients: list[str]  # public keys of age; if empty, backup files are not encrypted
    repository: str  # as restic writes it; empty if there is none
    repository_cache: Path
    metrics: Path  # directory of the node exporter's textfile collector
    settings: Path  # configuration, credentials and certificates of the host
    letsencrypt: Path  # certbot's accounts and certificates, if there are any
    storage: Path  # Orthanc's image files
    cache: Path  # nginx's cache of images
    journal: Path  # the importer's
    postgresql: PostgresqlConfig
    keycloak: KeycloakConfig

    @property
    def links(self) -> Path:
        """Second names of images during a backup. They are below the store, because a link cannot leave its disk."""
        return self.storage / ".backup"

    @property
    def held(self) -> Path:
        """Second names of the repository's images. They stay between pushes: to restic, a new one would be a change."""
        return self.storage / ".held"

    @property
    def arriving(self) -> Path:
        """Images that are being restored, until all are proven. They are below the store, so a rename moves them."""
        return self.storage / ".restore"

    def keycloak_secret(self) -> str:
        """The secret of the service account that may export the realm. Raises BackupError."""
        return (credentials() / KEYCLOAK_SECRET).read_text("utf-8").strip()

    def signing_key(self) -> SigningKey:
        """The key that signs backups. Raises BackupError."""
        try:
            return SigningKey((credentials() / SIGNING_KEY).read_text("ascii"))
        except (OSError, ValueError) as error:
            raise BackupError(
                f"there is no key to sign backups with: deploy the platform anew (site.yml). {error}"
            ) from error

    @property
    def never_kept(self) -> Path:
        """The file that no backup holds, because somebody who has it could sign other backups."""
        return self.settings / "credentials" / "backup" / SIGNING_KEY


def credentials() -> Path:
    """The directory of the secrets, each in a file. Raises BackupError."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        raise BackupError("CREDENTIALS_DIRECTORY is not set; systemd sets it from LoadCredential=")
    return Path(directory)


def load(path: Path) -> Config:
    """Read the configuration file. Raises BackupError."""
    try:
        return strict_toml.read(Config, path)
    except strict_toml.SettingsError as error:
        raise BackupError(str(error)) from error
