"""File operations inside a delivered folder, which its sender may still hold open and change.

Nothing here follows a symbolic link: every path is opened component by component from the folder's own descriptor.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

from imaging_importer import failpoints

# Names under which known programs write before they rename (rsync and most others: a leading dot).
UNFINISHED_SUFFIXES = (".part", ".partial", ".filepart", ".tmp", ".crdownload")
# What desktops leave behind in every folder; it never goes away, so it cannot mean that an upload runs.
DESKTOP_LITTER = (".ds_store", "._", ".directory", ".fseventsd", ".spotlight-v100", ".trashes")

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class Entry:
    """One delivered file, of whatever kind."""

    path: str  # relative to the folder; bytes that are no UTF-8 as surrogates (os.fsdecode)
    size: int
    mtime_ns: int
    kind: str  # "file", or the reason why it is never opened


@dataclass(frozen=True)
class Look:
    """What one look at a folder saw; two equal fingerprints mean that nothing changed between them."""

    fingerprint: bytes
    files: int
    size: int
    unfinished: bool
    directories: tuple[Path, ...]


def is_unfinished(path: str) -> bool:
    """Whether a name says that its upload still runs."""
    if path.lower().endswith(UNFINISHED_SUFFIXES):
        return True
    parts = path.lower().split("/")
    return any(part.startswith(".") and not part.startswith(DESKTOP_LITTER) for part in parts)


def look(folder: Path) -> Look:
    """Names, sizes and times of everything below a folder. Raises OSError, also when it changes under the look."""
    digest = blake2b(digest_size=16)
    files = size = 0
    unfinished = False
    directories = [folder]
    for path, status in _walk(folder):
        digest.update(os.fsencode(path))
        digest.update(b"\0%d %d %d %d\0" % (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
        if stat.S_ISDIR(status.st_mode):
            directories.append(folder / path)
        else:
            files += 1
            size += status.st_size
            unfinished = unfinished or is_unfinished(path)
    return Look(digest.digest(), files, size, unfinished, tuple(directories))


def entries(folder: Path) -> list[Entry]:
    """All files below a folder, sorted by path."""
    found = [(path, status) for path, status in _walk(folder) if not stat.S_ISDIR(status.st_mode)]
    names = Counter((status.st_dev, status.st_ino) for _, status in found)
    listed = []
    for path, status in found:
        kind = "file"
        if stat.S_ISLNK(status.st_mode):
            kind = "symbolic-link"
        elif not stat.S_ISREG(status.st_mode):
            kind = "device-file"
        elif status.st_nlink > names[status.st_dev, status.st_ino]:
            kind = "hard-link"
        elif is_unfinished(path):
            kind = "upload-unfinished"
        listed.append(Entry(path, status.st_size, status.st_mtime_ns, kind))
    return sorted(listed, key=lambda entry: os.fsencode(entry.path))


def _walk(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below a folder, in a fixed order, with its status."""
    waiting = [""]
    while waiting:
        relative = waiting.pop()
        descriptor = open_directory(folder, relative)
        try:
            for name in sorted(os.listdir(descriptor)):  # noqa: PTH208 - a descriptor, not a path
                path = f"{relative}/{name}" if relative else name
                status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                yield path, status
                if stat.S_ISDIR(status.st_mode):
                    waiting.append(path)
        finally:
            os.close(descriptor)


def open_directory(folder: Path, relative: str = "", create: bool = False) -> int:
    """A descriptor of a directory below `folder`; with `create`, made on the way when absent."""
    descriptor = os.open(folder, _DIRECTORY)
    for part in relative.split("/") if relative else ():
        try:
            if create:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o750, dir_fd=descriptor)
            below = os.open(part, _DIRECTORY, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = below
    return descriptor


def open_file(folder: Path, path: str) -> BinaryIO:
    """Open a regular file below `folder` for reading. Raises OSError (ELOOP when it became a link)."""
    parent, _, name = path.rpartition("/")
    directory = open_directory(folder, parent)
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    finally:
        os.close(directory)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.ELOOP, "not a regular file", path)
    return os.fdopen(descriptor, "rb", buffering=1 << 14)


def being_written(folder: Path) -> bool:
    """Whether a program on this machine holds a file below `folder` open for writing."""
    return any(held_open(folder, path) for path, status in _walk(folder) if stat.S_ISREG(status.st_mode))


def held_open(folder: Path, path: str) -> bool:
    """Whether a program on this machine holds this file open for writing: then no read lease is granted."""
    try:
        with open_file(folder, path) as file:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    return False


def leases_work(directory: Path) -> bool:
    """Whether this file system grants read leases at all (NFS may refuse every one)."""
    probe = directory / f".lease-{os.getpid()}"
    probe.write_bytes(b"")
    try:
        with probe.open("rb") as file:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False
    else:
        return True
    finally:
        probe.unlink()


def sync_directory(directory: Path) -> None:
    """Make renames in a directory survive a power loss."""
    descriptor = os.open(directory, _DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(directory: Path) -> None:
    """Make a directory and those above it, such that their names survive a power loss."""
    if not directory.is_dir():
        make_directory(directory.parent)
        directory.mkdir(exist_ok=True)
        sync_directory(directory.parent)


def move(source: Path, target: Path) -> None:
    """Move a file or folder to a free name, by rename or, onto another file system, by copy.

    Survives a kill: run it again.
    """
    make_directory(target.parent)
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy_across(source, target)
    sync_directory(target.parent)
    sync_directory(source.parent)


def move_file(folder: Path, path: str, target: Path) -> None:
    """Move one file below `folder` to the same path below `target`. A file that is gone was moved before."""
    parent, _, name = path.rpartition("/")
    make_directory(target)
    there = open_directory(target, parent, create=True)
    try:
        here = open_directory(folder, parent)
        try:
            os.rename(name, name, src_dir_fd=here, dst_dir_fd=there)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _copy_across(Path(f"/proc/self/fd/{here}") / name, Path(f"/proc/self/fd/{there}") / name)
        finally:
            os.close(here)
        os.fsync(there)
    finally:
        os.close(there)


def _copy_across(source: Path, target: Path) -> None:
    """Copy to a hidden name, make it durable, rename, then remove the source.

    After a kill: an unfinished copy is made anew; a target that is there was complete, and only the source has to go.
    """
    if not os.path.lexists(target):
        _copy_to(source, target)
        failpoints.reach("copied-across")
    _remove(source)


def _copy_to(source: Path, target: Path) -> None:
    partial = target.with_name(f".{target.name}.moving")
    _remove(partial)
    if _is_folder(source):
        shutil.copytree(source, partial, symlinks=True, copy_function=_copy_file, ignore=_special_files)
        for directory, _, _ in os.walk(partial):
            sync_directory(Path(directory))
    elif source.is_symlink() or source.is_file():
        _copy_file(str(source), str(partial))
    else:  # a device or pipe holds no data
        return
    failpoints.reach("copying-across")
    partial.rename(target)
    sync_directory(target.parent)


def _remove(path: Path) -> None:
    if _is_folder(path):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _copy_file(source: str, target: str) -> None:
    shutil.copy2(source, target, follow_symlinks=False)
    if not Path(target).is_symlink():
        with Path(target).open("rb") as file:
            os.fsync(file.fileno())


def _special_files(directory: str, names: list[str]) -> list[str]:
    modes = {name: os.lstat(Path(directory) / name).st_mode for name in names}
    return [
        name for name, mode in modes.items() if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode))
    ]


def printable(path: str) -> str:
    """A path for people and JSON: bytes that are no UTF-8 are shown as \\xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
