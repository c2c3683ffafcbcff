"""Uploads: the stored images, the answers, and the remains when an upload breaks off."""

import http.client
import json
import os
import random
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from deliveries import changed, deliver, instance, sample, sop_uid, uid
from imaging_importer import failpoints
from imaging_importer.journal import Journal
from imaging_importer.ways_in import stow
from importer_fakes import Platform
from importer_process import UPLOAD_SECRET, start, wait_until
from uploads import CALLER, multipart, upload

DUPLICATE, MISMATCH, FAILURE, UNREADABLE = 0x0111, 0xA900, 0x0110, 0xC000


class House:
    """A running importer, with nothing coming through its inbox."""

    def __init__(self, root: Path, **settings: object) -> None:
        self.root = root
        self.settings = settings
        self.platform = Platform()
        self.random = random.Random(1)
        self.start()

    def start(self, failpoint: str = "") -> None:
        before = self.log().count("ready: inbox")
        self.process = start(self.root, self.platform.url, failpoint, **self.settings)
        assert wait_until(lambda: self.log().count("ready: inbox") > before, 120, self.process), self.log()
        self.port = int(self.log().rpartition("status on http://127.0.0.1:")[2].partition("/")[0])
        # It takes uploads once it has asked Orthanc and the registry.
        assert wait_until(lambda: upload(self.port, body=b"", Content_Type="x/y").status == 415, 120), self.log()

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(10) == 0, self.log()

    def log(self) -> str:
        log = self.root / "log"
        return log.read_text() if log.exists() else ""

    def series(self, count: int) -> list[bytes]:
        study, series = uid(self.random), uid(self.random)
        return [instance(self.random, study, series) for _ in range(count)]

    def study(self, data: bytes) -> str:
        (found,) = {key[1] for key in self.platform.identity.values() if key[3] == sop_uid(data)}
        return found

    def spooled(self) -> list[Path]:
        """Every file of the spool that is not the importer's own."""
        spool = self.root / "inbox" / ".spool"
        return [path for path in spool.rglob("*") if path.is_file() and path.name not in (".lock", ".caller.json")]

    def settled(self, kind: str) -> list[Path]:
        return [path for path in (self.root / kind).rglob("*.dcm") if path.is_file()]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    house = House(tmp_path_factory.mktemp("house"))
    yield house
    house.stop()
    house.platform.close()


def test_when_the_answer_comes_the_images_are_stored_stamped_owned_visible_and_in_the_access_log(house: House) -> None:
    files = house.series(9)
    answer = upload(house.port, files)
    study = house.study(files[0])
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/dicom+json")
    assert answer.stored == [sop_uid(data) for data in files]
    assert (answer.failed, answer.unnamed) == ({}, [])
    assert house.platform.recorded[study]["00201208"]["Value"] == [9]
    assert house.platform.owner[study] == "north"
    assert house.platform.access_log.count((CALLER["username"], "north", study, None)) == 1
    body = json.loads(answer.body)
    assert body["00081190"]["Value"] == [f"https://imaging.test/dicom-web/studies/{study}"]
    (url,) = body["00081199"]["Value"][0]["00081190"]["Value"]
    assert url.startswith(f"https://imaging.test/dicom-web/studies/{study}/series/")
    assert url.endswith(f"/instances/{sop_uid(files[0])}")
    assert wait_until(lambda: len(house.settled("processed")) >= 9, 120)
    assert wait_until(lambda: not house.spooled(), 120)


def test_the_same_upload_again_is_recognised(house: House) -> None:
    files = house.series(3)
    assert upload(house.port, files).status == 200
    before = house.platform.md5s()
    answer = upload(house.port, files)
    assert (answer.status, len(answer.stored)) == (200, 3)
    assert house.platform.md5s() == before


def test_another_clinics_study_is_a_conflict_and_nothing_of_it_is_sent(house: House) -> None:
    files = house.series(2)
    assert upload(house.port, files, "north").status == 200
    uploads = house.platform.uploads
    foreign = upload(house.port, [instance(house.random, house.study(files[0]), uid(house.random))], "south")
    assert foreign.status == 409
    assert list(foreign.failed.values()) == [FAILURE]
    assert house.platform.uploads == uploads
    assert b"north" not in foreign.body
    assert "north" not in str(foreign.headers)


def test_other_bytes_under_a_known_instance_are_refused_and_the_rest_is_stored(house: House) -> None:
    files = house.series(2)
    assert upload(house.port, files[:1]).status == 200
    before = house.platform.md5s()[sop_uid(files[0])]
    answer = upload(house.port, [changed(files[0]), files[1]])
    assert (answer.status, answer.stored, answer.failed) == (202, [sop_uid(files[1])], {sop_uid(files[0]): DUPLICATE})
    assert "conflicting-bytes" in answer.headers["Warning"]
    assert house.platform.md5s()[sop_uid(files[0])] == before
    assert upload(house.port, [changed(files[0])]).status == 409


