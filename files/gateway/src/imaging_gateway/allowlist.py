"""The allow-list: method × path × query parameters × roles. Anything that no row names does not exist.

Series and instance UIDs need no owner of their own. Every path names the study, whose owner is checked. Orthanc answers
404 when a series or an instance is not of that study. For that reason images are reached below /studies/{study} only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum, auto

from imaging_gateway import search
from imaging_gateway.accept import Form, choose
from imaging_gateway.grammar import UID
from imaging_gateway.refusals import AcceptError, RefusedError, RepeatedFrameError
from imaging_gateway.request_line import Request

VIEWERS = frozenset({"physician", "technician", "admin"})
UPLOADERS = frozenset({"technician", "admin"})
ADMIN = frozenset({"admin"})
AUDITORS = frozenset({"auditor", "admin"})

# The fields that a path has in braces.
PLACES = {
    "study": UID,
    "series": UID,
    "instance": UID,
    "frames": r"(?>[1-9][0-9]{0,8}(?:,[1-9][0-9]{0,8})*)",
    "bulk": r"[0-9A-Fa-f]{8}(?:/[1-9][0-9]{0,8}/[0-9A-Fa-f]{8}){0,16}",
    "level": r"patients|studies|series|instances",
    "id": r"[0-9a-f]{8}(?:-[0-9a-f]{8}){4}",
    "related": r"patient|study|series|studies|instances|labels|metadata|statistics|shared-tags|archive",
    "content": r"file|preview|tags|simplified-tags",
    "job": r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "command": r"cancel|pause|resume",
    "label": r"[A-Za-z0-9_-]{1,64}",
}

# The values that a query parameter may have.
NUMBER, FLAG, TAGS = r"[0-9]{1,9}", r"|true|false|1|0", r"[0-9A-Za-z,.]{1,2000}"
PAGE = {"limit": NUMBER, "offset": NUMBER, "fuzzymatching": FLAG, "includefield": TAGS}
# Below one study, Orthanc answers. It is asked with the same keys, but for one code only.
FORMS = {search.CODE_LIST: search.CODE, search.UID_LIST: rf"{UID}(?:[,\\]{UID}){{0,99}}"}


def _keys(matchable: tuple[tuple[str, str, str], ...]) -> dict[str, str]:
    return {name: FORMS.get(form, form) for keyword, tag, form in matchable for name in (keyword, tag)}


SERIES = {**PAGE, **_keys(search.SERIES_MATCHABLE)}
INSTANCES = {**PAGE, **_keys(search.INSTANCE_MATCHABLE)}
INSTANCES_OF_STUDY = {**INSTANCES, **SERIES}
# PS3.18 8.3.5.1. A rendered image takes memory by its viewport, so the viewport has a limit. Orthanc cannot draw an
# image without pixels.
PIXELS = r"(?:[1-9][0-9]{0,2}|[1-3][0-9]{3}|40[0-8][0-9]|409[0-6])"
DECIMAL = r"-?[0-9]{1,6}(?:\.[0-9]{1,6})?"
RENDERED = {
    "quality": r"[1-9][0-9]?|100",
    "viewport": rf"{PIXELS},{PIXELS}(?:,(?:{DECIMAL})?){{0,4}}",
    "window": rf"{DECIMAL},{DECIMAL},(?:linear|linear-exact|sigmoid)",
}
ORTHANC_LIST = {"since": NUMBER, "limit": NUMBER, "expand": FLAG, "full": FLAG, "short": FLAG}
NOTHING: dict[str, str] = {}

DICOM_WEB = "/dicom-web/"
STUDIES = DICOM_WEB + "studies"
STUDY = STUDIES + "/{study}"
ONE_SERIES = STUDY + "/series/{series}"
INSTANCE = ONE_SERIES + "/instances/{instance}"
RESOURCE = "/orthanc/{level}/{id}"

# The forms that a client may ask for, and the forms that Orthanc is asked for then. A client without a preference gets
# the first of a row. DICOM files and frames are sent in the transfer syntax in which they are stored: Orthanc converts
# nothing.
MULTIPART, DICOM, BYTES, PDF, VIDEO = (
    "multipart/related", "application/dicom", "application/octet-stream", "application/pdf", "video/mp4",
)  # fmt: skip
JSON = tuple(Form(name, "application/dicom+json") for name in ("application/dicom+json", "application/json"))
FILES = (Form(MULTIPART, f'{MULTIPART}; type="{DICOM}"; transfer-syntax=*', part=DICOM),)
FRAMES = (Form(MULTIPART, f'{MULTIPART}; type="{BYTES}"; transfer-syntax=*', part=BYTES),)
BULK = (
    *(Form(MULTIPART, f'{MULTIPART}; type="{BYTES}"', part=part) for part in (BYTES, PDF, VIDEO)),
    *(Form(name, f'{MULTIPART}; type="{BYTES}"', alone=True) for name in (BYTES, PDF, VIDEO)),
)
# A PDF or a video is rendered by sending it as it is.
PICTURE = (
    *(Form(name, "*/*") for name in ("image/jpeg", PDF, VIDEO, BYTES)),
    Form("image/png", "image/png"),
)


class Upstream(Enum):
    """The service that answers an allowed request. It decides what /authorize has to find out and to tell nginx."""

    ORTHANC = auto()
    """Told the study's revision, part of the cache's key, and how to ask for the form that the client takes."""
    GATEWAY = auto()
    """The gateway itself. Orthanc must never be asked, because it would answer for all clinics."""
    IMPORTER_UPLOAD = auto()
    """Told the one clinic that the upload is for."""
    IMPORTER_STATUS = auto()
    """Told all of the caller's clinics."""


