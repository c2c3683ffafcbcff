"""Reads and stamps delivered files, a batch at a time: the part of an upload that needs neither Orthanc nor the
registry, and so can run ahead of them.
"""

import contextlib
import errno
import logging
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from imaging_importer import tree
from imaging_importer.instance import Instance, Limits, admit, read_instance, too_large
from imaging_importer.journal import FileOutcome, Outcome
from imaging_importer.reasons import CompanionError, RejectedError, TransientError
from imaging_importer.snapshot import snapshot
from imaging_importer.stamp import Body, stamp

log = logging.getLogger(__name__)

# File errors that say something about this file; any other (disk full, I/O error) may pass.
UNREADABLE = frozenset({errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO, errno.ENOTDIR})


@dataclass
class Prepared:
    """An instance that is ready to be claimed and sent."""

    path: str
    instance: Instance
    body: Body

    @property
    def weight(self) -> int:
        """Its bytes in Orthanc's memory: a deflated one is small on its way only."""
        return max(self.body.size, self.instance.data_end)


@dataclass
class Batch:
    """Files that are settled together. Holds them open until it is closed."""

    outcomes: list[FileOutcome] = field(default_factory=list)  # what is decided already
    instances: list[Prepared] = field(default_factory=list)  # what is to be sent
    _open: ExitStack = field(default_factory=ExitStack)

    def __len__(self) -> int:
        return len(self.outcomes) + len(self.instances)

    def close(self) -> None:
        """Close the files."""
        self._open.close()

    def read(self, folder: Path, path: str, clinic: str, scratch: Path, limits: Limits) -> int:
        """Read and stamp one more file; its weight. `scratch` is a directory for copies.

        What is read, checked and sent is a copy of it: its sender may still write into it.

        Raises TransientError or OSError for what may pass.
        """
        try:
            with _read_errors(), ExitStack() as opened:  # what is refused is closed at once
                with tree.open_file(folder, path) as delivered:
                    admit(delivered, limits)
                    copy = opened.enter_context(snapshot(delivered, scratch))
                instance = read_instance(copy, scratch, limits)
                opened.callback(instance.close)
                body = stamp(instance, clinic, scratch)
                instance.forget()
                if body.size > limits.instance:
                    raise too_large(body.size, limits)
                self._open.push(opened.pop_all())
        except CompanionError as companion:
            self.outcomes.append(FileOutcome(path, Outcome.KEPT, companion.reason))
        except RejectedError as rejection:
            self.outcomes.append(FileOutcome(path, Outcome.FAILED, rejection.reason, rejection.detail))
        else:
            prepared = Prepared(path, instance, body)
            self.instances.append(prepared)
            return prepared.weight
        return 0


def read_batch(
    folder: Path,
    files: Iterator[FileOutcome],
    clinic: str,
    scratch: Path,
    max_bytes: int,
    max_count: int,
    limits: Limits,
) -> Batch:
    """Read the next files until a batch is full; empty when there are no more."""
    batch = Batch()
    size = 0
    try:
        for file in files:
            size += batch.read(folder, file.path, clinic, scratch, limits)
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
