"""The command: `imaging-importer run`, `status`, `retry FOLDER`, `rebuild`."""

import argparse
import json
import logging
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

from imaging_importer import archive, status
from imaging_importer.app import App
from imaging_importer.config import HOST_CREDENTIALS, Config, ConfigError, load, load_paths
from imaging_importer.orthanc import OrthancClient
from imaging_importer.printable import Formatter, printable
from imaging_importer.reasons import TransientError
from imaging_importer.rebuild import rebuild
from imaging_importer.registry import PostgresRegistry
from imaging_importer.spool import AnotherImporterError

CONFIG = Path("/etc/imaging/importer.toml")
SECRET = HOST_CREDENTIALS / "door-secret"


def main(arguments: list[str] | None = None) -> int:
    """Run a command; its exit status."""
    parser = argparse.ArgumentParser(
        prog="imaging-importer", description="Imports delivered DICOM folders into Orthanc."
    )
    parser.add_argument("--config", type=Path, default=CONFIG, help="default: %(default)s")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="run the service (systemd does)")
    commands.add_parser("status", help="show what waits, what is being imported, what failed and why")
    retry = commands.add_parser("retry", help="deliver a failed folder again")
    retry.add_argument("folder", type=Path, help="the folder under failed/, with its REASON.txt")
    again = commands.add_parser("rebuild", help="compare the registry with Orthanc, and tell every difference")
    again.add_argument("--apply", action="store_true", help="make the registry agree; without it nothing is changed")
    options = parser.parse_args(arguments)
    try:
        if options.command == "run":
            return run(load(options.config))
        if options.command == "rebuild":
            return show_differences(load(options.config), options.apply)
        paths = load_paths(options.config)
        if options.command == "status":
            return show_status(paths.status_url)
        print(f"back in the inbox: {printable(archive.put_back(options.folder, paths.failed, paths.inbox))}")
    except (ConfigError, AnotherImporterError, TransientError, OSError, ValueError) as error:
        print(f"imaging-importer: {printable(error)}", file=sys.stderr)
        return 1
    return 0


def run(config: Config) -> int:
    """Run the service until it is told to stop."""
    level = os.environ.get("IMAGING_LOG_LEVEL", "INFO")  # set by `make up-dev` alone
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    App(config, PostgresRegistry(config.registry)).run()
    return 0


def show_differences(config: Config, apply: bool) -> int:
    """Print where registry and Orthanc disagree; beside the running service or without it."""
    orthanc = OrthancClient(config.orthanc_url, config.orthanc_user, config.orthanc_password)
    found = mended = 0
    for difference in rebuild(orthanc, PostgresRegistry(config.registry), apply):
        print(printable(f"{difference.study_uid}: {difference.what}"), flush=True)
        found += 1
        mended += difference.mended
    if apply:
        print(f"{found} differences, {mended} of them mended")
    else:
        print(f"{found} differences; --apply would mend {mended} of them, nothing was changed")
    return 0


def show_status(url: str) -> int:
    """Print what the running importer says. The secret that it asks for is root's to read."""
    try:
        headers = {"Authorization": f"Bearer {SECRET.read_text('utf-8').strip()}", "X-Clinics": "*"}
    except PermissionError:
        print("imaging-importer: the status names folders of patients and is for root: use sudo", file=sys.stderr)
        return 1
    try:
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 - http, from our own configuration
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            print(status.as_text(json.load(answer)), end="")
    except urllib.error.URLError as error:
        print(f"imaging-importer: the service does not answer on {url} ({error.reason})", file=sys.stderr)
        return 1
    return 0
