"""Orthanc as the importer uses it: it sends by STOW-RS, and reads MD5s and QIDO-RS answers."""

import contextlib
import http.client
import io
import json
import os
import re
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import md5
from pathlib import Path
from typing import Any

import requests
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage
from urllib3.exceptions import HTTPError, NewConnectionError

from imaging_importer import failpoints
from imaging_importer.dicom.instance import orthanc_id
from imaging_importer.dicom.stamp import Body
from imaging_importer.reasons import BrokenOffError, RejectedError, UnavailableError
from imaging_importer.registry import Attributes, Contents

# Seconds to connect, and between two bytes of the answer. Orthanc answers a STOW-RS request when it has stored all of
# it, at no less than so many bytes a second.
TIMEOUT = (5.0, 60.0)
SLOWEST = 1 << 20

# The owner of the image that shows whether Orthanc can store anything.
PROBE_PATIENT = "IMAGING-IMPORTER-PROBE"

JSON = {"Accept": "application/dicom+json, application/json"}

# The attachment of an instance that is the DICOM file.
DICOM_ATTACHMENT = 1

# The exceptions from reading a malformed answer.
NOT_UNDERSTOOD = (ValueError, AttributeError, LookupError, TypeError, RecursionError)

REFERENCED_SOP_SEQUENCE = "00081199"
FAILED_SOP_SEQUENCE = "00081198"
REFERENCED_SOP_INSTANCE_UID = "00081155"

# The attributes that the study list shows and searches (PS3.18 table 10.6.1-5, and those that OHIF asks for).
STUDY_ATTRIBUTES = (
    "00080020", "00080030", "00080050", "00080061", "00080080", "00080090", "00081030", "00100010", "00100020",
    "00100030", "00100040", "0020000D", "00200010", "00201206", "00201208",
)  # fmt: skip

# Orthanc leaves these names out of its database and its answers if they are longer than 256 bytes (tried).
PATIENT_NAME, REFERRING_PHYSICIAN_NAME = "00100010", "00080090"

# The attributes of series and instances that are shown and searched (PS3.18 tables 10.6.1-5, 10.6.3-4, 10.6.3-5):
# Orthanc's name, tag and VR. All are in Orthanc's database; for others it would open each file.
SERIES_ATTRIBUTES = {
    "Modality": ("00080060", "CS"),
    "SeriesDescription": ("0008103E", "LO"),
    "BodyPartExamined": ("00180015", "CS"),
    "SeriesInstanceUID": ("0020000E", "UI"),
    "SeriesNumber": ("00200011", "IS"),
    "PerformedProcedureStepStartDate": ("00400244", "DA"),
    "PerformedProcedureStepStartTime": ("00400245", "TM"),
}
INSTANCE_ATTRIBUTES = {
    "SOPClassUID": ("00080016", "UI"),
    "SOPInstanceUID": ("00080018", "UI"),
    "SeriesInstanceUID": ("0020000E", "UI"),
    "InstanceNumber": ("00200013", "IS"),
    "NumberOfFrames": ("00280008", "IS"),
}
NUMBER_OF_INSTANCES_IN_SERIES = "00201209"


@dataclass(frozen=True)
class Stow:
    """Orthanc's answer to a STOW-RS request, by SOPInstanceUIDs as it read them."""

    status: int
    stored: frozenset[str]
    # The instances that it read and did not store. With 409 they are of another study. Otherwise Orthanc has a problem
    # of its own (its database, its disk). An instance that it cannot read is not named.
    failed: frozenset[str]
    understood: bool  # whether it was Orthanc's answer, and no page of a program in between
    digests: list[str]  # the MD5 of each body


@dataclass(frozen=True)
class Held:
    """An instance as Orthanc holds it, under the identifiers that it read."""

    orthanc_id: str
    study_uid: str
    series_uid: str
    sop_instance_uid: str
    digests: frozenset[str]  # MD5 of the file


