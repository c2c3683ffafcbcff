"""What the importer is doing, for people: one dictionary, shown as JSON, as a page and in the terminal."""

import html
import time
from typing import Any

from imaging_importer.inbox import Inbox
from imaging_importer.journal import Journal, Outcome, Summary
from imaging_importer.reasons import SENTENCES
from imaging_importer.tree import printable

# So many lines of each list are shown; the totals count all.
LINES = 200
FAILURES_SHOWN_FOR = 7 * 86400

Status = dict[str, Any]


def collect(inbox: Inbox, journal: Journal, services: dict[str, str]) -> Status:
    """The present state. Times are UTC, sizes in bytes."""
    waiting = sorted(inbox.waiting.copy().values(), key=lambda item: item.found_at)
    backlog, _ = journal.backlog()
    now = time.time()
    today = time.mktime((*time.localtime(now)[:3], 0, 0, 0, 0, 0, -1))
    finished = journal.finished_summaries(now - FAILURES_SHOWN_FOR, 10 * LINES)
    return {
        "services": services,
        "last_full_scan": _time(inbox.last_scan),
        "waiting_total": len(waiting),
        "waiting": [
            {
                "clinic": item.clinic,
                "folder": printable(item.path.name),
                "since": _time(item.found_at),
                "state": item.why,
                "files": item.look.files if item.look else None,
                "bytes": item.look.size if item.look else None,
            }
            for item in waiting[:LINES]
        ],
        "unknown_clinics": inbox.unknown,
        "importing_total": backlog,
        "importing": [_open(summary) for summary in journal.open_summaries(LINES)],
        "done_today": [_done(summary) for summary in finished if (summary.job.finished_at or 0) >= today][:LINES],
        "failed": [_done(summary) for summary in finished if summary.result != "processed"][:LINES],
    }


def _open(summary: Summary) -> Status:
    total = sum(summary.files.values())
    return {
        "clinic": summary.job.clinic,
        "folder": printable(summary.job.folder),
        "since": _time(summary.job.claimed_at),
        "state": summary.job.state.value,
        "files": total,
        "files_done": total - summary.files.get(Outcome.PENDING, 0),
        "bytes": summary.size,
        "percent": round(100 * summary.sent / summary.size) if summary.size else 0,
        "attempts": summary.job.attempts,
        "trouble": summary.job.error,
    }


def _done(summary: Summary) -> Status:
    job = summary.job
    return {
        "clinic": job.clinic,
        "folder": printable(job.folder),
        "finished": _time(job.finished_at or 0),
        "result": summary.result,
        "stored": summary.files[Outcome.STORED],
        "kept": summary.files[Outcome.KEPT],
        "failed": summary.files[Outcome.FAILED],
        "reasons": summary.reasons,
        "processed_path": printable(str(job.processed_path)) if job.processed_path else None,
        "failed_path": printable(str(job.failed_path)) if job.failed_path else None,
    }


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))


COLUMNS = {
    "waiting": ("Waiting in the inbox", ("clinic", "folder", "since", "state", "files", "bytes")),
    "importing": (
        "Being imported",
        ("clinic", "folder", "since", "state", "percent", "files_done", "files", "attempts", "trouble"),
    ),
    "done_today": ("Done today", ("clinic", "folder", "finished", "result", "stored", "kept", "failed")),
    "failed": (
        "Failed in the last seven days",
        ("clinic", "folder", "finished", "stored", "failed", "why", "failed_path"),
    ),
}


def _tables(status: Status) -> list[tuple[str, tuple[str, ...], list[list[str]]]]:
    tables = []
    for key, (title, columns) in COLUMNS.items():
        rows = [{**row, "why": " ".join(_sentence(reason) for reason in row.get("reasons", ()))} for row in status[key]]
        total = status.get(f"{key}_total", len(rows))
        cells = [["" if row[column] is None else str(row[column]) for column in columns] for row in rows]
        tables.append((f"{title}: {total}", columns, cells))
    return tables


def _sentence(reason: str) -> str:
    return f"{reason}: {SENTENCES.get(reason, '')}"


def _notes(status: Status) -> list[str]:
    notes = [f"{name}: {state}" for name, state in status["services"].items() if state != "ok"]
    notes += [
        f"{count} entries wait in {name}, which is no clinic of the registry: add the clinic or move them"
        for name, count in status["unknown_clinics"].items()
    ]
    return notes


def as_text(status: Status) -> str:
    """The status for a terminal."""
    lines = [f"! {note}" for note in _notes(status)]
    for title, columns, rows in _tables(status):
        lines += ["", title]
        widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
        for cells in [list(columns), *rows] if rows else []:
            lines.append(
                "  " + "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
            )
    return "\n".join(lines).lstrip("\n") + "\n"


def as_page(status: Status) -> str:
    """The status as an HTML page without scripts; it reloads itself."""
    parts = [f'<p class="note">{html.escape(note)}</p>' for note in _notes(status)]
    for title, columns, rows in _tables(status):
        parts.append(f"<h2>{html.escape(title)}</h2>")
        if rows:
            head = "".join(f"<th>{column.replace('_', ' ')}</th>" for column in columns)
            body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
            parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
    return PAGE.replace("{body}", "\n".join(parts)).replace("{time}", html.escape(_time(time.time())))


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="10"><title>Image import</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem; color: #1a1a1a; background: #fff }
h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #ddd; vertical-align: top }
th { font-weight: 600; color: #555 }
.note { background: #fff3cd; padding: .5rem 1rem; border-left: 4px solid #b8860b }
</style></head><body><h1>Image import</h1><p>{time} UTC</p>
{body}
</body></html>
"""
