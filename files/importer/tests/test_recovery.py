"""Whatever happens, delivered = processed + failed + pending.

The importer is killed at random points of random deliveries while Orthanc and the registry fail at random, and is
started
again until nothing is pending.

IMAGING_CAMPAIGN=n makes the campaign n deliveries long (default 40), IMAGING_SEED replays a run whose seed was printed.
"""

import hashlib
import io
import os
import random
import signal
from collections import Counter
from pathlib import Path

import pydicom
import pytest
from deliveries import TEMPLATES, changed, contents, deliver, instance, sop_uid, uid
from imaging_importer import failpoints
from imaging_importer.tree import is_unfinished
from importer_fakes import Platform
from importer_process import start, wait_until

DELIVERIES = int(os.environ.get("IMAGING_CAMPAIGN", "40"))
SEED = int(os.environ.get("IMAGING_SEED", random.SystemRandom().randrange(1 << 32)))


class Campaign:
    """Random deliveries of two clinics that share some studies, and what each file must have become."""

    def __init__(self, root: Path, random_: random.Random) -> None:
        self.root = root
        self.random = random_
        self.delivered: list[bytes] = []
        self.known: list[tuple[str, str, str, bytes]] = []  # clinic, study, series, an instance of it
        for name in ("inbox", "processed", "failed"):
            (root / name).mkdir()
        for clinic in ("north", "south"):
            (root / "inbox" / clinic).mkdir()

    def deliver(self, number: int) -> None:
        clinic = self.random.choice(("north", "south"))
        files: dict[str, bytes] = {}
        for _ in range(self.random.randrange(1, 12)):
            name = self.random.choice(("", "a/", "b/c d/")) + f"{self.random.randrange(10_000)}"
            files[name] = self._file(clinic)
        folder = self.root / "inbox" / clinic / self.random.choice((f"study {number}", "same name", ""))
        if folder.exists() and folder.name == "same name":
            files = {f"more-{number}/{name}": data for name, data in files.items()}
        if folder.name == clinic:  # loose files
            files = {f"{number}-{name.replace('/', '_')}": data for name, data in files.items()}
        self.delivered += files.values()
        deliver(folder, files)

    def _file(self, clinic: str) -> bytes:
        kind = self.random.random()
        if kind < 0.1:
            return self.random.randbytes(self.random.randrange(300))  # no DICOM, sometimes empty
        if kind < 0.2 and self.known:
            return self.random.choice(self.known)[3]  # again, perhaps by another clinic
        if kind < 0.25 and self.known:
            return changed(self.random.choice(self.known)[3])
        if kind < 0.5 and self.known:
            _, study, series, _ = self.random.choice(self.known)
        else:
            study, series = uid(self.random), uid(self.random)
        template = self.random.choice(TEMPLATES)
        data = instance(self.random, study, series, "P1", template)
        self.known.append((clinic, study, series, data))
        return data[: self.random.randrange(len(data))] if kind > 0.95 else data

    def pending(self) -> list[str]:
        """Files in the inbox and the spool. os.walk: what is renamed while it is listed is looked for next time."""
        return [
            str(Path(directory) / name)
            for directory, _, names in os.walk(self.root / "inbox")
            for name in names
            if name != ".lock" and ".scratch" not in directory
        ]

    def jobs(self) -> list[str]:
        spools = [self.root / "inbox" / ".spool" / clinic for clinic in ("north", "south")]
        return [name for spool in spools if spool.is_dir() for name in os.listdir(spool)]  # noqa: PTH208 - never raises midway

    def check_ledger(self) -> None:
        everywhere = [file for place in ("inbox", "processed", "failed") for file in contents(self.root / place)]
        assert Counter(everywhere) == Counter(hashlib.sha256(data).hexdigest() for data in self.delivered)