class Single:
    """One instance in a request body, streamed; it computes the MD5 on the way."""

    def __init__(self, body: Body, tick: Callable[[], None]) -> None:
        self._body = body
        self._tick = tick
        self.digest = ""

    def __len__(self) -> int:
        return self._body.size

    def __iter__(self) -> Iterator[bytes]:
        digest = md5(usedforsecurity=False)
        for chunk in self._body.chunks():
            self._tick()
            digest.update(chunk)
            yield chunk
            failpoints.reach("sending")
        self.digest = digest.hexdigest()


class Multipart:
    """Instances as the body of one STOW-RS request (multipart/related, RFC 2387), streamed."""

    def __init__(self, bodies: list[Body], tick: Callable[[], None]) -> None:
        self._parts = [Single(body, tick) for body in bodies]
        self.error: Exception | None = None  # of our own reading; requests would take it for an error of the connection
        self.boundary = uuid.uuid4().hex
        self._head = f"--{self.boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        self._end = f"--{self.boundary}--\r\n".encode()

    @property
    def digests(self) -> list[str]:
        """The MD5 of each instance, once all was sent."""
        return [part.digest for part in self._parts]

    def __len__(self) -> int:
        return sum(len(self._head) + len(part) + 2 for part in self._parts) + len(self._end)

    def __iter__(self) -> Iterator[bytes]:
        for part in self._parts:
            yield self._head
            try:
                yield from part
            except Exception as error:
                self.error = error
                raise
            yield b"\r\n"
        yield self._end


