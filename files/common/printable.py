"""Shows strings that a stranger chose: names of folders, files and users, values of a file, headers.

Each passes through this module before a person or a program sees it. Controls, line breaks and marks that turn the
reading direction become escapes. Letters of every language stay. Every service that needs this file has it in its
package, as a link to the one in files/common.
"""

import logging
import unicodedata


def printable(text: object) -> str:
    r"""The text on one line, harmless: a character that cannot be seen is shown as \xNN or \uNNNN."""
    return "".join(map(_shown, str(text)))


def _shown(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8 (os.fsdecode)
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class Formatter(logging.Formatter):
    """Writes log lines. A stranger's string in a message or an error cannot begin a line of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line without its traceback."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: "logging._SysExcInfoType") -> str:  # noqa: N802 - logging's name
        """The traceback, whose own line breaks stay, below the line that it belongs to."""
        return "\n".join("  " + printable(line) for line in super().formatException(ei).split("\n"))
