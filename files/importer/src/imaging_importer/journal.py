"""The importer's journal of deliveries: SQLite; every step is committed to disk before the next begins.

It is SQLite and not a file for each job. A batch's outcomes, the job's state and the counts of the status page change
together or not at all, and 10,000 files of a folder cost one write. The spool decides which deliveries are pending. A
journal that is lost or damaged is rebuilt from it. Then files are sent again that Orthanc already has, and Orthanc
recognises them.
"""

import contextlib
import json
import os
import re
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from imaging_importer.printable import printable
from imaging_importer.reasons import RejectedError
from imaging_importer.tree import Entry

# The changes of each release to the journal of the release before. `PRAGMA user_version` counts the changes that a
# journal has. The first text also meets journals of releases that did not count.
SCHEMAS = (
    """
CREATE TABLE IF NOT EXISTS job (
    id TEXT PRIMARY KEY,
    clinic TEXT NOT NULL,
    folder BLOB NOT NULL,
    state TEXT NOT NULL,
    claimed_at REAL NOT NULL,
    finished_at REAL,
    attempts INTEGER NOT NULL DEFAULT 0,
    error TEXT NOT NULL DEFAULT '',
    processed_path BLOB,
    failed_path BLOB,
    stored INTEGER NOT NULL DEFAULT 0,
    kept INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0,
    reasons TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX IF NOT EXISTS job_finished ON job (finished_at, claimed_at);
CREATE INDEX IF NOT EXISTS job_open ON job (clinic, claimed_at, id) WHERE finished_at IS NULL;
CREATE TABLE IF NOT EXISTS file (
    job TEXT NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    path BLOB NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    detail TEXT NOT NULL DEFAULT '',
    study_uid TEXT,
    PRIMARY KEY (job, path)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS file_study ON file (job, study_uid) WHERE outcome = 'stored';
CREATE TABLE IF NOT EXISTS study (
    study_uid TEXT PRIMARY KEY,
    clinic TEXT NOT NULL,
    fingerprint TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS position (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
""",
    """
ALTER TABLE job ADD COLUMN caller TEXT NOT NULL DEFAULT '';
ALTER TABLE job ADD COLUMN dropped INTEGER NOT NULL DEFAULT 0;
CREATE TABLE attempt (
    job TEXT NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    study_uid TEXT NOT NULL,
    orthanc_id TEXT NOT NULL DEFAULT '',
    refused INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (job, study_uid)
) STRICT, WITHOUT ROWID;
CREATE INDEX attempt_study ON attempt (study_uid);
CREATE TABLE strike (
    digest TEXT PRIMARY KEY,
    size INTEGER NOT NULL,
    count INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
""",
    # A sweep, which is due at once, finds the sizes of the previous release's studies.
    """
ALTER TABLE study ADD COLUMN size INTEGER NOT NULL DEFAULT 0;
CREATE INDEX study_clinic ON study (clinic, size);
DELETE FROM position WHERE name = 'swept-at';
""",
    """
ALTER TABLE file ADD COLUMN notes TEXT NOT NULL DEFAULT '{}';
ALTER TABLE job ADD COLUMN notes TEXT NOT NULL DEFAULT '{}';
""",
    # The delivered file from which a file was unpacked; empty for a file that was delivered itself.
    """
ALTER TABLE file ADD COLUMN archive BLOB NOT NULL DEFAULT x'';
CREATE INDEX file_archive ON file (job, archive) WHERE archive <> x'';
""",
    # A sweep, which is due at once, tells the registry the series and instances of the previous release's studies.
    """
ALTER TABLE study ADD COLUMN listed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE study ADD COLUMN behind INTEGER NOT NULL DEFAULT 1;
DELETE FROM position WHERE name = 'swept-at';
""",
    # The trouble of an open job: its kind, how often it came in a row, and its first time.
    """
ALTER TABLE job ADD COLUMN trouble TEXT NOT NULL DEFAULT '';
ALTER TABLE job ADD COLUMN repeated INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job ADD COLUMN troubled_at REAL NOT NULL DEFAULT 0;
""",
    # The words of the glossary: a delivery is taken and settled, a zip file is packed, a study is claimed.
    """
ALTER TABLE job RENAME COLUMN claimed_at TO taken_at;
ALTER TABLE file RENAME COLUMN archive TO packed;
DROP INDEX file_archive;
CREATE INDEX file_packed ON file (job, packed) WHERE packed <> x'';
UPDATE job SET reasons = replace(reasons, 'archive-', 'packed-'), state = CASE state
    WHEN 'claimed' THEN 'taken' WHEN 'archiving' THEN 'settling' WHEN 'archived' THEN 'settled' ELSE state END;
UPDATE file SET reason = 'packed' || substr(reason, 8) WHERE reason = 'archive' OR reason LIKE 'archive-%';
""",
)

