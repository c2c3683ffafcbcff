"""Makes a backup: one moment of the databases, the images that it names, and everything in one backup file."""

import contextlib
import datetime
import fcntl
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from imaging_backup import backup_file, databases, metrics, realm, retention
from imaging_backup.config import LETSENCRYPT, Config
from imaging_backup.databases import Server
from imaging_backup.errors import BackupError
from imaging_backup.images import Image, Links, list_images, read_list
from imaging_backup.lines import printable_lines

ATTEMPTS = 20
SAY_EVERY_SECONDS = 5
IMAGES, REALM = "images.tsv", "realm.json"


def create(config: Config, include_images: bool) -> Path:
    """Make a backup and remove those that are too old; return its path. Raises BackupError."""
    begun = time.monotonic()
    now = datetime.datetime.now(datetime.UTC)
    name = f"dicom-backup-{now:%Y-%m-%dT%H%M%SZ}.tar.zst" + (".age" if config.recipients else "")
    path = config.path / name
    with alone(config.path), making(config) as workspace:
        try:
            missing = _write(config, path, workspace, include_images)
        except (OSError, BackupError) as error:
            if backup_file.is_full(config.path):
                raise backup_file.DiskFullError(config.path) from error
            raise
        size = path.stat().st_size
        metrics.write(config.metrics, size, time.monotonic() - begun, missing)
        for old in retention.expired(config.path, config.keep_count, config.keep_days, now):
            old.unlink()
            say(f"removed {old.name}: {config.keep_count} are newer, and it is older than {config.keep_days} days")
    say(f"done: {size / 1e6:.1f} MB in {time.monotonic() - begun:.0f} s")
    return path


def _write(config: Config, path: Path, workspace: Path, include_images: bool) -> int:
    """Write the backup file. Return how many images that the index names are lost on this host's disk."""
    links, key = Links(config.storage, config.links), config.signing_key()
    about, missing = collect(config, workspace, links if include_images else None)
    with backup_file.new_backup_file(path, about, config.recipients, key) as writer:
        for dump in sorted((workspace / "databases").iterdir()):
            writer.add_file(f"databases/{dump.name}", dump)
            dump.unlink()
        writer.add_file(IMAGES, workspace / IMAGES)
        for place, directory in (("settings", config.settings), (LETSENCRYPT, config.letsencrypt)):
            for file in sorted(directory.rglob("*")):
                if file.is_file() and not file.is_symlink() and file != config.never_kept:
                    writer.add_file(f"{place}/{file.relative_to(directory)}", file)
        if (workspace / REALM).exists():
            writer.add_file(REALM, workspace / REALM)
        if include_images:
            _add_images(writer, links, workspace / IMAGES, about, {image.uuid for image in missing})
    say(signed_with(key.public))
    return len(missing)


def collect(config: Config, workspace: Path, links: Links | None) -> tuple[backup_file.About, list[Image]]:
    """Collect one moment of everything in `workspace`: databases, the list of images, the realm.

    If the images are wanted, `links` holds them. Returns the description of the backup, and the images that the index
    names and that are lost on this host's disk. Raises BackupError.
    """
    server = Server(config)
    images = workspace / IMAGES
    (workspace / "databases").mkdir(mode=0o700)
    with contextlib.ExitStack() as stack:
        snapshots, missing = _take(server, links, images, stack)
        about: backup_file.About = {
            "environment": config.environment,
            "domain": config.domain,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "host": platform.node(),
            "versions": {
                "postgresql": server.major(),
                "keycloak": config.keycloak.version,
                "orthanc": _orthanc_version(),
            },
            "counts": {},
            "images": links is not None,
            "image bytes": sum(image.size for image in read_list(images)) if links else 0,
            "missing images": [image.uuid for image in missing],
            "database bytes": 0,
        }
        for database, snapshot in snapshots.items():
            about["counts"] |= databases.counts(database, snapshot.connection)
            size = server.dump(database, snapshot, workspace / "databases" / f"{database}.dump")
            about["database bytes"] += size
            say(f"database {database}: {size / 1e6:.1f} MB")
    try:
        (workspace / REALM).write_bytes(realm.export(config))
    except BackupError as error:
        # The database has all of it, and a backup must not wait for Keycloak.
        say(f"WARNING: the backup has no {REALM}, which a restore does not need. {error}")
    return about, missing


