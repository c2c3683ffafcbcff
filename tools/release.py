#!/usr/bin/env python3
"""Check that this tree can be released, and print how to tag it; nothing is changed or pushed."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import access_document
import conformance_document
import variables_document
import yaml

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = {
    "docs/ACCESS.md": access_document.render,
    "docs/CONFORMANCE.md": conformance_document.render,
    "docs/VARIABLES.md": variables_document.render,
}


def version_of(root: Path) -> str:
    """The platform's version."""
    return str(yaml.safe_load((root / "vars/versions.yml").read_text())["imaging_version"])


def other_versions(root: Path) -> Iterator[str]:
    """The services with another version than the platform."""
    wanted = version_of(root)
    if not re.fullmatch(r"\d+\.\d+\.\d+", wanted):
        yield f"imaging_version in vars/versions.yml is {wanted}: it takes three numbers, as in 1.0.0"
    for path in sorted(root.glob("files/*/pyproject.toml")):
        found = tomllib.loads(path.read_text())["project"]["version"]
        if found != wanted:
            yield f"{path.relative_to(root)} has the version {found}, and vars/versions.yml has {wanted}"


def faults_of_the_changelog(root: Path) -> Iterator[str]:
    """The entries that CHANGELOG.md lacks or has in the wrong place."""
    wanted = version_of(root)
    _, *sections = re.split(r"^## ", (root / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    entries = {heading: text.strip() for heading, _, text in (section.partition("\n") for section in sections)}
    if entries.pop("Unreleased", ""):
        yield "CHANGELOG.md has entries under Unreleased: move them below the heading of this release"
    newest = next(iter(entries), "")
    if not re.fullmatch(rf"{re.escape(wanted)} \(\d{{4}}-\d{{2}}-\d{{2}}\)", newest):
        yield f"the newest release in CHANGELOG.md is '{newest}': it has to be {wanted} (year-month-day)"
    elif not entries[newest]:
        yield f"CHANGELOG.md says nothing of {newest}"


def stale_documents(root: Path) -> Iterator[str]:
    """The documents that differ from the output of `make docs`."""
    for name, render in DOCUMENTS.items():
        if (root / name).read_text() != render():
            yield f"{name} is not up to date: run `make docs`"


def state_of_git(root: Path) -> Iterator[str]:
    """The reasons of git against a release: changes without a commit, a version that has its tag."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout

    if changed := git("status", "--porcelain"):
        yield f"the tree has changes that are in no commit:\n{changed.rstrip()}"
    if git("tag", "--list", f"v{version_of(root)}"):
        yield f"there is a tag v{version_of(root)} already: raise imaging_version in vars/versions.yml"


def faults(root: Path) -> list[str]:
    """All reasons against a release of this tree."""
    checks = (other_versions, faults_of_the_changelog, stale_documents, state_of_git)
    return [fault for check in checks for fault in check(root)]


def main() -> int:
    """Check the tree; 1 if it cannot be released."""
    found = faults(ROOT)
    for fault in found:
        print(f"release: {fault}", file=sys.stderr)
    if not found:
        version = version_of(ROOT)
        print(f"This tree is ready. Tag it with:\n\n  git tag --annotate v{version} --message 'Release {version}'")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
