"""Answers an operator's commands on the host. Only the running importer knows which work is under way."""

import logging
from collections.abc import Callable

from imaging_importer.journal import Journal
from imaging_importer.orthanc import OrthancClient
from imaging_importer.reasons import TransientError
from imaging_importer.recorder import Recorder
from imaging_importer.registry import Registry
from imaging_importer.web import Answer, Request, as_text

log = logging.getLogger(__name__)

DROP = "/jobs/[0-9A-Za-z-]{1,64}/drop"
RELEASE = "/claims/[0-9.]{1,64}/release"


class Operator:
    """Answers the commands `drop` and `release`."""

    def __init__(
        self, journal: Journal, registry: Registry, recorder: Recorder, orthanc: OrthancClient, wake: Callable[[], None]
    ) -> None:
        self._journal = journal
        self._registry = registry
        self._recorder = recorder
        self._orthanc = orthanc
        self._wake = wake

    def drop(self, request: Request) -> Answer:
        """End a job at its next turn, even if it waits for something."""
        job_id = request.path.split("/")[2]
        if not self._journal.drop(job_id):
            return as_text(404, f"{job_id} is no open job: `imaging-importer status` lists them\n")
        log.warning("job %s: an operator ends it", job_id)
        self._wake()
        return as_text(
            200, f"{job_id} ends at its next turn, within a minute or two; its files go to the failed folder\n"
        )

    def release(self, request: Request) -> Answer:
        """Give up a claim without any image."""
        study_uid = request.path.split("/")[2]
        try:
            clinics = [claim.clinic_id for claim in self._registry.claims() if claim.study_uid == study_uid]
            done = self._recorder.release(self._orthanc, study_uid, clinics[0]) if clinics else "none"
        except TransientError as error:
            return as_text(503, f"try again in a moment: {error}\n")
        if done == "released":
            log.warning("study %s: an operator releases the claim of %s", study_uid, clinics[0])
            return as_text(200, f"{study_uid} is free; whoever delivers it first owns it\n")
        why = {
            "under way": "a delivery that has begun with it is open: wait for its end, or drop it",
            "held": "Orthanc has images of it: delete the study there first, or `imaging-importer rebuild`",
            "none": "it is no claim without images: `imaging-importer claims` lists them",
        }
        return as_text(409, f"{study_uid} stays as it is: {why[done]}\n")
