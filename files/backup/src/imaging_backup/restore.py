"""Restores a backup: proves it and loads it beside the present data, then stops the platform and exchanges the two.

Nothing that is in use changes before `_change_places`. A restore that was killed at any moment can simply run again.
"""

import contextlib
import json
import os
import re
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from imaging_backup import backup_file, databases, images, repository
from imaging_backup.config import KEYCLOAK_SECRET, LETSENCRYPT, Config
from imaging_backup.create import alone, free_bytes, say
from imaging_backup.databases import Server
from imaging_backup.errors import BackupError
from imaging_backup.printable import printable
from imaging_backup.signing import Trust

# The settings that nobody could make again: the authority that browsers trust, certificates of others, and the secret
# that Keycloak's database knows. The rest comes from the inventory and the controller, which write it again.
SETTINGS = ("settings/tls/", f"{LETSENCRYPT}/", f"settings/credentials/backup/{KEYCLOAK_SECRET}")
# From those directories a restore takes only known files, never a program. It writes them new, so that no link, owner
# or mode comes along.
TLS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\.(pem|csr)")
LINEAGE = r"[A-Za-z0-9_*][A-Za-z0-9._*-]*"
CERTBOT = re.compile(
    r"accounts/([A-Za-z0-9_][A-Za-z0-9._:-]*/)+(meta|private_key|regr)\.json"
    rf"|archive/{LINEAGE}/(cert|chain|fullchain|privkey)[0-9]{{1,6}}\.pem|renewal/{LINEAGE}\.conf"
)
# The lines that our own certificates need of the file in which certbot remembers how to renew a certificate. Its hooks
# are commands, and the only hook that is restored is ours (roles/nginx/tasks/issue.yml).
HOOK = "renew_hook = systemctl reload nginx.service"
DIRECTORY = r"(/[A-Za-z0-9_][A-Za-z0-9._-]*)+"
RENEWAL = (
    r"[ \t]*(#[ -~]*)?|version = [0-9.]+|\[renewalparams\]|\[\[webroot_map\]\]"
    rf"|archive_dir = PLACE/archive/{LINEAGE}|(cert|privkey|chain|fullchain) = PLACE/live/{LINEAGE}/[a-z]+\.pem"
    rf"|account = [0-9a-f]+|authenticator = webroot|webroot_path = {DIRECTORY},?"
    r"|(key_type|elliptic_curve|rsa_key_size) = [a-z0-9]+|server = https://[A-Za-z0-9._:/-]+"
    rf"|{re.escape(HOOK)}|[a-z0-9-]+(\.[a-z0-9-]+)+ = {DIRECTORY}"
)
SMALL_BYTES = 1024**2
RESERVE_BYTES = 1024**3
# A backup of a new platform takes seconds, and somebody waits for a restore.
PATIENCE_SECONDS = 60


class Services(Protocol):
    """The services that a restore stops and starts."""

    def start_database(self) -> None:
        """Start PostgreSQL if it does not run."""

    def stop(self) -> None:
        """Stop everything but PostgreSQL."""

    def start(self) -> None:
        """Start everything."""


class Systemd:
    """The services of `imaging.target`."""

    TARGET = "imaging.target"
    DATABASE = "postgresql@17-main.service"

    def start_database(self) -> None:
        self._systemctl("start", self.DATABASE)

    def stop(self) -> None:
        # By name, because stopping the target does not wait for its parts.
        parts = self._systemctl("show", "--property=ConsistsOf", "--value", self.TARGET).split()
        self._systemctl("stop", self.TARGET, *(unit for unit in parts if unit != self.DATABASE))
        self.start_database()

    def start(self) -> None:
        self._systemctl("start", self.TARGET)

    @staticmethod
    def _systemctl(*arguments: str) -> str:
        done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False)  # noqa: S603, S607
        if done.returncode:
            raise BackupError(f"systemctl {' '.join(arguments)} failed: {done.stderr.strip()}")
        return done.stdout


def check(config: Config, path: Path, trust: Trust) -> backup_file.About:
    """Prove a backup and that it can be restored here; return its description. Changes nothing. Raises BackupError."""
    if repository.is_snapshot(path):
        return _look_at(config, path, trust)[1]
    try:
        return backup_file.prove(path, trust, lambda about: _accept(config, path, about))
    except OSError as error:
        raise BackupError(f"{path.name} could not be read: {error}. Nothing was changed") from error