@dataclass(frozen=True)
class Rule:
    """One row of the allow-list."""

    method: str
    path: str
    parameters: dict[str, str]
    roles: frozenset[str]
    action: str
    """What the access log calls it; empty: not a matter of patients, not logged."""
    upstream: Upstream = Upstream.ORTHANC
    forms: tuple[Form, ...] = ()
    """What a client may ask for by Accept; empty: there is one form, and Accept plays no part."""
    pattern: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        pattern = re.sub(r"\{(\w+)\}", lambda place: f"(?P<{place[1]}>{PLACES[place[1]]})", self.path)
        object.__setattr__(self, "pattern", re.compile(pattern))


RULES = (
    # Search and studies (QIDO-RS, WADO-RS: PS3.18 10.4, 10.6). `search` reads the queries that are answered here.
    Rule("GET", STUDIES, NOTHING, VIEWERS, "list", upstream=Upstream.GATEWAY),
    Rule("GET", DICOM_WEB + "series", NOTHING, VIEWERS, "list", upstream=Upstream.GATEWAY),
    Rule("GET", DICOM_WEB + "instances", NOTHING, VIEWERS, "list", upstream=Upstream.GATEWAY),
    Rule("GET", STUDY, NOTHING, VIEWERS, "download", forms=FILES),
    Rule("GET", STUDY + "/metadata", NOTHING, VIEWERS, "view", forms=JSON),
    Rule("GET", STUDY + "/rendered", RENDERED, VIEWERS, "view", forms=PICTURE),
    Rule("GET", STUDY + "/series", SERIES, VIEWERS, "view", forms=JSON),
    Rule("GET", STUDY + "/instances", INSTANCES_OF_STUDY, VIEWERS, "view", forms=JSON),
    Rule("GET", ONE_SERIES, NOTHING, VIEWERS, "download", forms=FILES),
    Rule("GET", ONE_SERIES + "/metadata", NOTHING, VIEWERS, "view", forms=JSON),
    Rule("GET", ONE_SERIES + "/rendered", RENDERED, VIEWERS, "view", forms=PICTURE),
    Rule("GET", ONE_SERIES + "/instances", INSTANCES, VIEWERS, "view", forms=JSON),
    Rule("GET", INSTANCE, NOTHING, VIEWERS, "download", forms=FILES),
    Rule("GET", INSTANCE + "/metadata", NOTHING, VIEWERS, "view", forms=JSON),
    Rule("GET", INSTANCE + "/rendered", RENDERED, VIEWERS, "view", forms=PICTURE),
    Rule("GET", INSTANCE + "/frames/{frames}", NOTHING, VIEWERS, "view", forms=FRAMES),
    Rule("GET", INSTANCE + "/frames/{frames}/rendered", RENDERED, VIEWERS, "view", forms=PICTURE),
    Rule("GET", INSTANCE + "/bulk/{bulk}", NOTHING, VIEWERS, "view", forms=BULK),
    # The access log of the auditor's clinics. `audit` reads the filters.
    Rule("GET", "/audit/entries", NOTHING, AUDITORS, "audit", upstream=Upstream.GATEWAY),
    # Uploads (STOW-RS: PS3.18 10.5). The importer asks whose the study is when it claims it. The importer also logs the
    # upload, because only the file names the study.
    Rule("POST", STUDIES, NOTHING, UPLOADERS, "upload", upstream=Upstream.IMPORTER_UPLOAD),
    Rule("POST", STUDY, NOTHING, UPLOADERS, "upload", upstream=Upstream.IMPORTER_UPLOAD),
    Rule("GET", "/import/status", NOTHING, UPLOADERS, "", upstream=Upstream.IMPORTER_STATUS),
    # Orthanc's own API for administrators: reading, deleting, labels and jobs. Left out is everything that connects to
    # other machines (peers, modalities, servers), that runs something (scripts, plugins, resubmitted jobs), or that
    # changes images without the registry.
    Rule("GET", "/orthanc/system", NOTHING, ADMIN, ""),
    Rule("GET", "/orthanc/statistics", NOTHING, ADMIN, ""),
    Rule("GET", "/orthanc/changes", {**ORTHANC_LIST, "last": FLAG}, ADMIN, ""),
    Rule("GET", "/orthanc/tools/labels", NOTHING, ADMIN, ""),
    Rule("POST", "/orthanc/tools/find", NOTHING, ADMIN, "list"),
    Rule("POST", "/orthanc/tools/lookup", NOTHING, ADMIN, "list"),
    Rule("GET", "/orthanc/{level}", ORTHANC_LIST, ADMIN, "list"),
    Rule("GET", RESOURCE, ORTHANC_LIST, ADMIN, "view"),
    Rule("DELETE", RESOURCE, NOTHING, ADMIN, "delete"),
    Rule("GET", RESOURCE + "/{related}", ORTHANC_LIST, ADMIN, "view"),
    Rule("GET", "/orthanc/instances/{id}/{content}", NOTHING, ADMIN, "download"),
    Rule("PUT", RESOURCE + "/labels/{label}", NOTHING, ADMIN, "change"),
    Rule("DELETE", RESOURCE + "/labels/{label}", NOTHING, ADMIN, "change"),
    Rule("GET", "/orthanc/jobs", ORTHANC_LIST, ADMIN, ""),
    Rule("GET", "/orthanc/jobs/{job}", NOTHING, ADMIN, ""),
    Rule("POST", "/orthanc/jobs/{job}/{command}", NOTHING, ADMIN, ""),
)


