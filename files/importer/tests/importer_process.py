"""The importer as a process of its own, against the fakes: started, killed and started again by the recovery tests.

`start` runs a new Python. `Nursery` forks importers from a process that has everything imported already, so that the
campaign can afford a thousand of them, and can give each a clock that jumps.
"""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent
COOLDOWN = 0.2
UPLOAD_SECRET = "the-upload-secret"


def config_for(root: Path, url: str, port: int = 0, cooldown: float = COOLDOWN, patience: float = 1.5, **more: Any):
    from imaging_importer import config

    for name in ("inbox", "processed", "failed"):
        (root / name).mkdir(exist_ok=True)
    chosen = {
        "scan_interval": 0.1,
        "batch_bytes": 1 << 20,
        "batch_count": 7,
        "registry": ("127.0.0.1", 5432, "registry", "registry_importer"),
        "upload_bytes": 64 << 20,
        "limits": (8 << 20, 8 << 20),
        "disk_reserve": 1,
        "quotas": {},
        "charsets": {},
    }
    assert more.keys() <= chosen.keys(), more
    chosen |= more
    return config.Config(
        config.Paths(root / "inbox", root / "processed", root / "failed", root / "state"),
        config.Scan(cooldown, chosen["scan_interval"], patience),
        config.Orthanc(url, "importer", chosen["batch_bytes"], chosen["batch_count"]),
        config.RegistryDatabase(*chosen["registry"]),
        config.Http("127.0.0.1", port),
        config.Upload("https://imaging.test/dicom-web", chosen["upload_bytes"]),
        config.ImageLimits(*chosen["limits"]),
        config.Disk(chosen["disk_reserve"]),
        chosen["quotas"],
        chosen["charsets"],
    )


def start(root: Path | str, url: str, failpoint: str = "", **settings: Any) -> subprocess.Popen:
    """An importer; `settings` are as in `run_importer`."""
    with (Path(root) / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, __file__, json.dumps({"root": str(root), "url": url, **settings})],
            env={**environment(), "IMAGING_FAILPOINT": failpoint},
            stdout=log,
            stderr=log,
        )


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent / 'src'}"}


class Nursery:
    """Forks importers. Use it as a context; importers that still run at its end are killed."""

    def __enter__(self) -> Nursery:
        self._children: list[Forked] = []
        self._process = subprocess.Popen(
            [sys.executable, __file__], env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            child.kill()
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def ask(self, *question: object) -> Any:
        print(json.dumps(question), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def start(self, root: Path | str, url: str, failpoint: str = "", **settings: Any) -> Forked:
        child = Forked(self, self.ask("start", failpoint, {"root": str(root), "url": url, **settings}))
        self._children.append(child)
        return child


class Forked:
    """An importer of a Nursery, with the methods of subprocess.Popen that the tests use."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self._nursery = nursery
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._nursery.ask("poll", self.pid)
        return self.returncode

    def wait(self, timeout: float) -> int:
        assert wait_until(lambda: self.poll() is not None, timeout), f"process {self.pid} still runs"
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
        self.wait(10)


def wait_until(condition, timeout: float, process: subprocess.Popen | Forked | None = None) -> bool:
    """Whether the condition came true before the timeout and the end of the process."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if condition():
            return True
        if process is not None and process.poll() is not None:
            return False
        time.sleep(0.02)
    return False


def run_importer(
    root: str,
    url: str,
    registry: dict[str, Any] | None = None,
    clock: int | None = None,
    timeout: float = 600,
    deaf: bool = False,
    slowest: tuple[int, float, float] | None = None,
    **more: Any,
) -> None:
    """Run until SIGTERM. `registry`: of psycopg, instead of the fake's; `clock`: a seed for jumps of the clock;
    `timeout`: for Orthanc's answers; `deaf`: inotify tells nothing;
    `slowest`: bytes a second and over how many seconds that an upload must have, seconds for the head of a request.
    """
    from imaging_importer import app, delivery, orthanc, web, worker
    from imaging_importer.config import Secrets
    from imaging_importer.registry import PostgresRegistry
    from imaging_importer.ways_in import watch
    from importer_fakes import HttpRegistry

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    worker.FIRST_DELAY, worker.LONGEST_DELAY = 0.05, 0.2
    app.RECONCILE_EVERY = 0.5
    delivery.PAUSES = (0.0, 0.05)
    orthanc.TIMEOUT = (timeout, timeout)
    if slowest:
        web.SLOWEST, web.SLOWEST_OVER, web.HEAD_SECONDS = slowest
    if deaf:
        watch.Watch.add = lambda *_: None
    if clock is not None:
        jumping_clock(random.Random(clock))
    config = config_for(Path(root), url, **more)
    secrets = Secrets("secret", "secret", UPLOAD_SECRET)
    app.App(config, secrets, PostgresRegistry(registry) if registry else HttpRegistry(url)).run()


def jumping_clock(random_: random.Random) -> None:
    """Let the wall clock jump by up to three years, back or forth, about every tenth time that somebody looks."""
    real, strftime, offset = time.time, time.strftime, 0.0

    def now() -> float:
        nonlocal offset
        if random_.random() < 0.1:
            offset = random_.uniform(-1e8, 1e8)
        return real() + offset

    time.time = now
    time.strftime = lambda format_, moment=None: strftime(format_, moment or time.gmtime(now()))


def nurse() -> None:
    """Fork an importer for each question "start", answer "poll" with the exit status of one."""
    from imaging_importer import app, failpoints, registry  # noqa: F401 - what every importer needs

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin:
        kind, *arguments = json.loads(line)
        if kind == "poll":
            pid, status = os.waitpid(arguments[0], os.WNOHANG)
            print(json.dumps(os.waitstatus_to_exitcode(status) if pid else None), flush=True)
            continue
        failpoint, settings = arguments
        pid = os.fork()
        if pid:
            print(json.dumps(pid), flush=True)
            continue
        status = 1
        try:
            log = os.open(f"{settings['root']}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            for descriptor in (1, 2):
                os.dup2(log, descriptor)
            os.close(0)
            failpoints._name, _, failpoints._action = failpoint.partition(":")
            run_importer(**settings)
            status = 0
        except Exception:
            logging.exception("the importer ended")
        finally:
            os._exit(status)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        nurse()
    else:
        run_importer(**json.loads(sys.argv[1]))
