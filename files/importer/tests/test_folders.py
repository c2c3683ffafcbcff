"""Real folders, as people and programs copy them: each case in an inbox of its own, with a running importer."""

from __future__ import annotations

import errno
import os
import random
import time
import urllib.request
from pathlib import Path

import pytest
from campaign import Campaign
from deliveries import deliver, instance, report, sop_uid, uid
from imaging_importer import tree
from imaging_importer.reasons import SENTENCES
from importer_process import UPLOAD_SECRET, Nursery, wait_until
from real_files import IMPORTED, SAME_IMAGE, expected, real_files

LONG = bool(os.environ.get("IMAGING_LONG"))


@pytest.fixture
def nursery():
    with Nursery() as made:
        yield made


@pytest.fixture
def campaign(tmp_path: Path, registry):
    made = Campaign(tmp_path, random.Random(5), registry)
    yield made
    made.platform.close()


def image(campaign: Campaign) -> bytes:
    data = instance(campaign.random, uid(campaign.random), uid(campaign.random))
    campaign.delivered.append(data)
    return data


def log_of(campaign: Campaign) -> str:
    """The importer's log. The importer opens the file itself, a moment after its start."""
    log = campaign.root / "log"
    return log.read_text() if log.exists() else ""


def test_every_real_file_ends_as_the_table_says(campaign: Campaign, nursery: Nursery) -> None:
    """All in one folder; of one image in several encodings one is stored, and the others are told so."""
    files = {name: path.read_bytes() for name, path in real_files().items()}
    campaign.delivered += files.values()
    deliver(campaign.root / "inbox" / "north" / "all", files)
    importer = nursery.start(**campaign.settings, patience=3600)
    assert wait_until(campaign.settled, 120, importer)
    failed = report(campaign.root, "north", "all")
    stored = set(campaign.platform.md5s())
    for name, path in real_files().items():
        outcome = expected(name, path)
        if outcome == IMPORTED:
            assert sop_uid(files[name]) in stored, name
            assert failed.pop(name, None) in SAME_IMAGE | {None}, name
        elif outcome == "packed-kind":  # unpacked in a folder, and the image in it is one of the others
            assert failed.pop(f"{name}/{Path(name).stem}", None) in SAME_IMAGE | {None}, name
        elif outcome in SENTENCES:
            assert failed.pop(name) == outcome, name
    assert failed == {}
    campaign.check_ledger()


def test_names_in_any_bytes(campaign: Campaign, nursery: Nursery) -> None:
    names = [
        b"new\nline",
        b"caf\xe9",
        b"\xff\xfe",
        "ünïcode 医院".encode(),
        b" lead",
        b"trail ",
        b"-rf",
        b"a" * 255,
        b"%s\t;$(x)'\"",
    ]
    inbox = os.fsencode(campaign.root / "inbox" / "north")
    for name in names:
        for directory in (inbox + b"/" + name, inbox + b"/" + name + b"/" + name):
            Path(os.fsdecode(directory)).mkdir(exist_ok=True)
            with open(directory + b"/f" + name[:200], "wb") as file:  # noqa: PTH123 - no text path can say this name
                file.write(image(campaign))
    importer = nursery.start(**campaign.settings)
    assert wait_until(campaign.settled, 120, importer)
    campaign.check_end()
    settled = {os.fsencode(path.name) for path in (campaign.root / "processed").glob("*/*/*")}
    assert settled == set(names)
    assert not list((campaign.root / "failed").glob("*/*/*"))


@pytest.mark.skipif(not LONG, reason="IMAGING_LONG=1: takes a minute")
def test_ten_thousand_files_in_one_folder(campaign: Campaign, nursery: Nursery) -> None:
    """Few of them images, so that it is the number that counts."""
    folder = campaign.root / "inbox" / "north" / "many"
    folder.mkdir()
    for number in range(10_000):
        (folder / f"{number:05}.txt").write_bytes(b"%d" % number)
    (folder / "image").write_bytes(image(campaign))
    importer = nursery.start(**campaign.settings, batch_count=500)
    assert wait_until(campaign.settled, 120, importer)
    (settled,) = (campaign.root / "processed").glob("*/*/many")
    assert len(list(settled.iterdir())) == 10_002  # report.json names what is kept


def test_a_loose_file_that_is_still_being_written_waits(campaign: Campaign, nursery: Nursery) -> None:
    """The copy stalls for many cooldowns, then goes on."""
    data = image(campaign)
    importer = nursery.start(**campaign.settings, patience=3600)
    with (campaign.root / "inbox" / "north" / "slow.dcm").open("wb") as file:
        file.write(data[:1000])
        file.flush()
        assert wait_until(lambda: "open for writing" in status(campaign, importer), 120, importer)
        file.write(data[1000:])
    assert wait_until(campaign.settled, 120, importer)
    campaign.check_end()
    assert sop_uid(data) in campaign.platform.md5s()


