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

    environment: str  # of which installation the backups are
    domain: str
    path: Path  # where backup files are kept
    keep_count: int
    keep_days: int
    include_images: bool  # whether a backup has the images when nobody says otherwise
    recipients: list[str]  # public keys of age; none: backup files are not encrypted
    repository: str  # of restic, in its own words; empty: there is none
    repository_cache: Path
    metrics: Path  # directory of the node exporter's textfile collector
    settings: Path  # configuration, credentials and certificates of the host
    letsencrypt: Path  # certbot's accounts and certificates, where there are any
    storage: Path  # Orthanc's image files
    cache: Path  # nginx's cache of images
    journal: Path  # the importer's
    postgresql: PostgresqlConfig
    keycloak: KeycloakConfig

    @property
    def links(self) -> Path:
        """Second names of images that are being backed up: below the store, because a link does not leave its disk."""
        return self.storage / ".backup"

    @property
    def held(self) -> Path:
        """Second names of what the repository holds, kept from push to push: a new one would be a change to restic."""
        return self.storage / ".held"

    @property
    def arriving(self) -> Path:
        """Images that are being restored, until all are proven: below the store, so that moving them is a rename."""
        return self.storage / ".restore"

    def keycloak_secret(self) -> str:
        """The secret of the service account that may export the realm. Raises BackupError."""
        return (credentials() / KEYCLOAK_SECRET).read_text("utf-8").strip()

    def signing_key(self) -> SigningKey:
        """What backups are signed with. Raises BackupError."""
        try:
            return SigningKey((credentials() / SIGNING_KEY).read_text("ascii"))
        except (OSError, ValueError) as error:
            raise BackupError(
                f"there is no key to sign backups with: deploy the platform anew (site.yml). {error}"
            ) from error

    @property
    def never_kept(self) -> Path:
        """The file that no backup holds: who reads one could make others."""
        return self.settings / "credentials" / "backup" / SIGNING_KEY


def credentials() -> Path:
    """Where secrets lie, each in a file. Raises BackupError."""
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
