"""Private copies of delivered files: the bytes that were checked are the bytes that are sent.

A sender may hold a file in the inbox open for hours, and write into it between our reading and our sending.
"""

import os
import tempfile
from pathlib import Path
from typing import BinaryIO

from imaging_importer.reasons import TransientError

# Up to this size, a copy is made in memory. A slice of a CT fits. A batch is limited to 16 MiB.
IN_MEMORY = 2 << 20
CHUNK = 1 << 17  # small enough for the allocator to use the memory again


def private_file(scratch: Path, size: int) -> BinaryIO:
    """An empty file without a name, for about `size` bytes; `scratch` is a directory for large ones.

    Raises TransientError: if no file can be made, that is never the delivered file's fault.
    """
    try:
        if size <= IN_MEMORY:
            return os.fdopen(os.memfd_create("delivered", os.MFD_CLOEXEC), "w+b", buffering=0)
        return tempfile.TemporaryFile(dir=scratch, buffering=0)
    except OSError as error:
        raise TransientError(f"no file can be made for a copy: {error}") from error


def copy_range(source: BinaryIO, start: int, end: int, target: BinaryIO) -> None:
    """Append bytes of one file to another, until the first one ends."""
    while start < end and (chunk := os.pread(source.fileno(), min(CHUNK, end - start), start)):
        view = memoryview(chunk)
        while view:
            view = view[target.write(view) :]
        start += len(chunk)


def snapshot(file: BinaryIO, scratch: Path) -> BinaryIO:
    """A private copy of an open file in its present state."""
    size = os.fstat(file.fileno()).st_size
    copy = private_file(scratch, size)
    try:
        copy_range(file, 0, size, copy)
    except BaseException:
        copy.close()
        raise
    return copy
