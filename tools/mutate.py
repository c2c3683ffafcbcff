#!/usr/bin/env python3
"""Say how many small mistakes in our code the tests would find: `make test-mutation`.

A copy of the source tree gets one mistake at a time, drawn at random by a seed that is printed. The tests that call
the changed function then run on the copy. A mistake that fails none of them survives. This is a tool of our own: the
known tools draw no sample by a seed, and they expect an installed package or change the working tree in place.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import importlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "artifacts/mutation"
# The tests of one mistake run the quickest first. They end after this many seconds beside their time without a mistake.
PATIENCE = 60.0
SURVIVED, KILLED = "survived", "killed"


@dataclass(frozen=True)
class Package:
    """The changed code, and the tests that should notice."""

    sources: list[Path]
    tests: list[str]


def packages() -> dict[str, Package]:
    dicom = ROOT / "files/importer/src/imaging_importer/dicom"
    of_dicom = ("stamp", "dress", "display", "packed", "strict", "compatibility", "text")
    return {
        "gateway": Package(sorted((ROOT / "files/gateway/src").rglob("*.py")), ["files/gateway/tests"]),
        "dicom": Package(sorted(dicom.rglob("*.py")), [f"files/importer/tests/test_{name}.py" for name in of_dicom]),
        "module_utils": Package(
            sorted((ROOT / "module_utils").rglob("*.py")),
            ["tests/unit/modules", "files/registry/tests/test_clinics_of_modules.py"],
        ),
    }


# ---------------------------------------------------------------------------------------------------------------------
# The mistakes

OTHER: dict[type[ast.AST], Any] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
    ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that may replace a node."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in OTHER:
        yield ast.Compare(node.left, [OTHER[type(node.ops[0])](), *node.ops[1:]], node.comparators)
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(OTHER[type(node.op)](), node.values)
    elif isinstance(node, ast.BinOp) and type(node.op) in OTHER:
        yield ast.BinOp(node.left, OTHER[type(node.op)](), node.right)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield ast.Constant(not node.value)
        elif isinstance(node.value, int | float):
            yield ast.Constant(node.value + 1)
        elif isinstance(node.value, str) and node.value:
            yield ast.Constant(f"XX{node.value}")
        elif isinstance(node.value, bytes) and node.value:
            yield ast.Constant(b"XX" + node.value)
    elif isinstance(node, ast.If | ast.IfExp):
        changed = copy.copy(node)
        changed.test = ast.UnaryOp(ast.Not(), node.test)
        yield changed
    elif isinstance(node, ast.Return) and node.value is not None:
        yield ast.Return(ast.Constant(None))
    elif isinstance(node, ast.Raise) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call | ast.Await)):
        yield ast.Pass()
    elif isinstance(node, ast.Continue):
        yield ast.Break()
    elif isinstance(node, ast.Break):
        yield ast.Continue()


def is_for_people(node: ast.AST) -> bool:
    """The parts that no program reads: a log's line, a docstring, a type, a list of names."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id in ("__all__", "DOCUMENTATION", "EXAMPLES", "RETURN")
    call = node.value if isinstance(node, ast.Expr) else node
    if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
        return call.func.value.id in ("log", "logging")
    return isinstance(node, ast.Import | ast.ImportFrom | ast.JoinedStr)


# The fields of a node that hold types.
TYPES = ("annotation", "returns", "type_params")


@dataclass(frozen=True)
class Mistake:
    path: Path
    number: int  # among those that the file could have, in the order of its nodes
    line: int
    function: int  # the line where the function around it begins; 0 outside of any
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}: {self.before}  →  {self.after}"

    def source(self) -> str:
        """The file with this mistake."""
        tree = ast.parse(self.path.read_text())
        put, _ = next(itertools.islice(places(tree), self.number, None))
        put()
        return ast.unparse(ast.fix_missing_locations(tree))


