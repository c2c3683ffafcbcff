"""A backup is one moment of everything, whatever happens meanwhile; it comes back as it was, or nothing is touched."""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from backup_keys import KEY, OTHER_KEY, SECRET, TRUST
from imaging_backup import backup_file, cli, create, databases, images, metrics, restore, retention
from imaging_backup.databases import Connection, Server, Snapshot
from imaging_backup.errors import BackupError
from imaging_backup.images import store_path
from imaging_backup.signing import Trust


def members(path: Path) -> dict[str, bytes]:
    raw = subprocess.run(["zstd", "-dqc", str(path)], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        return {entry.name: tar.extractfile(entry).read() for entry in tar}


def about(path: Path) -> backup_file.About:
    return json.loads(members(path)["about.json"])


def images_of(store: Path) -> set[str]:
    return {path.name for path in store.glob("??/??/*")}


@pytest.fixture
def lived_in(host):
    """A host with images, studies and users."""
    for number in range(20):
        host.store(os.urandom(1000 + number))
    for study in ("1.2.1", "1.2.2"):
        host.register(study)
    host.add_user("a.bekova")
    return host


def told(host, name: str) -> dict[str, float]:
    """The text of one of the node exporter's files."""
    lines = (host.config.metrics / f"{name}.prom").read_text().splitlines()
    return {name: float(value) for name, value in (line.split() for line in lines if not line.startswith("#"))}


@contextmanager
def killed_child(work: Callable[[], object]) -> Iterator[None]:
    """Do something in a process of its own, which has to end by SIGKILL."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(3)
    try:
        yield
    finally:
        _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), status
    assert os.WTERMSIG(status) == signal.SIGKILL


# --- the backup ------------------------------------------------------------------------------------------------------


def test_it_holds_the_databases_the_settings_and_the_list_of_images(lived_in):
    found = members(create.create(lived_in.config, include_images=False))
    assert next(iter(found)) == "about.json"
    assert {f"databases/{name}.dump" for name in ("orthanc", "keycloak", "registry")} < set(found)
    assert found["settings/tls/ca.pem"] == b"the authority"
    assert len(found["images.tsv"].splitlines()) == 20
    assert not [name for name in found if name.startswith("images/")]


def test_it_says_what_it_is(lived_in):
    told = about(create.create(lived_in.config, include_images=True))
    assert told["counts"]["instances"] == 20
    assert told["counts"]["registered studies"] == 2
    assert told["counts"]["users"] == 1
    assert told["versions"]["keycloak"] == "26.7.3"


def test_it_does_not_wait_for_a_keycloak_that_is_down(lived_in, capsys):
    assert "realm.json" not in members(create.create(lived_in.config, include_images=False))
    assert "WARNING: the backup has no realm.json" in capsys.readouterr().err


def test_it_leaves_nothing_but_the_backup_file(lived_in):
    path = create.create(lived_in.config, include_images=True)
    assert {entry.name for entry in lived_in.config.path.iterdir()} == {".lock", path.name}
    assert not lived_in.config.links.exists()


def test_it_tells_the_node_exporter(lived_in):
    path = create.create(lived_in.config, include_images=False)
    values = told(lived_in, "imaging-backup")
    assert abs(values["imaging_backup_last_success_timestamp_seconds"] - time.time()) < 60
    assert values["imaging_backup_size_bytes"] == path.stat().st_size
    assert "imaging_backup_duration_seconds" in values


def test_during_heavy_import_and_deletion_it_names_no_image_that_it_lacks(lived_in, tmp_path, monkeypatch):
    take = Server._snapshot

    def take_slowly(connection: Connection) -> Snapshot:
        time.sleep(0.1)  # rows that are not held for the moment of three snapshots now show
        return take(connection)

    monkeypatch.setattr(Server, "_snapshot", staticmethod(take_slowly))
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    choice, stop, failed = random.Random(seed), threading.Event(), []

    def import_and_delete() -> None:
        try:
            while not stop.is_set():
                name = lived_in.store(os.urandom(choice.randrange(100, 3000)))
                lived_in.register(f"1.3.{int(name[:8], 16)}")
                if choice.random() < 0.4:
                    lived_in.delete(choice.choice(sorted(lived_in.named() - {name})))
        except Exception as error:
            failed.append(error)

    busy = threading.Thread(target=import_and_delete)
    busy.start()
    try:
        paths = []
        for number in range(4):
            # Backup files are named by the second.
            made = create.create(lived_in.elsewhere().config, include_images=True)
            paths.append(made.rename(tmp_path / f"{number}.tar.zst"))
    finally:
        stop.set()
        busy.join()
    assert not failed
    for path in paths:
        found = members(path)
        rows = [line.split("\t") for line in found["images.tsv"].decode().splitlines()]
        assert len(rows) == about(path)["counts"]["image files"]
        for name, size, md5 in rows:
            content = found[f"images/{name}"]
            assert (len(content), hashlib.md5(content).hexdigest()) == (int(size), md5)  # noqa: S324
        # One study is recorded for each image after the first 20, behind it: one moment of both shows just that.
        recorded = about(path)["counts"]["registered studies"] - 2
        assert 0 <= last_number(path) - 20 - recorded <= 1


def last_number(path: Path) -> int:
    """The number of the newest image in a backup file's dump."""
    dump = path.with_suffix(".dump")
    dump.write_bytes(members(path)["databases/orthanc.dump"])
    command = ["pg_restore", "--data-only", "--table=resources", "--file=-", str(dump)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return max(int(line.split("\t")[0]) for line in lines if line[:1].isdigit())


def test_an_image_that_is_deleted_while_it_runs_is_in_it(lived_in, monkeypatch):
    victim = sorted(lived_in.named())[0]
    dump = Server.dump

    def delete_then_dump(server: Server, database: str, *rest: object) -> int:
        if victim in lived_in.named():
            lived_in.delete(victim)
        return dump(server, database, *rest)

    monkeypatch.setattr(Server, "dump", delete_then_dump)
    path = create.create(lived_in.config, include_images=True)
    assert victim not in lived_in.named()
    assert f"images/{victim}" in members(path)


def test_an_image_that_is_deleted_before_it_is_held_is_not_in_the_database_either(lived_in, monkeypatch):
    victim = sorted(lived_in.named())[0]
    hold = images.Links.hold

    def delete_then_hold(links: images.Links, listed: Iterator[images.Image]) -> list[images.Image]:
        if victim in lived_in.named():
            lived_in.delete(victim)
        return hold(links, listed)

    monkeypatch.setattr(images.Links, "hold", delete_then_hold)
    path = create.create(lived_in.config, include_images=True)
    assert about(path)["counts"]["instances"] == 19
    assert victim not in members(path)["images.tsv"].decode()


def test_an_image_that_is_lost_on_the_disk_is_told_and_does_not_end_all_backups(lived_in, capsys):
    lost = sorted(lived_in.named())[0]
    store_path(lived_in.config.storage, lost).unlink()
    path = create.create(lived_in.config, include_images=True)
    assert about(path)["missing images"] == [lost]
    assert "WARNING: 1 images that the index names are not on the disk" in capsys.readouterr().err
    assert "imaging_backup_missing_images 1" in (lived_in.config.metrics / "imaging-backup.prom").read_text()


def test_a_kill_leaves_no_backup_file_and_the_next_backup_cleans_up(lived_in):
    lived_in.store(os.urandom(1000))
    add_file = backup_file.Writer.add_file

    def die_at_the_images(writer: backup_file.Writer, name: str, path: Path) -> int:
        if name.startswith("images/"):
            os.kill(os.getpid(), signal.SIGKILL)
        return add_file(writer, name, path)

    def work() -> None:
        backup_file.Writer.add_file = die_at_the_images
        create.create(lived_in.config, include_images=True)

    with killed_child(work):
        pass
    assert retention.backup_files(lived_in.config.path) == []
    assert not list(lived_in.config.metrics.iterdir())
    path = create.create(lived_in.config, include_images=True)
    assert {entry.name for entry in lived_in.config.path.iterdir()} == {".lock", path.name}
    assert not lived_in.config.links.exists()


def test_a_full_disk_is_told_and_leaves_the_older_backups(lived_in, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(small)], check=False).returncode:
        pytest.skip("this machine lets nobody mount a small file system")
    try:
        older = small / "dicom-backup-2020-01-01T020000Z.tar.zst"
        older.write_bytes(b"older")
        for _ in range(30):
            lived_in.store(os.urandom(20_000))
        with pytest.raises(BackupError, match=r"is full .* older ones are as they were. Make room"):
            create.create(lived_in.elsewhere(path=small).config, include_images=True)
        assert {entry.name for entry in small.iterdir()} == {".lock", older.name}
        assert not list(lived_in.config.metrics.iterdir())
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_backup_waits_for_the_end_of_another(lived_in, capfd):
    def waiting() -> bool:
        return "waiting for its end" in capfd.readouterr().err

    with ThreadPoolExecutor(1) as pool:
        with create.alone(lived_in.config.path):
            made = pool.submit(create.create, lived_in.config, include_images=False)
            while not waiting():
                time.sleep(0.05)
            assert not made.done()
        assert made.result(60).exists()


def test_a_restore_does_not_wait_for_long(lived_in, monkeypatch):
    path = create.create(lived_in.config, include_images=True)
    monkeypatch.setattr(restore, "PATIENCE_SECONDS", 0.1)
    with create.alone(lived_in.config.path), pytest.raises(BackupError, match="another backup or restore is running"):
        restore.restore(lived_in.config, path, lived_in, TRUST)


def test_old_backup_files_go_when_enough_newer_ones_are_there(tmp_path):
    for day in (1, 2, 20, 21, 22):
        (tmp_path / f"dicom-backup-2026-05-{day:02}T020000Z.tar.zst").touch()
    (tmp_path / "dicom-backup-notes.txt").touch()
    now = datetime.datetime(2026, 5, 22, 3, tzinfo=datetime.UTC)

    def gone(keep_count: int, keep_days: int) -> list[str]:
        return [path.name[18:23] for path in retention.expired(tmp_path, keep_count, keep_days, now)]

    assert gone(keep_count=3, keep_days=1) == ["05-02", "05-01"]
    assert gone(keep_count=1, keep_days=7) == ["05-02", "05-01"]
    assert gone(keep_count=1, keep_days=2) == ["05-20", "05-02", "05-01"]
    assert gone(keep_count=9, keep_days=1) == []
    assert gone(keep_count=1, keep_days=365) == []


# --- the restore -----------------------------------------------------------------------------------------------------


def test_everything_comes_back(lived_in):
    named, registered, users = lived_in.named(), lived_in.registered(), lived_in.users()
    path = create.create(lived_in.config, include_images=True)

    for name in sorted(named)[:5]:
        lived_in.delete(name)
    later = lived_in.store(b"later")
    lived_in.register("1.2.1")
    lived_in.add_user("somebody.later")
    (lived_in.config.settings / "tls/ca.pem").write_text("another authority")
    (lived_in.config.settings / "credentials/backup/keycloak-client-secret").write_text("another secret")
    (lived_in.config.settings / "gateway.toml").write_text("listen_port = 9090")
    (lived_in.config.cache / "0/1").mkdir(parents=True)
    (lived_in.config.cache / "0/1/entry").touch()
    (lived_in.config.journal / "journal.sqlite-wal").touch()

    restore.restore(lived_in.config, path, lived_in, TRUST, every=True)
    assert (lived_in.named(), lived_in.registered(), lived_in.users()) == (named, registered, users)
    assert images_of(lived_in.config.storage) == named | {later}, "an orphan is told, not removed"
    assert (lived_in.config.settings / "tls/ca.pem").read_text() == "the authority"
    secret = lived_in.config.settings / "credentials/backup/keycloak-client-secret"
    assert secret.read_text() == "the service account's secret"
    assert "9090" in (lived_in.config.settings / "gateway.toml").read_text(), "the inventory says what that is"
    assert list(lived_in.config.cache.iterdir()) == []
    assert list(lived_in.config.journal.iterdir()) == []
    assert lived_in.deeds == ["database", "stop", "start"]


def test_certificates_of_an_authority_come_back_with_their_links_and_mix_with_no_others(lived_in):
    place, name = lived_in.config.letsencrypt, "imaging.example.org"
    for number in (9, 10):
        (place / "archive" / name).mkdir(parents=True, exist_ok=True)
        (place / "archive" / name / f"fullchain{number}.pem").write_text(f"certificate {number}")
    (place / "archive" / name / "fullchain.pem").write_text("a copy that somebody left")
    (place / "live" / name).mkdir(parents=True)
    (place / "live" / name / "fullchain.pem").symlink_to(f"../../archive/{name}/fullchain10.pem")
    path = create.create(lived_in.config, include_images=True)
    # Meanwhile another host has had its own issued.
    (place / "archive" / name / "fullchain11.pem").write_text("another host's")

    restore.restore(lived_in.config, path, lived_in, TRUST, every=False)
    assert (place / "live" / name / "fullchain.pem").readlink() == Path(f"../../archive/{name}/fullchain10.pem")
    assert (place / "live" / name / "fullchain.pem").read_text() == "certificate 10"
    assert not (place / "archive" / name / "fullchain11.pem").exists()
    assert (place / "archive" / name / "fullchain9.pem").stat().st_mode & 0o077 == 0
    assert {entry.name for entry in lived_in.config.path.iterdir()} == {".lock", path.name}
    assert not lived_in.config.arriving.exists()


def test_no_program_comes_back_with_the_certificates(lived_in, capsys):
    """Somebody who could write to a backup would choose the programs that root runs at each renewal."""
    place, name = lived_in.config.letsencrypt, "imaging.example.org"
    account = "accounts/acme.example.org:14000/directory/0123abcd"
    ours = f"""\
# renew_before_expiry = 30 days
version = 4.0.0
archive_dir = {place}/archive/{name}
cert = {place}/live/{name}/cert.pem
privkey = {place}/live/{name}/privkey.pem
# Options used in the renewal process
[renewalparams]
account = 0123abcd
authenticator = webroot
webroot_path = /var/lib/acme,
server = https://acme.example.org:14000/directory
key_type = ecdsa
renew_hook = systemctl reload nginx.service
[[webroot_map]]
{name} = /var/lib/acme
"""
    theirs = [
        "pre_hook = /tmp/evil",
        "post_hook = curl evil",
        "renew_hook = sh -c evil",
        "deploy_hook = /tmp/evil",
        "manual_auth_hook = /tmp/evil",
        "authenticator = manual",
        "# a comment\rpre_hook = /tmp/evil",
        "# a comment\x0bpre_hook = /tmp/evil",
        "installer = nginx",
        "archive_dir = /etc",
        f"cert = {place}/live/../../../etc/shadow",
        "webroot_path = /../etc,",
        "renew-hook=/tmp/evil",
        "[[ evil ]]",
    ]
    files = {
        f"renewal/{name}.conf": ours + "".join(f"{line}\n" for line in theirs),
        "renewal-hooks/deploy/tell": "#!/bin/sh\n",
        "renewal-hooks/pre/tell": "#!/bin/sh\n",
        "cli.ini": "pre-hook = /tmp/evil\n",
        f"{account}/regr.json": "{}",
        f"archive/{name}/cert1.pem": "certificate",
        f"archive/{name}/evil.sh": "#!/bin/sh\n",
    }
    for file, content in files.items():
        (place / file).parent.mkdir(parents=True, exist_ok=True)
        (place / file).write_bytes(content.encode())
        (place / file).chmod(0o755)
    (lived_in.config.settings / "tls/evil.sh").write_text("#!/bin/sh\n")
    path = create.create(lived_in.config, include_images=True)
    shutil.rmtree(place)
    (lived_in.config.settings / "tls/evil.sh").unlink()
    (place / "renewal-hooks/deploy").mkdir(parents=True)
    (place / "renewal-hooks/deploy/own").write_text("#!/bin/sh\n# of this host\n")

    restore.restore(lived_in.config, path, lived_in, TRUST)
    assert (place / f"renewal/{name}.conf").read_bytes().decode() == ours
    found = {str(file.relative_to(place)) for file in place.rglob("*") if file.is_file()}
    assert found == {
        f"renewal/{name}.conf",
        "renewal-hooks/deploy/own",
        f"{account}/regr.json",
        f"archive/{name}/cert1.pem",
        f"live/{name}/cert.pem",
    }
    assert not (lived_in.config.settings / "tls/evil.sh").exists()
    assert not [file for file in place.rglob("*") if file.is_file() and file.stat().st_mode & 0o111]
    said = capsys.readouterr().err
    assert "not put back, because it is not the platform's: letsencrypt/renewal-hooks/deploy/tell" in said
    assert f"not put back of letsencrypt/renewal/{name}.conf: manual_auth_hook = /tmp/evil" in said
    assert "\r" not in said
    assert "\x0b" not in said


def test_the_services_may_do_what_they_might_before(lived_in):
    path = create.create(lived_in.config, include_images=True)
    restore.restore(lived_in.config, path, lived_in, TRUST)
    lived_in.register("1.2.3")
    with lived_in.connect("registry_gateway", "registry") as connection:
        connection.execute("SELECT set_config('registry.clinics', 'south', false)")
        assert connection.execute("SELECT count(*) FROM registry.study").fetchone() == (0,)
        connection.execute("SELECT set_config('registry.clinics', 'north', false)")
        assert connection.execute("SELECT count(*) FROM registry.study").fetchone() == (3,)


def test_a_revision_does_not_come_back_after_a_restore(lived_in):
    path = create.create(lived_in.config, include_images=True)
    lived_in.register("1.2.1")
    given = lived_in.registered()["1.2.1"]
    restore.restore(lived_in.config, path, lived_in, TRUST)
    lived_in.register("1.2.1")
    assert lived_in.registered()["1.2.1"] > given


def test_nothing_is_touched_by_a_damaged_backup_file(lived_in):
    path = create.create(lived_in.config, include_images=True)
    lived_in.add_user("somebody.later")
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)
    with pytest.raises(BackupError, match="is damaged"):
        restore.restore(lived_in.config, path, lived_in, TRUST)
    assert lived_in.deeds == []
    assert "somebody.later" in lived_in.users()
    assert not lived_in.config.arriving.exists()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"environment": "south-hospital"}, r"is of north-hospital \(imaging.example.org\), and this host is south"),
        ({"domain": "imaging.example.com"}, "this host is north-hospital"),
        ({"postgresql": {"programs": Path("/usr/lib/postgresql/99/bin")}}, "PostgreSQL .*, and this host has 99"),
        ({"keycloak": {"version": "26.7.2"}}, "Keycloak 26.7.3, which does not go back to 26.7.2"),
    ],
)
def test_a_backup_file_that_is_not_for_this_host_is_refused(lived_in, settings, told):
    path = create.create(lived_in.config, include_images=True)
    other = lived_in.elsewhere(**settings)
    with pytest.raises(BackupError, match=told):
        restore.restore(other.config, path, other, TRUST)
    with pytest.raises(BackupError, match=told):
        restore.check(other.config, path, TRUST)
    assert other.deeds == []


