"""A delivery of very many files, very deep ones, names that a file system refuses, and a disk that gets full."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
from campaign import Campaign
from deliveries import deliver, instance, report, uid
from imaging_importer import tree
from imaging_importer.delivery import Carrier
from imaging_importer.disk import Disk
from imaging_importer.journal import FileOutcome, Journal, Outcome
from imaging_importer.reasons import SENTENCES, TransientError
from imaging_importer.settle import Settler, put_back
from imaging_importer.spool import Spool, lock
from imaging_importer.status import as_text, collect
from importer_fakes import Platform
from importer_process import UPLOAD_SECRET, Nursery, environment, start, wait_until
from uploads import upload

LONG = bool(os.environ.get("IMAGING_LONG"))
MILLION = 1_000_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("inbox/north", "processed", "failed"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


# Carries a delivery of so many files that are there in name alone: lists, compares, settles and reports them.
CARRY = """
import os, sys
from pathlib import Path
from imaging_importer import tree
from imaging_importer.settle import Settler
from imaging_importer.delivery import Carrier
from imaging_importer.journal import FileOutcome, Journal, Outcome
from imaging_importer.spool import Spool, lock
from imaging_importer.status import collect
from types import SimpleNamespace

root, count = Path(sys.argv[1]), int(sys.argv[2])
(root / "a file").write_bytes(b"x")
file = os.lstat(root / "a file")

def walk(folder):
    for number in range(count):
        yield f"a directory with a longer name/{number % 1000:03}/{number:024}.dcm", file

journal = Journal(root / "journal.sqlite")
lock(root / "inbox/.spool")
spool = Spool(root / "inbox/.spool", journal)
(root / "inbox/north/many").mkdir()
job = journal.job(spool.take_folder("north", root / "inbox/north/many"))
tree._walk = walk
settler = Settler(root / "processed", root / "failed", journal, spool)
carrier = Carrier(None, journal, spool, settler, None, None, None, None, None)
for _ in tree.look(root): pass
for _ in carrier._list(job): pass
page = []
for number, entry in enumerate(journal.files(job.id, Outcome.PENDING)):
    page.append(FileOutcome(entry.path, Outcome.FAILED, "damaged", "a detail"))
    if len(page) == 1000 or number == count - 1:
        journal.write_outcomes(job.id, page)
        page = []
