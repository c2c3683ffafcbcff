"""The registry, which knows the owner of each study.

It is reached only through its functions (docs/ARCHITECTURE.md, Registry).
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import psycopg
from psycopg.types.json import Jsonb

from imaging_importer.reasons import RejectedError, TransientError, UnavailableError

# Classes of SQLSTATE about the values of one call: other calls will succeed. Errors of data, integrity and limits come
# from the study and are final. An unknown clinic may be added, and a state may change.
FINAL = ("22", "23", "54")
UNKNOWN_CLINIC = "23503"
STATE = "55"

# Studies asked for at once.
PAGE = 100

Attributes = dict[str, dict[str, Any]]  # a DICOM JSON object (PS3.18 F.2)


@dataclass(frozen=True)
class OwnedStudy:
    """One row of the registry."""

    study_uid: str
    clinic_id: str
    revision: int  # 0: claimed, nothing recorded yet


@dataclass(frozen=True)
class Claim:
    """A study that a clinic has claimed, and of which nothing is recorded."""

    clinic_id: str
    study_uid: str
    since: str


@dataclass(frozen=True)
class Displayed:
    """The reason why an image cannot be displayed (a key of display.WHY); None if it can."""

    study_uid: str
    sop_instance_uid: str
    code: str | None


@dataclass(frozen=True)
class Contents:
    """All series and instances of a study; an instance has the SeriesInstanceUID of its series."""

    series: list[Attributes]
    instances: list[Attributes]


@dataclass(frozen=True)
class RecordedStudy:
    """The facts about a study that the registry shows."""

    clinic_id: str
    revision: int
    attributes: Attributes


class Registry(Protocol):
    """The importer's calls to the registry.

    Every call may raise UnavailableError, TransientError if it does not accept these values now (an unknown clinic),
    and RejectedError `not-listable` if it never will.
    """

    def claim_study(self, study_uid: str, clinic_id: str) -> bool:
        """Make the study this clinic's; False when it is another's."""

    def record_study(
        self, study_uid: str, clinic_id: str, attributes: Attributes, largest: int = 0, contents: Contents | None = None
    ) -> int:
        """Show the study with these attributes.

        `largest`: bytes of an instance, kept if none was larger. `contents` are of the same moment; None: unchanged.

        Returns its new revision.
        """

    def note_display(self, images: list[Displayed]) -> None:
        """Note about stored images whether they can be displayed, and if not, why."""

    def record_contents(self, study_uid: str, clinic_id: str, contents: Contents) -> None:
        """Show these series and instances of a study that is shown already; its revision stays."""

    def forget_study(self, study_uid: str) -> bool:
        """Remove the study; return whether there was one."""

    def owned_studies(self, after: str, count: int) -> list[OwnedStudy]:
        """The next studies by UID."""

    def recorded_study(self, study_uid: str) -> RecordedStudy | None:
        """A study's row; None when there is none."""

    def list_clinics(self) -> list[str]:
        """The ids of all clinics."""

    def log_upload(self, study_uid: str, clinic_id: str, caller: dict[str, Any], detail: str | None) -> None:
        """Write to the access log who delivers to this study, or in detail its result."""

    def claims(self) -> list[Claim]:
        """The studies that are claimed and not recorded, oldest first."""

    def release_claim(self, study_uid: str, clinic_id: str) -> bool:
        """Give up the clinic's claim; False when it has none, or the study is recorded."""


def owned_studies(registry: Registry) -> Iterator[OwnedStudy]:
    """Every study that has an owner."""
    after = ""
    while page := registry.owned_studies(after, PAGE):
        yield from page
        after = page[-1].study_uid


def shown_studies(registry: Registry) -> Iterator[OwnedStudy]:
    """Every study that the registry shows. Claims alone are left out: their first image may be on the way."""
    return (study for study in owned_studies(registry) if study.revision)


