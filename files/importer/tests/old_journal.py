"""Makes a journal one of an earlier release again: its tables, with what they hold of today's rows."""

import sqlite3
from pathlib import Path

from imaging_importer.journal import SCHEMAS

TODAY = {"claimed_at": "taken_at", "archive": "packed"}  # a column's old name: its present name


def rewind(path: Path, version: int) -> None:
    """Leave of a closed journal what a release that knew so many of the SCHEMAS would have."""
    today = path.with_suffix(".today")
    path.rename(today)
    with sqlite3.connect(path) as database:
        for schema in SCHEMAS[:version]:
            database.executescript(schema)
        database.execute("ATTACH ? AS today", (str(today),))
        for (table,) in database.execute("SELECT name FROM main.sqlite_schema WHERE type = 'table'").fetchall():
            columns = [row[1] for row in database.execute(f"PRAGMA main.table_info ({table})")]
            today_s = ", ".join(TODAY.get(column, column) for column in columns)
            database.execute(f"INSERT INTO main.{table} ({', '.join(columns)}) SELECT {today_s} FROM today.{table}")  # noqa: S608
        database.execute(f"PRAGMA main.user_version = {version}")