def test_what_does_not_fit_is_refused(lived_in, monkeypatch):
    path = create.create(lived_in.config, include_images=True)
    monkeypatch.setattr(restore, "free_bytes", lambda directory: 10**9)
    with pytest.raises(BackupError, match=r"takes 1\.1 GB with reserve below .* where 1\.0 GB are free"):
        restore.restore(lived_in.config, path, lived_in, TRUST)
    assert lived_in.deeds == []


def test_a_database_alone_is_not_restored_where_its_images_are_not(lived_in):
    path = create.create(lived_in.config, include_images=False)
    lost = sorted(lived_in.named())[0]
    store_path(lived_in.config.storage, lost).unlink()
    with pytest.raises(BackupError, match=r"does not hold 1 of the images .* ALLOW_MISSING=1"):
        restore.restore(lived_in.config, path, lived_in, TRUST)
    assert lived_in.deeds == []


def test_who_goes_on_without_images_is_told_how_many_are_missing(lived_in, capsys):
    path = create.create(lived_in.config, include_images=False)
    for lost in sorted(lived_in.named())[:3]:
        store_path(lived_in.config.storage, lost).unlink()
    restore.restore(lived_in.config, path, lived_in, TRUST, allow_missing=True)
    assert lived_in.deeds == ["database", "stop", "start"]
    said = capsys.readouterr().err
    assert "WARNING: 3 images are missing" in said
    assert "verified: everything is as it was, but for those images" in said


