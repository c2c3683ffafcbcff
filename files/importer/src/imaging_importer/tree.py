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
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO, NamedTuple

from imaging_importer import failpoints
from imaging_importer.reasons import RejectedError

# Names under which known programs write before they rename (rsync and most others: a leading dot).
UNFINISHED_SUFFIXES = (".part", ".partial", ".filepart", ".tmp", ".crdownload")
# Files that desktops leave in every folder. They never go away, so they cannot mean that an upload runs.
DESKTOP_LITTER = (".ds_store", "._", ".directory", ".fseventsd", ".spotlight-v100", ".trashes")

# Beyond these limits it is no delivery. No modality or PACS nests so deep (a DICOMDIR medium has at most 8 levels), and
# an export of a whole PACS can be done by years. Files and directories count, so that empty directories are bounded
# too.
MOST_ENTRIES = 2_000_000
DEEPEST = 32
LONGEST_PATH = 2048  # bytes; a copy onto another file system needs whole paths, and Linux takes 4096
# The number of directories of a folder that are watched for changes. The scan finds changes in the others.
MOST_WATCHED = 1000
# The names of one file are counted for so many files. Each later file counts as linked from outside.
MOST_LINKED = 100_000

# The errors of a file system that does not accept a name: it is too long, or has characters or bytes that it cannot
# hold.
REFUSED_NAMES = frozenset({errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ})
# The errors if somebody has put something in a place that was free when it was chosen.
OCCUPIED = frozenset({errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR, errno.ENOTDIR})

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class PlaceError(OSError):
    """The place that was chosen for a folder will never accept it. Nothing of it was moved there."""


@dataclass(frozen=True)
class Entry:
    """One delivered file of any kind."""

    path: str  # relative to the folder; bytes that are no UTF-8 as surrogates (os.fsdecode)
    size: int
    mtime_ns: int
    kind: str  # "file", or the reason why it is never opened


@dataclass(frozen=True)
class Look:
    """The result of one look at a folder. Two equal fingerprints mean that nothing changed between them."""

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


