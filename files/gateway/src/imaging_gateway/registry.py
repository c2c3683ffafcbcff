"""The registry's database as the gateway's role sees it: the contract is the SQL functions of files/registry."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import asyncpg  # type: ignore[import-untyped]

from imaging_gateway.config import RegistryConfig

CONNECTIONS = 6
ACQUIRE_SECONDS = 2
STATEMENT_SECONDS = 5
# Notifications come over one connection. It is tested this often, because a connection can end without a sign.
HEARTBEAT_SECONDS = 10

_SEARCHES = {
    "studies": "SELECT attributes FROM registry.search_studies($1, $2, $3)",
    "series": "SELECT attributes FROM registry.search_series($1, $2, $3)",
    "instances": "SELECT attributes FROM registry.search_instances($1, $2, $3)",
}

# A connection that ends at the wrong moment raises InternalClientError.
_AWAY = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class RegistryAwayError(Exception):
    """The database did not answer. Every request that depends on it must be refused."""


class Owner(NamedTuple):
    """The owner of a study, and the other facts that the decision needs."""

    clinic: str
    revision: int
    largest: int
    """Bytes of its largest instance as far as known."""
    all_displayable: bool
    """As far as the import found."""


@dataclass
class Registry:
    """A pool of connections as `registry_gateway`, made at the first use: the gateway starts without a database."""

    config: RegistryConfig
    password: str
    _pool: Any = field(default=None)

    def _connection_arguments(self) -> dict[str, Any]:
        return {
            "host": self.config.host,
            "port": self.config.port,
            "database": self.config.database,
            "user": self.config.user,
            "password": self.password,
            "timeout": ACQUIRE_SECONDS,
            "command_timeout": STATEMENT_SECONDS,
            "server_settings": {
                "application_name": "imaging-gateway",
                "statement_timeout": str(STATEMENT_SECONDS * 1000),
            },
        }

    async def open(self) -> None:
        """Prepare the pool; no connection is made yet."""
        self._pool = await asyncpg.create_pool(min_size=0, max_size=CONNECTIONS, **self._connection_arguments())

    async def close(self) -> None:
        """End all connections at once. Nothing that is still running matters then."""
        self._pool.terminate()

    @asynccontextmanager
    async def _transaction(self, scope: str = "") -> AsyncIterator[Any]:
        """Run a transaction that sees the clinics of `scope` ('*', or ids with commas) and no others."""
        try:
            async with self._pool.acquire(timeout=ACQUIRE_SECONDS) as connection, connection.transaction():
                if scope:
                    await connection.execute("SELECT set_config('registry.clinics', $1, true)", scope)
                yield connection
        except _AWAY as error:
            raise RegistryAwayError(str(error) or type(error).__name__) from error

    async def locate_study(self, scope: str, study: str) -> Owner | None:
        """Return the owner of a study that the scope may see, else None. Raises RegistryAwayError."""
        async with self._transaction(scope) as connection:
            row = await connection.fetchrow("SELECT * FROM registry.locate_study($1)", study)
        return None if row is None else Owner(row["clinic_id"], row["revision"], row["largest"], row["all_displayable"])

    async def why_undisplayable(self, scope: str, study: str, instance: str) -> str | None:
        """Return the code why an image that the scope may see cannot be displayed. Raises RegistryAwayError."""
        async with self._transaction(scope) as connection:
            code: str | None = await connection.fetchval("SELECT registry.why_undisplayable($1, $2)", study, instance)
        return code

    async def search(
        self, scope: str, level: str, query: dict[str, Any], limit: int, offset: int
    ) -> list[dict[str, Any]]:
        """Return the DICOM JSON objects of matching studies, series or instances, those of the newest studies first.

        Raises RegistryAwayError.
        """
        async with self._transaction(scope) as connection:
            rows = await connection.fetch(_SEARCHES[level], json.dumps(query), limit, offset)
        return [json.loads(row["attributes"]) for row in rows]

    async def log_access(self, entries: list[dict[str, Any]]) -> None:
        """Append rows to the access log, all or none. Raises RegistryAwayError."""
        async with self._transaction() as connection:
            await connection.execute("SELECT registry.log_access($1)", json.dumps(entries))

    async def read_access_log(
        self, scope: str, study: str | None, user: str | None, since: datetime | None, before: int | None, limit: int
    ) -> list[dict[str, Any]]:
        """Return rows of the access log that concern the scope's clinics, newest first. Raises RegistryAwayError."""
        async with self._transaction(scope) as connection:
            rows = await connection.fetch(
                "SELECT * FROM registry.read_access_log($1, $2, $3, $4, $5)", study, user, since, before, limit
            )
        return [dict(row) for row in rows]

    async def listen(self, on_change: Callable[[str], None], on_start: Callable[[], None]) -> None:
        """Call `on_change` with the UID of every study that changes, until the connection is lost.

        `on_start` is called once no change can be missed. The call always ends by raising RegistryAwayError.
        """
        try:
            connection = await asyncpg.connect(**self._connection_arguments())
        except _AWAY as error:
            raise RegistryAwayError(str(error) or type(error).__name__) from error
        try:
            lost = asyncio.Event()
            connection.add_termination_listener(lambda _: lost.set())
            await connection.add_listener("registry_study", lambda _c, _p, _ch, study: on_change(study))
            on_start()
            while not lost.is_set():
                try:
                    await asyncio.wait_for(lost.wait(), HEARTBEAT_SECONDS)
                except TimeoutError:
                    await connection.execute("SELECT 1")
            raise RegistryAwayError("the connection for notifications was closed")
        except _AWAY as error:
            raise RegistryAwayError(str(error) or type(error).__name__) from error
        finally:
            connection.terminate()
