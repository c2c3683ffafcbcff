"""Carries one claimed folder from state to state: claimed, listed, verified, recorded, archiving, archived.

Every step can be done again: what was done before a kill is recognised by Orthanc (same bytes), by the registry
(same owner) or by the file system (already moved).
"""

import logging
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing

from imaging_importer import failpoints, tree
from imaging_importer.archive import Archive
from imaging_importer.batch import Batch, Prepared, read_batch
from imaging_importer.config import Config
from imaging_importer.instance import Instance, orthanc_id
from imaging_importer.journal import FileOutcome, Job, Journal, Outcome, State
from imaging_importer.orthanc import OrthancClient
from imaging_importer.reasons import RejectedError, TransientError
from imaging_importer.recorder import Recorder
from imaging_importer.registry import Registry
from imaging_importer.spool import Spool
from imaging_importer.tickets import PreemptedError, Tickets

log = logging.getLogger(__name__)


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
        tickets: Tickets,
    ) -> None:
        self._config = config
        self._journal = journal
        self._spool = spool
        self._archive = archive
        self._registry = registry
        self._recorder = recorder
        self._orthanc = orthanc
        self._tickets = tickets

    def carry(self, job: Job) -> None:
        """Carry a job as far as it goes.

        Raises TransientError, OSError or sqlite3.Error: try again later; PreemptedError: another one first.
        """
        if job.state in (State.CLAIMED, State.LISTED):
            self._list(job)
        if self._journal.job(job.id).state is State.LISTED:
            self._upload(job)
            self._refuse_changes(job)
            self._advance(job, State.VERIFIED, "files-verified")
        if self._journal.job(job.id).state is State.VERIFIED:
            self._record(job)
            self._advance(job, State.RECORDED, "studies-recorded")
            self._tickets.settle(job.id, lambda: self._journal.files(job.id, *Outcome))
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
        known = self._journal.known_files(job.id)
        if any(known.get(entry.path) != (entry.size, entry.mtime_ns) for entry in entries):
            self._journal.list_files(job.id, entries)
            raise TransientError("the folder was changed while it was imported; what changed is imported again")

    def _upload(self, job: Job) -> None:
        """Send every pending file, in batches, in the order of their paths."""
        for batch in self._read_ahead(job):
            with self._recorder.lock:
                claimed, refused = self._claim(job, batch.instances)
                sent = self._send(claimed) if claimed else []
                self._journal.settle(job.id, batch.outcomes + refused + sent)
                failpoints.reach("batch-journalled")
            if set(self._tickets.waiting()) - {job.id}:
                raise PreemptedError

    def _read_ahead(self, job: Job) -> Iterator[Batch]:
        """Read and stamp the job's pending files; while Orthanc stores one batch the next is being read."""
        folder, files = self._spool.folder(job), iter(self._journal.files(job.id, Outcome.PENDING))
        limits = (self._config.batch_bytes, self._config.batch_count, self._config.limits)
        with ThreadPoolExecutor(1, "read-ahead") as reader:

            def read_next() -> Future[Batch]:
                return reader.submit(read_batch, folder, files, job.clinic, self._spool.scratch, *limits)

            coming = read_next()
            try:
                while batch := coming.result():
                    coming = read_next()
                    with closing(batch):
                        yield batch
            finally:
                if not coming.exception():
                    coming.result().close()

    def _claim(self, job: Job, batch: list[Prepared]) -> tuple[list[Prepared], list[FileOutcome]]:
        """Claim the studies of a batch: what may be sent, and what must not. Nothing of it was sent before."""
        patients: dict[str, str] = {}  # StudyInstanceUID -> PatientID of the studies claimed for this batch
        claimed, refused = [], []
        for prepared in batch:
            try:
                self._claim_study(job, prepared.instance, patients)
            except RejectedError as rejection:
                refused.append(_failed(prepared, rejection))
            else:
                claimed.append(prepared)
        return claimed, refused

    def _claim_study(self, job: Job, instance: Instance, patients: dict[str, str]) -> None:
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
        accepted: list[tuple[Prepared, str]] = []
        outcomes = []
        for prepared, digest in zip(batch, digests, strict=True):
            try:
                if prepared.instance.sop_instance_uid not in stored:
                    digest = self._orthanc.store_alone(prepared.body)
                accepted.append((prepared, digest))
            except RejectedError as rejection:
                outcomes.append(_failed(prepared, rejection))
        if accepted:  # an empty question would be about everything that Orthanc holds
            outcomes += self._verify(accepted)
        failpoints.reach("batch-verified")
        return outcomes

    def _verify(self, sent: list[tuple[Prepared, str]]) -> list[FileOutcome]:
        """Compare the MD5 of what was sent with what Orthanc holds under the same SOPInstanceUID."""
        held = self._orthanc.stored_digests({prepared.instance.sop_instance_uid for prepared, _ in sent})
        outcomes = []
        for prepared, digest in sent:
            sop_instance_uid = prepared.instance.sop_instance_uid
            if sop_instance_uid not in held:
                raise TransientError(f"orthanc accepted {sop_instance_uid} but does not have it")
            if digest in held[sop_instance_uid]:
                outcomes.append(FileOutcome(prepared.path, Outcome.STORED, study_uid=prepared.instance.study_uid))
            else:
                outcomes.append(_failed(prepared, RejectedError("conflicting-bytes", sop_instance_uid)))
        return outcomes

    def _record(self, job: Job) -> None:
        """Show the job's studies: only now are they visible."""
        files = self._journal.files(job.id, Outcome.STORED)
        for study_uid in sorted({file.study_uid for file in files if file.study_uid}):
            done = self._recorder.refresh(self._orthanc, study_uid, job.clinic, always=True)
            if done != "recorded":
                log.warning("job %s: study %s was changed in Orthanc since it was stored: %s", job.id, study_uid, done)
            failpoints.reach("study-recorded")


def _failed(prepared: Prepared, rejection: RejectedError) -> FileOutcome:
    return FileOutcome(prepared.path, Outcome.FAILED, rejection.reason, rejection.detail)
