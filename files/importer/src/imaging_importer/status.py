"""The importer's work, for people: one dictionary, shown in the terminal and by the page at /import/."""

import time
from collections.abc import Iterable
from typing import Any

from imaging_importer.journal import SAME_TROUBLE, Job, Journal, Outcome, Summary
from imaging_importer.printable import printable
from imaging_importer.reasons import SENTENCES, told
from imaging_importer.ways_in.folders import Inbox
from imaging_importer.ways_in.uploads import Reception

# The number of lines shown of each list; the totals count all.
LINES = 200
FAILURES_SHOWN_FOR = 7 * 86400
# Short notes about stored images: keys of NOTES.
REMARKS = {"not-displayable": "stored, but cannot be displayed", "text-corrected": "with corrected text"}

Status = dict[str, Any]


def collect(
    inbox: Inbox,
    journal: Journal,
    arriving: Iterable[Reception],
    services: dict[str, str],
    shortages: dict[str, str],
    clinics: list[str] | None = None,
) -> Status:
    """The present state, of these clinics or of all. Times are UTC, sizes in bytes."""
    waiting = sorted(inbox.waiting.copy().values(), key=lambda item: item.found_at)
    waiting = [item for item in waiting if clinics is None or item.clinic in clinics]
    further = {
        name: count for name, count in inbox.further.copy().items() if count and (clinics is None or name in clinics)
    }
    backlog, _ = journal.backlog(clinics)
    is_root = clinics is None
    now = time.time()
    today = time.mktime((*time.localtime(now)[:3], 0, 0, 0, 0, 0, -1))
    finished = journal.finished_summaries(now - FAILURES_SHOWN_FOR, 10 * LINES, clinics)
    return {
        "time": _time(now),
        # Addresses and errors of services are for administrators.
        "services": {
            name: printable(state) if clinics is None else _outline(name, state) for name, state in services.items()
        },
        "last_full_scan": _time(inbox.last_scan),
        "waiting_total": len(waiting) + sum(further.values()),
        "waiting": [
            {
                "clinic": item.clinic,
                "folder": printable(item.path.name),
                "since": _time(item.found_at),
                "state": printable(item.why),
                "files": item.look.files if item.look else None,
                "bytes": item.look.size if item.look else None,
            }
            for item in waiting[:LINES]
        ],
        "further": further,
        "quotas": {name: told for name, told in shortages.items() if clinics is None or name in clinics},
        "unknown_clinics": inbox.unknown if clinics is None else {},
        "arriving": [
            {"clinic": upload.clinic, "since": _time(upload.since), "bytes": upload.received}
            for upload in arriving
            if clinics is None or upload.clinic in clinics
        ],
        "importing_total": backlog,
        "importing": [_open(summary, is_root) for summary in journal.open_summaries(LINES, clinics)],
        "done_today": [_done(summary, is_root) for summary in finished if (summary.job.finished_at or 0) >= today][
            :LINES
        ],
        "failed": [_done(summary, is_root) for summary in finished if summary.result != "processed"][:LINES],
    }


def _outline(name: str, state: str) -> str:
    if state == "ok":
        return state
    return "nearly full: deliveries wait" if name == "disk" else "does not answer just now"


def _open(summary: Summary, is_root: bool) -> Status:
    total = sum(summary.files.values())
    return {
        "job": summary.job.id,
        "clinic": summary.job.clinic,
        "folder": printable(summary.job.folder),
        "since": _time(summary.job.taken_at),
        "state": summary.job.state.value,
        "files": total,
        "files_done": total - summary.files.get(Outcome.PENDING, 0),
        "bytes": summary.size,
        "percent": round(100 * summary.sent / summary.size) if summary.size else 0,
        "attempts": summary.job.attempts,
        # Addresses and errors of services are for administrators.
        "trouble": _trouble(summary.job, is_root),
        "repeated": summary.job.repeated,
        "repeats": is_repeating(summary.job),
    }


