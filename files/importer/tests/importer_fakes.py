"""Orthanc and the registry as the importer sees them, in one HTTP server of the test process.

It stores real multipart bodies, reads them with pydicom and answers as Orthanc 1.13 does: 400 as soon as one part does
not parse, 200 for other bytes under a known SOPInstanceUID (and keeps the first), MD5 of what it holds.
"""

import email.parser
import hashlib
import io
import json
import random
import threading
import time
import urllib.parse
from collections import defaultdict
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pydicom
import requests
from imaging_importer.reasons import RejectedError, UnavailableError
from imaging_importer.registry import Attributes, Claim, Contents, Displayed, OwnedStudy

# Longer than the importers of the recovery tests wait for an answer, in seconds.
LATE = 0.6


def resource_id(*identifiers: str) -> str:
    digest = hashlib.sha1("|".join(identifiers).encode(), usedforsecurity=False).hexdigest()
    return "-".join(digest[start : start + 8] for start in range(0, 40, 8))


def described(identity: tuple[str, ...]) -> dict[str, object]:
    """The study that an instance belongs to, or another resource with its study, as Orthanc tells it."""
    return {"ID": resource_id(*identity[:2]), "MainDicomTags": {"StudyInstanceUID": identity[1]}}


def is_stow(path: str) -> bool:
    return path.startswith("/dicom-web/studies/")


def sop_instance_uid(data: bytes) -> str:
    try:
        return str(pydicom.dcmread(io.BytesIO(data), specific_tags=["SOPInstanceUID"]).SOPInstanceUID)
    except Exception:
        return ""


class Faults:
    """Which requests go wrong. `probability` per request, kinds drawn from a seeded generator.

    drop: the connection ends without an answer; 503 and 400: nothing is done; -after: all is done, then that answer;
    late: all is done, the answer comes after the importer's patience; garbage: 200 with a page of HTML; liar: 200 and
    "stored" though nothing was; forgetful: 200 and nothing named though all was stored.
    """

    def __init__(self) -> None:
        self.random = random.Random(0)
        self.probability = 0.0
        self.down = False
        self.poison = b""  # Orthanc stumbles over every request that holds these bytes
        self.deadly: tuple[bytes, ...] = ()  # Orthanc dies of every request that holds some of these bytes
        self.deaths = 0
        self.dead_until = 0.0
        self.hangs = b""  # Orthanc does not answer a request that holds these bytes for long
        self.unlistable = ""  # the registry does not take the attributes of this study
        self.untellable = ""  # Orthanc's QIDO-RS cannot tell the attributes of this study
        self.unstorable = b""  # Orthanc reads an instance that holds these bytes, and cannot store it
        self.misread: dict[bytes, dict[str, str]] = {}  # Orthanc's reading of an instance that holds these bytes
        self.refused = b""  # Orthanc cannot read an instance that holds these bytes
        self.delay = 0.0  # seconds that Orthanc thinks about a STOW-RS request
        self.cost = 0.0  # seconds of Orthanc's work for each MiB of a STOW-RS request; requests share it in turns
        self.lies = 0  # so many STOW-RS requests are answered "stored" though nothing was
        self.count = 0

    def draw(self, path: str, body: bytes) -> str:
        fault = self._draw(path, body)
        self.count += bool(fault)
        return fault

    def _draw(self, path: str, body: bytes) -> str:
        if self.down or time.monotonic() < self.dead_until:
            return "drop"
        if any(marker in body for marker in self.deadly):
            self.deaths += 1
            self.dead_until = time.monotonic() + 0.3
            return "drop"
        if self.poison and self.poison in body:
            return "503"
        if self.lies and is_stow(path) and body:
            self.lies -= 1
            return "liar"
        if self.random.random() >= self.probability:
            return ""
        kinds = ["drop", "503"]
        if not path.startswith("/registry"):
            kinds += ["drop-after", "503-after", "late", "garbage"]
        if is_stow(path):
            kinds += ["400", "liar", "forgetful"]
        return self.random.choice(kinds)


