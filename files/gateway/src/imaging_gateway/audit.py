"""Reads the access log: the filters that an auditor may set, in the browser and on the host, and the rows found."""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import re
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from imaging_gateway.config import Config, Secrets
from imaging_gateway.grammar import UID
from imaging_gateway.printable import printable
from imaging_gateway.registry import Registry, RegistryAwayError
from imaging_gateway.search import QueryError
from imaging_gateway.tokens import ALL_CLINICS

LARGEST_PAGE = 1000
USUAL_PAGE = 100

# Each filter: its pattern, and the accepted values in words.
FILTERS = {
    "study": (UID, "a StudyInstanceUID"),
    "user": (r"[^\x00-\x1f\x7f]{1,255}", "a user name"),
    "since": (
        r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2})?(?:Z|[+-][0-9]{2}:[0-9]{2})?)?",
        "a date as in 2026-05-04 or a time as in 2026-05-04T13:30, in UTC unless it says otherwise",
    ),
    "limit": (r"[1-9][0-9]{0,3}", f"a number up to {LARGEST_PAGE}"),
    "before": (r"[0-9]{1,18}", "the `next` of the page before"),
}
COLUMNS = ("at", "user", "address", "client", "action", "clinic", "study", "detail")


@dataclass(frozen=True)
class AuditQuery:
    """The accesses to show, newest first; None is any."""

    study: str | None = None
    user: str | None = None
    since: datetime | None = None
    before: int | None = None
    limit: int = USUAL_PAGE


def read(parameters: tuple[tuple[str, str], ...]) -> AuditQuery:
    """Read the filters. Raises QueryError. An empty value is no filter, and no filter that is set is ignored."""
    given: dict[str, str] = {}
    for name, value in parameters:
        if name not in FILTERS:
            raise QueryError(f"{name} is not a filter; there are {', '.join(FILTERS)}")
        if name in given:
            raise QueryError(f"{name} is given twice")
        form, takes = FILTERS[name]
        if value and re.fullmatch(form, value) is None:
            raise QueryError(f"{name} takes {takes}")
        given[name] = value
    return AuditQuery(
        study=given.get("study") or None,
        user=(given.get("user") or "").lower() or None,
        since=_moment(given["since"]) if given.get("since") else None,
        before=int(given["before"]) if given.get("before") else None,
        limit=min(int(given.get("limit") or USUAL_PAGE), LARGEST_PAGE),
    )


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise QueryError(f"since takes {FILTERS['since'][1]}") from error


async def page(registry: Registry, scope: str, query: AuditQuery) -> dict[str, Any]:
    """Return `entries`, newest first, and `next`, the value of `before` for the next page. Raises RegistryAwayError."""
    # One more than asked for shows whether there are more.
    rows = await registry.read_access_log(scope, query.study, query.user, query.since, query.before, query.limit + 1)
    more = len(rows) > query.limit
    rows = rows[: query.limit]
    return {"entries": [_entry(row) for row in rows], "next": rows[-1]["entry_id"] if more else None}


def _entry(row: dict[str, Any]) -> dict[str, Any]:
    entry = {
        "at": row["at"].astimezone(UTC).isoformat(timespec="seconds"),
        "user": row["username"],
        "address": row["address"],
        "client": row["client"],
        "action": row["action"],
        "clinic": row["clinic_id"],
        "study": row["study_uid"],
        "detail": row["detail"],
    }
    return {name: printable(value) if isinstance(value, str) else value for name, value in entry.items()}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `imaging-gateway audit`: the filters, and how to print."""
    for name, (_, takes) in FILTERS.items():
        parser.add_argument(f"--{name}", default="", help=takes.replace("%", "%%"))
    parser.add_argument("--format", choices=["text", "json", "csv"], default="text", help="default: %(default)s")


def show(config: Config, secrets: Secrets, options: argparse.Namespace) -> int:
    """Print accesses of all clinics; return the exit status."""
    try:
        query = read(tuple((name, getattr(options, name)) for name in FILTERS))
        found = asyncio.run(_page_for_the_operator(config, secrets, query))
    except (QueryError, RegistryAwayError) as error:
        print(f"imaging-gateway: {error}", file=sys.stderr)
        return 1
    if options.format == "json":
        json.dump(found, sys.stdout, ensure_ascii=False, indent=1)
        print()
        return 0
    rows = [COLUMNS, *([str(entry[column] or "") for column in COLUMNS] for entry in found["entries"])]
    if options.format == "csv":
        csv.writer(sys.stdout).writerows(rows)
        return 0
    widths = [max(len(row[place]) for row in rows) for place in range(len(COLUMNS))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    if found["next"] is not None:
        print(f"There is more: ask again with BEFORE={found['next']} (--before={found['next']}).")
    return 0


async def _page_for_the_operator(config: Config, secrets: Secrets, query: AuditQuery) -> dict[str, Any]:
    registry = Registry(config.registry, secrets.registry_password)
    await registry.open()
    try:
        return await page(registry, ALL_CLINICS, query)
    finally:
        await registry.close()