def run_until_killed(campaign: Campaign, platform: Platform, failpoint: str) -> None:
    process = start(campaign.root, platform.url, failpoint)
    try:
        wait_until(lambda: not campaign.pending() and not campaign.jobs(), 2, process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def test_killed_at_random_points_the_ledger_balances(tmp_path: Path) -> None:
    print(f"IMAGING_SEED={SEED} IMAGING_CAMPAIGN={DELIVERIES}")
    random_ = random.Random(SEED)
    campaign, platform = Campaign(tmp_path, random_), Platform()
    platform.faults.random = random.Random(SEED)
    names = list(failpoints.NAMES)
    random_.shuffle(names)
    number = 0
    while number < DELIVERIES:
        for _ in range(random_.randrange(1, 4)):
            campaign.deliver(number)
            number += 1
        platform.faults.probability = random_.choice((0, 0, 0.05, 0.3))
        name = names[number % len(names)]
        run_until_killed(campaign, platform, f"{name}:{random_.choice(('kill', 'kill', 'kill', 'raise'))}")
        campaign.check_ledger()

    platform.faults.probability = 0
    process = start(tmp_path, platform.url)
    finished = wait_until(lambda: not campaign.pending() and not campaign.jobs(), 60, process)
    process.terminate()
    assert process.wait(10) in (0, -signal.SIGTERM)
    log = (tmp_path / "log").read_text()
    assert finished, log[-5000:]
    campaign.check_ledger()
    check_store(tmp_path, platform)
    platform.close()


def check_store(root: Path, platform: Platform) -> None:
    """What is under processed/ is stored, stamped, owned by its clinic and visible; there is nothing else."""
    stored = {}
    for path in (root / "processed").rglob("*"):
        if path.is_file():
            try:
                stored[sop_uid(path.read_bytes())] = path.relative_to(root / "processed").parts[0]
            except (pydicom.errors.InvalidDicomError, AttributeError):
                continue
    assert set(platform.md5s()) == set(stored)
    assert len(platform.identity) == len({identity[3] for identity in platform.identity.values()}), "a duplicate"
    for key, data in platform.instances.items():
        _, study, _, sop = platform.identity[key]
        ds = pydicom.dcmread(io.BytesIO(data))
        assert ds.InstitutionName == stored[sop] == platform.owner[study]
    assert {identity[1] for identity in platform.identity.values()} == set(platform.recorded)
    for folder in (root / "failed").glob("*/*/*"):
        assert (folder / "report.json").is_file(), folder
        assert (folder / "REASON.txt").is_file(), folder


@pytest.mark.parametrize("failpoint", failpoints.NAMES)
def test_each_state_transition_is_survived(tmp_path: Path, failpoint: str) -> None:
    """One delivery of everything, killed once at this point, then carried to its end."""
    random_ = random.Random(failpoint)
    campaign, platform = Campaign(tmp_path, random_), Platform()
    study, series = uid(random_), uid(random_)
    images = [instance(random_, study, series) for _ in range(9)]
    files = {f"{number}.dcm": data for number, data in enumerate(images)} | {
        "cut.dcm": images[0][:-9],
        "note.txt": b"note",
    }
    campaign.delivered += files.values()
    deliver(tmp_path / "inbox" / "north" / "study", files)
    first = start(tmp_path, platform.url, f"{failpoint}:kill")
    assert first.wait(20) == -signal.SIGKILL, "the failpoint was not reached"
    campaign.check_ledger()
    second = start(tmp_path, platform.url)
    assert wait_until(lambda: not campaign.pending() and not campaign.jobs(), 20, second)
    second.terminate()
    assert second.wait(10) in (0, -signal.SIGTERM)  # the latter when there was nothing left to do before it was ready
    campaign.check_ledger()
    check_store(tmp_path, platform)
    assert len(platform.instances) == 9
    platform.close()


def test_a_lost_journal_is_rebuilt_from_the_spool(tmp_path: Path) -> None:
    random_ = random.Random(1)
    campaign, platform = Campaign(tmp_path, random_), Platform()
    campaign.delivered.append(instance(random_, uid(random_), uid(random_)))
    deliver(tmp_path / "inbox" / "north" / "study", {"0.dcm": campaign.delivered[0]})
    assert start(tmp_path, platform.url, "files-verified:kill").wait(20) == -signal.SIGKILL
    (tmp_path / "state" / "journal.sqlite").write_bytes(b"this is no database, whatever it was before" * 100)
    process = start(tmp_path, platform.url)
    assert wait_until(lambda: not campaign.pending() and not campaign.jobs(), 20, process)
    process.terminate()
    process.wait(10)
    campaign.check_ledger()
    check_store(tmp_path, platform)
    platform.close()


def test_unfinished_names() -> None:
    names = ("a.dcm", "a.dcm.part", "x/.a.dcm.Xy1", "b.TMP", ".DS_Store", "._a", "c.filepart")
    unfinished = [name for name in names if is_unfinished(name)]
    assert unfinished == ["a.dcm.part", "x/.a.dcm.Xy1", "b.TMP", "c.filepart"]
