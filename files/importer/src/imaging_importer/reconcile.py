"""Carries changes and deletions in Orthanc to the registry, so that study list and caches show nothing that is gone.

Orthanc's change feed reports studies that grew or were edited, but no deletions. Falling counts hint at those. A sweep
over all studies of the registry, once a day and whenever the counts fell, finds them for certain.
"""

import logging
import time

from imaging_importer.journal import Journal
from imaging_importer.orthanc import OrthancClient
from imaging_importer.reasons import RejectedError
from imaging_importer.recorder import Recorder
from imaging_importer.registry import Registry, owned_studies

log = logging.getLogger(__name__)

PAGE = 100
SWEEP_EVERY = 86400
COUNTS = ("orthanc-studies", "orthanc-series", "orthanc-instances")


class Reconciler:
    """Follows Orthanc; its place is kept in the journal."""

    def __init__(self, journal: Journal, registry: Registry, recorder: Recorder, orthanc: OrthancClient) -> None:
        self._journal = journal
        self._registry = registry
        self._recorder = recorder
        self._orthanc = orthanc

    def step(self) -> None:
        """Do the work that is due now. Raises TransientError."""
        self._follow_changes()
        counts = self._orthanc.counts()
        fell = any(count < self._journal.position(name) for name, count in zip(COUNTS, counts, strict=True))
        # A clock that was ahead and was set back must not delay the sweep.
        due = not 0 <= time.time() - self._journal.position("swept-at") < SWEEP_EVERY
        if fell or due:
            self._sweep()
            self._journal.set_position("swept-at", int(time.time()))
        for name, count in zip(COUNTS, counts, strict=True):
            if self._journal.position(name) != count:
                self._journal.set_position(name, count)

    def _follow_changes(self) -> None:
        since = self._journal.position("orthanc-changes")
        done = False
        while not done:
            changes, last, done = self._orthanc.changes(since, PAGE)
            if last < since:  # Orthanc started over with an empty database
                last = 0
            for study_id in {
                change["ID"]
                for change in changes
                if change["ResourceType"] == "Study" and change["ChangeType"] in ("StableStudy", "UpdatedMetadata")
            }:
                study_uid = self._orthanc.study_uid(study_id)
                known = self._journal.study(study_uid) if study_uid else None
                if known:
                    self._refresh(study_uid, known[0])
            if last != since:
                self._journal.set_position("orthanc-changes", last)
            since = last

    def _sweep(self) -> None:
        for study in owned_studies(self._registry):
            if study.revision:
                self._refresh(study.study_uid, study.clinic_id)
                continue
            done = self._recorder.release(self._orthanc, study.study_uid, study.clinic_id)
            if done == "held":
                self._refresh(study.study_uid, study.clinic_id)
            elif done == "released":
                log.info("study %s: %s had claimed it, and no image came", study.study_uid, study.clinic_id)

    def _refresh(self, study_uid: str, clinic_id: str) -> None:
        try:
            done = self._recorder.refresh(self._orthanc, study_uid, clinic_id)
        except RejectedError as rejection:  # of one study: the others must not wait for it
            log.warning("study %s of clinic %s cannot be listed: %s", study_uid, clinic_id, rejection)
            return
        if done != "unchanged":
            log.info("study %s of clinic %s was changed in Orthanc: %s", study_uid, clinic_id, done)