JOB_COLUMNS = (
    "id, clinic, folder, state, taken_at, finished_at, attempts, error, processed_path, failed_path, caller, dropped,"
    " repeated, troubled_at"
)

# The reasons to end a job that does not end by itself, by its column `dropped`.
ENDS = ("", "dropped", "importer-stumbled")

# A job that has failed in the same way so often in a row, for a quarter of an hour or more, is shown as failing.
SAME_TROUBLE = 20

OF_CLINICS = "(:clinics IS NULL OR clinic IN (SELECT value FROM json_each(:clinics)))"

# Numbers and addresses differ between reports of one trouble.
VARYING = re.compile(r"0x[0-9a-f]+|[0-9]+")

# The path that stands for a delivery as a whole.
WHOLE = "."

# Rows that are read or deleted at once. So nobody waits long for the journal, and no whole list is in memory.
PAGE = 2000

# Finished jobs stay visible for so long. report.json keeps the results of files without a limit.
KEEP_FINISHED = 30 * 86400.0


class State(StrEnum):
    """How far a delivery has come. It enters a state when the work of that state is durable."""

    TAKEN = "taken"  # it is in the spool
    LISTED = "listed"  # its files are known
    VERIFIED = "verified"  # every file has an outcome; the images in Orthanc were compared byte for byte
    RECORDED = "recorded"  # the registry shows its studies
    SETTLING = "settling"  # its place under processed/ and failed/ is chosen
    SETTLED = "settled"  # it is there


class Outcome(StrEnum):
    """The result of one file."""

    PENDING = "pending"
    STORED = "stored"
    KEPT = "kept"
    FAILED = "failed"


@dataclass(frozen=True)
class Job:
    """One delivery."""

    id: str
    clinic: str
    folder: str
    state: State
    taken_at: float  # seconds since 1970
    finished_at: float | None
    attempts: int
    error: str
    processed_path: Path | None
    failed_path: Path | None
    caller: str = ""  # the uploader, as the gateway names them (JSON); empty for a folder
    ends: str = ""  # the job is ended, even if it waits: the reason for the files that are not imported yet
    repeated: int = 0  # how many times in a row it has failed in the same way
    troubled_at: float = 0.0  # time of the first of these failures


class KnownStudy(NamedTuple):
    """The facts about a study that the registry has."""

    clinic: str
    fingerprint: str
    size: int  # bytes; 0 if unknown
    listed: int = 0  # number of instances that it knows
    behind: bool = True  # whether the study has other instances now


@dataclass(frozen=True)
class Attempt:
    """A study that an open job has begun with. The row of the access log is written."""

    study_uid: str
    orthanc_id: str  # id of the one study for its images; empty until Orthanc has it
    refused: bool  # the access log also says that something of it was not accepted


@dataclass(frozen=True)
class FileOutcome:
    """The result of one file of a job."""

    path: str
    outcome: Outcome
    reason: str = ""
    detail: str = ""
    study_uid: str | None = None
    size: int = 0
    notes: dict[str, str] = field(default_factory=dict)  # notes about a stored image: key of NOTES, detail
    packed: str = ""  # the delivered file from which it was unpacked; then its own path is in no file system


@dataclass(frozen=True)
class Summary:
    """One line of the status page."""

    job: Job
    files: dict[Outcome, int]
    size: int  # bytes delivered
    sent: int  # bytes of files that have an outcome
    reasons: dict[str, int]
    notes: dict[str, int]

    @property
    def result(self) -> str:
        """How a settled job ended: processed, partly-failed or failed."""
        if not self.files.get(Outcome.STORED):
            return "failed"
        return "partly-failed" if self.files.get(Outcome.FAILED) else "processed"


