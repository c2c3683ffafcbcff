"""The continuous backup: puts the content of a backup file into a repository of restic, which stores only changes.

The databases lie there as dumps that are not compressed, so that restic finds the parts that have not changed. The
images have second names, so that an image that is deleted meanwhile is still there (see `images.Links`). One snapshot
of restic therefore holds databases and images of one moment, as one backup file does.

restic names everything by its SHA-256, up to the one tree of a snapshot, and checks the names when it reads. So the
signature of the tree's name covers every byte. The signature follows as a small snapshot of its own. To add a tag
later, restic would need the repository for itself, and somebody may read there for hours.
"""

import contextlib
import json
import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imaging_backup import backup_file, metrics
from imaging_backup.config import KEYCLOAK_SECRET, LETSENCRYPT, Config, credentials
from imaging_backup.create import IMAGES, alone, collect, making, say, signed_with
from imaging_backup.errors import BackupError
from imaging_backup.images import Links, read_list
from imaging_backup.signing import SigningKey, Trust, is_signed

NAME = re.compile(r"repository(:(latest|[0-9a-f]{8,64}))?")
TAG = "imaging"
SIGNATURE = "imaging-signature"  # tag of a snapshot that signs another, which its other tags name
# Exit codes of restic(1).
NO_REPOSITORY, LOCKED, WRONG_PASSWORD = 10, 11, 12
# The part of the images that each check reads, beside restic's index. The weekly checks of a year read all of it.
READ_AGAIN = "--read-data-subset=2%"


def push(config: Config, adopt: bool = False) -> str:
    """Put the present state into the repository, which the first push makes; return the snapshot. Raises BackupError.

    With `adopt`, it may also be a repository that a lost host has filled.
    """
    begun = time.monotonic()
    restic, links, key = Restic(config), Links(config.storage, config.held), config.signing_key()
    with alone(config.path):
        _look_whose_it_is(config, restic, adopt)
        with making(config) as workspace:
            about, missing = collect(config, workspace, links)
            links.keep_only(read_list(workspace / IMAGES))
            (workspace / backup_file.ABOUT).write_bytes(backup_file.write_about(about))
            certificates = [config.letsencrypt] if config.letsencrypt.is_dir() else []
            # A nightly backup file gives each image one more name for a while. That is no change of the image.
            options = ("--ignore-ctime", "--host", config.domain, "--tag", TAG, f"--exclude={config.never_kept}")
            added, snapshot = restic.backup(
                *options, *map(str, (workspace, config.settings, *certificates, config.held))
            )
            _sign(config, restic, snapshot, key)
    seconds = time.monotonic() - begun
    metrics.write_push(config.metrics, added, seconds, len(missing))
    say(signed_with(key.public))
    say(f"done: {added / 1e6:.1f} MB were new, {seconds:.0f} s")
    return f"repository:{snapshot}"


def _sign(config: Config, restic: "Restic", identifier: str, key: SigningKey) -> None:
    (made,) = json.loads(restic.run("snapshots", "--json", identifier))
    tags = {"of": made["id"], "key": key.public, "signature": key.sign(_content_of(made)).hex()}
    said = ",".join((SIGNATURE, *(f"{name}={value}" for name, value in tags.items())))
    options = ("--host", config.domain, "--tag", said, "--stdin", "--stdin-filename", "signature")
    restic.backup(*options, stdin=tags["signature"])


def _content_of(snapshot: dict[str, Any]) -> bytes:
    """The signed text about a snapshot: its time, its directories, and the SHA-256 of its whole content."""
    return f"snapshot {json.dumps([snapshot[part] for part in ('time', 'tree', 'paths')])}\n".encode()


def _signatures(restic: "Restic") -> dict[str, list[dict[str, str]]]:
    """Key and signature that the repository has for each snapshot. It has several if somebody has added others."""
    found: dict[str, list[dict[str, str]]] = {}
    for one in json.loads(restic.run("snapshots", "--json", "--tag", SIGNATURE)):
        said = dict(tag.split("=", 1) for tag in one["tags"] if "=" in tag)
        found.setdefault(said.get("of", ""), []).append({**said, "id": str(one["id"])})
    return found


