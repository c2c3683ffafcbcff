"""What the node exporter tells of the last good backup (its textfile collector)."""

import time
from pathlib import Path

NAMES = {
    "last_success_timestamp_seconds": "When the last good backup ended, in Unix time.",
    "size_bytes": "Size of its archive.",
    "duration_seconds": "How long it took.",
    "missing_images": "Images that the index names and that were not on the disk.",
}


def write(directory: Path, size: int, seconds: float, missing_images: int) -> None:
    """Write the file beside and rename it: it is read at any moment."""
    values = zip(NAMES.items(), (f"{time.time():.0f}", size, f"{seconds:.1f}", missing_images), strict=True)
    text = ""
    for (name, help_text), value in values:
        metric = f"imaging_backup_{name}"
        text += f"# HELP {metric} {help_text}\n# TYPE {metric} gauge\n{metric} {value}\n"
    draft = directory / ".imaging-backup.prom.draft"
    draft.write_text(text, encoding="ascii")
    draft.chmod(0o644)
    draft.rename(directory / "imaging-backup.prom")
