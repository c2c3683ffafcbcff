"""Orthanc's rendered configuration: it parses, and nothing dangerous is left on."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote, urlsplit

import jinja2
import pytest
import yaml
from project import ROOT
from wired import Wired

TEMPLATES = ROOT / "roles/orthanc/templates"
OWN_PLUGIN = "/opt/imaging/orthanc/plugins/libOrthancPostgreSQLIndex.so"
VARIABLES = {
    "orthanc_storage_path": "/data/dicom",
    "orthanc_memory_mb": 2048,
    "orthanc_listen_address": "127.0.0.1",
    "orthanc_port": 8042,
    "__orthanc_database_uri": 'postgresql://orthanc:quote"and\\backslash@127.0.0.1:5432/orthanc?sslmode=disable',
    "orthanc_users": {"importer": "one", "gateway": "two"},
    "__orthanc_own_plugin": False,
    "__orthanc_own_plugin_path": OWN_PLUGIN,
}


def render(template: str, **changes: Any) -> str:
    """Render a template of the role the way Ansible does."""
    environment = jinja2.Environment(  # noqa: S701 (this is JSON, not HTML)
        loader=jinja2.FileSystemLoader(TEMPLATES), trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["to_json"] = json.dumps
    return environment.get_template(template).render({**VARIABLES, **changes})


def parse(text: str) -> dict[str, Any]:
    """Parse JSON with the comments on lines of their own that Orthanc accepts; a key given twice is an error."""

    def refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        assert len(keys) == len(set(keys)), f"given twice: {keys}"
        return dict(pairs)

    lines = [line for line in text.splitlines() if not line.lstrip().startswith("//")]
    parsed: dict[str, Any] = json.loads("\n".join(lines), object_pairs_hook=refuse_twice)
    return parsed


@pytest.fixture(scope="module")
def configuration() -> dict[str, Any]:
    return parse(render("orthanc.json.j2"))


@pytest.fixture(scope="module")
def secrets() -> dict[str, Any]:
    return parse(render("secrets.json.j2"))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("MaximumStorageMode", "Reject"),
        ("OverwriteInstances", False),
        ("StoreMD5ForAttachments", True),
        ("SyncStorageArea", True),
        ("HttpBindAddresses", ["127.0.0.1"]),
        ("RemoteAccessAllowed", False),
        ("OrthancExplorerEnabled", False),
        ("WebDavEnabled", False),
        ("WebDavUploadAllowed", False),
        ("WebDavDeleteAllowed", False),
        ("HttpDescribeErrors", False),
        ("DicomServerEnabled", False),
        ("DicomAlwaysAllowEcho", False),
        ("DicomAlwaysAllowStore", False),
        ("DicomAlwaysAllowFind", False),
        ("DicomAlwaysAllowFindWorklist", False),
        ("DicomAlwaysAllowGet", False),
        ("DicomAlwaysAllowMove", False),
        ("DicomModalities", {}),
        ("DicomModalitiesInDatabase", False),
        ("OrthancPeers", {}),
        ("OrthancPeersInDatabase", False),
        ("LuaScripts", []),
        ("ExecuteLuaEnabled", False),
        ("RestApiWriteToFileSystemEnabled", False),
        ("HttpsVerifyPeers", True),
        ("DeidentifyLogs", True),
        ("HttpVerbose", False),
    ],
)
def test_a_dangerous_default_is_off(configuration: dict[str, Any], option: str, value: object) -> None:
    assert configuration[option] == value


@pytest.mark.parametrize(
    ("option", "value"),
    [("EnableWado", False), ("Servers", {}), ("ServersInDatabase", False), ("Host", ""), ("Root", "/dicom-web/")],
)
def test_dicomweb_has_no_side_way(configuration: dict[str, Any], option: str, value: object) -> None:
    assert configuration["DicomWeb"][option] == value


def test_only_the_three_plugins_named_are_loaded(configuration: dict[str, Any]) -> None:
    assert configuration["Plugins"] == [
        "/usr/share/orthanc/plugins/libOrthancDicomWeb.so",
        "/usr/share/orthanc/plugins/libOrthancPostgreSQLIndex.so",
    ]


def test_a_plugin_of_the_operators_choice_replaces_debians_and_commits_as_read() -> None:
    assert parse(render("orthanc.json.j2", __orthanc_own_plugin=True))["Plugins"][-1] == OWN_PLUGIN
    assert (
        parse(render("secrets.json.j2", __orthanc_own_plugin=True))["PostgreSQL"]["TransactionMode"] == "ReadCommitted"
    )


def test_debians_plugin_is_not_told_what_it_ignores(secrets: dict[str, Any]) -> None:
    assert "TransactionMode" not in secrets["PostgreSQL"]


def test_everybody_must_authenticate_and_only_the_two_services_can(secrets: dict[str, Any]) -> None:
    assert secrets["AuthenticationEnabled"] is True
    assert secrets["RegisteredUsers"] == {"importer": "one", "gateway": "two"}


def test_the_index_is_in_postgresql_and_the_images_are_files(secrets: dict[str, Any]) -> None:
    assert secrets["PostgreSQL"]["EnableIndex"] is True
    assert secrets["PostgreSQL"]["EnableStorage"] is False
    assert secrets["PostgreSQL"]["ConnectionUri"] == VARIABLES["__orthanc_database_uri"]


def test_a_password_of_any_characters_fits_into_the_address_of_the_database() -> None:
    wired = Wired(orthanc_database_password="a/b@c:d?e&f=g%h#i", orthanc_database_sslmode="verify-full")
    address = urlsplit(parse(wired.render(TEMPLATES / "secrets.json.j2"))["PostgreSQL"]["ConnectionUri"])
    assert unquote(address.password or "") == "a/b@c:d?e&f=g%h#i"
    assert (address.hostname, address.port, address.path) == ("127.0.0.1", 5432, "/orthanc")
    assert address.query == "sslmode=verify-full"


def test_no_section_is_spread_over_the_two_files(configuration: dict[str, Any], secrets: dict[str, Any]) -> None:
    assert configuration.keys().isdisjoint(secrets)


def test_no_secret_is_in_the_readable_file() -> None:
    text = render("orthanc.json.j2", __orthanc_database_uri="S3CRET-DB", orthanc_users={"importer": "S3CRET-HTTP"})
    assert "S3CRET" not in text


@pytest.mark.parametrize("memory", [1024, 2048, 16384])
def test_caches_and_buffers_leave_a_quarter_of_the_memory_limit(memory: int) -> None:
    configuration = parse(render("orthanc.json.j2", orthanc_memory_mb=memory))
    used = sum(value for option, value in configuration.items() if option.endswith(("CacheSize", "MemoryCapacity")))
    assert 0 < used <= memory * 3 // 4


@pytest.mark.parametrize("memory", [None, 1024, 3200, 5370, 12288])
def test_the_largest_image_fits_the_memory_limit(memory: int | None) -> None:
    """Beside 250 MB of its own, Orthanc takes 5 times an image's size to send two at once."""
    defaults = {
        role: yaml.safe_load((ROOT / f"roles/{role}/defaults/main.yml").read_text()) for role in ("orthanc", "importer")
    }
    wiring = yaml.safe_load((ROOT / "vars/wiring.yml").read_text())
    chosen = {} if memory is None else {"orthanc_memory_mb": memory}
    environment = jinja2.Environment()  # noqa: S701 (a number)
    largest = int(environment.from_string(wiring["importer_instance_max_mb"]).render(chosen))
    used = 250 + 5 * largest
    assert used <= (memory or defaults["orthanc"]["orthanc_memory_mb"]) < used + 5
    if memory is None:
        assert largest == defaults["importer"]["importer_instance_max_mb"] > 600_000_000 >> 20
    if memory == 5370:
        assert largest >= 1024, "as ADMIN.md says"
