"""Commands reach the host that an inventory means, as Ansible reaches it; nothing on the way changes them."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import on_host
import pytest
from on_host import Host, HostError
from project import ROOT

ODD = [
    "a  b",
    "it's",
    'say "no"',
    "$HOME",
    "$(id)",
    "`id`",
    ";",
    "&&",
    "*",
    "\\",
    "",
    "--",
    "-x",
    "Қайрат",
    "two\nlines",
]

Write = Callable[[str], str]


@pytest.fixture
def inventory(tmp_path: Path) -> Write:
    def write(text: str) -> str:
        file = tmp_path / "hosts.yml"
        file.write_text(text)
        return str(file)

    return write


def find(inventory: str, job: str) -> Host:
    """Look in a process of its own: Ansible reads the secrets of one inventory only in a process."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(on_host.find, (inventory, job))


def one(variables: str = "") -> str:
    return f"imaging: {{hosts: {{pacs: {{{variables}}}}}}}"


def test_the_inventorys_variables_are_the_way(inventory: Write) -> None:
    host = find(
        inventory(
            one(
                "domain: example.org, ansible_host: 'pacs.{{ domain }}', ansible_port: 2222, ansible_user: debian, "
                "ansible_ssh_private_key_file: ~/key, ansible_ssh_common_args: -o ProxyJump=gate -o 'User Known=x'"
            )
        ),
        "imaging",
    )
    assert host.address == "pacs.example.org"
    assert list(host.ssh) == [
        *("ssh", "-o", "LogLevel=ERROR", "-p", "2222", "-l", "debian", "-i", str(Path("~/key").expanduser())),
        *("-o", "ProxyJump=gate", "-o", "User Known=x"),
    ]
    assert host.sudo_user == "root"


@pytest.mark.parametrize(
    ("variables", "user"),
    [
        ("ansible_user: debian", "root"),
        ("ansible_user: debian, ansible_become: false", ""),
        ("ansible_user: debian, ansible_become: 'no'", ""),
        ("ansible_user: root", ""),
        ("ansible_user: debian, ansible_become_user: imaging", "imaging"),
    ],
)
def test_commands_run_as_the_user_that_playbooks_become(inventory: Write, variables: str, user: str) -> None:
    assert find(inventory(one(variables)), "imaging").sudo_user == user


@pytest.mark.parametrize(
    ("groups", "host"),
    [
        ("{imaging: {hosts: {a: }}}", "a"),
        ("{imaging: {hosts: {a: }}, importer: {hosts: {b: }}}", "b"),
        ("{imaging: {hosts: {a: }}, importer: {hosts: {}}}", "a"),
        ("{imaging: {hosts: {a: , b: }}, importer: {hosts: {b: }}}", "b"),
        ("{importer: {children: {imaging: {hosts: {a: }}}}}", "a"),
    ],
)
def test_the_host_of_the_job_is_meant_else_the_platforms(inventory: Write, groups: str, host: str) -> None:
    assert find(inventory(groups), "importer").address == host


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        ("{imaging: {hosts: {a: , b: }}}", "the group imaging of the inventory .* has 2 hosts \\(a, b\\)"),
        ("{imaging: {hosts: {a: }}, importer: {hosts: {b: , c: }}}", "the group importer .* has 2 hosts \\(b, c\\)"),
        ("{imaging: {hosts: {}}}", "the group imaging .* has no hosts. .*Nothing was run"),
        ("{others: {hosts: {a: }}}", "the group imaging .* has no hosts. .*Nothing was run"),
        ("{imaging: {hosts: {a: {ansible_connection: winrm}}}}", "reaches a by winrm"),
        ("{imaging: {hosts: {a: {ansible_password: x}}}}", "with a password; this command needs a key"),
        ("{imaging: {hosts: {a: {ansible_become_method: su}}}}", "by su; this command needs sudo"),
        ("{imaging: {hosts: {a: {ansible_host: '{{ nowhere }}'}}}}", "'nowhere' is undefined"),
    ],
)
def test_what_is_not_one_reachable_host_is_refused_in_words(inventory: Write, groups: str, told: str) -> None:
    with pytest.raises(HostError, match=told):
        find(inventory(groups), "importer")


