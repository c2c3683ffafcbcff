"""Shared by the modules on clinics: the registry's clinics, through the functions of the registry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

try:
    import psycopg
except ImportError:
    psycopg = None  # type: ignore[assignment]

CONNECT_TIMEOUT_SECONDS = 10

# The arguments with which a module reaches the registry; documented in each module. Each module declares the password
# itself, so that a reader of the module sees that it is hidden.
REGISTRY: dict[str, dict[str, Any]] = {
    "registry_host": {"type": "str", "required": True},
    "registry_port": {"type": "int", "required": True},
    "registry_name": {"type": "str", "required": True},
    "registry_user": {"type": "str", "required": True},
}


class RegistryError(Exception):
    """The registry refused or did not answer."""


@dataclass(frozen=True)
class Removed:
    """A removed clinic: the time (ISO 8601, UTC), and how many studies it still owns, claimed ones among them."""

    name: str
    at: str
    studies: int


class Registry:
    """The registry's clinics, through its functions. Raises RegistryError when it refuses or does not answer."""

    def __init__(self, parameters: dict[str, Any]) -> None:
        self._parameters = parameters

    def names(self) -> dict[str, str]:
        """Every clinic's name by id, without removed clinics."""
        return dict(self._query("SELECT clinic_id, name FROM registry.list_clinics()", ()))

    def removed(self) -> dict[str, Removed]:
        """The removed clinics by id; none in a registry that check mode meets before its migration."""
        if self._query("SELECT to_regprocedure('registry.removed_clinics()')", ()) == [(None,)]:
            return {}
        rows = self._query("SELECT clinic_id, name, removed_at, studies FROM registry.removed_clinics()", ())
        return {clinic: Removed(name, at, studies) for clinic, name, at, studies in rows}

    def holdings(self) -> dict[str, tuple[int, str | None]]:
        """By clinic id the number of its studies and when the newest was recorded (ISO 8601, UTC), removed ones too."""
        rows = self._query("SELECT clinic_id, studies, last_received FROM registry.count_studies()", ())
        return {clinic: (studies, last) for clinic, studies, last in rows}

    def upsert(self, clinic_id: str, name: str) -> None:
        """Make the clinic known under this name."""
        self._query("SELECT registry.upsert_clinic(%s, %s)", (clinic_id, name))

    def remove(self, clinic_id: str) -> None:
        """Hide the clinic from the services; its studies stay its own."""
        self._query("SELECT registry.remove_clinic(%s)", (clinic_id,))

    def readmit(self, clinic_id: str, name: str) -> None:
        """Make a removed clinic a clinic again, with the studies that it still owns."""
        self._query("SELECT registry.readmit_clinic(%s, %s)", (clinic_id, name))

    def studies(self, clinic_id: str) -> list[str]:
        """StudyInstanceUIDs of all studies that the clinic owns, claimed ones too."""
        return [row[0] for row in self._query("SELECT registry.studies_of_clinic(%s)", (clinic_id,))]

    def log_erasure(self, study_uid: str) -> None:
        """Write into the access log that a removed clinic's study is about to be deleted."""
        self._query("SELECT registry.log_erasure(%s)", (study_uid,))

    def forget_erased(self, study_uid: str) -> None:
        """Forget a removed clinic's study; nothing happens when its row is gone already."""
        self._query("SELECT registry.forget_erased_study(%s)", (study_uid,))

    def _query(self, statement: str, values: tuple[str, ...]) -> list[Any]:
        if psycopg is None:
            raise RegistryError("The host lacks the Python library of PostgreSQL: apt-get install python3-psycopg")
        try:
            with psycopg.connect(
                host=self._parameters["registry_host"],
                port=self._parameters["registry_port"],
                dbname=self._parameters["registry_name"],
                user=self._parameters["registry_user"],
                password=self._parameters["registry_password"],
                connect_timeout=CONNECT_TIMEOUT_SECONDS,
            ) as connection:
                return connection.execute(statement, values).fetchall()
        except psycopg.Error as error:
            raise RegistryError(
                f"The registry '{self._parameters['registry_name']}' on {self._parameters['registry_host']} refuses "
                f"'{self._parameters['registry_user']}': {str(error).strip()}"
            ) from None
