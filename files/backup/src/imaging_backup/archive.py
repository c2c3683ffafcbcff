"""The format of an archive: a tar, compressed by zstd, encrypted by age when a key is given.

    about.json        what it is: of which installation, when, which versions, how many of everything
    …                 databases, settings, images
    manifest.txt      one line for each member before: its SHA-256, its size in bytes, its name
    manifest.sha256   the SHA-256 of manifest.txt, as sha256sum writes it

The manifest comes last, so that an archive is written and proven in one pass, whatever its size, and one that ends
early has none. Everything can be read without this program: `zstd -dc FILE | tar -x`, `sha256sum -c manifest.sha256`.
"""

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

from imaging_backup.errors import BackupError

FORMAT = 1
ABOUT, MANIFEST, MANIFEST_SUM = "about.json", "manifest.txt", "manifest.sha256"
# A name of an archive is never a way out of the directory into which it is unpacked.
MEMBER = re.compile(
    r"about\.json|realm\.json|images\.tsv|manifest\.txt|manifest\.sha256"
    r"|databases/(orthanc|keycloak|registry)\.dump"
    r"|settings(/(?!\.\.?/)[^/\0\n]+)*/(?!\.\.?$)[^/\0\n]+"
    r"|images/[0-9a-f-]{36}"
)
BLOCK = 1024 * 1024
NO_SPACE = os.strerror(errno.ENOSPC).lower()

About = dict[str, Any]
Sink = Callable[[str], BinaryIO | None]
"""Where the content of a member goes; None: it is only compared."""


# --- writing ---------------------------------------------------------------------------------------------------------


class Writer:
    """Adds members to a stream and keeps the manifest."""

    def __init__(self, stream: IO[bytes], about: About) -> None:
        # Both live as long as the writer.
        self._tar = tarfile.open(fileobj=stream, mode="w|", bufsize=BLOCK, format=tarfile.PAX_FORMAT)  # noqa: SIM115
        self._manifest = tempfile.TemporaryFile()  # noqa: SIM115
        self.add_bytes(ABOUT, write_about(about))

    def add_bytes(self, name: str, content: bytes) -> None:
        """Add a member. Raises OSError when the stream does not take it."""
        self._add(name, len(content), io.BytesIO(content))

    def add_file(self, name: str, path: Path) -> int:
        """Add a file; its size in bytes. Raises BackupError when it changes meanwhile, OSError."""
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            self._add(name, size, file)
        return size

    def finish(self) -> None:
        """Write the manifest and the end."""
        self._manifest.seek(0)
        digest = hashlib.file_digest(self._manifest, "sha256").hexdigest()
        size = self._manifest.seek(0, io.SEEK_END)
        self._manifest.seek(0)
        self._tar.addfile(_entry(MANIFEST, size), self._manifest)
        content = f"{digest}  {MANIFEST}\n".encode()
        self._tar.addfile(_entry(MANIFEST_SUM, len(content)), io.BytesIO(content))
        self._tar.close()
        self._manifest.close()

    def _add(self, name: str, size: int, content: BinaryIO) -> None:
        hashed = _Hashed(content)
        try:
            self._tar.addfile(_entry(name, size), hashed)
        except OSError as error:
            if str(error) == "unexpected end of data":  # tarfile's own: there is less than was announced
                raise BackupError(f"{name} became shorter while it was read") from error
            raise
        self._manifest.write(_line(hashed.sha256.hexdigest(), size, name))


class _Hashed(io.RawIOBase):
    """What is read through it is hashed."""

    def __init__(self, content: BinaryIO) -> None:
        self._content = content
        self.sha256 = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        block = self._content.read(size)
        self.sha256.update(block)
        return block


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o600
    return entry


def _line(sha256: str, size: int, name: str) -> bytes:
    return f"{sha256} {size} {name}\n".encode()