class OrthancClient:
    """One connection to Orthanc for one thread at a time. Every call may raise UnavailableError."""

    def __init__(self, url: str, user: str, password: str, tick: Callable[[], None] = lambda: None) -> None:
        self._url = url.rstrip("/")
        self._tick = tick
        self._lock = threading.Lock()
        self._session = requests.Session()
        self._session.trust_env = False  # loopback: no proxy, no netrc
        self._session.auth = (user, password)

    def _request(
        self,
        method: str,
        path: str,
        params: dict[str, str | int] | None = None,
        data: Multipart | str | None = None,
        headers: dict[str, str] | None = None,
        own_name: bool = True,
    ) -> requests.Response:
        connect, read = TIMEOUT
        if isinstance(data, Multipart):
            read += len(data) / SLOWEST
        with self._lock:
            try:
                if isinstance(data, Multipart):
                    self._session.close()  # a connection that Orthanc has closed since must not look like Orthanc's end
                response = self._session.request(
                    method, self._url + path, params=params, data=data, headers=headers, timeout=(connect, read),
                    # Without this, the session's own password replaces a given Authorization header.
                    auth=None if own_name else _as_given,
                )  # fmt: skip
            # requests wraps most of them, but not all.
            except (OSError, ValueError, HTTPError, http.client.HTTPException) as error:
                if isinstance(data, Multipart) and data.error is not None:
                    raise data.error from error
                if isinstance(data, Multipart) and not _never_began(error):
                    raise BrokenOffError("orthanc", str(error)) from error
                raise UnavailableError("orthanc", str(error)) from error
        if own_name and response.status_code in (401, 403):
            raise UnavailableError("orthanc", f"HTTP {response.status_code}: it refuses the importer's password")
        return response

    def _get(self, path: str, **params: str | int) -> Any:  # noqa: ANN401 - JSON
        return _content(self._request("GET", path, params, headers=JSON))

    def store(self, study_uid: str, bodies: list[Body]) -> Stow:
        """Send instances of one study by STOW-RS (PS3.18 10.5). Raises BrokenOffError if Orthanc stops or hangs.

        The request names the study, so Orthanc stores no instance that it reads as another study's.

        It has no Expect header, because Orthanc never answers 100-continue. The status says little about several
        instances: it is 400 if one part fails, and 200 for parts that Orthanc ignored.
        """
        upload = Multipart(bodies, self._tick)
        response = self._request(
            "POST",
            f"/dicom-web/studies/{study_uid}",
            data=upload,
            headers={
                "Content-Type": f'multipart/related; type="application/dicom"; boundary={upload.boundary}',
                "Accept": "application/dicom+json",
            },
        )
        # 500 may concern one of the images.
        if response.status_code > 500:
            raise UnavailableError("orthanc", f"HTTP {response.status_code} for a STOW-RS request")
        try:
            answer = response.json()
            stored, failed = (_referenced(answer, tag) for tag in (REFERENCED_SOP_SEQUENCE, FAILED_SOP_SEQUENCE))
            understood = REFERENCED_SOP_SEQUENCE in answer
        except NOT_UNDERSTOOD:
            stored, failed, understood = frozenset(), frozenset(), False
        return Stow(response.status_code, stored, failed, understood, upload.digests)

    def can_store(self) -> bool:
        """Whether it stores an image of our own now, which is removed again at once.

        This shows whether the problem is Orthanc's, or that of the one image that it did not store.
        """
        study, series, instance = (f"2.25.{uuid.uuid4().int}" for _ in range(3))
        with Path(os.devnull).open("rb") as nothing:
            answer = self.store(study, [Body(nothing, [_probe(study, series, instance)])])
        if instance in answer.stored:
            self.remove(orthanc_id(PROBE_PATIENT, study, series, instance))
        return instance in answer.stored

    def instances(self, sop_instance_uids: set[str]) -> list[Held]:
        """Every instance that Orthanc holds under these SOPInstanceUIDs, of any study."""
        question = {
            "Level": "Instance",
            "Query": {"SOPInstanceUID": "\\".join(sop_instance_uids)},
            "ResponseContent": ["MainDicomTags", "Attachments"],
            "RequestedTags": ["StudyInstanceUID", "SeriesInstanceUID"],
        }
        with _understanding():
            return [
                Held(
                    instance["ID"],
                    instance["RequestedTags"]["StudyInstanceUID"],
                    instance["RequestedTags"]["SeriesInstanceUID"],
                    instance["MainDicomTags"]["SOPInstanceUID"],
                    frozenset(
                        attachment["UncompressedMD5"]
                        for attachment in instance["Attachments"]
                        if attachment["ContentType"] == DICOM_ATTACHMENT
                    ),
                )
                for instance in _list(_content(self._request("POST", "/tools/find", data=json.dumps(question))))
            ]

    def raw_patient_id(self, study_id: str) -> bytes:
        """The PatientID as bytes from an image of Orthanc's study; empty if it has none."""
        question = {"Level": "Instance", "Query": {}, "ParentStudy": study_id, "Limit": 1}
        for instance_id in _content(self._request("POST", "/tools/find", data=json.dumps(question))):
            response = self._request("GET", f"/instances/{instance_id}/content/0010-0020")
            return response.content if response.status_code == 200 else b""
        return b""

    def parent_study(self, instance_id: str) -> str:
        """Orthanc's id of the study that an instance is filed under."""
        with _understanding():
            return str(self._get(f"/instances/{instance_id}/study")["ID"])

    def remove(self, instance_id: str) -> None:
        """Delete one instance that should not have been stored."""
        response = self._request("DELETE", f"/instances/{instance_id}")
        if response.status_code not in (200, 404):
            raise UnavailableError("orthanc", f"HTTP {response.status_code} for the deletion of an instance")

    def study_ids(self, study_uid: str) -> set[str]:
        """Orthanc's ids of the studies with this StudyInstanceUID: one per PatientID."""
        with _understanding():
            found = _content(
                self._request("POST", "/tools/lookup", data=study_uid, headers={"Content-Type": "text/plain"})
            )
            return {resource["ID"] for resource in _list(found) if resource["Type"] == "Study"}

    def study_attributes(self, study_uid: str) -> Attributes | None:
        """The study-level attributes as QIDO-RS answers them (PS3.18 10.6); None if Orthanc has no such study.

        Raises RejectedError if Orthanc cannot report them: an image has a sequence in place of a text.
        """
        question: dict[str, str | int] = {"StudyInstanceUID": study_uid, "includefield": ",".join(STUDY_ATTRIBUTES)}
        response = self._request("GET", "/dicom-web/studies", question, headers=JSON)
        if response.status_code == 400:
            raise RejectedError("not-listable", "Orthanc cannot read an attribute of the study")
        with _understanding():
            found = _list(_content(response))
            if not found:
                return None
            attributes = dict(found[0])
            # An empty name is in the answer too. A name that is not in it is missing in the file, or too long.
            return attributes if PATIENT_NAME in attributes else attributes | self._long_names(study_uid)

    def _long_names(self, study_uid: str) -> Attributes:
        """The names that a file of the study has; for Orthanc's database they may be too long."""
        first = _list(self._get(f"/dicom-web/studies/{study_uid}/instances", limit=1))[:1]
        for instance in first:
            response = self._request("GET", f"/dicom-web{_path(instance)}/metadata", headers=JSON)
            told = _list(_content(response))[0] if response.status_code == 200 else {}
            return {tag: told[tag] for tag in (PATIENT_NAME, REFERRING_PHYSICIAN_NAME) if tag in told}
        return {}

    def contents(self, study_uid: str) -> Contents:
        """All series and instances of a study, in one request, because each costs as much as naming many instances."""
        question = {
            "Level": "Instance",
            "Query": {"StudyInstanceUID": study_uid},
            "ResponseContent": ["RequestedTags"],
            "RequestedTags": list(SERIES_ATTRIBUTES | INSTANCE_ATTRIBUTES),
        }
        found = _content(self._request("POST", "/tools/find", data=json.dumps(question)))
        told = [one["RequestedTags"] for one in found if one["RequestedTags"].get("SeriesInstanceUID")]
        counts = Counter(tags["SeriesInstanceUID"] for tags in told)
        series = {tags["SeriesInstanceUID"]: _dicom_json(tags, SERIES_ATTRIBUTES) for tags in told}
        for uid, attributes in series.items():
            attributes[NUMBER_OF_INSTANCES_IN_SERIES] = {"vr": "IS", "Value": [counts[uid]]}
        return Contents(list(series.values()), [_dicom_json(tags, INSTANCE_ATTRIBUTES) for tags in told])

    def changes(self, since: int, limit: int) -> tuple[list[dict[str, Any]], int, bool]:
        """The next entries of Orthanc's change feed, the position after them, and whether they were the last."""
        with _understanding():
            page = self._get("/changes", since=since, limit=limit)
            return list(page["Changes"]), int(page["Last"]), bool(page["Done"])

    def study_uid(self, study_id: str) -> str:
        """The StudyInstanceUID of Orthanc's study; empty when it is gone."""
        with _understanding():
            return str(self._study(study_id).get("MainDicomTags", {}).get("StudyInstanceUID", ""))

    def last_update(self, study_id: str) -> str:
        """The time when Orthanc last stored or removed something in its study; empty if the study is gone."""
        return str(self._study(study_id).get("LastUpdate", ""))

    def size(self, study_id: str) -> int:
        """The bytes of the images of Orthanc's study; 0 if it is gone."""
        response = self._request("GET", f"/studies/{study_id}/statistics")
        with _understanding():
            return int(response.json()["DicomDiskSize"]) if response.status_code == 200 else 0

    def _study(self, study_id: str) -> dict[str, Any]:
        response = self._request("GET", f"/studies/{study_id}")
        with _understanding():
            return {} if response.status_code == 404 else dict(_content(response))

    def studies_of(self, path: str) -> list[str]:
        """StudyInstanceUIDs of the studies that a resource (`/series/ID`, …) is or belongs to; none if it is gone."""
        level = path.split("/")[1]
        parents = {"patients": "/studies", "series": "/study", "instances": "/study"}
        response = self._request("GET", path + parents.get(level, ""))
        if response.status_code == 404:
            return []
        with _understanding():
            found = _content(response)
            studies = found if isinstance(found, list) else [found]
            return [study["MainDicomTags"]["StudyInstanceUID"] for study in studies]

    def delete(self, path: str, authorization: str) -> int:
        """Delete a resource for the caller who gave this Authorization header; return Orthanc's status."""
        return self._request("DELETE", path, headers={"Authorization": authorization}, own_name=False).status_code

    def study_uids(self, page: int) -> Iterator[str]:
        """Every StudyInstanceUID that Orthanc holds, read in pages. It may miss one that comes meanwhile."""
        since, seen = 0, set()
        while studies := self._get("/studies", expand="", since=since, limit=page):
            for study in studies:
                study_uid = study["MainDicomTags"]["StudyInstanceUID"]
                if study_uid not in seen:
                    seen.add(study_uid)
                    yield study_uid
            since += len(studies)

    def counts(self) -> tuple[int, int, int]:
        """How many studies, series and instances Orthanc holds."""
        with _understanding():
            statistics = self._get("/statistics")
            return statistics["CountStudies"], statistics["CountSeries"], statistics["CountInstances"]


