"""The host as lynis sees it (Debian's package, on the sandbox host)."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from platform_client import Platform

PROFILE = Path(__file__).with_name("lynis.prf")
LEAST_INDEX = 80
# Where its tests are; the plugins have some of their own.
LYNIS = ("/usr/share/lynis", "/etc/lynis/plugins")
# The settings that lynis wants for these, and why the host does not have them.
OTHER_SYSCTLS = {
    "kernel.core_uses_pid": "there are no core dumps to tell apart",
    "kernel.ctrl-alt-del": "systemd decides what the keys do; this is the kernel's way without it",
    "kernel.unprivileged_bpf_disabled": "Debian has 2, which an administrator can lift while looking for a fault",
    "net.ipv4.conf.all.forwarding": "somebody's tunnel may need it; the firewall forwards nothing",
    "net.ipv4.conf.all.rp_filter": "Debian's loose check; the strict one drops packets on hosts in two networks",
}


@pytest.fixture(scope="module")
def report(platform: Platform) -> Iterator[dict[str, list[str]]]:
    """The findings of lynis: values by name."""
    platform.on_host("apt-get", "install", "-y", "-qq", "--no-install-recommends", "lynis")
    try:
        copy = ["docker", "cp", "-q", str(PROFILE), f"{platform.container}:/etc/lynis/custom.prf"]
        subprocess.run(copy, check=True)
        platform.on_host("lynis", "audit", "system", "--quick", "--quiet", "--no-colors")
        found: dict[str, list[str]] = {}
        for line in platform.on_host("cat", "/var/log/lynis-report.dat").splitlines():
            name, _, value = line.partition("=")
            found.setdefault(name.removesuffix("[]"), []).append(value)
        found["sysctls"] = platform.on_host("grep", "-h", "^config-data=sysctl;", "/etc/lynis/default.prf").splitlines()
        found["tests"] = platform.on_host("grep", "-rhoE", "[A-Z]+-[0-9]{4}", *LYNIS).splitlines()
        yield found
    finally:
        platform.on_host("apt-get", "purge", "-y", "-qq", "lynis")
        platform.on_host("rm", "-rf", "/etc/lynis", "/var/log/lynis.log", "/var/log/lynis-report.dat")


def test_lynis_gives_the_host_a_good_mark(report: dict[str, list[str]]) -> None:
    (index,) = report["hardening_index"]
    print(f"lynis: hardening index {index}")
    assert int(index) >= LEAST_INDEX


def test_lynis_warns_of_nothing(report: dict[str, list[str]]) -> None:
    assert report.get("warning", []) == []


def reasons(profile: str) -> dict[str, str]:
    """The reason of each exception: the comment right above it, or above the exceptions right above it."""
    found: dict[str, str] = {}
    reason = ""
    for line in profile.splitlines():
        if line.startswith("skip-test="):
            found[line.removeprefix("skip-test=")] = reason
        else:
            reason = line.removeprefix("# ") if line.startswith("# ") else ""
    return found


def is_a_sentence(text: str) -> bool:
    """A heading is none, nor is a comment of two words."""
    return len(text.split()) >= 5 and text.endswith(".") and not text.startswith("---")


def test_every_exception_has_its_reason() -> None:
    given = reasons(PROFILE.read_text())
    assert given
    assert {test: reason for test, reason in given.items() if not is_a_sentence(reason)} == {}


@pytest.mark.parametrize(
    "above", ["", "# --- somebody else decides ---\n", "# Not now.\n", "# The text of a notice is the hospital's.\n\n"]
)
def test_a_heading_or_a_comment_further_up_is_no_reason(above: str) -> None:
    ((test, reason),) = reasons(f"{above}skip-test=BANN-7126\n").items()
    assert test == "BANN-7126"
    assert not is_a_sentence(reason)


def test_every_exception_is_a_test_that_lynis_has(report: dict[str, list[str]]) -> None:
    assert {test.partition(":")[0] for test in reasons(PROFILE.read_text())} <= set(report["tests"])


def test_the_kernel_is_set_as_lynis_would_have_it(platform: Platform, report: dict[str, list[str]]) -> None:
    """Values that a container cannot set are compared in the file; values that the file leaves alone, in the kernel."""
    ours = dict(re.findall(r"^(\S+) = (\S+)$", platform.on_host("cat", "/etc/sysctl.d/90-imaging.conf"), re.MULTILINE))
    wanted = dict(line.split(";")[1:3] for line in report["sysctls"])
    assert len(ours.keys() & wanted.keys()) > 10
    wrong = {}
    for name, values in wanted.items():
        value = ours.get(name) or platform.on_host("sysctl", "-n", name, check=False).strip()
        if value and value not in values.split("|"):
            wrong[name] = f"{value} instead of {values}"
    assert wrong.keys() <= OTHER_SYSCTLS.keys(), wrong
