"""The answer to a STOW-RS request (PS3.18 10.5.3): which instances were stored, which were not and why."""

from dataclasses import dataclass
from typing import Any

from imaging_importer.journal import FileOutcome, Outcome

CANNOT_UNDERSTAND = 0xC000  # PS3.4 table B.2-1, as are the next three
DATA_SET_MISMATCH = 0xA900
OUT_OF_RESOURCES = 0xA700
PROCESSING_FAILURE = 0x0110
DUPLICATE_INSTANCE = 0x0111  # PS3.7 C.5.7

# Reason of the importer -> Failure Reason (0008,1197). Nobody is told whose a study is: another clinic's study gets the
# code of any failure.
FAILURE_REASONS = {
    "packed-kind": CANNOT_UNDERSTAND,
    "conflicting-bytes": DUPLICATE_INSTANCE,
    "damaged": CANNOT_UNDERSTAND,
    "dicomdir": CANNOT_UNDERSTAND,
    "empty-file": CANNOT_UNDERSTAND,
    "missing-identifiers": CANNOT_UNDERSTAND,
    "invalid-identifiers": CANNOT_UNDERSTAND,
    "missing-transfer-syntax": CANNOT_UNDERSTAND,
    "not-dicom": CANNOT_UNDERSTAND,
    "patient-mismatch": DATA_SET_MISMATCH,
    "study-mismatch": DATA_SET_MISMATCH,
    "too-large": OUT_OF_RESOURCES,
    "too-large-inflated": OUT_OF_RESOURCES,
    "truncated": CANNOT_UNDERSTAND,
    "unknown-transfer-syntax": CANNOT_UNDERSTAND,
    "unknown-vr": CANNOT_UNDERSTAND,
}


@dataclass(frozen=True)
class Part:
    """One received part: its place, and the instance that it says it is; no UIDs if it could not be read."""

    name: str
    study_uid: str = ""
    series_uid: str = ""
    sop_class_uid: str = ""
    sop_instance_uid: str = ""


def answer(parts: list[Part], outcomes: list[FileOutcome], public_url: str) -> tuple[int, dict[str, Any]]:
    """Status and body. `outcomes` has one entry for each part, by name; `public_url` is the address of DICOMweb.

    200: all are stored; 202: some; 409: none; 400: none, because none could be read.
    """
    outcome_of = {outcome.path: outcome for outcome in outcomes}
    stored = [part for part in parts if outcome_of[part.name].outcome is Outcome.STORED]
    codes = {
        part.name: FAILURE_REASONS.get(outcome_of[part.name].reason, PROCESSING_FAILURE)
        for part in parts
        if part not in stored
    }
    body: dict[str, Any] = {}
    if len(studies := {part.study_uid for part in stored}) == 1:
        body["00081190"] = _element("UR", f"{public_url}/studies/{studies.pop()}")
    sequences = {
        "00081199": [_reference(part) | _retrieve_url(part, public_url) for part in stored],
        "00081198": [
            _reference(part) | _reason(codes[part.name])
            for part in parts
            if part.name in codes and part.sop_instance_uid
        ],
        # Other Failures Sequence: failures of instances that could not be named.
        "0008119A": [_reason(codes[part.name]) for part in parts if part.name in codes and not part.sop_instance_uid],
    }
    body |= {tag: {"vr": "SQ", "Value": items} for tag, items in sequences.items() if items}
    if not codes:
        return 200, body
    if stored:
        return 202, body
    return (400 if set(codes.values()) == {CANNOT_UNDERSTAND} else 409), body


def _reference(part: Part) -> dict[str, Any]:
    return {"00081150": _element("UI", part.sop_class_uid), "00081155": _element("UI", part.sop_instance_uid)}


def _retrieve_url(part: Part, public_url: str) -> dict[str, Any]:
    path = f"studies/{part.study_uid}/series/{part.series_uid}/instances/{part.sop_instance_uid}"
    return {"00081190": _element("UR", f"{public_url}/{path}")}


def _reason(code: int) -> dict[str, Any]:
    return {"00081197": _element("US", code)}


def _element(vr: str, value: str | int) -> dict[str, Any]:
    return {"vr": vr, "Value": [value]}
