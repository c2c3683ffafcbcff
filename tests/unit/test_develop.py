"""`make up-dev` copies a service to the host as it lies in the working tree, sub-packages included."""

from __future__ import annotations

import io
import tarfile

from loading import load
from project import ROOT

develop = load(ROOT / "tools/develop.py")


def test_modules_of_sub_packages_are_copied_below_them(tmp_path):
    (tmp_path / "ways_in").mkdir()
    for name in ("__init__.py", "app.py", "ways_in/__init__.py", "ways_in/folders.py"):
        (tmp_path / name).write_text(name)
    with tarfile.open(fileobj=io.BytesIO(develop.packed(develop.read(tmp_path)))) as copied:
        assert copied.getnames() == ["__init__.py", "app.py", "ways_in/__init__.py", "ways_in/folders.py"]