@pytest.mark.parametrize("name", [".study.Xy12", "study.part", "study.filepart"])
def test_a_folder_under_a_name_of_an_upload_waits_until_it_is_renamed(
    campaign: Campaign, nursery: Nursery, name: str
) -> None:
    north = campaign.root / "inbox" / "north"
    deliver(north / name, {"0.dcm": image(campaign)})
    importer = nursery.start(**campaign.settings, patience=3600)
    assert wait_until(lambda: "unfinished" in status(campaign, importer), 120, importer)
    (north / name).rename(north / "study")
    assert wait_until(campaign.settled, 120, importer)
    assert list((campaign.root / "processed" / "north").glob("*/study/0.dcm"))


def test_a_folder_that_changes_while_it_is_imported_is_read_again(campaign: Campaign, nursery: Nursery) -> None:
    """A sender on the network still holds a file open and writes on after the folder was taken."""
    first, second = image(campaign), image(campaign)
    campaign.delivered.remove(first)
    folder = campaign.root / "inbox" / "north" / "study"
    deliver(folder, {"0.dcm": first, "1.dcm": b""})
    with (folder / "1.dcm").open("r+b") as file:
        campaign.platform.faults.delay = 1
        importer = nursery.start(**campaign.settings, patience=0.3)  # no lease is asked for after that
        assert wait_until(lambda: campaign.platform.uploads, 120, importer)
        file.write(second)
    campaign.platform.faults.delay = 0
    campaign.delivered.append(first)
    assert wait_until(campaign.settled, 120, importer)
    campaign.check_end()
    assert {sop_uid(first), sop_uid(second)} == set(campaign.platform.md5s())


def test_a_file_that_vanishes_after_it_was_stored_holds_up_nothing(campaign: Campaign, nursery: Nursery) -> None:
    folder = campaign.root / "inbox" / "north" / "study"
    deliver(folder, {f"{number}.dcm": image(campaign) for number in range(9)})
    folder_descriptor = os.open(folder, os.O_RDONLY)
    campaign.platform.faults.delay = 1
    importer = nursery.start(**campaign.settings)
    assert wait_until(lambda: campaign.platform.uploads, 120, importer)
    os.unlink("0.dcm", dir_fd=folder_descriptor)
    os.close(folder_descriptor)
    campaign.platform.faults.delay = 0
    assert wait_until(campaign.settled, 120, importer)
    assert len(campaign.platform.instances) == 9


def test_without_inotify_the_scan_finds_everything(campaign: Campaign, nursery: Nursery) -> None:
    """As on NFS and SMB, where other machines' writes raise no event."""
    importer = nursery.start(**campaign.settings, deaf=True)
    for number in range(3):
        deliver(campaign.root / "inbox" / "north" / f"{number}" / "deep", {"0.dcm": image(campaign)})
    assert wait_until(campaign.settled, 120, importer)
    campaign.check_end()
    assert len(campaign.platform.instances) == 3


def test_an_overflow_of_inotify_is_made_up_for_by_a_scan(campaign: Campaign, nursery: Nursery) -> None:
    limit = Path("/proc/sys/fs/inotify/max_queued_events")
    before = limit.read_text()
    try:
        limit.write_text("16")
    except OSError:
        pytest.skip("the limit can be set by root alone")
    try:
        importer = nursery.start(**campaign.settings, scan_interval=3600)
        assert wait_until(lambda: "ready" in log_of(campaign), 120, importer)
        importer.send_signal(19)  # SIGSTOP: nobody reads the events
        for number in range(20):
            deliver(campaign.root / "inbox" / "north" / f"{number}", {"0.dcm": image(campaign)})
        importer.send_signal(18)
        assert wait_until(campaign.settled, 120, importer)
    finally:
        limit.write_text(before)
    campaign.check_end()
    assert len(campaign.platform.instances) == 20


def test_one_clinics_unreadable_folder_does_not_stop_the_others(tmp_path: Path, monkeypatch) -> None:
    from imaging_importer.ways_in.folders import Inbox

    for clinic in ("north", "south"):
        (tmp_path / clinic / "study").mkdir(parents=True)
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "north":
            raise PermissionError(errno.EACCES, "stale mount")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    inbox = Inbox(tmp_path, None, lambda: {"north", "south"}, lambda: None, 60, 60, 3600)
    inbox._scan(time.monotonic())
    assert [path.parent.name for path in inbox.waiting] == ["south"]


