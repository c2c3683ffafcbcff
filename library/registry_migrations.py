#!/usr/bin/python
"""Bring the registry's schema up to date: each numbered migration once, in one transaction, recorded by checksum."""

from __future__ import annotations

DOCUMENTATION = r"""
module: registry_migrations
short_description: Apply the numbered SQL migrations of the study registry
description:
  - Applies each migration that the database has not seen, in the order of the names. Each runs in one transaction
    together with its record in C(registry.migration) (name, SHA-256, time).
  - If the schema C(registry) and that table are missing, the module makes them. It makes nothing else of its own.
  - Runs C(psql) over the local socket as the administrator, and becomes the owner inside the database.
options:
  database:
    description: Name of the database.
    type: str
    default: registry
  owner:
    description: Role that owns the database and will own all that the migrations create.
    type: str
    default: registry_owner
  administrator:
    description: Superuser of the database. On its socket, PostgreSQL lets this user log in under that name.
    type: str
    default: postgres
  socket:
    description: Directory of PostgreSQL's socket.
    type: str
    default: /var/run/postgresql
  port:
    description: Port that names the socket.
    type: int
    required: true
  migrations:
    description: All migrations this release knows, applied or not.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: File name, four digits first; the order is the names' order.
        type: str
        required: true
      sql:
        description: The statements, without BEGIN and COMMIT.
        type: str
        required: true
attributes:
  check_mode:
    support: full
    description: Tells which migrations are pending, also on a host that has no database yet.
  diff_mode: {support: none}
author: [The imaging platform's authors]
"""

EXAMPLES = r"""
- name: Apply what is new
  registry_migrations:
    migrations:
      - name: 0001_studies.sql
        sql: "{{ lookup('ansible.builtin.file', '0001_studies.sql') }}"
"""

RETURN = r"""
applied:
  description: Names of the migrations that were applied, or that would be in check mode.
  returned: always
  type: list
  elements: str
  sample: [0001_studies.sql]
"""

import hashlib
import re
import shutil
from dataclasses import dataclass

from ansible.module_utils.basic import AnsibleModule  # type: ignore[import-untyped]

RECORD = """
CREATE SCHEMA IF NOT EXISTS registry;
CREATE TABLE IF NOT EXISTS registry.migration (
    name text PRIMARY KEY,
    sha256 text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
"""


@dataclass(frozen=True)
class Migration:
    """One numbered file of SQL."""

    name: str
    sql: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.sql.strip().encode()).hexdigest()


class RegistryError(Exception):
    """A sentence for the operator: the problem and what to do."""


def pending(known: list[Migration], applied: dict[str, str]) -> list[Migration]:
    """Return the migrations that are still to be applied, in their order.

    Raises RegistryError when the two histories do not fit. It names a migration with a bad name, a text that changed
    after it was applied, a database that is ahead of this release, or a new migration numbered before an applied one.
    """
    known = sorted(known, key=lambda migration: migration.name)
    numbers = [migration.name[:4] for migration in known]
    for migration in known:
        if not re.fullmatch(r"[0-9]{4}_[a-z0-9_]+\.sql", migration.name):
            raise RegistryError(f"{migration.name} is not named like a migration (0001_what_it_does.sql)")
        if numbers.count(migration.name[:4]) > 1:
            raise RegistryError(f"two migrations have the number {migration.name[:4]}; give the newer one the next")
        if applied.get(migration.name, migration.sha256) != migration.sha256:
            raise RegistryError(
                f"{migration.name} was changed after it was applied; restore its text; put the change into a new one"
            )
    ahead = sorted(set(applied) - {migration.name for migration in known})
    if ahead:
        raise RegistryError(f"the database is ahead of this release by {', '.join(ahead)}; deploy the newer release")
    new = [migration for migration in known if migration.name not in applied]
    if new and applied and new[0].name < max(applied):
        raise RegistryError(f"{new[0].name} comes before {max(applied)}, which is applied; give it the next number")
    return new


class Database:
    """The registry's database, spoken to by psql over the local socket."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module
        self._owner = module.params["owner"]
        self._name = module.params["database"]
        self._command = [
            *["psql", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"],
            *["--host", module.params["socket"], "--port", str(module.params["port"])],
            *["--username", module.params["administrator"]],
        ]

    def exists(self) -> bool:
        """Tell whether the server is installed and has the database: in check mode on a bare host it has not."""
        if shutil.which("psql") is None:
            return False
        found = self._psql("SELECT 1 FROM pg_database WHERE datname = :'name'", database="postgres", name=self._name)
        return found.strip() == "1"

    def applied(self) -> dict[str, str]:
        """Return the recorded migrations: name to SHA-256."""
        if self._psql("SELECT to_regclass('registry.migration') IS NOT NULL").strip() != "t":
            return {}
        rows = self._psql("SELECT name, sha256 FROM registry.migration").split()
        return dict(row.split("|") for row in rows)

    def apply(self, migration: Migration) -> None:
        """Apply one migration and record it, both or neither."""
        self._psql(
            f'SET ROLE "{self._owner}";\nSET client_min_messages = warning;\n{RECORD}\n{migration.sql}\n;\n'
            "INSERT INTO registry.migration (name, sha256) VALUES (:'migration', :'sha256');",
            transaction=True,
            migration=migration.name,
            sha256=migration.sha256,
        )

    def _psql(self, sql: str, database: str | None = None, transaction: bool = False, **variables: str) -> str:
        command = [*self._command, "--dbname", database or self._name, "--file", "-"]
        command += ["--single-transaction"] if transaction else []
        for name, value in variables.items():
            command += ["--set", f"{name}={value}"]
        status, output, error = self._module.run_command(command, data=sql)
        if status != 0:
            raise RegistryError(error.strip() or f"psql ended with status {status}")
        return str(output)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "database": {"type": "str", "default": "registry"},
            "owner": {"type": "str", "default": "registry_owner"},
            "administrator": {"type": "str", "default": "postgres"},
            "socket": {"type": "str", "default": "/var/run/postgresql"},
            "port": {"type": "int", "required": True},
            "migrations": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {"name": {"type": "str", "required": True}, "sql": {"type": "str", "required": True}},
            },
        },
        supports_check_mode=True,
    )
    database = Database(module)
    known = [Migration(**migration) for migration in module.params["migrations"]]
    doing = "read"
    try:
        applied = {} if module.check_mode and not database.exists() else database.applied()
        new = pending(known, applied)
        for migration in [] if module.check_mode else new:
            doing = f"apply {migration.name} to"
            database.apply(migration)
    except RegistryError as error:
        module.fail_json(msg=f"cannot {doing} the registry: {error}")
    module.exit_json(changed=bool(new), applied=[migration.name for migration in new])


if __name__ == "__main__":
    main()
