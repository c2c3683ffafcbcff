"""The importer refuses what should not stand in its configuration, and names it in words."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from imaging_importer import cli

Settings = dict[str, Any]

SETTINGS: Settings = {
    "paths": {"inbox": "/inbox", "processed": "/processed", "failed": "/failed", "state": "/state"},
    "scan": {"cooldown": 60, "interval": 0.5, "patience": 3600},
    "orthanc": {"url": "http://localhost:1", "user": "importer", "batch_bytes": 16777216, "batch_count": 50},
    "registry": {"host": "localhost", "port": 5432, "dbname": "registry", "user": "registry_importer"},
    "http": {"host": "localhost", "port": 8080},
    "upload": {"public_url": "https://imaging.test/dicom-web", "request_bytes": 1048576},
    "limits": {"instance_bytes": 1048576, "inflated_bytes": 1048576},
    "disk": {"reserve_bytes": 1000000000},
    "quotas": {"north": 5000000000},
    "charsets": {"north": "koi8-r"},
}
OF_CLINICS = ("quotas", "charsets")
KEYS = [(section, key) for section, values in SETTINGS.items() for key in values]
NUMBERS = [
    (section, key) for section, key in KEYS if section != "registry" and not isinstance(SETTINGS[section][key], str)
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "importer.toml"


def check(file: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The command's message about a configuration; empty if it accepts it."""
    status = cli.main(["--config", str(file), "check-config"])
    said = capsys.readouterr().err
    assert bool(status) == bool(said)
    assert not said or said.startswith(f"imaging-importer: {file}")
    return said


def written(file: Path, settings: Settings) -> Path:
    """TOML writes texts, numbers, true and lists as JSON does."""

    def lines(values: Settings) -> Iterator[str]:
        return (f"{key} = {json.dumps(value)}" for key, value in values.items() if not isinstance(value, dict))

    sections = {name: value for name, value in settings.items() if isinstance(value, dict)}
    file.write_text(
        "\n".join([*lines(settings), *(f"[{name}]\n" + "\n".join(lines(sections[name])) for name in sections)])
    )
    return file


def changed(section: str, key: str, value: object = None) -> Settings:
    """The settings with another value, or without it."""
    settings = copy.deepcopy(SETTINGS)
    settings[section][key] = value
    if value is None:
        del settings[section][key]
    return settings


def test_a_whole_configuration_is_taken(file, capsys):
    assert check(written(file, SETTINGS), capsys) == ""


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_a_missing_key_is_named(section, key, file, capsys):
    said = check(written(file, changed(section, key)), capsys)
    assert said == "" if section in OF_CLINICS else f"{section}.{key} is missing" in said


@pytest.mark.parametrize("section", SETTINGS)
def test_a_missing_section_is_named(section, file, capsys):
    settings = {name: values for name, values in SETTINGS.items() if name != section}
    named = section if section in OF_CLINICS else f"the section [{section}]"
    assert f"{named} is missing" in check(written(file, settings), capsys)


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_a_value_of_another_type_is_named_with_its_key(section, key, file, capsys):
    right = SETTINGS[section][key]
    wrong = ["5", True, [5]] if not isinstance(right, str) else [5, True, ["a"]]
    wrong += ["relative/path"] if section == "paths" else [1.5] if isinstance(right, int) and section != "scan" else []
    for value in wrong:
        assert f"{section}.{key} takes " in check(written(file, changed(section, key, value)), capsys), value


@pytest.mark.parametrize(("section", "key"), NUMBERS)
def test_a_number_that_cannot_be_meant_is_named(section, key, file, capsys):
    for value in (0, -1):
        said = check(written(file, changed(section, key, value)), capsys)
        assert f"{section}.{key} takes a number above 0, not {value}" in said


def test_a_character_set_that_nobody_writes_is_named(file, capsys):
    said = check(written(file, changed("charsets", "north", "utf-8")), capsys)
    assert "charsets.north takes one of windows-1250, " in said
    assert "not 'utf-8'" in said


@pytest.mark.parametrize("section", [section for section in SETTINGS if section not in OF_CLINICS])
def test_what_is_not_known_is_named(section, file, capsys):
    assert f"{section}.colour is not known" in check(written(file, changed(section, "colour", "red")), capsys)
    assert "colour is not known" in check(written(file, SETTINGS | {"colour": "red"}), capsys)
    assert "[looks] is not known" in check(written(file, SETTINGS | {"looks": {"colour": "red"}}), capsys)


@pytest.mark.parametrize("section", SETTINGS)
def test_a_section_that_is_none_is_named(section, file, capsys):
    assert f"{section} takes a section" in check(written(file, SETTINGS | {section: "red"}), capsys)


@pytest.mark.parametrize("content", [b"this is no TOML", b"\xff\xfe", None])
def test_a_file_that_cannot_be_read_is_named(content, file, capsys):
    if content is not None:
        file.write_bytes(content)
    assert f"{file} cannot be read: " in check(file, capsys)