@contextlib.contextmanager
def packed(output: IO[bytes], recipients: list[str]) -> Iterator[IO[bytes]]:
    """A stream whose content is compressed and, for recipients, encrypted into a file. Raises BackupError."""
    commands = [["zstd", "--quiet", "-3", "--threads=0"]]
    if recipients:
        commands.append(["age", "--encrypt", *(f"--recipient={key}" for key in recipients)])
    with tempfile.TemporaryFile() as complaints:
        processes: list[subprocess.Popen[bytes]] = []
        for command in commands:
            processes.append(
                subprocess.Popen(  # noqa: S603 # constants and checked public keys
                    command,
                    stdin=subprocess.PIPE if not processes else processes[-1].stdout,
                    stdout=output if command is commands[-1] else subprocess.PIPE,
                    stderr=complaints,
                )
            )
        for process in processes[:-1]:
            process.stdout.close()  # type: ignore[union-attr] # only the next one holds it, and its end is seen
        stream = processes[0].stdin
        assert stream is not None  # noqa: S101
        try:
            yield stream
            stream.close()
        except BrokenPipeError:
            pass  # why, the programs say
        except BaseException:
            for process in processes:
                process.kill()
            raise
        finally:
            with contextlib.suppress(BrokenPipeError):
                stream.close()
            codes = [process.wait() for process in processes]
        if any(codes):
            complaints.seek(0)
            raise BackupError(complaints.read().decode(errors="replace").strip() or f"exit codes {codes}")


