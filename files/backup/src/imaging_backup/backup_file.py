"""The format of a backup file: a tar, compressed by zstd, encrypted by age when a key is given.

        about.json        what the backup is: its installation, time, versions, and counts of everything
    …                 databases, settings, images
    manifest.txt      one line for each member before: its SHA-256, its size in bytes, its name
    manifest.sha256   the SHA-256 of manifest.txt, as sha256sum writes it
    manifest.sig      the signature (Ed25519) of manifest.sha256

The manifest comes last. So a backup file of any size is written and proven in one pass, and a file that breaks off has
no manifest. Everything can be read without this program: `zstd -dc FILE | tar -x`, `sha256sum -c manifest.sha256`,
`openssl pkeyutl -verify`.
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
from imaging_backup.lines import printable_lines
from imaging_backup.printable import printable
from imaging_backup.signing import SigningKey, Trust, is_signed

FORMAT = 2
UNSIGNED = 1  # the format of the releases that did not sign
ABOUT, MANIFEST, MANIFEST_SUM, SIGNATURE = "about.json", "manifest.txt", "manifest.sha256", "manifest.sig"
# A name in a backup file never leads out of the directory into which it is unpacked.
MEMBER = re.compile(
    r"about\.json|realm\.json|images\.tsv|manifest\.(txt|sha256|sig)"
    r"|databases/(orthanc|keycloak|registry)\.dump"
    r"|settings(/(?!\.\.?/)[^/\0\n]+)*/(?!\.\.?$)[^/\0\n]+"
    r"|images/[0-9a-f-]{36}"
)
BLOCK = 1024 * 1024
RECORD = tarfile.BLOCKSIZE
# The header before a member with a long name or size. A name has at most 4,096 bytes.
EXTENDED_BYTES = 16 * 1024
ABOUT_BYTES = 64 * BLOCK

About = dict[str, Any]
Accept = Callable[[About], None]
Sink = Callable[[str], BinaryIO | None]
"""Where the content of a member goes; None: it is only compared."""


# --- writing ---------------------------------------------------------------------------------------------------------


class Writer:
    """Adds members to a stream and keeps the manifest."""

    def __init__(self, stream: IO[bytes], about: About, key: SigningKey) -> None:
        self._key = key
        # Both live as long as the writer.
        self._tar = tarfile.open(fileobj=stream, mode="w|", bufsize=BLOCK, format=tarfile.PAX_FORMAT)  # noqa: SIM115
        self._manifest = tempfile.TemporaryFile()  # noqa: SIM115
        self.add_bytes(ABOUT, write_about({"key": key.public, **about}))

    def add_bytes(self, name: str, content: bytes) -> None:
        """Add a member. Raises OSError when the stream does not take it."""
        self._add(name, len(content), io.BytesIO(content))

    def add_file(self, name: str, path: Path) -> int:
        """Add a file and return its size in bytes. Raises BackupError when it changes meanwhile, OSError."""
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
        for name, data in ((MANIFEST_SUM, content), (SIGNATURE, self._key.sign(content))):
            self._tar.addfile(_entry(name, len(data)), io.BytesIO(data))
        self._tar.close()
        self._manifest.close()

    def _add(self, name: str, size: int, content: BinaryIO) -> None:
        hashed = _Hashed(name, content)
        self._tar.addfile(_entry(name, size), hashed)
        self._manifest.write(_line(hashed.sha256.hexdigest(), size, name))


class _Hashed(io.RawIOBase):
    """Hashes everything that is read through it. Raises BackupError when there is less than was announced."""

    def __init__(self, name: str, content: BinaryIO) -> None:
        self._name, self._content = name, content
        self.sha256 = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        block = self._content.read(size)
        if len(block) < size:  # tarfile asks for no more than was announced
            raise BackupError(f"{self._name} became shorter while it was read")
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
            pass  # the programs say why
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
def new_backup_file(path: Path, about: About, recipients: list[str], key: SigningKey) -> Iterator[Writer]:
    """Write a backup file. It gets its name only when it is whole and on disk. Raises BackupError."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("xb") as file:
            partial.chmod(0o600)
            with packed(file, recipients) as stream:
                writer = Writer(stream, about, key)
                yield writer
                writer.finish()
            os.fsync(file.fileno())
        partial.rename(path)
        directory = os.open(path.parent, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)
    except BackupError as error:
        # Before the unfinished file is removed, because that frees its space.
        if is_full(path.parent):
            raise DiskFullError(path.parent) from error
        raise
    finally:
        partial.unlink(missing_ok=True)


