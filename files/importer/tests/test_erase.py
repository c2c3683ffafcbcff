"""A resource that an administrator deletes is out of the registry before the answer."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Iterator
from email.message import Message

import pytest
from imaging_importer.erase import RESOURCE, Eraser
from imaging_importer.reasons import UnavailableError
from imaging_importer.web import Request

SERIES = "/series/" + "-".join(["0a0b0c0d"] * 5)


class Orthanc:
    """Has studies, and deletes for every caller who knows the password."""

    def __init__(self, happened: list[str]) -> None:
        self.happened = happened

    def studies_of(self, path: str) -> list[str]:
        return ["1.2"]

    def delete(self, path: str, authorization: str) -> int:
        self.happened.append(f"delete {path}")
        return 200 if authorization == "Basic good" else 401


class Journal:
    def study(self, study_uid: str) -> tuple[str, str]:
        return ("north", "fingerprint")


class Recorder:
    def __init__(self, happened: list[str]) -> None:
        self.held: set[str] = set()
        self.happened = happened
        self.fails = False

    @contextlib.contextmanager
    def holding(self, study_uids: list[str]) -> Iterator[None]:
        self.held = set(study_uids)
        yield
        self.held = set()

    def refresh(self, orthanc: Orthanc, study_uid: str, clinic_id: str) -> str:
        if self.fails:
            raise UnavailableError("registry", "away")
        assert study_uid in self.held
        self.happened.append(f"refresh {study_uid} of {clinic_id}")
        return "forgotten"


@pytest.fixture
def happened() -> list[str]:
    return []


@pytest.fixture
def recorder(happened: list[str]) -> Recorder:
    return Recorder(happened)


@pytest.fixture
def erase(happened: list[str], recorder: Recorder) -> Callable[[str, str], int]:
    eraser = Eraser(Journal(), recorder, Orthanc(happened))  # type: ignore[arg-type]

    def erase(path: str, authorization: str) -> int:
        headers = Message()
        headers["Authorization"] = authorization
        return eraser.erase(Request(path, headers, io.BytesIO())).status

    return erase


def test_the_registry_hears_of_it_before_the_administrator(erase, happened):
    assert erase(SERIES, "Basic good") == 200
    assert happened == [f"delete {SERIES}", "refresh 1.2 of north"]


def test_without_orthancs_password_nothing_happens(erase, happened):
    assert erase(SERIES, "") == 401
    assert happened == [f"delete {SERIES}"]


def test_a_registry_that_is_away_is_not_told_as_done(erase, recorder):
    recorder.fails = True
    assert erase(SERIES, "Basic good") == 503


@pytest.mark.parametrize("path", ["/", "/modalities/x", f"{SERIES}/labels/x", f"{SERIES}?x", "/series/..", "/changes"])
def test_nothing_else_is_deleted(path):
    assert re.fullmatch(RESOURCE, path) is None
