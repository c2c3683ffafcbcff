"""Named points at which a test can kill the process or make it fail: `IMAGING_FAILPOINT=name[:kill|:raise]`.

`reach` is called at every state transition, so that the recovery tests can stop the importer between any two of them.
"""

import errno
import os
import signal

NAMES = (
    "spool-directory-made",
    "folder-spooled",
    "job-journalled",
    "files-listed",
    "study-claimed",
    "sending",
    "batch-sent",
    "batch-verified",
    "batch-journalled",
    "files-verified",
    "study-recorded",
    "studies-recorded",
    "places-chosen",
    "failed-file-moved",
    "failed-files-moved",
    "copying-across",
    "copied-across",
    "folder-moved",
    "report-written",
    "job-finished",
)
# On the way of an upload, before it is a delivery like any other.
UPLOAD_NAMES = ("part-received", "upload-received")

_name, _, _action = os.environ.get("IMAGING_FAILPOINT", "").partition(":")


class FailpointError(OSError):
    """Raised by a failpoint in `raise` mode. It is an OSError, because a full disk would raise that there."""


def reach(name: str) -> None:
    """Do nothing, unless the environment names this point."""
    if name != _name:
        return
    if _action == "raise":
        raise FailpointError(errno.ENOSPC, f"failpoint {name}")
    os.kill(os.getpid(), signal.SIGKILL)
