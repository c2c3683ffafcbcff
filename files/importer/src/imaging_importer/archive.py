"""Puts a settled delivery in its place.

Processed/<clinic>/<date>/<folder>, and what failed under failed/ with the reason.
"""

import json
import os
import time
from collections import Counter
from pathlib import Path

from imaging_importer import failpoints, tree
from imaging_importer.journal import FileOutcome, Job, Journal, Outcome
from imaging_importer.reasons import SENTENCES
from imaging_importer.spool import Spool

REASON = "REASON.txt"
REPORT = "report.json"
FORMAT = "imaging-importer report 1"


class Archive:
    """The two directories that a delivery can end in."""

    def __init__(self, processed: Path, failed: Path, journal: Journal, spool: Spool) -> None:
        self._processed = processed
        self._failed = failed
        self._journal = journal
        self._spool = spool

    def choose(self, job: Job) -> None:
        """Decide where the delivery goes and write that down; nothing is moved yet.

        What could not be imported goes to failed/, the rest to processed/; a delivery of which nothing was stored
        goes to failed/ whole.
        """
        failures = self._journal.files(job.id, Outcome.FAILED)
        stored = self._journal.files(job.id, Outcome.STORED)
        date = time.strftime("%Y-%m-%d")
        self._journal.choose_archive(
            job.id,
            _free_name(self._processed / job.clinic / date / job.folder) if stored else None,
            _free_name(self._failed / job.clinic / date / job.folder) if failures or not stored else None,
        )
        failpoints.reach("archive-chosen")

    def move(self, job: Job) -> None:
        """Move the files, report the failures. Each step can be done again after a kill."""
        source = self._spool.folder(job)
        failures = self._journal.files(job.id, Outcome.FAILED)
        if job.processed_path and job.failed_path and source.exists():
            for file in failures:
                tree.move_file(source, file.path, job.failed_path)
                failpoints.reach("failed-file-moved")
            failpoints.reach("failed-files-moved")
        rest = job.processed_path or job.failed_path
        if rest and os.path.lexists(source):
            tree.move(source, rest)
        failpoints.reach("folder-moved")
        if job.failed_path:
            self._report(job, job.failed_path, failures)
        failpoints.reach("report-written")
        self._spool.release(job)

    def _report(self, job: Job, folder: Path, failures: list[FileOutcome]) -> None:
        kept = self._journal.files(job.id, Outcome.KEPT)
        stored = self._journal.files(job.id, Outcome.STORED)
        reported: list[dict[str, str | None]] = [
            {"path": tree.printable(file.path), "reason": file.reason, "detail": file.detail} for file in failures
        ]
        report = {
            "format": FORMAT,
            "job": job.id,
            "clinic": job.clinic,
            "folder": tree.printable(job.folder),
            "claimed_at": _iso(job.claimed_at),
            "files": {"stored": len(stored), "kept": len(kept), "failed": len(failures)},
            "processed": tree.printable(str(job.processed_path)) if job.processed_path else None,
            "failures": reported or [{"path": None, "reason": "no-dicom", "detail": ""}],
        }
        _write(folder, REPORT, job.id, json.dumps(report, indent=1) + "\n")
        _write(folder, REASON, job.id, _reason_text(job, failures, len(stored)))
        tree.sync_directory(folder)


def _reason_text(job: Job, failures: list[FileOutcome], stored: int) -> str:
    lines = [f"Delivery {tree.printable(job.folder)!r} of clinic {job.clinic}, received {_iso(job.claimed_at)}.", ""]
    if stored:
        lines += [f"{stored} images of it were imported. {len(failures)} files were not and are in this folder.", ""]
    else:
        lines += ["Nothing of it was imported. All its files are in this folder.", ""]
    counts = Counter(file.reason for file in failures) or Counter({"no-dicom": 0})
    for reason, count in counts.most_common():
        lines.append(f"{reason} ({count} files): {SENTENCES[reason]}")
        named = [file for file in failures if file.reason == reason][:20]
        lines += [f"  {tree.printable(file.path)}{f': {file.detail}' if file.detail else ''}" for file in named]
        if count > 20:
            lines.append(f"  ... and {count - 20} more, see report.json")
        lines.append("")
    lines.append(
        "When the cause is gone, the administrator can deliver this folder again: imaging-importer retry FOLDER"
    )
    return "\n".join(lines) + "\n"


def _free_name(target: Path) -> Path:
    """The target, or the first of `name.2`, `name.3`... that is free. Only this importer writes there."""
    candidate, number = target, 1
    while os.path.lexists(candidate):
        number += 1
        candidate = target.with_name(f"{target.name}.{number}")
    return candidate


def _write(folder: Path, name: str, job_id: str, content: str) -> None:
    """Write a report under a name that no delivered file has; a report that this job wrote before is replaced."""
    stem, suffix = os.path.splitext(name)  # noqa: PTH122 - a name, not a path
    data = content.encode()
    directory = tree.open_directory(folder)
    try:
        temporary = f".{name}.{job_id}"
        with os.fdopen(
            os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o640, dir_fd=directory), "wb"
        ) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        candidate, number = name, 1
        while _taken(folder, candidate, data):
            number += 1
            candidate = f"{stem}.{number}{suffix}"
        os.rename(temporary, candidate, src_dir_fd=directory, dst_dir_fd=directory)
    finally:
        os.close(directory)


def _taken(folder: Path, name: str, data: bytes) -> bool:
    """Whether a delivered file has this name; the same content is this job's own report from before a kill."""
    try:
        with tree.open_file(folder, name) as file:
            return file.read(len(data) + 1) != data
    except FileNotFoundError:
        return False
    except OSError:
        return True


def put_back(folder: Path, failed: Path, inbox: Path) -> Path:
    """Deliver a failed folder again, without the reports.

    Where it is in the inbox now. Raises ValueError with advice.
    """
    folder = folder.resolve(strict=True)
    try:
        clinic, _date, name = folder.relative_to(failed.resolve()).parts
    except ValueError:
        raise ValueError(f"{folder} is no failed delivery; it takes {failed}/CLINIC/DATE/FOLDER") from None
    if not (inbox / clinic).is_dir():
        raise ValueError(f"{inbox / clinic} does not exist: is {clinic} still a clinic?")
    for report in folder.glob("report*.json"):
        if _is_ours(report):
            number = report.name.removeprefix("report").removesuffix(".json")
            (folder / f"REASON{number}.txt").unlink(missing_ok=True)
            report.unlink()
    target = _free_name(inbox / clinic / name)
    tree.move(folder, target)
    return target


def _is_ours(report: Path) -> bool:
    try:
        return bool(json.loads(report.read_text("utf-8")).get("format") == FORMAT)
    except (OSError, ValueError, AttributeError):
        return False


def _iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
