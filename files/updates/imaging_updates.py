"""Finds newer versions in Debian testing of this host's packages from it, and the known holes that they close.

`imaging-updates check` asks the mirror and, if it can be reached, Debian's security tracker. It leaves the answer for
Prometheus (once a day by its timer). `imaging-updates pending` prints the packages as JSON, from the lists of apt on
the host. `imaging-updates stale` prints the platform's units that still use a library that was replaced.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
import warnings
import zlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeAlias

from strict_toml import SettingsError, read

CONFIGURATION = Path("/etc/imaging/updates.toml")
TIMEOUT = 60
LARGEST_ANSWER = 64 << 20
METRIC = "imaging_testing"
HELP = {
    "packages": "Packages of this host that come from Debian testing.",
    "updates_pending": "Those of them of which testing has a newer version.",
    "vulnerabilities": "Known holes in them that testing's version closes. Missing where the tracker was not reached.",
    "vulnerabilities_unfixed": "Known holes in them that testing has no version against yet. Likewise.",
    "mirror_timestamp_seconds": "As of when the mirror has testing, in Unix time.",
    "last_check_timestamp_seconds": "When the mirror last answered, in Unix time; 0: never.",
}

Apt: TypeAlias = Any
"""Debian's library apt_pkg, which has no types."""
Compare = Callable[[str, str], int]
"""Which of two versions is newer, as Debian compares them: below, at or above 0."""


@dataclass(frozen=True)
class Config:
    """All settings."""

    sources: Path  # path of apt's source of Debian testing
    tracker: str  # address of Debian's security tracker; if empty, it is not asked
    metrics: Path  # directory of the node exporter's textfile collector


@dataclass(frozen=True)
class Installed:
    """A package that came from testing, with its source, in which holes are known."""

    name: str
    version: str
    source: str
    source_version: str


@dataclass(frozen=True)
class Hole:
    """A known vulnerability of an installed package."""

    name: str
    package: str
    fixed: bool


def came_from_testing(installed: str, elsewhere: Iterable[str], compare: Compare) -> bool:
    """Whether no other source has this version or a newer one. Testing itself may have a newer one since."""
    return all(compare(version, installed) < 0 for version in elsewhere)


def holes(data: str, packages: Iterable[Installed], compare: Compare) -> list[Hole]:
    """The tracker's data for debsecan (format 1) about the packages.

    There are three lists, each ended by an empty line. The first is of names. The second has for each package the
    number of a name, flags, the version that fixes the hole in unstable, and other fixed versions. The flags are `B`
    for a binary package, the urgency, remote, and `F` if it is fixed in the suite. The third list is not used. Raises
    ValueError.
    """
    names, vulnerable = (part.split("\n") for part in (*data.split("\n\n"), "")[:2])
    if names.pop(0) != "VERSION 1":
        raise ValueError("the security tracker answers in a form that is not known here")
    found = []
    by_name: dict[str, list[Installed]] = {}
    for package in packages:
        for name in {package.name, package.source}:
            by_name.setdefault(name, []).append(package)
    for line in filter(None, vulnerable):
        name, number, flags, fixed_in, others = line.split(",", 4)
        for package in by_name.get(name, []):
            of_binary = flags[0] == "B"
            version = package.version if of_binary else package.source_version
            if name != (package.name if of_binary else package.source) or version in others.split():
                continue
            if not fixed_in or compare(version, fixed_in) < 0:
                found.append(Hole(names[int(number)].split(",")[0], package.name, flags[3] == "F"))
    return found


def metrics(values: dict[str, float]) -> str:
    """Prometheus' text format."""
    return "".join(
        f"# HELP {METRIC}_{name} {HELP[name]}\n# TYPE {METRIC}_{name} gauge\n{METRIC}_{name} {value:.0f}\n"
        for name, value in values.items()
    )