class Journal:
    """The journal on disk. Safe to use from several threads. Errors are sqlite3.Error."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._database = _open(path)
        with self._lock:
            (version,) = self._database.execute("PRAGMA user_version").fetchone()
            for number, schema in enumerate(SCHEMAS[version:], version + 1):
                self._database.executescript(f"BEGIN IMMEDIATE; {schema} PRAGMA user_version = {number}; COMMIT;")
        with self._transaction() as database:  # the rest of a job that was done before a kill
            database.execute("DELETE FROM file WHERE job IN (SELECT id FROM job WHERE finished_at IS NOT NULL)")
        # Readers have their own connection, so that no writer waits for them: the status counts all files of each job.
        self._looking = threading.Lock()
        self._view = sqlite3.connect(path, check_same_thread=False)
        self._view.execute("PRAGMA query_only = ON")

    def close(self) -> None:
        """Close the database."""
        self._view.close()
        self._database.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._database:
            yield self._database

    def add(self, job_id: str, clinic: str, folder: str, caller: str = "") -> None:
        """Remember a folder that is in the spool."""
        with self._transaction() as database:
            database.execute(
                "INSERT OR IGNORE INTO job (id, clinic, folder, state, taken_at, caller) VALUES (?, ?, ?, ?, ?, ?)",
                (job_id, clinic, os.fsencode(folder), State.TAKEN, time.time(), caller),
            )

    def open_jobs(self, limit: int = -1, clinic: str | None = None) -> list[Job]:
        """Jobs that are not settled, oldest first; of one clinic, or of all."""
        whose = "" if clinic is None else "AND clinic = :clinic"
        where = f"WHERE finished_at IS NULL {whose} ORDER BY taken_at, id LIMIT :limit"
        return self._jobs(where, clinic=clinic, limit=limit)

    def open_clinics(self) -> list[str]:
        """The clinics that have open jobs. It looks at the index once for each, however many jobs the clinic has."""
        first = "SELECT min(clinic) FROM job WHERE finished_at IS NULL"
        with self._lock:
            rows = self._database.execute(
                f"WITH RECURSIVE next (clinic) AS ({first} UNION ALL SELECT ({first} AND clinic > next.clinic)"  # noqa: S608
                " FROM next WHERE next.clinic IS NOT NULL) SELECT clinic FROM next WHERE clinic IS NOT NULL"
            ).fetchall()
        return [clinic for (clinic,) in rows]

    def is_open(self, job_id: str) -> bool:
        """Whether the journal knows this job, and it is not settled."""
        return bool(self._jobs("WHERE id = :id AND finished_at IS NULL", id=job_id))

    def job(self, job_id: str) -> Job:
        """One job."""
        return self._jobs("WHERE id = :id", id=job_id)[0]

    def _jobs(self, where: str, **values: str | int | None) -> list[Job]:
        with self._lock:
            rows = self._database.execute(
                f"SELECT {JOB_COLUMNS} FROM job {where}",  # noqa: S608 - fixed texts of this class
                values,
            ).fetchall()
        return [_job(row) for row in rows]

    def list_files(self, job_id: str, entries: Iterable[Entry]) -> int:
        """Remember files of a job; return how many are new or changed.

        A known file without a change keeps its outcome. The members of a changed packed file are forgotten.
        """
        with self._transaction() as database:
            changed = database.executemany(
                "INSERT INTO file (job, path, size, mtime_ns, outcome, reason) VALUES (?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (job, path) DO UPDATE SET size = excluded.size, mtime_ns = excluded.mtime_ns,"
                " outcome = excluded.outcome, reason = excluded.reason, detail = '', packed = excluded.packed"
                " WHERE size <> excluded.size OR mtime_ns <> excluded.mtime_ns",
                [
                    (job_id, os.fsencode(entry.path), entry.size, entry.mtime_ns, *_first_outcome(entry))
                    for entry in entries
                ],
            ).rowcount
            if changed:
                database.execute(
                    "DELETE FROM file WHERE job = :job AND packed <> x'' AND EXISTS (SELECT 1 FROM file AS real"
                    " WHERE real.job = :job AND real.path = file.packed AND real.outcome = 'pending')",
                    {"job": job_id},
                )
            return changed

    def listed(self, job_id: str) -> None:
        """Note that all files of a job are remembered."""
        with self._transaction() as database:
            database.execute("UPDATE job SET state = ? WHERE id = ?", (State.LISTED, job_id))

    def forget_file(self, job_id: str, path: str) -> None:
        """Forget a file that is gone."""
        with self._transaction() as database:
            database.execute("DELETE FROM file WHERE job = ? AND path = ?", (job_id, os.fsencode(path)))

    def forget_some(self, job_id: str, *outcomes: Outcome) -> bool:
        """Forget a page of a job's files that have one of the outcomes; return whether there were any."""
        with self._transaction() as database:
            deleted = database.execute(
                "DELETE FROM file WHERE job = :job AND path IN (SELECT path FROM file WHERE job = :job"
                " AND outcome IN (SELECT value FROM json_each(:outcomes)) LIMIT :page)",
                {"job": job_id, "outcomes": json.dumps(outcomes), "page": PAGE},
            ).rowcount
        return deleted > 0

    def reject(self, job_id: str, rejection: RejectedError) -> None:
        """Fail the delivery as a whole: one line of its list stands for all files."""
        row = (job_id, os.fsencode(WHOLE), 0, 0, Outcome.FAILED, rejection.reason, rejection.detail)
        with self._transaction() as database:
            database.execute(
                "INSERT OR REPLACE INTO file (job, path, size, mtime_ns, outcome, reason, detail)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                row,
            )

    def is_rejected(self, job_id: str) -> bool:
        """Whether the delivery failed as a whole."""
        with self._lock:
            found = self._database.execute(
                "SELECT 1 FROM file WHERE job = ? AND path = ?", (job_id, os.fsencode(WHOLE))
            )
            return found.fetchone() is not None

    def files(
        self, job_id: str, *outcomes: Outcome, reason: str | None = None, noted: bool = False
    ) -> Iterator[FileOutcome]:
        """The files of a job that have one of the outcomes (and this reason, and notes), by path, read page by page."""
        after = b""
        while True:
            with self._lock:
                rows = self._database.execute(
                    "SELECT path, outcome, reason, detail, study_uid, size, notes, packed FROM file"
                    " WHERE job = :job AND path > :after"
                    " AND outcome IN (SELECT value FROM json_each(:outcomes)) AND (:reason IS NULL OR reason = :reason)"
                    " AND (NOT :noted OR notes <> '{}') ORDER BY path LIMIT :page",
                    {
                        "job": job_id,
                        "after": after,
                        "outcomes": json.dumps(outcomes),
                        "reason": reason,
                        "noted": noted,
                        "page": PAGE,
                    },
                ).fetchall()
            for path, outcome, why, detail, study_uid, size, notes, packed in rows:
                yield FileOutcome(
                    path=os.fsdecode(path),
                    outcome=Outcome(outcome),
                    reason=why,
                    detail=detail,
                    study_uid=study_uid,
                    size=size,
                    notes=json.loads(notes),
                    packed=os.fsdecode(packed),
                )
            if len(rows) < PAGE:
                return
            after = rows[-1][0]

    def studies(self, job_id: str) -> Iterator[str]:
        """The StudyInstanceUIDs of a job's stored files, each once."""
        after: str | None = ""
        while True:
            with self._lock:
                (after,) = self._database.execute(
                    "SELECT min(study_uid) FROM file WHERE job = ? AND outcome = 'stored' AND study_uid > ?",
                    (job_id, after),
                ).fetchone()
            if after is None:
                return
            yield after

    def counts(self, job_id: str) -> dict[Outcome, int]:
        """The number of a job's files by outcome."""
        with self._lock:
            return dict.fromkeys(Outcome, 0) | _counts(self._database, job_id)

    def reasons(self, job_id: str, outcome: Outcome = Outcome.FAILED) -> dict[str, int]:
        """The number of a job's files that failed, or were kept, by reason."""
        with self._lock:
            return _reasons(self._database, job_id, outcome)

    def notes(self, job_id: str) -> dict[str, int]:
        """The number of a job's files by note."""
        with self._lock:
            return _notes(self._database, job_id)

    def write_outcomes(self, job_id: str, outcomes: Iterable[FileOutcome], listed: Iterable[FileOutcome] = ()) -> None:
        """Record the results of files and the members of packed files, all or none."""
        with self._transaction() as database:
            database.executemany(
                "INSERT INTO file (job, path, size, mtime_ns, outcome, reason, detail, packed)"
                " VALUES (?, ?, ?, 0, ?, ?, ?, ?) ON CONFLICT (job, path) DO UPDATE SET size = excluded.size",
                [
                    (
                        job_id,
                        os.fsencode(file.path),
                        file.size,
                        file.outcome,
                        file.reason,
                        printable(file.detail),
                        os.fsencode(file.packed),
                    )
                    for file in listed
                ],
            )
            database.executemany(
                "UPDATE file SET outcome = ?, reason = ?, detail = ?, study_uid = ?, notes = ?"
                " WHERE job = ? AND path = ?",
                [
                    (
                        file.outcome,
                        file.reason,
                        printable(file.detail),
                        file.study_uid,
                        json.dumps({note: printable(detail) for note, detail in file.notes.items()}),
                        job_id,
                        os.fsencode(file.path),
                    )
                    for file in outcomes
                ],
            )

    def has_stored(self, job_id: str, study_uid: str) -> bool:
        """Whether the job has stored something of a study."""
        with self._lock:
            statement = "SELECT 1 FROM file WHERE job = ? AND study_uid = ? AND outcome = 'stored' LIMIT 1"
            return self._database.execute(statement, (job_id, study_uid)).fetchone() is not None

    def largest(self, job_id: str, study_uid: str) -> int:
        """Bytes of the largest file of this study that the job stored."""
        with self._lock:
            statement = "SELECT max(size) FROM file WHERE job = ? AND study_uid = ? AND outcome = 'stored'"
            return self._database.execute(statement, (job_id, study_uid)).fetchone()[0] or 0

    def fail_study(self, job_id: str, study_uid: str, reason: str) -> None:
        """Note that the stored images of a study did not stay, or cannot be shown."""
        with self._transaction() as database:
            database.execute(
                "UPDATE file SET outcome = 'failed', reason = ? WHERE job = ? AND study_uid = ? AND outcome = 'stored'",
                (reason, job_id, study_uid),
            )

    def has_pending(self, job_id: str) -> bool:
        """Whether a file of the job has no outcome yet."""
        with self._lock:
            statement = "SELECT 1 FROM file WHERE job = ? AND outcome = 'pending' LIMIT 1"
            return self._database.execute(statement, (job_id,)).fetchone() is not None

    def fail_pending(self, job_id: str, reason: str) -> None:
        """End every file of the job that has no outcome yet."""
        with self._transaction() as database:
            database.execute(
                "UPDATE file SET outcome = 'failed', reason = ? WHERE job = ? AND outcome = 'pending'", (reason, job_id)
            )

    def drop(self, job_id: str) -> bool:
        """Remember that an operator ends the job; return whether it is open."""
        with self._transaction() as database:
            statement = "UPDATE job SET dropped = 1 WHERE id = ? AND finished_at IS NULL"
            return database.execute(statement, (job_id,)).rowcount == 1

    def failed_as(self, job_id: str, reason: str) -> bool:
        """Whether a file of the job failed for this reason."""
        with self._lock:
            statement = "SELECT 1 FROM file WHERE job = ? AND outcome = 'failed' AND reason = ? LIMIT 1"
            return self._database.execute(statement, (job_id, reason)).fetchone() is not None

    def attempts(self, job_id: str) -> list[Attempt]:
        """Some of the studies that the job has begun with and not ended."""
        with self._lock:
            statement = "SELECT study_uid, orthanc_id, refused FROM attempt WHERE job = ? ORDER BY study_uid LIMIT ?"
            return [Attempt(row[0], row[1], bool(row[2])) for row in self._database.execute(statement, (job_id, PAGE))]

    def attempt(self, job_id: str, study_uid: str) -> Attempt | None:
        """The facts about one study of the job; None before its first image."""
        with self._lock:
            statement = "SELECT study_uid, orthanc_id, refused FROM attempt WHERE job = ? AND study_uid = ?"
            row = self._database.execute(statement, (job_id, study_uid)).fetchone()
        return Attempt(row[0], row[1], bool(row[2])) if row else None

    def begin(self, job_id: str, study_uid: str, orthanc_id: str) -> None:
        """Remember that the job begins with a study, and the place in Orthanc for its images."""
        with self._transaction() as database:
            database.execute(
                "INSERT INTO attempt (job, study_uid, orthanc_id) VALUES (?, ?, ?)"
                " ON CONFLICT (job, study_uid) DO UPDATE SET orthanc_id = excluded.orthanc_id",
                (job_id, study_uid, orthanc_id),
            )

    def mark_refused(self, job_id: str, study_uid: str) -> None:
        """Remember that the access log says that something of the study was not accepted."""
        with self._transaction() as database:
            database.execute("UPDATE attempt SET refused = 1 WHERE job = ? AND study_uid = ?", (job_id, study_uid))

    def end_attempt(self, job_id: str, study_uid: str) -> None:
        """Note that the job is done with a study."""
        with self._transaction() as database:
            database.execute("DELETE FROM attempt WHERE job = ? AND study_uid = ?", (job_id, study_uid))

    def is_attempted(self, study_uid: str) -> bool:
        """Whether an open job has begun with the study."""
        with self._lock:
            statement = "SELECT 1 FROM attempt WHERE study_uid = ? LIMIT 1"
            return self._database.execute(statement, (study_uid,)).fetchone() is not None

    def struck_sizes(self) -> set[int]:
        """The sizes of all files with a strike. A file of another size has none, so it need not be hashed."""
        with self._lock:
            return {row[0] for row in self._database.execute("SELECT DISTINCT size FROM strike")}

    def strikes(self, digest: str) -> int:
        """How often Orthanc stopped while it was sent a file with this SHA-256."""
        with self._lock:
            row = self._database.execute("SELECT count FROM strike WHERE digest = ?", (digest,)).fetchone()
        return row[0] if row else 0

    def strike(self, files: dict[str, int]) -> None:
        """Orthanc stopped while these files were sent to it: SHA-256 -> size."""
        with self._transaction() as database:
            database.executemany(
                "INSERT INTO strike VALUES (?, ?, 1) ON CONFLICT (digest) DO UPDATE SET count = count + 1",
                list(files.items()),
            )

    def acquit(self, digest: str) -> None:
        """Orthanc stored a file with a strike, so this file was not the cause."""
        with self._transaction() as database:
            database.execute("DELETE FROM strike WHERE digest = ?", (digest,))

    def advance(self, job_id: str, state: State) -> None:
        """Enter the next state; the trouble of the last state is over."""
        with self._transaction() as database:
            database.execute(
                "UPDATE job SET state = ?, error = '', attempts = 0, trouble = '', repeated = 0 WHERE id = ?",
                (state, job_id),
            )

    def trouble(self, job_id: str, error: str) -> None:
        """Remember for the status page why a step must be repeated, and since when the trouble is the same."""
        trouble = VARYING.sub("", error)
        with self._transaction() as database:
            database.execute(
                "UPDATE job SET attempts = attempts + 1, error = :error, trouble = :trouble,"
                " repeated = CASE WHEN trouble = :trouble THEN repeated + 1 ELSE 1 END,"
                " troubled_at = CASE WHEN trouble = :trouble THEN troubled_at ELSE :now END WHERE id = :id",
                {"error": printable(error), "trouble": printable(trouble), "now": time.time(), "id": job_id},
            )

    def give_up(self, job_id: str) -> None:
        """An error of the importer itself stops the job: it ends, unless an operator has ended it."""
        with self._transaction() as database:
            database.execute(
                "UPDATE job SET dropped = ? WHERE id = ? AND dropped = 0", (ENDS.index("importer-stumbled"), job_id)
            )

    def repeating(self) -> int:
        """How many open jobs fail the same way again and again."""
        with self._lock:
            statement = "SELECT count(*) FROM job WHERE finished_at IS NULL AND repeated >= ?"
            (count,) = self._database.execute(statement, (SAME_TROUBLE,)).fetchone()
        return int(count)

    def choose_places(self, job_id: str, processed: Path | None, failed: Path | None) -> None:
        """Remember the places for the job's files before the first one is moved."""
        with self._transaction() as database:
            database.execute(
                "UPDATE job SET state = ?, processed_path = ?, failed_path = ? WHERE id = ?",
                (State.SETTLING, processed and os.fsencode(processed), failed and os.fsencode(failed), job_id),
            )

    def chosen(self, clinic: str, job_id: str) -> set[Path]:
        """The places that other open jobs of the clinic have chosen. Not all of them exist yet."""
        with self._lock:
            rows = self._database.execute(
                "SELECT processed_path, failed_path FROM job"
                " WHERE finished_at IS NULL AND clinic = ? AND id <> ? AND state = ?",
                (clinic, job_id, State.SETTLING),
            ).fetchall()
        return {Path(os.fsdecode(path)) for row in rows for path in row if path}

    def finish(self, job_id: str) -> None:
        """Note that the job's files are in their place, and keep the counts. The list of files may be forgotten."""
        with self._transaction() as database:
            counts = self.counts(job_id)
            (size,) = database.execute(
                "SELECT coalesce(sum(size), 0) FROM file WHERE job = ? AND packed = x''", (job_id,)
            ).fetchone()
            reasons = " ".join(f"{reason}={count}" for reason, count in _reasons(database, job_id).items())
            database.execute(
                "UPDATE job SET state = ?, finished_at = ?, error = '', stored = ?, kept = ?, failed = ?, bytes = ?,"
                " reasons = ?, notes = ? WHERE id = ?",
                (
                    State.SETTLED,
                    time.time(),
                    counts[Outcome.STORED],
                    counts[Outcome.KEPT],
                    counts[Outcome.FAILED],
                    size,
                    reasons,
                    json.dumps(_notes(database, job_id)),
                    job_id,
                ),
            )
            database.execute("DELETE FROM attempt WHERE job = ?", (job_id,))
            database.execute("DELETE FROM job WHERE finished_at < ?", (time.time() - KEEP_FINISHED,))

    def open_summaries(self, limit: int, clinics: list[str] | None = None) -> list[Summary]:
        """The oldest open jobs with their progress; of these clinics, or of all."""
        summaries = []
        with self._looking:
            for row in self._view.execute(
                f"SELECT {JOB_COLUMNS} FROM job WHERE finished_at IS NULL AND {OF_CLINICS}"  # noqa: S608
                " ORDER BY taken_at, id LIMIT :limit",
                {"clinics": _json(clinics), "limit": limit},
            ).fetchall():
                job = _job(row)
                files = _counts(self._view, job.id)
                size, sent = self._view.execute(
                    "SELECT coalesce(sum(size), 0), coalesce(sum(size) FILTER (WHERE outcome <> 'pending'), 0)"
                    " FROM file WHERE job = ?",
                    (job.id,),
                ).fetchone()
                summaries.append(
                    Summary(job, files, size, sent, _reasons(self._view, job.id), _notes(self._view, job.id))
                )
        return summaries

    def finished_summaries(self, since: float, limit: int, clinics: list[str] | None = None) -> list[Summary]:
        """Jobs settled since a time (seconds since 1970), newest first; of these clinics, or of all."""
        where = f"WHERE finished_at >= :since AND {OF_CLINICS} ORDER BY finished_at DESC LIMIT :limit"
        return self._finished(where, since=since, clinics=_json(clinics), limit=limit)

    def finished_summary(self, job_id: str) -> Summary:
        """One settled job."""
        return self._finished("WHERE id = :id", id=job_id)[0]

    def _finished(self, where: str, **values: str | float | None) -> list[Summary]:
        with self._lock:
            rows = self._database.execute(
                f"SELECT {JOB_COLUMNS}, stored, kept, failed, bytes, reasons, notes FROM job {where}",  # noqa: S608
                values,
            ).fetchall()
        return [
            Summary(
                _job(row[:-6]),
                {Outcome.STORED: row[-6], Outcome.KEPT: row[-5], Outcome.FAILED: row[-4]},
                row[-3],
                row[-3],
                {reason: int(count) for reason, _, count in (pair.partition("=") for pair in row[-2].split())},
                json.loads(row[-1]),
            )
            for row in rows
        ]

    def backlog(self, clinics: list[str] | None = None) -> tuple[int, float | None]:
        """The number of open jobs, and since when the oldest waits (Unix time); of these clinics, or of all."""
        with self._lock:
            count, oldest = self._database.execute(
                f"SELECT count(*), min(taken_at) FROM job WHERE finished_at IS NULL AND {OF_CLINICS}",  # noqa: S608
                {"clinics": _json(clinics)},
            ).fetchone()
        return count, oldest

    def position(self, name: str) -> int:
        """A remembered number, 0 when there is none."""
        with self._lock:
            row = self._database.execute("SELECT value FROM position WHERE name = ?", (name,)).fetchone()
        return row[0] if row else 0

    def set_position(self, name: str, value: int) -> None:
        """Remember a number."""
        with self._transaction() as database:
            database.execute("INSERT OR REPLACE INTO position (name, value) VALUES (?, ?)", (name, value))

    def study(self, study_uid: str) -> KnownStudy | None:
        """The facts about a study that the registry has."""
        with self._lock:
            row = self._database.execute(
                "SELECT clinic, fingerprint, size, listed, behind FROM study WHERE study_uid = ?", (study_uid,)
            ).fetchone()
        return KnownStudy(row[0], row[1], row[2], row[3], bool(row[4])) if row else None

    def record_study(self, study_uid: str, known: KnownStudy) -> None:
        """Remember the facts about a study that the registry has."""
        with self._transaction() as database:
            database.execute("INSERT OR REPLACE INTO study VALUES (?, ?, ?, ?, ?, ?)", (study_uid, *known))

    def used(self) -> dict[str, int]:
        """The bytes of each clinic's studies."""
        with self._lock:
            return dict(self._database.execute("SELECT clinic, sum(size) FROM study GROUP BY clinic").fetchall())

    def forget_study(self, study_uid: str) -> None:
        """Forget a study that Orthanc no longer has."""
        with self._transaction() as database:
            database.execute("DELETE FROM study WHERE study_uid = ?", (study_uid,))


