"""Reads and stamps delivered files, a batch at a time: the part of an upload that needs neither Orthanc nor the
registry, and so can run ahead of them.
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

# File errors that say something about this file; any other (disk full, I/O error) may pass.
UNREADABLE = frozenset({errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO, errno.ENOTDIR})


@dataclass
class Prepared:
    """An instance that is ready to be claimed and sent."""

    path: str
    instance: Instance
    body: Body
    former: Body | None = None  # as earlier releases stored it, where its text is corrected since

    @property
    def weight(self) -> int:
        """Its bytes in Orthanc's memory: a deflated one is small on its way only."""
        return max(self.body.size, self.instance.data_end)

    def use_former(self) -> None:
        """Send it as earlier releases did: only Orthanc knows how it reads the PatientID in that."""
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
    charset: str = ""  # what the clinic writes where an image does not say so
    packed_files: PackedFiles | None = None  # of the whole delivery; without them none is unpacked


@dataclass
class Batch:
    """Files that are stored together. Holds them open until it is closed."""

    outcomes: list[FileOutcome] = field(default_factory=list)  # what is decided already
    instances: list[Prepared] = field(default_factory=list)  # what is to be sent
    listed: list[FileOutcome] = field(default_factory=list)  # what was found in packed files
    _open: ExitStack = field(default_factory=ExitStack)

    def __len__(self) -> int:
        return len(self.outcomes) + len(self.instances)

    def close(self) -> None:
        """Close the files."""
        self._open.close()

    def read(self, source: Source, file: FileOutcome) -> int:
        """Read and stamp one more file; its weight.

        What is read, checked and sent is a copy of it: its sender may still write into it. The files in a packed file
        are listed, to be read in their turn.

        Raises TransientError or OSError for what may pass.
        """
        limits, scratch, packed_files = source.limits, source.scratch, source.packed_files
        try:
            with _read_errors(), ExitStack() as opened:  # what is refused is closed at once
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
        """List what is in a packed file. Raises CompanionError for one: it stays beside what is in it."""
        members = packed_files.members(file, content) if packed_files else None
        if members is not None:
            self.listed += members
            raise CompanionError(reasons.PACKED)
        size = os.fstat(content.fileno()).st_size
        if file.packed and size != file.size:  # gzip does not say it beforehand
            self.listed.append(replace(file, size=size))


def read_batch(source: Source, files: Iterator[FileOutcome], max_bytes: int, max_count: int) -> Batch:
    """Read the next files until a batch is full; empty when there are no more."""
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
    """What goes wrong while a file is read, told apart: the file's fault, or something that may pass."""
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
        # A file that the reader stumbles over must not hold up the rest of the delivery.
        log.exception("a delivered file could not be read")
        raise RejectedError("damaged", type(error).__name__) from error
