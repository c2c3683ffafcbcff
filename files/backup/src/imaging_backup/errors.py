"""The errors, in words for the administrator."""


class BackupError(Exception):
    """A backup or restore cannot go on. The message says what is wrong, where, and what to do."""
