"""A snapshot of the repository is believed for its signature, and not for who could write it there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from backup_keys import KEY, OTHER_KEY, TRUST
from imaging_backup import repository, restore
from imaging_backup.errors import BackupError
from imaging_backup.signing import SigningKey, Trust

MADE = {
    "id": "aecc3b6f" * 8,
    "short_id": "aecc3b6f",
    "time": "2026-05-04T02:15:00.123456789+02:00",
    "tree": "6e47d23c" * 8,
    "paths": ["/data/dicom/.held", "/etc/imaging", "/var/backups/imaging/.making"],
}


class Restic:
    """restic as far as signing goes: it keeps with which tags something was put there."""

    def __init__(self) -> None:
        self.tags: list[str] = []

    def run(self, *_: str) -> str:
        return json.dumps([{"id": "80317139", "tags": self.tags} if self.tags else MADE])

    def backup(self, *arguments: str, stdin: str) -> None:
        assert stdin
        self.tags = arguments[arguments.index("--tag") + 1].split(",")


def signatures(key: SigningKey = KEY) -> list[dict[str, str]]:
    """The files that a push leaves beside a snapshot."""
    restic = Restic()
    repository._sign(SimpleNamespace(domain="imaging.example.org"), restic, "aecc3b6f", key)
    assert restic.tags[0] == "imaging-signature"
    found = repository._signatures(restic)
    return found[MADE["id"]]


def demand(snapshot: dict[str, Any], signed: list[dict[str, str]], trust: Trust = TRUST) -> str | None:
    return repository._demand_signature("the snapshot", snapshot, signed, trust)


def test_a_push_signs_what_it_made():
    assert demand(MADE, signatures()) == KEY.public


@pytest.mark.parametrize(
    "change",
    [
        {"tree": "00000000" * 8},
        {"time": "2026-05-05T02:15:00.123456789+02:00"},
        {"paths": ["/data/dicom/.held", "/tmp/imaging", "/var/backups/imaging/.making"]},  # noqa: S108
        {"paths": ["\n".join(MADE["paths"])]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_content_time_or_place_is_forged(change):
    with pytest.raises(BackupError, match="the snapshot is FORGED: its signature is not by the key 248acb"):
        demand(MADE | change, signatures())


@pytest.mark.parametrize("signature", ["", "zz", "00" * 64, OTHER_KEY.sign(b"").hex()])
def test_another_signature_is_none(signature):
    with pytest.raises(BackupError, match="is FORGED"):
        demand(MADE, [{"key": KEY.public, "signature": signature}])
    with pytest.raises(BackupError, match="is FORGED"):
        demand(MADE, [{"key": KEY.public}], Trust(KEY.public, unsigned=True))
    with pytest.raises(BackupError, match="names a key that is none"):
        demand(MADE, [{}], Trust(KEY.public, unsigned=True))


def test_what_somebody_adds_is_in_no_way_of_a_good_signature():
    added = [
        {},
        {"key": "zz"},
        {"key": OTHER_KEY.public, "signature": "00"},
        {"key": KEY.public, "signature": "00" * 64},
    ]
    assert demand(MADE, [*added, *signatures()]) == KEY.public


def test_another_platform_s_is_taken_on_a_word():
    with pytest.raises(BackupError, match=f"says it is signed with the key {OTHER_KEY.public}"):
        demand(MADE, signatures(OTHER_KEY))
    assert demand(MADE, signatures(OTHER_KEY), Trust(KEY.public, also=OTHER_KEY.public)) == OTHER_KEY.public


def test_one_without_a_signature_is_taken_on_an_explicit_word_alone():
    with pytest.raises(BackupError, match="is not signed"):
        demand(MADE, [])
    assert demand(MADE, [], Trust(KEY.public, unsigned=True)) is None


@pytest.fixture
def fetched(tmp_path: Path) -> tuple[Path, Path]:
    """The files that restic has brought back: the images that arrive, and the workspace."""
    arriving, workspace = tmp_path / ".restore", tmp_path / ".restoring"
    for name in ("orthanc", "keycloak", "registry"):
        (workspace / "databases").mkdir(parents=True, exist_ok=True)
        (workspace / f"databases/{name}.dump").touch()
    (workspace / "images.tsv").touch()
    (arriving / "00").mkdir(parents=True)
    (arriving / "00" / "00000000-0000-0000-0000-000000000001").touch()
    restore._refuse_traps(Path("repository"), arriving, workspace)
    return arriving, workspace


TRAPS = {
    "a link in an image's place": lambda arriving, _: (arriving / f"11/11{'1' * 34}").symlink_to("/etc/passwd"),
    "a device in an image's place": lambda arriving, _: os.mknod(
        arriving / f"11/11{'1' * 34}", 0o20600, os.makedev(1, 3)
    ),
    "a pipe in an image's place": lambda arriving, _: os.mkfifo(arriving / f"11/11{'1' * 34}"),
    "another name": lambda arriving, _: (arriving / "11/passwd").touch(),
    "an image elsewhere": lambda arriving, _: (arriving / f"11/22{'2' * 34}").touch(),
    "an image on top": lambda arriving, _: (arriving / f"11{'1' * 34}").touch(),
    "a link to a directory": lambda arriving, _: (arriving / "22").symlink_to("/etc"),
    "a link in a dump's place": lambda _, workspace: relink(workspace / "databases/registry.dump"),
    "a link in the list's place": lambda _, workspace: relink(workspace / "images.tsv"),
    "no dump": lambda _, workspace: (workspace / "databases/orthanc.dump").unlink(),
    "settings that are elsewhere": lambda _, workspace: (workspace / "settings").symlink_to("/etc"),
}


def relink(file: Path) -> None:
    file.unlink()
    file.symlink_to("/etc/passwd")


@pytest.mark.parametrize("trap", TRAPS.values(), ids=TRAPS.keys())
def test_nothing_is_used_of_what_no_backup_has_there(fetched, trap):
    """restic brings back links and devices too, and somebody may have said UNSIGNED=1."""
    arriving, workspace = fetched
    (arriving / "11").mkdir()
    trap(arriving, workspace)
    with pytest.raises(BackupError, match="is missing, or not what a backup has there"):
        restore._refuse_traps(Path("repository"), arriving, workspace)
