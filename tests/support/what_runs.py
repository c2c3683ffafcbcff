"""Whether some words are in code that runs: in what a test does, in a make target's recipe, in a playbook's task.

A comment, a docstring, a helper that nothing calls and a test that is skipped run nothing.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from project import ROOT

NEVER = re.compile(r"\bpytest\.mark\.(skip|xfail)\b|\bpytest\.skip\(")
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign


def in_tests(path: Path) -> str:
    """The code of a file's tests and of what they use in the same file; every string in single quotes."""
    defined: dict[str, ast.AST] = {}
    for node in ast.parse(path.read_text()).body:
        for name in names_of(node):
            defined[name] = without_docstrings(node)
    tests = {
        name for name, node in defined.items() if re.match("[tT]est", name) and not NEVER.search(ast.unparse(node))
    }
    # A fixture of the whole file is used without being named.
    tests |= {name for name, node in defined.items() if "autouse=True" in ast.unparse(node)}
    reached: set[str] = set()
    waiting = sorted(tests)
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += {used for used in used_by(defined[name]) if used in defined}
    return "\n".join(ast.unparse(defined[name]) for name in sorted(reached))


def names_of(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def without_docstrings(node: ast.stmt) -> ast.stmt:
    for inner in ast.walk(node):
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and ast.get_docstring(inner):
            inner.body = inner.body[1:] or [ast.Pass()]
    return node


def used_by(node: ast.AST) -> Iterator[str]:
    """Every name in it: its calls, and the fixtures that it takes as arguments or by `usefixtures`."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name):
            yield inner.id
        elif isinstance(inner, ast.arg):
            yield inner.arg
        elif isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            yield inner.value


@cache
def recipe(target: str) -> str:
    """The commands of a make target, and the text of the project's files that it names, at any depth."""
    command = ["make", "--dry-run", "--always-make", target]
    text = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    seen: set[Path] = set()
    waiting = [text]
    while waiting:
        for name in re.findall(r"[\w/.-]+\.(?:yml|py)\b", waiting.pop()):
            # A script may name a playbook without its directory.
            for path in (ROOT / name, *(ROOT / "playbooks").rglob(name.rpartition("/")[2])):
                if path.is_file() and path not in seen:
                    seen.add(path)
                    waiting.append(path.read_text())
    return "\n".join([text, *(tasks(path) for path in sorted(seen) if path.suffix == ".yml")])


def tasks(path: Path) -> str:
    """A playbook without its comments, every list in one line."""
    content: Any = yaml.safe_load(path.read_text())
    return yaml.safe_dump(content, default_flow_style=None, width=10_000)


def in_code_that_runs(file: str, words: str, targets: list[str]) -> bool:
    """Whether words are in what a test runs or, in a file that is no test, in what one of these make targets runs."""
    path = ROOT / file
    if path.suffix == ".py":
        return path.name.startswith("test_") and words.replace('"', "'") in in_tests(path)
    said = words.replace("$(PLAYBOOK) ", "")
    return any(said in recipe(target) for target in targets)