@contextlib.contextmanager
def new_archive(path: Path, about: About, recipients: list[str]) -> Iterator[Writer]:
    """Write an archive; it has its name only once it is whole and on disk. Raises BackupError."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("xb") as file:
            partial.chmod(0o600)
            with packed(file, recipients) as stream:
                writer = Writer(stream, about)
                yield writer
                writer.finish()
            os.fsync(file.fileno())
        partial.rename(path)
        directory = os.open(path.parent, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)
    except BackupError as error:
        if NO_SPACE in str(error).lower():  # age's and zstd's words
            raise BackupError(disk_full(path.parent)) from error
        raise
    finally:
        partial.unlink(missing_ok=True)


def disk_full(directory: Path) -> str:
    """What to say of a full disk."""
    free = shutil.disk_usage(directory).free // 2**20
    return (
        f"the disk of {directory} is full ({free} MB are free). No backup was made; older ones are as they were. "
        "Make room, keep fewer (imaging_backup_keep_count, imaging_backup_keep_days), or set imaging_backup_path to a "
        "larger disk"
    )


# --- reading ---------------------------------------------------------------------------------------------------------


def prove(path: Path, accept: Callable[[About], None], sink: Sink = lambda _: None) -> About:
    """Read an archive to its end and compare every byte of it with its manifest; what it says about itself.

    `accept` is given what it says about itself before anything else is read, and may refuse it. What `sink` was given
    is only to be trusted once this returns. Raises BackupError.
    """
    try:
        return _prove(path, accept, sink)
    except (tarfile.TarError, EOFError) as error:
        raise _damaged(path, str(error)) from error


def _prove(path: Path, accept: Callable[[About], None], sink: Sink) -> About:
    about: About | None = None
    with tempfile.TemporaryFile() as computed, contextlib.closing(_members(path)) as members:
        for name, size, content in members:
            if about is None:
                about = _about(path, name, content, computed)
                try:
                    accept(about)
                except (KeyError, TypeError) as error:
                    raise _damaged(path, f"{ABOUT} lacks {error}") from error
            elif name == MANIFEST:
                _compare_manifest(path, content, computed, members)
                return about
            else:
                target = sink(name)
                sha256 = hashlib.sha256()
                with target or contextlib.nullcontext():
                    while block := content.read(BLOCK):
                        sha256.update(block)
                        if target:
                            target.write(block)
                computed.write(_line(sha256.hexdigest(), size, name))
    raise _damaged(path, "it ends before its manifest")


def _about(path: Path, name: str, content: IO[bytes], computed: IO[bytes]) -> About:
    text = content.read(BLOCK)
    about = read_about(path, text if name == ABOUT else b"null")
    computed.write(_line(hashlib.sha256(text).hexdigest(), len(text), name))
    return about


def read_about(path: Path, text: bytes) -> About:
    """Read what a backup says about itself. Raises BackupError when this release does not understand it."""
    try:
        about = json.loads(text)
    except ValueError as error:
        raise _damaged(path, f"{ABOUT} is not readable") from error
    if not isinstance(about, dict) or "format" not in about:
        raise _foreign(path)
    if about["format"] != FORMAT:
        raise BackupError(
            f"{path} has the format {about['format']}, and this release reads format {FORMAT}. Restore it with the "
            "release of the platform that made it. Nothing was changed"
        )
    return about


def write_about(about: About) -> bytes:
    """What a backup says about itself, for `read_about`."""
    return json.dumps({"format": FORMAT, **about}, indent=2).encode() + b"\n"


def _compare_manifest(
    path: Path, content: IO[bytes], computed: IO[bytes], members: Iterator[tuple[str, int, IO[bytes]]]
) -> None:
    computed.seek(0)
    sha256 = hashlib.sha256()
    for line in iter(content.readline, b""):
        sha256.update(line)
        found = computed.readline()
        if found != line:
            name = (found or line).decode(errors="replace").rstrip("\n").split(" ", 2)[-1]
            raise _damaged(path, f"{name} is not what the manifest says")
    if computed.readline():
        raise _damaged(path, "it holds more than its manifest names")
    name, _, content = next(members, ("", 0, io.BytesIO()))
    if name != MANIFEST_SUM or content.read(BLOCK) != f"{sha256.hexdigest()}  {MANIFEST}\n".encode():
        raise _damaged(path, "the manifest itself is not what was written")
    if next(members, None):
        raise _damaged(path, "something follows the manifest")


def _members(path: Path) -> Generator[tuple[str, int, IO[bytes]], None, None]:
    """Name, size in bytes and content of each member, in order. Raises BackupError."""
    try:
        with path.open("rb") as file:
            start = file.read(32)
    except OSError as error:
        raise BackupError(f"{path} cannot be read: {error.strerror}") from error
    if start.startswith(b"age-encryption.org/"):
        raise BackupError(
            f"{path} is encrypted, and the private key is not on this host. Decrypt it where the key is and send it "
            f"here: age --decrypt --identity KEY FILE | ssh HOST 'umask 077; cat > {path.with_suffix('')}'"
        )
    if not start.startswith(b"\x28\xb5\x2f\xfd"):  # RFC 8878 section 3.1.1
        raise _foreign(path)
    with subprocess.Popen(  # noqa: S603
        ["zstd", "--quiet", "--decompress", "--stdout", "--", str(path)],  # noqa: S607
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as zstd:
        assert zstd.stdout is not None and zstd.stderr is not None  # noqa: S101, PT018
        try:
            with tarfile.open(fileobj=zstd.stdout, mode="r|", bufsize=BLOCK) as tar:
                for entry in tar:
                    if not entry.isreg() or not MEMBER.fullmatch(entry.name):
                        raise _foreign(path)
                    content = tar.extractfile(entry)
                    assert content is not None  # noqa: S101
                    yield entry.name, entry.size, content
            while zstd.stdout.read(BLOCK):
                pass
            complaint = zstd.stderr.read().decode(errors="replace").strip()
            if zstd.wait():
                raise _damaged(path, complaint)
        finally:
            zstd.kill()


def _foreign(path: Path) -> BackupError:
    return BackupError(f"{path} is not a backup of this platform. Nothing was changed")


def _damaged(path: Path, why: str) -> BackupError:
    return BackupError(
        f"{path} is damaged: {why}. Nothing was changed. Copy it again from where it came, compare both with "
        "sha256sum, or take an older backup"
    )
