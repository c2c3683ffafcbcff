"""Modules of ours are documented alike."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from .conftest import PROJECT

PARTS = ["module", "short_description", "description", "requirements", "options", "attributes", "author"]


@pytest.mark.parametrize(
    "path", sorted([*PROJECT.glob("library/*.py"), *PROJECT.glob("roles/*/library/*.py")]), ids=lambda path: path.stem
)
def test_every_module_is_documented_in_one_form(path: Path) -> None:
    text = path.read_text()
    documented = re.search(r'^DOCUMENTATION = r"""\n(.*?)^"""', text, re.MULTILINE | re.DOTALL)
    assert documented is not None
    said = yaml.safe_load(documented[1])
    assert list(said) == [part for part in PARTS if part in said]
    assert set(PARTS) - set(said) <= {"requirements"}
    assert said["module"] == path.stem
    assert said["author"] == ["The imaging platform's authors"]
    assert set(said["attributes"]) == {"check_mode", "diff_mode"}
    assert not re.match(r"\w+s\b", said["short_description"]), "it says what to do: Keep, not Keeps"
    imported = [text.index(line) for line in re.findall(r"^(?:import|from) .*$", text, re.MULTILINE)[1:]]
    assert min(imported, default=len(text)) > documented.start(), (
        "imports stand below the documentation, as Ansible asks"
    )
