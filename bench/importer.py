#!/usr/bin/env python3
"""The importer against a plain loop that sends the same kind of files by STOW-RS to the same Orthanc, in one run.

Throughput counts from the moment the importer has taken a folder until it is stamped, stored, verified, shown and
settled. The loop only posts. Rounds alternate, and ratios are of medians. It deploys to the host imaging-bench, or to
the one named by SANDBOX. The files are made on the host: random pixels below a real CT's header, and a small real
report.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
import uuid
from pathlib import Path

from host import ROOT, Platform, describe_machine, make
from pydicom.data import get_testdata_file

ROUNDS = 3
CLINIC = "denscan-central"
WORK = "/data/inbox/.bench"  # hidden from the importer, and on the inbox's file system: delivering is one rename
WAITING_FOLDERS = 10_000
IDLE_SECONDS = 60


class Bench:
    """The host under test."""

    def __init__(self) -> None:
        self.platform = Platform()
        self.on_host("mkdir", "-p", WORK, f"{self.platform.inbox}/{CLINIC}")
        for name in ("CT_small.dcm", "reportsi.dcm"):
            self.copy(Path(str(get_testdata_file(name))), f"{WORK}/{name}")
        self.copy(ROOT / "bench/import_on_host.py", f"{WORK}/import_on_host.py")

    def on_host(self, *command: str) -> str:
        return self.platform.on_host(*command)

    def copy(self, source: Path, target: str) -> None:
        subprocess.run(
            ["docker", "cp", str(source), f"{self.platform.container}:{target}"], check=True, stdout=subprocess.DEVNULL
        )

    def helper(self, *arguments: object) -> dict[str, object]:
        return dict(json.loads(self.on_host("python3", f"{WORK}/import_on_host.py", *map(str, arguments))))

    def metric(self, name: str) -> float:
        """The sum of one of the importer's metrics over its labels."""
        text = self.on_host("curl", "-sf", "http://127.0.0.1:8080/metrics")
        values = [line.rpartition(" ")[2] for line in text.splitlines() if line.split("{")[0].split(" ")[0] == name]
        return sum(map(float, values))

    def cpu_seconds(self) -> float:
        """Processor time of the importer since its start."""
        return int(self.on_host("systemctl", "show", "--value", "--property=CPUUsageNSec", "imaging-importer")) / 1e9

    def make_folder(self, template: str, series: int, instances: int, pixel_bytes: int) -> tuple[str, str]:
        folder = f"{WORK}/{uuid.uuid4().hex}"
        made = self.helper("make", folder, f"{WORK}/{template}", series, instances, pixel_bytes)
        return folder, str(made["study"])

    def deliver(self, folder: str) -> None:
        self.on_host("mv", folder, f"{self.platform.inbox}/{CLINIC}/")

    def imported(self, folder: str) -> float:
        """Deliver a folder; the seconds from taken to settled."""
        name, counter = "imaging_importer_delivery_duration_seconds", "imaging_importer_deliveries_total"
        seconds, deliveries = self.metric(f"{name}_sum"), self.metric(counter)
        self.deliver(folder)
        while self.metric(counter) == deliveries:
            time.sleep(1)
        return self.metric(f"{name}_sum") - seconds

    def sent_by_the_loop(self, folder: str, batch: int) -> float:
        seconds = float(str(self.helper("plain", folder, batch)["seconds"]))
        self.on_host("rm", "-r", folder)
        return seconds


def throughput(bench: Bench, what: str, files: tuple[str, int, int, int], aim: float) -> None:
    """Print instances per second, and the ratio to a loop that sends one file a request, or 50 as the importer does."""
    instances = files[2]
    taken: dict[str, list[float]] = {"importer": [], "loop": [], "loop, 50 files a request": []}
    for _ in range(ROUNDS):
        taken["loop"].append(bench.sent_by_the_loop(bench.make_folder(*files)[0], 1))
        taken["importer"].append(bench.imported(bench.make_folder(*files)[0]))
        taken["loop, 50 files a request"].append(bench.sent_by_the_loop(bench.make_folder(*files)[0], 50))
    rates = {name: instances / statistics.median(seconds) for name, seconds in taken.items()}
    print(f"{what}, medians of {ROUNDS} rounds:")
    for name, rate in rates.items():
        ratio = "" if name == "importer" else f"   importer / loop: {rates['importer'] / rate:.2f}"
        print(f"  {name:26} {rate:7.1f} instances/s{ratio}")
    print(f"  aim: importer / loop at least {aim}", flush=True)


def latency(bench: Bench) -> None:
    """Print how long after the last byte a 300-slice study is in the physician's study list."""
    session = bench.platform.api(bench.platform.user("physician", CLINIC))
    cooldown = float(bench.on_host("sed", "-n", "s/^cooldown = //p", "/etc/imaging/importer.toml"))
    taken = []
    for _ in range(ROUNDS):
        folder, study = bench.make_folder("CT_small.dcm", 1, 300, 524_288)
        bench.deliver(folder)
        started = time.monotonic()
        bench.platform.wait_for_study(session, study)
        taken.append(time.monotonic() - started)
    print(f"300-slice study listed {statistics.median(taken):.1f} s after the last byte (aim {cooldown:.0f} s + 5 s)")


def waiting(bench: Bench) -> None:
    """Print the cost of folders that wait: one scan, and the importer's processor time once nothing happens."""
    clinic = f"{bench.platform.inbox}/{CLINIC}"
    # An unfinished name keeps a folder waiting.
    script = f"cd {clinic} && for n in $(seq {WAITING_FOLDERS}); do mkdir wait-$n; echo > wait-$n/slice.dcm.part; done"
    bench.on_host("sh", "-c", script)
    try:
        while bench.metric("imaging_importer_waiting_deliveries") < WAITING_FOLDERS:
            time.sleep(1)
        time.sleep(30)
        scan = bench.metric("imaging_importer_full_scan_duration_seconds")
        before = bench.cpu_seconds()
        time.sleep(IDLE_SECONDS)
        busy = (bench.cpu_seconds() - before) / IDLE_SECONDS
        print(f"{WAITING_FOLDERS} waiting folders: scan {scan:.2f} s (aim < 2 s), {busy:.1%} of a core (aim < 2 %)")
    finally:
        bench.on_host("sh", "-c", f"rm -r {clinic}/wait-*")


def main() -> int:
    make("up")
    bench = Bench()
    print(describe_machine())
    try:
        throughput(bench, "CT, 1,000 slices of 512 KB", ("CT_small.dcm", 1, 1000, 524_288), 0.9)
        throughput(bench, "5,000 files of 3 KB", ("reportsi.dcm", 50, 5000, 0), 1.0)
        latency(bench)
        waiting(bench)
    finally:
        bench.on_host("rm", "-r", WORK)
    return 0


if __name__ == "__main__":
    sys.exit(main())