def test_a_restore_that_is_killed_again_and_again_is_run_again(lived_in):
    named = lived_in.named()
    path = create.create(lived_in.config, include_images=True)
    for name in sorted(named)[:5]:
        lived_in.delete(name)

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def work(when: str) -> None:
        setattr(Server if when in ("swap", "drop_replaced") else lived_in, when, die)
        restore.restore(lived_in.config, path, lived_in, TRUST)

    for when in ("start_database", "stop", "swap", "drop_replaced", "start"):
        with killed_child(lambda when=when: work(when)):
            pass
        assert len(lived_in.named()) == (15 if when in ("start_database", "stop", "swap", "drop_replaced") else 20)
    restore.restore(lived_in.config, path, lived_in, TRUST, every=True)
    assert lived_in.named() == named == images_of(lived_in.config.storage)
    with lived_in.connect("postgres", "postgres") as connection:
        found = connection.execute("SELECT datname FROM pg_database WHERE datname ~ '_(restored|replaced)$'").fetchall()
    assert found == []


# --- what a restore believes, and what it lets happen ----------------------------------------------------------------


def test_the_key_that_signs_is_in_no_backup(lived_in):
    content = b"".join(members(create.create(lived_in.config, include_images=True)).values())
    assert b"the service account's secret" in content
    assert SECRET.encode() not in content


