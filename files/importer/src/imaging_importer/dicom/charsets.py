"""Reads text of any character set, strictly: a byte that means nothing in a set is no letter there.

The declared set (PS3.3 C.12.1.1.2) is tried first, code extensions included (PS3.5 6.1.2.5), then UTF-8. The set that
the clinic is known to write follows, then the set that the letters look like: every second device writes Cyrillic
without the right name. If no set fits, each byte is shown marked, so that two different texts stay different.
"""

# ruff: noqa: RUF001 - Cyrillic letters are its subject

import re
from functools import lru_cache
from typing import NamedTuple

MARK = "\N{REPLACEMENT CHARACTER}"
MARKED = {byte: f"{MARK}{byte:02X}" for byte in (0x00, 0x1B, *range(0x80, 0x100))}

# ISO-IR numbers of PS3.3 table C.12-2 and C.12-3 with letters in the upper half (G1), and Python's codecs.
UPPER = {
    "100": "latin_1", "101": "iso8859_2", "109": "iso8859_3", "110": "iso8859_4", "144": "iso8859_5",
    "127": "iso8859_6", "126": "iso8859_7", "138": "iso8859_8", "148": "iso8859_9", "203": "iso8859_15",
    "166": "tis_620", "13": "shift_jis", "149": "euc_kr", "58": "gb2312",
}  # fmt: skip
# Without code extensions, Orthanc reads all of these rightly except 203 (tried); two are code extensions only.
BARE = re.compile(r"ISO(?:_IR| 2022 IR) (?!203|149|58)([0-9]+)")
LATIN = frozenset({"latin_1", "iso8859_2", "iso8859_3", "iso8859_4", "iso8859_9", "iso8859_15"})
LATIN_OF_WINDOWS = frozenset({"cp1250", "cp1252", "cp1254", "cp1257"})
HANZI = frozenset({"gb18030", "gbk"})
WHOLE = {"ISOIR192": "utf_8", "UTF8": "utf_8", "UNICODE": "utf_8", "GB18030": "gb18030", "GBK": "gbk"}

# Names that are no defined terms but have a meaning, by their letters and digits. A clinic's known set may be one.
FOREIGN = {
    "windows-1250": "cp1250", "windows-1251": "cp1251", "windows-1252": "cp1252", "windows-1253": "cp1253",
    "windows-1254": "cp1254", "windows-1255": "cp1255", "windows-1256": "cp1256", "windows-1257": "cp1257",
    "koi8-r": "koi8_r", "koi8-u": "koi8_u", "rk1048": "kz1048", "iso-8859-1": "latin_1", "iso-8859-2": "iso8859_2",
    "iso-8859-5": "iso8859_5", "iso-8859-9": "iso8859_9", "gb18030": "gb18030", "shift-jis": "cp932",
    "euc-kr": "euc_kr",
}  # fmt: skip
NAMES = {codec: name for name, codec in reversed(FOREIGN.items())}
SPELT = {
    key: name
    for name, codec in reversed(FOREIGN.items())
    for key in (name.replace("-", "").upper(), codec.replace("_", "").upper())
}
MOST_TERMS = 32  # there are fewer defined terms

# PS3.5 6.1.2.5.4: escape sequences (without ESC), and the sets that they put into the lower or the upper half.
ESCAPE = re.compile(rb"\x1b(\([BJ]|\$[@B]|\$\(D|\)I|-[A-DFGHLMTb]|\$\)[AC])|[\x80-\xff]+|[^\x1b\x80-\xff]+|\x1b")
INTO_UPPER = {
    b"-A": "latin_1", b"-B": "iso8859_2", b"-C": "iso8859_3", b"-D": "iso8859_4", b"-F": "iso8859_7",
    b"-G": "iso8859_6", b"-H": "iso8859_8", b"-L": "iso8859_5", b"-M": "iso8859_9", b"-T": "tis_620",
    b"-b": "iso8859_15", b")I": "shift_jis", b"$)C": "euc_kr", b"$)A": "gb2312",
}  # fmt: skip
# Bytes that Python reads there. Orthanc does not read them, or not as DICOM means them.
HOLES = {"shift_jis": re.compile(rb"[\x80-\xa0\xe0-\xff]"), "tis_620": re.compile(rb"\xa0")}
PADDING = b" \0"
EVIDENCE = 4096  # number of bytes that are judged

