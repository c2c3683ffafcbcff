"""What goes wrong, in words for the administrator."""


class BackupError(Exception):
    """A backup or restore that cannot go on; the message says what is wrong, where, and what to do."""


def harmless(text: str) -> str:
    """Somebody else's text for a terminal and a journal: what would steer them is written out."""
    return "".join(sign if sign == "\n" or sign.isprintable() else ascii(sign)[1:-1] for sign in text)