def test_whoever_makes_a_backup_is_told_the_key(lived_in, capsys):
    path = create.create(lived_in.config, include_images=False)
    assert f"signed with the key {KEY.public}: note it" in capsys.readouterr().err
    assert f"signed with the key {KEY.public}\n" in restore.describe(restore.check(lived_in.config, path, TRUST))


@pytest.mark.parametrize("images", [True, False])
def test_a_script_is_told_what_people_are(lived_in, images):
    path = create.create(lived_in.config, include_images=images)
    about = restore.check(lived_in.config, path, TRUST)
    told = json.loads(restore.summary(about))
    assert told["images"] is images
    assert (told["environment"], told["domain"], told["key"]) == ("north-hospital", "imaging.example.org", KEY.public)
    assert (told["missing_images"], told["counts"]) == (0, about["counts"])


def as_the_release_before(path: Path) -> Path:
    """The same backup file as a release made it that did not sign."""
    older = path.with_name("dicom-backup-2026-05-04T020000Z.tar.zst")
    content = members(path)
    content["about.json"] = content["about.json"].replace(b'"format": 2', b'"format": 1')
    for name in ("manifest.txt", "manifest.sha256", "manifest.sig"):
        del content[name]
    manifest = "".join(f"{hashlib.sha256(data).hexdigest()} {len(data)} {n}\n" for n, data in content.items()).encode()
    content |= {"manifest.txt": manifest}
    content |= {"manifest.sha256": f"{hashlib.sha256(manifest).hexdigest()}  manifest.txt\n".encode()}
    with tarfile.open(older.with_suffix(".tar"), "w") as tar:
        for name, data in content.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o600
            tar.addfile(entry, io.BytesIO(data))
    subprocess.run(["zstd", "-q", str(older.with_suffix(".tar")), "-o", str(older)], check=True)
    return older