def _take(
    server: Server, links: Links | None, images: Path, stack: contextlib.ExitStack
) -> tuple[dict[str, databases.Snapshot], list[Image]]:
    """Take one moment of the databases and hold every image that it names; return the lost images.

    Between the moment and the hold, somebody may delete an image. Then another moment is taken, and images that are
    held stay held. So another attempt can only miss an image that came and went in between. An image that is missing
    each time is not being deleted: it is lost.
    """
    lost: set[str] | None = None
    for _ in range(ATTEMPTS):
        attempt = stack.enter_context(contextlib.ExitStack())
        snapshots = attempt.enter_context(server.moment())
        list_images(snapshots["orthanc"].connection, images)
        gone = links.hold(read_list(images)) if links else []
        uuids = {image.uuid for image in gone}
        if not gone or uuids == lost:
            if gone:
                say(f"WARNING: {len(gone)} images that the index names are not on the disk, see TROUBLESHOOTING.md")
            return snapshots, gone
        lost = uuids
        attempt.close()
    raise BackupError(
        "images are being deleted faster than they can be held for the backup. Try again when that has ended"
    )


def _add_images(
    writer: backup_file.Writer, links: Links, images: Path, about: backup_file.About, missing: set[str]
) -> None:
    added = count = 0
    said = time.monotonic()
    for image in read_list(images):
        if image.uuid in missing:
            continue
        added += writer.add_file(f"images/{image.uuid}", links.path(image))
        count += 1
        if time.monotonic() - said > SAY_EVERY_SECONDS:
            said = time.monotonic()
            say(f"images: {added / 1e9:.2f} of {about['image bytes'] / 1e9:.2f} GB")
    say(f"images: {count} files, {added / 1e6:.1f} MB")


def signed_with(key: str) -> str:
    """The message about a backup's signature."""
    return f"signed with the key {key}: note it where neither this host nor the controller is"


def _orthanc_version() -> str:
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        command = ["dpkg-query", "--show", "--showformat=${Version}", "orthanc"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603
    return "unknown"


@contextlib.contextmanager
def alone(directory: Path, patience: float = math.inf) -> Iterator[None]:
    """Let one backup or restore run at a time. The kernel frees the lock when its holder ends.

    Waits at most `patience` seconds for the end of another. Raises BackupError.
    """
    deadline = time.monotonic() + patience
    with (directory / ".lock").open("w") as lock:
        said = False
        while not _locked(lock):
            if not said:
                say("another backup or restore is running on this host: waiting for its end")
                said = True
            if time.monotonic() > deadline:
                raise BackupError(
                    "another backup or restore is running on this host. Wait for its end, or end it: "
                    "systemctl stop imaging-backup imaging-backup-push imaging-backup-tidy"
                )
            time.sleep(0.5)
        yield


def _locked(lock: TextIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def making(config: Config) -> Iterator[Path]:
    """A directory for unfinished files. The remains of a backup that was killed are removed first."""
    links = Links(config.storage, config.links)
    workspace = config.path / ".making"
    try:
        for partial in config.path.glob(".*.partial"):
            partial.unlink()
        links.drop()
        shutil.rmtree(workspace, ignore_errors=True)
        workspace.mkdir(mode=0o700)
        yield workspace
    finally:
        links.drop()
        shutil.rmtree(workspace, ignore_errors=True)


def say(text: str) -> None:
    """Progress, for the terminal and the journal."""
    print(printable_lines(text), file=sys.stderr, flush=True)


def free_bytes(directory: Path) -> int:
    """The bytes that are free for every user, not only for root."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize
