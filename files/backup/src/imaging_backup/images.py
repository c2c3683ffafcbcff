"""Orthanc's image files: lists them from the index, holds them during a backup, restores and checks them."""

import errno
import hashlib
import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from imaging_backup.databases import Connection
from imaging_backup.errors import BackupError

SAMPLE = 500
LIST = "COPY (SELECT uuid, compressedsize, compressedhash FROM public.attachedfiles ORDER BY uuid) TO STDOUT"
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS)


@dataclass(frozen=True)
class Image:
    """A file that the index names."""

    uuid: str
    size: int  # bytes
    md5: str  # empty when Orthanc has not kept it

    def path(self, store: Path) -> Path:
        """The path at which Orthanc keeps it."""
        return store_path(store, self.uuid)


def store_path(store: Path, uuid: str) -> Path:
    """The path at which Orthanc keeps a file (its class FilesystemStorage)."""
    return store / uuid[0:2] / uuid[2:4] / uuid


def list_images(connection: Connection, target: Path) -> None:
    """Write down every file that the index names: UUID, size in bytes and MD5, separated by tabs."""
    with target.open("wb") as file, connection.cursor() as cursor, cursor.copy(LIST) as rows:
        for row in rows:
            file.write(row)


def read_list(path: Path) -> Iterator[Image]:
    """The list that `list_images` wrote."""
    with path.open(encoding="ascii") as lines:
        for line in lines:
            uuid, size, md5 = line.rstrip("\n").split("\t")
            yield Image(uuid, int(size), "" if md5 == "\\N" else md5)


class Links:
    """A second name of each image, so that an image that is deleted during the backup can still be backed up."""

    def __init__(self, store: Path, directory: Path) -> None:
        self._store = store
        self._directory = directory

    def path(self, image: Image) -> Path:
        """The second name."""
        return place_in(self._directory, image.uuid)

    def hold(self, images: Iterator[Image]) -> list[Image]:
        """Give each image its second name; return the images that are gone. Images that are held already stay held."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        gone = []
        for image in images:
            link = self.path(image)
            try:
                self._link(image.path(self._store), link)
            except FileExistsError:
                pass
            except FileNotFoundError:
                gone.append(image)
            except OSError as error:
                if error.errno in NO_LINKS:
                    raise BackupError(
                        f"the file system of {self._store} has no hard links ({error.strerror}), so images that are "
                        "deleted during a backup would be missed. Back the images up by a snapshot of that file system "
                        "instead, taken after a backup without images"
                    ) from error
                raise
        return gone

    def keep_only(self, images: Iterator[Image]) -> None:
        """Remove all second names but these."""
        wanted = {image.uuid for image in images}
        for directory in self._directory.iterdir():
            for link in directory.iterdir():
                if link.name not in wanted:
                    link.unlink()

    @staticmethod
    def _link(image: Path, link: Path) -> None:
        try:
            os.link(image, link)
        except FileNotFoundError:
            if link.parent.exists():
                raise
            link.parent.mkdir(mode=0o700)
            os.link(image, link)

    def drop(self) -> None:
        """Remove the second names, also those of a backup that was killed."""
        shutil.rmtree(self._directory, ignore_errors=True)


def place_in(directory: Path, uuid: str) -> Path:
    """The path of a second name. They are spread over directories, because one large directory would be slow."""
    return directory / uuid[0:2] / uuid


def put_back(arriving: Path, store: Path) -> int:
    """Move restored images to where Orthanc looks for them; return how many. Other files of the store stay there."""
    owner = store.stat()
    moved = 0
    for file in (file for part in arriving.iterdir() for file in part.iterdir()):
        target = store_path(store, file.name)
        for directory in (target.parent.parent, target.parent):
            if not directory.exists():
                directory.mkdir(mode=0o700)
                os.chown(directory, owner.st_uid, owner.st_gid)
        os.chown(file, owner.st_uid, owner.st_gid)
        file.chmod(0o600)
        file.replace(target)
        moved += 1
    return moved


@dataclass
class Findings:
    """The result of a check of the store. Orphans, files that the index does not name, are reported, never removed."""

    named: int = 0
    missing: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    compared: int = 0
    orphans: int = 0

    @property
    def good(self) -> bool:
        """Whether every image that the index names is there as it was stored."""
        return not self.missing and not self.damaged


def verify(listed: Path, store: Path, every: bool) -> Findings:
    """Check that each image of a list is there with its size. Compare the MD5 of a sample, or of every one."""
    findings = Findings(named=sum(1 for _ in read_list(listed)))
    chance = 1 if every else SAMPLE / max(findings.named, 1)
    for image in read_list(listed):
        path = image.path(store)
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            findings.missing.append(image.uuid)
            continue
        compared = bool(image.md5) and random.random() < chance  # noqa: S311 # a sample
        findings.compared += compared
        if size != image.size or (compared and _md5(path) != image.md5):
            findings.damaged.append(image.uuid)
    findings.orphans = _count_files(store) - (findings.named - len(findings.missing))
    return findings


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _count_files(store: Path) -> int:
    """The files at the paths where Orthanc keeps images: STORE/xx/yy/UUID."""
    return sum(
        1
        for first in store.iterdir()
        if len(first.name) == 2 and first.is_dir()
        for second in first.iterdir()
        for _ in second.iterdir()
    )
