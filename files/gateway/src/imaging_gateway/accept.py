"""The form of an answer that a client accepts, and the form that Orthanc is asked for.

Orthanc never sees a client's Accept. For a client it would convert images, and some images make it fail or stop. So it
is asked for the stored form, always in the same spelling. One spelling is also one entry of the proxy's cache.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from imaging_gateway.refusals import AcceptError

LONGEST_ACCEPT = 1000

NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# type="application/dicom" needs quotation marks because of its slash, but clients leave them out.
VALUE = r'(?:"(?:[^"\\]|\\.)*"|[^\s",;]+)'
PARAMETER = re.compile(rf"({NAME})=({VALUE})")
RANGE = re.compile(
    rf"({NAME})/({NAME})[ \t]*((?:;[ \t]*(?:{NAME}={VALUE}[ \t]*)?)*)"
    # A list may have empty elements (RFC 9110 5.6.1.2).
    r"(?:,[ \t,]*|$)"
)
QUALITY = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")


@dataclass(frozen=True)
class Form:
    """One form of an answer: its name for clients, and its name for Orthanc."""

    media_type: str
    orthanc: str
    part: str = ""
    """Of a multipart answer, the media type of its parts."""
    alone: bool = False
    """The proxy takes the one part out of the multipart answer that Orthanc gives."""


@dataclass(frozen=True)
class Range:
    """One media range of an Accept header (RFC 9110 12.5.1, PS3.18 8.7)."""

    kind: str
    subtype: str
    parameters: dict[str, str]
    quality: float

    def closeness(self, form: Form) -> int:
        """How closely it describes a form; 0 is not at all."""
        kind, subtype = form.media_type.split("/")
        if self.kind == "*":
            return 1
        if self.kind != kind or self.subtype not in ("*", subtype):
            return 0
        if self.subtype == "*":
            return 2
        part = self.parameters.get("type", "")
        # Parts of any kind. dicomweb-client asks for frames so.
        if part in ("*/*", form.part.split("/")[0] + "/*"):
            part = ""
        # The given syntax is the stored one, whichever that is.
        if part not in ("", form.part) or self.parameters.get("transfer-syntax", "*") != "*":
            return 0
        return 4 if part else 3


def choose(accept: str, forms: tuple[Form, ...]) -> Form:
    """Return the form that the client prefers; of equals the first. Raises AcceptError when it accepts none."""
    ranges = _read(accept)
    if not ranges:
        return forms[0]
    best = max(forms, key=lambda form: _liking(ranges, form))
    if _liking(ranges, best) == 0:
        raise AcceptError
    return best


def _liking(ranges: list[Range], form: Form) -> float:
    # The closest range decides. Of two that are equally close, the one with the higher weight decides.
    return max(((close, one.quality) for one in ranges if (close := one.closeness(form))), default=(0, 0.0))[1]


def _read(accept: str) -> list[Range]:
    text = accept.strip(" \t,")
    if len(accept) > LONGEST_ACCEPT:
        raise AcceptError
    ranges, at = [], 0
    while at < len(text):
        match = RANGE.match(text, at)
        if match is None:
            raise AcceptError
        ranges.append(_range(match))
        at = match.end()
    return ranges


def _range(match: re.Match[str]) -> Range:
    kind, subtype = match[1].lower(), match[2].lower()
    if (kind == "*" and subtype != "*") or ("*" in kind + subtype and "*" not in (kind, subtype)):
        raise AcceptError
    parameters: dict[str, str] = {}
    for name, value in PARAMETER.findall(match[3]):
        plain = re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
        if parameters.setdefault(name.lower(), plain.lower()) != plain.lower():
            raise AcceptError
    quality = parameters.pop("q", "1")
    if QUALITY.fullmatch(quality) is None:
        raise AcceptError
    return Range(kind, subtype, parameters, float(quality))
