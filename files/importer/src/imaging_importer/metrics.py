"""Counters and a histogram in Prometheus's text format (exposition format 0.0.4)."""

import threading
from collections import defaultdict

# Seconds from taken to settled.
BUCKETS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)

HELP = {
    "imaging_importer_files_total": ("counter", "Delivered files by clinic and outcome (stored, kept, failed)."),
    "imaging_importer_failures_total": ("counter", "Files that could not be imported, by clinic and reason."),
    "imaging_importer_notes_total": ("counter", "Files that were stored and have something said of them, by clinic."),
    "imaging_importer_deliveries_total": ("counter", "Settled deliveries by clinic and outcome."),
    "imaging_importer_bytes_total": ("counter", "Bytes of DICOM instances stored and verified, by clinic."),
    "imaging_importer_retries_total": ("counter", "Steps that have to be tried again, by cause."),
    "imaging_importer_delivery_duration_seconds": ("histogram", "Time from taken to settled."),
    "imaging_importer_waiting_deliveries": ("gauge", "Deliveries by stage: inbox (not stable yet), spool (taken)."),
    "imaging_importer_oldest_pending_age_seconds": ("gauge", "Age of the oldest delivery that is not settled."),
    "imaging_importer_repeating_deliveries": (
        "gauge",
        "Deliveries that have failed the same way twenty times in a row or more.",
    ),
    "imaging_importer_unknown_clinic_entries": ("gauge", "Entries in folders of the inbox that belong to no clinic."),
    "imaging_importer_dependency_up": ("gauge", "Whether Orthanc and the registry answered last time."),
    "imaging_importer_waits_for_disk": ("gauge", "Whether deliveries wait because too little space is free."),
    "imaging_importer_clinic_bytes": ("gauge", "Bytes of the archive that a clinic uses."),
    "imaging_importer_clinic_quota_bytes": ("gauge", "Bytes of the archive that a clinic may use, if it has a quota."),
    "imaging_importer_inotify_overflows_total": ("counter", "Times that the kernel dropped inotify events."),
    "imaging_importer_last_full_scan_timestamp_seconds": ("gauge", "When the inbox was last listed completely."),
    "imaging_importer_full_scan_duration_seconds": ("gauge", "How long the last listing took."),
}

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """The numbers that are counted as things happen. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[str, dict[Labels, float]] = defaultdict(lambda: defaultdict(float))
        self._buckets = [0] * len(BUCKETS)

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Raise a counter."""
        with self._lock:
            self._values[name][tuple(labels.items())] += amount

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge (or a counter that is counted elsewhere)."""
        with self._lock:
            self._values[name][tuple(labels.items())] = value

    def took(self, seconds: float) -> None:
        """Enter a delivery's duration."""
        name = "imaging_importer_delivery_duration_seconds"
        with self._lock:
            self._values[name + "_sum"][()] += seconds
            self._values[name + "_count"][()] += 1
            for index, bound in enumerate(BUCKETS):
                self._buckets[index] += seconds <= bound

    def render(self) -> str:
        """All of them as text."""
        lines = []
        with self._lock:
            for name, (kind, text) in HELP.items():
                lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
                if kind == "histogram":
                    count = self._values[name + "_count"][()]
                    buckets = [(str(bound), number) for bound, number in zip(BUCKETS, self._buckets, strict=True)]
                    lines += [f'{name}_bucket{{le="{le}"}} {number}' for le, number in [*buckets, ("+Inf", count)]]
                    lines += [f"{name}_sum {self._values[name + '_sum'][()]}", f"{name}_count {count}"]
                for labels, value in sorted(self._values[name].items()):
                    pairs = ",".join(f'{label}="{_escape(text)}"' for label, text in labels)
                    lines.append(f"{name}{{{pairs}}} {value}" if pairs else f"{name} {value}")
        return "\n".join(lines) + "\n"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