class DiskFullError(BackupError):
    """A directory's disk is full."""

    def __init__(self, directory: Path) -> None:
        free = shutil.disk_usage(directory).free // 2**20
        super().__init__(
            f"the disk of {directory} is full ({free} MB are free). No backup was made; older ones are as they were. "
            "Make room, keep fewer (imaging_backup_keep_count, imaging_backup_keep_days), or set imaging_backup_path "
            "to a larger disk"
        )


def is_full(directory: Path) -> bool:
    """Whether a directory's disk has no room for another block. zstd, age and pg_dump report that in words only."""
    try:
        with tempfile.TemporaryFile(dir=directory) as probe:
            os.posix_fallocate(probe.fileno(), 0, BLOCK)
    except OSError as error:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return False


# --- reading ---------------------------------------------------------------------------------------------------------


def prove(path: Path, trust: Trust, accept: Accept, sink: Sink = lambda _: None) -> About:
    """Read a backup file to its end. Compare every byte with its manifest, and the manifest with its signature.

    Returns its description. The description's "key" is the key that has signed it; it is missing if there is no
    signature and `trust` allows that. `accept` gets the description before anything else is read, and may refuse it.
    The content that `sink` gets is not to be trusted before this function returns. Raises BackupError.
    """
    try:
        return _prove(path, trust, accept, sink)
    except _ForeignError as error:
        raise foreign(path, str(error)) from error
    except (tarfile.TarError, EOFError) as error:
        raise _damaged(path, str(error)) from error


def says(path: Path) -> str:
    """A backup file's own statement about its signature, in words. Only `prove` knows whether it is true."""
    if path.suffix == ".age":
        return "encrypted"
    try:
        with contextlib.closing(_members(path)) as members:
            name, _, content = next(members, ("", 0, io.BytesIO()))
            about = read_about(path, content.read(ABOUT_BYTES) if name == ABOUT else b"null")
    except (_ForeignError, BackupError, tarfile.TarError, EOFError):
        return "cannot be read"
    return f"signed with the key {printable(about['key'])}" if "key" in about else "not signed"


class _ForeignError(Exception):
    """The reason why a file is no backup file of ours."""


def _prove(path: Path, trust: Trust, accept: Accept, sink: Sink) -> About:
    about: About | None = None
    # Hashes do not compress, so a file of this size has no longer manifest.
    room = 8 * path.stat().st_size + 16 * BLOCK if path.exists() else 0
    seen: set[str] = set()
    with tempfile.TemporaryFile() as computed, contextlib.closing(_members(path)) as members:
        for name, size, content in members:
            if not name.startswith("images/"):
                if name in seen:
                    raise _ForeignError(f"it holds {name} twice")
                seen.add(name)
            if about is None:
                about = _about(path, name, content, computed)
                trust.demand(str(path), about.get("key"))
                try:
                    accept(about)
                except (KeyError, TypeError, ValueError, AttributeError) as error:
                    raise _damaged(path, f"{ABOUT} is not complete: {error}") from error
            elif name == MANIFEST:
                _compare_manifest(path, about, content, computed, members)
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
                if computed.tell() > room:
                    raise _ForeignError("it holds more files than such a file can")
    raise _damaged(path, "it ends before its manifest")


def _about(path: Path, name: str, content: IO[bytes], computed: IO[bytes]) -> About:
    text = content.read(ABOUT_BYTES)
    about = read_about(path, text if name == ABOUT else b"null")
    computed.write(_line(hashlib.sha256(text).hexdigest(), len(text), name))
    return about


def read_about(path: Path, text: bytes) -> About:
    """Read the description of a backup. Raises BackupError when this release does not understand it."""
    try:
        about = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"{ABOUT} is not readable") from error
    if not isinstance(about, dict) or not isinstance(about.get("format"), int):
        raise foreign(path)
    if about["format"] not in (UNSIGNED, FORMAT):
        raise BackupError(
            f"{path} has the format {about['format']}, and this release reads format {FORMAT}. Restore it with the "
            "release of the platform that made it. Nothing was changed"
        )
    if about["format"] == UNSIGNED:
        about.pop("key", None)
    return about


def write_about(about: About) -> bytes:
    """The description of a backup, for `read_about`."""
    return json.dumps({"format": FORMAT, **about}, indent=2).encode() + b"\n"


