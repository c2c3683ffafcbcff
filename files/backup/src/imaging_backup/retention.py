"""Which backup files have had their time."""

import datetime
import re
from pathlib import Path

NAME = re.compile(r"dicom-backup-(\d{4}-\d\d-\d\dT\d{6})Z\.tar\.zst(\.age)?")


def backup_files(directory: Path) -> list[Path]:
    """The backup files of a directory, newest first by name: the time of a copied file says nothing."""
    found = [path for path in directory.iterdir() if NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: path.name, reverse=True)


def made_at(path: Path) -> datetime.datetime:
    """When a backup file was made. Raises ValueError when it is not called like one."""
    if not (found := NAME.fullmatch(path.name)):
        raise ValueError(f"{path.name} is not called like a backup")
    return datetime.datetime.strptime(f"{found[1]}Z", "%Y-%m-%dT%H%M%S%z")


def expired(directory: Path, keep_count: int, keep_days: int, now: datetime.datetime) -> list[Path]:
    """Those that are neither among the newest `keep_count` nor younger than `keep_days`.

    Both must have passed: many backups on one day do not push out last week's, and after months without one some stay.
    """
    limit = f"{now - datetime.timedelta(days=keep_days):%Y-%m-%dT%H%M%S}"
    return [path for path in backup_files(directory)[max(1, keep_count) :] if path.name < f"dicom-backup-{limit}"]