def look(folder: Path) -> Generator[None, None, Look]:
    """Names, sizes and times of everything below a folder, in small steps.

    Raises OSError, also if the folder changes during the look.

    The fingerprint is a sum, so that entries need no order: a million names are never in memory together.
    """
    total = files = size = 0
    unfinished = False
    directories = [folder]
    for path, status in _walk(folder):
        content = b"\0%d %d %d %d" % (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        total += int.from_bytes(blake2b(os.fsencode(path) + content, digest_size=16).digest())
        if not stat.S_ISDIR(status.st_mode):
            files += 1
            size += status.st_size
            unfinished = unfinished or is_unfinished(path)
        elif len(directories) < MOST_WATCHED:
            directories.append(folder / path)
        yield
    return Look((total % (1 << 128)).to_bytes(16), files, size, unfinished, tuple(directories))


def entries(folder: Path) -> Iterator[Entry]:
    """All files below a folder, in no order. Raises RejectedError if there are more than a delivery may have."""
    links: Counter[tuple[int, int]] = Counter()
    for number, (path, status) in enumerate(_walk(folder)):
        if number >= MOST_ENTRIES:
            raise RejectedError("too-many-files")
        if (stat.S_ISDIR(status.st_mode) and path.count("/") >= DEEPEST - 1) or len(os.fsencode(path)) > LONGEST_PATH:
            raise RejectedError("too-deep")
        file = (status.st_dev, status.st_ino)
        if not _is_linked(status):
            yield from _entry(path, status)
        elif file in links or len(links) < MOST_LINKED:
            links[file] += 1
    # Only now it is known whether all names of a file are in the folder.
    for path, status in _walk(folder) if links else ():
        if _is_linked(status):
            inside = links[status.st_dev, status.st_ino] >= status.st_nlink
            yield from _entry(path, status, "file" if inside else "hard-link")


def _is_linked(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and status.st_nlink > 1


def _entry(path: str, status: os.stat_result, kind: str = "file") -> Iterator[Entry]:
    if stat.S_ISDIR(status.st_mode):
        return
    if stat.S_ISLNK(status.st_mode):
        kind = "symbolic-link"
    elif not stat.S_ISREG(status.st_mode):
        kind = "device-file"
    elif kind == "file" and is_unfinished(path):
        kind = "upload-unfinished"
    yield Entry(path, status.st_size, status.st_mtime_ns, kind)


class _Level(NamedTuple):
    """A directory that is being listed."""

    path: str
    descriptor: int
    listing: Iterator[os.DirEntry[str]]
    close: ExitStack


def _walk(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below a folder with its status, down to DEEPEST. Only one entry of each level is in memory."""
    levels: list[_Level] = []
    try:
        levels.append(_level("", os.open(folder, _DIRECTORY)))
        while levels:
            level = levels[-1]
            entry = next(level.listing, None)
            if entry is None:
                levels.pop().close.close()
                continue
            path = f"{level.path}/{entry.name}" if level.path else entry.name
            status = entry.stat(follow_symlinks=False)
            yield path, status
            if stat.S_ISDIR(status.st_mode) and len(levels) < DEEPEST:
                levels.append(_level(path, os.open(entry.name, _DIRECTORY, dir_fd=level.descriptor)))
    finally:
        for level in levels:
            level.close.close()


def _level(path: str, descriptor: int) -> _Level:
    with ExitStack() as stack:
        stack.callback(os.close, descriptor)
        listing = stack.enter_context(os.scandir(descriptor))
        return _Level(path, descriptor, listing, stack.pop_all())


def exists(folder: Path, path: str) -> bool:
    """Whether there is something at a path below `folder`. Raises OSError if that cannot be found out."""
    parent, _, name = path.rpartition("/")
    try:
        directory = open_directory(folder, parent)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    finally:
        os.close(directory)
    return True


def open_directory(folder: Path, relative: str = "", create: bool = False) -> int:
    """A descriptor of a directory below `folder`. With `create`, missing directories are made."""
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


def being_written(folder: Path) -> Generator[None, None, bool]:
    """Whether a program on this machine holds a file below `folder` open for writing; asked in small steps."""
    for path, status in _walk(folder):
        if stat.S_ISREG(status.st_mode) and held_open(folder, path):
            return True
        yield
    return False


def held_open(folder: Path, path: str) -> bool:
    """Whether a program on this machine holds this file open for writing: then the kernel grants no read lease."""
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
    """Make renames in a directory survive a power loss. A descriptor may name it, as a link in /proc."""
    descriptor = os.open(directory, _DIRECTORY & ~os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _placing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in REFUSED_NAMES | OCCUPIED:
            raise PlaceError(*error.args) from error
        raise


def is_there(path: Path) -> bool:
    """Whether there is something of that name, even a broken link. Raises OSError if that cannot be found out."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def make_directory(directory: Path) -> None:
    """Make a directory and those above it, so that their names survive a power loss."""
    if not directory.is_dir():
        make_directory(directory.parent)
        directory.mkdir(exist_ok=True)
        sync_directory(directory.parent)


def move(source: Path, target: Path) -> None:
    """Move a file or folder to a free name, by rename or, to another file system, by copy.

    Survives a kill: run it again. Raises PlaceError if the name is not free, or not possible on this file system.
    """
    make_directory(target.parent)
    try:
        with _placing():
            source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy_across(source, target)
    sync_directory(target.parent)
    sync_directory(source.parent)


def move_file(folder: Path, path: str, target: Path) -> None:
    """Move one file below `folder` to the same path below `target`. Raises PlaceError as `move` does.

    A file that is gone was moved before, or its sender took it away.
    """
    parent, _, name = path.rpartition("/")
    if not exists(folder, path):
        return
    with _placing():
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

    After a kill, an unfinished copy is made again. A target that exists is complete, and only the source is removed.
    """
    if not is_there(target):
        _copy_to(source, target)
        failpoints.reach("copied-across")
    _remove(source)


def _copy_to(source: Path, target: Path) -> None:
    # Not longer than the final name, which may be as long as the file system accepts.
    partial = target.with_name(f".{blake2b(os.fsencode(target.name), digest_size=8).hexdigest()}.moving")
    _remove(partial)
    mode = source.lstat().st_mode
    if stat.S_ISDIR(mode):
        _copy_folder(source, partial)
    elif stat.S_ISREG(mode) or stat.S_ISLNK(mode):
        _copy_file(str(source), str(partial))
    else:  # a device or pipe holds no data
        return
    failpoints.reach("copying-across")
    try:
        with _placing():
            partial.rename(target)
    except PlaceError:  # it gets another name, and this directory would stay
        _remove(partial)
        raise
    sync_directory(target.parent)


def _copy_folder(source: Path, target: Path) -> None:
    """Copy a folder, directory by directory from their own descriptors, so that paths may be of any depth."""
    target.mkdir()
    for directory, folders, files, here in os.fwalk(source, onerror=_raise):
        there = open_directory(target, directory[len(str(source)) + 1 :])
        try:
            for name in (*folders, *files):
                mode = os.stat(name, dir_fd=here, follow_symlinks=False).st_mode
                if stat.S_ISDIR(mode):
                    os.mkdir(name, dir_fd=there)
                elif stat.S_ISREG(mode) or stat.S_ISLNK(mode):  # a device or pipe holds no data
                    _copy_file(f"/proc/self/fd/{here}/{name}", f"/proc/self/fd/{there}/{name}")
            shutil.copystat(f"/proc/self/fd/{here}", f"/proc/self/fd/{there}")
            os.fsync(there)
        finally:
            os.close(there)


def _raise(error: OSError) -> None:
    """Refuse a directory that cannot be listed: it is not copied, so it must not be removed."""
    raise error


def _remove(path: Path) -> None:
    if _is_folder(path):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_folder(path: Path) -> bool:
    return is_there(path) and stat.S_ISDIR(path.lstat().st_mode)


def _copy_file(source: str, target: str) -> None:
    shutil.copy2(source, target, follow_symlinks=False)
    if not Path(target).is_symlink():
        with Path(target).open("rb") as file:
            os.fsync(file.fileno())
