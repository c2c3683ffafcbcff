"""The host that a benchmark makes for itself, and what benchmarks do with it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/support"))
os.environ.setdefault("SANDBOX", "bench")

from platform_client import Platform  # noqa: E402 # needs the path and the environment above

__all__ = ["ROOT", "Platform", "describe_machine", "make"]


def make(*arguments: str) -> tuple[float, str]:
    """Run a make target on the host; seconds, and what it printed. Ends the benchmark when it fails."""
    started = time.monotonic()
    result = subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise SystemExit(f"make {' '.join(arguments)} failed:\n{result.stdout[-3000:]}{result.stderr[-3000:]}")
    return time.monotonic() - started, result.stdout


def describe_machine() -> str:
    """Cores and memory of the machine that the figures belong to."""
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"machine: {os.cpu_count()} cores, {memory_gb:.0f} GiB, client and platform together"