def test_what_is_no_image_is_told_apart(house: House) -> None:
    (image,) = house.series(1)
    assert (upload(house.port, [image[:-100]]).status, upload(house.port, [b"", b"text"]).status) == (400, 400)
    program = upload(house.port, [b"MZ" + image[2:]])
    assert (program.status, program.unnamed) == (409, [FAILURE])
    mixed = upload(house.port, [b"text", image, image[:-100]])
    assert (mixed.status, mixed.stored) == (202, [sop_uid(image)])
    assert (mixed.unnamed, mixed.failed) == ([UNREADABLE], {}) or mixed.unnamed == [UNREADABLE] * 2


def test_every_reason_has_a_code() -> None:
    from imaging_importer.reasons import SENTENCES

    own = {"study-mismatch", "not-dicom", "dicomdir"}
    assert set(stow.FAILURE_REASONS) - own <= set(SENTENCES)


def test_only_instances_of_the_study_in_the_path_are_taken(house: House) -> None:
    files = house.series(1) + house.series(1)
    upload_ = upload(house.port, files[:1])
    study = house.study(files[0])
    assert upload_.status == 200
    mixed = upload(house.port, files, study=study)
    assert (mixed.status, mixed.stored, mixed.failed) == (202, [sop_uid(files[0])], {sop_uid(files[1]): MISMATCH})
    none = upload(house.port, files[1:], study=study)
    assert (none.status, none.failed) == (409, {sop_uid(files[1]): MISMATCH})
    assert sop_uid(files[1]) not in house.platform.md5s()


def test_one_image_after_the_other_of_every_kind_is_taken(house: House) -> None:
    for name in ("image_dfl.dcm", "MR_small_bigendian.dcm", "JPEG2000.dcm", "SC_rgb_rle.dcm"):
        assert upload(house.port, [sample(name).read_bytes()]).status == 200, name


def test_a_chunked_body_is_taken(house: House) -> None:
    (image,) = house.series(1)
    body = multipart([image], "b0")
    pieces = (body[start : start + 1000] for start in range(0, len(body), 1000))
    assert upload(house.port, body=pieces, boundary="b0").status == 200


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/dicom", 415),
        ("multipart/form-data; boundary=b0", 415),
        ('multipart/related; type="application/dicom+json"; boundary=b0', 415),
        ("multipart/related; boundary=b0", 415),
        ('multipart/related; type="application/dicom"', 400),
        ('multipart/related; type="application/dicom"; boundary=other', 400),
        ('multipart/related; type="application/dicom"; boundary="' + "b" * 71 + '"', 400),
        ("multipart/related; type=application/dicom; boundary=b0", 200),
        ('multipart/related; boundary="b0"; type="application/DICOM"', 200),
    ],
)
def test_the_content_type_says_what_is_sent(house: House, content_type: str, status: int) -> None:
    body = multipart(house.series(1), "b0")
    assert upload(house.port, body=body, Content_Type=content_type).status == status
    assert wait_until(lambda: not house.spooled(), 120)


def test_a_body_without_parts_or_without_its_end_is_refused_and_leaves_nothing(house: House) -> None:
    body = multipart(house.series(2), "b0")
    before = len(house.settled("processed") + house.settled("failed"))
    for broken in (b"", b"--b0--\r\n", body[:-5], body.replace(b"application/dicom", b"text/html")):
        assert upload(house.port, body=broken, boundary="b0").status in (400, 415)
        assert house.spooled() == []
    assert len(house.settled("processed") + house.settled("failed")) == before


def test_what_is_too_large_is_refused_and_leaves_nothing(house: House) -> None:
    large = bytes(1 << 20)
    for answer in (
        upload(house.port, [large * 9]),
        upload(house.port, [large * 7] * 10),
        upload(house.port, body=(large for _ in range(70)), boundary="b0"),
    ):
        assert answer.status in (413, 400)  # 400: in chunks, no boundary is found before the limit is reached
        assert house.spooled() == []
    assert upload(house.port, [large * 9]).body.startswith(b"At most 64 MiB")


def test_a_sender_that_goes_away_leaves_nothing(house: House) -> None:
    body = multipart(house.series(2), "b0")
    head = (
        f"POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {UPLOAD_SECRET}\r\nX-Clinics: north\r\n"
        f"Content-Type: multipart/related; type=application/dicom; boundary=b0\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", house.port)) as connection:
        connection.sendall(head.encode() + body[:-20])
        assert wait_until(house.spooled, 120)
    assert wait_until(lambda: not house.spooled(), 120)