def test_a_backup_file_of_the_release_before_comes_back_on_an_explicit_word(lived_in, capsys):
    named = lived_in.named()
    path = as_the_release_before(create.create(lived_in.config, include_images=True))
    lived_in.add_user("somebody.later")
    with pytest.raises(BackupError, match="is not signed: an older release made it"):
        restore.restore(lived_in.config, path, lived_in, TRUST)
    assert lived_in.deeds == []
    restore.restore(lived_in.config, path, lived_in, Trust(KEY.public, unsigned=True), every=True)
    assert "WARNING: it is not signed, as UNSIGNED=1 allows" in capsys.readouterr().err
    assert lived_in.named() == named
    assert "somebody.later" not in lived_in.users()


def test_a_backup_file_of_a_lost_platform_comes_back_by_its_key(lived_in):
    path = create.create(lived_in.config, include_images=True)
    fresh = Trust(OTHER_KEY.public)
    with pytest.raises(BackupError, match=f"TRUST={KEY.public}"):
        restore.restore(lived_in.config, path, lived_in, fresh)
    restore.restore(lived_in.config, path, lived_in, Trust(OTHER_KEY.public, also=KEY.public))
    with pytest.raises(BackupError, match="64 hexadecimal digits"):
        Trust(OTHER_KEY.public, also="248acb")


