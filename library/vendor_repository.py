#!/usr/bin/python
"""Ansible module: an apt repository of a vendor, with its key pinned by fingerprint."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vendor_repository
short_description: Add an apt repository of a vendor, with its key pinned by fingerprint
description:
  - Writes the repository's key and its deb822 file. The key is taken from I(key), or fetched from I(key_url) as apt
    does, through its proxy. It is refused unless every primary key in it has one of the pinned fingerprints.
  - With I(state=reachable) it only asks whether apt can reach the repository, and changes nothing.
options:
  name: {description: Name of the files., type: str, required: true}
  url: {description: Address of the repository., type: str, required: true}
  suite: {description: Suite., type: str, default: stable}
  components: {description: Components., type: list, elements: str, default: [main]}
  key: {description: The key in ASCII armour. Empty means that it is fetched., type: str, default: ""}
  key_url: {description: Address at which the key is fetched., type: str, default: ""}
  fingerprints: {description: Fingerprints of the keys that are trusted., type: list, elements: str, default: []}
  creates:
    description:
      - With I(state=reachable), a file that is there once what it gives is installed. Then nothing is asked.
    type: path
  seconds: {description: Seconds that an answer may take., type: int, default: 5}
  state: {description: Whether to write or to ask., type: str, choices: [present, reachable], default: present}
attributes:
  check_mode: {support: full}
  diff_mode: {support: none}
author: [The imaging platform's authors]
"""

EXAMPLES = r"""
- name: Know Grafana's repository
  vendor_repository:
    name: grafana
    url: https://apt.grafana.com
    key_url: https://apt.grafana.com/gpg.key
    fingerprints: [B53AE77BADB630A683046005963FA27710458545]
"""

RETURN = r"""
reachable: {description: Whether apt can reach the repository or need not., type: bool, returned: state is reachable}
reason: {description: The reason why it cannot., type: str, returned: state is reachable}
"""

import base64
import binascii
import hashlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule  # type: ignore[import-untyped]

APT_HELPER = "/usr/lib/apt/apt-helper"


