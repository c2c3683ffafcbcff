#!/usr/bin/env python3
"""The platform against raw Orthanc: the same client, files and machine, in one run.

Raw Orthanc is asked on loopback, without TLS and with its one password. The platform is asked through nginx, with TLS
1.3, a token for each request, and the gateway. Client (wrk, curl, Chromium) and host share the machine's cores. It
deploys to the host imaging-bench, or to the one named by SANDBOX, without limits on requests, and leaves the host for a
second look. QUICK=1 takes a tenth of the studies and of the time, only to see that it works. The figures are written to
bench/results/gateway.json.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import browsers
from deploy import memory_mb
from figures import Figures
from host import ROOT, Platform, describe_machine, make
from pydicom.data import get_testdata_file

QUICK = os.environ.get("QUICK") == "1"
STUDIES = 100_000 if QUICK else 1_000_000
ORTHANC_STUDIES = 500 if QUICK else 5_000
DISTINCT_STUDIES = 50_000 if QUICK else 200_000
SECONDS = 3 if QUICK else 8
VIEWERS_SECONDS = 20 if QUICK else 120
ROUNDS = 1 if QUICK else 3

CLINIC = "denscan-central"
STUDY_ROOT = "1.2.826.0.1.3680043.9.999"  # of million_studies.sql
WORK = "/data/inbox/.bench"  # hidden from the importer, and on the inbox's file system: delivering is one rename
RAW = "http://127.0.0.1:8042"
GATEWAY = "http://127.0.0.1:8090"
COLD = ("find", "/var/cache/nginx/dicom-web", "-type", "f", "-delete")
JSON_HEADER = "Accept: application/dicom+json"
FRAME_HEADER = 'Accept: multipart/related; type="application/octet-stream"; transfer-syntax=*'
LIST = "/dicom-web/studies?limit=101&offset=0&fuzzymatching=false&includefield=00081030,00080060,00080090,00100030"
NO_LIMITS = "nginx_reader_requests_per_second=100000 nginx_address_requests_per_second=100000"


class Bench:
    """The host under test."""

    def __init__(self) -> None:
        self.platform = Platform()
        self.figures = Figures()
        self.on_host = self.platform.on_host
        self.on_host("mkdir", "-p", WORK)
        self.shell("command -v wrk > /dev/null || { apt-get update -q && apt-get install -y -q wrk; } > /dev/null")
        for name in ("import_on_host.py", "gateway_on_host.py", "load.lua", "million_studies.sql"):
            self.copy(ROOT / "bench" / name, f"{WORK}/{name}")
        for name in ("CT_small.dcm", "reportsi.dcm"):
            self.copy(Path(str(get_testdata_file(name))), f"{WORK}/{name}")
        self.shell(
            "umask 077; sed -n 's/^proxy_set_header Authorization \"\\(.*\\)\";/Authorization: \\1/p' "
            f"/etc/imaging/credentials/nginx/orthanc.conf > {WORK}/raw"
        )

    def shell(self, script: str) -> str:
        return self.on_host("sh", "-c", script)

    def copy(self, source: Path, target: str) -> None:
        subprocess.run(["docker", "cp", "-q", str(source), f"{self.platform.container}:{target}"], check=True)

    def write(self, name: str, lines: list[str]) -> str:
        """Write a file on the host; its path there."""
        path = f"{WORK}/{name}"
        subprocess.run(
            ["docker", "exec", "-i", self.platform.container, "sh", "-c", f"umask 077; cat > {path}"],
            input="\n".join(lines) + "\n", text=True, check=True,
        )  # fmt: skip
        return path

    def tokens(self, *usernames: str) -> list[str]:
        """Header lines with a fresh token for each user: it lives five minutes."""
        tokens = [self.platform.login(self.platform.users[name])["access_token"] for name in usernames]
        return [f"Authorization: Bearer {token}" for token in tokens]

    def load(
        self, url: str, paths: str, headers: str, seconds: int, connections: int = 8, *more: object
    ) -> dict[str, float]:
        """Run wrk on the host."""
        threads = min(2, connections)
        command = ["wrk", f"-t{threads}", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s"]
        command += ["-s", f"{WORK}/load.lua", url, "--", paths, headers, *map(str, more)]
        return dict(json.loads(self.on_host(*command).splitlines()[-1]))

    def series(self, slices: int) -> str:
        """Have a CT study of so many slices of 512 KB imported; its StudyInstanceUID."""
        folder = f"{WORK}/ct-{slices}-{time.time_ns()}"
        arguments = ("make", folder, f"{WORK}/CT_small.dcm", "1", str(slices), "524288")
        study = str(json.loads(self.on_host("python3", f"{WORK}/import_on_host.py", *arguments))["study"])
        self.on_host("mv", folder, f"{self.platform.inbox}/{CLINIC}/")
        return study

    def wait_for_slices(self, study: str, slices: int) -> None:
        session = self.platform.api(self.platform.user("physician", CLINIC))
        entry = self.platform.wait_for_study(session, study)
        while entry["00201208"]["Value"] != [slices]:  # type: ignore[index]
            time.sleep(1)
            entry = self.platform.wait_for_study(session, study)

    def requests_of(self, study: str) -> tuple[list[str], list[str]]:
        """Paths of a study's metadata, by series, and of its frames."""
        session = self.platform.api(self.platform.user("physician", CLINIC))
        url = f"{self.platform.url}/dicom-web/studies/{study}/instances?includefield=0020000E"
        root = f"/dicom-web/studies/{study}/series"
        pairs = [
            (item["0020000E"]["Value"][0], item["00080018"]["Value"][0]) for item in session.get(url, timeout=60).json()
        ]
        metadata = [f"{root}/{series}/metadata" for series in sorted({series for series, _ in pairs})]
        return metadata, [f"{root}/{series}/instances/{instance}/frames/1" for series, instance in pairs]


