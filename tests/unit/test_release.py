"""`make release` lets a tree go only when its versions, its changelog, its documents and git agree."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import release
from project import ROOT

CHANGELOG = "# Changelog\n\n## Unreleased\n\n## 1.2.3 (2026-11-27)\n\n- It works.\n\n## 1.2.2 (2026-01-01)\n\n- Old.\n"


def git(root: Path, *words: str) -> None:
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *who, *words], cwd=root, capture_output=True, check=True)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree that can be released."""
    (tmp_path / "vars").mkdir()
    (tmp_path / "vars/versions.yml").write_text("imaging_version: 1.2.3\n")
    for service in ("gateway", "importer"):
        (tmp_path / "files" / service).mkdir(parents=True)
        (tmp_path / "files" / service / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    (tmp_path / "docs").mkdir()
    for name, render in release.DOCUMENTS.items():
        (tmp_path / name).write_text(render())
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--message", "All of it")
    return tmp_path


def change(tree: Path, file: str, old: str, new: str) -> None:
    """Change a file of the tree, in a commit."""
    text = (tree / file).read_text()
    assert old in text
    (tree / file).write_text(text.replace(old, new))
    git(tree, "commit", "--all", "--message", "Change it")


def test_a_tree_where_all_agree_can_be_released(tree: Path) -> None:
    assert release.faults(tree) == []


def test_a_changelog_needs_no_heading_for_what_is_unreleased(tree: Path) -> None:
    change(tree, "CHANGELOG.md", "## Unreleased\n\n", "")
    assert release.faults(tree) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("files/gateway/pyproject.toml", "1.2.3", "1.2.4", "files/gateway/pyproject.toml has the version 1.2.4"),
        ("vars/versions.yml", "1.2.3", "v1", "imaging_version in vars/versions.yml is v1"),
        ("CHANGELOG.md", "1.2.3 (2026-11-27)", "1.2.3", "'1.2.3': it has to be 1.2.3 (year-month-day)"),
        ("CHANGELOG.md", "1.2.3 (", "1.3.0 (", "'1.3.0 (2026-11-27)': it has to be 1.2.3 (year-month-day)"),
        ("CHANGELOG.md", "- It works.\n\n", "", "CHANGELOG.md says nothing of 1.2.3 (2026-11-27)"),
        ("CHANGELOG.md", "## Unreleased\n", "## Unreleased\n\n- More.\n", "has entries under Unreleased"),
        ("CHANGELOG.md", "## ", "### ", "the newest release in CHANGELOG.md is ''"),
        (
            "docs/VARIABLES.md",
            "imaging_domain",
            "imaging_damain",
            "docs/VARIABLES.md is not up to date: run `make docs`",
        ),
    ],
)
def test_what_does_not_agree_is_named(tree: Path, file: str, old: str, new: str, told: str) -> None:
    change(tree, file, old, new)
    assert told in "\n".join(release.faults(tree))


def test_a_change_without_a_commit_is_named(tree: Path) -> None:
    (tree / "left-over").touch()
    (fault,) = release.faults(tree)
    assert fault.startswith("the tree has changes that are in no commit:")
    assert fault.endswith("?? left-over")


def test_a_version_that_has_its_tag_is_not_released_again(tree: Path) -> None:
    git(tree, "tag", "v1.2.3")
    (fault,) = release.faults(tree)
    assert "there is a tag v1.2.3 already" in fault


def test_the_command_prints_how_to_tag_and_tags_nothing(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(release, "ROOT", tree)
    assert release.main() == 0
    assert "git tag --annotate v1.2.3" in capsys.readouterr().out
    change(tree, "vars/versions.yml", "1.2.3", "2.0.0")
    assert release.main() == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "release: files/gateway/pyproject.toml has the version 1.2.3, and vars/versions.yml has 2.0.0" in said.err


def test_this_trees_own_versions_agree() -> None:
    assert list(release.other_versions(ROOT)) == []
