"""Random deliveries, and the ledger that must balance whatever happened to the importer that carried them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import random
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
from deliveries import TEMPLATES, changed, contents, deliver, instance, uid
from imaging_importer import failpoints
from imaging_importer.dicom.instance import read_instance
from imaging_importer.dicom.stamp import stamp
from imaging_importer.reasons import SENTENCES
from importer_fakes import Platform

CLINICS = ("north", "south")


class Campaign:
    """Random deliveries of two clinics that share some studies, on a real registry."""

    def __init__(self, root: Path, random_: random.Random, registry: Any, elsewhere: Path | None = None) -> None:
        self.root = root
        self.random = random_
        self.registry = registry
        self.platform = Platform()
        self.delivered: list[bytes] = []
        self.known: list[tuple[str, str, bytes]] = []  # study, series, an instance of it
        for name in ("inbox", "processed", "failed"):
            (root / name).mkdir(exist_ok=True)
        self.elsewhere = elsewhere
        self.failpoints = [name for name in failpoints.NAMES if elsewhere or not name.endswith("-across")]
        if elsewhere:  # processed/ on another file system
            (root / "processed").rmdir()
            (root / "processed").symlink_to(elsewhere)
        for clinic in CLINICS:
            (root / "inbox" / clinic).mkdir()

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of every importer of this campaign."""
        connection = {
            "host": str(self.registry.cluster.socket),
            "dbname": self.registry.name,
            "user": "registry_importer",
        }
        return {"root": str(self.root), "url": self.platform.url, "registry": connection}

    def deliver(self, number: int) -> None:
        """A folder, or loose files, of a random clinic."""
        clinic = self.random.choice(CLINICS)
        files: dict[str, bytes] = {}
        for _ in range(self.random.randrange(1, 9)):
            name = self.random.choice(("", "a/", "b/c d/")) + f"{self.random.randrange(10_000)}"
            files[name] = self.file()
        folder = self.root / "inbox" / clinic / self.random.choice((f"study {number}", "same name", ""))
        if folder.name == "same name":
            files = {f"more-{number}/{name}": data for name, data in files.items()}
        if folder.name == clinic:  # loose files
            files = {f"{number}-{name.replace('/', '_')}": data for name, data in files.items()}
        self.delivered += files.values()
        deliver(folder, files)

    def file(self) -> bytes:
        """Mostly images; some of a study that is known, some delivered before, some changed, cut or no image at all."""
        kind = self.random.random()
        if kind < 0.1:
            return self.random.randbytes(self.random.randrange(300))
        if kind < 0.2 and self.known:
            return self.random.choice(self.known)[2]
        if kind < 0.25 and self.known:
            return changed(self.random.choice(self.known)[2])
        if kind < 0.5 and self.known:
            study, series, _ = self.random.choice(self.known)
        else:
            study, series = uid(self.random), uid(self.random)
        data = instance(self.random, study, series, "P1", self.random.choice(TEMPLATES))
        self.known.append((study, series, data))
        data = data[: self.random.randrange(len(data))] if kind > 0.95 else data
        packed = self.random.random()
        if packed < 0.05:
            return gzip.compress(data, mtime=0)
        return zipped(data, self.random.choice(self.known)[2]) if packed < 0.1 else data

    def settled(self) -> bool:
        """Whether nothing is pending, in the inbox or the spool."""
        return not self.pending() and not self.jobs()

    def pending(self) -> list[str]:
        """Files in the inbox and the spool. os.walk: an entry that is renamed while it is listed is found next time."""
        return [
            str(Path(directory) / name)
            for directory, _, names in os.walk(self.root / "inbox")
            for name in names
            if name not in (".lock", ".caller.json") and ".scratch" not in directory
        ]

    def jobs(self) -> list[str]:
        spools = [self.root / "inbox" / ".spool" / clinic for clinic in CLINICS]
        return [name for spool in spools if spool.is_dir() for name in os.listdir(spool)]  # noqa: PTH208 - never raises midway

    def check_ledger(self, at_the_end: bool = False) -> None:
        """Delivered = processed + failed + pending."""
        places = (self.root / name for name in ("inbox", "processed", "failed"))
        found = Counter(file for place in places for file in contents(place))
        delivered = Counter(hashlib.sha256(data).hexdigest() for data in self.delivered)
        if self.elsewhere and not at_the_end:  # a file on its way to another file system exists twice
            assert set(found) <= set(delivered)
            assert found >= delivered
        else:
            assert found == delivered

    def check_end(self) -> None:
        """Nothing is pending: then all that is kept agrees."""
        self.check_ledger(at_the_end=True)
        self.check_store()
        self.check_failed()
        names = [path.name for place in ("inbox", "processed", "failed") for path in (self.root / place).rglob("*")]
        assert [name for name in names if name.endswith(".moving") or name.startswith((".report", ".REASON"))] == []
        assert list((self.root / "inbox" / ".spool" / ".scratch").glob("*")) == []

    def check_store(self) -> None:
        """Every file under processed/ is stored as stamped, byte for byte, owned by its clinic and visible.

        Nothing else is stored.
        """
        expected: dict[str, str] = {}
        for clinic, path, data in self.imported():
            try:
                sop = pydicom.dcmread(io.BytesIO(data)).SOPInstanceUID
            except (pydicom.errors.InvalidDicomError, AttributeError):
                continue  # companions of images
            digest = hashlib.md5(stamped(data, clinic), usedforsecurity=False).hexdigest()
            assert expected.setdefault(sop, digest) == digest, f"{path} is not what is stored"
        assert self.platform.md5s() == expected
        identities = list(self.platform.identity.values())
        assert len(identities) == len({identity[3] for identity in identities}), "a duplicate"
        owners = self.owners()
        for key, data in self.platform.instances.items():
            clinic, _ = owners[self.platform.identity[key][1]]
            assert pydicom.dcmread(io.BytesIO(data)).InstitutionName == clinic
        visible = {study for study, (_, revision) in owners.items() if revision}
        assert {identity[1] for identity in identities} == visible

    def imported(self) -> Iterator[tuple[str, Path, bytes]]:
        """The files under processed/, also in packed files, and the good members of packed files under failed/."""
        for folder in [*(self.root / "processed").glob("*/*/*"), *(self.root / "failed").glob("*/*/*")]:
            place, clinic = folder.relative_to(self.root).parts[:2]
            report = json.loads((folder / "report.json").read_text()) if place == "failed" else {"failures": []}
            failed = {failure["path"] for failure in report["failures"]}
            for path in folder.rglob("*"):
                if path.is_file() and (place == "processed" or (report["processed"] and is_packed(path.read_bytes()))):
                    for name, data in unpacked(path.read_bytes()).items():
                        if f"{path.relative_to(folder)}{name}" not in failed:
                            yield clinic, path, data

    def owners(self) -> dict[str, tuple[str, int]]:
        """StudyInstanceUID -> clinic and revision, of the registry."""
        with self.registry.connect("postgres") as connection:
            rows = connection.execute("SELECT study_uid, clinic_id, revision FROM registry.study").fetchall()
        return {study: (clinic, revision) for study, clinic, revision in rows}

    def check_failed(self) -> None:
        """Each failed folder says why, of each of its files or of the whole."""
        for folder in (self.root / "failed").glob("*/*/*"):
            report = json.loads((folder / "report.json").read_text())
            assert (folder / "REASON.txt").read_text().strip()
            assert {failure["reason"] for failure in report["failures"]} <= set(SENTENCES)
            there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
            there -= {"report.json", "REASON.txt"}
            named = {failure["path"] for failure in report["failures"]} - {None}
            named = {str(Path(name).parent) if (folder / name).parent.is_file() else name for name in named}
            assert named == there if report["processed"] else named <= there, folder


def zipped(*images: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as made:
        for number, data in enumerate(images):
            made.writestr(zipfile.ZipInfo(str(number)), data)
    return target.getvalue()


def is_packed(data: bytes) -> bool:
    return data[:2] in (b"PK", b"\x1f\x8b")


def unpacked(data: bytes) -> dict[str, bytes]:
    """The members of a file, by the name shown after the file's own; for most files, the file itself."""
    if data[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(data)) as made:
            return {f"/{name}": made.read(name) for name in made.namelist()}
    return {"/file": gzip.decompress(data)} if is_packed(data) else {"": data}


def stamped(data: bytes, clinic: str) -> bytes:
    """The bytes that are stored of a delivered file."""
    scratch = Path(tempfile.gettempdir())
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        return b"".join(stamp(read_instance(file, scratch), clinic, scratch).chunks())
