"""Reads an nginx configuration into directives, as far as tests need it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

TOKEN = re.compile(
    r"""\s+|\#[^\n]*|("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[{};]|(?:\$\{\w+\}|[^\s;{}"']|\{[0-9,]+\})+)"""
)
# nginx removes these backslashes before it looks at a pattern: to PCRE, a written "\\|" is an escaped bar.
ESCAPED = re.compile(r"""\\([\\"'])""")


@dataclass
class Directive:
    """One directive with its arguments, and what stands in its braces."""

    name: str
    arguments: list[str]
    parent: Directive | None
    block: list[Directive] = field(default_factory=list)

    def find(self, name: str) -> Iterator[Directive]:
        """Every directive of this name, here or deeper."""
        for directive in self.block:
            if directive.name == name:
                yield directive
            yield from directive.find(name)

    def own(self, name: str) -> list[Directive]:
        return [directive for directive in self.block if directive.name == name]

    def effective(self, name: str) -> list[Directive]:
        """The directives of this name that hold here: the nearest level that has any (nginx's inheritance)."""
        level: Directive | None = self
        while level is not None:
            if found := level.own(name):
                return found
            level = level.parent
        return []

    def __str__(self) -> str:
        return " ".join([self.name, *self.arguments])


def parse(text: str) -> Directive:
    root = here = Directive("", [], None)
    words: list[str] = []
    for match in TOKEN.finditer(text):
        token = match[1]
        if token is None:
            continue
        if token in "{;":
            if words:
                directive = Directive(words[0], [word.strip("\"'") for word in words[1:]], here)
                here.block.append(directive)
                if token == "{":
                    here = directive
            words = []
        elif token == "}":
            assert here.parent is not None, "a brace too many"
            here = here.parent
        else:
            words.append(ESCAPED.sub(r"\1", token))
    assert here is root, f"a brace is missing after {here}"
    return root
