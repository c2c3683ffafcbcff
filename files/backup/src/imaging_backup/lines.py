"""Text of several lines, such as what another program said, made harmless for a terminal."""

from imaging_backup.printable import printable


def printable_lines(text: object) -> str:
    """The text, each line as `printable` shows it."""
    return "\n".join(map(printable, str(text).split("\n")))