def places(parent: ast.AST) -> Iterator[tuple[Callable[[], None], tuple[ast.AST, ast.AST]]]:
    """Puts a mistake into a tree, and keeps the node before and after it."""
    for field, value in ast.iter_fields(parent):
        for index, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(node, ast.AST) and field not in TYPES and not is_for_people(node):
                for changed in changes(node):
                    yield partial(put, parent, field, index, ast.copy_location(changed, node)), (node, changed)
                yield from places(node)


def put(parent: ast.AST, field: str, index: int | None, node: ast.AST) -> None:
    if index is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[index] = node


def mistakes(path: Path) -> list[Mistake]:
    """Every mistake that a file could have."""
    tree = ast.parse(path.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]

    def function_around(line: int) -> int:
        begins = [min([node.lineno, *(one.lineno for one in node.decorator_list)]) for node in functions]
        around = [
            first for first, node in zip(begins, functions, strict=True) if first <= line <= (node.end_lineno or 0)
        ]
        return max(around, default=0)

    return [
        Mistake(path, number, node.lineno, function_around(node.lineno), short(node), short(changed))  # type: ignore[attr-defined]
        for number, (_, (node, changed)) in enumerate(places(tree))
    ]


def short(node: ast.AST) -> str:
    return ast.unparse(ast.fix_missing_locations(node)).partition("\n")[0][:90]


# ---------------------------------------------------------------------------------------------------------------------
# The tests

PLUGIN = '''
"""Writes down which functions of some files each test that passes calls, and how long it takes."""
import json, os, sys, threading, time
import pytest

FILES = set(json.loads(os.environ["MUTATE_FILES"]))
found, failed = {}, set()

@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    called, start = set(), time.monotonic()
    def of_a_call(frame, event, argument):
        called.add(frame.f_code)
    threading.settrace(of_a_call)
    sys.settrace(of_a_call)
    yield
    sys.settrace(None)
    threading.settrace(None)
    functions = sorted({(code.co_filename, code.co_firstlineno) for code in called if code.co_filename in FILES})
    found[item.nodeid] = {"seconds": time.monotonic() - start, "functions": functions}

def pytest_runtest_logreport(report):
    if report.failed:
        failed.add(report.nodeid)

def pytest_sessionfinish(session):
    here = os.getcwd()
    files = {name: getattr(module, "__file__", None) or here for name, module in sys.modules.items()}
    libraries = [name for name, file in files.items() if not file.startswith(here)]
    with open(os.environ["MUTATE_LINES"], "w") as file:
        passed = {test: run for test, run in found.items() if test not in failed}
        json.dump({"tests": passed, "libraries": libraries}, file)
'''