def test_words_arrive_as_they_are_through_the_shells_on_the_way() -> None:
    # sshd does this, and sudo does not.
    words = Host(("ssh",), "pacs").command(["printf", r"%s\0", *ODD])
    assert words[:3] == ["ssh", "--", "pacs"]
    for shell in ("sh", "bash"):
        printed = subprocess.run([shell, "-c", words[3]], capture_output=True, text=True, check=True).stdout
        assert printed.split("\0")[:-1] == ODD


def run(place: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Run the program itself, with a stand-in of ssh that runs the command here, as sshd does."""
    ssh, sudo = place / "bin/ssh", place / "bin/sudo"
    ssh.parent.mkdir()
    ssh.write_text('#!/bin/sh\necho "$@" >>"$ARGUMENTS"\nfor text; do :; done\nexec sh -c "$text"\n')
    sudo.write_text(
        '#!/bin/sh\necho "$@" >>"$ARGUMENTS"\n[ -z "$ASKS" ] || head -1 >"$(dirname "$ARGUMENTS")/asked"\n'
        'while [ "$1" != -- ]; do shift; done; shift\nexec "$@"\n'
    )
    for program in (ssh, sudo):
        program.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{ssh.parent}:{os.environ['PATH']}",
        "ARGUMENTS": str(place / "arguments"),
        "ASKS": "",
        **variables,
    }
    command = [sys.executable, str(ROOT / "tools/on_host.py"), *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )


def test_output_and_exit_status_are_the_commands_own(inventory: Write, tmp_path: Path) -> None:
    script = r"printf '\000\r\n\303'; echo trouble >&2; exit 7"
    done = run(tmp_path, inventory(one()), "importer", "--tty", "--", "sh", "-c", script)
    assert (done.stdout, done.stderr, done.returncode) == (b"\0\r\n\303", b"trouble\n", 7)


def test_a_refusal_goes_to_standard_error_alone(inventory: Write, tmp_path: Path) -> None:
    done = run(tmp_path, inventory("imaging: {hosts: {a: , b: }}"), "imaging", "--", "true")
    assert (done.stdout, done.returncode) == (b"", 1)
    assert b"has 2 hosts (a, b)" in done.stderr
    assert not (tmp_path / "arguments").exists()


def test_a_program_that_this_machine_lacks_is_named_in_words(inventory: Write, tmp_path: Path) -> None:
    file = inventory("imaging: {hosts: {a: {ansible_connection: local, ansible_become: false}}}")
    done = run(tmp_path, file, "imaging", "--", "no-such-program")
    assert (done.stdout, done.returncode) == (b"", 1)
    assert done.stderr == b"on_host: this machine has no program no-such-program. Nothing was run.\n"


@pytest.mark.parametrize("asks", [True, False], ids=["asks", "needs none"])
def test_sudo_gets_a_password_from_the_vault_and_nobody_else_sees_it(
    inventory: Write, tmp_path: Path, *, asks: bool
) -> None:
    (tmp_path / "key").write_text("of the vault")
    encrypt = ["ansible-vault", "encrypt_string", "--vault-password-file", str(tmp_path / "key"), "hush"]
    vault = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{vault}:{os.environ['PATH']}"}
    secret = subprocess.run(encrypt, env=environment, capture_output=True, text=True, check=True).stdout
    file = inventory(
        "imaging:\n  hosts:\n    pacs:\n      ansible_user: debian\n      ansible_become_password: "
        + secret.replace("\n", "\n      ")
    )
    done = run(
        *(tmp_path, file, "imaging", "--", "sh", "-c", 'cat; printf "<%s>" "$@"', "sh", *ODD),
        ANSIBLE_VAULT_PASSWORD_FILE=str(tmp_path / "key"),
        ASKS="1" if asks else "",
    )
    assert done.stdout.decode() == "".join(f"<{word}>" for word in ODD), done.stderr
    assert (tmp_path / "asked").exists() is asks
    if asks:
        assert (tmp_path / "asked").read_text() == "hush\n"
    assert "hush" not in (tmp_path / "arguments").read_text()
