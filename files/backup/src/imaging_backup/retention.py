"""Finds the backup files that are too old."""

import datetime
import re
from pathlib import Path

NAME = re.compile(r"dicom-backup-(\d{4}-\d\d-\d\dT\d{6})Z\.tar\.zst(\.age)?")


def backup_files(directory: Path) -> list[Path]:
    """The backup files of a directory, newest first by name. The time of a copied file means nothing."""
    found = [path for path in directory.iterdir() if NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: path.name, reverse=True)


def made_at(path: Path) -> datetime.datetime:
    """The time when a backup file was made. Raises ValueError when its name is no backup file's."""
    if not (found := NAME.fullmatch(path.name)):
        raise ValueError(f"{path.name} is not called like a backup")
    return datetime.datetime.strptime(f"{found[1]}Z", "%Y-%m-%dT%H%M%S%z")


def expired(directory: Path, keep_count: int, keep_days: int, now: datetime.datetime) -> list[Path]:
    """Those that are neither among the newest `keep_count` nor younger than `keep_days`.

    Both limits must have passed. So many backups on one day do not remove last week's, and some stay after months
    without.
    """
    limit = f"{now - datetime.timedelta(days=keep_days):%Y-%m-%dT%H%M%S}"
    return [path for path in backup_files(directory)[max(1, keep_count) :] if path.name < f"dicom-backup-{limit}"]
