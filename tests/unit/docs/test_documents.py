"""The documents tell the truth about files, links, commands, variables and reasons."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from project import ROOT as PROJECT

DOCUMENTS = sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md")])
TEXTS = {path: path.read_text() for path in DOCUMENTS}
ADMIN = TEXTS[PROJECT / "docs/ADMIN.md"]
USER = TEXTS[PROJECT / "docs/USER.md"]
TROUBLESHOOTING = TEXTS[PROJECT / "docs/TROUBLESHOOTING.md"]

FILES = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout.splitlines()
# All files and folders, each with a slash before it, so that a file may also be named by the end of its path.
TREE = {f"/{path}" for file in FILES for path in (file, *map(str, Path(file).parents[:-1]))}
FOLDERS = {folder for file in FILES for folder in Path(file).parts[:-1]}

FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)

by_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT)))


def anchors(document: Path) -> set[str]:
    """The fragments under which GitHub shows the headings of a document."""
    headings = HEADING.findall(FENCED.sub("", document.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def reasons() -> dict[str, str]:
    """The importer's reason codes and sentences, read from its source."""
    source = (PROJECT / "files/importer/src/imaging_importer/reasons.py").read_text()
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "SENTENCES":
            found: dict[str, str] = ast.literal_eval(statement.value)
            return found
    raise AssertionError("reasons.py has no SENTENCES")


def undisplayable() -> set[str]:
    """The codes why an image that is stored cannot be displayed."""
    return set(yaml.safe_load((PROJECT / "roles/nginx/vars/main.yml").read_text())["__nginx_undisplayable"])


@by_document
def test_every_link_leads_somewhere(document: Path) -> None:
    broken = []
    for link in LINK.findall(FENCED.sub("", TEXTS[document])):
        if "://" in link or link.startswith("mailto:"):
            continue
        name, _, fragment = link.partition("#")
        target = document.parent / name if name else document
        if not target.exists() or (fragment and fragment not in anchors(target)):
            broken.append(link)
    assert broken == []


@by_document
def test_every_make_target_exists(document: Path) -> None:
    makefile = (PROJECT / "Makefile").read_text()
    targets = set(re.findall(r"^([\w./-]+):(?!=)", makefile, re.MULTILINE))
    # In a code span or a code block; "make" is also a plain English word.
    named = set(re.findall(r"(?:`|^\s*)(?:sudo )?make ((?:\.venv/)?[a-z][a-z-]*)", TEXTS[document], re.MULTILINE))
    code = "\n".join([*FENCED.findall(TEXTS[document]), *re.findall(r"`[^`\n]+`", TEXTS[document])])
    assert {name for name in named if f"make {name}" in code} - targets == set()


@by_document
def test_every_playbook_exists(document: Path) -> None:
    named = set(re.findall(r"ansible-playbook ([\w./-]+\.yml)", TEXTS[document]))
    assert [name for name in named if not (PROJECT / name).is_file()] == []


@by_document
def test_every_file_in_code_exists(document: Path) -> None:
    # A span with a placeholder, a command or a path of the host names no file of ours.
    spans = re.findall(r"`((?:[a-z_]+/)+[\w./-]*|[a-z]\w+\.(?:py|sql|js))`", TEXTS[document])
    ours = [name.rstrip("/") for name in spans if "/" not in name or name.split("/")[0] in FOLDERS]
    assert [name for name in ours if not any(path.endswith(f"/{name}") for path in TREE)] == []


def test_every_variable_of_the_operator_is_explained() -> None:
    schema = yaml.safe_load((PROJECT / "vars/schema.yml").read_text())["argument_specs"]["main"]["options"]
    rows = re.findall(r"^\| `(imaging_\w+)` \|.*$", ADMIN, re.MULTILINE)
    assert set(schema) == set(rows)


def test_every_default_of_the_operator_is_the_real_one() -> None:
    schema = yaml.safe_load((PROJECT / "vars/schema.yml").read_text())["argument_specs"]["main"]["options"]
    shown = dict(re.findall(r"^\| `(imaging_\w+)` \| `([^`]+)` \|", ADMIN, re.MULTILINE))
    shown |= dict.fromkeys(re.findall(r"^\| `(imaging_\w+)` \| empty \|", ADMIN, re.MULTILINE), "")
    assert {name: str(option["default"]) for name, option in schema.items() if "default" in option} == shown


def untold() -> set[str]:
    """The reasons that are for administrators alone."""
    source = (PROJECT / "files/importer/src/imaging_importer/reasons.py").read_text()
    return set(re.findall(r'"([a-z-]+)"', source.partition("UNTOLD = ")[2].partition("\n")[0]))


@pytest.mark.parametrize("code", reasons())
def test_every_reason_that_technicians_are_told_is_explained_to_them(code: str) -> None:
    assert (f"`{code}`" in USER) is (code not in untold())


@pytest.mark.parametrize("code", reasons())
def test_every_reason_is_explained_to_the_administrator(code: str) -> None:
    assert f"| `{code}` |" in TROUBLESHOOTING


def test_no_reason_is_made_up() -> None:
    explained = re.findall(r"^\| `([a-z-]+)` \|", USER + TROUBLESHOOTING, re.MULTILINE)
    assert set(explained) == {*reasons(), *undisplayable()}


def test_every_code_why_an_image_cannot_be_displayed_is_explained() -> None:
    section = USER.partition("\n## Stored, but cannot be displayed\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `([a-z-]+)` \|", section, re.MULTILINE)) == undisplayable()


def test_every_limit_for_strangers_names_a_test_that_exists() -> None:
    section = TEXTS[PROJECT / "docs/ARCHITECTURE.md"].split("## What a stranger can make us do", 1)[1]
    table = section.split("\n## ", 1)[0]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 20
    for row in rows:
        folder = PROJECT
        for named in re.findall(r"`([^`]+\.py)`", row[5]):
            # The first has its folder; one that stands after it alone is in the same.
            path = PROJECT / named if "/" in named else folder / named
            folder = path.parent
            assert path.is_file(), f"{row[1]}: {named}"
        assert folder != PROJECT, f"{row[1]} names no test"


def test_every_decision_is_in_the_contents() -> None:
    page = TEXTS[PROJECT / "docs/ARCHITECTURE.md"]
    contents, _, rest = page.partition("\n## Contents\n")[2].partition("\n## ")
    decisions = rest.partition("\n## Decisions\n")[2].partition("\n## ")[0]
    headings = re.findall(r"^#{3,4} (.+)$", decisions, re.MULTILINE)
    assert len(headings) > 80
    assert re.findall(r"^ +- \[(.+)\]\(#", contents, re.MULTILINE) == headings
