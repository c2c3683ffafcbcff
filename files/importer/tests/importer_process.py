"""The importer as a process of its own, against the fakes: started, killed and started again by the recovery tests."""

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

TESTS = Path(__file__).parent
COOLDOWN = 0.2


def config_for(root: Path, url: str, port: int = 0, cooldown: float = COOLDOWN, patience: float = 1.5):
    from imaging_importer.config import Config

    for name in ("inbox", "processed", "failed"):
        (root / name).mkdir(exist_ok=True)
    return Config(
        inbox=root / "inbox",
        processed=root / "processed",
        failed=root / "failed",
        state=root / "state",
        cooldown=cooldown,
        scan_interval=0.1,
        patience=patience,
        orthanc_url=url,
        orthanc_user="importer",
        orthanc_password="secret",
        batch_bytes=1 << 20,
        batch_count=7,
        registry={},
        http_host="127.0.0.1",
        http_port=port,
    )


def start(root: Path, url: str, failpoint: str = "") -> subprocess.Popen:
    environment = {**os.environ, "IMAGING_FAILPOINT": failpoint, "PYTHONPATH": f"{TESTS}:{TESTS.parent / 'src'}"}
    with (root / "log").open("ab") as log:
        return subprocess.Popen([sys.executable, __file__, str(root), url], env=environment, stdout=log, stderr=log)


def wait_until(condition, timeout: float, process: subprocess.Popen | None = None) -> bool:
    """Whether the condition came true before the timeout and the end of the process."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if condition():
            return True
        if process is not None and process.poll() is not None:
            return False
        time.sleep(0.02)
    return False


if __name__ == "__main__":
    from imaging_importer import worker
    from imaging_importer.app import App
    from importer_fakes import HttpRegistry

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    worker.FIRST_DELAY, worker.LONGEST_DELAY = 0.05, 0.2
    App(config_for(Path(sys.argv[1]), sys.argv[2]), HttpRegistry(sys.argv[2])).run()
