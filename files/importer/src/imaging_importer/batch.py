"""Reads and stamps delivered files, a batch at a time.

This part of an upload needs neither Orthanc nor the registry, so it can run ahead of them.
"""

import contextlib
import errno
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from imaging_importer import reasons, tree
from imaging_importer.dicom import correction, display
from imaging_importer.dicom.instance import Instance, Limits, admit, read_instance, too_large
from imaging_importer.dicom.packed import PackedFiles
from imaging_importer.dicom.stamp import Body, former, stamp
from imaging_importer.journal import FileOutcome, Outcome
from imaging_importer.reasons import CompanionError, RejectedError, TransientError
from imaging_importer.snapshot import snapshot

log = logging.getLogger(__name__)

# File errors that concern this file only. Any other error (disk full, I/O error) may pass.
UNREADABLE = frozenset({errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO, errno.ENOTDIR})


@dataclass
class Prepared:
    """An instance that is ready to be claimed and sent."""

    path: str
    instance: Instance
    body: Body
    former: Body | None = None  # as earlier releases stored it, if its text is now corrected

    @property
    def weight(self) -> int:
        """The number of bytes it takes in Orthanc's memory. A deflated instance is only small while it is sent."""
        return max(self.body.size, self.instance.data_end)

    def use_former(self) -> None:
        """Send it as earlier releases did. Only Orthanc knows how it reads the PatientID in that form."""
        if self.former:
            self.body, self.former, self.instance.patient_id = self.former, None, None
            self.instance.notes.pop(correction.NOTE)


@dataclass(frozen=True)
class Source:
    """The folder of a delivery, and how its files are read."""

    folder: Path
    clinic: str
    scratch: Path  # a directory for copies
    limits: Limits
    charset: str = ""  # the character set that the clinic writes if an image names none
    packed_files: PackedFiles | None = None  # of the whole delivery; without them, no file is unpacked


@dataclass
class Batch:
    """Files that are stored together. Holds them open until it is closed."""

    outcomes: list[FileOutcome] = field(default_factory=list)  # results that are already decided
    instances: list[Prepared] = field(default_factory=list)  # instances to send
    listed: list[FileOutcome] = field(default_factory=list)  # members of packed files
    _open: ExitStack = field(default_factory=ExitStack)

    def __len__(self) -> int:
        return len(self.outcomes) + len(self.instances)

    def close(self) -> None:
        """Close the files."""
        self._open.close()

    def read(self, source: Source, file: FileOutcome) -> int:
        """Read and stamp one more file; return its weight.

        It reads, checks and sends a copy, because the sender may still write into the file. The members of a packed
        file are listed, and read later.

        Raises TransientError or OSError for an error that may pass.
        """
        limits, scratch, packed_files = source.limits, source.scratch, source.packed_files
        try:
            with _read_errors(), ExitStack() as opened:  # a refused file is closed at once
                if file.packed and packed_files:
                    copy = opened.enter_context(packed_files.open(file))
                    self._list(file, copy, packed_files)
                else:
                    with tree.open_file(source.folder, file.path) as delivered:
                        self._list(file, delivered, packed_files)
                        admit(delivered, limits)
                        copy = opened.enter_context(snapshot(delivered, scratch))
                instance = read_instance(copy, scratch, limits)
                opened.callback(instance.close)
                instance.notes |= display.note_of(instance)
                body = stamp(instance, source.clinic, scratch, source.charset)
                before = former(instance, source.clinic, scratch) if correction.NOTE in instance.notes else None
                instance.forget()
                if body.size > limits.instance:
                    raise too_large(body.size, limits)
                self._open.push(opened.pop_all())
        except CompanionError as companion:
            self.outcomes.append(FileOutcome(file.path, Outcome.KEPT, companion.reason))
        except RejectedError as rejection:
            self.outcomes.append(FileOutcome(file.path, Outcome.FAILED, rejection.reason, rejection.detail))
        else:
            prepared = Prepared(file.path, instance, body, before)
            self.instances.append(prepared)
            return prepared.weight
        return 0

    def _list(self, file: FileOutcome, content: BinaryIO, packed_files: PackedFiles | None) -> None:
        """List the members of a packed file. Raises CompanionError if it has any: it stays beside them."""
        members = packed_files.members(file, content) if packed_files else None
        if members is not None:
            self.listed += members
            raise CompanionError(reasons.PACKED)
        size = os.fstat(content.fileno()).st_size
        if file.packed and size != file.size:  # gzip does not give the size before
            self.listed.append(replace(file, size=size))


def read_batch(source: Source, files: Iterator[FileOutcome], max_bytes: int, max_count: int) -> Batch:
    """Read the next files until a batch is full; empty when all files are read."""
    batch = Batch()
    size = 0
    try:
        for file in files:
            size += batch.read(source, file)
            if size >= max_bytes or len(batch) >= max_count:
                break
    except BaseException:
        batch.close()
        raise
    return batch


@contextlib.contextmanager
def _read_errors() -> Iterator[None]:
    """Tell apart the errors while a file is read: an error of the file, or one that may pass."""
    try:
        yield
    except FileNotFoundError as error:
        raise TransientError(f"a file is gone: {error.filename}") from error
    except OSError as error:
        if error.errno in UNREADABLE:
            raise RejectedError("unreadable", error.strerror or "") from error
        raise
    except (CompanionError, RejectedError, TransientError, MemoryError):
        raise
    except Exception as error:
        # An error of our own reader must not hold up the rest of the delivery.
        log.exception("a delivered file could not be read")
        raise RejectedError("damaged", type(error).__name__) from error