def throughput(bench: Bench, study: str) -> None:
    """Warm frames and metadata, as many as 8 connections get."""
    metadata, frames = bench.requests_of(study)
    tokens = bench.tokens("physician-denscan-central")
    raw_password = bench.shell(f"cat {WORK}/raw").strip()
    rates: dict[tuple[str, str], float] = {}
    for what, paths, accept in (("frames", frames, FRAME_HEADER), ("metadata", metadata, JSON_HEADER)):
        listed = bench.write(f"{what}.paths", paths)
        here = bench.write("here.headers", [*tokens, accept, "Accept-Encoding: gzip"])
        raw = bench.write("raw.headers", [raw_password, accept])
        # Long enough to fill the cache: 300 frames, from an Orthanc that is as cold as it gets.
        bench.load(bench.platform.url, listed, here, 2 * SECONDS)
        rates[what, "platform"] = _rate(bench.load(bench.platform.url, listed, here, SECONDS))
        rates[what, "raw"] = _rate(bench.load(RAW, listed, raw, SECONDS))
    for what, aim in (("frames", 5), ("metadata", 50)):
        here_rate, raw_rate = rates[what, "platform"], rates[what, "raw"]
        basis = f"{here_rate:.0f}/s against {raw_rate:.0f}/s, 300 slices of 512 KB, 8 connections of wrk"
        bench.figures.at_least(f"warm {what}", here_rate / raw_rate, aim, basis)


def _rate(result: dict[str, float]) -> float:
    if result["refused"] or result["broken"]:
        raise SystemExit(f"not every request was answered: {result}")
    return result["requests"] / result["seconds"]


def opening(bench: Bench, study: str) -> None:
    """One viewer opens a CT of 300 slices: all metadata, then all frames."""
    here = bench.write("here.headers", [*bench.tokens("physician-denscan-central"), "Accept-Encoding: gzip"])
    raw = bench.write("raw.headers", [bench.shell(f"cat {WORK}/raw").strip()])

    def opened(origin: str, headers: str, *before: str) -> dict[str, float]:
        command = ("python3", f"{WORK}/gateway_on_host.py", "open", origin, headers, study, str(ROUNDS), *before)
        return dict(json.loads(bench.on_host(*command)))

    opened(RAW, raw)
    orthanc, cold = opened(RAW, raw), opened(bench.platform.url, here, *COLD)
    warm = opened(bench.platform.url, here)
    basis = "300 slices of 512 KB, 6 connections of curl"
    for name, times, part, aim in (
        ("cold frames", cold, "frames", 0.9),
        ("300-slice CT opened, cold", cold, "all", 0.9),
        ("300-slice CT opened, warm", warm, "all", 3),
    ):
        seconds = f"{times[part]:.2f} s against {orthanc[part]:.2f} s"
        bench.figures.at_least(name, orthanc[part] / times[part], aim, f"{seconds}, {basis}")