class Platform:
    """The content of Orthanc and the registry."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._busy = threading.Lock()
        self.faults = Faults()
        self.instances: dict[str, bytes] = {}
        self.identity: dict[str, tuple[str, str, str, str]] = {}
        self.uploads = 0  # instances received, stored or not
        self.changes: list[dict[str, object]] = []
        self.clinics = ["north", "south"]
        self.owner: dict[str, str] = {}
        self.recorded: dict[str, Attributes] = {}
        self.contents_told: dict[str, dict[str, list[Attributes]]] = {}
        self.largest: dict[str, int] = {}
        self.undisplayable: dict[tuple[str, str], str] = {}  # study, instance -> code
        self.access_log: list[tuple[str, str, str, str | None]] = []  # user, clinic, study, detail
        self.requests: list[str] = []
        self.course: dict[str, list[str]] = defaultdict(list)  # the calls for each study, in their order
        handler = type("Handler", (_Handler,), {"platform": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def work(self, size: int) -> None:
        """Be as busy as Orthanc is with so many bytes: a piece at a time, and others in between."""
        left = size / (1 << 20) * self.faults.cost
        while left > 0:
            with self._busy:
                time.sleep(min(left, 0.02))
            left -= 0.02
            time.sleep(0)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def md5s(self) -> dict[str, str]:
        """SOPInstanceUID -> MD5 of what is stored."""
        with self.lock:
            return {self.identity[key][3]: self.md5(key) for key in self.instances}

    def md5(self, key: str) -> str:
        return hashlib.md5(self.instances[key], usedforsecurity=False).hexdigest()

    def store(self, data: bytes, study_uid: str = "") -> tuple[str, str]:
        """The SOPInstanceUID, and what became of it: stored, failed (read, not stored), elsewhere or unread."""
        self.uploads += 1
        if self.faults.refused and self.faults.refused in data:
            return "", "unread"
        try:
            ds = pydicom.dcmread(
                io.BytesIO(data), specific_tags=["PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]
            )
            for marker, tags in self.faults.misread.items():
                if marker in data:
                    for keyword, value in tags.items():
                        setattr(ds, keyword, value)
            identity = (str(ds.get("PatientID") or ""), ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID)
        except Exception:
            return "", "unread"
        if study_uid and identity[1] != study_uid:
            return identity[3], "elsewhere"
        if self.faults.unstorable and self.faults.unstorable in data:
            return identity[3], "failed"
        key = resource_id(*identity)
        if key not in self.instances:
            self.instances[key] = data
            self.identity[key] = identity
        return identity[3], "stored"

    def study(self, study_uid: str) -> list[Attributes]:
        patients = {identity[0] for identity in self.identity.values() if identity[1] == study_uid}
        return [
            {
                "0020000D": {"vr": "UI", "Value": [study_uid]},
                "00080080": {"vr": "LO", "Value": [self.institution(study_uid)]},
                **self.names(study_uid, 256),
                "00100020": {"vr": "LO", "Value": [patient]},
                "00201208": {
                    "vr": "IS",
                    "Value": [sum(found[:2] == (patient, study_uid) for found in self.identity.values())],
                },
            }
            for patient in sorted(patients)
        ]

    def names(self, study_uid: str, longest: int) -> Attributes:
        """The patient's name as DICOM JSON; Orthanc's database has none that is longer than 256 bytes."""
        data = next(self.instances[key] for key, identity in self.identity.items() if identity[1] == study_uid)
        found = pydicom.dcmread(io.BytesIO(data), specific_tags=["SpecificCharacterSet", "PatientName"])
        name = str(found.get("PatientName", ""))
        return {} if len(name.encode()) > longest else {"00100010": {"vr": "PN", "Value": [{"Alphabetic": name}]}}

    def contents(self, question: dict[str, Any]) -> list[dict[str, object]]:
        """A study's instances, as Orthanc finds them."""
        found = []
        for key, identity in self.identity.items():
            if identity[1] == question["Query"]["StudyInstanceUID"]:
                one = pydicom.dcmread(io.BytesIO(self.instances[key]), specific_tags=question["RequestedTags"])
                tags = {tag: None if one.get(tag) is None else str(one.get(tag)) for tag in question["RequestedTags"]}
                found.append({"RequestedTags": tags})
        return found

    def institution(self, study_uid: str) -> str:
        data = next(self.instances[key] for key, identity in self.identity.items() if identity[1] == study_uid)
        return str(pydicom.dcmread(io.BytesIO(data), specific_tags=["InstitutionName"]).get("InstitutionName", ""))

    def delete_study(self, study_uid: str) -> None:
        with self.lock:
            for key in [key for key, identity in self.identity.items() if identity[1] == study_uid]:
                del self.identity[key], self.instances[key]


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """An importer that was killed left its connection open; that is what the tests do."""


