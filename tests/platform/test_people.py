"""An operator adds a clinic and its first physician, with the commands of the README."""

from __future__ import annotations

import subprocess

import pytest
from platform_client import ROOT, state_path

CLINIC = "added-clinic"


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def clinic() -> str:
    added = make("add-clinic", f"CLINIC_ID={CLINIC}", "CLINIC_NAME=An added clinic")
    assert added.returncode == 0, added.stdout[-2000:]
    return CLINIC


def test_a_new_physician_gets_a_password_that_is_not_shown(clinic):
    added = make("add-user", "USERNAME=added.physician", "EMAIL=added@example.org", f"CLINIC={clinic}")
    assert added.returncode == 0, added.stdout[-2000:]
    password = (state_path() / "secrets/users/added.physician").read_text().strip()
    assert len(password) >= 16
    assert password not in added.stdout + added.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["add-user", "USERNAME=Bad Name", "EMAIL=a@example.org", f"CLINIC={CLINIC}"], "username"),
        (["add-user", "USERNAME=good.name", "EMAIL=nobody", f"CLINIC={CLINIC}"], "email"),
        (["add-user", "USERNAME=good.name", "EMAIL=a@example.org", "CLINIC="], "clinic"),
        (["add-user", "USERNAME=good.name", "EMAIL=a@example.org", f"CLINIC={CLINIC}", "ROLE=boss"], "roles"),
        (["add-clinic", "CLINIC_ID=Bad_Id", "CLINIC_NAME=x"], "clinic_id"),
    ],
)
def test_what_is_wrong_is_named_before_anything_changes(arguments, named):
    refused = make(*arguments)
    assert refused.returncode != 0
    assert f"{named} " in refused.stdout
    assert "changed=1" not in refused.stdout