class PostgresRegistry:
    """The registry itself. It has one connection, made again after any error. Safe to use from several threads."""

    def __init__(self, connection: dict[str, Any]) -> None:
        self._parameters = connection
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._lock = threading.Lock()

    def claim_study(self, study_uid: str, clinic_id: str) -> bool:
        return bool(self._call("SELECT registry.claim_study(%s, %s)", (study_uid, clinic_id))[0][0])

    def record_study(
        self, study_uid: str, clinic_id: str, attributes: Attributes, largest: int = 0, contents: Contents | None = None
    ) -> int:
        values: tuple[object, ...] = (study_uid, clinic_id, Jsonb(_storable(attributes)), largest)
        statement = "SELECT registry.record_study(%s, %s, %s, %s)"
        if contents is not None:
            statement += ", registry.record_contents(%s, %s, %s, %s)"
            values += _contents_values(study_uid, clinic_id, contents)
        return int(self._call(statement, values)[0][0])

    def record_contents(self, study_uid: str, clinic_id: str, contents: Contents) -> None:
        values = _contents_values(study_uid, clinic_id, contents)
        self._call("SELECT registry.record_contents(%s, %s, %s, %s)", values)

    def note_display(self, images: list[Displayed]) -> None:
        self._call("SELECT registry.note_display(%s)", (Jsonb([asdict(image) for image in images]),))

    def forget_study(self, study_uid: str) -> bool:
        return bool(self._call("SELECT registry.forget_study(%s)", (study_uid,))[0][0])

    def owned_studies(self, after: str, count: int) -> list[OwnedStudy]:
        rows = self._call("SELECT study_uid, clinic_id, revision FROM registry.owned_studies(%s, %s)", (after, count))
        return [OwnedStudy(*row) for row in rows]

    def recorded_study(self, study_uid: str) -> RecordedStudy | None:
        statement = "SELECT clinic_id, revision, attributes FROM registry.recorded_study(%s)"
        rows = self._call(statement, (study_uid,))
        return RecordedStudy(*rows[0]) if rows else None

    def list_clinics(self) -> list[str]:
        return [row[0] for row in self._call("SELECT clinic_id FROM registry.list_clinics()", ())]

    def log_upload(self, study_uid: str, clinic_id: str, caller: dict[str, Any], detail: str | None) -> None:
        self._call(
            "SELECT registry.log_upload(%s, %s, %s, %s)", (study_uid, clinic_id, Jsonb(_storable(caller)), detail)
        )

    def claims(self) -> list[Claim]:
        return [Claim(*row) for row in self._call("SELECT clinic_id, study_uid, since FROM registry.claims()", ())]

    def release_claim(self, study_uid: str, clinic_id: str) -> bool:
        return bool(self._call("SELECT registry.release_claim(%s, %s)", (study_uid, clinic_id))[0][0])

    def _call(self, statement: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = psycopg.connect(**self._parameters, autocommit=True, connect_timeout=5)
                return self._connection.execute(statement, values).fetchall()
            except psycopg.Error as error:
                # Also for errors that are not the connection's: a migration may be running, and a retry costs nothing.
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None
                message, state = str(error).strip().replace("\n", " "), error.sqlstate or ""
                # psycopg itself refuses some values, and gives no SQLSTATE for that.
                is_final = state.startswith(FINAL) or (not state and isinstance(error, psycopg.DataError))
                if is_final and state != UNKNOWN_CLINIC:
                    # Not the whole message, because it quotes values.
                    raise RejectedError("not-listable", error.diag.message_primary or state or message) from error
                if state == UNKNOWN_CLINIC or state.startswith(STATE):
                    raise TransientError(f"registry: {message}") from error
                raise UnavailableError("registry", message) from error


def _contents_values(study_uid: str, clinic_id: str, contents: Contents) -> tuple[object, ...]:
    return study_uid, clinic_id, *(Jsonb(_storable(level)) for level in (contents.series, contents.instances))


def _storable(value: Any) -> Any:  # noqa: ANN401 - JSON
    """JSON as PostgreSQL takes it: text without NUL and without halves of surrogate pairs, which files may hold."""
    if isinstance(value, str):
        return value.replace("\0", "").encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, list):
        return [_storable(item) for item in value]
    if isinstance(value, dict):
        return {_storable(key): _storable(item) for key, item in value.items()}
    return value
