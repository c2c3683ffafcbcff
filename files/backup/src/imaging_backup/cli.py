"""The command: `imaging-backup create`, `push`, `check FILE`, `restore FILE`, and questions of people and drills."""

import argparse
import datetime
import io
import sys
from pathlib import Path

import psycopg

from imaging_backup import backup_file, create, metrics, repository, restore, retention
from imaging_backup.config import Config, load
from imaging_backup.errors import BackupError
from imaging_backup.lines import printable_lines
from imaging_backup.signing import Trust

CONFIG = Path("/etc/imaging/backup.toml")


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status."""
    parser = argparse.ArgumentParser(prog="imaging-backup", description="Backs the platform up, and restores it.")
    parser.add_argument("--config", type=Path, default=CONFIG, help="default: %(default)s")
    commands = parser.add_subparsers(dest="command", required=True)
    creating = commands.add_parser("create", help="make a backup and print its path")
    creating.add_argument("--include-images", action="store_true", help="with the images, not only the databases")
    pushing = commands.add_parser("push", help="put what is new into the repository and print the snapshot's name")
    pushing.add_argument("--adopt", action="store_true", help="also into what another host has filled")
    commands.add_parser("tidy", help="forget what is too old in the repository, and prove what is there")
    checking = commands.add_parser("check", help="prove a backup file and say what it is; changes nothing")
    checking.add_argument("--json", action="store_true", help="say it to a script")
    restoring = commands.add_parser("restore", help="put the platform back to what a backup file holds")
    restoring.add_argument("--verify-all", action="store_true", help="compare every image's MD5, not only a sample's")
    restoring.add_argument("--allow-missing", action="store_true", help="also when images are nowhere to be found")
    for command in (checking, restoring):
        command.add_argument("file", type=Path, help="a backup file, or repository[:ID] for a snapshot")
        command.add_argument(
            "--trust", default="", metavar="KEY", help="also if it is signed with another platform's key"
        )
        command.add_argument("--unsigned", action="store_true", help="also if nobody has signed it")
    commands.add_parser("list", help="print the backup files, newest first, and which key each says it is signed with")
    commands.add_parser("key", help="print the key (the public one) that this platform's backups are signed with")
    commands.add_parser("newest", help="print the path of the newest backup file")
    drilling = commands.add_parser("record-drill", help="tell the node exporter of a restore drill")
    drilling.add_argument(
        "--restored", type=Path, metavar="FILE", help="the backup file that came back, unless it failed"
    )
    drilling.add_argument("--seconds", type=float, default=0.0, help="how long that took")
    commands.add_parser("check-config", help="say whether the configuration can be used (Ansible does)")
    options = parser.parse_args(arguments)
    try:
        config = load(options.config)
        if options.command == "create":
            print(printable_lines(create.create(config, options.include_images or config.include_images)))
        elif options.command == "push":
            print(printable_lines(repository.push(config, options.adopt)))
        elif options.command == "tidy":
            repository.tidy(config)
        elif options.command == "check":
            about = restore.check(config, options.file, trust_of(config, options))
            print(restore.summary(about) if options.json else restore.describe(about))
        elif options.command == "restore":
            trust = trust_of(config, options)
            restore.restore(config, options.file, restore.Systemd(), trust, options.verify_all, options.allow_missing)
        elif options.command == "list":
            for path in retention.backup_files(config.path):
                print(printable_lines(f"{path} {path.stat().st_size / 1e6:.1f} MB, {backup_file.says(path)}"))
        elif options.command == "key":
            print(config.signing_key().public)
        elif options.command == "newest":
            print(printable_lines(newest(config)))
        elif options.command == "record-drill":
            record_drill(config, options.restored, options.seconds)
        else:
            with backup_file.packed(io.FileIO("/dev/null", "w"), config.recipients):
                pass
    except BackupError as error:
        print(f"imaging-backup: {printable_lines(error)}", file=sys.stderr)
        return 1
    except psycopg.Error as error:
        print(f"imaging-backup: PostgreSQL says: {printable_lines(error)}", file=sys.stderr)
        return 1
    return 0


def trust_of(config: Config, options: argparse.Namespace) -> Trust:
    """The keys whose backups this host accepts. Raises BackupError."""
    return Trust(config.signing_key().public, options.trust, options.unsigned)


def newest(config: Config) -> Path:
    """The newest backup file. Raises BackupError."""
    if found := retention.backup_files(config.path):
        return found[0]
    raise BackupError(f"there is no backup in {config.path}. Make one: imaging-backup create")


def record_drill(config: Config, restored: Path | None, seconds: float) -> None:
    """Report the result of a drill to the node exporter. Raises BackupError."""
    if not restored:
        metrics.write_failed_drill(config.metrics)
        return
    try:
        age = datetime.datetime.now(datetime.UTC) - retention.made_at(restored)
    except ValueError as error:
        raise BackupError(str(error)) from error
    metrics.write_drill(config.metrics, seconds, age.total_seconds() - seconds)