for _ in carrier._refuse_changes(job): pass
inbox = SimpleNamespace(waiting={}, further={}, unknown={}, last_scan=0.0)
assert collect(inbox, journal, [], {}, {})["importing"][0]["files"] == count
settler.choose(job)
for _ in settler.move(journal.job(job.id)): pass
journal.finish(job.id)
while journal.forget_some(job.id, *Outcome): pass
# Not ru_maxrss, which begins with the size of the process that started this one.
print(int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) // 1024)
"""


def test_a_delivery_of_very_many_files_needs_little_memory(root: Path) -> None:
    count, most = (MILLION, 120) if LONG else (MILLION // 10, 100)
    done = subprocess.run(
        [sys.executable, "-c", CARRY, root, str(count)], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    print(f"{count} files: {done.stdout.strip()} MiB")
    assert int(done.stdout) < most
    told = json.loads(next(root.glob("failed/north/*/many/report.json")).read_text())
    assert len(told["failures"]) == told["files"]["failed"] == count


class Delivery:
    """A folder in the spool, and what carries it as far as it goes without Orthanc."""

    def __init__(self, root: Path, folder: str, files: dict[str, bytes]) -> None:
        self.root = root
        self.journal = Journal(root / "journal.sqlite")
        lock(root / "inbox" / ".spool")
        self.spool = Spool(root / "inbox" / ".spool", self.journal)
        self.settler = Settler(root / "processed", root / "failed", self.journal, self.spool)
        self.carrier = Carrier(None, self.journal, self.spool, self.settler, None, None, None, None, None)
        self.take(folder, files)

    def take(self, folder: str, files: dict[str, bytes]) -> None:
        deliver(self.root / "inbox" / "north" / folder, files)
        job_id = self.spool.take_folder("north", self.root / "inbox" / "north" / folder)
        self.job = self.journal.job(job_id)

    def list(self) -> dict[str, str]:
        """Path -> reason, of what is not to be read."""
        list(self.carrier._list(self.job))
        return {file.path: file.reason for file in self.journal.files(self.job.id, Outcome.FAILED)}

    def end(self) -> None:
        self.settler.choose(self.job)
        list(self.settler.move(self.journal.job(self.job.id)))
        self.journal.finish(self.job.id)


def deep(levels: int) -> str:
    return "/".join(["d"] * levels + ["0.dcm"])


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([str(number) for number in range(51)], "too-many-files"),
        ([f"{number}/{number}" for number in range(26)], "too-many-files"),
        ([deep(tree.DEEPEST)], "too-deep"),
        (["/".join(["n" * 250] * 9)], "too-deep"),
    ],
)
def test_beyond_the_limits_a_delivery_fails_as_a_whole_and_says_why(
    root: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], reason: str
) -> None:
    monkeypatch.setattr(tree, "MOST_ENTRIES", 50)
    delivery = Delivery(root, "study", dict.fromkeys(files, b"x"))
    assert delivery.list() == {".": reason}
    assert list(delivery.journal.files(delivery.job.id, Outcome.PENDING)) == []
    list(delivery.carrier._refuse_changes(delivery.job))
    delivery.end()
    assert report(root, "north", "study") == {".": reason}
    assert SENTENCES[reason] in next(root.glob("failed/north/*/study/REASON.txt")).read_text()
    assert all(list(root.glob(f"failed/north/*/study/{file}")) for file in files)
    assert not list(root.glob("processed/*"))


def test_at_the_limits_a_delivery_is_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "MOST_ENTRIES", 50)
    files = [deep(tree.DEEPEST - 1), *(str(number) for number in range(50 - tree.DEEPEST))]
    delivery = Delivery(root, "study", dict.fromkeys(files, b"x"))
    assert delivery.list() == {}
    assert {file.path for file in delivery.journal.files(delivery.job.id, Outcome.PENDING)} == set(files)


def test_a_deep_delivery_beside_a_good_one_ends(root: Path, registry) -> None:
    (root / "inbox" / "north").rmdir()
    campaign = Campaign(root, random.Random(1), registry)
    good = instance(campaign.random, uid(campaign.random), uid(campaign.random))
    with Nursery() as nursery:
        deliver(root / "inbox" / "north" / "deep", {deep(40): b"x", "image.dcm": good})
        importer = nursery.start(**campaign.settings)
        assert wait_until(lambda: campaign.settled() and list(root.glob("failed/*/*/*")), 60, importer)
    campaign.platform.close()
    assert report(root, "north", "deep") == {".": "too-deep"}
    assert campaign.platform.md5s() == {}


@pytest.mark.parametrize("name", ["Ж" * 127, "n" * 255, "\udcff" * 254, "a" + "医" * 84, "study"])
@pytest.mark.parametrize("kind", ["processed", "failed"])
def test_a_folder_of_any_name_may_be_delivered_often(root: Path, name: str, kind: str) -> None:
    delivery = Delivery(root, name, {"0.dcm": b"0"})
    for number in range(12):
        if number:
            delivery.take(name, {"0.dcm": b"%d" % number})
        delivery.list()
        outcome = (
            FileOutcome("0.dcm", Outcome.STORED)
            if kind == "processed"
            else FileOutcome("0.dcm", Outcome.FAILED, "damaged")
        )
        delivery.journal.write_outcomes(delivery.job.id, [outcome])
        delivery.end()
    places = list(root.glob(f"{kind}/north/*/*"))
    assert len(places) == 12
    assert {(place / "0.dcm").read_bytes() for place in places} == {b"%d" % number for number in range(12)}
    assert {os.fsencode(place.name).decode("utf-8", "replace").partition(".")[0][:60] for place in places} == {
        os.fsencode(name).decode("utf-8", "replace")[:60]
    }
    if kind == "failed":
        for place in places:
            assert put_back(place, root / "failed", root / "inbox").is_dir()
        assert len(list((root / "inbox" / "north").iterdir())) == 12


def test_a_name_that_the_file_system_refuses_is_replaced_by_the_jobs_number(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a Windows share does with a colon, and as a journal of the last release has one that is too long."""
    delivery = Delivery(root, "12:30", {"0.dcm": b"0"})
    delivery.list()
    delivery.journal.write_outcomes(delivery.job.id, [FileOutcome("0.dcm", Outcome.STORED)])
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if ":" in target.name:
            raise OSError(errno.EINVAL, "a colon")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(TransientError):
        delivery.end()
    list(delivery.settler.move(delivery.journal.job(delivery.job.id)))
    assert [path.name for path in root.glob("processed/north/*/*")] == [delivery.job.id]


