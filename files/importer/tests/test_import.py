"""Real folders through a running importer, a fake Orthanc and registry, and the ledger afterwards."""

import json
import os
import random
import re
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from deliveries import changed, contents, deliver, instance, report, sample, sop_uid, study_uid, uid
from importer_fakes import Platform
from importer_process import COOLDOWN, UPLOAD_SECRET, start, wait_until
from odd_pixels import CASES

STORED_ONLY = ("processed",)


class World:
    """A platform with a running importer."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.platform = Platform()
        for name in ("inbox", "processed", "failed"):
            (root / name).mkdir()
        self.process = start(root, self.platform.url)
        assert wait_until((root / "inbox" / "north").is_dir, 120, self.process), self.log()
        self.random = random.Random(1)

    def log(self) -> str:
        return (self.root / "log").read_text()

    def inbox(self, clinic: str, folder: str = "") -> Path:
        return self.root / "inbox" / clinic / folder

    def settled(self, kind: str, clinic: str, folder: str) -> Path | None:
        return next((self.root / kind / clinic).glob(f"*/{folder}"), None)

    def wait_for(self, kind: str, clinic: str, folder: str, timeout: float = 15) -> Path:
        def done() -> bool:
            """Settled, and its place in the spool given up, which comes after the report."""
            if self.settled(kind, clinic, folder) is None:
                return False
            return not any((self.root / "inbox" / ".spool" / clinic).iterdir())

        assert wait_until(done, timeout, self.process), self.log()
        return self.settled(kind, clinic, folder)

    def series(self, count: int, **options: str) -> dict[str, bytes]:
        study, series = uid(self.random), uid(self.random)
        return {f"{number}.dcm": instance(self.random, study, series, **options) for number in range(count)}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("world"))
    yield world
    world.process.send_signal(signal.SIGTERM)
    started = time.monotonic()
    assert world.process.wait(10) == 0, world.log()
    assert time.monotonic() - started < 10
    world.platform.close()


def test_what_cannot_be_displayed_is_stored_and_told_everywhere(world: World) -> None:
    good = world.series(1)["0.dcm"]
    bad = CASES["JPEG in fragments without a table"][0]()
    deliver(world.inbox("north", "undisplayable"), {"good": good, "bad": bad})
    world.wait_for("processed", "north", "undisplayable")
    assert {sop_uid(good), sop_uid(bad)} <= set(world.platform.md5s())
    noted = {image: code for (_, image), code in world.platform.undisplayable.items()}
    assert noted == {sop_uid(bad): "fragments"}
    assert wait_until(lambda: "undisplayable" in json.dumps(status(world)["done_today"]), 120)
    (row,) = [row for row in status(world)["done_today"] if row["folder"] == "undisplayable"]
    assert (row["stored"], row["notes"]) == (2, {"not-displayable": 1})
    assert row["remarks"] == "1 stored, but cannot be displayed"
    assert 'imaging_importer_notes_total{clinic="north",note="not-displayable"} 1' in get(world, "/metrics")


def test_a_folder_is_stored_recorded_and_settled(world: World) -> None:
    files = world.series(20)
    deliver(world.inbox("north", "ct"), files)
    folder = world.wait_for("processed", "north", "ct")
    assert sorted(path.name for path in folder.iterdir()) == sorted(files)
    assert {sop_uid(data) for data in files.values()} <= set(world.platform.md5s())
    study = next(identity[1] for identity in world.platform.identity.values() if identity[3] == sop_uid(files["0.dcm"]))
    assert world.platform.owner[study] == "north"
    assert world.platform.recorded[study]["00201208"]["Value"] == [20]
    assert not world.settled("failed", "north", "ct")


def test_the_registry_is_told_of_a_studys_largest_instance(world: World) -> None:
    files, other = world.series(2), world.series(1)
    files["1.dcm"] = changed(files["1.dcm"])
    deliver(world.inbox("north", "sizes"), {**files, "other.dcm": other["0.dcm"]})
    world.wait_for("processed", "north", "sizes")
    assert len(files["1.dcm"]) > len(files["0.dcm"])
    for largest in (files["1.dcm"], other["0.dcm"]):
        study = next(identity[1] for identity in world.platform.identity.values() if identity[3] == sop_uid(largest))
        assert world.platform.largest[study] == len(largest)


def test_nothing_is_sent_before_the_study_is_claimed(world: World) -> None:
    files = world.series(1)
    deliver(world.inbox("north", "order"), files)
    world.wait_for("processed", "north", "order")
    course = world.platform.course[study_uid(files["0.dcm"])]
    assert course[:3] == ["log_upload", "claim_study", "upload"]


def test_a_study_of_another_clinic_is_refused_and_nothing_of_it_is_sent(world: World) -> None:
    files = world.series(3)
    deliver(world.inbox("north", "mine"), files)
    world.wait_for("processed", "north", "mine")
    before, uploads = world.platform.md5s(), world.platform.uploads
    stolen = {f"new-{name}": data for name, data in files.items()}
    deliver(world.inbox("south", "stolen"), stolen)
    folder = world.wait_for("failed", "south", "stolen")
    assert set(report(world.root, "south", "stolen").values()) == {"not-accepted"}
    assert "north" not in (folder / "REASON.txt").read_text()
    assert (world.platform.md5s(), world.platform.uploads) == (before, uploads)


def test_the_same_folder_again_is_recognised(world: World) -> None:
    files = world.series(3)
    deliver(world.inbox("north", "again"), files)
    world.wait_for("processed", "north", "again")
    before = world.platform.md5s()
    deliver(world.inbox("north", "again"), files)
    world.wait_for("processed", "north", "again.2")
    assert world.platform.md5s() == before


def test_other_bytes_under_a_known_instance_are_refused_and_the_stored_one_stays(world: World) -> None:
    files = world.series(2)
    deliver(world.inbox("north", "first"), files)
    world.wait_for("processed", "north", "first")
    before = world.platform.md5s()
    deliver(world.inbox("north", "second"), {"0.dcm": changed(files["0.dcm"]), "1.dcm": files["1.dcm"]})
    world.wait_for("failed", "north", "second")
    assert report(world.root, "north", "second") == {"0.dcm": "conflicting-bytes"}
    assert world.platform.md5s() == before
    assert [path.name for path in world.settled("processed", "north", "second").iterdir()] == ["1.dcm"]


def test_a_second_patient_in_one_study_is_refused(world: World) -> None:
    study, series = uid(world.random), uid(world.random)
    files = {
        "0.dcm": instance(world.random, study, series, "P1"),
        "1.dcm": instance(world.random, study, series, "P2"),
    }
    deliver(world.inbox("north", "patients"), files)
    world.wait_for("failed", "north", "patients")
    assert report(world.root, "north", "patients") == {"1.dcm": "patient-mismatch"}


def test_what_is_not_an_image_is_told_apart(world: World) -> None:
    """Companions stay with the images; what cannot be imported is named with its reason; every file is somewhere."""
    image = world.series(1)["0.dcm"]
    files = {
        "deep/er/image.dcm": image,
        "notes.txt": b"notes",
        "DICOMDIR": sample(
            "DICOMDIR-nooffset" if sample("DICOMDIR-nooffset").exists() else "dicomdirtests/DICOMDIR"
        ).read_bytes(),
        "empty.dcm": b"",
        "cut.dcm": image[:-100],
        "program.dcm": b"MZ" + image[2:],
        "name with spaces \u00e4.dcm": world.series(1)["0.dcm"],
        ".DS_Store": b"litter",
    }
    folder = world.inbox("north", "mixed")
    deliver(folder, files)
    (folder / "link.dcm").symlink_to("/etc/passwd")
    os.mkfifo(folder / "pipe")
    outside = world.root / "outside"
    outside.write_bytes(b"secret")
    os.link(outside, folder / "hard.dcm")
    bytes_name = os.fsencode(folder) + b"/\xff\xfe.dcm"
    with open(bytes_name, "wb") as file:  # noqa: PTH123 - no text path can say this name
        file.write(world.series(1)["0.dcm"])
    world.wait_for("failed", "north", "mixed")
    assert report(world.root, "north", "mixed") == {
        "empty.dcm": "empty-file",
        "cut.dcm": "truncated",
        "program.dcm": "executable-preamble",
        "link.dcm": "symbolic-link",
        "pipe": "device-file",
        "hard.dcm": "hard-link",
    }
    processed = world.settled("processed", "north", "mixed")
    kept = sorted(os.fsencode(path.relative_to(processed)) for path in processed.rglob("*") if path.is_file())
    assert kept == sorted(
        [
            b"deep/er/image.dcm",
            b"notes.txt",
            b"DICOMDIR",
            "name with spaces \u00e4.dcm".encode(),
            b".DS_Store",
            b"\xff\xfe.dcm",
            b"report.json",
        ]
    )
    for place in ("processed", "failed"):
        told = json.loads((world.settled(place, "north", "mixed") / "report.json").read_text())
        kept_as = {entry["path"]: entry["reason"] for entry in told["kept"]}
        assert kept_as == {"notes.txt": "not-dicom", "DICOMDIR": "dicomdir", ".DS_Store": "not-dicom"}
        assert told["files"] == {"stored": 3, "kept": 3, "failed": 6}
        assert {failure["path"] for failure in told["failures"]} == report(world.root, "north", "mixed").keys()
        assert {"not-dicom", "dicomdir", "truncated"} < told["meaning"].keys()
    assert outside.read_bytes() == b"secret"


def test_a_folder_without_any_image_fails_with_that_reason(world: World) -> None:
    deliver(world.inbox("north", "texts"), {"a.txt": b"a", "REASON.txt": b"the sender's own"})
    folder = world.wait_for("failed", "north", "texts")
    assert report_reasons(folder) == ["no-dicom"]
    assert (folder / "REASON.txt").read_bytes() == b"the sender's own"
    assert "no-dicom" in (folder / "REASON.2.txt").read_text()


def report_reasons(folder: Path) -> list[str]:
    return [failure["reason"] for failure in json.loads((folder / "report.json").read_text())["failures"]]


def test_an_empty_folder_stays_where_it_is(world: World) -> None:
    world.inbox("north", "empty").mkdir()
    time.sleep(5 * COOLDOWN)
    assert world.inbox("north", "empty").is_dir()
    deliver(world.inbox("north", "empty"), world.series(1))
    world.wait_for("processed", "north", "empty")


def test_files_directly_in_the_clinic_folder_are_a_delivery(world: World) -> None:
    files = world.series(2)
    deliver(world.inbox("south"), files)
    folder = world.wait_for("processed", "south", "loose-files")
    assert {path.name: path.read_bytes() for path in folder.glob("*.dcm")} == files
    assert {sop_uid(data) for data in files.values()} <= set(world.platform.md5s())
    assert {world.platform.owner[study_uid(data)] for data in files.values()} == {"south"}
    assert [path.name for path in world.inbox("south").iterdir()] == []


def test_a_folder_of_an_unknown_clinic_waits_until_there_is_that_clinic(world: World) -> None:
    deliver(world.inbox("west", "early"), world.series(1))
    time.sleep(5 * COOLDOWN)
    assert world.inbox("west", "early").is_dir()
    assert status(world)["unknown_clinics"] == {"west": 1}
    world.platform.clinics.append("west")
    world.wait_for("processed", "west", "early", timeout=20)


def test_an_upload_that_still_runs_is_left_alone(world: World) -> None:
    """By name, by an open file, by growing; nothing is imported twice, and the rest follows."""
    files = world.series(3)
    folder = world.inbox("north", "running")
    deliver(folder, {"0.dcm": files["0.dcm"], "1.dcm.part": b"x"})
    time.sleep(3 * COOLDOWN)
    assert folder.is_dir()
    (folder / "1.dcm.part").unlink()
    with (folder / "1.dcm").open("wb") as file:
        for start_ in range(0, len(files["1.dcm"]), len(files["1.dcm"]) // 5):
            file.write(files["1.dcm"][start_ : start_ + len(files["1.dcm"]) // 5])
            file.flush()
            time.sleep(COOLDOWN)
        assert folder.is_dir()
    world.wait_for("processed", "north", "running")
    deliver(folder, {"2.dcm": files["2.dcm"]})
    world.wait_for("processed", "north", "running.2")
    assert {sop_uid(data) for data in files.values()} <= set(world.platform.md5s())


def test_an_unfinished_upload_is_given_up_at_last(world: World) -> None:
    deliver(world.inbox("north", "broken-off"), {**world.series(1), "1.dcm.part": b"x"})
    world.wait_for("failed", "north", "broken-off")
    assert report(world.root, "north", "broken-off") == {"1.dcm.part": "upload-unfinished"}


def test_several_studies_in_one_folder_are_all_recorded(world: World) -> None:
    files = {f"{number}/{name}": data for number in range(3) for name, data in world.series(4).items()}
    deliver(world.inbox("north", "three"), files)
    world.wait_for("processed", "north", "three")
    uids = {
        identity[1] for identity in world.platform.identity.values() if identity[3] in set(map(sop_uid, files.values()))
    }
    assert len(uids & set(world.platform.recorded)) == 3


def test_orthanc_being_away_delays_and_nothing_else(world: World) -> None:
    world.platform.faults.down = True
    deliver(world.inbox("north", "away"), world.series(2))
    assert wait_until(lambda: any(job["trouble"] for job in status(world)["importing"]), 120)
    assert health(world) == 503
    world.platform.faults.down = False
    world.wait_for("processed", "north", "away")
    assert wait_until(lambda: health(world) == 200, 120)


def test_a_failed_folder_can_be_delivered_again(world: World) -> None:
    from imaging_importer.settle import put_back

    deliver(world.inbox("north", "retried"), {"image.dcm": world.series(1)["0.dcm"][:-50]})
    folder = world.wait_for("failed", "north", "retried")
    (folder / "image.dcm").write_bytes(world.series(1)["0.dcm"])
    assert put_back(folder, world.root / "failed", world.root / "inbox") == world.inbox("north", "retried")
    processed = world.wait_for("processed", "north", "retried")
    assert [path.name for path in processed.iterdir()] == ["image.dcm"]


def test_a_study_deleted_in_orthanc_leaves_the_registry(world: World) -> None:
    files = world.series(2)
    deliver(world.inbox("north", "deleted"), files)
    world.wait_for("processed", "north", "deleted")
    study = next(identity[1] for identity in world.platform.identity.values() if identity[3] == sop_uid(files["0.dcm"]))
    time.sleep(6)  # the reconciler has to have seen it
    world.platform.delete_study(study)
    assert wait_until(lambda: study not in world.platform.owner, 120)


def test_two_importers_on_one_inbox(world: World) -> None:
    second = start(world.root, world.platform.url)
    assert second.wait(15) == 1
    assert "another importer works on" in world.log()


def test_status_and_metrics_tell_what_happened(world: World) -> None:
    deliver(world.inbox("south", "told"), {**world.series(1), "empty.dcm": b""})
    world.wait_for("failed", "south", "told")
    assert wait_until(lambda: any(delivery["folder"] == "told" for delivery in status(world)["failed"]), 120)
    (told,) = [delivery for delivery in status(world)["failed"] if delivery["folder"] == "told"]
    assert "The file is empty" in told["why"]
    metrics = get(world, "/metrics")
    assert 'imaging_importer_failures_total{clinic="south",reason="empty-file"}' in metrics
    assert 'imaging_importer_files_total{clinic="south",outcome="stored"}' in metrics


def test_a_clinic_sees_its_own_deliveries_only(world: World) -> None:
    deliver(world.inbox("north", "north-only"), {"empty.dcm": b""})
    world.wait_for("failed", "north", "north-only")
    assert wait_until(lambda: "north-only" in json.dumps(status(world, "north")), 120)
    for clinics in ("south", ""):
        theirs = status(world, clinics)
        lists = ("waiting", "importing", "done_today", "failed")
        assert {row["clinic"] for part in lists for row in theirs[part]} <= {clinics}
        assert theirs["unknown_clinics"] == {}


def test_other_users_of_the_host_learn_how_many_and_not_which(world: World) -> None:
    deliver(world.inbox("south", "Smith^John"), {"empty.dcm": b""})
    world.wait_for("failed", "south", "Smith^John")
    assert wait_until(lambda: "Smith" in json.dumps(status(world)["failed"]), 120)
    counts = get(world, "/")
    assert "orthanc: ok\nregistry: ok\n" in counts
    assert re.search(r"^Failed in the last seven days: [1-9]", counts, re.MULTILINE)
    assert not any(word in counts for word in ("Smith", "south", "empty"))


@pytest.mark.parametrize("path", ["/status.json", "/dicom-web/studies"])
def test_other_users_of_the_host_learn_nothing(world: World, path: str) -> None:
    for secret in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": UPLOAD_SECRET}):
        with pytest.raises(urllib.error.HTTPError) as refusal:
            get(world, path, **{"X-Clinics": "*"}, **secret)
        assert refusal.value.code == 403


def test_the_ledger_balances(world: World) -> None:
    """Everything that the tests above delivered is in processed/ or failed/, and nowhere twice."""
    inbox = [path for path in (world.root / "inbox").rglob("*") if path.is_file() and ".spool" not in path.parts]
    assert inbox == []
    assert contents(world.root / "inbox") == []


def port(world: World) -> str:
    marker = "status on http://127.0.0.1:"
    return world.log().partition(marker)[2].partition("/")[0]


def get(world: World, path: str, **headers: str) -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{port(world)}{path}", headers=headers)
    with urllib.request.urlopen(request) as answer:
        return answer.read().decode()


def status(world: World, clinics: str = "*") -> dict:
    secret = {"Authorization": f"Bearer {UPLOAD_SECRET}", "X-Clinics": clinics}
    return json.loads(get(world, "/status.json", **secret))


def health(world: World) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port(world)}/health/ready") as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
