#!/usr/bin/env python3
"""Drop real MR and CT series into the inboxes of two clinics and follow them until they are imported.

The series are pydicom's own test data, copied as a technician would: one folder for each study.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from pydicom.data import get_testdata_file

PATIENCE_SECONDS = 300
DELIVERIES = {  # clinic → folder of pydicom's dicomdirtests
    "denscan-central": ("98892003", "MR, 3 series"),
    "denscan-almaty": ("98892001", "CT, 2 series"),
}


def on_host(container: str, *command: str) -> str:
    return subprocess.run(["docker", "exec", container, *command], check=True, capture_output=True, text=True).stdout


def series_folder(name: str) -> Path:
    dicomdir = get_testdata_file("DICOMDIR")
    if dicomdir is None:
        raise SystemExit("demo: pydicom's test data is not installed: run `make up` first")
    return Path(str(dicomdir)).parent / name


def place_of(container: str, inbox: str, clinic: str, folder: str) -> str:
    """Say where a delivery is now: waiting, importing, imported or failed."""
    data = str(Path(inbox).parent)
    found = on_host(container, "find", data, "-maxdepth", "5", "-type", "d", "-name", f"{folder}*").splitlines()
    for state, part in (("failed", "/failed/"), ("imported", "/processed/"), ("waiting", f"{inbox}/{clinic}/")):
        if any(part in path for path in found):
            return state
    return "importing"


def main() -> int:
    if not Path(sys.argv[1]).exists():
        raise SystemExit(f"demo: there is no sandbox whose state is in {Path(sys.argv[1]).parent}: `make up` makes one")
    info = json.loads(Path(sys.argv[1]).read_text())
    container, inbox = info["container"], info["inbox"]
    stamp = time.strftime("%Y%m%d-%H%M%S")
    pending = {}
    for clinic, (source, what) in DELIVERIES.items():
        folder = f"demo-{stamp}-{source}"
        # The clinic's folder appears when the importer first looks.
        on_host(container, "mkdir", "-p", f"{inbox}/{clinic}")
        copy = ["docker", "cp", str(series_folder(source)), f"{container}:{inbox}/{clinic}/{folder}"]
        subprocess.run(copy, check=True, capture_output=True)
        print(f"{clinic}: {what} copied to {inbox}/{clinic}/{folder}", flush=True)
        pending[folder] = (clinic, "")

    failed = False
    deadline = time.monotonic() + PATIENCE_SECONDS
    while pending:
        if time.monotonic() > deadline:
            print(f"demo: still pending after {PATIENCE_SECONDS} s: see `make logs-importer`", file=sys.stderr)
            return 1
        for folder, (clinic, before) in list(pending.items()):
            now = place_of(container, inbox, clinic, folder)
            if now != before:
                print(f"{clinic}: {now}", flush=True)
                pending[folder] = (clinic, now)
            if now in ("imported", "failed"):
                failed |= now == "failed"
                del pending[folder]
        time.sleep(1)
    if failed:
        print(f"demo: see REASON.txt below {Path(inbox).parent}/failed on the host", file=sys.stderr)
        return 1
    print(f"Log in at {info['url']}/ as physician-denscan-central or physician-denscan-almaty to see them.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
