"""Real faults beyond those of tests/host/platform: each is told and nothing else is, and told again when it is over."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from platform_client import Platform
from time_lapse import TimeLapse


@pytest.fixture(scope="module")
def time_lapse(platform: Platform) -> Iterator[TimeLapse]:
    pair = TimeLapse(platform)
    pair.start()
    yield pair
    pair.stop()


@pytest.fixture(autouse=True)
def from_here(time_lapse: TimeLapse) -> None:
    """Ignore the alerts of earlier tests."""
    time_lapse.before |= set(time_lapse.state())


def test_orthanc_stopped(time_lapse: TimeLapse) -> None:
    time_lapse.tell_of_stopped("imaging-orthanc", "OrthancDown")
    assert time_lapse.others("OrthancDown") == set()


def test_keycloak_stopped(time_lapse: TimeLapse) -> None:
    time_lapse.tell_of_stopped("imaging-keycloak", "KeycloakDown")
    # Its login page comes a moment after its measurements.
    assert time_lapse.others("KeycloakDown", "LoginPageDown") == set()


def test_postgresql_stopped(time_lapse: TimeLapse) -> None:
    time_lapse.tell_of_stopped("postgresql@17-main", "PostgreSQLDown")
    # Each notices a moment after the database itself that it is back.
    assert time_lapse.others("PostgreSQLDown", "OrthancDown", "GatewayRegistryLost") == set()


def test_a_disk_filled_to_85_percent(time_lapse: TimeLapse) -> None:
    platform = time_lapse.platform
    disk = "/srv/imaging-test-disk"
    platform.on_host("mkdir", "-p", disk)
    platform.on_host("mount", "-t", "tmpfs", "-o", "size=20m", "imaging-test", disk)
    try:
        platform.on_host("fallocate", "-l", "17M", f"{disk}/images")
        time_lapse.wait_for("DiskSpaceLow", "firing", mountpoint=disk)
        platform.on_host("rm", f"{disk}/images")
        time_lapse.wait_for("DiskSpaceLow", "resolved", mountpoint=disk)
    finally:
        platform.on_host("umount", disk)
        platform.on_host("rmdir", disk)
    assert time_lapse.others() == set()


def test_a_certificate_with_ten_days_left(time_lapse: TimeLapse) -> None:
    platform = time_lapse.platform
    place = "/etc/imaging/tls"
    platform.on_host("cp", "-a", f"{place}/fullchain.pem", f"{place}/fullchain.pem.whole")
    try:
        command = ["openssl", "x509", "-req", "-in", f"{place}/server.csr", "-CA", f"{place}/ca.pem"]
        command += ["-CAkey", f"{place}/ca-key.pem", "-days", "10", "-copy_extensions", "copy"]
        platform.on_host(*command, "-out", f"{place}/fullchain.pem")
        platform.on_host("systemctl", "reload", "nginx")
        time_lapse.wait_for("CertificateExpiringSoon", "firing")
    finally:
        platform.on_host("mv", f"{place}/fullchain.pem.whole", f"{place}/fullchain.pem")
        platform.on_host("systemctl", "reload", "nginx")
    time_lapse.wait_for("CertificateExpiringSoon", "resolved")
    assert time_lapse.others("CertificateExpiringSoon") == set()