def test_a_copy_onto_another_file_system_takes_the_longest_name_and_the_longest_path(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = root / "inbox" / ("n" * 255), root / "processed" / ("n" * 255)
    deliver(source, {"0.dcm": b"0"})
    descriptor = os.open(source, os.O_RDONLY)
    for _ in range(30):  # 6,000 bytes
        os.mkdir("d" * 200, dir_fd=descriptor)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(os.open("deep.dcm", os.O_WRONLY | os.O_CREAT, dir_fd=descriptor))
    os.close(descriptor)
    rename = Path.rename

    def across(self: Path, other: Path) -> Path:
        if self == source:
            raise OSError(errno.EXDEV, "another file system")
        return rename(self, other)

    monkeypatch.setattr(Path, "rename", across)
    tree.move(source, target)
    assert (target / "0.dcm").read_bytes() == b"0"
    assert not source.exists()
    assert [path for path, _ in tree._walk(target)][-1].count("/") == 30
    assert tree.exists(target, "/".join(["d" * 200] * 30 + ["deep.dcm"]))


def test_names_of_one_file_inside_the_delivery_are_files_and_others_are_told(root: Path) -> None:
    delivery = Delivery(root, "study", {"a": b"1", "b": b"2"})
    folder = delivery.spool.folder(delivery.job)
    os.link(folder / "a", folder / "a again")
    os.link(folder / "b", root / "outside")
    assert delivery.list() == {"b": "hard-link"}


def test_what_is_withdrawn_before_it_is_sent_is_forgotten_when_the_folder_is_listed_again(root: Path) -> None:
    delivery = Delivery(root, "study", {"a": b"1", "b": b"2"})
    delivery.list()
    (delivery.spool.folder(delivery.job) / "a").unlink()
    delivery.journal.trouble(delivery.job.id, "a file is gone")
    delivery.job = delivery.journal.job(delivery.job.id)
    delivery.list()
    assert [file.path for file in delivery.journal.files(delivery.job.id, *Outcome)] == ["b"]


def test_a_look_tells_every_change_and_no_order(root: Path) -> None:
    def look() -> tree.Look:
        steps = tree.look(root / "inbox")
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return end.value

    deliver(root / "inbox" / "north" / "study", {f"{number}": b"x" for number in range(20)})
    seen = [look()]
    assert look() == seen[0]
    for change in (
        lambda file: file.write_bytes(b"y"),
        lambda file: file.rename(file.with_name("other")),
        lambda file: (file.parent / "new").mkdir(),
        lambda file: (file.parent / "other").unlink(),
    ):
        time.sleep(0.02)
        change(root / "inbox" / "north" / "study" / "7")
        seen.append(look())
    assert len({each.fingerprint for each in seen}) == 5


# --- the disk ---------------------------------------------------------------------------------------------------------


def test_a_disk_that_is_nearly_full_is_told_in_words_and_once_for_each_file_system(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    enough, too_much = Disk([tmp_path, tmp_path / "other"], 1), Disk([tmp_path], 1 << 60)
    assert (enough.has_room(), enough.shortage(), list(enough.free())) == (True, "", [tmp_path])
    assert not too_much.has_room()
    assert "deliveries wait until there is room again" in too_much.shortage()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
def test_deliveries_wait_for_room_and_go_on_by_themselves(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], check=False).returncode:
        pytest.skip("mounting is not permitted here")
    platform, random_ = Platform(), random.Random(2)
    importer = None
    try:
        (disk / "ballast").write_bytes(bytes(40 << 20))
        importer = start(disk, platform.url, disk_reserve=32 << 20)
        log = disk / "log"
        assert wait_until(lambda: log.exists() and "ready: inbox" in log.read_text(), 60, importer)
        port = int(log.read_text().rpartition("status on http://127.0.0.1:")[2].partition("/")[0])
        data = instance(random_, uid(random_), uid(random_))
        assert wait_until(lambda: (disk / "inbox" / "north").is_dir(), 60, importer)
        deliver(disk / "inbox" / "north" / "study", {"0.dcm": data})
        assert wait_until(lambda: list(disk.glob("inbox/.spool/north/*")), 60, importer)
        assert wait_until(lambda: upload(port, [data]).status == 507, 60, importer)
        answer = upload(port, [data])
        assert b"nearly full" in answer.body
        assert "Retry-After" not in answer.headers
        metrics = get(port, "/metrics")
        assert "imaging_importer_waits_for_disk 1.0" in metrics
        told = json.loads(get(port, "/status.json", "*"))["services"]["disk"]
        assert "GB stay reserved: deliveries wait" in told
        assert json.loads(get(port, "/status.json", "north"))["services"]["disk"] == "nearly full: deliveries wait"
        assert platform.uploads == 0
        (disk / "ballast").unlink()
        assert wait_until(lambda: list(disk.glob("processed/north/*/study/0.dcm")), 60, importer)
        assert upload(port, [data]).status == 200
        assert "imaging_importer_waits_for_disk 0.0" in get(port, "/metrics")
    finally:
        if importer:
            importer.kill()
            importer.wait()
        platform.close()
        subprocess.run(["umount", disk], check=True)


def get(port: int, path: str, clinics: str = "") -> str:
    headers = {"Authorization": f"Bearer {UPLOAD_SECRET}", "X-Clinics": clinics}
    with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)) as answer:
        return answer.read().decode()


