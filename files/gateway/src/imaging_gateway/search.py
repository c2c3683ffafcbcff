"""Study search (QIDO-RS, PS3.18 10.6): from the query string to the registry's filter, and back to DICOM JSON."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from imaging_gateway.requests import UID

LARGEST_PAGE = 1000
# Pages are found by counting past what comes before them.
DEEPEST_OFFSET = 100_000

TEXT = r"[^\\]{1,324}"
DATE = r"[0-9]{8}|[0-9]{8}-|-[0-9]{8}|[0-9]{8}-[0-9]{8}"
TIME_OF_DAY = r"[0-9]{2}(?:[0-9]{2}(?:[0-9]{2}(?:\.[0-9]{1,6})?)?)?"
TIME = rf"{TIME_OF_DAY}|{TIME_OF_DAY}-|-{TIME_OF_DAY}|{TIME_OF_DAY}-{TIME_OF_DAY}"
UID_LIST = rf"{UID}(?:[,\\]{UID})*"
CODE_LIST = r"[A-Z0-9_ ]{1,16}(?:[,\\][A-Z0-9_ ]{1,16})*"

# Keyword, tag, and what its value may look like; the meaning of each is with registry.search_studies.
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
    ("PatientSex", "00100040", r"[A-Z]{1,16}"),
    ("StudyInstanceUID", "0020000D", UID_LIST),
    ("StudyID", "00200010", TEXT),
)
LISTS = {"00080061", "0020000D"}
_BY_NAME = {name: (tag, re.compile(form)) for keyword, tag, form in MATCHABLE for name in (keyword, tag)}

# Returned always, when the study has them (PS3.18 table 10.6.3-3), with the description that every list shows.
ALWAYS = (
    *("00080005", "00080020", "00080030", "00080050", "00080056", "00080061", "00080090", "00080201", "00081030"),
    *("00100010", "00100020", "00100030", "00100040", "0020000D", "00200010", "00201206", "00201208"),
)
# Keywords that clients ask for by name beyond those; any other field is asked for by its tag.
_KEYWORDS = {keyword: tag for keyword, tag, _ in MATCHABLE} | {
    "NumberOfStudyRelatedSeries": "00201206",
    "NumberOfStudyRelatedInstances": "00201208",
    "InstitutionName": "00080080",
    "SOPClassesInStudy": "00080062",
    "PatientAge": "00101010",
    "PatientSize": "00101020",
    "PatientWeight": "00101030",
    "RequestedProcedureDescription": "00321060",
}


class QueryError(Exception):
    """A sentence for the client's developer: which parameter, and what it takes. The answer is 400."""


@dataclass
class Query:
    """A study search: what must match, which page, which fields."""

    match: dict[str, str | list[str]] = field(default_factory=dict)
    limit: int = LARGEST_PAGE
    offset: int = 0
    fields: set[str] | None = field(default_factory=lambda: set(ALWAYS))
    """Tags to return; None for all."""
    fuzzy: bool = False


def read(parameters: tuple[tuple[str, str], ...]) -> Query:
    """Read the decoded query parameters of GET /studies. Raises QueryError; nothing that was asked for is ignored."""
    query = Query()
    seen: set[str] = set()
    for name, value in parameters:
        canonical, form = _BY_NAME.get(name, (name, None))
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
            raise QueryError(f"{name} is not a parameter of the study search, or cannot have this value")
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
            # Fields that a study does not have are left out of the answer, known to us or not.
            query.fields.add(_KEYWORDS.get(item, item))
        elif query.fields is not None:
            raise QueryError("includefield takes tags, keywords, or all")


def _count(name: str, value: str) -> int:
    if re.fullmatch(r"[0-9]{1,9}", value) is None:
        raise QueryError(f"{name} takes a number")
    return int(value)


def answer(query: Query, studies: list[dict[str, Any]], base_url: str) -> list[dict[str, Any]]:
    """Make the DICOM JSON objects (PS3.18 F.2) that the client gets, each with its RetrieveURL below `base_url`."""
    return [
        {
            **{tag: element for tag, element in sorted(study.items()) if query.fields is None or tag in query.fields},
            "00081190": {"vr": "UR", "Value": [f"{base_url}/studies/{study['0020000D']['Value'][0]}"]},
        }
        for study in studies
    ]


def warnings(query: Query, more: bool, base_url: str) -> list[str]:
    """Return the Warning headers (RFC 7234 5.5) that PS3.18 8.3.4.2 and 8.3.4.4 ask for."""
    texts = []
    if query.fuzzy:
        texts.append("The fuzzymatching parameter is not supported. Only literal matching has been performed.")
    if more:
        texts.append("There are additional results that can be requested.")
    return [f"299 {base_url}: {text}" for text in texts]
