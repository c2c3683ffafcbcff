"""Search (QIDO-RS, PS3.18 10.6): translates the query string to the registry's filter, and rows to DICOM JSON."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from imaging_gateway.grammar import UID

LARGEST_PAGE = 1000
# The database finds a page by counting the results before it.
DEEPEST_OFFSET = 100_000

TEXT = r"[^\\]{1,324}"
DATE = r"[0-9]{8}|[0-9]{8}-|-[0-9]{8}|[0-9]{8}-[0-9]{8}"
TIME_OF_DAY = r"[0-9]{2}(?:[0-9]{2}(?:[0-9]{2}(?:\.[0-9]{1,6})?)?)?"
TIME = rf"{TIME_OF_DAY}|{TIME_OF_DAY}-|-{TIME_OF_DAY}|{TIME_OF_DAY}-{TIME_OF_DAY}"
UID_LIST = rf"{UID}(?:[,\\]{UID})*"
CODE = r"[A-Za-z0-9_ *?]{1,16}"
CODE_LIST = rf"{CODE}(?:[,\\]{CODE})*"
NUMBER = r"[+-]?[0-9]{1,12}"

# Keyword, tag, and the pattern of its value. registry.search defines what each means. A search for series also takes
# the keys of their study; a search for instances takes the keys of both.
MATCHABLE = (
    ("StudyDate", "00080020", DATE),
    ("StudyTime", "00080030", TIME),
    ("AccessionNumber", "00080050", TEXT),
    ("ModalitiesInStudy", "00080061", CODE_LIST),
    ("ReferringPhysicianName", "00080090", TEXT),
    ("StudyDescription", "00081030", TEXT),
    ("PatientName", "00100010", TEXT),
    ("PatientID", "00100020", TEXT),
    ("PatientBirthDate", "00100030", DATE),
    ("PatientSex", "00100040", CODE),
    ("StudyInstanceUID", "0020000D", UID_LIST),
    ("StudyID", "00200010", TEXT),
)
SERIES_MATCHABLE = (
    ("Modality", "00080060", CODE_LIST),
    ("SeriesInstanceUID", "0020000E", UID_LIST),
    ("SeriesNumber", "00200011", NUMBER),
    ("PerformedProcedureStepStartDate", "00400244", DATE),
    ("PerformedProcedureStepStartTime", "00400245", TIME),
)
INSTANCE_MATCHABLE = (
    ("SOPClassUID", "00080016", UID_LIST),
    ("SOPInstanceUID", "00080018", UID_LIST),
    ("InstanceNumber", "00200013", NUMBER),
)
LISTS = {tag for _, tag, form in (*MATCHABLE, *SERIES_MATCHABLE, *INSTANCE_MATCHABLE) if form in (UID_LIST, CODE_LIST)}

# Always returned if the study has them (PS3.18 table 10.6.3-3), with the description that every list shows.
ALWAYS = (
    *("00080005", "00080020", "00080030", "00080050", "00080056", "00080061", "00080090", "00080201", "00081030"),
    *("00100010", "00100020", "00100030", "00100040", "0020000D", "00200010", "00201206", "00201208"),
)
# The same for series and instances (tables 10.6.3-4 and 10.6.3-5).
SERIES_ALWAYS = ("00080060", "0008103E", "0020000E", "00200011", "00201209", "00400244", "00400245", "00400275")
INSTANCE_ALWAYS = ("00080016", "00080018", "00200013", "00280008", "00280010", "00280011", "00280100")


@dataclass(frozen=True)
class Level:
    """The level of a search: studies, series or instances of all the caller's studies."""

    name: str
    matchable: tuple[tuple[str, str, str], ...]
    always: tuple[str, ...]
    path: tuple[tuple[str, str], ...]
    """The address of one: names of its segments, each with the tag whose value follows."""

    def address(self, found: dict[str, Any]) -> str:
        """The path below the base URL from which a result is retrieved."""
        return "".join(f"/{segment}/{found[tag]['Value'][0]}" for segment, tag in self.path)


_PATH = (("studies", "0020000D"), ("series", "0020000E"), ("instances", "00080018"))
STUDIES = Level("studies", MATCHABLE, ALWAYS, _PATH[:1])
SERIES = Level("series", (*SERIES_MATCHABLE, *STUDIES.matchable), (*SERIES_ALWAYS, *STUDIES.always), _PATH[:2])
INSTANCES = Level("instances", (*INSTANCE_MATCHABLE, *SERIES.matchable), (*INSTANCE_ALWAYS, *SERIES.always), _PATH)
LEVELS = {f"/dicom-web/{level.name}": level for level in (STUDIES, SERIES, INSTANCES)}

