"""Carries claimed folders from state to state: claimed, listed, verified, recorded, archiving, archived.

Every step can be done again: what was done before a kill is recognised by Orthanc (same bytes), by the registry
(same owner) or by the file system (already moved).
"""

import logging
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice

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
from imaging_importer.tickets import Tickets

log = logging.getLogger(__name__)

# What a job does next can begin at once (None), or when this batch has been read.
Step = Future[Batch] | None

# While other clinics have work too, a batch is so much smaller, and they wait so much less for it.
CROWDED = 4
LISTED_AT_ONCE = 1000


class Carrier:
    """Carries jobs in small steps, so that others can go in between; several at a time, each in a thread of its own."""

    def __init__(
        self,
        config: Config,
        journal: Journal,
        spool: Spool,
        archive: Archive,
        registry: Registry,
        recorder: Recorder,
        orthanc: Callable[[], OrthancClient],
        tickets: Tickets,
    ) -> None:
        self._config = config
        self._journal = journal
        self._spool = spool
        self._archive = archive
        self._registry = registry
        self._recorder = recorder
        self._new_orthanc = orthanc
        self._clients = threading.local()
        self._tickets = tickets

    @property
    def _orthanc(self) -> OrthancClient:
        """The connection of the thread that takes this step."""
        if not hasattr(self._clients, "orthanc"):
            self._clients.orthanc = self._new_orthanc()
        client: OrthancClient = self._clients.orthanc
        return client

    def carry(self, job: Job, crowded: Callable[[], bool]) -> Generator[Step, None, None]:
        """Carry a job as far as it goes; between two steps another may go first. `crowded`: whether others have work.

        Raises TransientError, OSError or sqlite3.Error: try again later. Left alone, it goes on where it was.
        """
        if job.state is State.CLAIMED or (job.state is State.LISTED and job.attempts):
            yield from self._list(job)
        if self._journal.job(job.id).state is State.LISTED:
            yield from self._upload(job, crowded)
            yield from self._refuse_changes(job)
            self._advance(job, State.VERIFIED, "files-verified")
        if self._journal.job(job.id).state is State.VERIFIED:
            yield from self._record(job)
            self._advance(job, State.RECORDED, "studies-recorded")
            self._tickets.settle(job.id, lambda: list(self._journal.files(job.id, *Outcome)))
        if self._journal.job(job.id).state is State.RECORDED:
            self._archive.choose(job)
        yield from self._archive.move(self._journal.job(job.id))
        self._journal.finish(job.id)
        failpoints.reach("job-finished")
        while self._journal.forget_some(job.id, *Outcome):
            yield None

    def _advance(self, job: Job, state: State, failpoint: str) -> None:
        self._journal.advance(job.id, state)
        failpoints.reach(failpoint)

    def _list(self, job: Job) -> Iterator[Step]:
        """Remember every file; beyond the limits of a delivery it fails as a whole."""
        try:
            yield from self._compare(job)
        except RejectedError as rejection:
            while self._journal.forget_some(job.id, Outcome.PENDING, Outcome.KEPT, Outcome.FAILED):
                yield None
            self._journal.reject(job.id, rejection)
        else:
            yield from self._forget_gone(job)
        self._journal.listed(job.id)
        failpoints.reach("files-listed")

    def _compare(self, job: Job) -> Generator[Step, None, int]:
        """List the folder; how many files are new or changed since it was listed before."""
        changed, entries = 0, tree.entries(self._spool.folder(job))
        while some := list(islice(entries, LISTED_AT_ONCE)):
            changed += self._journal.list_files(job.id, some)
            yield None
        return changed

    def _forget_gone(self, job: Job) -> Iterator[Step]:
        """What was withdrawn before it was sent is no part of the delivery."""
        folder = self._spool.folder(job)
        for file in self._journal.files(job.id, Outcome.PENDING) if job.attempts else ():
            if not tree.exists(folder, file.path):
                self._journal.forget_file(job.id, file.path)
            yield None

    def _refuse_changes(self, job: Job) -> Iterator[Step]:
        """A sender that still held a file open may have changed it since it was listed: then it is read again."""
        if self._journal.is_rejected(job.id):
            return
        if (yield from self._compare(job)):
            raise TransientError("the folder was changed while it was imported; what changed is imported again")

    def _upload(self, job: Job, crowded: Callable[[], bool]) -> Iterator[Step]:
        """Send every pending file, in batches, in the order of their paths."""
        with ThreadPoolExecutor(1, "read-ahead") as reader:
            files = self._journal.files(job.id, Outcome.PENDING)

            def read_next() -> Future[Batch]:
                share = CROWDED if crowded() else 1
                limits = (self._config.batch_bytes // share, -(-self._config.batch_count // share))
                return reader.submit(
                    read_batch, self._spool.folder(job), files, job.clinic, self._spool.scratch, *limits
                )

            coming = read_next()
            try:
                yield coming
                while batch := coming.result():
                    coming = read_next()  # while Orthanc stores one batch the next is being read
                    with closing(batch):
                        self._settle(job, batch)
                    yield coming
            finally:
                if not coming.exception():
                    coming.result().close()

    def _settle(self, job: Job, batch: Batch) -> None:
        with self._recorder.holding(prepared.instance.study_uid for prepared in batch.instances):
            claimed, refused = self._claim(job, batch.instances)
            sent = self._send(claimed) if claimed else []
            self._journal.settle(job.id, batch.outcomes + refused + sent)
            failpoints.reach("batch-journalled")

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

    def _record(self, job: Job) -> Iterator[Step]:
        """Show the job's studies: only now are they visible."""
        for study_uid in self._journal.studies(job.id):
            done = self._recorder.refresh(self._orthanc, study_uid, job.clinic, always=True)
            if done != "recorded":
                log.warning("job %s: study %s was changed in Orthanc since it was stored: %s", job.id, study_uid, done)
            failpoints.reach("study-recorded")
            yield None


def _failed(prepared: Prepared, rejection: RejectedError) -> FileOutcome:
    return FileOutcome(prepared.path, Outcome.FAILED, rejection.reason, rejection.detail)
