"""Who owns which study.

The PostgreSQL registry, reached only through its functions (docs/ARCHITECTURE.md, Registry).
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import psycopg
from psycopg.types.json import Jsonb

from imaging_importer.reasons import TransientError, UnavailableError

# Classes of SQLSTATE that tell of the values of one call (data, integrity, limits, state): other calls will succeed.
ABOUT_THE_VALUES = ("22", "23", "54", "55")

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
class RecordedStudy:
    """What the registry shows of a study."""

    clinic_id: str
    revision: int
    attributes: Attributes


class Registry(Protocol):
    """What the importer asks of the registry.

    Every call may raise UnavailableError, and TransientError when it does not take these values: an unknown clinic.
    """

    def claim_study(self, study_uid: str, clinic_id: str) -> bool:
        """Make the study this clinic's; False when it is another's."""

    def record_study(self, study_uid: str, clinic_id: str, attributes: Attributes) -> int:
        """Show the study with these attributes; its new revision."""

    def forget_study(self, study_uid: str) -> bool:
        """Remove the study; whether there was one."""

    def owned_studies(self, after: str, count: int) -> list[OwnedStudy]:
        """The next studies by UID."""

    def recorded_study(self, study_uid: str) -> RecordedStudy | None:
        """A study's row; None when there is none."""

    def list_clinics(self) -> list[str]:
        """The ids of all clinics."""

    def log_upload(self, study_uid: str, clinic_id: str, caller: dict[str, Any]) -> None:
        """Write to the access log who uploaded to this study, which must be the clinic's."""


def shown_studies(registry: Registry) -> Iterator[OwnedStudy]:
    """Every study that the registry shows. Not those that are claimed alone: their first image may be on the way."""
    after = ""
    while page := registry.owned_studies(after, PAGE):
        yield from (study for study in page if study.revision)
        after = page[-1].study_uid


class PostgresRegistry:
    """The registry itself. One connection, made anew after any error; safe to use from several threads."""

    def __init__(self, connection: dict[str, Any]) -> None:
        self._parameters = connection
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._lock = threading.Lock()

    def claim_study(self, study_uid: str, clinic_id: str) -> bool:
        return bool(self._call("SELECT registry.claim_study(%s, %s)", (study_uid, clinic_id))[0][0])

    def record_study(self, study_uid: str, clinic_id: str, attributes: Attributes) -> int:
        values = (study_uid, clinic_id, Jsonb(attributes))
        return int(self._call("SELECT registry.record_study(%s, %s, %s)", values)[0][0])

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

    def log_upload(self, study_uid: str, clinic_id: str, caller: dict[str, Any]) -> None:
        self._call("SELECT registry.log_upload(%s, %s, %s)", (study_uid, clinic_id, Jsonb(caller)))

    def _call(self, statement: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = psycopg.connect(**self._parameters, autocommit=True, connect_timeout=5)
                return self._connection.execute(statement, values).fetchall()
            except psycopg.Error as error:
                # Also errors that are not the connection's: a migration may be running, and a retry costs nothing.
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None
                message = str(error).strip().replace("\n", " ")
                if (error.sqlstate or "")[:2] in ABOUT_THE_VALUES:
                    raise TransientError(f"registry: {message}") from error
                raise UnavailableError("registry", message) from error
