"""Carries deliveries from state to state: taken, listed, verified, recorded, settling, settled.

Every step can be done again. Orthanc recognises a step that was done before a kill by its bytes, the registry by its
owner, and the file system by the move.
"""

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from itertools import islice

from imaging_importer import failpoints, tree
from imaging_importer.batch import Batch, Prepared, Source, read_batch
from imaging_importer.config import Config
from imaging_importer.dicom import correction, display
from imaging_importer.dicom.instance import Instance, orthanc_id
from imaging_importer.dicom.packed import PackedFiles
from imaging_importer.journal import FileOutcome, Job, Journal, Outcome, State
from imaging_importer.orthanc import Held, OrthancClient, Stow
from imaging_importer.quarantine import GUILTY, Quarantine
from imaging_importer.reasons import UNTOLD, BrokenOffError, RejectedError, TransientError, UnavailableError
from imaging_importer.recorder import Recorder
from imaging_importer.registry import Displayed, Registry
from imaging_importer.settle import Settler
from imaging_importer.spool import Spool
from imaging_importer.ways_in.tickets import Tickets

log = logging.getLogger(__name__)

# The next step of a job can begin at once (None), or when this batch has been read.
Step = Future[Batch] | None

# While other clinics have work too, batches are smaller by this factor, so that the others wait less.
CROWDED = 4
LISTED_AT_ONCE = 1000

# Seconds before each time that an instance which was not stored is sent alone. PostgreSQL's collisions pass sooner.
PAUSES = (0.0, 0.1, 0.5)

# The access log names this user for a folder. No user can have this name, because names have no parentheses.
FOLDER = {"username": "(folder)", "subject": "", "client": "imaging-importer", "address": ""}

# The access log gets this text for everything whose reason a clinic is not told, because its auditors read the row too.
NOT_ACCEPTED = "not accepted"

# It replaces Orthanc's id of a study if Orthanc has several under this StudyInstanceUID, of which none is right.
SEVERAL = "several"


