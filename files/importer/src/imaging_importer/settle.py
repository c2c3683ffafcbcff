"""Settles a delivery: moves it to processed/<clinic>/<date>/<folder>, its failed files to failed/, with its report.

If a file in a packed file failed, the whole packed file goes to failed/.
"""

import json
import logging
import os
import stat
import time
from collections.abc import Container, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

from imaging_importer import failpoints, tree
from imaging_importer.journal import WHOLE, FileOutcome, Job, Journal, Outcome
from imaging_importer.printable import printable
from imaging_importer.reasons import KEPT, NEUTRAL, NOTES, PACKED, SENTENCES, TransientError, told
from imaging_importer.spool import Spool

log = logging.getLogger(__name__)

REASON = "REASON.txt"
REPORT = "report.json"
FORMAT = "imaging-importer report 1"
MEANINGS = SENTENCES | KEPT | NOTES
CHUNK = 1 << 16


class Settler:
    """The two directories that a delivery can end in."""

    def __init__(self, processed: Path, failed: Path, journal: Journal, spool: Spool) -> None:
        self._processed = processed
        self._failed = failed
        self._journal = journal
        self._spool = spool

    def choose(self, job: Job) -> None:
        """Choose the places of the delivery and record them; nothing is moved yet.

        Files that could not be imported go to failed/, the rest to processed/. A delivery of which nothing was stored
        goes to failed/ whole. It keeps its name.
        """
        counts = self._journal.counts(job.id)
        failed, stored = counts[Outcome.FAILED], counts[Outcome.STORED]
        self._journal.choose_places(
            job.id,
            self._free(self._processed, job, job.folder) if stored else None,
            self._free(self._failed, job, job.folder) if failed or not stored else None,
        )
        failpoints.reach("places-chosen")

    def _free(self, root: Path, job: Job, name: str) -> Path:
        """A free place of that name, which no other open job of the clinic has chosen."""
        place = root / job.clinic / time.strftime("%Y-%m-%d") / name
        return _free_name(place, self._journal.chosen(job.clinic, job.id))

    def move(self, job: Job) -> Iterator[None]:
        """Move the files and report the failures, in small steps. Each can be done again after a kill."""
        try:
            yield from self._move(job)
        except tree.PlaceError as error:
            # This name would always be refused. The delivery gets another name, which every file system accepts.
            log.warning("job %s: its place is refused by the file system: %s", job.id, error)
            self._choose_again(job, job.folder if error.errno in tree.OCCUPIED else job.id)
            raise TransientError("the folder is put away under another name") from error

    def _choose_again(self, job: Job, name: str) -> None:
        """Another place for the files that were not moved yet. The failed folder stays if there is something in it."""
        processed, failed = job.processed_path, job.failed_path
        is_begun = processed and failed and tree.is_there(failed)
        self._journal.choose_places(
            job.id,
            processed and self._free(self._processed, job, name),
            failed if is_begun else failed and self._free(self._failed, job, name),
        )

    def _move(self, job: Job) -> Iterator[None]:
        source = self._spool.folder(job)
        if job.processed_path and job.failed_path and tree.is_there(source):
            for file in self._journal.files(job.id, Outcome.FAILED):
                if file.path != WHOLE:
                    tree.move_file(source, file.packed or file.path, job.failed_path)
                failpoints.reach("failed-file-moved")
                yield
            failpoints.reach("failed-files-moved")
        rest = job.processed_path or job.failed_path
        if rest and tree.is_there(source):
            tree.move(source, rest)
        failpoints.reach("folder-moved")
        yield
        self._report(job)
        failpoints.reach("report-written")
        self._spool.release(job)

    def _report(self, job: Job) -> None:
        """Report the files that are not simply stored."""
        counts, notes = self._journal.counts(job.id), self._journal.notes(job.id)
        if job.failed_path:
            tree.make_directory(job.failed_path)  # a delivery that failed as a whole may have no file to move there
            _write(job.failed_path, REPORT, job.id, self._report_lines(job, counts, notes))
            _write(job.failed_path, REASON, job.id, self._reason_lines(job, counts))
            tree.sync_directory(job.failed_path)
        if job.processed_path and (counts[Outcome.KEPT] or notes):
            tree.make_directory(job.processed_path)
            _write(job.processed_path, REPORT, job.id, self._report_lines(job, counts, notes))
            tree.sync_directory(job.processed_path)

    def _report_lines(self, job: Job, counts: dict[Outcome, int], notes: dict[str, int]) -> Iterator[str]:
        whole = FileOutcome("", Outcome.FAILED, _nothing(job))
        nothing = [] if counts[Outcome.STORED] or counts[Outcome.FAILED] else [whole]
        codes = [told(reason) for reason in (*self._journal.reasons(job.id), *(file.reason for file in nothing))]
        codes += [*self._journal.reasons(job.id, Outcome.KEPT), *notes]
        report = {
            "format": FORMAT,
            "job": job.id,
            "clinic": job.clinic,
            "folder": printable(job.folder),
            "taken_at": _iso(job.taken_at),
            "files": {outcome: counts[outcome] for outcome in (Outcome.STORED, Outcome.KEPT, Outcome.FAILED)},
            "processed": printable(job.processed_path) if job.processed_path else None,
            "failed": printable(job.failed_path) if job.failed_path else None,
            "meaning": {code: MEANINGS[code] for code in sorted(set(codes))},
        }
        yield json.dumps(report, indent=1)[:-2]
        files = self._journal.files
        yield from _list("failures", map(_as_told, chain(files(job.id, Outcome.FAILED), nothing)))
        yield from _list("kept", map(_as_kept, files(job.id, Outcome.KEPT)))
        yield from _list("notes", chain.from_iterable(map(_as_noted, files(job.id, Outcome.STORED, noted=True))))
        yield "\n}\n"

    def _reason_lines(self, job: Job, counts: dict[Outcome, int]) -> Iterator[str]:
        yield f"Delivery '{printable(job.folder)}' of clinic {job.clinic}, received {_iso(job.taken_at)}.\n\n"
        if counts[Outcome.STORED]:
            yield f"{counts[Outcome.STORED]} images of it were imported. "
            yield f"{counts[Outcome.FAILED]} files were not and are in this folder.\n"
            if PACKED in self._journal.reasons(job.id, Outcome.KEPT):
                yield "A zip or gzip file is in this folder as a whole when a file in it was not imported.\n"
            yield "\n"
        else:
            yield "Nothing of it was imported. All its files are in this folder.\n\n"
        of_told: dict[str, list[str]] = {}
        reasons = self._journal.reasons(job.id) or {_nothing(job): 0}
        for reason in sorted(reasons, key=lambda reason: -reasons[reason]):
            of_told.setdefault(told(reason), []).append(reason)
        for shown, behind in of_told.items():
            count = sum(reasons[reason] for reason in behind)
            yield f"{shown} ({count} files): {SENTENCES[shown]}\n"
            files = (self._journal.files(job.id, Outcome.FAILED, reason=reason) for reason in behind)
            for file in islice(chain.from_iterable(files), 20):
                detail = _as_told(file)["detail"]
                yield f"  {printable(file.path)}{f': {detail}' if detail else ''}\n"
            if count > 20:
                yield f"  ... and {count - 20} more, see report.json\n"
            yield "\n"
        yield "When the cause is gone, the administrator can deliver this folder again: imaging-importer retry FOLDER\n"


