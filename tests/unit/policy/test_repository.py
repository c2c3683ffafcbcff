"""House rules for everything that git keeps."""

from __future__ import annotations

import re

import pytest

from .conftest import PROJECT, files_in_git

FILES = files_in_git()
TEXTS = {path: path.read_text() for path in FILES if path.suffix not in {".png", ".dcm", ".gz", ".mp4"}}
MAKEFILE = (PROJECT / "Makefile").read_text()
README = (PROJECT / "README.md").read_text()

FORBIDDEN = {
    # Packages come by their client's default or the operator's mirror; a name written here would defeat a mirror.
    "the host of a package registry": r"\b(pypi|pythonhosted|npmjs|repo\d*\.maven|deb\.debian|security\.debian)\.\w",
    "a developer's home": r"/(home|Users)/[a-z]",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    # Written so that this line does not find itself.
    "work left to do": r"\b(TO[D]O|FIX[M]E|XX[X])\b|@@[A-Z]+@@",
    "a mark of a merge": r"^(<<<<<<<|>>>>>>>) ",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_holds(what: str) -> None:
    found = []
    for path, text in TEXTS.items():
        for match in re.finditer(FORBIDDEN[what], text, re.MULTILINE):
            found.append(f"{path.relative_to(PROJECT)}:{text.count(chr(10), 0, match.start()) + 1}: {match.group()}")
    assert found == []


def test_no_file_knows_where_it_was_written() -> None:
    assert [path.name for path, text in TEXTS.items() if f"{PROJECT}/" in text] == []


def test_every_file_is_small() -> None:
    assert [path for path in FILES if path.stat().st_size >= 1_000_000] == []


def test_every_link_between_documents_leads_somewhere() -> None:
    broken = []
    for path, text in TEXTS.items():
        if path.suffix == ".md":
            for target in re.findall(r"\]\(([^)\s]+)\)", text):
                file = target.partition("#")[0]
                if file and "://" not in file and not (path.parent / file).exists():
                    broken.append(f"{path.relative_to(PROJECT)} → {target}")
    assert broken == []


def test_every_make_target_is_explained() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):(?!=)", MAKEFILE, re.MULTILINE))
    explained = set(re.findall(r"^([a-z][a-z-]*):[^=].*## \w", MAKEFILE, re.MULTILINE))
    phony = {name for line in re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE) for name in line.split()}
    assert {name for name in phony if not name.startswith(".")} == explained
    assert targets == explained


def test_the_readme_is_short() -> None:
    lines = README.splitlines()
    assert len(lines) < 120
    assert [line for line in lines if len(line) >= 120] == []


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-test.txt"])
def test_every_python_package_is_pinned_with_its_hash(name: str) -> None:
    lines = (PROJECT / name).read_text().replace("\\\n", " ").splitlines()
    entries = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    assert entries
    pinned = re.compile(r"[a-zA-Z0-9_.\[\]-]+==\S+ .*--hash=sha256:")
    assert [entry[:80] for entry in entries if not pinned.match(entry)] == []