def write(path: Path, values: dict[str, float]) -> None:
    """Leave it for the node exporter. Write a file beside it and rename that, because it may be read at any moment."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(metrics(values), encoding="ascii")
    draft.chmod(0o644)
    draft.rename(path)


# --- what apt knows --------------------------------------------------------------------------------------------------


def apt() -> Apt:
    """The library, with the settings of the host."""
    import apt_pkg  # type: ignore[import-not-found]

    apt_pkg.init()
    return apt_pkg


def installed_from_testing(apt_pkg: Apt) -> list[Installed]:
    """By the lists of the host, which apt updates every day."""
    cache = apt_pkg.Cache(None)
    records = apt_pkg.PackageRecords(cache)
    found = []
    for package in cache.packages:
        if package.current_ver is None:
            continue
        elsewhere, testing = [], False
        for version in package.version_list:
            archives = {file.archive for file, _ in version.file_list if not file.not_source}
            testing = testing or "testing" in archives
            if archives - {"testing"}:
                elsewhere.append(version.ver_str)
        current = package.current_ver
        if testing and came_from_testing(current.ver_str, elsewhere, apt_pkg.version_compare):
            records.lookup(current.file_list[0])
            source = records.source_pkg or package.name, records.source_ver or current.ver_str
            found.append(Installed(package.name, current.ver_str, *source))
    return sorted(found, key=lambda one: one.name)


def newer(apt_pkg: Apt, packages: list[Installed]) -> dict[str, str]:
    """The packages that have a newer version in testing, and that version, by the lists that apt_pkg is set to."""
    here = {one.name: one.version for one in packages}
    found: dict[str, str] = {}
    for package in apt_pkg.Cache(None).packages:
        if package.name not in here or package.current_ver is None:
            continue
        for version in package.version_list:
            from_testing = any(file.archive == "testing" for file, _ in version.file_list)
            known = found.get(package.name, here[package.name])
            if from_testing and apt_pkg.version_compare(version.ver_str, known) > 0:
                found[package.name] = version.ver_str
    return found


def ask_mirror(apt_pkg: Apt, sources: Path, directory: Path) -> dict[str, str]:
    """Update lists of our own, of testing only; return the mirror's description of its state. Raises SystemError.

    It does not use the host's lists: it must fail if testing alone cannot be reached, and must change nothing for apt.
    """
    settings = {
        "Dir::State::Lists": f"{directory}/lists/",
        "Dir::Cache": f"{directory}/cache/",
        "Dir::Cache::pkgcache": "",
        "Dir::Cache::srcpkgcache": "",
        "Dir::Etc::SourceList": str(sources),
        "Dir::Etc::SourceParts": "/dev/null",
        "APT::Update::Error-Mode": "any",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Acquire::Retries": "2",
    }
    for name, value in settings.items():
        apt_pkg.config.set(name, value)
    for hook in ("Pre-Invoke", "Post-Invoke", "Post-Invoke-Success"):
        apt_pkg.config.clear(f"APT::Update::{hook}")
    for part in ("lists/partial", "cache/archives/partial"):
        (directory / part).mkdir(parents=True, exist_ok=True)
    from apt.progress.base import AcquireProgress  # type: ignore[import-not-found]

    listed = apt_pkg.SourceList()
    listed.read_main_list()
    with warnings.catch_warnings():
        # apt would give its files to another user, which the unit has no right to do.
        warnings.simplefilter("ignore")
        apt_pkg.Cache(None).update(AcquireProgress(), listed, 0)
    (release,) = (directory / "lists").glob("*_InRelease")
    return dict(re.findall(r"^(\w+): (.+)$", release.read_text(), re.MULTILINE))


def ask_tracker(address: str, codename: str) -> str:
    """Debian's data for debsecan. Raises OSError, ValueError and zlib.error."""
    with urllib.request.urlopen(f"{address}/{codename}", timeout=TIMEOUT) as answer:  # noqa: S310 # root's own file
        inflate = zlib.decompressobj()
        data = inflate.decompress(answer.read(LARGEST_ANSWER), LARGEST_ANSWER)
    if inflate.unconsumed_tail or not inflate.eof:
        raise ValueError("the security tracker's answer is incomplete, or larger than it can be")
    return data.decode()