def _list(name: str, entries: Iterable[dict[str, str | None]]) -> Iterator[str]:
    """A list of the report, of any length."""
    yield f',\n "{name}": ['
    separator = "\n  "
    for entry in entries:
        yield separator + json.dumps(entry)
        separator = ",\n  "
    yield "\n ]"


def _nothing(job: Job) -> str:
    """Why a delivery without any failed file failed."""
    return job.ends or "no-dicom"


def _as_told(file: FileOutcome) -> dict[str, str | None]:
    """A failure in words for the sender; without a path, it is of the delivery as a whole."""
    reason = told(file.reason)
    return {
        "path": printable(file.path) if file.path else None,
        "reason": reason,
        "detail": "" if reason == NEUTRAL else printable(file.detail),
    }


def _as_kept(file: FileOutcome) -> dict[str, str | None]:
    return {"path": printable(file.path), "reason": file.reason}


def _as_noted(file: FileOutcome) -> Iterator[dict[str, str | None]]:
    for note, detail in file.notes.items():
        yield {"path": printable(file.path), "note": note, "detail": printable(detail)}


def _free_name(target: Path, chosen: Container[Path] = ()) -> Path:
    """The target, or the first free one of `name.2`, `name.3`..., that is not chosen, cut for the file system.

    Only this importer writes there.
    """
    tree.make_directory(target.parent)
    longest = os.pathconf(target.parent, "PC_NAME_MAX")
    candidate, number = target.with_name(_cut(target.name, longest)), 1
    while candidate in chosen or os.path.lexists(candidate):
        number += 1
        ending = f".{number}"
        candidate = target.with_name(_cut(target.name, longest - len(ending)) + ending)
    return candidate


def _cut(name: str, longest: int) -> str:
    """The beginning of a name, of at most so many bytes, without half a letter."""
    data = os.fsencode(name)
    if len(data) <= longest:
        return name
    end = longest
    while end > longest - 4 and data[end] & 0xC0 == 0x80:  # the middle of a letter in UTF-8
        end -= 1
    return os.fsdecode(data[:end])


def _write(folder: Path, name: str, job_id: str, lines: Iterable[str]) -> None:
    """Write a report under a name that no delivered file has. An earlier report of this job is replaced."""
    stem, suffix = os.path.splitext(name)  # noqa: PTH122 - a name, not a path
    directory = tree.open_directory(folder)
    try:
        temporary = f".{name}.{job_id}"
        with os.fdopen(
            os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o640, dir_fd=directory), "w+b"
        ) as file:
            file.writelines(line.encode() for line in lines)
            file.flush()
            os.fsync(file.fileno())
            candidate, number = name, 1
            while _is_occupied(folder, candidate, file):
                number += 1
                candidate = f"{stem}.{number}{suffix}"
        os.rename(temporary, candidate, src_dir_fd=directory, dst_dir_fd=directory)
    finally:
        os.close(directory)


def _is_occupied(folder: Path, name: str, report: BinaryIO) -> bool:
    """Whether a delivered file has this name. The same content is this job's own report from before a kill."""
    report.seek(0)
    try:
        if not stat.S_ISREG((folder / name).lstat().st_mode):
            return True
    except FileNotFoundError:
        return False
    with tree.open_file(folder, name) as file:
        while data := report.read(CHUNK):
            if file.read(len(data)) != data:
                return True
        return bool(file.read(1))


def put_back(folder: Path, failed: Path, inbox: Path) -> Path:
    """Deliver a failed folder again, without the reports.

    Returns its place in the inbox. Raises ValueError with advice.
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
