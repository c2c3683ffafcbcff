"""The private directory that deliveries wait in: `.spool/<clinic>/<job id>/<folder>`, mode 0700.

Taking is one rename on one file system, so a folder is either in the inbox or in the spool. The path alone names the
clinic. If a kill leaves a folder between rename and journal, `unjournalled` finds it again.
"""

import contextlib
import fcntl
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from imaging_importer import failpoints, tree
from imaging_importer.journal import Job, Journal

# The delivery's name for files that were copied directly into the clinic's folder.
LOOSE_FILES = "loose-files"

# Beside the folder of an upload, this file names the uploader. A journal that was lost or not reached reads it again.
CALLER = ".caller.json"


class AnotherImporterError(Exception):
    """A second importer was started on the same inbox."""


def lock(root: Path) -> int:
    """Lock the spool of an inbox with a kernel lock, which ends with the process.

    Returns the lock's descriptor, for the caller to keep. Raises AnotherImporterError.
    """
    root.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise AnotherImporterError(f"another importer works on {root.parent}; this one must not run") from error
    return descriptor


class Spool:
    """The spool of one inbox."""

    def __init__(self, root: Path, journal: Journal) -> None:
        self._root = root
        self._journal = journal
        self._taking = threading.Lock()
        # Whether the spool may have a folder that the journal does not know: after a kill, after a full disk.
        self.may_hold_unknown = True
        self.scratch = root / ".scratch"
        self.scratch.mkdir(exist_ok=True)
        # Uploads arrive here. An upload that a kill interrupted was never answered, so its sender sends it again.
        self.incoming = root / ".incoming"
        shutil.rmtree(self.incoming, ignore_errors=True)
        self.leases_work = tree.leases_work(self.scratch)

    def folder(self, job: Job) -> Path:
        """The place where a job's folder waits."""
        return self._directory(job.clinic, job.id) / job.folder

    def _directory(self, clinic: str, job_id: str) -> Path:
        return self._root / clinic / job_id

    def take_folder(self, clinic: str, folder: Path, caller: str = "") -> str:
        """Take a folder out of the inbox, or an upload of `caller` (JSON); return the job's id.

        After an OSError or sqlite3.Error it is at its old place, or `recover` finds it.
        """
        with self._take(), self._new_directory(clinic) as directory:
            if caller:
                with (directory / CALLER).open("x", encoding="utf-8") as file:
                    file.write(caller)
                    file.flush()
                    os.fsync(file.fileno())
            try:
                folder.rename(directory / folder.name)
            except OSError:
                (directory / CALLER).unlink(missing_ok=True)
                raise
            failpoints.reach("folder-spooled")
            return self._journalled(clinic, directory, folder.name, folder.parent, caller)

    def take_files(self, clinic: str, files: list[Path]) -> str:
        """Take single files out of a clinic's folder as one delivery; return the job's id."""
        with self._take(), self._new_directory(clinic) as directory:
            (directory / LOOSE_FILES).mkdir()
            for file in files:
                with contextlib.suppress(FileNotFoundError):  # withdrawn since the last look
                    file.rename(directory / LOOSE_FILES / file.name)
            failpoints.reach("folder-spooled")
            return self._journalled(clinic, directory, LOOSE_FILES, files[0].parent)

    @contextlib.contextmanager
    def _take(self) -> Iterator[None]:
        """Let one at a time take, and none while the spool is searched."""
        with self._taking:
            known = not self.may_hold_unknown
            self.may_hold_unknown = True
            yield
            self.may_hold_unknown = not known

    @contextlib.contextmanager
    def _new_directory(self, clinic: str) -> Iterator[Path]:
        # The time orders jobs for people. The random part makes the id unique.
        job_id = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid4().hex[:12]}"
        directory = self._directory(clinic, job_id)
        directory.mkdir(parents=True)
        failpoints.reach("spool-directory-made")
        try:
            yield directory
        except OSError:
            with contextlib.suppress(OSError):
                directory.rmdir()
            raise

    def _journalled(self, clinic: str, directory: Path, folder: str, inbox_directory: Path, caller: str = "") -> str:
        for changed in (directory, directory.parent, inbox_directory):
            tree.sync_directory(changed)
        self._journal.add(directory.name, clinic, folder, caller)
        failpoints.reach("job-journalled")
        return directory.name

    def release(self, job: Job) -> None:
        """Remove the empty directory of a job whose folder was settled."""
        with contextlib.suppress(FileNotFoundError):
            (self._directory(job.clinic, job.id) / CALLER).unlink(missing_ok=True)
            self._directory(job.clinic, job.id).rmdir()

    def recover(self) -> int:
        """Journal every folder that is in the spool but not in the journal; return how many there were."""
        with self._taking:
            found = 0
            for clinic in _directories(self._root):
                for directory in _directories(clinic):
                    if self._journal.is_open(directory.name):
                        continue
                    folders = _directories(directory, hidden=True)
                    for folder in folders:
                        self._journal.add(directory.name, clinic.name, folder.name, _caller(directory))
                        found += 1
                    if not folders:
                        (directory / CALLER).unlink(missing_ok=True)
                        directory.rmdir()
            self.may_hold_unknown = False
            return found


def _caller(directory: Path) -> str:
    try:
        return (directory / CALLER).read_text("utf-8")
    except (FileNotFoundError, IsADirectoryError):  # a folder, which may be called like this
        return ""


def _directories(directory: Path, hidden: bool = False) -> list[Path]:
    return sorted(
        path
        for path in directory.iterdir()
        if (hidden or not path.name.startswith(".")) and path.is_dir() and not path.is_symlink()
    )
