"""A vendor's key is trusted by its fingerprint alone, whatever else the file says."""

from __future__ import annotations

import base64
import subprocess
from types import ModuleType

import pytest
from loading import load
from project import ROOT

SOURCE = ROOT / "library/vendor_repository.py"


@pytest.fixture(scope="module")
def module() -> ModuleType:
    return load(SOURCE)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A key that gpg made, in ASCII armour, and what gpg says its fingerprint is."""
    home = str(tmp_path_factory.mktemp("gnupg"))
    gpg = ["gpg", "--homedir", home, "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""]
    subprocess.run([*gpg, "--quick-generate-key", "nobody@example.org", "rsa2048", "sign", "1d"], check=True)
    armoured = subprocess.check_output([*gpg, "--armor", "--export"], text=True)
    listed = subprocess.check_output([*gpg, "--with-colons", "--list-keys"], text=True)
    subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False)
    return armoured, next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr:"))


def test_the_fingerprint_is_the_one_that_gpg_tells(module: ModuleType, key: tuple[str, str]) -> None:
    armoured, fingerprint = key
    assert module.fingerprints(armoured) == [fingerprint]


def test_a_second_key_in_the_file_is_seen(module: ModuleType, key: tuple[str, str]) -> None:
    armoured, fingerprint = key
    assert module.fingerprints(armoured + armoured) == [fingerprint, fingerprint]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("<html>Blocked by the proxy</html>", "no public key"),
        ("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nAAAA\n-----END PGP PUBLIC KEY BLOCK-----\n", "damaged"),
        ("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmA\n-----END PGP PUBLIC KEY BLOCK-----\n", "damaged"),
        (
            "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n"
            + base64.b64encode(bytes([0xC6, 3, 6, 0, 0])).decode()
            + "\n-----END PGP PUBLIC KEY BLOCK-----\n",
            "version 6",
        ),
    ],
)
def test_what_is_no_key_is_refused_in_words(module: ModuleType, text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        module.fingerprints(text)