def in_the_browser(bench: Bench, study: str) -> None:
    times = browsers.compare(bench.platform, study, 150, ROUNDS)
    for number, name in enumerate(("first image", "all images")):
        here, there = times["platform"][number], times["plain"][number]
        basis = f"{here:.1f} s against {there:.1f} s, OHIF in Chromium, 150 slices of 512 KB"
        bench.figures.at_least(f"browser, {name}", there / here, 1.5, basis)


def decisions(bench: Bench) -> None:
    """The gateway alone: distinct studies as fast as it decides, then 1,000 decisions a second."""
    lines = [f"/dicom-web/studies/{STUDY_ROOT}.{n}/series/1.2/metadata" for n in range(1, DISTINCT_STUDIES + 1)]
    resident = []
    asked = 0
    part = DISTINCT_STUDIES // 4
    for first in range(0, len(lines), part):
        headers = bench.write("decide.headers", _decide_headers(bench))
        paths = bench.write("decide.paths", lines[first : first + part])
        result = bench.load(f"{GATEWAY}/authorize", paths, headers, 5 if QUICK else 20, 8, 0, "X-Original-URI")
        _rate(result)
        asked += min(int(result["requests"]), part)
        resident.append(_resident_mb(bench))
    known = bench.write("decide.paths", lines[-1000:])
    headers = bench.write("decide.headers", _decide_headers(bench))
    steady = bench.load(f"{GATEWAY}/authorize", known, headers, 2 * SECONDS, 16, 15, "X-Original-URI")
    basis = f"{_rate(steady):.0f}/s, median {steady['p50_ms']:.2f} ms, 16 connections of wrk"
    bench.figures.at_most("authorisation decision, p99", steady["p99_ms"], 5, "ms", basis)
    basis = f"after each quarter of {asked} distinct studies: {', '.join(f'{mb:.0f}' for mb in resident)} MB"
    bench.figures.at_most("gateway, resident memory", max(resident), 150, "MB", basis)
    bench.figures.at_most("gateway, growth from the second quarter on", resident[-1] - resident[1], 5, "MB", basis)


def _decide_headers(bench: Bench) -> list[str]:
    return [*bench.tokens("admin-partner-clinic"), "X-Original-Method: GET", "X-Real-IP: 127.0.0.1"]


def _resident_mb(bench: Bench) -> float:
    script = "grep VmRSS /proc/$(systemctl show --value --property=MainPID imaging-gateway)/status"
    return int(bench.shell(script).split()[1]) / 1024


def viewers(bench: Bench, study: str) -> None:
    """200 people at once, each with half a second between requests."""
    metadata, frames = bench.requests_of(study)
    mix = [path for n in range(0, 300, 30) for path in (*frames[n : n + 30], *metadata, LIST)]
    tokens = bench.tokens(
        *(name for name, user in bench.platform.users.items() if CLINIC in user.clinics and "physician" in user.roles)
    )
    headers = bench.write("viewers.headers", [*tokens, "Accept: */*", "Accept-Encoding: gzip"])
    paths = bench.write("viewers.paths", mix)
    bench.load(bench.platform.url, paths, headers, 5, 200, 500)
    before = memory_mb(bench.platform)
    result = bench.load(bench.platform.url, paths, headers, VIEWERS_SECONDS, 200, 500)
    after = memory_mb(bench.platform)
    unanswered = result["refused"] + result["broken"]
    rate = result["requests"] / result["seconds"]
    basis = f"200 connections for {result['seconds']:.0f} s, {rate:.0f} requests/s, p99 {result['p99_ms']:.0f} ms"
    bench.figures.at_most("200 viewers, requests without an answer of 200", unanswered, 0, "", basis)
    growth = {unit: after[unit] - before.get(unit, 0) for unit in after}
    unit = max(growth, key=lambda name: growth[name])
    basis = f"proportional set size of the service that grew most ({unit}), of {sum(after.values()):.0f} MB in all"
    bench.figures.at_most("200 viewers, growth in that time", growth[unit], 30, "MB", basis)