@dataclass(frozen=True)
class Permit:
    """A request that the allow-list knows, for one of the caller's roles. The owner of its study is not yet checked."""

    rule: Rule
    study: str | None
    instance: str
    """Of which image; empty on other routes."""
    frames: tuple[str, ...]
    """The numbers of the frames that are asked for; of a route without frames none."""
    accept_in_query: bool
    """PS3.18 8.3.3.1 lets a client write its Accept there, too. Two places for one wish are one too many."""

    @property
    def reads_all(self) -> bool:
        """Whether Orthanc holds the image in memory as often as to send its file, as it does for several frames."""
        return self.rule.forms is FILES or len(self.frames) > 1

    def form(self, accept: str) -> Form:
        """Return the form that the client gets. Raises a RefusedError, which a caller who may see the study is told."""
        if len(set(self.frames)) < len(self.frames):
            raise RepeatedFrameError
        if self.accept_in_query:
            raise AcceptError
        return choose(accept, self.rule.forms)


def permit(request: Request, roles: frozenset[str]) -> Permit:
    """Find the rule that allows a request. Raises RefusedError when there is none for any of these roles.

    HEAD of an image is GET without the body (RFC 9110 9.3.2): it needs the same right and is logged in the same way.
    """
    method = "GET" if request.method == "HEAD" and request.path.startswith(DICOM_WEB) else request.method
    for rule in RULES:
        if rule.method == method and (match := rule.pattern.fullmatch(request.path)):
            if not rule.roles & roles:
                raise RefusedError
            if rule.upstream is not Upstream.GATEWAY:  # the service that answers reads the query
                _check(request, rule)
            places = match.groupdict(default="")
            frames = tuple(places["frames"].split(",")) if "frames" in places else ()
            in_query = bool(rule.forms) and any(name.lower() == "accept" for name, _ in request.parameters)
            return Permit(rule, places.get("study"), places.get("instance", ""), frames, in_query)
    raise RefusedError


def methods(path: str, roles: frozenset[str]) -> list[str]:
    """The methods that a path takes from these roles; none if there is nothing for them.

    Only the path decides, so the answer tells nothing about a study.
    """
    found = {rule.method for rule in RULES if rule.roles & roles and rule.pattern.fullmatch(path)}
    return sorted(found | ({"HEAD"} if "GET" in found else set()) | ({"OPTIONS"} if found else set()))


def _check(request: Request, rule: Rule) -> None:
    seen = set()
    for name, value in request.parameters:
        if rule.forms and name.lower() == "accept":
            continue  # a caller who may see the study is told
        allowed = rule.parameters.get(name)
        if allowed is None or re.fullmatch(allowed, value) is None:
            raise RefusedError
        # If a name has two values, one service could read the first and another the last.
        if name in seen and name != "includefield":
            raise RefusedError
        seen.add(name)