# --- names ------------------------------------------------------------------------------------------------------------

EVIL = "\x1b[2J\u202egpj\nroot: all is well" + os.fsdecode(b"\xff")


def test_evil_names_reach_nobody_as_they_are(root: Path) -> None:
    """Status, REASON.txt, report.json and the log show them as escapes; where the files lie they keep their names."""
    delivery = Delivery(root, EVIL, {EVIL: b"x", "Қанат.dcm": b"x"})
    delivery.list()
    failed = [FileOutcome(name, Outcome.FAILED, "damaged", EVIL) for name in (EVIL, "Қанат.dcm")]
    delivery.journal.write_outcomes(delivery.job.id, failed)
    delivery.journal.trouble(delivery.job.id, f"cannot move {EVIL}")
    inbox = SimpleNamespace(waiting={}, further={}, unknown={}, last_scan=0.0)
    told = [as_text(collect(inbox, delivery.journal, [], {"orthanc": EVIL}, {}))]
    delivery.end()
    told.append(as_text(collect(inbox, delivery.journal, [], {}, {})))
    (folder,) = root.glob("failed/north/*/*")
    assert folder.name == EVIL
    told.append((folder / "REASON.txt").read_text())
    told += [
        line for failure in json.loads((folder / "report.json").read_text())["failures"] for line in failure.values()
    ]
    assert "Қанат.dcm" in told[2]
    for text in told:
        assert not set(text) & {"\x1b", "\u202e"}
        assert not any(line.startswith("root:") for line in text.split("\n"))
        text.encode()