def searches(bench: Bench) -> None:
    """The study list of a clinic with a fiftieth of all studies, and the same questions to raw Orthanc."""
    token = bench.tokens("physician-denscan-central")
    here = bench.write("here.headers", [*token, JSON_HEADER])
    raw = bench.write("raw.headers", [bench.shell(f"cat {WORK}/raw").strip(), JSON_HEADER])
    draw = random.Random(1)

    def name() -> str:
        return f"&PatientName=*{draw.randrange(4096):03X}*"

    def modality() -> str:
        return f"&ModalitiesInStudy={draw.choice(['CT,MR', 'US', 'CR,DX', 'NM'])}"

    def dates() -> str:
        return f"&StudyDate=20{draw.randint(16, 20)}{draw.randint(1, 12):02}01-20{draw.randint(21, 25)}0630"

    for what, parts, aim in (
        ("newest 101", (), 20),
        ("name wildcard", (name,), 50),
        ("ModalitiesInStudy", (modality,), 50),
        ("date range", (dates,), 50),
        ("name, modality and dates", (name, modality, dates), 50),
    ):
        paths = bench.write("search.paths", [LIST + "".join(part() for part in parts) for _ in range(40)])
        result = bench.load(bench.platform.url, paths, here, SECONDS // 2, 1)
        _rate(result)
        orthanc = bench.load(RAW, paths, raw, SECONDS // 2, 1)
        answered = "no answer in time"
        if orthanc["requests"]:
            answered = f"p95 {orthanc['p95_ms']:.0f} ms over {orthanc['requests']}"
        basis = (
            f"p95 over {result['requests']} searches of one of 50 clinics, {STUDIES:,} studies, through nginx and TLS; "
            f"raw Orthanc with {ORTHANC_STUDIES:,} studies: {answered}"
        )
        bench.figures.at_most(f"study list, {what}", result["p95_ms"], aim, "ms", basis)


def fill(bench: Bench) -> None:
    """Studies in the registry alone, and small studies in Orthanc alone. The importer would reconcile both."""
    bench.on_host("systemctl", "stop", "imaging-importer")
    count = "SELECT count(*) FROM registry.study WHERE study_uid LIKE '%.9.999.%'"
    if int(bench.shell(f'runuser -u postgres -- psql -XAtc "{count}" registry')) != STUDIES:
        started = time.monotonic()
        bench.shell(
            f"{{ echo 'SET ROLE registry_owner;'; cat {WORK}/million_studies.sql; }} | "
            f"runuser -u postgres -- psql -Xq1 -v studies={STUDIES} registry"
        )
        bench.shell("runuser -u postgres -- psql -Xqc 'VACUUM registry.study' registry")
        print(f"{STUDIES:,} studies put into the registry in {time.monotonic() - started:.0f} s", flush=True)
    arguments = ("fill", f"{WORK}/reportsi.dcm", str(ORTHANC_STUDIES))
    filled = json.loads(bench.on_host("python3", f"{WORK}/gateway_on_host.py", *arguments))
    print(f"{filled['studies']} studies put into Orthanc in {filled['seconds']:.0f} s", flush=True)


def main() -> int:
    started = time.monotonic()
    make("up", f"PLAYBOOK={ROOT}/.venv/bin/ansible-playbook -i inventories/sandbox -e '{NO_LIMITS}'")
    bench = Bench()
    print(describe_machine())
    try:
        large, medium = bench.series(300), bench.series(150)
        bench.wait_for_slices(large, 300)
        bench.wait_for_slices(medium, 150)
        throughput(bench, large)
        opening(bench, large)
        in_the_browser(bench, medium)
        viewers(bench, large)
        fill(bench)
        searches(bench)
        decisions(bench)
    finally:
        bench.on_host("systemctl", "start", "imaging-importer")
        bench.shell(f"rm -r {WORK}")
    bench.figures.write(ROOT / "bench/results/gateway.json")
    print(f"the whole run took {(time.monotonic() - started) / 60:.0f} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
