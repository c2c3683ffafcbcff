#!/usr/bin/env python3
"""Print newer versions than the pinned ones and than those on the hosts; the ordinary clients are asked."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "files/viewer"))

from prepare import PACKAGE, npm  # noqa: E402

Found = Iterator[tuple[str, str, str]]
"""Name, what there is here, what is newest."""


class UnknownError(Exception):
    """The reason why it could not be asked."""


def ask(*command: str) -> str:
    """The answer of a client. Raises UnknownError."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnknownError(str(error)) from error
    if done.returncode:
        said = f"{done.stdout}\n{done.stderr}"
        reason = re.search(r"msg: (.+)", said)  # Ansible's
        raise UnknownError(reason[1] if reason else said.strip().rpartition("\n")[2] or f"exit code {done.returncode}")
    return done.stdout


def tool(name: str) -> str:
    """A command of the virtual environment."""
    return str(Path(sys.executable).with_name(name))


def python_packages() -> Found:
    """The versions pinned in requirements*.txt. Raises UnknownError."""
    text = "".join(path.read_text() for path in ROOT.glob("requirements*.txt"))
    pinned = {name.lower().replace("_", "-") for name in re.findall(r"^([\w.-]+)(?:\[.*?\])?==", text, re.MULTILINE)}
    for package in json.loads(ask(sys.executable, "-m", "pip", "list", "--outdated", "--format=json")):
        if package["name"].lower().replace("_", "-") in pinned:
            yield package["name"], package["version"], package["latest_version"]


def keycloak(pinned: str) -> Found:
    """The versions in Maven, asked as role keycloak does. Raises UnknownError."""
    with tempfile.TemporaryDirectory() as directory:
        pom = Path(directory, "keycloak.pom")
        wanted = f"group_id=org.keycloak artifact_id=keycloak-quarkus-dist extension=pom version=latest dest={pom}"
        interpreter = f"ansible_python_interpreter={sys.executable}"
        ask(tool("ansible"), "localhost", "-m", "community.general.maven_artifact", "-a", wanted, "-e", interpreter)
        # It inherits its version.
        newest = ElementTree.parse(pom).findtext("{*}parent/{*}version", "")  # noqa: S314 # verified by its checksum
    if newest != pinned:
        yield "Keycloak", pinned, newest


def viewer(pinned: str) -> Found:
    """The versions in npm. Raises UnknownError."""
    newest = ask(*npm(), "view", PACKAGE, "version").strip()
    if newest != pinned:
        yield f"OHIF ({PACKAGE})", pinned, newest


def debian_packages(inventory: str) -> Found:
    """The versions that apt has for the hosts, as of their last apt-get update (every day). Raises UnknownError."""
    listed = ask(
        tool("ansible"), "-i", inventory, "imaging", "--become", "-m", "command", "-a", "apt list --upgradable"
    )
    host = ""
    for line in listed.splitlines():
        if started := re.match(r"(\S+) \| ", line):
            host = started[1]
        elif package := re.match(r"([^/\s]+)/\S+ (\S+) \S+ \[upgradable from: (\S+)\]", line):
            yield f"{package[1]} on {host}", package[3], package[2]


def main() -> int:
    """Ask everybody; always 0, whatever is newer."""
    versions = yaml.safe_load((ROOT / "vars/versions.yml").read_text())
    inventory = sys.argv[1]
    questions: dict[str, Callable[[], Found]] = {
        "Keycloak": lambda: keycloak(versions["keycloak_version"]),
        "OHIF": lambda: viewer(versions["viewer_version"]),
        "Python packages on the controller": python_packages,
        f"Debian packages on the hosts of {inventory}": lambda: debian_packages(inventory),
    }
    for what, question in questions.items():
        try:
            found = list(question())
        except UnknownError as error:
            print(f"{what}: could not be asked: {error}")
            continue
        print(f"{what}: {'newer ones are there' if found else 'the newest'}")
        for name, here, newest in found:
            print(f"  {name:<40} {here} -> {newest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