def _demand_signature(
    what: str, snapshot: dict[str, Any], signatures: list[dict[str, str]], trust: Trust
) -> str | None:
    """Refuse a snapshot without a signature by a key that `trust` has; return the key. Raises BackupError."""
    for said in signatures:
        with contextlib.suppress(BackupError, KeyError, ValueError):
            trust.demand(what, said["key"])
            if is_signed(said["key"], bytes.fromhex(said["signature"]), _content_of(snapshot)):
                return said["key"]
    key = signatures[0].get("key", "") if signatures else None
    trust.demand(what, key)
    if key is not None:
        raise BackupError(
            f"{what} is FORGED: its signature is not by the key {key}, as it says. Take another backup, and find "
            "out who has the repository's password. Nothing was changed"
        )
    return None


def _look_whose_it_is(config: Config, restic: "Restic", adopt: bool) -> None:
    """Refuse to put the empty state of a new host on top of the snapshots of a lost one. Raises BackupError."""
    if not restic.exists():
        restic.run("init")
        say(f"made the repository {config.repository}")
    elif not (adopt or _continued(config)) and json.loads(restic.run("snapshots", "--json", "--tag", TAG)):
        raise BackupError(
            f"{config.repository} holds backups, and this host is not what they were made of. Restore them first: make "
            "restore BACKUP_FILE=repository. To go on from what is on this host instead: imaging-backup push --adopt"
        )
    continue_from(config)


def continue_from(config: Config) -> None:
    """Remember that the content of the repository, if there is one, comes from this host."""
    if config.repository:
        _mark(config).write_text(config.repository)


def _continued(config: Config) -> bool:
    return _mark(config).exists() and _mark(config).read_text() == config.repository


def _mark(config: Config) -> Path:
    return config.path / ".repository"


def tidy(config: Config) -> None:
    """Remove old snapshots, and check whether the repository is whole. Raises BackupError."""
    restic = Restic(config)
    with alone(config.path):
        # Locks of runs that were killed. To remove snapshots, restic needs the repository for itself.
        restic.run("unlock")
        restic.run(
            *("forget", "--host", config.domain, "--tag", TAG, "--group-by", "host"),
            *("--keep-within", "2d", "--keep-daily", str(config.keep_days), "--keep-monthly", "12"),
        )
        kept = {str(one["id"]) for one in json.loads(restic.run("snapshots", "--json", "--tag", TAG))}
        if gone := [one["id"] for of, signed in _signatures(restic).items() if of not in kept for one in signed]:
            restic.run("forget", *gone)
        restic.run("prune")
        restic.run("check", READ_AGAIN)
    metrics.write_check(config.metrics)
    say("the repository is whole, and what is too old is gone from it")


def is_snapshot(path: Path) -> bool:
    """Whether this names a snapshot: `repository` (the newest) or `repository:ID`. A file's path begins with /."""
    return NAME.fullmatch(str(path)) is not None


@dataclass(frozen=True)
class Snapshot:
    """A moment in the repository, with the same content as a backup file."""

    restic: "Restic"
    identifier: str
    paths: list[str]
    key: str | None  # the key that has signed it

    def about(self) -> backup_file.About:
        """Its description. Raises BackupError."""
        text = self.restic.run("dump", self.identifier, f"{self._making}/{backup_file.ABOUT}")
        about = backup_file.read_about(Path(f"repository:{self.identifier[:8]}"), text.encode())
        return about if self.key is None else {**about, "key": self.key}

    def fetch(self, workspace: Path, arriving: Path) -> None:
        """Fetch databases and settings to `workspace`, images to `arriving`. restic checks each byte it fetches."""
        settings = workspace / "settings"
        self._bring(self._making, workspace)
        self._bring(self._ending("/.held"), arriving)
        secret = f"/credentials/backup/{KEYCLOAK_SECRET}"
        self._bring(self._ending("/imaging"), settings, "--include", "/tls", "--include", secret)
        certificates = ("--include", "/accounts", "--include", "/archive", "--include", "/renewal")
        with contextlib.suppress(StopIteration):
            self._bring(self._ending("/letsencrypt"), workspace / LETSENCRYPT, *certificates)

    @property
    def _making(self) -> str:
        return self._ending("/.making")

    def _ending(self, name: str) -> str:
        return next(path for path in self.paths if path.endswith(name))

    def _bring(self, path: str, target: Path, *options: str) -> None:
        self.restic.run("restore", f"{self.identifier}:{path}", "--target", str(target), *options)


