from __future__ import annotations

import json

import pytest
from psycopg import Connection


class Reader:
    """The gateway's calls to the registry, for callers of given clinics."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def ask(self, scope: str | None, statement: str, *arguments: object) -> list[tuple[object, ...]]:
        with self.connection.transaction():
            if scope is not None:
                self.connection.execute("SELECT set_config('registry.clinics', %s, true)", (scope,))
            return self.connection.execute(statement, arguments).fetchall()

    def search(
        self, scope: str | None, match: dict[str, object] | None = None, limit: int = 100, skip: int = 0
    ) -> list[str]:
        statement = "SELECT study_uid FROM registry.search_studies(%s, %s, %s)"
        return [row[0] for row in self.ask(scope, statement, json.dumps(match or {}), limit, skip)]

    def find(self, level: str, scope: str | None, match: dict[str, object] | None = None, *page: int) -> list[str]:
        """The UIDs of series or instances that a search finds."""
        statement = f"SELECT attributes FROM registry.search_{level}(%s, %s, %s)"  # noqa: S608
        rows = self.ask(scope, statement, json.dumps(match or {}), *(page or (100, 0)))
        tag = {"studies": "0020000D", "series": "0020000E", "instances": "00080018"}[level]
        return [row[0][tag]["Value"][0] for row in rows]

    def locate(self, scope: str | None, study: str) -> list[tuple[object, ...]]:
        return self.ask(scope, "SELECT clinic_id, revision, largest FROM registry.locate_study(%s)", study)


@pytest.fixture
def gateway(registry):
    with registry.connect("registry_gateway") as connection:
        yield Reader(connection)