def test_nothing_is_unpacked_of_what_is_not_proven(lived_in, monkeypatch):
    path = create.create(lived_in.config, include_images=True)
    unpacked = []
    monkeypatch.setattr(restore, "_unpack_file", lambda *_: unpacked.append(path))
    damaged = bytearray(path.read_bytes())
    damaged[-20] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(BackupError, match="is damaged"):
        restore.restore(lived_in.config, path, lived_in, TRUST)
    assert unpacked == []
    assert lived_in.deeds == []


MARK = Path(tempfile.gettempdir(), "of-a-hostile-dump")
# Each is run by the dump of a registry that is signed as it should be.
HOSTILE = {
    "a program of the host": "COPY pg_catalog.pg_class FROM PROGRAM 'touch {mark}'",
    "a file of the host": "COPY (SELECT 1) TO '{mark}'",
    "a function of C": "CREATE FUNCTION registry.f() RETURNS int LANGUAGE c AS 'libc', 'abort'",
    "a function of an untrusted language": "CREATE EXTENSION plpython3u",
    "another role's rights": "ALTER ROLE registry_gateway SUPERUSER",
    "its own rights": 'ALTER ROLE "imaging-restore" SUPERUSER',
    "rights of the server": 'GRANT pg_execute_server_program TO "imaging-restore"',
    "an owner's rights": 'GRANT registry_owner TO "imaging-restore"',
    "the server's settings": "ALTER SYSTEM SET archive_command = 'touch {mark}'",
    "an event trigger": "CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION registry.f()",
    "the administrator's place": "SET SESSION AUTHORIZATION postgres",
    "another database": "DROP DATABASE keycloak",
    "a new role": "CREATE ROLE somebody SUPERUSER LOGIN",
    "a view": "CREATE VIEW registry.v AS SELECT 1 AS a",
    "a rule": "CREATE RULE r AS ON INSERT TO registry.clinic DO ALSO SELECT 1",
}


@contextmanager
def dumps_say(statement: str) -> Iterator[None]:
    """The author of the registry's dump puts this in the place of its longest index."""
    dump = Server.dump

    def hostile(server: Server, database: str, snapshot: Snapshot, target: Path) -> int:
        size = dump(server, database, snapshot, target)
        if database == "registry":
            content = target.read_bytes()
            index = max(re.findall(rb"CREATE INDEX [^;]+;", content), key=len)
            # As long as before: the format is full of lengths and places.
            target.write_bytes(content.replace(index, f"{statement};".ljust(len(index)).encode()))
            assert target.stat().st_size == size
        return size

    Server.dump = hostile
    try:
        yield
    finally:
        Server.dump = dump


