"""The prose check finds sentences that have to be read twice, says where they are, and leaves good ones alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from loading import load
from project import ROOT

prose = load(ROOT / "tools/prose.py")


def found(markdown: str) -> list[str]:
    return [f"{finding.line}: {finding.text}" for finding in prose.check(markdown)]


GOOD = {
    "a short sentence": "The importer takes the folder out of the inbox.",
    "exactly as many words as are allowed": "A " * 24 + "word.",
    "code counts as one word": "Run `make " + "a " * 15 + "`" + " a" * 23 + ".",
    "a link counts by its text alone": "[The page](page.md#" + "a" * 30 + ")" + " a" * 23 + ".",
    "a question": "Who opened which study?",
    "a subject before its who clause": "A user who belongs to two clinics sees both.",
    "what as an object": "The report says what is wrong.",
    "a prohibition": "Never touch the spool.",
    "only before a subject": "Only administrators see it.",
    "a condition": "If the disk is full, make room.",
    "a place, then subject and verb": "On the host, the secrets are files of root.",
    "a place with its subject": "In the sandbox you need no certificate.",
    "a number with a point": "It takes 2.1 times its size, as PS3.18 10.5 says of it.",
    "two sentences that are too long for one": "A " * 20 + "word. " + "A " * 20 + "word.",
    "two sentences that code begins": "A " * 20 + "word. `make up` " + "a " * 20 + "word.",
    "a list": "It needs:\n\n" + "- a word and a word\n" * 10,
    "a numbered list": "".join(f"{number}. Type this and that.\n" for number in range(1, 11)),
    "a table": "| What | Who |\n|---|---|\n" + "| a word | a word, and a `word \\| word` |\n" * 10,
    "a label in a table": "| Variable | Meaning |\n|---|---|\n| `a` | Who is told of alerts |",
    "a heading": "## Who opened which study",
    "a heading that ends in a point": "## What is not there yet.",
    "a label in a list": "- Who is told of alerts\n- What is in it",
    "code": "```sh\necho " + "word " * 40 + " front door\n```",
    "code in an item": "- Type:\n\n  ```sh\n  echo " + "word " * 40 + "\n  ```",
    "a comment": "<!-- the front door\nand doors anew -->",
    "a row that cannot be broken": "| " + "word, " * 12 + "| " + "word; " * 12 + "|",
    "a long link that cannot be broken": "- [link](" + "long/" * 40 + ")",
    "long code that cannot be broken": "`" + "word " * 40 + "`",
    "a word that a banned one is part of": "The indoor unit, and `door` in code.",
}

BAD = {
    "a sentence of 26 words": ("Word " + "word " * 24 + "word.", "26 words"),
    "a long sentence over two lines": ("Word.\nWord " + "word " * 13 + "\n" + "word " * 13 + ".", "2: 27 words"),
    "a long sentence in an item": ("A list:\n\n- word\n- " + "word " * 26, "4: 26 words"),
    "a long sentence in a cell": ("| A |\n|---|\n| " + "word " * 26 + "|", "3: 26 words"),
    "a long sentence in a quotation": ("> " + "word " * 26, "1: 26 words"),
    "a long sentence after code": ("```sh\ntrue\n```\n" + "word " * 26, "4: 26 words"),
    "a line that is too long": ("Word.\n" + "A word. " * 15, "2: 120 characters"),
    "a line with a long link at its end": ("See [link](" + "long/" * 40 + ")", "1: "),
    "who as a subject": ("Who belongs to two clinics sees both.", '"A user who …"'),
    "who as a subject behind a link": ("A [link](a.md).\nWho is in is in. [B](b.md).", "2: Begin with the subject"),
    "a what clause as a label": ("What it asks for:", '"The files that …"'),
    "whoever as a subject": ("Whoever knows the password is in.", '"A user who …"'),
    "what as a subject": ("What is in the folder may be packed.", '"The files that …"'),
    "what as a subject in a cell": ("| A |\n|---|\n| What is new is sent. |", "3: Begin with the subject"),
    "who after a semicolon": ("The session ends; who is logged in notices nothing.", "Begin the clause"),
    "a question instead of a condition": ("Is it the backup: make another one.", '"If …"'),
    "only, then the verb": ("Only then is the platform stopped.", '"only"'),
    "never, then the verb": ("Never does a push fail.", "Put the subject first"),
    "a place, then the verb": ("On the host are the secrets.", "subject before the verb"),
    "so, then the verb": ("So is the key.", "subject before the verb"),
    "a word that is no longer ours": ("nginx is the front door.", '"front door"'),
    "the same in the plural": ("Both doors refuse it.", '"doors"'),
    "the same at the beginning": ("Doors refuse it.", '"Doors"'),
    "the same in a heading": ("# The door", "1: "),
    "the same over the end of a line": ("The front\ndoor.", '1: "front door"'),
    "an archive that is no Orthanc": ("A zip archive is unpacked.", '"packed file"'),
    "a word of yesterday": ("Deploy it anew.", '"again"'),
    "an abbreviation": ("Packed files, e.g. of two kinds.", '"for example"'),
}


@pytest.mark.parametrize("text", GOOD.values(), ids=GOOD)
def test_plain_english_is_left_alone(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize(("text", "said"), BAD.values(), ids=BAD)
def test_a_sentence_that_has_to_be_read_twice_is_found_with_its_line(text: str, said: str) -> None:
    assert [finding for finding in found(text) if said in finding]


def run(*documents: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "tools/prose.py", *documents], capture_output=True, text=True, check=False
    )


def test_a_finding_fails_the_check_and_names_file_and_line(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A page\n\nWho reads this reads it twice.\n")
    done = run(page)
    assert done.returncode == 1
    assert done.stdout.startswith(f"{page}:3: Begin with the subject")


def test_a_good_page_passes(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A page\n\nA reader reads this once.\n")
    assert run(page).returncode == 0


def test_make_lint_runs_the_check_over_every_document() -> None:
    recipe = (ROOT / "Makefile").read_text().partition("\nlint:")[2].partition("\n.PHONY")[0]
    assert "proselint check --config tools/proselint.json *.md docs/*.md && python tools/prose.py\n" in recipe