# Letters that often follow the first of each group in Russian and Kazakh; ^ and $ are the ends of a word.
PAIRS = """
^абвгдежзиклмнопрстуфхчшэюяқәөғұүіңһцщ а$бвгдезжийклмнпрстуфхцчшщюяғқңі б$адеилоруыяьұәө в$адеилнорстуысьякчш
г$адеилноруүұөә д$аеиклмнорсуыьіүәұөяжрв е$бвгдежзйклмнпрстуфхцчшщюё ё$двгжзклмнрстшх
жадеикнуұүә з$абвдеилмноруыьғқіяг и$абвгдезйклмнпрстфхцчшщяюе й$бгдзклмнрстхшіцч
к$авеилмнорстуцшәөүічх л$абгдежиклмнопстуфшыьюяіғқё м$абеиклмнопстуыіұәүябқ н$абгдежзиклностуфцчшщыьяіұғқүёк
о$бвгдежзийклмнпрстуфхцчшщюя п$аеилнорстуьыяі р$абвгдежзиклмнопрстуфхцчшщыьюяіғқұүмё с$авеиклмнопрстуцчыьяқұәіүмх
т$авгдезиклмнорстуфцчыьіүөқяе у$абвгджзийклмнпрстфхчшыяюеов ф$аеилору х$авеилмнорстуы
ц$аеиоуыкйв ч$аеиклнотуьх ш$аеикламноптуыьіқұән щаеиуон
ъеёюя ы$бвгдезйклмнпрстхчшқңғр ь$бвгдекмнсстфцшюяе эвдклмнрстмйф
ю$бвгдклмнпрстхщшчн я$вгдзйклмнпрстхцчщ і$бзклмнпрстңшгй ғ$аылимжұзі
қ$абеимностуыұқшз ң$адегкгғсқ ү$зйклмнргстш ұ$йлмнрсхқғзт
ә$бдзйклмнрстугп өбзйклмнрстг һаио
"""
FOLLOWING = {group[0]: group[1:] for group in PAIRS.split()}
CYRILLIC = frozenset("".join(FOLLOWING)[1:]) | frozenset("ўїєґ")
LIKELY = ("cp1251", "kz1048", "iso8859_5", "koi8_r")  # of equals, the first
USUAL = {"cp1251": 1, "kz1048": 1, "iso8859_5": 0, "koi8_r": 0}  # in hospitals
HARMLESS = frozenset("\xa0№–—…„“”’\xad")


class Charset(NamedTuple):
    """The declaration of a Specific Character Set, as far as it is recognised."""

    name: str  # for people; empty if nothing is known
    codec: str = ""  # of all bytes, if the set has one
    upper: str = ""  # G1 at the beginning of each value, if code extensions are possible
    is_right: bool = False  # Orthanc reads it rightly if there is no escape sequence


Declared = tuple[bytes, Charset]


@lru_cache(256)
def declared(value: bytes) -> Charset:
    """The meaning of a Specific Character Set. A misspelt name counts if it can mean one thing only."""
    plain = value.strip(PADDING).upper().decode("latin_1")
    if plain.count("\\") > MOST_TERMS:
        return Charset("")
    keys = [re.sub(r"[^A-Z0-9]|(?<=WIN)DOWS", "", term) for term in plain.split("\\")]
    keys = [re.sub(r"^WIN(?=125)", "CP", key) for key in keys]
    while len(keys) > 1 and not keys[-1]:
        keys.pop()
    for key in keys:
        if codec := WHOLE.get(key):
            term = "ISO_IR 192" if codec == "utf_8" else key
            return Charset(term, codec, is_right=plain.rstrip("\\") == term)
        if name := SPELT.get(key):
            return Charset(name, FOREIGN[name])
    numbers = [found[1] if (found := re.fullmatch(r"(?:ISO)?(?:2022)?(?:IR)?([0-9]+)", key)) else "" for key in keys]
    known = [number for number in numbers if number in UPPER]
    upper = UPPER.get(numbers[0], "")
    if not upper and len(known) == 1:
        upper = UPPER[known[0]]  # some writers name an extension and leave out its escape sequence
    if len(keys) == 1 and known:
        bare = bool(BARE.fullmatch(plain.rstrip("\\")))
        return Charset(f"ISO_IR {known[0]}", upper=upper, is_right=bare)
    return Charset("\\".join(f"ISO 2022 IR {number or 6}" for number in numbers) if any(numbers) else "", upper=upper)


def decode(value: bytes, charset: Charset) -> str:
    """A value without its padding, read in a declared set. Raises UnicodeError if it is not written in that."""
    value = value.rstrip(PADDING)
    if charset.codec:
        return _strict(value, charset.codec)
    try:
        return _extended(value, charset.upper, resets=True)
    except UnicodeError:  # not every writer repeats an escape sequence after a delimiter
        return _extended(value, charset.upper, resets=False)