def find(config: Config, path: Path, trust: Trust) -> Snapshot:
    """The snapshot of a name, if it is signed as `trust` demands. Raises BackupError."""
    restic = Restic(config)
    wanted = str(path).partition(":")[2].removeprefix("latest")
    found = json.loads(restic.run("snapshots", "--json", "--tag", TAG, *([wanted] if wanted else [])))
    if not found:
        raise BackupError(f"there is no backup in {config.repository}. Nothing was changed")
    signatures = _signatures(restic)
    # A push that was killed has left a snapshot without a signature. It does not hide the earlier ones.
    signed = [one for one in found if one["id"] in signatures]
    newest = max(found if trust.unsigned else signed or found, key=lambda one: str(one["time"]))
    say(f"snapshot {newest['short_id']} of {newest['time'][:19]}")
    what = f"the snapshot repository:{newest['short_id']}"
    key = _demand_signature(what, newest, signatures.get(newest["id"], []), trust)
    return Snapshot(restic, newest["id"], newest["paths"], key)


class Restic:
    """restic(1) with this host's repository. Raises BackupError for everything that keeps restic from its work."""

    def __init__(self, config: Config) -> None:
        if not config.repository:
            raise BackupError("no repository is configured: imaging_backup_repository in the inventory names one")
        self._repository = config.repository
        directory = credentials()
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RESTIC_"))},
            "RESTIC_REPOSITORY": config.repository,
            "RESTIC_PASSWORD_FILE": str(directory / "repository-password"),
            "RESTIC_CACHE_DIR": str(config.repository_cache),
            "AWS_SHARED_CREDENTIALS_FILE": str(directory / "repository-s3"),
        }
        known = f"-o UserKnownHostsFile={directory / 'repository-known-hosts'} -o StrictHostKeyChecking=yes"
        self._options = (
            ["-o", f"sftp.args=-i {directory / 'repository-key'} {known} -o BatchMode=yes"]
            if config.repository.startswith("sftp:")
            else []
        )

    def exists(self) -> bool:
        """Whether there is a repository yet."""
        done = self._start("cat", "config")
        if done.returncode not in (0, NO_REPOSITORY):
            raise self._failure("cat", done)
        return done.returncode == 0

    def backup(self, *arguments: str, stdin: str = "") -> tuple[int, str]:
        """Add files; return how many bytes were new, and the snapshot."""
        summary = json.loads(self.run("backup", "--json", "--quiet", *arguments, stdin=stdin).splitlines()[-1])
        return int(summary["data_added"]), str(summary["snapshot_id"])[:8]

    def run(self, *arguments: str, stdin: str = "") -> str:
        """Run a command; return its output."""
        done = self._start(*arguments, "--retry-lock", "5m", stdin=stdin)
        if done.returncode:
            raise self._failure(arguments[0], done)
        return done.stdout

    def _start(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = ["restic", *self._options, *arguments]
        try:
            return subprocess.run(  # noqa: S603
                command, env=self._environment, input=stdin, capture_output=True, text=True, check=False
            )
        except FileNotFoundError as error:
            raise BackupError("restic is not installed: deploy with imaging_backup_repository set") from error

    def _failure(self, command: str, done: subprocess.CompletedProcess[str]) -> BackupError:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        why = {
            NO_REPOSITORY: "there is no repository yet; the first backup makes it",
            LOCKED: "another program holds it; `restic unlock` removes the lock of one that died",
            WRONG_PASSWORD: "its password is another one: imaging_secrets_path on the controller must be the one of "
            "the platform that made it",
        }.get(done.returncode, lines[-1] if lines else f"exit code {done.returncode}")
        return BackupError(f"restic {command} with {self._repository} failed: {why}")
