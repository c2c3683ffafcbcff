"""`make uninstall` on a host in use: data stays and comes back with the platform; PURGE=1 takes it, once confirmed."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
import yaml
from deliveries import Study, copy_with_new_uids
from platform_client import ROOT, Platform, make, state_path
from pydicom.data import get_testdata_file

LISTS = yaml.safe_load((ROOT / "vars/uninstall.yml").read_text())
SANDBOX = os.environ.get("SANDBOX", "sandbox")
HOST = f"imaging-{SANDBOX}"
# Directories in which a package or a run leaves what people did not make, and which no package owns.
PLACES = "/etc /opt /usr/local /var/lib /var/cache /srv /data"
# Debian's own ways of remembering: users of packages stay by its policy, so that no number is given away twice.
OF_DEBIAN = (
    *("/etc/group", "/etc/gshadow", "/etc/passwd", "/etc/shadow", "/etc/subuid", "/etc/subgid", "/etc/.pwd.lock"),
    *("/var/lib/apt", "/var/lib/dpkg", "/var/lib/systemd", "/var/lib/ucf", "/var/lib/pam", "/var/lib/python"),
    *("/var/cache/apt", "/var/cache/debconf", "/var/cache/ldconfig", "/var/cache/man"),
    *("/etc/ssl/certs", "/usr/local/lib/python3"),
)


def on_host(script: str) -> list[str]:
    command = ["docker", "exec", HOST, "sh", "-c", script]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


@dataclass(frozen=True)
class State:
    """The host beside its packages: files that no package owns, units that start, ports, processes' users."""

    files: set[str]
    enabled: set[str]
    listening: set[str]
    users: set[str]


def look() -> State:
    owned = "sed -n p /var/lib/dpkg/info/*.list | sort -u > /run/owned"
    there = f"find {PLACES} -xdev 2>/dev/null | sort > /run/there"
    files = on_host(f"{owned}; {there}; comm -13 /run/owned /run/there; rm /run/owned /run/there")
    return State(
        files={path for path in files if not path.startswith(OF_DEBIAN)},
        enabled=set(on_host("systemctl list-unit-files --state=enabled --no-legend --plain | awk '{print $1}'")),
        listening=set(on_host("ss --no-header --tcp --udp --listening --numeric | awk '{print $5}'")),
        users=set(on_host("ps -eo user= | sort -u")),
    )


@dataclass(frozen=True)
class Before:
    bare: State
    study: Study
    ca: bytes


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Before:
    assert SANDBOX != "sandbox", "this test removes its host: give it a name in SANDBOX"
    make("down")
    subprocess.run(["rm", "-rf", str(state_path())], check=True)
    subprocess.run(["python3", "tools/sandbox.py", "up", "--name", HOST], cwd=ROOT, check=True)
    bare = look()
    deployed = make("up")
    assert deployed.returncode == 0, deployed.stdout[-3000:]
    platform = Platform()
    folder = tmp_path_factory.mktemp("delivery") / "study"
    study = copy_with_new_uids(Path(str(get_testdata_file("DICOMDIR"))).parent / "98892003", folder)
    platform.deliver("denscan-central", folder, "before-the-uninstallation")
    platform.wait_for_study(session(platform), study.study_uid)
    return Before(bare, study, (state_path() / "ca.pem").read_bytes())


def session(platform: Platform) -> requests.Session:
    return platform.api(platform.user("physician", "denscan-central"))


def test_data_is_not_removed_without_the_platform_s_name(before: Before) -> None:
    refused = make("uninstall", "PURGE=1", "CONFIRM=yes")
    assert refused.returncode != 0
    assert "Not confirmed, so nothing was changed" in refused.stdout
    assert make("status").returncode == 0


@pytest.fixture(scope="module")
def removed(before: Before) -> State:
    done = make("uninstall")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "Data stays" in done.stdout
    return look()


def test_nothing_of_ours_runs_or_starts_any_more(before: Before, removed: State) -> None:
    assert removed.listening == before.bare.listening
    # They came with packages that stay.
    assert removed.enabled - before.bare.enabled <= {"systemd-timesyncd.service", "unattended-upgrades.service"}
    assert removed.users - before.bare.users <= {"systemd-timesync"}
    assert on_host("systemctl list-units --all --plain --no-legend 'imaging*' nginx 'postgresql@*' 'prometheus*'") == []
    assert on_host("nft list ruleset") == []


def test_no_package_that_brings_a_service_is_left(before: Before, removed: State) -> None:
    installed = on_host("dpkg-query -W -f '${db:Status-Abbrev} ${Package}\\n' | sed -n 's/^ii  *//p'")
    assert set(installed) & set(LISTS["uninstall_packages"]) == set()


def test_our_code_and_our_configuration_are_gone_and_so_are_our_users(before: Before, removed: State) -> None:
    kept = ("/data", "/var/lib/imaging-importer", "/var/backups/imaging", "/etc/imaging/tls", "/etc/postgresql/")
    named = {path for path in removed.files if "imaging" in path and not path.startswith((*kept,))}
    assert named <= {"/etc/imaging"}
    assert on_host("ls /opt /usr/local/bin") == ["/opt:", "", "/usr/local/bin:"]
    users = set(on_host("getent passwd | cut -d: -f1"))
    assert users & {*LISTS["uninstall_users"]} == set()


def test_no_secret_is_left_on_the_host(before: Before, removed: State) -> None:
    assert [path for path in removed.files if path.startswith("/etc/imaging/credentials")] == []


def test_with_site_yml_everything_is_back_as_it_was(before: Before, removed: State) -> None:
    deployed = make("up")
    assert deployed.returncode == 0, deployed.stdout[-3000:]
    platform = Platform()
    assert (state_path() / "ca.pem").read_bytes() == before.ca, "browsers would have to trust another authority"
    platform.wait_for_study(session(platform), before.study.study_uid)
    address = f"{before.study.study_uid}/series/{before.study.series_uid}/instances/{before.study.sop_uid}"
    answer = session(platform).get(f"{platform.url}/dicom-web/studies/{address}/frames/1", timeout=60)
    assert answer.status_code == 200
    again = make("up")
    assert "changed=0" in again.stdout


def test_with_purge_nothing_of_ours_is_left(before: Before) -> None:
    secrets = state_path() / "secrets"
    assert secrets.is_dir()
    done = make("uninstall", "PURGE=1", f"CONFIRM=imaging.{SANDBOX}.test")
    assert done.returncode == 0, done.stdout[-3000:]
    after = look()
    words = ("imaging", "orthanc", "keycloak", "letsencrypt", "/var/lib/postgresql", "/var/lib/prometheus")
    assert sorted(path for path in after.files if any(word in path for word in words)) == []
    assert on_host("find /data /opt -mindepth 1") == []
    assert after.listening == before.bare.listening
    users = set(on_host("getent passwd | cut -d: -f1"))
    assert users & {*LISTS["uninstall_users"], *LISTS["uninstall_data_users"]} == set()
    assert not secrets.exists()


def test_a_second_run_finds_nothing_to_remove(before: Before) -> None:
    assert "changed=0" in make("uninstall").stdout