def _open(path: Path) -> sqlite3.Connection:
    """Open the database. A damaged one is set aside, because the spool has all that is needed to go on."""
    for _ in range(2):
        database = sqlite3.connect(path, check_same_thread=False)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            database.execute("PRAGMA foreign_keys = ON")
            if database.execute("PRAGMA quick_check(1)").fetchone() == ("ok",):
                return database
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:
            pass
        database.close()
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                path.with_name(path.name + suffix).rename(
                    path.with_name(path.name + suffix + f".damaged-{os.getpid()}")
                )
    raise sqlite3.DatabaseError(f"{path} cannot be created")


def _job(
    row: tuple[str, str, bytes, str, float, float | None, int, str, bytes | None, bytes | None, str, int, int, float],
) -> Job:
    job_id, clinic, folder, state, taken_at, finished_at, attempts, error, processed, failed, caller = row[:11]
    dropped, repeated, troubled_at = row[11:]
    return Job(
        id=job_id,
        clinic=clinic,
        folder=os.fsdecode(folder),
        state=State(state),
        taken_at=taken_at,
        finished_at=finished_at,
        attempts=attempts,
        error=error,
        processed_path=Path(os.fsdecode(processed)) if processed else None,
        failed_path=Path(os.fsdecode(failed)) if failed else None,
        caller=caller,
        ends=ENDS[dropped],
        repeated=repeated,
        troubled_at=troubled_at,
    )


def _json(clinics: list[str] | None) -> str | None:
    return None if clinics is None else json.dumps(clinics)


def _first_outcome(entry: Entry) -> tuple[str, str]:
    return (Outcome.PENDING, "") if entry.kind == "file" else (Outcome.FAILED, entry.kind)


def _counts(database: sqlite3.Connection, job_id: str) -> dict[Outcome, int]:
    rows = database.execute("SELECT outcome, count(*) FROM file WHERE job = ? GROUP BY outcome", (job_id,))
    return {Outcome(outcome): count for outcome, count in rows}


def _reasons(database: sqlite3.Connection, job_id: str, outcome: Outcome = Outcome.FAILED) -> dict[str, int]:
    return dict(
        database.execute(
            "SELECT reason, count(*) FROM file WHERE job = ? AND outcome = ? GROUP BY reason ORDER BY reason",
            (job_id, outcome),
        ).fetchall()
    )


def _notes(database: sqlite3.Connection, job_id: str) -> dict[str, int]:
    return dict(
        database.execute(
            "SELECT note.key, count(*) FROM file, json_each(file.notes) AS note WHERE job = ? AND file.notes <> '{}'"
            " GROUP BY note.key ORDER BY note.key",
            (job_id,),
        ).fetchall()
    )
