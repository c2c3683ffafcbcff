"""The code that a test runs: its own and everything that uses, and nothing that only looks like it."""

from __future__ import annotations

from pathlib import Path

import pytest
from what_runs import in_tests, recipe

HELPER = "def helper():\n    make('restart')\n"
RUN = {
    "a test": "def test_it():\n    make('restart')\n",
    "a helper of a test": f"{HELPER}def test_it():\n    helper()\n",
    "a fixture of a test": f"@pytest.fixture\n{HELPER}def test_it(helper):\n    assert helper\n",
    "a list that parametrizes a test": (
        "CASES = [\"make('restart')\"]\n@pytest.mark.parametrize('case', CASES)\ndef test_it(case): ...\n"
    ),
    "a method of a class of tests": "class TestIt:\n    def test_it(self):\n        make('restart')\n",
}
NOT_RUN = {
    "a comment": "def test_it():\n    pass  # make('restart')\n",
    "a docstring": 'def test_it():\n    """make(\'restart\')"""\n',
    "a helper that nothing calls": f"{HELPER}def test_it():\n    pass\n",
    "a test that is skipped": "@pytest.mark.skip\ndef test_it():\n    make('restart')\n",
}


@pytest.mark.parametrize("kind", [*RUN, *NOT_RUN])
def test_words_are_run_where(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "test_it.py"
    file.write_text((RUN | NOT_RUN)[kind])
    assert ("make('restart')" in in_tests(file)) is (kind in RUN)


def test_a_recipe_has_the_tasks_of_its_playbooks_without_their_comments() -> None:
    text = recipe("update-testing")
    assert "ansible-playbook" in text
    assert "[imaging-updates, pending]" in text
    assert "# " not in text.partition("\n- ")[2]