def describe(about: backup_file.About) -> str:
    """The description of a backup file, for people."""
    lines = [
        f"backup of {about['environment']} ({about['domain']}), made {about['created']} on {about['host']}",
        f"signed with the key {about['key']}" if "key" in about else "NOT SIGNED: nobody knows who made it",
        "versions: " + ", ".join(f"{name} {version}" for name, version in about["versions"].items()),
        "holds: " + ", ".join(f"{count} {what}" for what, count in about["counts"].items()),
        f"images: {about['image bytes'] / 1e9:.2f} GB"
        if about["images"]
        else "images: none (INCLUDE_DICOM=1 adds them)",
    ]
    if about["missing images"]:
        lines.append(f"WARNING: {len(about['missing images'])} images were lost already when it was made")
    return "\n".join(map(printable, lines))


def summary(about: backup_file.About) -> str:
    """The same as JSON, for scripts."""
    told = {name: about.get(name) for name in ("environment", "domain", "created", "host", "key", "versions", "counts")}
    return json.dumps({**told, "images": about["images"], "missing_images": len(about["missing images"])}, indent=2)


def restore(
    config: Config,
    path: Path,
    services: Services,
    trust: Trust,
    every: bool = False,
    allow_missing: bool = False,
) -> None:
    """Restore the state of a backup file or a snapshot of the repository, and verify the result.

    Raises BackupError.

    With `every`, each image's MD5 is compared and not only a sample's. With `allow_missing`, images that are neither in
    the backup file nor on this host are reported and do not stop the restore.
    """
    begun = time.monotonic()
    with alone(config.path, PATIENCE_SECONDS), _workspace(config) as workspace:
        about = _unpack(config, path, workspace, trust)
        missing = _missing(config, about, workspace / "images.tsv")
        if missing and not allow_missing:
            raise BackupError(
                f"{path} does not hold {len(missing)} of the images that its index names, and they are not below "
                f"{config.storage}. Bring that directory back first, or restore a backup file with images. To go on "
                "without them, and see studies that cannot be opened: ALLOW_MISSING=1. Nothing was changed"
            )
        services.start_database()
        server = Server(config)
        for database in server.load(workspace / "databases"):
            say(f"database {database} is loaded")
        stopped = time.monotonic()
        try:
            services.stop()
            _change_places(config, server, workspace)
            repository.continue_from(config)
            _verify(config, server, about, workspace / "images.tsv", every, missing)
        finally:
            services.start()
        now = time.monotonic()
    say(f"restored in {now - begun:.0f} s; the platform was stopped for {now - stopped:.0f} s of them")


def _look_at(config: Config, path: Path, trust: Trust) -> tuple[repository.Snapshot, backup_file.About]:
    """Find a snapshot of the repository. Refuse one that is not signed or not for this host. Raises BackupError."""
    snapshot = repository.find(config, path, trust)
    about = snapshot.about()
    try:
        _accept(config, path, about)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise backup_file.foreign(path, f"{backup_file.ABOUT} is not complete") from error
    return snapshot, about


def _accept(config: Config, path: Path, about: backup_file.About) -> None:
    """Refuse a backup file that is not for this host. Raises BackupError."""
    reasons = []
    here = (config.environment, config.domain)
    if (about["environment"], about["domain"]) != here:
        reasons.append(
            f"it is of {about['environment']} ({about['domain']}), and this host is {here[0]} ({here[1]}): restore it "
            "to a host that is deployed with its imaging_environment and imaging_domain"
        )
    versions = about["versions"]
    if versions["postgresql"] != (major := int(config.postgresql.programs.parent.name)):
        reasons.append(f"it was made with PostgreSQL {versions['postgresql']}, and this host has {major}")
    if _numbers(versions["keycloak"]) > _numbers(config.keycloak.version):
        reasons.append(
            f"it was made with Keycloak {versions['keycloak']}, which does not go back to {config.keycloak.version}: "
            "deploy the release of the platform that made it, or a newer one"
        )
    # The dumps are unpacked and then loaded. An index takes about as much space again as its data.
    dumps = about["database bytes"]
    needed: dict[int, int] = {}
    for directory, size in (
        (config.path, dumps),
        (config.postgresql.data, 2 * dumps),
        (config.storage, about["image bytes"]),
    ):
        disk = directory.stat().st_dev
        needed[disk] = needed.get(disk, RESERVE_BYTES) + size
        if needed[disk] > (free := free_bytes(directory)):
            takes = f"it takes {needed[disk] / 1e9:.1f} GB with reserve below {directory}"
            reasons.append(f"{takes}, where {free / 1e9:.1f} GB are free")
    if reasons:
        raise BackupError(f"{path} cannot be restored here: {printable('; '.join(reasons))}. Nothing was changed")


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdigit()]


