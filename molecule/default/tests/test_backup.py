"""The backup as it is set up: a timer of the platform, a confined unit, a directory that only root enters."""

from __future__ import annotations

from testinfra.host import Host

from .conftest import show


def test_it_is_made_every_night(host: Host) -> None:
    assert host.service("imaging-backup.timer").is_running
    assert show(host, "imaging-backup.timer", "Persistent")["Persistent"] == "yes"
    assert "imaging-backup.timer" in show(host, "imaging.target", "Wants")["Wants"]


def test_nobody_but_root_reads_archives(host: Host) -> None:
    directory = host.file("/var/backups/imaging")
    assert (directory.user, directory.group, directory.mode) == ("root", "root", 0o700)


def test_the_private_key_of_archives_is_not_on_the_host(host: Host) -> None:
    assert host.run("grep -rl AGE-SECRET-KEY /etc /root /var/backups").stdout == ""