# More keywords that clients ask for by name. A client asks for any other field by its tag.
_KEYWORDS = {keyword: tag for keyword, tag, _ in INSTANCES.matchable} | {
    "NumberOfStudyRelatedSeries": "00201206",
    "NumberOfStudyRelatedInstances": "00201208",
    "InstitutionName": "00080080",
    "SOPClassesInStudy": "00080062",
    "PatientAge": "00101010",
    "PatientSize": "00101020",
    "PatientWeight": "00101030",
    "RequestedProcedureDescription": "00321060",
    "SeriesDescription": "0008103E",
    "NumberOfSeriesRelatedInstances": "00201209",
    "BodyPartExamined": "00180015",
    "NumberOfFrames": "00280008",
    "Rows": "00280010",
    "Columns": "00280011",
    "BitsAllocated": "00280100",
}


_FORMS = {
    level.name: {name: (tag, re.compile(form)) for keyword, tag, form in level.matchable for name in (keyword, tag)}
    for level in LEVELS.values()
}


class QueryError(Exception):
    """A sentence for the client's developer: the parameter, and the values that it accepts. The answer is 400."""


@dataclass
class Query:
    """A search: its level, its conditions, its page and its fields."""

    level: Level = STUDIES
    match: dict[str, str | list[str]] = field(default_factory=dict)
    limit: int = LARGEST_PAGE
    offset: int = 0
    fields: set[str] | None = field(default_factory=lambda: set(ALWAYS))
    """Tags to return; None for all."""
    fuzzy: bool = False


def read(parameters: tuple[tuple[str, str], ...], level: Level = STUDIES) -> Query:
    """Read the decoded query parameters of a search. Raises QueryError. No parameter is ignored."""
    query = Query(level, fields=set(level.always))
    forms = _FORMS[level.name]
    seen: set[str] = set()
    for name, value in parameters:
        canonical, form = forms.get(name, (name, None))
        if canonical in seen and name != "includefield":
            raise QueryError(f"{name} is given twice")
        seen.add(canonical)
        if form is not None:
            _match(query, name, canonical, form, value.strip(" "))
        elif name == "includefield":
            _include(query, value)
        elif name == "limit":
            query.limit = min(_count(name, value), LARGEST_PAGE)
        elif name == "offset":
            query.offset = _count(name, value)
            if query.offset > DEEPEST_OFFSET:
                raise QueryError(f"offset goes up to {DEEPEST_OFFSET}; narrow the search")
        elif name == "fuzzymatching" and value in ("true", "false"):
            query.fuzzy = value == "true"
        else:
            raise QueryError(f"{name} is not a parameter of the search for {level.name}, or cannot have this value")
    return query


def _match(query: Query, name: str, tag: str, form: re.Pattern[str], value: str) -> None:
    if value in ("", "*"):  # universal matching, PS3.4 C.2.2.2.3
        if query.fields is not None:
            query.fields.add(tag)
        return
    if form.fullmatch(value) is None:
        raise QueryError(f"{name} cannot have this value")
    query.match[tag] = [item.strip() for item in re.split(r"[,\\]", value)] if tag in LISTS else value


def _include(query: Query, value: str) -> None:
    for item in value.split(","):
        if item == "all":
            query.fields = None
        elif query.fields is not None and re.fullmatch(r"[0-9A-Fa-f]{8}", item):
            query.fields.add(item.upper())
        elif query.fields is not None and re.fullmatch(r"[A-Za-z0-9.]{1,200}", item):
            # A field that a study does not have is left out of the answer, whether we know the field or not.
            query.fields.add(_KEYWORDS.get(item, item))
        elif query.fields is not None:
            raise QueryError("includefield takes tags, keywords, or all")


def _count(name: str, value: str) -> int:
    if re.fullmatch(r"[0-9]{1,9}", value) is None:
        raise QueryError(f"{name} takes a number")
    return int(value)


def answer(query: Query, found: list[dict[str, Any]], base_url: str) -> list[dict[str, Any]]:
    """Make the DICOM JSON objects (PS3.18 F.2) that the client gets, each with its RetrieveURL below `base_url`."""
    return [
        {
            **{tag: element for tag, element in sorted(one.items()) if query.fields is None or tag in query.fields},
            "00081190": {"vr": "UR", "Value": [base_url + query.level.address(one)]},
        }
        for one in found
    ]


def warnings(query: Query, more: bool, base_url: str) -> list[str]:
    """Return the Warning headers (RFC 7234 5.5) that PS3.18 8.3.4.2 and 8.3.4.4 ask for."""
    texts = []
    if query.fuzzy:
        texts.append("The fuzzymatching parameter is not supported. Only literal matching has been performed.")
    if more:
        texts.append("There are additional results that can be requested.")
    return [f"299 {base_url}: {text}" for text in texts]