def _unpack(config: Config, path: Path, workspace: Path, trust: Trust) -> backup_file.About:
    """Prove the backup file, then unpack it beside the present data, or fetch the repository's snapshot to there."""
    if repository.is_snapshot(path):
        snapshot, about = _look_at(config, path, trust)
        snapshot.fetch(workspace, config.arriving)
    else:
        say(f"proving {path.name}")
        check(config, path, trust)
        say("it is whole: unpacking")
        about = _unpack_file(config, path, workspace, trust)
    _refuse_traps(path, config.arriving, workspace)
    say(f"signed with the key {about['key']}" if "key" in about else "WARNING: it is not signed, as UNSIGNED=1 allows")
    return about


def _unpack_file(config: Config, path: Path, workspace: Path, trust: Trust) -> backup_file.About:
    def sink(name: str) -> BinaryIO | None:
        if name.startswith("images/"):
            target = images.place_in(config.arriving, name.removeprefix("images/"))
        elif name.startswith(("databases/", *SETTINGS)) or name == "images.tsv":
            target = workspace / name
        else:
            return None
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return target.open("xb")

    try:
        return backup_file.prove(path, trust, lambda about: _accept(config, path, about), sink)
    except OSError as error:
        raise BackupError(f"{path.name} could not be unpacked: {error}. Nothing was changed") from error


def _refuse_traps(path: Path, arriving: Path, workspace: Path) -> None:
    """restic restores whatever was there, links and devices too. Of the settings, `_known` takes only known files."""
    needed = [workspace / "databases" / f"{name}.dump" for name in databases.NAMES] + [workspace / "images.tsv"]
    wrong = []
    for directory, names, files in (*os.walk(arriving), *os.walk(workspace)):
        wrong += [found for found in (Path(directory, name) for name in names) if found.is_symlink()]
        if directory.startswith(str(arriving)):
            found_images = [Path(directory, name) for name in files]
            needed += found_images
            wrong += [file for file in found_images if file != images.place_in(arriving, file.name)]
            wrong += [file for file in found_images if not backup_file.MEMBER.fullmatch(f"images/{file.name}")]
    wrong += [file for file in needed if not os.path.lexists(file) or not stat.S_ISREG(file.lstat().st_mode)]
    if wrong:
        raise backup_file.foreign(path, f"{wrong[0].name!a} is missing, or not what a backup has there")


def _missing(config: Config, about: backup_file.About, listed: Path) -> set[str]:
    """The images that the index names and that will be nowhere, except those that were lost before the backup."""
    known = set(about["missing images"])
    return {
        image.uuid
        for image in images.read_list(listed)
        if not images.place_in(config.arriving, image.uuid).exists()
        and not image.path(config.storage).exists()
        and image.uuid not in known
    }


