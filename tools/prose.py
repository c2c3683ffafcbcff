"""Check that the documents are written in plain English, as CONTRIBUTING.md asks: tools/prose.py [FILE ...]."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
# Their text is generated from the code and from the descriptions of variables.
GENERATED = {"ACCESS.md", "VARIABLES.md"}
MOST_WORDS = 25
LINE_LENGTH = 120

ITEM = re.compile(r"\s*(?:[-*+]|\d+[.)])\s+(?:\[[ x]\]\s+)?")
HEADING = re.compile(r"#{1,6}\s+")
RULE_OF_TABLE = re.compile(r"\|[\s:|-]+\|?$")
CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)")
# Also before a small letter: curl and nginx begin sentences.
END_OF_SENTENCE = re.compile(r'(?<=[.!?])[")*_]*\s+(?=\S)')

# Each pattern is looked for in a sentence without code, links' addresses and marks; the case counts.
INVERTED = {
    r"(?:Who|Whoever|Whom)\b(?!.*\?$)": 'Begin with the subject: "A user who …", not "Who …".',
    r"(?:What|Whatever|Whichever)\b(?!.*\?$)": 'Begin with the subject: "The files that …", not "What …".',
    r"(?:Is|Are|Was|Were|Does|Did|Has|Had|Should)\b(?!.*\?)": 'Say "If …" or "When …", or ask a question.',
    r"Only (?:then|when|after|if|where|to|what|from)\b": 'Put "only" behind the subject and the verb.',
    r"(?:(?:Never|Seldom|Nowhere|Neither|Not until .*) (?:is|are|was|were|does|do|did|has|have|can|may)|Nor)\b": (
        'Put the subject first: "It never …".'
    ),
    r"(?:So|Such|Likewise|Gone) (?:is|are|was|were|does|do|did|has|have|comes?)\b": "Put the subject before the verb.",
    r"(?:Then|Here|There|Now) comes?\b|Then (?:is|are|was|were)\b": "Put the subject before the verb.",
    r"(?:In|On|Of|From|Under|Below|Above|Beside|Behind|Among|Between|With|Inside)(?: [\w\0'-]+){1,4}"
    r" (?:is|are|was|were|comes?|stands?|lies?|goes|go)(?: (?:the|a|an|no|all|every|one)\b|[.;])": (
        "Put the subject before the verb."
    ),
}
CLAUSE = re.compile(r"[;:] (?:and |but |so )?(?:who|whoever|what|whatever) (?!(?:and|or)\b)[^?,;]* [^?;]*$")
BANNED = {
    r"front door": 'Say "nginx" or "the public address".',
    r"doors?": 'Say "upload", "way in" or "nginx".',
    r"(?:zip|tar|packed|encrypted) archives?": 'Say "packed file" or "backup file": "archive" is Orthanc.',
    r"anew": 'Say "again".',
    r"of before": 'Say "earlier" or "the old …".',
    r"for ever": 'Say "always" or "never … again".',
    r"no more(?=[.;,])": 'Say "no longer".',
    r"as ever|as it comes|all the same|come what may|by and by": "Leave it out, or say what you mean.",
    r"hence|whence|thence|thereby|therein|thereof|whilst|lest|albeit|hereby|heretofore": "Use a word of today.",
    r"e\.g\.|i\.e\.|etc\.|viz\.": 'Say "for example", "that is" or "and others".',
}


@dataclass(frozen=True)
class Finding:
    line: int
    text: str


@dataclass
class Block:
    """A heading, a paragraph, an item of a list or a cell of a table; each character knows its line."""

    kind: str
    text: str = ""
    lines: tuple[int, ...] = ()

    def add(self, text: str, number: int) -> None:
        text = text.strip()
        if self.text:
            text = " " + text
        self.text += text
        self.lines += (number,) * len(text)


def cells(row: str) -> Iterator[str]:
    """The cells of a row. A bar in code or after a backslash does not divide."""
    row = CODE.sub(lambda code: code[0].replace("|", "\1"), row).replace(r"\|", "\1")
    for cell in row.strip().strip("|").split("|"):
        yield cell.replace("\1", "|")


def blocks(markdown: str) -> Iterator[Block]:
    """The prose of a document, without code blocks, HTML and rules."""
    fence = ""
    comment = False
    block = Block("paragraph")
    for number, line in enumerate(markdown.splitlines(), 1):
        stripped = line.strip()
        opened = re.match(r"(```+|~~~+)", stripped)
        if fence or opened or comment or stripped.startswith("<!--"):
            comment = (comment or (stripped.startswith("<!--") and not fence)) and "-->" not in line
            if opened and not comment:
                fence = "" if fence and stripped.startswith(fence) else fence or opened[1]
            yield block
            block = Block("paragraph")
        elif stripped.startswith("|"):
            yield block
            block = Block("paragraph")
            if not RULE_OF_TABLE.match(stripped):
                for cell in cells(stripped):
                    found = Block("cell")
                    found.add(cell, number)
                    yield found
        elif not stripped or stripped.startswith("<") or re.fullmatch(r"([-*_])(\s*\1){2,}", stripped):
            yield block
            block = Block("paragraph")
        elif heading := HEADING.match(line):
            yield block
            block = Block("heading")
            block.add(line[heading.end() :], number)
            yield block
            block = Block("paragraph")
        else:
            if item := ITEM.match(line):
                yield block
                block = Block("item")
            block.add(line[item.end() if item else 0 :].lstrip("> "), number)
    yield block


def plain(block: Block) -> Block:
    """The block as it is read: code is one sign, links are their text, marks of emphasis are gone."""
    text, lines = block.text, block.lines
    for pattern, kept in (
        (CODE, "\0"),
        (re.compile(r"!?\[([^\]]*)\]\([^)]*\)|!?\[([^\]]*)\]\[[^\]]*\]"), None),
        (re.compile(r"<?https?://[^\s>]+(?<![.,;:)])>?"), "\0"),
        (re.compile(r"\*\*|\*(?=\S)|(?<=\S)\*"), ""),
    ):
        out, at = "", 0
        numbers: tuple[int, ...] = ()
        for match in pattern.finditer(text):
            new = kept if kept is not None else match[1] or match[2] or ""
            out += text[at : match.start()] + new
            numbers += lines[at : match.start()] + lines[match.start() : match.start() + 1] * len(new)
            at = match.end()
        text, lines = out + text[at:], numbers + lines[at:]
    return Block(block.kind, text, lines)


def sentences(block: Block) -> Iterator[tuple[int, str]]:
    """Each sentence with the line on which it begins."""
    begin = 0
    for end in (*END_OF_SENTENCE.finditer(block.text), None):
        stop = end.start() if end else len(block.text)
        sentence = block.text[begin:stop]
        if sentence.strip():
            yield block.lines[begin], sentence.strip().strip('"()_')
        begin = end.end() if end else stop


def words(sentence: str) -> list[str]:
    """Code counts as one word, a sign alone as none."""
    return [word for word in sentence.split() if re.search(r"[\w\0]", word)]


def beginning(sentence: str) -> str:
    return " ".join(sentence.replace("\0", "`…`").split()[:6])


def of_sentence(kind: str, sentence: str) -> Iterator[str]:
    count = len(words(sentence))
    if count > MOST_WORDS:
        yield f"{count} words in one sentence, at most {MOST_WORDS}. Make two of it"
    # A label in a table or a list is no sentence.
    if kind == "paragraph" or sentence.endswith((".", "!")):
        for pattern, advice in INVERTED.items():
            if re.match(pattern, sentence):
                yield advice
        if CLAUSE.search(sentence):
            yield 'Begin the clause with its subject: "a user who …", "the files that …"'


def of_length(markdown: str) -> Iterator[Finding]:
    """Lines that could be broken and are not."""
    fence = False
    for number, line in enumerate(markdown.splitlines(), 1):
        if line.strip().startswith(("```", "~~~")):
            fence = not fence
        elif not fence and len(line) >= LINE_LENGTH and not line.lstrip().startswith(("|", "<", "#")):
            text = CODE.sub("\0", line[item.end() :] if (item := ITEM.match(line)) else line.strip())
            if " " in text.strip():
                yield Finding(number, f"{len(line)} characters in one line. Break it, under {LINE_LENGTH} are allowed.")


def check(markdown: str) -> list[Finding]:
    """Every place of a document that a reader has to read twice."""
    found = list(of_length(markdown))
    for block in map(plain, blocks(markdown)):
        for word, advice in BANNED.items():
            for match in re.finditer(rf"(?<![\w-])(?:{word})(?![\w-])", block.text, re.IGNORECASE):
                found.append(Finding(block.lines[match.start()], f'"{match[0]}": {advice}'))
        if block.kind != "heading":
            for line, sentence in sentences(block):
                found += [
                    Finding(line, f"{advice.rstrip('.')}: {beginning(sentence)} …")
                    for advice in of_sentence(block.kind, sentence)
                ]
    return sorted(found, key=lambda finding: finding.line)


def main() -> int:
    named = [Path(name) for name in sys.argv[1:]]
    documents = named or [
        path for path in sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md")]) if path.name not in GENERATED
    ]
    found = 0
    for document in documents:
        for finding in check(document.read_text()):
            found += 1
            print(f"{document if named else document.relative_to(PROJECT)}:{finding.line}: {finding.text}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