def test_ten_thousand_waiting_folders_cost_little(tmp_path: Path) -> None:
    """A scan takes under 2 s, an idle importer under 2 % of a processor."""
    from imaging_importer.ways_in.folders import Inbox

    for number in range(10_000):
        (tmp_path / "north" / f"{number}").mkdir(parents=True)
    inbox = Inbox(tmp_path, None, lambda: {"north"}, lambda: None, 3600, 30, 3600)
    inbox.tick()
    inbox.tick()
    began, used, scans = time.monotonic(), time.process_time(), []
    inbox._scan(time.monotonic())
    scans.append(time.process_time() - used)
    used = time.process_time()
    for _ in range(29):
        inbox.tick()
    idle = (time.process_time() - used + scans[0]) / 30  # a scan every 30 s, a tick every second
    print(f"scan {scans[0]:.2f} s of processor ({time.monotonic() - began:.2f} s), idle {100 * idle:.2f} %")
    assert scans[0] < 2
    assert idle < 0.02


@pytest.mark.skipif(not LONG, reason="IMAGING_LONG=1: writes 4 GB")
def test_memory_stays_flat_over_two_gigabytes(campaign: Campaign, nursery: Nursery) -> None:
    """One image of 1 GB and a thousand of 1 MB; the importer's own memory, at its highest."""
    folder = campaign.root / "inbox" / "north" / "large"
    folder.mkdir()
    small = instance(campaign.random, uid(campaign.random), uid(campaign.random))
    for number, size in enumerate([1 << 30, *[1 << 20] * 1000]):
        head = small[: small.index(b"\xe0\x7f\x10\x00OW")]
        head = head.replace(sop_uid(small).encode(), uid(campaign.random)[: len(sop_uid(small))].encode())
        with (folder / str(number)).open("wb") as file:
            file.write(head + b"\xe0\x7f\x10\x00OW\0\0" + size.to_bytes(4, "little"))
            file.truncate(file.tell() + size)
    importer = nursery.start(**campaign.settings, batch_bytes=64 << 20, batch_count=100, limits=[2 << 30] * 2)
    highest = 0

    def done() -> bool:
        nonlocal highest
        lines = Path(f"/proc/{importer.pid}/status").read_text().splitlines()
        highest = max(highest, *(int(line.split()[1]) for line in lines if line.startswith("VmHWM")))
        return campaign.settled()

    assert wait_until(done, 600, importer), (campaign.root / "log").read_text()[-2000:]
    print(f"highest resident memory: {highest / 1024:.0f} MB")
    assert highest < 200 * 1024


def status(campaign: Campaign, importer) -> str:
    """The status as JSON text; empty before it is served."""
    log = log_of(campaign)
    _, found, rest = log.rpartition("status on http://127.0.0.1:")
    if not found:
        return ""
    url = f"http://127.0.0.1:{rest.partition('/')[0]}/status.json"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {UPLOAD_SECRET}", "X-Clinics": "*"})
    with urllib.request.urlopen(request) as answer:
        return answer.read().decode()


def test_a_copy_onto_another_file_system_is_whole_or_absent(tmp_path: Path, monkeypatch) -> None:
    """rename answers EXDEV; a copy that ends half-way leaves the source, one that was complete is not made again."""
    source, target = tmp_path / "source", tmp_path / "there" / "target"
    deliver(source, {"a/b": b"1", "c": b"2"})
    (source / "link").symlink_to("/etc/passwd")
    rename = Path.rename

    def across(self, other):
        if self == source:
            raise OSError(errno.EXDEV, "another file system")
        return rename(self, other)

    monkeypatch.setattr(Path, "rename", across)
    monkeypatch.setattr(tree, "_copy_file", fail_at("c", tree._copy_file))
    with pytest.raises(OSError, match="full"):
        tree.move(source, target)
    assert not target.exists()
    assert (source / "a" / "b").read_bytes() == b"1"
    monkeypatch.undo()
    monkeypatch.setattr(Path, "rename", across)
    tree.move(source, target)
    assert not source.exists()
    assert (target / "a" / "b").read_bytes() == b"1"
    assert (target / "link").is_symlink()
    assert [path.name for path in target.parent.iterdir()] == ["target"]


def fail_at(name: str, copy):
    def failing(source: str, target: str) -> None:
        if Path(source).name == name:
            raise OSError(errno.ENOSPC, "full")
        copy(source, target)

    return failing
