"""The settings, read from TOML; the secret comes as a file in $CREDENTIALS_DIRECTORY."""

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

from imaging_backup.errors import BackupError
from imaging_backup.signing import SigningKey

# Names of files.
KEYCLOAK_SECRET = "keycloak-client-secret"  # noqa: S105
SIGNING_KEY = "signing-key"
LETSENCRYPT = "settings/letsencrypt"  # in an archive


@dataclass(frozen=True)
class Config:
    """All settings."""

    environment: str  # of which installation the archives are
    domain: str
    path: Path  # where archives are kept
    keep_count: int
    keep_days: int
    include_images: bool  # whether a backup has the images when nobody says otherwise
    recipients: list[str]  # public keys of age; none: archives are not encrypted
    repository: str  # of restic, in its own words; empty: there is none
    repository_cache: Path
    metrics: Path  # directory of the node exporter's textfile collector
    settings: Path  # configuration, credentials and certificates of the host
    letsencrypt: Path  # certbot's accounts and certificates, where there are any
    storage: Path  # Orthanc's image files
    cache: Path  # nginx's cache of images
    journal: Path  # the importer's
    postgresql_programs: Path
    postgresql_socket: str
    postgresql_port: int
    postgresql_data: Path
    postgresql_loader: str  # user of the host who reads dumps, and may do nothing else
    keycloak_url: str
    keycloak_client: str
    keycloak_realm: str
    keycloak_version: str

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
        settings = tomllib.loads(path.read_text("utf-8"))
        postgresql, keycloak = settings["postgresql"], settings["keycloak"]
        return Config(
            environment=str(settings["environment"]),
            domain=str(settings["domain"]),
            path=Path(settings["path"]),
            keep_count=int(settings["keep_count"]),
            keep_days=int(settings["keep_days"]),
            include_images=bool(settings["include_images"]),
            recipients=[str(key) for key in settings["recipients"]],
            repository=str(settings["repository"]),
            repository_cache=Path(settings["repository_cache"]),
            metrics=Path(settings["metrics"]),
            settings=Path(settings["settings"]),
            letsencrypt=Path(settings["letsencrypt"]),
            storage=Path(settings["storage"]),
            cache=Path(settings["cache"]),
            journal=Path(settings["journal"]),
            postgresql_programs=Path(postgresql["programs"]),
            postgresql_socket=str(postgresql["socket"]),
            postgresql_port=int(postgresql["port"]),
            postgresql_data=Path(postgresql["data"]),
            postgresql_loader=str(postgresql["loader"]),
            keycloak_url=str(keycloak["url"]),
            keycloak_client=str(keycloak["client"]),
            keycloak_realm=str(keycloak["realm"]),
            keycloak_version=str(keycloak["version"]),
        )
    except KeyError as error:
        raise BackupError(f"{path}: {error.args[0]} is missing") from error
    except (OSError, ValueError, TypeError) as error:
        raise BackupError(f"{path}: {error}") from error
