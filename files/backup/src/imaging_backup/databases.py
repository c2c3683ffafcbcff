"""The three databases: dumps one moment of all of them, and replaces the databases by restored dumps.

A dump is a program: it may hold any SQL. So the role that loads it owns only the new database. The user of the host
who reads it owns nothing at all.
"""

import contextlib
import os
import pwd
import re
import stat
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
from imaging_backup.lines import printable_lines

ADMINISTRATOR = "postgres"
# It exists while dumps are loaded. pg_hba.conf lets it enter only the databases of `_new`, as a user of the host.
LOADER = "imaging-restore"
# Strangers have also written into the database that the administrator queries. With these settings, no function or
# operator of theirs replaces one of PostgreSQL's, and no view that calls one replaces a table.
CAREFULLY = "-c search_path=pg_catalog,pg_temp -c restrict_nonsystem_relation_kind=view,foreign-table"
NAMES = ("orthanc", "keycloak", "registry")
# Storing or deleting an image writes the first table. Recording or forgetting a study writes the second. Keycloak
# writes to neither.
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

# An entry in pg_restore's list. Only the role that is named in it, or an administrator, may set default privileges.
DEFAULT_PRIVILEGES = re.compile(r"\d+; \d+ \d+ DEFAULT ACL ")
# The platform's own default privileges, which migrations have set for later functions.
PRIVILEGES = {"registry": "ALTER DEFAULT PRIVILEGES FOR ROLE registry_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC"}
# None of the three databases has a view. A query of a view runs code of the view's author.
VIEWS = """
SELECT c.oid::regclass::text FROM pg_class c WHERE c.relkind IN ('v', 'm', 'f') AND c.oid >= 16384
UNION SELECT r.ev_class::regclass::text FROM pg_rewrite r WHERE r.oid >= 16384
"""

Connection = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True)
class Snapshot:
    """A database as it was at the moment of the backup, for as long as the connection is open."""

    connection: Connection
    identifier: str