class _Handler(BaseHTTPRequestHandler):
    platform: Platform
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._handle(b"")

    def do_POST(self) -> None:
        self._handle(self.rfile.read(int(self.headers["Content-Length"])))

    def do_DELETE(self) -> None:
        self._handle(b"")

    def _handle(self, body: bytes) -> None:
        with self.platform.lock:
            fault = self.platform.faults.draw(self.path, body)
            self.platform.requests.append(f"{self.command} {self.path}")
            if fault in ("drop", "503", "400"):
                status, answer = int(fault) if fault != "drop" else 0, b""
            elif fault == "garbage":
                status, answer = 200, b"<html>starting up</html>"
            elif fault == "liar":
                status, answer = self._claim_all_stored(body) if self.command == "POST" else (200, b"[]")
            else:
                status, answer = self._answer(self.path, body)
                if fault == "forgetful":
                    answer = b"{}" if self.command == "POST" else b"[]"
                elif fault in ("drop-after", "503-after"):
                    status, answer = (503, b"") if fault == "503-after" else (0, b"")
        if self.platform.faults.hangs and self.platform.faults.hangs in body:
            time.sleep(3)
        if is_stow(self.path) and self.command == "POST":
            time.sleep(self.platform.faults.delay)
            self.platform.work(len(body))
        if fault == "late":
            time.sleep(LATE)
        if status == 0:
            self.close_connection = True
            return
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)
        except OSError:  # the importer was killed
            self.close_connection = True

    def _answer(self, target: str, body: bytes) -> tuple[int, bytes]:
        path, _, query = target.partition("?")
        fields = {key: values[0] for key, values in urllib.parse.parse_qs(query).items()}
        platform = self.platform
        if is_stow(path) and self.command == "POST":
            platform.course[path.rpartition("/")[2]].append("upload")
            return self._stow(body, path.rpartition("/")[2])
        if path.startswith("/instances/"):
            identity = platform.identity.get(path.split("/")[2])
            if identity is None:
                return 404, b""
            if self.command == "DELETE":
                del platform.identity[path.split("/")[2]], platform.instances[path.split("/")[2]]
                return 200, b"{}"
            if path.endswith("/content/0010-0020"):
                ds = pydicom.dcmread(io.BytesIO(platform.instances[path.split("/")[2]]))
                return 200, ds.get_item("PatientID").value
            return 200, json.dumps(described(identity)).encode()
        if path.startswith(("/patients/", "/series/")):
            _, level, key, _ = path.split("/")
            depth = 1 if level == "patients" else 3
            studies = {found[:2] for found in platform.identity.values() if resource_id(*found[:depth]) == key}
            if not studies:
                return 404, b""
            answer = [described(study) for study in sorted(studies)]
            return 200, json.dumps(answer if level == "patients" else answer[0]).encode()
        if path == "/tools/find" and b"ParentStudy" in body:
            study = json.loads(body)["ParentStudy"]
            found = [key for key, identity in platform.identity.items() if resource_id(*identity[:2]) == study]
            return 200, json.dumps(found[:1]).encode()
        if path == "/tools/find" and "StudyInstanceUID" in json.loads(body)["Query"]:
            return 200, json.dumps(platform.contents(json.loads(body))).encode()
        if path == "/tools/find":
            asked = json.loads(body)["Query"]["SOPInstanceUID"].split("\\")
            answer = [
                {
                    "ID": key,
                    "MainDicomTags": {"SOPInstanceUID": identity[3]},
                    "RequestedTags": {"StudyInstanceUID": identity[1], "SeriesInstanceUID": identity[2]},
                    "Attachments": [{"ContentType": 1, "UncompressedMD5": platform.md5(key)}],
                }
                for key, identity in platform.identity.items()
                if identity[3] in asked
            ]
            return 200, json.dumps(answer).encode()
        if path == "/tools/lookup":
            uid = body.decode()
            found = {resource_id(*identity[:2]) for identity in platform.identity.values() if identity[1] == uid}
            return 200, json.dumps([{"ID": key, "Type": "Study"} for key in sorted(found)]).encode()
        if path == "/dicom-web/studies" and fields["StudyInstanceUID"] == platform.faults.untellable:
            return 400, b""
        if path == "/dicom-web/studies":
            return 200, json.dumps(platform.study(fields["StudyInstanceUID"])).encode()
        if path.startswith("/dicom-web/studies/"):
            identity = next(found for found in platform.identity.values() if found[1] == path.split("/")[3])
            if path.endswith("/metadata"):
                return 200, json.dumps([platform.names(identity[1], 1 << 16)]).encode()
            uids = dict(zip(("0020000D", "0020000E", "00080018"), identity[1:], strict=True))
            return 200, json.dumps([{tag: {"vr": "UI", "Value": [uid]} for tag, uid in uids.items()}]).encode()
        if path == "/studies":
            uids = sorted({identity[:2] for identity in platform.identity.values()})
            page = uids[int(fields["since"]) :][: int(fields["limit"])]
            return 200, json.dumps([{"MainDicomTags": {"StudyInstanceUID": uid}} for _, uid in page]).encode()
        if path.startswith("/studies/") and path.endswith("/statistics"):
            keys = [key for key, found in platform.identity.items() if resource_id(*found[:2]) == path.split("/")[2]]
            size = sum(len(platform.instances[key]) for key in keys)
            return 200 if keys else 404, json.dumps({"DicomDiskSize": str(size)}).encode()
        if path.startswith("/studies/"):
            found = [
                identity for identity in platform.identity.values() if resource_id(*identity[:2]) == path.split("/")[2]
            ]
            answer = (
                {"MainDicomTags": {"StudyInstanceUID": found[0][1]}, "LastUpdate": str(len(found))} if found else {}
            )
            return 200 if found else 404, json.dumps(answer).encode()
        if path == "/changes":
            since = int(fields["since"])
            page = platform.changes[since : since + int(fields["limit"])]
            last = since + len(page)
            return 200, json.dumps({"Changes": page, "Last": last, "Done": last >= len(platform.changes)}).encode()
        if path == "/statistics":
            identities = set(platform.identity.values())
            counts = [len({identity[:depth] for identity in identities}) for depth in (2, 3, 4)]
            names = ("CountStudies", "CountSeries", "CountInstances")
            return 200, json.dumps(dict(zip(names, counts, strict=True))).encode()
        if path.startswith("/registry/"):
            return 200, json.dumps(self._registry(path.rpartition("/")[2], json.loads(body))).encode()
        return 404, b""

    def _registry(self, function: str, arguments: list[object]) -> object:
        platform = self.platform
        if function in ("log_upload", "claim_study", "record_study"):
            platform.course[str(arguments[0])].append(function)
        if function == "claim_study":
            return platform.owner.setdefault(arguments[0], arguments[1]) == arguments[1]
        if function == "record_study" and arguments[0] == platform.faults.unlistable:
            return {"refused": "index row size 3008 exceeds btree version 4 maximum 2704"}
        if function == "record_study":
            assert platform.owner[arguments[0]] == arguments[1], "recorded what is not claimed"
            platform.recorded[arguments[0]] = arguments[2]
            if arguments[4]:
                platform.contents_told[arguments[0]] = arguments[4]
            platform.largest[arguments[0]] = max(platform.largest.get(arguments[0], 0), arguments[3])
            return len(platform.recorded)
        if function == "note_display":
            for study_uid, sop_uid, code in arguments[0]:
                platform.undisplayable.pop((study_uid, sop_uid), None)
                if code:
                    platform.undisplayable[study_uid, sop_uid] = code
            return None
        if function == "record_contents":
            assert platform.owner[arguments[0]] == arguments[1], "recorded what is not claimed"
            platform.contents_told[arguments[0]] = arguments[2]
            return None
        if function == "forget_study":
            platform.recorded.pop(arguments[0], None)
            return platform.owner.pop(arguments[0], None) is not None
        if function == "log_upload":
            platform.access_log.append((arguments[2].get("username"), arguments[1], arguments[0], arguments[3]))
            return None
        if function == "release_claim":
            free = platform.owner.get(arguments[0]) == arguments[1] and arguments[0] not in platform.recorded
            return free and bool(platform.owner.pop(arguments[0]))
        if function == "claims":
            claimed = platform.owner.keys() - platform.recorded.keys()
            return [[platform.owner[uid], uid, "2026-01-01T00:00:00Z"] for uid in sorted(claimed)]
        if function == "owned_studies":
            uids = sorted(uid for uid in platform.owner if uid > arguments[0])[: arguments[1]]
            return [[uid, platform.owner[uid], int(uid in platform.recorded)] for uid in uids]
        return platform.clinics

    def _claim_all_stored(self, body: bytes) -> tuple[int, bytes]:
        uids = [sop_instance_uid(part) for part in self._parts(body)]
        stored = [{"00081155": {"vr": "UI", "Value": [uid]}} for uid in uids if uid]
        return 200, json.dumps({"00081199": {"vr": "SQ", "Value": stored}}).encode()

    def _parts(self, body: bytes) -> list[bytes]:
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n"
        boundary = email.parser.Parser().parsestr(head).get_boundary()
        return [part.partition(b"\r\n\r\n")[2][:-2] for part in body.split(f"--{boundary}".encode())[1:-1]]

    def _stow(self, body: bytes, study_uid: str) -> tuple[int, bytes]:
        """As Orthanc 1.13: what it cannot read is named nowhere; another study's and what it cannot store failed."""
        stored, failed, status = [], [], 200
        for part in self._parts(body):
            uid, end = self.platform.store(part, study_uid)
            if end == "stored":
                stored.append({"00081155": {"vr": "UI", "Value": [uid]}})
                continue
            status = 409 if end == "elsewhere" and status != 400 else 400
            if end != "unread":
                reason = {"vr": "US", "Value": [0x110]}
                failed.append({"00081155": {"vr": "UI", "Value": [uid]}, "00081197": reason})
        answer: dict[str, object] = {"00081199": {"vr": "SQ", "Value": stored}}
        if failed:
            answer["00081198"] = {"vr": "SQ", "Value": failed}
        return status, json.dumps(answer).encode()


