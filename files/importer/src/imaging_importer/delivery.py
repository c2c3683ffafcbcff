"""Carries one claimed folder from state to state: claimed, listed, verified, recorded, archiving, archived.

Every step can be done again: what was done before a kill is recognised by Orthanc (same bytes), by the registry
(same owner) or by the file system (already moved).
"""

import contextlib
import errno
import logging
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from imaging_importer import failpoints, tree
from imaging_importer.archive import Archive
from imaging_importer.config import Config
from imaging_importer.instance import Instance, orthanc_id, read_instance
from imaging_importer.journal import FileOutcome, Job, Journal, Outcome, State
from imaging_importer.orthanc import OrthancClient
from imaging_importer.reasons import CompanionError, RejectedError, TransientError
from imaging_importer.recorder import Recorder
from imaging_importer.registry import Registry
from imaging_importer.spool import Spool
from imaging_importer.stamp import Body, stamp

log = logging.getLogger(__name__)

# File errors that say something about this file; any other (disk full, I/O error) may pass.
UNREADABLE = frozenset({errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO, errno.ENOTDIR})


@dataclass
class Prepared:
    """An instance that is ready to be sent."""

    path: str
    instance: Instance
    body: Body


class Carrier:
    """Carries jobs, one at a time: Orthanc's index is no faster with several clients."""

    def __init__(
        self,
        config: Config,
        journal: Journal,
        spool: Spool,
        archive: Archive,
        registry: Registry,
        recorder: Recorder,
        orthanc: OrthancClient,
    ) -> None:
        self._config = config
        self._journal = journal
        self._spool = spool
        self._archive = archive
        self._registry = registry
        self._recorder = recorder
        self._orthanc = orthanc

    def carry(self, job: Job) -> None:
        """Carry a job as far as it goes. Raises TransientError, OSError or sqlite3.Error: try again later."""
        if job.state in (State.CLAIMED, State.LISTED):
            self._list(job)
        if self._journal.job(job.id).state is State.LISTED:
            self._upload(job)
            self._refuse_changes(job)
            self._advance(job, State.VERIFIED, "files-verified")
        if self._journal.job(job.id).state is State.VERIFIED:
            self._record(job)
            self._advance(job, State.RECORDED, "studies-recorded")
        if self._journal.job(job.id).state is State.RECORDED:
            self._archive.choose(job)
        job = self._journal.job(job.id)
        self._archive.move(job)
        self._journal.finish(job.id)
        failpoints.reach("job-finished")

    def _advance(self, job: Job, state: State, failpoint: str) -> None:
        self._journal.advance(job.id, state)
        failpoints.reach(failpoint)

    def _list(self, job: Job) -> None:
        self._journal.list_files(job.id, tree.entries(self._spool.folder(job)))
        failpoints.reach("files-listed")

    def _refuse_changes(self, job: Job) -> None:
        """A sender that still held a file open may have changed it since it was listed: then it is read again."""
        entries = tree.entries(self._spool.folder(job))
        if {entry.path: (entry.size, entry.mtime_ns) for entry in entries} != self._journal.known_files(job.id):
            self._journal.list_files(job.id, entries)
            raise TransientError("the folder was changed while it was imported; what changed is imported again")

    def _upload(self, job: Job) -> None:
        """Send every pending file, in batches, in the order of their paths."""
        pending = iter(self._journal.files(job.id, Outcome.PENDING))
        while True:
            with self._recorder.lock, ExitStack() as open_files:
                outcomes, batch = self._fill(job, pending, open_files)
                if not outcomes and not batch:
                    return
                if batch:
                    outcomes += self._send(batch)
                self._journal.settle(job.id, outcomes)
                failpoints.reach("batch-journalled")

    def _fill(
        self, job: Job, pending: Iterator[FileOutcome], open_files: ExitStack
    ) -> tuple[list[FileOutcome], list[Prepared]]:
        """Prepare the next files until a batch is full: what is decided already, and what is to be sent."""
        outcomes: list[FileOutcome] = []
        batch: list[Prepared] = []
        patients: dict[str, str] = {}  # StudyInstanceUID -> PatientID of the studies claimed for this batch
        size = 0
        for file in pending:
            try:
                prepared = self._prepare(job, file, patients, open_files)
            except CompanionError as companion:
                outcomes.append(FileOutcome(file.path, Outcome.KEPT, companion.reason))
            except RejectedError as rejection:
                outcomes.append(FileOutcome(file.path, Outcome.FAILED, rejection.reason, rejection.detail))
            else:
                batch.append(prepared)
                size += prepared.body.size
            if size >= self._config.batch_bytes or len(batch) + len(outcomes) >= self._config.batch_count:
                break
        return outcomes, batch

    def _prepare(self, job: Job, file: FileOutcome, patients: dict[str, str], open_files: ExitStack) -> Prepared:
        """Read, claim and stamp one file. Nothing of it was sent when this raises."""
        with _read_errors():
            handle = open_files.enter_context(tree.open_file(self._spool.folder(job), file.path))
            instance = read_instance(handle, self._spool.scratch)
            if instance.data is not handle:
                open_files.enter_context(instance.data)
        self._claim(job, instance, patients)
        with _read_errors():
            body = stamp(instance, job.clinic, self._spool.scratch)
        return Prepared(file.path, instance, body)

    def _claim(self, job: Job, instance: Instance, patients: dict[str, str]) -> None:
        study_uid = instance.study_uid
        if study_uid not in patients:
            if not self._registry.claim_study(study_uid, job.clinic):
                raise RejectedError("owned-by-another-clinic")
            failpoints.reach("study-claimed")
            # Under a second PatientID Orthanc would open a second study, and WADO-RS answer neither (404 to everybody).
            if self._orthanc.study_ids(study_uid) - {orthanc_id(instance.patient_id, study_uid)}:
                raise RejectedError("patient-mismatch")
            patients[study_uid] = instance.patient_id
        if patients[study_uid] != instance.patient_id:
            raise RejectedError("patient-mismatch")

    def _send(self, batch: list[Prepared]) -> list[FileOutcome]:
        """Send a batch and compare what Orthanc holds afterwards with what was sent."""
        stored, digests = self._orthanc.store([prepared.body for prepared in batch])
        failpoints.reach("batch-sent")
        outcomes = []
        for prepared, digest in zip(batch, digests, strict=True):
            study_uid = prepared.instance.study_uid
            try:
                if prepared.instance.sop_instance_uid not in stored:
                    digest = self._orthanc.store_alone(prepared.body)
                self._verify(prepared.instance, digest)
            except RejectedError as rejection:
                outcomes.append(FileOutcome(prepared.path, Outcome.FAILED, rejection.reason, rejection.detail))
            else:
                outcomes.append(FileOutcome(prepared.path, Outcome.STORED, study_uid=study_uid))
        failpoints.reach("batch-verified")
        return outcomes

    def _verify(self, instance: Instance, digest: str) -> None:
        held = self._orthanc.stored_digests(instance.orthanc_ids()[2], instance.sop_instance_uid)
        if not held:
            raise TransientError(f"orthanc accepted {instance.sop_instance_uid} but does not have it")
        if digest not in held:
            raise RejectedError("conflicting-bytes", instance.sop_instance_uid)

    def _record(self, job: Job) -> None:
        """Show the job's studies: only now are they visible."""
        files = self._journal.files(job.id, Outcome.STORED)
        for study_uid in sorted({file.study_uid for file in files if file.study_uid}):
            done = self._recorder.refresh(self._orthanc, study_uid, job.clinic, always=True)
            if done != "recorded":
                log.warning("job %s: study %s was changed in Orthanc since it was stored: %s", job.id, study_uid, done)
            failpoints.reach("study-recorded")


@contextlib.contextmanager
def _read_errors() -> Iterator[None]:
    """What goes wrong while a file is read, told apart: the file's fault, or something that may pass."""
    try:
        yield
    except FileNotFoundError as error:
        raise TransientError(f"a file is gone: {error.filename}") from error
    except OSError as error:
        if error.errno in UNREADABLE:
            raise RejectedError("unreadable", error.strerror or "") from error
        raise
    except (CompanionError, RejectedError, TransientError):
        raise
    except Exception as error:
        # A file that the reader stumbles over must not hold up the rest of the delivery.
        log.exception("a delivered file could not be read")
        raise RejectedError("damaged", type(error).__name__) from error
