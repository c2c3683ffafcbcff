"""The platform's signature (Ed25519, RFC 8032). Somebody on a backup's way may damage it, but not replace it.

A public key is 64 hexadecimal digits, short enough to write down, compare and type. It is its own fingerprint.
"""

import re
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from imaging_backup.errors import BackupError

PUBLIC_KEY = re.compile(r"[0-9a-f]{64}")


class SigningKey:
    """The private key of this platform."""

    def __init__(self, text: str) -> None:
        """Raises ValueError for a text that is no key."""
        self._key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(text.strip()))

    @property
    def public(self) -> str:
        """The key with which others check its signatures."""
        return self._key.public_key().public_bytes_raw().hex()

    def sign(self, message: bytes) -> bytes:
        """The signature of a message."""
        return self._key.sign(message)


@dataclass(frozen=True)
class Trust:
    """The trusted backups: signed by this platform's key or by one given key, and if allowed, without a signature."""

    own: str
    also: str = ""
    unsigned: bool = False

    def demand(self, what: str, key: object) -> None:
        """Refuse a backup that claims to be signed with `key`, unless that key is trusted. Raises BackupError."""
        if key is None:
            if not self.unsigned:
                raise BackupError(
                    f"{what} is not signed: an older release made it, or somebody has changed it since. If you know "
                    "where it has been all the time, UNSIGNED=1 (--unsigned) believes it. Nothing was changed"
                )
        elif not isinstance(key, str) or not PUBLIC_KEY.fullmatch(key):
            raise BackupError(f"{what} names a key that is none. Nothing was changed")
        elif key not in (self.own, self.also):
            raise BackupError(
                f"{what} says it is signed with the key {key}, and this platform's is {self.own}. Compare it with the "
                f"key that you have noted of the platform that made it; if it is that one: TRUST={key} (--trust). "
                "Nothing was changed"
            )

    def __post_init__(self) -> None:
        if self.also and not PUBLIC_KEY.fullmatch(self.also):
            raise BackupError(f"TRUST takes a key of 64 hexadecimal digits, and {self.also!a} is none")


def is_signed(key: str, signature: bytes, message: bytes) -> bool:
    """Whether `signature` of `message` was made with the private half of `key`."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(signature, message)
    except InvalidSignature:
        return False
    return True