class Carrier:
    """Carries jobs in small steps, so that others can go in between. Each thread carries a job of its own."""

    def __init__(
        self,
        config: Config,
        journal: Journal,
        spool: Spool,
        settler: Settler,
        registry: Registry,
        recorder: Recorder,
        orthanc: Callable[[], OrthancClient],
        quarantine: Quarantine,
        tickets: Tickets,
    ) -> None:
        self._config = config
        self._journal = journal
        self._spool = spool
        self._settler = settler
        self._registry = registry
        self._recorder = recorder
        self._new_orthanc = orthanc
        self._clients = threading.local()
        self._quarantine = quarantine
        self._tickets = tickets

    @property
    def _orthanc(self) -> OrthancClient:
        """The connection of the thread that takes this step."""
        if not hasattr(self._clients, "orthanc"):
            self._clients.orthanc = self._new_orthanc()
        client: OrthancClient = self._clients.orthanc
        return client

    def carry(self, job: Job, crowded: Callable[[], bool]) -> Generator[Step, None, None]:
        """Carry a job as far as possible. Between two steps, another may go first. `crowded`: whether others have work.

        Raises TransientError, OSError or sqlite3.Error: try again later. The job then continues where it was.
        """
        if job.ends and job.state in (State.TAKEN, State.LISTED):
            self._journal.fail_pending(job.id, job.ends)
            job = self._advance(job, State.VERIFIED, "files-verified")
        elif job.state is State.TAKEN or (job.state is State.LISTED and job.attempts):
            yield from self._list(job)
            job = replace(job, state=State.LISTED)
        if job.state is State.LISTED:
            while (yield from self._upload(job, crowded)):
                pass  # the members of packed files are sent later
            yield from self._refuse_changes(job)
            if self._journal.has_pending(job.id):
                raise TransientError("orthanc does not store some of the images just now")
            job = self._advance(job, State.VERIFIED, "files-verified")
        if job.state is State.VERIFIED:
            yield from self._record(job)
            job = self._advance(job, State.RECORDED, "studies-recorded")
            self._tickets.answer(job.id, lambda: list(self._journal.files(job.id, *Outcome)))
        if job.state is State.RECORDED:
            self._settler.choose(job)
        yield from self._settler.move(self._journal.job(job.id))  # read again, because it has the places now
        self._journal.finish(job.id)
        failpoints.reach("job-finished")
        # No step any more: a search for open jobs no longer finds this one, so it would stay begun for ever.
        with suppress(sqlite3.Error):  # the job is done: the rest of its list is removed at the next start
            while self._journal.forget_some(job.id, *Outcome):
                pass

    def _advance(self, job: Job, state: State, failpoint: str) -> Job:
        self._journal.advance(job.id, state)
        failpoints.reach(failpoint)
        return replace(job, state=state)

    def _list(self, job: Job) -> Iterator[Step]:
        """Remember every file. A delivery beyond the limits fails as a whole."""
        try:
            yield from self._compare(job)
        except FileNotFoundError:
            # Not if the spool itself cannot be read.
            if tree.is_there(self._spool.folder(job)) or not tree.is_there(self._spool.scratch):
                raise
            yield from self._reject(job, RejectedError("withdrawn"))
        except RejectedError as rejection:
            yield from self._reject(job, rejection)
        else:
            yield from self._forget_gone(job)
        self._journal.listed(job.id)
        failpoints.reach("files-listed")

    def _reject(self, job: Job, rejection: RejectedError) -> Iterator[Step]:
        """Fail the delivery as a whole, except the images that are already stored."""
        while self._journal.forget_some(job.id, Outcome.PENDING, Outcome.KEPT, Outcome.FAILED):
            yield None
        self._journal.reject(job.id, rejection)

    def _compare(self, job: Job) -> Generator[Step, None, int]:
        """List the folder; return how many files are new or changed since the last listing."""
        changed, entries = 0, tree.entries(self._spool.folder(job))
        while some := list(islice(entries, LISTED_AT_ONCE)):
            changed += self._journal.list_files(job.id, some)
            yield None
        return changed

    def _forget_gone(self, job: Job) -> Iterator[Step]:
        """Forget files that were withdrawn before they were sent: they are no part of the delivery."""
        folder = self._spool.folder(job)
        for file in self._journal.files(job.id, Outcome.PENDING) if job.attempts else ():
            if not tree.exists(folder, file.packed or file.path):
                self._journal.forget_file(job.id, file.path)
            yield None

    def _refuse_changes(self, job: Job) -> Iterator[Step]:
        """Have changed files read again. A sender that held a file open may have changed it since it was listed."""
        if self._journal.is_rejected(job.id):
            return
        if (yield from self._compare(job)):
            raise TransientError("the folder was changed while it was imported; what changed is imported again")

    def _upload(self, job: Job, crowded: Callable[[], bool]) -> Generator[Step, None, bool]:
        """Send every pending file, in batches, in the order of paths; return whether packed files had more."""
        unpacked = False
        folder, scratch, limits = self._spool.folder(job), self._spool.scratch, self._config.image_limits
        packed_files = PackedFiles(folder, scratch, limits)
        # A part of an upload is one DICOM file (PS3.18 10.5.1), so nothing is unpacked there.
        unpack = None if job.caller else packed_files
        source = Source(folder, job.clinic, scratch, limits, self._config.charsets.get(job.clinic, ""), unpack)
        with closing(packed_files), ThreadPoolExecutor(1, "read-ahead") as reader:
            files = self._journal.files(job.id, Outcome.PENDING)

            def read_next() -> Future[Batch]:
                share = CROWDED if crowded() else 1
                sizes = (self._config.orthanc.batch_bytes // share, -(-self._config.orthanc.batch_count // share))
                return reader.submit(read_batch, source, files, *sizes)

            coming = read_next()
            try:
                yield coming
                while batch := coming.result():
                    coming = read_next()  # while Orthanc stores one batch, the next is read
                    with closing(batch):
                        self._store_batch(job, batch)
                        unpacked = unpacked or bool(batch.listed)
                    yield coming
            finally:
                if not coming.exception():
                    coming.result().close()
        return unpacked

    def _store_batch(self, job: Job, batch: Batch) -> None:
        """Claim the studies of a batch, send it, and record the result of each file.

        Files of another clinic's study cannot be claimed; they are removed from the batch before anything is sent.
        """
        with ExitStack() as held:
            with self._recorder.holding(prepared.instance.study_uid for prepared in batch.instances):
                claimed, refused = self._claim(job, batch.instances)
                held.enter_context(self._recorder.holding(prepared.instance.study_uid for prepared in claimed))
            sent = self._send(job, claimed)
            self._note_display(claimed, sent)
            self._journal.write_outcomes(job.id, batch.outcomes + refused + sent, batch.listed)
            failpoints.reach("batch-journalled")

    def _claim(self, job: Job, batch: list[Prepared]) -> tuple[list[Prepared], list[FileOutcome]]:
        """Claim the studies of a batch before it is sent; return the files that may be sent and the others."""
        if self._journal.job(job.id).ends:
            raise TransientError("the administrator ends this delivery")
        strikes = self._quarantine.strikes(batch)
        places: dict[str, str | RejectedError] = {}  # of each study of this batch
        claimed, refused = [], []
        for prepared in batch:
            instance = prepared.instance
            try:
                if instance.study_uid not in places:
                    places[instance.study_uid] = self._place(job, instance)
                place = places[instance.study_uid]
                if isinstance(place, str) and self._is_of_before(prepared, place):
                    prepared.use_former()
                _check(instance, place, strikes.get(prepared.path, 0))
            except RejectedError as rejection:
                refused.append(self._refuse(job, prepared, rejection))
            else:
                claimed.append(prepared)
        return claimed, refused

    def _place(self, job: Job, instance: Instance) -> str | RejectedError:
        """Claim a study; return Orthanc's id of the one study for its images, if that is known.

        Under a second PatientID, Orthanc would open a second study. Then WADO-RS answers neither (404 to everybody).
        """
        study_uid = instance.study_uid
        held = self._orthanc.study_ids(study_uid)
        attempt = self._journal.attempt(job.id, study_uid)
        if attempt is None:
            self._registry.log_upload(study_uid, job.clinic, _caller(job), None)
        # If there are several, this job made them before a kill. They are put right after the next batch.
        known = attempt.orthanc_id if attempt else SEVERAL
        place = known if len(held) > 1 else "".join(held)
        if attempt is None or attempt.orthanc_id != place:
            # Before the claim, so that nobody else gives up the claim from now on.
            self._journal.begin(job.id, study_uid, place)
        try:
            if not self._registry.claim_study(study_uid, job.clinic):
                return RejectedError("owned-by-another-clinic")
        except RejectedError as rejection:
            return rejection
        failpoints.reach("study-claimed")
        if place == SEVERAL:
            return RejectedError("patient-mismatch", "the archive holds this study under several PatientIDs")
        return place or _plain_place(instance)

    def _is_of_before(self, prepared: Prepared, place: str) -> bool:
        """Whether Orthanc has held the study since before text was corrected.

        Then it has this PatientID, byte for byte, and reads another in it. A really different id has other bytes.
        """
        if not prepared.former or not place or _plain_place(prepared.instance) in ("", place):
            return False
        return self._orthanc.raw_patient_id(place).strip(b"\0 ") == prepared.instance.raw_patient_id

    def _refuse(self, job: Job, prepared: Prepared, rejection: RejectedError) -> FileOutcome:
        """The end of a file. It goes to the access log if its sender is not told why."""
        if rejection.reason in UNTOLD:
            self._note(job, prepared.instance.study_uid, rejection)
        return _failed(prepared, rejection)

    def _note(self, job: Job, study_uid: str, rejection: RejectedError) -> None:
        """Note once for each job and study that something of it was not accepted; the log has the true reason."""
        attempt = self._journal.attempt(job.id, study_uid)
        if attempt and not attempt.refused:
            log.error("job %s of %s: study %s is not accepted: %s", job.id, job.clinic, study_uid, rejection)
            self._registry.log_upload(study_uid, job.clinic, _caller(job), NOT_ACCEPTED)
            self._journal.mark_refused(job.id, study_uid)

    def _send(self, job: Job, batch: list[Prepared]) -> list[FileOutcome]:
        """Send a batch, study by study, and compare the images in Orthanc afterwards with the sent ones.

        A file without an outcome stays pending: Orthanc has a problem of its own.
        """
        strikes = self._quarantine.strikes(batch)
        studies: dict[str, list[Prepared]] = {}
        for prepared in batch:
            studies.setdefault(prepared.instance.study_uid, []).append(prepared)
        outcomes: list[FileOutcome] = []
        for study_uid, of_study in studies.items():
            for of_turn in _turns(of_study):
                conflicting = self._conflicting(job, study_uid, of_turn)
                outcomes += conflicting.values()
                instances = [prepared for prepared in of_turn if prepared.path not in conflicting]
                clean = [prepared for prepared in instances if prepared.path not in strikes]
                if clean:
                    outcomes += self._store(job, study_uid, clean, self._deliver(job, study_uid, clean))
                for suspect in instances:
                    if suspect.path in strikes:
                        answer = self._deliver_suspect(job, study_uid, suspect)
                        outcomes += self._store(job, study_uid, [suspect], answer)
        failpoints.reach("batch-verified")
        return outcomes

    def _note_display(self, batch: list[Prepared], outcomes: list[FileOutcome]) -> None:
        """Record which of the stored images cannot be displayed, and remove the record of those that can."""
        stored = {outcome.path for outcome in outcomes if outcome.outcome is Outcome.STORED}
        instances = [prepared.instance for prepared in batch if prepared.path in stored]
        if instances:
            self._registry.note_display(
                [
                    Displayed(instance.study_uid, instance.sop_instance_uid, display.code_of(instance.notes))
                    for instance in instances
                ]
            )

    def _conflicting(self, job: Job, study_uid: str, batch: list[Prepared]) -> dict[str, FileOutcome]:
        """The instances whose SOPInstanceUID the study already has in another series, with another image.

        It asks before anything is sent. Afterwards, or after a kill, nobody could tell which of the two came first.
        """
        attempt = self._journal.attempt(job.id, study_uid)
        if attempt and not attempt.orthanc_id:  # Orthanc does not have the study yet
            return {}
        held: dict[str, list[Held]] = {}
        for found in self._orthanc.instances({prepared.instance.sop_instance_uid for prepared in batch}):
            if found.study_uid == study_uid:  # nothing is said of other studies, whoever owns them
                held.setdefault(found.sop_instance_uid, []).append(found)
        conflicting = {}
        for prepared in batch:
            instance = prepared.instance
            others = held.get(instance.sop_instance_uid, [])
            if not others or instance.series_uid in {found.series_uid for found in others}:
                continue
            # The same bytes: a kill left an image that Orthanc misreads. That is found out below.
            digest = prepared.body.digest()
            if any(digest in found.digests for found in others):
                continue
            detail = f"{instance.sop_instance_uid} is in another series of the study"
            conflicting[prepared.path] = _failed(prepared, RejectedError("conflicting-bytes", detail))
        return conflicting

    def _deliver(self, job: Job, study_uid: str, batch: list[Prepared]) -> Stow:
        try:
            with self._quarantine.together():
                answer = self._orthanc.store(study_uid, [prepared.body for prepared in batch])
        except BrokenOffError:
            self._quarantine.strike(batch)
            self._end_repeated(job)
            raise
        failpoints.reach("batch-sent")
        return answer

    def _deliver_suspect(self, job: Job, study_uid: str, suspect: Prepared) -> Stow:
        try:
            with self._quarantine.alone():
                answer = self._orthanc.store(study_uid, [suspect.body])
        except BrokenOffError as error:
            self._quarantine.strike([suspect])
            self._end_repeated(job)
            rejection = RejectedError("stops-the-archive", str(error))
            self._journal.write_outcomes(job.id, [_failed(suspect, rejection)])
            self._note(job, study_uid, rejection)
            raise
        self._quarantine.acquit(suspect)
        return answer

    def _end_repeated(self, job: Job) -> None:
        """End a delivery that stops Orthanc with one file after the other: its next file would do the same."""
        if self._journal.failed_as(job.id, "stops-the-archive"):
            self._journal.fail_pending(job.id, "stops-the-archive")

    def _store(self, job: Job, study_uid: str, batch: list[Prepared], answer: Stow) -> list[FileOutcome]:
        """The results of a batch, by Orthanc's answer. An instance that is not stored is sent again alone."""
        accepted: list[tuple[Prepared, str]] = []
        outcomes = []
        refusals = 0
        named = set(answer.stored)
        for prepared, sent in zip(batch, answer.digests, strict=True):
            digest = sent
            try:
                if prepared.instance.sop_instance_uid not in answer.stored:
                    alone = self._store_alone(job, prepared)
                    if alone is None:
                        refusals += 1
                        if answer.status == 500 and refusals > 1:
                            raise UnavailableError("orthanc", "HTTP 500 for one image and the next")
                        continue
                    named |= alone.stored
                    (digest,) = alone.digests
                accepted.append((prepared, digest))
            except RejectedError as rejection:
                outcomes.append(self._refuse(job, prepared, rejection))
        if accepted:  # an empty question would ask for everything that Orthanc holds
            outcomes += self._verify(job, study_uid, accepted, named)
        return outcomes

    def _store_alone(self, job: Job, prepared: Prepared) -> Stow | None:
        """Send an instance that was not stored again, and find out why. None: Orthanc has a problem of its own.

        Raises RejectedError if the file is the cause: Orthanc reads another study in it, or cannot read it.
        """
        for pause in PAUSES:
            time.sleep(pause)
            answer = self._deliver(job, prepared.instance.study_uid, [prepared])
            if answer.stored:
                return answer
            if answer.status == 409 and answer.understood:
                raise RejectedError("misread", "Orthanc reads another StudyInstanceUID")
        if answer.understood and not answer.failed:
            raise RejectedError("refused-by-archive", f"HTTP {answer.status}")
        if self._orthanc.can_store():
            self._quarantine.stored(1)
        if self._quarantine.is_hopeless(prepared):
            raise RejectedError("refused-by-archive", f"HTTP {answer.status}: it reads the image and cannot store it")
        return None

    def _verify(self, job: Job, study_uid: str, sent: list[tuple[Prepared, str]], named: set[str]) -> list[FileOutcome]:
        """Compare the sent images with those in Orthanc: bytes (MD5), identifiers, and whether the study is one.

        `named` are the SOPInstanceUIDs that Orthanc reports as stored, whatever was sent. An image that is in a wrong
        place is removed again, but never one whose bytes are not from this batch.
        """
        asked = named | {prepared.instance.sop_instance_uid for prepared, _ in sent}
        held = self._orthanc.instances(asked)
        of_digest: dict[str, list[Held]] = {}
        for found in held:
            for digest in found.digests:
                of_digest.setdefault(digest, []).append(found)
        known = {found.sop_instance_uid for found in held}
        studies = self._orthanc.study_ids(study_uid)
        attempt = self._journal.attempt(job.id, study_uid)
        place = "".join(studies) if len(studies) == 1 else attempt.orthanc_id if attempt else ""
        outcomes = []
        stored = 0
        for prepared, digest in sent:
            instance = prepared.instance
            copies = of_digest.get(digest, [])
            if not copies and instance.sop_instance_uid in known and prepared.former:
                copies = of_digest.get(prepared.former.digest(), [])
                instance.notes.pop(correction.NOTE, None)  # it was stored before text was corrected
            if not copies and instance.sop_instance_uid in known:
                outcomes.append(_failed(prepared, RejectedError("conflicting-bytes", instance.sop_instance_uid)))
                continue
            if not copies:
                raise TransientError(f"orthanc accepted {instance.sop_instance_uid} but does not have it")
            rejection, is_right = RejectedError("patient-mismatch"), False
            for copy in copies:
                if _identifiers(copy) != (instance.study_uid, instance.series_uid, instance.sop_instance_uid):
                    rejection = RejectedError("misread", f"Orthanc reads {' '.join(_identifiers(copy))}")
                else:
                    parent = self._orthanc.parent_study(copy.orthanc_id) if len(studies) > 1 else place
                    place = place or parent  # the first image decides where the study is
                    if parent == place:
                        is_right = True
                        continue
                log.error("job %s: %s was stored and is taken out again: %s", job.id, copy.orthanc_id, rejection)
                self._orthanc.remove(copy.orthanc_id)
            if is_right:
                outcomes.append(FileOutcome(prepared.path, Outcome.STORED, study_uid=study_uid, notes=instance.notes))
                stored += 1
            else:
                outcomes.append(self._refuse(job, prepared, rejection))
        if attempt and attempt.orthanc_id != place:
            self._journal.begin(job.id, study_uid, place)
        self._quarantine.stored(stored)
        return outcomes

    def _record(self, job: Job) -> Iterator[Step]:
        """Show the job's studies, which are not visible before. Give up the claims without any image."""
        for study_uid in self._journal.studies(job.id):
            try:
                largest = self._journal.largest(job.id, study_uid)
                done = self._recorder.refresh(self._orthanc, study_uid, job.clinic, always=True, largest=largest)
                reason = {"recorded": "", "forgotten": "deleted-meanwhile"}.get(done, "owned-by-another-clinic")
            except RejectedError as rejection:
                reason = rejection.reason
                log.warning("job %s: the registry does not take study %s: %s", job.id, study_uid, rejection)
            except Exception as error:
                if not job.ends or self._may_pass(job, error):
                    raise
                reason = job.ends
                log.warning("job %s: study %s is left as it is: %s", job.id, study_uid, error)
            if reason:
                log.warning("job %s: study %s is not shown: %s", job.id, study_uid, reason)
                self._journal.fail_study(job.id, study_uid, reason)
            failpoints.reach("study-recorded")
            yield None
        while attempts := self._journal.attempts(job.id):
            for attempt in attempts:
                self._journal.end_attempt(job.id, attempt.study_uid)
                if not self._journal.has_stored(job.id, attempt.study_uid):
                    self._recorder.release(self._orthanc, attempt.study_uid, job.clinic)
            yield None

    def _may_pass(self, job: Job, error: Exception) -> bool:
        """Whether a job that is ended must still wait, because a service is away for now or a disk is full."""
        if isinstance(error, UnavailableError):
            return not self._journal.job(job.id).attempts
        return isinstance(error, (OSError, sqlite3.Error, MemoryError))


def _check(instance: Instance, place: str | RejectedError, strikes: int) -> None:
    if isinstance(place, RejectedError):
        raise place
    if place and _plain_place(instance) not in (place, ""):
        raise RejectedError("patient-mismatch")
    if strikes >= GUILTY:
        raise RejectedError("stops-the-archive")


def _turns(batch: list[Prepared]) -> Iterator[list[Prepared]]:
    """Divide a batch, so that a SOPInstanceUID is in one series in each part. The first file's series comes first."""
    while batch:
        series: dict[str, str] = {}
        turn: list[Prepared] = []
        later: list[Prepared] = []
        for prepared in batch:
            instance = prepared.instance
            mine = series.setdefault(instance.sop_instance_uid, instance.series_uid) == instance.series_uid
            (turn if mine else later).append(prepared)
        yield turn
        batch = later


def _plain_place(instance: Instance) -> str:
    """Orthanc's id of the study, by our reading of the PatientID; empty if Orthanc may read it differently."""
    return "" if instance.patient_id is None else orthanc_id(instance.patient_id, instance.study_uid)


def _identifiers(held: Held) -> tuple[str, str, str]:
    return held.study_uid, held.series_uid, held.sop_instance_uid


def _caller(job: Job) -> dict[str, str]:
    return dict(json.loads(job.caller)) if job.caller else FOLDER


def _failed(prepared: Prepared, rejection: RejectedError) -> FileOutcome:
    return FileOutcome(prepared.path, Outcome.FAILED, rejection.reason, rejection.detail)