class Server:
    """The host's PostgreSQL, used as its administrator."""

    def __init__(self, config: Config) -> None:
        self._programs = config.postgresql.programs
        self._socket, self._port = config.postgresql.socket, config.postgresql.port
        self._loader = config.postgresql.loader

    def connect(self, database: str, autocommit: bool = False) -> Connection:
        """Raises BackupError."""
        try:
            return psycopg.connect(
                host=self._socket,
                port=self._port,
                user=ADMINISTRATOR,
                dbname=database,
                autocommit=autocommit,
                options=CAREFULLY,
            )
        except psycopg.Error as error:
            raise BackupError(f"PostgreSQL does not answer for the database {database}: {error}") from error

    def major(self) -> int:
        """The server's major version."""
        with self.connect("postgres") as connection:
            return connection.info.server_version // 10000

    @contextlib.contextmanager
    def moment(self) -> Iterator[dict[str, Snapshot]]:
        """One moment of the three databases, in which no image and no study is half written. Raises BackupError.

        A database snapshot is of one database. So writers wait for the milliseconds in which all three are taken.
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
                    # Somebody writes for a long time, and others now wait behind our request for the lock. Let them go
                    # first.
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
        # The transaction is open as long as the dumps take.
        connection.execute("SET idle_in_transaction_session_timeout = 0")
        (identifier,) = connection.execute("SELECT pg_export_snapshot()").fetchone() or ("",)
        return Snapshot(connection, identifier)

    def dump(self, database: str, snapshot: Snapshot, target: Path) -> int:
        """Write a dump; return its size in bytes. The backup file compresses it later. Raises BackupError."""
        arguments = ["--format=custom", "--compress=0", f"--snapshot={snapshot.identifier}", f"--file={target}"]
        program = str(self._programs / "pg_dump")
        self._run(program, *self._reached_by(ADMINISTRATOR), *arguments, f"--dbname={database}")
        return target.stat().st_size

    def load(self, dumps: Path) -> Iterator[str]:
        """Restore a directory's dumps beside the databases that are in use; `swap` then exchanges them.

        Returns the name of each loaded database. If one cannot be loaded, all new ones are removed. Raises BackupError.
        """
        with self.connect("postgres", autocommit=True) as server:
            self._drop_begun(server)
            # Row security hides the registry's rows even from their owner, and PostgreSQL checks foreign keys as the
            # owner.
            server.execute(sql.SQL("CREATE ROLE {} LOGIN BYPASSRLS").format(sql.Identifier(LOADER)))
            try:
                for database in NAMES:
                    self._load(server, database, dumps / f"{database}.dump")
                    yield database
            except BaseException:
                self._drop_begun(server)
                raise
            server.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(LOADER)))

    @staticmethod
    def _drop_begun(server: Connection) -> None:
        """Remove them, also those of a restore that was killed."""
        for database in NAMES:
            server.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(_new(database))))
        server.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(LOADER)))

    def _load(self, server: Connection, database: str, dump: Path) -> None:
        new, loader = sql.Identifier(_new(database)), sql.Identifier(LOADER)
        owner, grants = server.execute(
            "SELECT pg_get_userbyid(datdba), ARRAY(SELECT privilege_type || ' ON DATABASE {} TO '"
            " || CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END"
            " FROM aclexplode(coalesce(datacl, acldefault('d', datdba))))"
            " FROM pg_database WHERE datname = %s",
            (database,),
        ).fetchone() or ("", [])
        if not owner:
            raise BackupError(f"there is no database {database}: deploy the platform to this host first (site.yml)")
        server.execute(sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE template0").format(new, loader))
        server.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(new))
        self._fill(_new(database), dump)
        # Settings that a database has for its sessions would also count for the administrator's session.
        server.execute(sql.SQL("ALTER DATABASE {} RESET ALL").format(new))
        with self.connect(_new(database), autocommit=True) as connection:
            if views := connection.execute(VIEWS).fetchall():
                names = ", ".join(ascii(name) for (name,) in views)
                raise BackupError(f"the dump of {database} holds what this platform never makes: {names}")
            connection.execute(sql.SQL("REASSIGN OWNED BY {} TO {}").format(loader, sql.Identifier(owner)))
            connection.execute(sql.SQL("DROP OWNED BY {}").format(loader))
            if database in PRIVILEGES:
                connection.execute(PRIVILEGES[database].encode())
        for grant in grants:
            server.execute(sql.SQL(f"GRANT {grant}").format(new))

    def _fill(self, new: str, dump: Path) -> None:
        """Run the SQL of a dump as a role that may do nothing elsewhere."""
        file = os.open(dump, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        chosen = os.memfd_create("chosen")
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise BackupError(f"{dump.name} is not a file")
            # The loader may not enter the dump's directory. It reads the open file, and its helpers open that file
            # again.
            os.fchown(file, pwd.getpwnam(self._loader).pw_uid, -1)
            opened = f"/dev/fd/{file}"
            entries = self._as_loader("pg_restore", "--list", opened, files=(file,))
            kept = [line for line in entries.splitlines(keepends=True) if not DEFAULT_PRIVILEGES.match(line)]
            os.write(chosen, "".join(kept).encode(errors="surrogateescape"))
            options = ["--exit-on-error", "--no-owner", "--jobs=2", f"--use-list=/dev/fd/{chosen}", f"--dbname={new}"]
            self._as_loader("pg_restore", *self._reached_by(LOADER), *options, opened, files=(file, chosen))
        finally:
            os.close(file)
            os.close(chosen)
        analyze = ["--no-psqlrc", "--quiet", f"--dbname={new}", "--command=ANALYZE"]
        self._as_loader("psql", *self._reached_by(LOADER), *analyze)

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
        """Drop the databases that `swap` has replaced."""
        with self.connect("postgres", autocommit=True) as server:
            for name in NAMES:
                server.execute(
                    sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(_replaced(name)))
                )

    def _reached_by(self, role: str) -> list[str]:
        return [f"--username={role}", f"--host={self._socket}", f"--port={self._port}", "--no-password"]

    def _as_loader(self, program: str, *arguments: str, files: tuple[int, ...] = ()) -> str:
        rights = ["--clear-groups", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all", "--reset-env"]
        user = pwd.getpwnam(self._loader)
        who = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}"]
        return self._run("setpriv", *who, *rights, "--", str(self._programs / program), *arguments, files=files)

    @staticmethod
    def _run(*command: str, files: tuple[int, ...] = ()) -> str:
        done = subprocess.run(command, capture_output=True, check=False, pass_fds=files, cwd="/")  # noqa: S603 # our own
        if done.returncode:
            program = next(word for word in command if "/pg_" in word or "/psql" in word)
            complaint = done.stderr.decode(errors="replace").strip()
            raise BackupError(f"{Path(program).name} failed: {printable_lines(complaint)}")
        return done.stdout.decode(errors="surrogateescape")


def counts(name: str, connection: Connection) -> dict[str, int]:
    """The numbers of everything that people miss when it is lost."""
    found = {}
    for what, query in COUNTS[name].items():
        row = connection.execute(query.encode()).fetchone()
        found[what] = int(row[0]) if row else 0
    return found


def _new(database: str) -> str:
    return f"{database}_restored"


def _replaced(database: str) -> str:
    return f"{database}_replaced"