# --- commands --------------------------------------------------------------------------------------------------------


def check(config: Config, directory: Path) -> int:
    """Ask both, print the result, and leave it for Prometheus. A source that cannot be asked is no failure."""
    path = config.metrics / "imaging-updates.prom"
    apt_pkg = apt()
    packages = installed_from_testing(apt_pkg)
    try:
        release = ask_mirror(apt_pkg, config.sources, directory)
    except SystemError as error:
        print(f"The mirror was not reached, so nothing is known of updates: {error}")
        if not path.exists():
            write(path, {"last_check_timestamp_seconds": 0})
        return 0
    pending = newer(apt_pkg, packages)
    values: dict[str, float] = {"packages": len(packages), "updates_pending": len(pending)}
    for package in packages:
        if package.name in pending:
            print(f"{package.name} {package.version} is here, testing has {pending[package.name]}")
    if config.tracker:
        try:
            data = ask_tracker(config.tracker, release["Codename"])
            found = holes(data, packages, apt_pkg.version_compare)
        except (OSError, ValueError, zlib.error) as error:
            print(f"The security tracker was not reached, so of holes nothing is known: {error}")
        else:
            for hole in sorted(found, key=lambda hole: (not hole.fixed, hole.package, hole.name)):
                print(f"{hole.package}: {hole.name}, {'closed' if hole.fixed else 'not closed yet'} in testing")
            values["vulnerabilities"] = sum(hole.fixed for hole in found)
            values["vulnerabilities_unfixed"] = sum(not hole.fixed for hole in found)
    values["mirror_timestamp_seconds"] = parsedate_to_datetime(release["Date"]).timestamp()
    values["last_check_timestamp_seconds"] = time.time()
    write(path, values)
    print(f"{len(packages)} packages of testing, {len(pending)} of them with a newer version")
    return 0


def pending() -> int:
    """Print the packages that `make update-testing` would take, by the host's own lists."""
    apt_pkg = apt()
    packages = installed_from_testing(apt_pkg)
    found = newer(apt_pkg, packages)
    print(json.dumps([{**asdict(one), "newer": found[one.name]} for one in packages if one.name in found], indent=2))
    return 0


def units_of_the_platform() -> set[str]:
    """The units that imaging.target starts. Others are not ours to restart."""
    command = ["systemctl", "show", "--property=Wants", "--value", "imaging.target"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())  # noqa: S603


def stale(ours: set[str], processes: Path = Path("/proc")) -> int:
    """Print the units whose processes use a library that is no longer on the disk."""
    units = set()
    for process in processes.glob("[0-9]*"):
        try:
            replaced = re.search(r" /usr/lib/\S+\.so\S* \(deleted\)$", (process / "maps").read_text(), re.MULTILINE)
            unit = re.search(r"/([^/\n]+\.service)(?:/|$)", (process / "cgroup").read_text())
        except OSError:  # it has ended
            continue
        if replaced and unit and unit[1] in ours:
            units.add(unit[1])
    print("\n".join(sorted(units)), end="\n" if units else "")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run one of the commands."""
    parser = argparse.ArgumentParser(prog="imaging-updates", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=["check", "check-config", "pending", "stale"])
    parser.add_argument("--config", type=Path, default=CONFIGURATION, help="default: %(default)s")
    options = parser.parse_args(arguments)
    command = options.command
    if command == "pending":
        return pending()
    if command == "stale":
        return stale(units_of_the_platform())
    try:
        config = read(Config, options.config)
    except SettingsError as error:
        sys.exit(f"imaging-updates: {error}")
    return 0 if command == "check-config" else check(config, Path(os.environ["STATE_DIRECTORY"]))


if __name__ == "__main__":
    sys.exit(main())