def test_what_a_dump_may_say_is_run(lived_in):
    """Else the next test would prove nothing."""
    with dumps_say("COMMENT ON TABLE registry.study IS 'said by the dump'"):
        path = create.create(lived_in.config, include_images=True)
    restore.restore(lived_in.config, path, lived_in, TRUST)
    with lived_in.connect("postgres", "registry") as connection:
        assert connection.execute("SELECT obj_description('registry.study'::regclass)").fetchone() == (
            "said by the dump",
        )
        connection.execute("COMMENT ON TABLE registry.study IS NULL")


def assert_nothing_is_left(host) -> None:
    with host.connect("postgres", "postgres") as connection:
        roles = connection.execute("SELECT rolname FROM pg_roles WHERE rolsuper OR rolname ~ 'restore|somebody'")
        assert roles.fetchall() == [("postgres",)]
        found = connection.execute("SELECT datname FROM pg_database WHERE NOT datistemplate").fetchall()
        assert {name for (name,) in found} == {"postgres", "orthanc", "keycloak", "registry"}


@pytest.mark.parametrize("statement", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_dump_reaches_nothing(lived_in, statement, tmp_path, monkeypatch):
    monkeypatch.setattr(databases, "NAMES", ("registry",))
    server, dump = Server(lived_in.config), tmp_path / "registry.dump"
    with lived_in.connect("postgres", "registry") as connection, dumps_say(statement.format(mark=MARK)):
        connection.autocommit = False
        server.dump("registry", server._snapshot(connection), dump)
    denied = "permission denied|must be|[Mm]ust have|[Oo]nly roles with|is not a trusted language|not available"
    with pytest.raises(BackupError, match=rf"pg_restore failed: .*({denied})|holds what this platform never makes"):
        list(server.load(tmp_path))
    assert not MARK.exists()
    assert_nothing_is_left(lived_in)


def test_the_platform_is_whole_after_a_hostile_dump_that_is_signed(lived_in):
    with dumps_say(HOSTILE["a program of the host"].format(mark=MARK)):
        path = create.create(lived_in.config, include_images=True)
    lived_in.add_user("somebody.later")
    registered = lived_in.registered()
    with pytest.raises(BackupError, match=r"pg_restore failed: .* COPY to or from an external program"):
        restore.restore(lived_in.config, path, lived_in, TRUST)
    assert lived_in.deeds == ["database"]
    assert "somebody.later" in lived_in.users()
    assert lived_in.registered() == registered
    assert {entry.name for entry in lived_in.config.path.iterdir()} == {".lock", path.name}
    assert_nothing_is_left(lived_in)


def test_who_reads_a_dump_is_nobody(lived_in, monkeypatch):
    path = create.create(lived_in.config, include_images=True)
    run, seen = Server._run, []

    def look(*command: str, files: tuple[int, ...] = ()) -> str:
        if command[0] == "setpriv":
            rights = command[: command.index("--") + 1]
            seen.append(run(*rights, "sh", "-c", ": /pg_; id -un; grep -E 'Cap(Prm|Eff|Bnd)|NoNew' /proc/self/status"))
        return run(*command, files=files)

    monkeypatch.setattr(Server, "_run", staticmethod(look))
    restore.restore(lived_in.config, path, lived_in, TRUST)
    assert len(seen) == 9
    for said in seen:
        user, *status = said.split("\n")[:-1]
        assert user == "nobody"
        assert [line.split()[1] for line in status] == ["0000000000000000"] * 3 + ["1"]


def test_a_restore_gives_everything_back_to_its_owner(lived_in):
    """And leaves no right, setting or role of its own behind."""
    look = """
        SELECT 'relation', oid::regclass::text, relowner::regrole::text, relacl::text FROM pg_class WHERE oid >= 16384
        UNION ALL SELECT 'function', oid::regprocedure::text, proowner::regrole::text, proacl::text FROM pg_proc
          WHERE oid >= 16384 AND proowner <> 10
        UNION ALL SELECT 'schema', nspname, nspowner::regrole::text, nspacl::text FROM pg_namespace WHERE oid >= 16384
        UNION ALL SELECT 'default', defaclobjtype::text, defaclrole::regrole::text, defaclacl::text FROM pg_default_acl
        UNION ALL SELECT 'policy', polname || polrelid::regclass::text, polroles::regrole[]::text, polcmd::text
          FROM pg_policy
        UNION ALL SELECT 'database', datname, datdba::regrole::text, datacl::text FROM pg_database
        UNION ALL SELECT 'setting', setconfig::text, '', '' FROM pg_db_role_setting
        ORDER BY 1, 2"""

    def seen() -> list[tuple[str, ...]]:
        found = []
        for database in ("registry", "keycloak", "orthanc"):
            with lived_in.connect("postgres", database) as connection:
                rows = connection.execute(look.encode()).fetchall()
                # The order of an ACL's entries says nothing.
                found += [
                    (*row[:3], sorted((row[3] or "").strip("{}").split(",")))
                    for row in rows
                    if "pg_toast" not in row[1]
                ]
        return found

    before = seen()
    path = create.create(lived_in.config, include_images=True)
    restore.restore(lived_in.config, path, lived_in, TRUST)
    assert seen() == before


def test_the_administrator_s_questions_are_answered_by_tables_alone(lived_in):
    """A service that was taken over could otherwise have the night's backup run what it likes as the administrator."""
    with lived_in.connect("postgres", "orthanc") as connection:
        connection.execute("ALTER TABLE resources RENAME TO r")
        connection.execute("CREATE VIEW resources AS SELECT * FROM r")
    try:
        with pytest.raises(Exception, match="access to non-system view"):
            create.create(lived_in.config, include_images=False)
    finally:
        with lived_in.connect("postgres", "orthanc") as connection:
            connection.execute("DROP VIEW resources")
            connection.execute("ALTER TABLE r RENAME TO resources")


# --- the drill -------------------------------------------------------------------------------------------------------


def test_the_newest_backup_file_is_found_by_its_name(lived_in):
    with pytest.raises(BackupError, match="there is no backup in"):
        cli.newest(lived_in.config)
    for day in (4, 6, 5):
        (lived_in.config.path / f"dicom-backup-2026-05-0{day}T021500Z.tar.zst").touch()
    (lived_in.config.path / "damaged-2026-05-07T021500Z.tar.zst").touch()
    assert cli.newest(lived_in.config).name == "dicom-backup-2026-05-06T021500Z.tar.zst"


def test_from_the_first_backup_on_a_drill_is_awaited(lived_in):
    create.create(lived_in.config, include_images=False)
    assert set(told(lived_in, "imaging-restore-drill")) == {metrics.UNPROVEN}
    first = told(lived_in, "imaging-restore-drill")[metrics.UNPROVEN]
    assert abs(first - time.time()) < 60


def test_a_good_drill_is_told_with_what_was_measured(lived_in):
    made = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=9)
    cli.record_drill(lived_in.config, Path(f"/elsewhere/dicom-backup-{made:%Y-%m-%dT%H%M%SZ}.tar.zst.age"), 3600)
    values = told(lived_in, "imaging-restore-drill")
    assert values["imaging_restore_drill_success"] == 1
    assert values["imaging_restore_drill_duration_seconds"] == 3600
    assert abs(values["imaging_restore_drill_backup_age_seconds"] - 8 * 3600) < 60
    assert abs(values[metrics.UNPROVEN] - time.time()) < 60


