"""Every string that a stranger chose (names in a backup file, what another program said) passes here before somebody is
shown it. The same rule as in the importer's module of this name, line by line.
"""

import unicodedata


def printable(text: object) -> str:
    r"""The text, harmless: what is neither a line break nor a visible character is shown as \xNN or \uNNNN."""
    return "\n".join("".join(map(_shown, line)) for line in str(text).split("\n"))


def _shown(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8 (os.fsdecode)
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
