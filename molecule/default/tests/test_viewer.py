"""The viewer as it lies on the host: one checked release, nothing that talks to strangers, nobody's but root's."""

from __future__ import annotations

import re

from testinfra.host import Host

CURRENT = "/opt/imaging/viewer/current"


def test_the_release_is_whole_and_only_root_may_change_it(host: Host) -> None:
    assert host.file(CURRENT).is_symlink
    assert host.file(f"{CURRENT}/nginx.conf").is_file
    assert host.check_output(rf"find {CURRENT}/ ! -type l \( ! -user root -o -perm /022 \) -print") == ""


def test_every_script_lies_there_compressed_too(host: Host) -> None:
    plain = host.check_output(f"find {CURRENT}/www -maxdepth 1 -name '*.bundle.*.js' | wc -l")
    for suffix in ("gz", "br"):
        assert host.check_output(f"find {CURRENT}/www -maxdepth 1 -name '*.bundle.*.js.{suffix}' | wc -l") == plain


def test_source_maps_and_pages_that_load_from_a_public_network_are_gone(host: Host) -> None:
    unwanted = r"-name '*.map' -o -name 'silent-refresh.html*' -o -name 'sw.js*' -o -name 'google.js*' -o -name ort"
    assert host.check_output(rf"find {CURRENT}/www \( {unwanted} \) -print") == ""


def test_the_configuration_names_one_data_source_and_no_foreign_address(host: Host) -> None:
    configuration = host.file("/etc/imaging/viewer/app-config.js")
    assert configuration.mode == 0o644
    text = configuration.content_string
    assert text.count("namespace:") == 1
    assert "dicomwebproxy" not in text
    assert "dicomjson" not in text
    assert "/auth/realms/imaging'" in text
    assert len(set(re.findall(r"https?://([^/'\s]+)", text))) == 1
