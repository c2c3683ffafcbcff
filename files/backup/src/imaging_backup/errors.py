"""What goes wrong, in words for the administrator."""


class BackupError(Exception):
    """A backup or restore that cannot go on; the message says what is wrong, where, and what to do."""
