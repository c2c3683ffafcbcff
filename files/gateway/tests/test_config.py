"""Secrets with which the gateway starts. All services ask the same of their settings: tests/unit/test_settings.py."""

from __future__ import annotations

import pytest
from imaging_gateway.config import Secrets, load_secrets
from imaging_gateway.strict_toml import SettingsError


@pytest.fixture
def credentials(tmp_path, monkeypatch):
    for name in ("registry-password", "warm-secret"):
        (tmp_path / name).write_text(f"the {name}\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    return tmp_path


def test_secrets_are_files_of_its_credentials_directory(credentials):
    assert load_secrets() == Secrets(registry_password="the registry-password", warm_secret="the warm-secret")


@pytest.mark.parametrize("name", ["registry-password", "warm-secret"])
def test_a_secret_that_is_missing_is_named(credentials, name):
    (credentials / name).unlink()
    with pytest.raises(SettingsError, match=f"the credential {name} cannot be read"):
        load_secrets()


@pytest.mark.parametrize("name", ["registry-password", "warm-secret"])
def test_a_secret_that_anybody_could_guess_is_refused(credentials, name):
    (credentials / name).write_text("\n")
    with pytest.raises(SettingsError, match=f"the credential {name} is empty"):
        load_secrets()


def test_without_systemd_there_are_no_secrets(monkeypatch):
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(SettingsError, match="start the gateway by its systemd unit"):
        load_secrets()
