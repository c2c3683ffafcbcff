"""Makes text of several lines, for example the output of another program, harmless for a terminal."""

from imaging_backup.printable import printable


def printable_lines(text: object) -> str:
    """The text, each line as `printable` shows it."""
    return "\n".join(map(printable, str(text).split("\n")))
