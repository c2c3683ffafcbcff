"""The three databases: one moment of all of them, dumped; and dumps put in the place of what is there."""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from imaging_backup.config import Config
from imaging_backup.errors import BackupError

ADMINISTRATOR = "postgres"
NAMES = ("orthanc", "keycloak", "registry")
# Whoever stores or deletes an image writes the first, whoever records or forgets a study the second. What Keycloak
# writes is tied to neither.
WRITTEN = {"orthanc": "public.attachedfiles", "registry": "registry.study"}
LOCK_SECONDS = 10
ATTEMPTS = 6

COUNTS = {
    "orthanc": {
        "patients": "SELECT count(*) FROM public.resources WHERE resourcetype = 0",
        "studies": "SELECT count(*) FROM public.resources WHERE resourcetype = 1",
        "series": "SELECT count(*) FROM public.resources WHERE resourcetype = 2",
        "instances": "SELECT count(*) FROM public.resources WHERE resourcetype = 3",
        "image files": "SELECT count(*) FROM public.attachedfiles",
    },
    "keycloak": {"users": "SELECT count(*) FROM public.user_entity WHERE service_account_client_link IS NULL"},
    "registry": {
        "clinics": "SELECT count(*) FROM registry.clinic",
        "registered studies": "SELECT count(*) FROM registry.study WHERE revision > 0",
        "entries of the access log": "SELECT count(*) FROM registry.access_log",
    },
}

Connection = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True)
class Snapshot:
    """A database as it was at the moment of the backup, for as long as the connection is open."""

    connection: Connection
    identifier: str


class Server:
    """The host's PostgreSQL, as its administrator."""

    def __init__(self, config: Config) -> None:
        self._programs = config.postgresql_programs
        self._socket = config.postgresql_socket

    def connect(self, database: str, autocommit: bool = False) -> Connection:
        """Raises BackupError."""
        try:
            return psycopg.connect(host=self._socket, user=ADMINISTRATOR, dbname=database, autocommit=autocommit)
        except psycopg.Error as error:
            raise BackupError(f"PostgreSQL does not answer for the database {database}: {error}") from error

    def major(self) -> int:
        """The server's major version."""
        with self.connect("postgres") as connection:
            return connection.info.server_version // 10000

    @contextlib.contextmanager
    def moment(self) -> Iterator[dict[str, Snapshot]]:
        """One moment of the three databases, in which no image and no study is half written. Raises BackupError.

        A snapshot is of one database. So writers wait for the milliseconds in which all three are taken.
        """
        with contextlib.ExitStack() as open_connections:
            yield self._snapshots(open_connections)

    def _snapshots(self, stack: contextlib.ExitStack) -> dict[str, Snapshot]:
        for _ in range(ATTEMPTS):
            with contextlib.ExitStack() as locks:
                try:
                    for database, table in WRITTEN.items():
                        lock = locks.enter_context(self.connect(database))
                        lock.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
                        lock.execute(f"LOCK TABLE {table} IN SHARE MODE")
                except psycopg.errors.LockNotAvailable:
                    # Somebody writes for long, and others now wait behind the lock that was asked for: let them pass.
                    time.sleep(1)
                    continue
                return {name: self._snapshot(stack.enter_context(self.connect(name))) for name in NAMES}
        raise BackupError(
            f"the databases were written to without a pause for {ATTEMPTS * LOCK_SECONDS} seconds, so no moment could "
            "be taken in which they agree. Try again; the view pg_stat_activity shows who writes"
        )

    @staticmethod
    def _snapshot(connection: Connection) -> Snapshot:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        # It is open for as long as the dumps take.
        connection.execute("SET idle_in_transaction_session_timeout = 0")
        (identifier,) = connection.execute("SELECT pg_export_snapshot()").fetchone() or ("",)
        return Snapshot(connection, identifier)

    def dump(self, database: str, snapshot: Snapshot, target: Path) -> int:
        """Write a dump; its size in bytes. Not compressed: the archive is. Raises BackupError."""
        arguments = ["--format=custom", "--compress=0", f"--snapshot={snapshot.identifier}", f"--file={target}"]
        self._run("pg_dump", *arguments, f"--dbname={database}")
        return target.stat().st_size

    def load(self, database: str, dump: Path) -> None:
        """Restore a dump beside the database that is there; `swap` then changes their places. Raises BackupError."""
        new = sql.Identifier(_new(database))
        with self.connect("postgres", autocommit=True) as server:
            owner, grants = server.execute(
                "SELECT pg_get_userbyid(datdba), ARRAY(SELECT privilege_type || ' ON DATABASE {} TO '"
                " || CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END"
                " FROM aclexplode(coalesce(datacl, acldefault('d', datdba))))"
                " FROM pg_database WHERE datname = %s",
                (database,),
            ).fetchone() or ("", [])
            if not owner:
                raise BackupError(f"there is no database {database}: deploy the platform to this host first (site.yml)")
            server.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(new))
            server.execute(sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE template0").format(new, sql.Identifier(owner)))
            server.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(new))
            for grant in grants:
                server.execute(sql.SQL(f"GRANT {grant}").format(new))
        self._run("pg_restore", "--exit-on-error", "--jobs=2", f"--dbname={_new(database)}", str(dump))
        with self.connect(_new(database), autocommit=True) as connection:
            connection.execute("ANALYZE")

    def swap(self) -> None:
        """Put the three restored databases in the place of the old ones: all or none. Raises BackupError."""
        self.drop_replaced()
        with self.connect("postgres") as server:
            server.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = ANY(%s)", (list(NAMES),)
            )
            for name in NAMES:
                for old, new in ((name, _replaced(name)), (_new(name), name)):
                    rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
                    server.execute(rename.format(sql.Identifier(old), sql.Identifier(new)))
        self.drop_replaced()

    def drop_replaced(self) -> None:
        """Drop what `swap` replaced."""
        with self.connect("postgres", autocommit=True) as server:
            for name in NAMES:
                server.execute(
                    sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(_replaced(name)))
                )

    def _run(self, program: str, *arguments: str) -> None:
        program_path = str(self._programs / program)
        command = [program_path, f"--username={ADMINISTRATOR}", f"--host={self._socket}", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 # our own arguments
        if done.returncode:
            raise BackupError(f"{program} failed: {done.stderr.strip()}")


def counts(name: str, connection: Connection) -> dict[str, int]:
    """How many there are of everything that people miss when it is gone."""
    found = {}
    for what, query in COUNTS[name].items():
        row = connection.execute(query.encode()).fetchone()
        found[what] = int(row[0]) if row else 0
    return found


def _new(database: str) -> str:
    return f"{database}_restored"


def _replaced(database: str) -> str:
    return f"{database}_replaced"