def _trouble(job: Job, is_root: bool) -> str:
    """The reason why a delivery has to be tried again. If that does not help, also the duration and what to do."""
    if not job.error:
        return ""
    if not is_repeating(job):
        return job.error if is_root else "it is tried again"
    same = f"the same trouble {job.repeated} times since {_time(job.troubled_at)}"
    if is_root:
        return f"{same}: {job.error}. Mend that, or end the delivery: imaging-importer drop {job.id}"
    return f"{same}; it is tried again. Nothing is lost. Ask the administrator"


def is_repeating(job: Job) -> bool:
    """Whether a delivery fails in the same way again and again."""
    return job.repeated >= SAME_TROUBLE


def _done(summary: Summary, is_root: bool) -> Status:
    """The result of a delivery. Only administrators get more than the words that its sender may know."""
    job = summary.job
    reasons: dict[str, int] = {}
    for reason, count in summary.reasons.items():
        shown = reason if is_root else told(reason)
        reasons[shown] = reasons.get(shown, 0) + count
    nothing = [job.ends or "no-dicom"] if summary.result == "failed" else []
    why = list(reasons) or nothing
    return {
        "clinic": job.clinic,
        "folder": printable(job.folder),
        "finished": _time(job.finished_at or 0),
        "result": summary.result,
        "stored": summary.files[Outcome.STORED],
        "kept": summary.files[Outcome.KEPT],
        "failed": summary.files[Outcome.FAILED],
        "reasons": reasons,
        "notes": summary.notes,
        "remarks": ", ".join(f"{count} {REMARKS.get(note, note)}" for note, count in summary.notes.items()),
        "why": " ".join(f"{reason}: {SENTENCES.get(reason, '')}" for reason in why),
        "processed_path": printable(job.processed_path) if job.processed_path else None,
        "failed_path": printable(job.failed_path) if job.failed_path else None,
    }


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))


COLUMNS = {
    "arriving": ("Uploads that are arriving", ("clinic", "since", "bytes")),
    "waiting": ("Waiting in the inbox", ("clinic", "folder", "since", "state", "files", "bytes")),
    "importing": (
        "Being imported",
        ("job", "clinic", "folder", "since", "state", "percent", "files_done", "files", "attempts", "trouble"),
    ),
    "done_today": ("Done today", ("clinic", "folder", "finished", "result", "stored", "kept", "failed", "remarks")),
    "failed": (
        "Failed in the last seven days",
        ("clinic", "folder", "finished", "stored", "failed", "remarks", "why", "failed_path"),
    ),
}


def _tables(status: Status) -> list[tuple[str, tuple[str, ...], list[list[str]]]]:
    tables = []
    for key, (title, columns) in COLUMNS.items():
        rows = status[key]
        total = status.get(f"{key}_total", len(rows))
        cells = [["" if row[column] is None else str(row[column]) for column in columns] for row in rows]
        tables.append((f"{title}: {total}", columns, cells))
    return tables


def _notes(status: Status) -> list[str]:
    notes = [f"{name}: {state}" for name, state in status["services"].items() if state != "ok"]
    notes += [
        f"{count} more entries wait in the folder of {name}, and are looked at when those before them are taken"
        for name, count in status["further"].items()
    ]
    notes += [f"{name}: {told}" for name, told in status["quotas"].items()]
    notes += [
        f"{count} entries wait in {name}, which is no clinic of the registry: add the clinic or move them"
        for name, count in status["unknown_clinics"].items()
    ]
    return notes


def as_counts(status: Status) -> str:
    """The status for anybody on the host: numbers only and no folders, because folders are named after patients."""
    services = [f"{name}: {_outline(name, state)}" for name, state in status["services"].items()]
    titles = [title for title, _, _ in _tables(status)]
    where = "Which ones: at /import in the browser, or `imaging-importer status` as root."
    return "\n".join([*services, "", *titles, "", where]) + "\n"


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
