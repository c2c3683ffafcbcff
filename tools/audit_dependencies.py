#!/usr/bin/env python3
"""Say which of the pinned packages have known vulnerabilities, and fail for each that is no exception with a reason.

pip-audit audits the Python packages, with every hash of requirements*.txt. npm audits the viewer: the package and the
dependencies that it pins exactly. More cannot be known of code that comes bundled. A service that cannot be asked is
named, and fails nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "files/viewer")]

from outdated import UnknownError  # noqa: E402
from prepare import PACKAGE, PreparationError, fetch, npm  # noqa: E402

EXCEPTIONS: dict[str, str] = {}
"""Identifiers of vulnerabilities that do not concern us, each with the reason."""


@dataclass(frozen=True)
class Vulnerability:
    """One advisory about one pinned package; names are all its identifiers (CVE, GHSA, PYSEC)."""

    package: str
    version: str
    names: frozenset[str]
    remedy: str

    def __str__(self) -> str:
        return f"{self.package} {self.version}: {', '.join(sorted(self.names))}; {self.remedy}"


@dataclass(frozen=True)
class Audit:
    """The advisories, the number of packages, and the packages that nobody knows."""

    audited: int
    found: list[Vulnerability]
    unknown: list[str]


def answer_of(command: list[str], directory: Path) -> dict[str, Any]:
    """The JSON that a client prints, whether it found anything or not. Raises UnknownError."""
    try:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, timeout=600)
        answer: dict[str, Any] = json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnknownError(str(error)) from error
    except json.JSONDecodeError as error:
        raise UnknownError(done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}") from error
    return answer


def python_packages() -> Audit:
    """The packages pinned in requirements*.txt. Raises UnknownError."""
    files = [f"--requirement={path}" for path in sorted(ROOT.glob("requirements*.txt"))]
    command = [sys.executable, "-m", "pip_audit", *files, "--require-hashes", "--disable-pip", "--format=json"]
    packages = answer_of([*command, "--progress-spinner=off", "--desc=off"], ROOT)["dependencies"]
    # pip-audit also succeeds if its service knows nothing at all.
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    if len(unknown) == len(packages):
        raise UnknownError(packages[0]["skip_reason"] if packages else "pip-audit saw no package")
    found = [
        Vulnerability(
            package["name"],
            package["version"],
            frozenset({each["id"], *each["aliases"]}),
            f"mended in {', '.join(each['fix_versions'])}" if each["fix_versions"] else "not mended yet",
        )
        for package in packages
        for each in package.get("vulns", [])
    ]
    return Audit(len(packages) - len(unknown), found, unknown)


def lock_file(package: dict[str, Any]) -> dict[str, Any]:
    """npm's lock file of a package and the dependencies that it pins exactly; its own siblings are part of it."""
    name, scope = package["name"], package["name"].partition("/")[0]
    pinned = {name: package["version"]} | {
        other: version
        for other, version in package.get("dependencies", {}).items()
        if version[0].isdigit() and not other.startswith(f"{scope}/")
    }
    places = {f"node_modules/{other}": {"version": version} for other, version in pinned.items()}
    return {
        "name": "audit",
        "lockfileVersion": 3,
        "packages": {"": {"name": "audit", "dependencies": pinned}, **places},
    }


def viewer(version: str, integrity: str, artifacts: Path) -> Audit:
    """The packages pinned for the viewer. Raises UnknownError."""
    try:
        with tarfile.open(fetch(version, integrity, artifacts)) as archive:
            content = archive.extractfile("package/package.json")
            package = json.load(content) if content else {}
        client = npm()
    except (OSError, PreparationError, subprocess.TimeoutExpired) as error:
        raise UnknownError(str(error)) from error
    lock = lock_file(package)
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "package.json").write_text(json.dumps(lock["packages"][""]))
        Path(directory, "package-lock.json").write_text(json.dumps(lock))
        answer = answer_of([*client, "audit", "--package-lock-only", "--json"], Path(directory))
    if "vulnerabilities" not in answer:
        raise UnknownError(answer.get("message") or "npm said nothing of vulnerabilities")
    pinned: dict[str, str] = lock["packages"][""]["dependencies"]
    found = [
        Vulnerability(
            name, pinned[name], frozenset({each["url"].rpartition("/")[2]}), f"{each['title']} ({each['severity']})"
        )
        for name, entry in answer["vulnerabilities"].items()
        for each in entry["via"]
        # A text is the name of the other entry from which it comes.
        if isinstance(each, dict)
    ]
    return Audit(len(pinned), found, [])


def main() -> int:
    """Audit all; 1 if anything is found that is no exception."""
    versions = yaml.safe_load((ROOT / "vars/versions.yml").read_text())
    artifacts = Path.home() / ".cache/imaging-platform"
    artifacts.mkdir(parents=True, exist_ok=True)
    audits: dict[str, Callable[[], Audit]] = {
        "Python packages": python_packages,
        f"The viewer ({PACKAGE})": lambda: viewer(versions["viewer_version"], versions["viewer_integrity"], artifacts),
    }
    failed = False
    for what, audit in audits.items():
        try:
            result = audit()
        except UnknownError as error:
            print(f"{what}: not audited, the vulnerabilities' data cannot be reached: {error}")
            continue
        print(f"{what}: {result.audited} audited, {len(result.found) or 'no'} known vulnerabilities")
        if result.unknown:
            print(f"  not audited, unknown to the service: {', '.join(result.unknown)}")
        for vulnerability in result.found:
            reasons = [EXCEPTIONS[name] for name in vulnerability.names if name in EXCEPTIONS]
            print(f"  {vulnerability}{''.join(f' (excepted: {reason})' for reason in reasons)}")
            failed |= not reasons
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
