"""The metrics of backups and restore drills that the node exporter reads (its textfile collector)."""

import time
from pathlib import Path

BACKUP, REPOSITORY, DRILL = "imaging_backup", "imaging_backup_repository", "imaging_restore_drill"
UNPROVEN = f"{DRILL}_unproven_since_timestamp_seconds"
HELP = {
    f"{BACKUP}_last_success_timestamp_seconds": "When the last good backup ended, in Unix time.",
    f"{BACKUP}_size_bytes": "Size of its backup file.",
    f"{BACKUP}_duration_seconds": "How long it took.",
    f"{BACKUP}_missing_images": "Images that the index names and that were not on the disk.",
    f"{REPOSITORY}_last_success_timestamp_seconds": "When the repository last took in what was new, in Unix time.",
    f"{REPOSITORY}_added_bytes": "How much that was.",
    f"{REPOSITORY}_duration_seconds": "How long it took.",
    f"{REPOSITORY}_missing_images": "Images that the index names and that were not on the disk.",
    f"{REPOSITORY}_proven_timestamp_seconds": "When the repository was last found whole, else made, in Unix time.",
    f"{DRILL}_success": "Whether the last drill brought the newest backup back (1) or not (0).",
    f"{DRILL}_timestamp_seconds": "When it ended, in Unix time.",
    f"{DRILL}_duration_seconds": "How long it took from nothing until somebody had logged in.",
    f"{DRILL}_backup_age_seconds": "How old the backup was when it began.",
    UNPROVEN: "Since when no backup has been restored: the last good drill, else the first backup, in Unix time.",
}


def write(directory: Path, size: int, seconds: float, missing_images: int) -> None:
    """Record a good backup."""
    values = {
        f"{BACKUP}_last_success_timestamp_seconds": time.time(),
        f"{BACKUP}_size_bytes": size,
        f"{BACKUP}_duration_seconds": seconds,
        f"{BACKUP}_missing_images": missing_images,
    }
    _replace(directory / "imaging-backup.prom", values)
    if not _drill(directory).exists():
        _replace(_drill(directory), {UNPROVEN: time.time()})


def write_push(directory: Path, added: int, seconds: float, missing_images: int) -> None:
    """Record that the repository has everything."""
    values = {
        f"{REPOSITORY}_last_success_timestamp_seconds": time.time(),
        f"{REPOSITORY}_added_bytes": added,
        f"{REPOSITORY}_duration_seconds": seconds,
        f"{REPOSITORY}_missing_images": missing_images,
    }
    _replace(directory / "imaging-backup-repository.prom", values)
    if not _proven(directory).exists():
        write_check(directory)


def write_check(directory: Path) -> None:
    """Record that the repository is whole."""
    _replace(_proven(directory), {f"{REPOSITORY}_proven_timestamp_seconds": time.time()})


def _proven(directory: Path) -> Path:
    return directory / "imaging-backup-proven.prom"


def write_drill(directory: Path, seconds: float, backup_age: float) -> None:
    """Record a good drill."""
    values = {
        f"{DRILL}_success": 1,
        f"{DRILL}_timestamp_seconds": time.time(),
        f"{DRILL}_duration_seconds": seconds,
        f"{DRILL}_backup_age_seconds": backup_age,
        UNPROVEN: time.time(),
    }
    _replace(_drill(directory), values)


def write_failed_drill(directory: Path) -> None:
    """Record a failed drill. The time of the last good drill stays as it was."""
    before = _drill(directory)
    lines = before.read_text("ascii").splitlines() if before.exists() else []
    since = next((float(line.split()[1]) for line in lines if line.startswith(f"{UNPROVEN} ")), time.time())
    _replace(before, {f"{DRILL}_success": 0, f"{DRILL}_timestamp_seconds": time.time(), UNPROVEN: since})


def _drill(directory: Path) -> Path:
    return directory / "imaging-restore-drill.prom"


def _replace(path: Path, values: dict[str, float]) -> None:
    """Write a file beside it and rename that, because it may be read at any moment."""
    draft = path.with_name(f".{path.name}.draft")
    lines = (f"# HELP {name} {HELP[name]}\n# TYPE {name} gauge\n{name} {value:.0f}\n" for name, value in values.items())
    draft.write_text("".join(lines), encoding="ascii")
    draft.chmod(0o644)
    draft.rename(path)
