"""Deletes in Orthanc for an administrator, and carries the deletion to the registry before the answer.

So when the answer says that something is gone, neither the study list nor the proxy's cache has it.
"""

import logging

from imaging_importer.journal import Journal
from imaging_importer.orthanc import OrthancClient
from imaging_importer.reasons import RejectedError, TransientError
from imaging_importer.recorder import Recorder
from imaging_importer.web import Answer, Request, as_json, as_text

log = logging.getLogger(__name__)

RESOURCE = r"/(?:patients|studies|series|instances)/[0-9a-f]{8}(?:-[0-9a-f]{8}){4}"


class Eraser:
    """Deletes with the caller's own password for Orthanc. Somebody who can reach this port has no right to delete."""

    def __init__(self, journal: Journal, recorder: Recorder, orthanc: OrthancClient) -> None:
        self._journal = journal
        self._recorder = recorder
        self._orthanc = orthanc

    def erase(self, request: Request) -> Answer:
        """Delete the resource; Orthanc's status."""
        path, authorization = request.path, request.headers.get("Authorization", "")
        try:
            status = self._erase(path, authorization)
        except TransientError as error:
            # If it was deleted nevertheless, the reconciler finds that in seconds.
            log.warning("a deletion is not carried to the registry yet: %s", error)
            return as_text(503, "try again in a moment\n")
        return as_json({}, status)

    def _erase(self, path: str, authorization: str) -> int:
        """Delete, and carry it to the registry. Nothing of these studies is imported meanwhile."""
        studies: list[str] = []
        while True:
            with self._recorder.holding(studies):
                found = self._orthanc.studies_of(path)
                if set(found) <= set(studies):
                    status = self._orthanc.delete(path, authorization)
                    if status == 200:
                        for study_uid in found:
                            self._refresh(study_uid)
                    return status
            studies = found

    def _refresh(self, study_uid: str) -> None:
        known = self._journal.study(study_uid)
        if known:
            try:
                done = self._recorder.refresh(self._orthanc, study_uid, known[0])
            except RejectedError as rejection:  # the deletion was done; the rest of the study cannot be listed
                done = str(rejection)
            log.info("study %s of clinic %s: an administrator deleted in it: %s", study_uid, known[0], done)
