"""Compares the registry with Orthanc, study by study, and makes it agree if that is wanted.

This is for a registry that was lost, and for an Orthanc that is older than the platform.

Orthanc knows the owner of a study only from InstitutionName, which anybody can write into a file, and so is the
importer's stamp. So if the registry has no owner, a person sees the list and decides, clinic by clinic (`adopt`). If
the registry has an owner, the registry is right.
"""

from collections.abc import Iterator, Set
from dataclasses import dataclass

from imaging_importer.orthanc import OrthancClient
from imaging_importer.reasons import RejectedError
from imaging_importer.registry import Attributes, Registry, shown_studies

INSTITUTION_NAME = "00080080"
STUDY_INSTANCE_UID = "0020000D"
PAGE = 100

# `record_study` changes these attributes before it keeps them (RetrieveURL, an empty ModalitiesInStudy, the UID).
NOT_COMPARED = frozenset({"00081190", STUDY_INSTANCE_UID})


@dataclass(frozen=True)
class Difference:
    """One study on which the two disagree."""

    study_uid: str
    what: str
    mended: bool  # whether it can be mended, and with --apply was


def rebuild(
    orthanc: OrthancClient, registry: Registry, apply: bool, adopt: Set[str] = frozenset()
) -> Iterator[Difference]:
    """Every difference. With `apply`, each that can be mended is mended before it is yielded.

    A study without an owner can be mended if its InstitutionName is one of the clinics `adopt`.

    Raises TransientError if Orthanc or the registry does not answer. Earlier repairs stay.
    """
    clinics = set(registry.list_clinics())
    for study_uid in orthanc.study_uids(PAGE):
        yield from _compare(orthanc, registry, study_uid, clinics, apply, adopt)
    for row in shown_studies(registry):
        if not orthanc.study_ids(row.study_uid):
            if apply:
                registry.forget_study(row.study_uid)
            yield Difference(row.study_uid, f"Orthanc has it no more: the row of {row.clinic_id} goes", True)


def _compare(
    orthanc: OrthancClient, registry: Registry, study_uid: str, clinics: set[str], apply: bool, adopt: Set[str]
) -> Iterator[Difference]:
    if len(orthanc.study_ids(study_uid)) > 1:
        yield Difference(study_uid, "Orthanc has it under two PatientIDs: correct one of them in Orthanc", False)
        return
    try:
        attributes = orthanc.study_attributes(study_uid)
    except RejectedError as rejection:
        yield Difference(study_uid, f"cannot be listed: {rejection.detail}", False)
        return
    if attributes is None:  # deleted since it was listed
        return
    named = _text(attributes, INSTITUTION_NAME)
    row = registry.recorded_study(study_uid)
    if row is None and named not in clinics:
        yield Difference(study_uid, f"InstitutionName {named!r} is no clinic: it stays invisible", False)
        return
    if row is None and named not in adopt:
        what = f"has no owner: look whose it is; `--apply --adopt {named}` makes all that carry its id {named}'s"
        yield Difference(study_uid, what, False)
        return
    owner = row.clinic_id if row else named
    if row and named != owner:
        yield Difference(study_uid, f"belongs to {owner}, InstitutionName says {named!r}: the owner stays", False)
    if row and row.revision and _shown(row.attributes) == _shown(attributes):
        return
    if row is None:
        what = "has no row"
    elif not row.revision:
        what = "was claimed and never shown"
    else:
        was, now = _shown(row.attributes), _shown(attributes)
        tags = sorted(tag for tag in was.keys() | now.keys() if was.get(tag) != now.get(tag))
        what = f"differs in {', '.join(tags)}"
    if apply:
        try:
            registry.claim_study(study_uid, owner)
            registry.record_study(study_uid, owner, attributes, contents=orthanc.contents(study_uid))
        except RejectedError as rejection:
            yield Difference(study_uid, f"{what}: the registry does not take it: {rejection.detail}", False)
            return
    yield Difference(study_uid, f"{what}: is recorded for {owner}", True)


def _shown(attributes: Attributes) -> Attributes:
    """The attributes that have a value, without those that the registry writes itself."""
    return {tag: element for tag, element in attributes.items() if tag not in NOT_COMPARED and element.get("Value")}


def _text(attributes: Attributes, tag: str) -> str:
    values = attributes.get(tag, {}).get("Value") or [""]
    return str(values[0])