def _extended(value: bytes, initial: str, resets: bool) -> str:
    """Code extensions (PS3.5 6.1.2.5.3): an invoked set ends with a delimiter, a line and a value."""
    text, lower, upper = [], b"(B", initial
    for part in ESCAPE.finditer(value):
        run = part[0]
        if escape := part[1]:
            if codec := INTO_UPPER.get(escape):
                upper = codec
            else:
                lower = escape
        elif run == b"\x1b":
            raise UnicodeError("an escape sequence that DICOM does not know")
        elif run[0] >= 0x80:
            text.append(_strict(run, upper or "ascii"))
        elif lower.startswith(b"$"):
            text.append((b"\x1b" + lower + run).decode("iso2022_jp_2"))
        else:
            text.append(run.decode("ascii"))
            if resets and re.search(rb"[\\^=\t\n\f\r]", run):
                upper = initial
    return "".join(text)


def _strict(value: bytes, codec: str) -> str:
    text = value.decode(codec)
    if codec == "utf_8":
        if "\x1b" in text:
            raise UnicodeError("an escape sequence in UTF-8")
    elif re.search(r"[\x1b\x80-\x9f]", text) or (codec in HOLES and HOLES[codec].search(value)):
        raise UnicodeError("bytes that mean nothing")
    return text


def marked(value: bytes) -> str:
    """The text that can be read without a character set; each other byte is shown by its number."""
    return value.decode("latin_1").translate(MARKED)


def _broken_off(value: bytes, codec: str) -> str:
    """A text that a writer cut in the middle of its last character. Raises UnicodeError."""
    for size in range(1, min(4, len(value))):
        text = ""
        try:
            text = _strict(value[:-size], codec)
        except UnicodeError:
            continue
        if sum(character > "\x7f" for character in text) > 1:
            return text + marked(value[-size:])
    raise UnicodeError("not broken off")


class Text(NamedTuple):
    """A value as it is read, and how. `exact`: as it was declared, without any error."""

    text: str
    name: str
    exact: bool = False


class Reader:
    """Reads the odd values of one data set: those that are not plain ASCII."""

    def __init__(self, values: list[Declared], identity: list[Declared], own: str) -> None:
        """`identity`: name and id of the patient, the same in all images of a study. `own`: the clinic's known set."""
        self._own = own
        evidence = _some(identity or values)
        charsets = {charset for _, charset in evidence}
        self._untrue = {charset for charset in charsets if _is_untrue(evidence, charset, FOREIGN.get(own, ""))}
        left = self._uncertain(identity) or self._uncertain(values)
        self._guess = guess(left, are_names=bool(identity)) if left else ""

    def _uncertain(self, values: list[Declared]) -> list[bytes]:
        return [value for value, charset in _some(values) if not self._certain(value, charset)]

    def _certain(self, value: bytes, charset: Charset) -> Text | None:
        """Read in the declared set, or in UTF-8, which no other set looks like."""
        value = value.rstrip(PADDING)
        if charset not in self._untrue:
            try:
                return Text(decode(value, charset), charset.name or "ISO 2022", exact=bool(charset.name))
            except UnicodeError:
                pass
        for attempt in (_strict, _broken_off):
            is_declared = attempt is _broken_off and charset not in self._untrue
            for codec in dict.fromkeys([charset.codec if is_declared else "", "utf_8"]):
                try:
                    return Text(attempt(value, codec), "UTF-8" if codec == "utf_8" else charset.name)
                except (UnicodeError, LookupError):
                    pass
        return None

    def read(self, value: bytes, charset: Charset) -> Text:
        """One value."""
        read = self._read(value, charset)
        return read._replace(text=read.text.replace("\0", f"{MARK}00"), exact=read.exact and "\0" not in read.text)

    def _read(self, value: bytes, charset: Charset) -> Text:
        if found := self._certain(value, charset):
            return found
        value = value.rstrip(PADDING)
        codecs = [FOREIGN.get(self._own, ""), self._guess, "cp1252" if charset.upper == "latin_1" else ""]
        for codec in filter(None, codecs):
            try:
                return Text(_strict(value, codec), NAMES.get(codec, codec))
            except UnicodeError:
                pass
        return Text(marked(value), "")


def _some(values: list[Declared]) -> list[Declared]:
    """Enough of the values to judge by."""
    some, size = [], 0
    for value, charset in values:
        if size < EVIDENCE:
            cut = value if len(value) <= EVIDENCE else value[:EVIDENCE].rpartition(b" ")[0] or value[:EVIDENCE]
            some.append((cut, charset))
            size += len(cut)
    return some


