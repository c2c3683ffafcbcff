"""The viewer's package is unpacked by every Python that a controller may have."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from loading import load
from project import ROOT

prepare = load(ROOT / "files/viewer/prepare.py")


def test_a_python_without_filters_unpacks_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.11.2, which Debian 12 has, is such a Python."""
    package = tmp_path / "package.tgz"
    with tarfile.open(package, "w:gz") as archive:
        entry = tarfile.TarInfo("package/dist/index.html")
        entry.size = 2
        archive.addfile(entry, io.BytesIO(b"hi"))
    whole = tarfile.TarFile.extractall
    monkeypatch.setattr(tarfile.TarFile, "extractall", lambda archive, path: whole(archive, path))
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    monkeypatch.setattr(prepare, "DROPPED", [])
    prepare.unpack(package, tmp_path / "www")
    assert (tmp_path / "www/index.html").read_text() == "hi"