class HttpRegistry:
    """The registry of a Platform, also from another process."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session = requests.Session()

    def _call(self, function: str, *arguments: object):
        try:
            answer = self._session.post(f"{self._url}/registry/{function}", json=arguments, timeout=10)
        except requests.RequestException as error:
            raise UnavailableError("registry", str(error)) from error
        if answer.status_code != 200:
            raise UnavailableError("registry", str(answer.status_code))
        return answer.json()

    def claim_study(self, study_uid: str, clinic_id: str) -> bool:
        return self._call("claim_study", study_uid, clinic_id)

    def record_study(
        self, study_uid: str, clinic_id: str, attributes: Attributes, largest: int = 0, contents: Contents | None = None
    ) -> int:
        told = asdict(contents) if contents else None
        answer = self._call("record_study", study_uid, clinic_id, attributes, largest, told)
        if isinstance(answer, dict):
            raise RejectedError("not-listable", answer["refused"])
        return answer

    def note_display(self, images: list[Displayed]) -> None:
        self._call("note_display", [[image.study_uid, image.sop_instance_uid, image.code] for image in images])

    def record_contents(self, study_uid: str, clinic_id: str, contents: Contents) -> None:
        self._call("record_contents", study_uid, clinic_id, asdict(contents))

    def forget_study(self, study_uid: str) -> bool:
        return self._call("forget_study", study_uid)

    def owned_studies(self, after: str, count: int) -> list[OwnedStudy]:
        return [OwnedStudy(*row) for row in self._call("owned_studies", after, count)]

    def list_clinics(self) -> list[str]:
        return self._call("list_clinics")

    def log_upload(self, study_uid: str, clinic_id: str, caller: dict[str, object], detail: str | None) -> None:
        self._call("log_upload", study_uid, clinic_id, caller, detail)

    def claims(self) -> list[Claim]:
        return [Claim(*row) for row in self._call("claims")]

    def release_claim(self, study_uid: str, clinic_id: str) -> bool:
        return self._call("release_claim", study_uid, clinic_id)