@pytest.mark.parametrize("clinic", ["", "west", "north,south", "*", "../north"])
def test_exactly_one_known_clinic_is_needed(house: House, clinic: str) -> None:
    assert upload(house.port, house.series(1), clinic).status == 400
    assert house.spooled() == []


def test_who_has_not_the_secret_stores_nothing(house: House) -> None:
    for secret in ("", "Bearer", "Bearer wrong", f"Basic {UPLOAD_SECRET}"):
        assert upload(house.port, house.series(1), Authorization=secret).status == 403
    assert house.spooled() == []


def test_memory_stays_flat_while_a_large_part_arrives(house: House) -> None:
    status = Path(f"/proc/{house.process.pid}/status")

    def peak() -> int:
        return int(status.read_text().partition("VmHWM:")[2].split()[0])

    upload(house.port, [bytes(1 << 20)])
    before = peak()
    upload(house.port, [bytes(7 << 20)] * 8)
    assert peak() - before < 20_000, "kB more than for a small one"


def test_somebody_who_waits_goes_before_a_folder(house: House) -> None:
    """A large folder stops for the upload after a batch, and goes on afterwards."""
    study, series = uid(house.random), uid(house.random)
    files = {f"{number}.dcm": instance(house.random, study, series) for number in range(60)}
    deliver(house.root / "inbox" / "south" / "large", files)
    assert wait_until(lambda: study in house.platform.owner, 120)
    assert upload(house.port, house.series(1)).status == 200
    assert study not in house.platform.recorded, "the folder was done before"
    assert wait_until(lambda: study in house.platform.recorded, 120)
    assert house.platform.recorded[study]["00201208"]["Value"] == [60]


def test_while_orthanc_is_away_uploads_are_put_off_and_what_was_received_goes_on_by_itself(house: House) -> None:
    first, second = house.series(1), house.series(1)
    house.platform.faults.down = True
    answer = upload(house.port, first)
    assert answer.status == 503
    assert answer.headers["Retry-After"]
    assert wait_until(lambda: b"Nothing of this upload was kept" in upload(house.port, second).body, 120)
    house.platform.faults.down = False
    assert wait_until(lambda: upload(house.port, second).status == 200, 120)
    if b"is safe" in answer.body:
        assert wait_until(lambda: sop_uid(first[0]) in house.platform.md5s(), 120)


def test_many_at_once_are_all_stored_or_told_to_come_back(house: House) -> None:
    files = [house.series(2) for _ in range(12)]
    answers: dict[int, int] = {}

    def send(number: int) -> None:
        answers[number] = upload(house.port, files[number]).status

    threads = [threading.Thread(target=send, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(answers.values()) <= {200, 503}
    held = house.platform.md5s()
    assert [n for n, status in answers.items() if status == 200 and sop_uid(files[n][0]) not in held] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
def test_a_full_disk_is_told_in_words_and_leaves_nothing(tmp_path: Path) -> None:
    import subprocess

    (tmp_path / "inbox").mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", tmp_path / "inbox"], check=False)
    if mounted.returncode:
        pytest.skip("mounting is not permitted here")
    try:
        house = House(tmp_path)
        answer = upload(house.port, [bytes(4 << 20)])
        assert (answer.status, b"disk is full" in answer.body) == (507, True)
        assert house.spooled() == []
        assert upload(house.port, house.series(1)).status == 200
        house.stop()
        house.platform.close()
    finally:
        subprocess.run(["umount", tmp_path / "inbox"], check=True)


@pytest.mark.parametrize("failpoint", [*failpoints.UPLOAD_NAMES, "folder-spooled", "batch-sent", "studies-recorded"])
def test_a_kill_anywhere_loses_nothing_that_was_answered_and_doubles_nothing(tmp_path: Path, failpoint: str) -> None:
    """The sender of an upload that got no answer sends it again, and then it is stored once."""
    house = House(tmp_path)
    answered = house.series(2)
    assert upload(house.port, answered).status == 200
    house.process.kill()
    house.process.wait()

    house.start(f"{failpoint}:kill")
    cut, files = house.series(1)[0][:-50], house.series(8)
    with pytest.raises((OSError, http.client.HTTPException)):
        upload(house.port, [*files, cut])
    assert house.process.wait(20) == -signal.SIGKILL, "the failpoint was not reached"

    house.start()
    journal = Journal(tmp_path / "state" / "journal.sqlite")
    assert wait_until(lambda: not journal.open_jobs(), 120), house.log()
    journal.close()
    assert house.spooled() == []
    received = failpoint not in failpoints.UPLOAD_NAMES
    assert ({sop_uid(data) for data in files} <= set(house.platform.md5s())) is received
    assert upload(house.port, [*files, cut]).status == 202
    assert set(house.platform.md5s()) == {sop_uid(data) for data in [*answered, *files]}
    assert len(house.platform.identity) == 10
    house.process.kill()
    house.process.wait()
    house.platform.close()