class Copy:
    """A copy of the source tree, in which mistakes are made."""

    def __init__(self, directory: Path, package: Package) -> None:
        # With links in Python's own path, Python would find a test's module under two names.
        self.root = directory.resolve() / "tree"
        self.package = package
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for name in filter(None, listed.split("\0")):
            target = self.root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).exists():
                shutil.copy2(ROOT / name, target, follow_symlinks=False)
        (self.root / ".cache").symlink_to(ROOT / ".cache")
        (self.root / "mutate_lines.py").write_text(PLUGIN)
        self.runs = self._which_tests_call_which_functions()

    def _pytest(self, *arguments: str, environment: Mapping[str, str] = {}, timeout: float = 3600) -> int:
        """How a run of tests ended; 1 is failed, and so is a run that never ends.

        It runs in a copy of this process, which has loaded the libraries. Loading them takes longer than most tests.
        """
        sys.stdout.flush()
        if child := os.fork():
            deadline = time.monotonic() + timeout
            while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
                if time.monotonic() > deadline:
                    os.killpg(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                    return 1
                time.sleep(0.02)
            return os.waitstatus_to_exitcode(ended[1])
        os.setsid()
        log = os.open(self.root / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(self.root)
        os.environ.update(environment)
        sys.path.insert(0, str(self.root))
        try:
            code = int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *arguments]))
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        os._exit(code)

    def _which_tests_call_which_functions(self) -> dict[str, Any]:
        files = [str(self.at(path)) for path in self.package.sources]
        lines = self.root / "lines.json"
        given = {"MUTATE_FILES": json.dumps(files), "MUTATE_LINES": str(lines)}
        self._pytest("-p", "mutate_lines", "--maxfail=0", *self.package.tests, environment=given)
        # A test that measures time may fail while it is watched, so it is not used.
        found = json.loads(lines.read_text())
        if not found["tests"]:
            raise SystemExit(f"no test passes without any mistake:\n{(self.root / 'log').read_text()[-3000:]}")
        for name in found["libraries"]:
            with contextlib.suppress(Exception):
                importlib.import_module(name)
        runs: dict[str, Any] = found["tests"]
        return runs

    def at(self, path: Path) -> Path:
        return self.root / path.relative_to(ROOT)

    def tests_of(self, mistake: Mistake) -> tuple[list[str], float]:
        """The tests that call a function, or the file if the line runs once for all; and how long they take."""
        file = str(self.at(mistake.path))
        of_function, of_file = [], []
        for test, run in sorted(self.runs.items(), key=lambda item: item[1]["seconds"]):
            if [file, mistake.function] in run["functions"]:
                of_function.append((test, run["seconds"]))
            if any(name == file for name, _ in run["functions"]):
                of_file.append((test, run["seconds"]))
        chosen: list[str] = []
        spent = 0.0
        for test, seconds in of_function or of_file:
            if chosen and spent + seconds > PATIENCE:
                break
            chosen.append(test)
            spent += seconds
        return chosen, spent

    def judge(self, mistake: Mistake) -> str:
        tests, seconds = self.tests_of(mistake)
        if not tests:
            return SURVIVED
        file = self.at(mistake.path)
        sound = file.read_text()
        (self.root / "chosen").write_text("\n".join(tests))
        try:
            file.write_text(mistake.source())
            # Python would take a file that was compiled in the same second for the same source.
            shutil.rmtree(file.parent / "__pycache__", ignore_errors=True)
            return SURVIVED if self._pytest("@chosen", timeout=60 + 10 * seconds) == 0 else KILLED
        finally:
            file.write_text(sound)


def measure(name: str, package: Package, sample: int, seed: int) -> str:
    """Make a sample of mistakes and record the result of each; return the score in a line."""
    possible = [mistake for path in package.sources for mistake in mistakes(path)]
    drawn = random.Random(seed).sample(possible, min(sample, len(possible)))  # noqa: S311
    RESULTS.mkdir(parents=True, exist_ok=True)
    survivors = 0
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutate-") as directory, (RESULTS / f"{name}.txt").open("w") as report:
        copy_ = Copy(Path(directory), package)
        for number, mistake in enumerate(drawn, 1):
            end = copy_.judge(mistake)
            survivors += end == SURVIVED
            print(f"{end} {mistake}", file=report, flush=True)
            if end == SURVIVED:
                print(f"{name} {number}/{len(drawn)}: survived {mistake}", flush=True)
    killed = len(drawn) - survivors
    minutes = (time.monotonic() - start) / 60
    return (
        f"{name}: {100 * killed / len(drawn):.0f} % ({killed} of {len(drawn)} mistakes found, "
        f"drawn from {len(possible)} with seed {seed}, {minutes:.0f} minutes)"
    )


def main() -> None:
    known = packages()
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("package", nargs="*", help=f"of {', '.join(known)}; without any, all")
    parser.add_argument("--sample", type=int, default=150, help="so many mistakes a package")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="draw the same again")  # noqa: S311
    given = parser.parse_args()
    names = given.package or list(known)
    if unknown := set(names) - known.keys():
        parser.error(f"there is no package {', '.join(sorted(unknown))}: say {', '.join(known)}")
    print(f"seed {given.seed}", flush=True)
    for score in [measure(name, known[name], given.sample, given.seed) for name in names]:
        print(score)


if __name__ == "__main__":
    main()
