"""Settings that Debian leaves open and this host does not."""

from __future__ import annotations

import pytest
from testinfra.host import Host


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("passwordauthentication", "no"),
        ("kbdinteractiveauthentication", "no"),
        ("permitrootlogin", "without-password"),
        ("allowtcpforwarding", "local"),
        ("allowagentforwarding", "no"),
        ("x11forwarding", "no"),
        ("loglevel", "VERBOSE"),
        ("clientalivecountmax", "2"),
    ],
)
def test_sshd_does_as_it_is_told(host: Host, name: str, value: str) -> None:
    """As sshd itself understands its files: Ansible came with a key, so passwords are refused."""
    with host.sudo():
        settings = dict(line.split(" ", 1) for line in host.check_output("sshd -T").splitlines())
    assert settings[name] == value


def test_no_memory_of_a_program_comes_to_lie_on_the_disk(host: Host) -> None:
    assert "Storage=none" in host.check_output("systemd-analyze cat-config systemd/coredump.conf")
    assert host.check_output("runuser -l root -c 'ulimit -H -c'") == "0"


def test_modules_that_nothing_here_needs_are_not_loaded_on_demand(host: Host) -> None:
    rules = host.file("/etc/modprobe.d/imaging.conf").content_string
    for module in ("dccp", "sctp", "rds", "tipc", "usb-storage", "firewire-ohci"):
        assert f"install {module} /bin/false" in rules


def test_a_shell_that_nobody_types_into_ends(host: Host) -> None:
    assert host.check_output("runuser -l root -c 'echo $TMOUT'") == "1800"