def _is_untrue(evidence: list[Declared], charset: Charset, own: str) -> bool:
    """Whether bytes that decode in a set belong to another: Èâàíîâà is Иванова in windows-1251, and so is 肉囗钼.

    Real Latin names have their accented letters among others, and are never UTF-8 by chance. `own`: the clinic's known
    codec. In its letters, even a short name is enough evidence.
    """
    values = [value.rstrip(PADDING) for value, declared_ in evidence if declared_ == charset]
    if charset.codec in HANZI:
        is_usual = all(map(_is_usual_chinese, values))
        return not is_usual and any(_makes_cyrillic(values, codec) for codec in filter(None, ("utf_8", guess(values))))
    try:
        texts = [decode(value, charset) for value in values]
    except UnicodeError:
        return False
    if charset.codec in LATIN or (not charset.codec and charset.upper in LATIN and b"\x1b" not in b"".join(values)):
        try:
            return all(_strict(value, "utf_8") for value in values)
        except UnicodeError:
            words = [word for text in texts for word in _words(text)]
            if any(map(_has_ascii, words)):
                return False
            longest = max(map(len, words), default=0)
            if longest >= 2 and own and own not in LATIN_OF_WINDOWS | LATIN and _are_letters(values, own):
                return True
            best = guess(values) if longest >= 3 else ""
            return bool(best) and plausibility(_all(values, best)) > sum(map(len, words)) / 2
    if (charset.codec or charset.upper) in LIKELY and b"\x1b" not in b"".join(values):
        try:
            if plausibility(_all(values, "utf_8")) > plausibility(texts):
                return True
        except UnicodeError:
            pass
        best = guess(values)
        better = plausibility(_all(values, best)) if best else 0
        return better >= plausibility(texts) + 3 and better > len("".join(texts)) / 2
    return False


def _are_letters(values: list[bytes], codec: str) -> bool:
    """Whether all of them are letters, or signs that go with letters."""
    try:
        return all(sign.isascii() or sign.isalpha() or sign in HARMLESS for sign in "".join(_all(values, codec)))
    except UnicodeError:
        return False


def _makes_cyrillic(values: list[bytes], codec: str) -> bool:
    """Whether the text has Cyrillic words, with too many letters to be chance."""
    try:
        texts = _all(values, codec)
    except UnicodeError:
        return False
    words = [word for text in texts for word in _words(text)]
    return max(map(len, words), default=0) >= 5 and plausibility(texts) >= sum(map(len, words))


def _is_usual_chinese(value: bytes) -> bool:
    """Whether all characters are among the 3,755 usual ones (GB 2312 level 1). A text of another set never is."""
    return bool(re.fullmatch(rb"([\0-\x7f]|[\xa1-\xd7][\xa1-\xfe])*", value))


def guess(values: list[bytes], are_names: bool = True) -> str:
    """The Cyrillic codec that makes names and words of these values; empty if none does."""
    scores: dict[str, float] = {}
    for codec in LIKELY:
        try:
            scores[codec] = plausibility(_all(values, codec), are_names) + USUAL[codec]
        except UnicodeError:
            continue
    best = max(scores, key=lambda codec: scores[codec], default="")
    return best if best and scores[best] >= USUAL[best] else ""


def _all(values: list[bytes], codec: str) -> list[str]:
    return [_strict(value.rstrip(PADDING), codec) for value in values]


def _words(text: str) -> list[str]:
    return [word for word in re.findall(r"[^\W\d_]+", text) if not word.isascii()]


def _has_ascii(word: str) -> bool:
    return any(letter.isascii() for letter in word)


def plausibility(texts: list[str], are_names: bool = True) -> float:
    """How much this looks like Russian or Kazakh: common pairs of letters, against the other pairs."""
    score = 0.0
    for text in texts:
        score -= 2 * sum(not (sign.isascii() or sign.isalpha() or sign in HARMLESS) for sign in text)
        for word in _words(text):
            small = word.lower()
            if len(small) > 1:
                pairs = zip("^" + small, small + "$", strict=True)
                score += sum(1 if after in FOLLOWING.get(before, "") else -1 for before, after in pairs)
            score -= 3 * sum(letter not in CYRILLIC for letter in small)
            if word not in (small, word.upper(), word.capitalize()):
                score -= 3
            score -= (2 if are_names else 0.5) * word[0].islower()
    return score
