"""Keys that sign backups in these tests."""

from imaging_backup.signing import SigningKey, Trust

SECRET = "ab" * 32
KEY = SigningKey(SECRET)
OTHER_KEY = SigningKey("cd" * 32)
TRUST = Trust(KEY.public)
