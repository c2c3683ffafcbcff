"""The command `imaging-importer`: run, status, retry FOLDER, drop JOB, claims, release STUDY, rebuild, check-config."""

import argparse
import json
import logging
import os
import sys
import urllib.error
import urllib.request
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

from imaging_importer import settle, status
from imaging_importer.app import App
from imaging_importer.config import HOST_CREDENTIALS, Config, Secrets, load, load_secrets
from imaging_importer.orthanc import OrthancClient
from imaging_importer.printable import Formatter, printable
from imaging_importer.reasons import TransientError
from imaging_importer.rebuild import rebuild
from imaging_importer.registry import PostgresRegistry
from imaging_importer.spool import AnotherImporterError
from imaging_importer.strict_toml import SettingsError

CONFIG = Path("/etc/imaging/importer.toml")
SECRET = HOST_CREDENTIALS / "upload-secret"


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="imaging-importer", description="Imports delivered DICOM folders into Orthanc."
    )
    parser.add_argument("--config", type=Path, default=CONFIG, help="default: %(default)s")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="run the service (systemd does)")
    commands.add_parser("check-config", help="say whether the configuration can be used (Ansible does)")
    commands.add_parser("status", help="show what waits, what is being imported, what failed and why")
    retry = commands.add_parser("retry", help="deliver a failed folder again")
    retry.add_argument("folder", type=Path, help="the folder under failed/, with its REASON.txt")
    drop = commands.add_parser("drop", help="end a delivery that cannot end: what is not imported goes to failed/")
    drop.add_argument("job", help="as `status` names it")
    commands.add_parser("claims", help="list the studies that a clinic has claimed and no image came for")
    release = commands.add_parser("release", help="give such a claim up")
    release.add_argument("study", help="StudyInstanceUID")
    again = commands.add_parser("rebuild", help="compare the registry with Orthanc, and tell every difference")
    again.add_argument("--apply", action="store_true", help="make the registry agree; without it nothing is changed")
    again.add_argument(
        "--adopt", action="append", default=[], metavar="CLINIC",
        help="with --apply: studies that nobody owns and whose InstitutionName is this clinic's id become its own",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    try:
        config = load(options.config)
        if options.command == "check-config":
            return 0
        if options.command == "run":
            return run(config)
        if options.command == "rebuild":
            return show_differences(config, options.apply, set(options.adopt))
        if options.command == "claims":
            return show_claims(config)
        if options.command == "status":
            return show_status(config.http.url)
        if options.command == "drop":
            return tell(config.http.url, f"/jobs/{quote(options.job, safe='')}/drop")
        if options.command == "release":
            return tell(config.http.url, f"/claims/{quote(options.study, safe='')}/release")
        paths = config.paths
        print(f"back in the inbox: {printable(settle.put_back(options.folder, paths.failed, paths.inbox))}")
    except (SettingsError, AnotherImporterError, TransientError, OSError, ValueError) as error:
        print(f"imaging-importer: {printable(error)}", file=sys.stderr)
        return 1
    return 0


def run(config: Config) -> int:
    """Run the service until it is told to stop."""
    level = os.environ.get("IMAGING_LOG_LEVEL", "INFO")  # set by `make up-dev` alone
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    secrets = load_secrets()
    App(config, secrets, _registry(config, secrets)).run()
    return 0


def show_claims(config: Config) -> int:
    """Print the claims without any image."""
    for claim in _registry(config, load_secrets()).claims():
        print(f"{claim.clinic_id}  {claim.study_uid}  since {claim.since}")
    return 0


def show_differences(config: Config, apply: bool, adopt: set[str]) -> int:
    """Print the differences between registry and Orthanc, beside the running service or without it."""
    secrets = load_secrets()
    orthanc = OrthancClient(config.orthanc.url, config.orthanc.user, secrets.orthanc_password)
    found = mended = 0
    for difference in rebuild(orthanc, _registry(config, secrets), apply, adopt):
        print(printable(f"{difference.study_uid}: {difference.what}"), flush=True)
        found += 1
        mended += difference.mended
    if apply:
        print(f"{found} differences, {mended} of them mended")
    else:
        print(f"{found} differences; --apply would mend {mended} of them, nothing was changed")
    return 0


def show_status(url: str) -> int:
    """Print the status of the running importer."""
    with _ask("GET", url + "/status.json") as answer:
        print(status.as_text(json.load(answer)), end="")
    return 0


def tell(url: str, path: str) -> int:
    """Ask something of the running importer, and print its answer."""
    try:
        with _ask("POST", url + path) as answer:
            print(answer.read().decode(), end="")
    except urllib.error.HTTPError as error:
        print(f"imaging-importer: {error.read().decode().strip() or error}", file=sys.stderr)
        return 1
    return 0


def _registry(config: Config, secrets: Secrets) -> PostgresRegistry:
    return PostgresRegistry({**asdict(config.registry), "password": secrets.registry_password})


def _ask(method: str, url: str) -> Any:  # noqa: ANN401 - urllib's
    """The running importer's answer. Only root can read the secret that it needs. Raises ValueError with advice."""
    try:
        headers = {"Authorization": f"Bearer {SECRET.read_text('utf-8').strip()}", "X-Clinics": "*"}
    except PermissionError:
        raise ValueError("the importer names folders of patients and listens to root alone: use sudo") from None
    request = urllib.request.Request(url, headers=headers, method=method)  # noqa: S310 - http, from our configuration
    try:
        return urllib.request.urlopen(request, timeout=30)  # noqa: S310
    except urllib.error.HTTPError:
        raise
    except urllib.error.URLError as error:
        raise ValueError(f"the service does not answer on {url} ({error.reason})") from error