def test_a_failed_drill_is_told_and_proves_nothing(lived_in, monkeypatch):
    cli.record_drill(lived_in.config, Path("dicom-backup-2026-05-04T021500Z.tar.zst"), 60)
    proven = told(lived_in, "imaging-restore-drill")[metrics.UNPROVEN]
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 1000)
    cli.record_drill(lived_in.config, None, 0)
    values = told(lived_in, "imaging-restore-drill")
    assert values["imaging_restore_drill_success"] == 0
    assert values[metrics.UNPROVEN] == proven
    assert values["imaging_restore_drill_timestamp_seconds"] > proven
    create.create(lived_in.config, include_images=False)
    assert told(lived_in, "imaging-restore-drill") == values


def test_a_drill_of_another_file_is_not_told(lived_in):
    with pytest.raises(BackupError, match="is not called like a backup"):
        cli.record_drill(lived_in.config, Path("elsewhere.tar.zst"), 60)


# --- the look at the store -------------------------------------------------------------------------------------------


def test_what_is_missing_damaged_or_named_by_nobody_is_found(lived_in, tmp_path):
    listed = tmp_path / "images.tsv"
    with lived_in.connect("postgres", "orthanc") as connection:
        images.list_images(connection, listed)
    missing, short, rotten = sorted(lived_in.named())[:3]
    store_path(lived_in.config.storage, missing).unlink()
    os.truncate(store_path(lived_in.config.storage, short), 10)
    content = bytearray(store_path(lived_in.config.storage, rotten).read_bytes())
    content[100] ^= 1
    store_path(lived_in.config.storage, rotten).write_bytes(content)
    (lived_in.config.storage / "ab/cd").mkdir(parents=True)
    (lived_in.config.storage / "ab/cd/orphan").touch()

    found = images.verify(listed, lived_in.config.storage, every=True)
    assert (found.named, found.missing, found.damaged, found.orphans) == (20, [missing], [short, rotten], 1)