def packets(key: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and body of each packet of an OpenPGP message (RFC 9580 section 4.2). Raises IndexError if it breaks off."""
    position = 0
    while position < len(key):
        header, first = key[position], key[position + 1]
        if header & 0x40:  # the present format
            tag = header & 0x3F
            if first < 192:
                size, start = first, position + 2
            elif first < 224:
                size, start = ((first - 192) << 8) + key[position + 2] + 192, position + 3
            else:
                size, start = int.from_bytes(key[position + 2 : position + 6]), position + 6
        else:
            tag, width = (header >> 2) & 0x0F, 1 << (header & 3)
            size, start = int.from_bytes(key[position + 1 : position + 1 + width]), position + 1 + width
        yield tag, key[start : start + size]
        position = start + size


def fingerprints(armoured: str) -> list[str]:
    """Fingerprints of the primary keys in an armoured key (RFC 9580 sections 5.5.4.2 and 6.2). Raises ValueError."""
    found = []
    for block in re.findall(
        r"-----BEGIN PGP PUBLIC KEY BLOCK-----(.+?)-----END PGP PUBLIC KEY BLOCK-----", armoured, re.DOTALL
    ):
        # The data follow the headers and an empty line. The checksum begins with an equals sign.
        body = re.split(r"\n\s*\n", block.replace("\r", ""), maxsplit=1)[-1].split("\n=")[0]
        try:
            for tag, content in packets(base64.b64decode(body)):
                if tag == 6:
                    if content[0] != 4:
                        raise ValueError(f"it holds a key of version {content[0]}, and only version 4 is known here")
                    hashed = b"\x99" + len(content).to_bytes(2) + content
                    found.append(hashlib.sha1(hashed, usedforsecurity=False).hexdigest().upper())
        except (binascii.Error, IndexError) as error:
            raise ValueError("it is damaged") from error
    if not found:
        raise ValueError("it holds no public key in ASCII armour")
    return found


def fetch(module: AnsibleModule, url: str) -> tuple[str, str]:
    """Fetch a text in apt's own way. Returns the text, or nothing and the reason."""
    seconds = str(module.params["seconds"])
    options = ["Acquire::Retries=0", *(f"Acquire::{scheme}::Timeout={seconds}" for scheme in ("http", "https"))]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "fetched"
        command = ["timeout", str(2 * module.params["seconds"]), APT_HELPER]
        command += [part for option in [*options, "APT::Sandbox::User=root"] for part in ("-o", option)]
        code, _, error = module.run_command([*command, "download-file", url, str(path)])
        if code == 0:
            return path.read_text(errors="replace"), ""
    said = [line[3:] for line in error.splitlines() if line.startswith("E: ")]
    return "", said[0] if said else f"no answer within {2 * module.params['seconds']} s"


def trusted_key(module: AnsibleModule, present: str) -> str:
    """Return the key to write: the given one, the present one if it is right, else a fetched one."""
    parameters = module.params
    pinned = {fingerprint.replace(" ", "").upper() for fingerprint in parameters["fingerprints"]}

    def wrong(key: str) -> str:
        try:
            strangers = set(fingerprints(key)) - pinned
        except ValueError as error:
            return str(error)
        return f"it holds the key {', '.join(sorted(strangers))}, which is not pinned" if strangers else ""

    key, source = parameters["key"], "the given key"
    if not key:
        if not wrong(present):
            return present
        source = parameters["key_url"]
        key, reason = fetch(module, source)
        if not key:
            module.fail_json(msg=f"The key of the repository {parameters['name']} could not be fetched: {reason}")
    if reason := wrong(key):
        told = (
            f"The key of the repository {parameters['name']} ({source}) is not trusted: {reason}. Nothing was changed"
        )
        module.fail_json(msg=f"{told}. Pinned: {', '.join(sorted(pinned))}")
    return str(key).rstrip("\n") + "\n"


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "url": {"type": "str", "required": True},
            "suite": {"type": "str", "default": "stable"},
            "components": {"type": "list", "elements": "str", "default": ["main"]},
            # A public key is no secret, although the argument's name says key.
            "key": {"type": "str", "default": "", "no_log": False},
            "key_url": {"type": "str", "default": "", "no_log": False},
            "fingerprints": {"type": "list", "elements": "str", "default": []},
            "creates": {"type": "path"},
            "seconds": {"type": "int", "default": 5},
            "state": {"type": "str", "choices": ["present", "reachable"], "default": "present"},
        },
        supports_check_mode=True,
    )
    parameters = module.params
    url = parameters["url"].rstrip("/")
    if parameters["state"] == "reachable":
        if parameters["creates"] and Path(parameters["creates"]).exists():
            module.exit_json(changed=False, reachable=True, reason="")
        release, reason = fetch(module, f"{url}/dists/{parameters['suite']}/InRelease")
        module.exit_json(changed=False, reachable=bool(release), reason=reason)

    keyring = Path(f"/etc/apt/keyrings/{parameters['name']}.asc")
    sources = Path(f"/etc/apt/sources.list.d/{parameters['name']}.sources")
    there = {path: path.read_text() if path.is_file() else "" for path in (keyring, sources)}
    wanted = {
        keyring: trusted_key(module, there[keyring]),
        sources: "# Managed by Ansible, module vendor_repository: changes here are overwritten.\n"
        f"Types: deb\nURIs: {url}\nSuites: {parameters['suite']}\n"
        f"Components: {' '.join(parameters['components'])}\nSigned-By: {keyring}\n",
    }
    changed = [path for path in wanted if wanted[path] != there[path]]
    if not module.check_mode:
        for path in changed:
            path.parent.mkdir(mode=0o755, exist_ok=True)
            draft = Path(module.tmpdir) / path.name
            draft.write_text(wanted[path])
            module.atomic_move(str(draft), str(path))
            path.chmod(0o644)
    module.exit_json(changed=bool(changed))


if __name__ == "__main__":
    main()