def _compare_manifest(
    path: Path,
    about: About,
    content: IO[bytes],
    computed: IO[bytes],
    members: Iterator[tuple[str, int, IO[bytes]]],
) -> None:
    computed.seek(0)
    sha256 = hashlib.sha256()
    while line := content.readline(EXTENDED_BYTES):
        sha256.update(line)
        found = computed.readline()
        if found != line:
            name = (found or line).decode(errors="replace").rstrip("\n").split(" ", 2)[-1]
            raise _damaged(path, f"{printable(name)} is not what the manifest says")
    if computed.readline():
        raise _damaged(path, "it holds more than its manifest names")
    digest = f"{sha256.hexdigest()}  {MANIFEST}\n".encode()
    name, _, content = next(members, ("", 0, io.BytesIO()))
    if name != MANIFEST_SUM or content.read(BLOCK) != digest:
        raise _damaged(path, "the manifest itself is not what was written")
    if "key" in about:
        name, _, content = next(members, ("", 0, io.BytesIO()))
        if name != SIGNATURE or not is_signed(about["key"], content.read(BLOCK), digest):
            raise BackupError(
                f"{path} is FORGED or damaged: its signature is not by the key {about['key']}, as it says. Take "
                "another backup, and find out who could write to this one. Nothing was changed"
            )
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
        raise foreign(path)
    with subprocess.Popen(  # noqa: S603
        ["zstd", "--quiet", "--decompress", "--stdout", "--", str(path)],  # noqa: S607
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as zstd:
        assert zstd.stdout is not None and zstd.stderr is not None  # noqa: S101, PT018
        try:
            yield from _entries(zstd.stdout)
            complaint = zstd.stderr.read().decode(errors="replace").strip()
            if zstd.wait():
                raise _damaged(path, complaint)
        finally:
            zstd.kill()


def _entries(stream: IO[bytes]) -> Iterator[tuple[str, int, IO[bytes]]]:
    """The members of a tar that has only what `Writer` writes: plain files with names that this platform gives.

    tarfile would also read links, devices, sparse files and endless rows of headers. It would believe their sizes
    before our code is asked.
    their sizes before anybody is asked.
    """
    while (block := _exactly(stream, RECORD)) != bytes(RECORD):
        entry = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        extended: dict[str, str] = {}
        if entry.type == tarfile.XHDTYPE and 0 < entry.size <= EXTENDED_BYTES:
            extended = _extended(_exactly(stream, _padded(entry.size))[: entry.size])
            entry = tarfile.TarInfo.frombuf(_exactly(stream, RECORD), "utf-8", "surrogateescape")
        name, size = extended.get("path", entry.name), int(extended.get("size", entry.size))
        if entry.type != tarfile.REGTYPE or entry.mode != 0o600 or size < 0 or not MEMBER.fullmatch(name):
            raise _ForeignError(f"it holds {name[:200]!a}, which is not what a backup holds")
        content = io.BufferedReader(_Content(stream, size), BLOCK)
        yield name, size, content
        while content.read(BLOCK):
            pass
        _exactly(stream, _padded(size) - size)
    # A second empty block, and the padding of the last record.
    if (rest := stream.read(BLOCK + 1)).strip(b"\0") or len(rest) > BLOCK:
        raise tarfile.ReadError("something follows the end")


class _Content(io.RawIOBase):
    """The content of one member."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream, self._left = stream, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:  # noqa: ANN401 # whatever can be written to
        block = _exactly(self._stream, min(len(buffer), self._left))
        self._left -= len(block)
        buffer[: len(block)] = block
        return len(block)


def _exactly(stream: IO[bytes], size: int) -> bytes:
    if len(block := stream.read(size)) < size:
        raise EOFError("unexpected end of data")
    return block


def _padded(size: int) -> int:
    return -(-size // RECORD) * RECORD


def _extended(records: bytes) -> dict[str, str]:
    """The content of an extended header (POSIX.1-2001, pax): one long name, one large size."""
    found = {}
    try:
        while records:
            length = int(records.split(b" ", 1)[0])
            record, records = records[:length], records[length:] if length > 0 else b""
            keyword, value = record.split(b" ", 1)[1].decode().removesuffix("\n").split("=", 1)
            found[keyword] = value
        int(found.get("size", 0))
    except (ValueError, IndexError) as error:
        raise _ForeignError("it holds a header that cannot be read") from error
    if not found.keys() <= {"path", "size"}:
        raise _ForeignError(f"it holds a header with {sorted(found)!a}")
    return found


def foreign(path: Path, why: str = "") -> BackupError:
    """The message for a file that is no backup."""
    return BackupError(f"{path} is not a backup of this platform{': ' if why else ''}{why}. Nothing was changed")


def _damaged(path: Path, why: str) -> BackupError:
    return BackupError(
        f"{path} is damaged: {printable_lines(why)}. Nothing was changed. Copy it again from where it came, compare "
        "both with sha256sum, or take an older backup"
    )
