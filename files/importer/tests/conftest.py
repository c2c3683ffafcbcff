"""Makes the importer and the fakes of its tests importable without installing them."""

import sys
from pathlib import Path

TESTS = Path(__file__).parent
for directory in (TESTS, TESTS.parent / "src"):
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))