def _change_places(config: Config, server: Server, workspace: Path) -> None:
    # Images are written to the disk first. So no image is missing, whichever of the two indexes is in place.
    moved = images.put_back(config.arriving, config.storage)
    os.sync()
    server.swap()
    say(f"the databases have changed places; {moved} images were put back")
    settings = workspace / "settings"
    _put_back_certificates(workspace / LETSENCRYPT, config.letsencrypt)
    for name, content in _known(settings / "tls", TLS):
        _write(config.settings / "tls" / name, content)
    for _, content in _known(settings / "credentials/backup", re.compile(re.escape(KEYCLOAK_SECRET))):
        _write(config.settings / "credentials/backup" / KEYCLOAK_SECRET, content)
    # The images that the importer has sent since the backup are gone. Without its journal, it reads all waiting folders
    # again.
    for file in config.journal.glob("journal.sqlite*"):
        file.unlink()
    # Nothing in the cache is wrong, because no revision is used twice. But it must not keep images that were deleted.
    for entry in config.cache.iterdir() if config.cache.is_dir() else ():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _known(directory: Path, known: re.Pattern[str]) -> Iterator[tuple[str, bytes]]:
    """Name and content of the known small files in a directory. Other files there are reported."""
    for file in sorted(directory.rglob("*")):
        name, mode = str(file.relative_to(directory)), file.lstat().st_mode
        if stat.S_ISDIR(mode):
            continue
        if stat.S_ISREG(mode) and file.stat().st_size <= SMALL_BYTES and known.fullmatch(name):
            yield name, file.read_bytes()
        else:
            say(f"not put back, because it is not the platform's: {printable(f'{directory.name}/{name}')}")


def _write(target: Path, content: bytes) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    target.touch(mode=0o600)
    target.write_bytes(content)


def _put_back_certificates(kept: Path, place: Path) -> None:
    """All of certbot's files or none: it numbers certificates, and numbers of two hosts must not mix.

    Its hooks are programs: the author of the backup would choose the programs that root runs. This host's hooks stay.
    """
    if not (found := dict(_known(kept, CERTBOT))):
        return
    for part in ("accounts", "archive", "live", "renewal"):
        shutil.rmtree(place / part, ignore_errors=True)
    renewal = re.compile(RENEWAL.replace("PLACE", re.escape(str(place))))
    for name, content in found.items():
        if name.startswith("renewal/"):
            lines = content.decode(errors="replace").split("\n")
            for strange in (line for line in lines if not renewal.fullmatch(line)):
                say(f"not put back of letsencrypt/{name}: {printable(strange)}")
            content = "\n".join(line for line in lines if renewal.fullmatch(line)).encode()
        _write(place / name, content)
    # A backup file holds files only. Each of certbot's links is made again and leads to the newest file of its kind.
    for newest in sorted(
        (place / "archive").glob("*/*.pem"), key=lambda file: int("".join(filter(str.isdigit, file.stem)))
    ):
        link = place / "live" / newest.parent.name / (newest.stem.rstrip("0123456789") + ".pem")
        link.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(Path("../../archive") / newest.relative_to(place / "archive"))


def _verify(
    config: Config, server: Server, about: backup_file.About, listed: Path, every: bool, forgiven: set[str]
) -> None:
    """Compare the present state with the backup's description, except `forgiven` images. Raises BackupError."""
    wrong = []
    for name in databases.NAMES:
        with server.connect(name) as connection:
            for what, count in databases.counts(name, connection).items():
                say(f"{what}: {count}")
                if count != about["counts"][what]:
                    wrong.append(f"{count} {what} instead of {about['counts'][what]}")
    found = images.verify(listed, config.storage, every)
    say(
        f"{found.named} files are named by the index: {len(found.missing)} missing, {len(found.damaged)} damaged "
        f"(size of all, MD5 of {found.compared}); {found.orphans} more files are in the store that it does not name"
    )
    newly = sorted(set(found.missing) - set(about["missing images"]) - forgiven)
    for uuids, what in ((newly, "missing"), (found.damaged, "damaged")):
        if uuids:
            wrong.append(f"{len(uuids)} images {what}, such as {', '.join(uuids[:3])}")
    if wrong:
        raise BackupError(f"the databases were restored, but not all is as it was: {'; '.join(wrong)}")
    if forgiven:
        say(f"WARNING: {len(forgiven)} images are missing, as ALLOW_MISSING=1 allows; their studies cannot be opened")
    say(f"verified: everything is as it was{', but for those images' if forgiven else ''}")


@contextlib.contextmanager
def _workspace(config: Config) -> Iterator[Path]:
    """The directory for the unpacked backup, empty at first. The remains of a restore that was killed are removed."""
    workspace = config.path / ".restoring"
    for directory in (workspace, config.arriving):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(mode=0o700)
    try:
        yield workspace
    finally:
        for directory in (workspace, config.arriving):
            shutil.rmtree(directory, ignore_errors=True)
