"""After any failure, delivered = processed + failed + pending, and Orthanc holds the delivered images.

The importer is killed at its failpoints and at random moments, its disk gets full, its clock jumps, Orthanc fails and
lies, the registry's PostgreSQL crashes, a second importer is started by mistake; in between it is started again, and
carries on until nothing is pending.

IMAGING_CAMPAIGN=n runs n segments of 40 such accidents (default 1; `make test-recovery` has a thousand accidents).
A segment prints its seed; IMAGING_SEED=seed runs that segment alone again.
"""

import contextlib
import os
import random
import resource
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from campaign import Campaign
from deliveries import deliver, instance, uid
from imaging_importer import failpoints
from imaging_importer.tree import is_unfinished
from importer_fakes import LATE
from importer_process import Forked, Nursery, start, wait_until

SEED = os.environ.get("IMAGING_SEED")
SEGMENTS = 1 if SEED else int(os.environ.get("IMAGING_CAMPAIGN", "1"))
ACCIDENTS = 40
UNLIMITED = resource.RLIM_INFINITY
OTHER_FILE_SYSTEM = Path("/dev/shm")  # noqa: S108 - a directory of its own is made there


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as made:
        yield made


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A directory on another file system than tmp_path."""
    if not os.access(OTHER_FILE_SYSTEM, os.W_OK) or OTHER_FILE_SYSTEM.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system to write to")
    directory = Path(tempfile.mkdtemp(dir=OTHER_FILE_SYSTEM))
    yield directory
    shutil.rmtree(directory)


class Accidents:
    """The possible failures. Each takes a running importer and leaves a stopped one."""

    def __init__(self, campaign: Campaign, nursery: Nursery, random_: random.Random) -> None:
        self.campaign = campaign
        self.nursery = nursery
        self.random = random_
        self.happened: Counter[str] = Counter()

    def one(self, kind: str) -> None:
        self.happened[kind] += 1
        self.campaign.platform.faults.probability = self.random.choice((0, 0, 0.05, 0.3))
        failpoint = ""
        if kind in ("kill", "raise"):
            failpoint = f"{self.random.choice(self.campaign.failpoints)}:{kind}"
        process = self.start(failpoint)
        try:
            getattr(self, kind.replace("-", "_"))(process)
        finally:
            self.campaign.platform.faults.down = False
            process.kill()

    def log(self) -> bytes:
        path = self.campaign.root / "log"
        return path.read_bytes() if path.exists() else b""

    def ready(self) -> bool:
        """Whether the importer that was started last has come so far; before that a full disk may end it."""
        return b" ready: inbox" in self.log()[self.logged :]

    def start(self, failpoint: str = "") -> Forked:
        self.logged = len(self.log())
        clock = self.random.randrange(1 << 32) if self.random.random() < 0.5 else None
        self.happened["jumping clock"] += clock is not None
        return self.nursery.start(
            **self.campaign.settings,
            failpoint=failpoint,
            clock=clock,
            timeout=LATE / 2,
            cooldown=0.05,
            scan_interval=0.02,
        )

    def run(self, process: Forked, seconds: float) -> None:
        wait_until(self.campaign.settled, seconds, process)

    def kill(self, process: Forked) -> None:
        """At a failpoint; one that is not reached kills nothing, so the process is killed after a while anyway."""
        self.run(process, 1)

    def a_moment(self, process: Forked) -> None:
        self.run(process, self.random.uniform(0, 0.6))

    def full_disk(self, process: Forked) -> None:
        """Every write beyond a size fails, to the journal, scratch, reports, another file system; later it works."""
        assert wait_until(self.ready, 120, process)
        self.run(process, self.random.uniform(0, 0.3))
        limit = self.random.choice((0, 1 << 10, 1 << 15, 1 << 17))
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, UNLIMITED))
            self.run(process, 0.5)
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (UNLIMITED, UNLIMITED))
        self.run(process, self.random.uniform(0, 0.6))
        assert process.poll() is None, "a full disk must not end the importer"

    def orthanc_down(self, process: Forked) -> None:
        self.campaign.platform.faults.down = True
        self.run(process, self.random.uniform(0.2, 0.6))
        self.campaign.platform.faults.down = False
        self.run(process, self.random.uniform(0, 0.6))
        assert process.poll() is None, "Orthanc's absence must not end the importer"

    def database_down(self, process: Forked) -> None:
        self.run(process, self.random.uniform(0, 0.4))
        self.campaign.registry.cluster.crash()
        self.run(process, 0.2)
        self.campaign.registry.cluster.start()
        self.run(process, self.random.uniform(0, 0.6))
        assert process.poll() is None, "PostgreSQL's absence must not end the importer"

    def second_importer(self, process: Forked) -> None:
        lock = self.campaign.root / "inbox" / ".spool" / ".lock"
        assert wait_until(lambda: lock.exists() and is_locked(lock), 120, process)
        second = self.start()
        assert second.wait(10) == 1, "two importers on one inbox"
        self.run(process, self.random.uniform(0, 0.6))

    def stop(self, process: Forked) -> None:
        self.run(process, self.random.uniform(0.1, 0.6))
        process.terminate()
        assert process.wait(10) in (0, -signal.SIGTERM)  # the latter before it was ready


# `raise` at a failpoint is a full disk at exactly that step.
setattr(Accidents, "raise", Accidents.kill)

KINDS = {
    "kill": 14,
    "raise": 4,
    "a-moment": 8,
    "full-disk": 5,
    "orthanc-down": 3,
    "database-down": 1,
    "second-importer": 2,
    "stop": 3,
}


def is_locked(path: Path) -> bool:
    import fcntl

    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.mark.parametrize("segment", range(SEGMENTS))
def test_campaign(tmp_path: Path, registry, nursery: Nursery, segment: int) -> None:
    seed = int(SEED) if SEED else random.SystemRandom().randrange(1 << 32)
    print(f"\nIMAGING_SEED={seed}", flush=True)
    random_ = random.Random(seed)
    with contextlib.ExitStack() as stack:
        elsewhere = None
        if random_.random() < 0.5 and os.access(OTHER_FILE_SYSTEM, os.W_OK):
            elsewhere = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=OTHER_FILE_SYSTEM)))
        campaign = Campaign(tmp_path, random_, registry, elsewhere)
        stack.callback(campaign.platform.close)
        campaign.platform.faults.random = random.Random(seed)
        accidents = Accidents(campaign, nursery, random_)
        kinds = random_.choices(list(KINDS), KINDS.values(), k=ACCIDENTS)
        for number, kind in enumerate(kinds):
            for _ in range(random_.randrange(3)):
                campaign.deliver(number)
            accidents.one(kind)
            campaign.check_ledger()

        campaign.platform.faults.probability = 0
        process = accidents.start()
        finished = wait_until(campaign.settled, 120, process)
        process.terminate()
        assert process.wait(10) in (0, -signal.SIGTERM)
        assert finished, (tmp_path / "log").read_text()[-5000:]
        campaign.check_end()
        accidents.happened["bad answers"] = campaign.platform.faults.count
        print(f"{len(campaign.delivered)} files, {dict(accidents.happened)}", flush=True)


def carry(campaign: Campaign, nursery: Nursery, timeout: float = 30, **settings: object) -> None:
    """An importer that runs until nothing is pending."""
    process = nursery.start(**campaign.settings, **settings)
    finished = wait_until(campaign.settled, timeout, process)
    process.kill()
    assert finished, (campaign.root / "log").read_text()[-5000:]


@pytest.mark.parametrize("other_file_system", [False, True], ids=["", "other-file-system"])
@pytest.mark.parametrize("failpoint", failpoints.NAMES)
def test_each_state_transition_is_survived(
    tmp_path: Path, registry, nursery: Nursery, request, failpoint: str, other_file_system: bool
) -> None:
    """One delivery of everything, killed once at this point, then carried to its end."""
    if failpoint.endswith("-across") and not other_file_system:
        pytest.skip("nothing is copied on one file system")
    elsewhere = request.getfixturevalue("elsewhere") if other_file_system else None
    random_ = random.Random(failpoint)
    campaign = Campaign(tmp_path, random_, registry, elsewhere)
    study, series = uid(random_), uid(random_)
    images = [instance(random_, study, series) for _ in range(9)]
    files = {f"{number}.dcm": data for number, data in enumerate(images)}
    files |= {"deep/cut.dcm": images[0][:-9], "deep/note.txt": b"note"}
    campaign.delivered += files.values()
    deliver(tmp_path / "inbox" / "north" / "study", files)
    first = nursery.start(**campaign.settings, failpoint=f"{failpoint}:kill")
    assert first.wait(20) == -signal.SIGKILL, "the failpoint was not reached"
    campaign.check_ledger()
    carry(campaign, nursery)
    campaign.check_end()
    assert len(campaign.platform.instances) == 9
    campaign.platform.close()


def test_a_lost_journal_is_rebuilt_from_the_spool(tmp_path: Path, registry, nursery: Nursery) -> None:
    random_ = random.Random(1)
    campaign = Campaign(tmp_path, random_, registry)
    campaign.delivered.append(instance(random_, uid(random_), uid(random_)))
    deliver(tmp_path / "inbox" / "north" / "study", {"0.dcm": campaign.delivered[0]})
    assert nursery.start(**campaign.settings, failpoint="files-verified:kill").wait(20) == -signal.SIGKILL
    (tmp_path / "state" / "journal.sqlite").write_bytes(b"this is no database, whatever it was before" * 100)
    carry(campaign, nursery)
    campaign.check_end()
    campaign.platform.close()


def test_what_one_service_stumbles_over_holds_up_nothing_else(tmp_path: Path, registry, nursery: Nursery) -> None:
    """A delivery that makes Orthanc answer 500 each time stays pending; those behind it are imported."""
    random_ = random.Random(2)
    campaign = Campaign(tmp_path, random_, registry)
    study, series = uid(random_), uid(random_)
    poison = instance(random_, study, series)
    campaign.platform.faults.poison = study.encode()
    deliver(tmp_path / "inbox" / "north" / "a", {"poison.dcm": poison})
    process = nursery.start(**campaign.settings)
    assert wait_until(lambda: len(campaign.jobs()) == 1, 120, process)
    good = instance(random_, uid(random_), uid(random_))
    deliver(tmp_path / "inbox" / "south" / "b", {"good.dcm": good})
    assert wait_until(lambda: list((tmp_path / "processed" / "south").glob("*/b/good.dcm")), 120, process)
    assert wait_until(lambda: len(campaign.jobs()) == 1, 120, process)
    campaign.platform.faults.poison = b""
    assert wait_until(campaign.settled, 120, process)
    process.kill()
    campaign.delivered += [poison, good]
    campaign.check_end()
    campaign.platform.close()


def test_orthancs_word_is_not_enough(tmp_path: Path, registry, nursery: Nursery) -> None:
    """It says "stored" and has nothing: the delivery stays pending until the bytes are there."""
    random_ = random.Random(8)
    campaign = Campaign(tmp_path, random_, registry)
    campaign.platform.faults.lies = 3
    campaign.delivered.append(instance(random_, uid(random_), uid(random_)))
    deliver(tmp_path / "inbox" / "north" / "study", {"0.dcm": campaign.delivered[0]})
    carry(campaign, nursery)
    campaign.check_end()
    assert campaign.platform.faults.lies == 0
    assert len(campaign.platform.instances) == 1
    campaign.platform.close()


def test_a_stop_during_a_long_upload_takes_no_ten_seconds(tmp_path: Path, registry) -> None:
    random_ = random.Random(3)
    campaign = Campaign(tmp_path, random_, registry)
    campaign.platform.faults.delay = 30  # Orthanc thinks
    campaign.delivered.append(instance(random_, uid(random_), uid(random_)))
    deliver(tmp_path / "inbox" / "north" / "study", {"0.dcm": campaign.delivered[0]})
    process = start(**campaign.settings)
    assert wait_until(
        lambda: any("POST /dicom-web/studies/" in line for line in campaign.platform.requests), 120, process
    )
    began = time.monotonic()
    process.terminate()
    assert process.wait(10) == 0
    assert time.monotonic() - began < 10
    campaign.check_ledger()
    campaign.platform.faults.delay = 0
    with Nursery() as nursery:
        carry(campaign, nursery)
    campaign.check_end()
    campaign.platform.close()


def test_unfinished_names() -> None:
    names = ("a.dcm", "a.dcm.part", "x/.a.dcm.Xy1", "b.TMP", ".DS_Store", "._a", "c.filepart")
    unfinished = [name for name in names if is_unfinished(name)]
    assert unfinished == ["a.dcm.part", "x/.a.dcm.Xy1", "b.TMP", "c.filepart"]