@contextlib.contextmanager
def _understanding() -> Iterator[None]:
    """Refuse an answer of another shape than our JSON: a program in between sent it, or Orthanc is starting."""
    try:
        yield
    except NOT_UNDERSTOOD as error:
        raise UnavailableError("orthanc", f"an answer that is none: {type(error).__name__} {error}"[:200]) from error


def _list(answer: Any) -> list[Any]:  # noqa: ANN401 - JSON
    """An answer that must be a list. Only an empty list means that Orthanc has nothing."""
    if not isinstance(answer, list):
        raise TypeError("no list")
    return answer


def _probe(study_uid: str, series_uid: str, sop_instance_uid: str) -> bytes:
    """An image without pixels, which Orthanc stores as any other."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.PatientID = SecondaryCaptureImageStorage, PROBE_PATIENT
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID = (
        study_uid,
        series_uid,
        sop_instance_uid,
    )
    file = io.BytesIO()
    dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


def _referenced(answer: dict[str, Any], sequence: str) -> frozenset[str]:
    items = answer.get(sequence, {}).get("Value", [])
    return frozenset(item[REFERENCED_SOP_INSTANCE_UID]["Value"][0] for item in items)


def _path(instance: Attributes) -> str:
    """The place of an instance below Orthanc's DICOMweb root."""
    study, series, sop = (instance[tag]["Value"][0] for tag in ("0020000D", "0020000E", "00080018"))
    return f"/studies/{study}/series/{series}/instances/{sop}"


def _dicom_json(told: dict[str, Any], attributes: dict[str, tuple[str, str]]) -> Attributes:
    """Orthanc's plain texts as DICOM JSON (PS3.18 F.2).

    An attribute without a value, or that is no text or number, is left out.
    """
    found: Attributes = {}
    for keyword, (tag, vr) in attributes.items():
        text = told.get(keyword)
        items = text.split("\\") if isinstance(text, str) else []
        values: list[Any] = [value for item in items if (value := item.strip(" \0"))]
        if vr == "IS":
            values = [int(value) for value in values if re.fullmatch(r"[+-]?[0-9]{1,12}", value, re.ASCII)]
        if values:
            found[tag] = {"vr": vr, "Value": values}
    return found


def _never_began(error: Exception) -> bool:
    """Whether there was no connection at all, so that nothing was sent."""
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return isinstance(error, requests.ConnectTimeout) or isinstance(reason, NewConnectionError)


def _as_given(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _content(response: requests.Response) -> Any:  # noqa: ANN401 - JSON
    if response.status_code != 200:
        path = response.request.path_url.partition("?")[0]
        raise UnavailableError("orthanc", f"HTTP {response.status_code} for {response.request.method} {path}")
    return response.json()
