"""A platform as the backup sees it: three databases on a real PostgreSQL, image files, settings."""

from __future__ import annotations

import hashlib
import os
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

# ruff: noqa: E402
sys.dont_write_bytecode = True
TESTS = Path(__file__).parent
for directory in (TESTS, TESTS.parent / "src", TESTS.parent.parent):
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))

import psycopg
import pytest
from backup_keys import KEY, SECRET
from imaging_backup.config import Config, KeycloakConfig, PostgresqlConfig
from imaging_backup.images import store_path

# The tables of Orthanc and Keycloak that the backup counts and lists, as both make them.
ORTHANC = """
CREATE TABLE resources (internalid bigint PRIMARY KEY, resourcetype integer NOT NULL, publicid text NOT NULL);
CREATE TABLE attachedfiles (
  id bigint REFERENCES resources ON DELETE CASCADE, filetype integer, uuid varchar(64) NOT NULL, compressedsize bigint,
  compressedhash varchar(40), PRIMARY KEY (id, filetype));
"""
KEYCLOAK = "CREATE TABLE user_entity (id text PRIMARY KEY, username text, service_account_client_link text)"


def newest_programs() -> Path:
    found = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "initdb").exists()]
    return max(found, key=lambda path: int(path.parent.name))


@dataclass
class Host:
    """A deployed host."""

    config: Config
    connect: Callable[..., psycopg.Connection]
    last_id: int = 0
    deeds: list[str] = field(default_factory=list)

    # --- what Orthanc does: the file first, then the row; the row is gone before the file ---

    def store(self, content: bytes) -> str:
        name, self.last_id = str(uuid.uuid4()), self.last_id + 1
        path = store_path(self.config.storage, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        with self.connect("postgres", "orthanc") as connection, connection.transaction():
            connection.execute("INSERT INTO resources VALUES (%s, 3, %s)", (self.last_id, name))
            connection.execute(
                "INSERT INTO attachedfiles VALUES (%s, 1, %s, %s, %s)",
                (self.last_id, name, len(content), hashlib.md5(content).hexdigest()),  # noqa: S324 # as Orthanc
            )
        return name

    def delete(self, name: str) -> None:
        with self.connect("postgres", "orthanc") as connection:
            connection.execute("DELETE FROM resources WHERE publicid = %s", (name,))
        store_path(self.config.storage, name).unlink()

    def named(self) -> set[str]:
        with self.connect("postgres", "orthanc") as connection:
            return {name for (name,) in connection.execute("SELECT uuid FROM attachedfiles")}

    # --- what the importer does ---

    def register(self, study: str, clinic: str = "north") -> None:
        with self.connect("registry_importer", "registry") as connection:
            connection.execute("SELECT registry.claim_study(%s, %s)", (study, clinic))
            connection.execute("SELECT registry.record_study(%s, %s, '{}')", (study, clinic))

    def registered(self) -> dict[str, int]:
        with self.connect("registry_importer", "registry") as connection:
            rows = connection.execute("SELECT study_uid, revision FROM registry.owned_studies('', 1000)")
            return dict(rows.fetchall())

    def users(self) -> set[str]:
        with self.connect("postgres", "keycloak") as connection:
            return {name for (name,) in connection.execute("SELECT username FROM user_entity")}

    def add_user(self, name: str) -> None:
        with self.connect("postgres", "keycloak") as connection:
            connection.execute("INSERT INTO user_entity VALUES (%s, %s)", (name, name))

    # --- the Services of a restore ---

    def start_database(self) -> None:
        self.deeds.append("database")

    def stop(self) -> None:
        self.deeds.append("stop")

    def start(self) -> None:
        self.deeds.append("start")

    def elsewhere(self, **settings: object) -> Host:
        """The same host under other settings; of a section those that are named."""
        settings = {
            name: replace(getattr(self.config, name), **value) if isinstance(value, dict) else value
            for name, value in settings.items()
        }
        return replace(self, config=replace(self.config, **settings), deeds=[])


@pytest.fixture(scope="session")
def databases(cluster):
    """The cluster of the registry, with Orthanc's and Keycloak's databases beside it."""
    for name, tables in (("orthanc", ORTHANC), ("keycloak", KEYCLOAK)):
        cluster.sql(f"CREATE DATABASE {name}")
        cluster.sql(tables, name)
    return cluster


@pytest.fixture
def host(databases, registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """An empty host that was just deployed."""
    for name in (
        "backups",
        "credentials",
        "dicom",
        "metrics",
        "cache",
        "journal",
        "etc/tls",
        "etc/credentials/backup",
    ):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "etc/tls/ca.pem").write_text("the authority")
    (tmp_path / "etc/credentials/backup/keycloak-client-secret").write_text("the service account's secret")
    (tmp_path / "etc/gateway.toml").write_text("listen_port = 8090")
    (tmp_path / "credentials/keycloak-client-secret").write_text("the service account's secret")
    for directory in ("credentials", "etc/credentials/backup"):
        (tmp_path / directory / "signing-key").write_text(SECRET)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    databases.sql("TRUNCATE resources, attachedfiles", "orthanc")
    databases.sql("TRUNCATE user_entity", "keycloak")
    config = Config(
        environment="north-hospital",
        domain="imaging.example.org",
        path=tmp_path / "backups",
        keep_count=2,
        keep_days=7,
        include_images=False,
        recipients=[],
        repository="",
        repository_cache=tmp_path / "cache",
        metrics=tmp_path / "metrics",
        settings=tmp_path / "etc",
        letsencrypt=tmp_path / "letsencrypt",
        storage=tmp_path / "dicom",
        cache=tmp_path / "cache",
        journal=tmp_path / "journal",
        postgresql=PostgresqlConfig(
            programs=newest_programs(),
            socket=str(databases.socket),
            port=5432,
            data=databases.socket,
            loader="nobody",
        ),
        keycloak=KeycloakConfig(
            url="http://127.0.0.1:9",  # nobody answers on the discard port
            client="imaging-ansible",
            realm="imaging",
            version="26.7.3",
        ),
    )
    return Host(config, databases.connect)


@pytest.fixture
def backup_path(tmp_path: Path) -> Path:
    """A backup file of three members."""
    from imaging_backup import backup_file

    path = tmp_path / "dicom-backup-2026-05-04T020000Z.tar.zst"
    with backup_file.new_backup_file(path, {"environment": "north-hospital"}, [], KEY) as writer:
        writer.add_bytes("realm.json", b"{}")
        writer.add_bytes("settings/tls/ca.pem", b"certificate")
        writer.add_bytes(f"images/{uuid.UUID(int=1)}", os.urandom(200_000))
    return path
