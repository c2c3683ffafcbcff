"""Makes a study's row in the registry agree with Orthanc, after an import and when Orthanc was edited."""

import contextlib
import json
import threading
from collections.abc import Iterable, Iterator
from hashlib import sha256

from imaging_importer.journal import Journal, KnownStudy
from imaging_importer.orthanc import OrthancClient
from imaging_importer.reasons import TransientError, UnavailableError
from imaging_importer.registry import Attributes, Contents, Registry

# Orthanc takes most of a second to name 1,000 instances. A study that grows image by image is asked about each time it
# has grown by so much, and when Orthanc reports that it rests.
FEW = 100
GROWN = 1.25

NUMBER_OF_INSTANCES = "00201208"


class Recorder:
    """Records studies. A thread that claims or forgets studies holds them, so that no claim is dropped too early.

    A claim's first image may be on the way. Threads with different studies do not wait for each other.
    """

    def __init__(self, journal: Journal, registry: Registry) -> None:
        self._journal = journal
        self._registry = registry
        self._released = threading.Condition()
        self._held: dict[str, list[int]] = {}  # StudyInstanceUID -> the holding thread, as often as it holds it

    @contextlib.contextmanager
    def holding(self, study_uids: Iterable[str]) -> Iterator[None]:
        """Hold all of these studies at once. Within, the same thread may hold some of them again, but no others.

        Otherwise two threads could wait for each other.
        """
        me, wanted = threading.get_ident(), set(study_uids)
        with self._released:
            self._released.wait_for(lambda: all(self._held.get(uid, [me])[0] == me for uid in wanted))
            for uid in wanted:
                self._held.setdefault(uid, []).append(me)
        try:
            yield
        finally:
            with self._released:
                for uid in wanted:
                    self._held[uid].pop()
                    if not self._held[uid]:
                        del self._held[uid]
                self._released.notify_all()

    def refresh(
        self, orthanc: OrthancClient, study_uid: str, clinic_id: str, always: bool = False, largest: int = 0
    ) -> str:
        """Record the study if it changed since last time (or always). Forget it if Orthanc no longer has it.

        `largest`: bytes of the largest instance that came just now. Returns what was done.
        """
        with self.holding([study_uid]):
            attributes = orthanc.study_attributes(study_uid)
            study_ids = sorted(orthanc.study_ids(study_uid))
            if attributes is None and study_ids:
                raise TransientError(f"orthanc has study {study_uid} but its QIDO-RS does not find it")
            if attributes is None:
                self._registry.forget_study(study_uid)
                self._journal.forget_study(study_uid)
                return "forgotten"
            updates = sorted(map(orthanc.last_update, study_ids))
            content = json.dumps([attributes, updates], sort_keys=True).encode()
            fingerprint = sha256(content).hexdigest()
            known = self._journal.study(study_uid)
            if not always and known and known[:2] == (clinic_id, fingerprint):
                if known.behind and (contents := _contents(orthanc, study_uid)):
                    self._registry.record_contents(study_uid, clinic_id, contents)
                    known = known._replace(listed=len(contents.instances), behind=False)
                    self._journal.record_study(study_uid, known)
                if not known.size:
                    self._journal.record_study(study_uid, known._replace(size=_size(orthanc, study_ids)))
                return "unchanged"
            if not self._registry.claim_study(study_uid, clinic_id):
                return "owned by another clinic"
            listed = known.listed if known else 0
            waits = always and FEW < _instances(attributes) < GROWN * listed
            contents = None if waits else _contents(orthanc, study_uid)
            self._registry.record_study(study_uid, clinic_id, attributes, largest, contents)
            listed = len(contents.instances) if contents else listed
            size = _size(orthanc, study_ids)
            self._journal.record_study(study_uid, KnownStudy(clinic_id, fingerprint, size, listed, contents is None))
            return "recorded"

    def release(self, orthanc: OrthancClient, study_uid: str, clinic_id: str) -> str:
        """Give up a claim without any image; return what was done."""
        with self.holding([study_uid]):
            if self._journal.is_attempted(study_uid):
                return "under way"
            if orthanc.study_ids(study_uid):
                return "held"
            return "released" if self._registry.release_claim(study_uid, clinic_id) else "none"


def _instances(attributes: Attributes) -> int:
    return int((attributes.get(NUMBER_OF_INSTANCES, {}).get("Value") or [0])[0])


def _contents(orthanc: OrthancClient, study_uid: str) -> Contents | None:
    """The study's series and instances.

    If that takes too long, the study is recorded without them, and the next sweep asks again.
    """
    try:
        return orthanc.contents(study_uid)
    except UnavailableError:
        return None


def _size(orthanc: OrthancClient, study_ids: Iterable[str]) -> int:
    """The study's bytes, for which Orthanc looks at each image.

    If that takes too long, the study is recorded without them, and the next sweep asks again.
    """
    try:
        return sum(map(orthanc.size, study_ids))
    except UnavailableError:
        return 0
