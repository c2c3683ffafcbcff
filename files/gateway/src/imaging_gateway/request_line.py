"""A strict reading of a request's method and raw URI (RFC 9112 3). Each resource has one spelling; others are refused.

nginx, this service and Orthanc could each read an unusual spelling differently. A spelling that is accepted here has
one meaning only. No path of the allow-list needs an escaped character.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from imaging_gateway.refusals import RefusedError

LONGEST_URI = 16000
METHOD = re.compile(r"[A-Z]{3,7}")
URI = re.compile(r"(?P<path>(?:/[A-Za-z0-9_.,-]+)+)(?:\?(?P<query>[!$&-:=?@A-Z_a-z~%\\*|^-]*))?")
DOTS = re.compile(r"\.+")
PARAMETER = re.compile(r"[A-Za-z0-9-]{1,64}")
ESCAPES = re.compile(r"(?:[^%]|%[0-9A-Fa-f]{2})*")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Request:
    """A request as the caller sent it: method, path without query, and the decoded parameters in their order."""

    method: str
    path: str
    parameters: tuple[tuple[str, str], ...]


def parse(method: str, uri: str) -> Request:
    """Read a method and a raw request target (RFC 9112 3.2.1). Raises RefusedError for every unusual spelling."""
    match = URI.fullmatch(uri) if len(uri) <= LONGEST_URI else None
    if match is None or METHOD.fullmatch(method) is None:
        raise RefusedError
    path: str = match["path"]
    if any(DOTS.fullmatch(segment) for segment in path.split("/")):
        raise RefusedError
    pairs = match["query"].split("&") if match["query"] else []
    return Request(method, path, tuple(_parameter(pair) for pair in pairs))


def _parameter(pair: str) -> tuple[str, str]:
    name, _, value = pair.partition("=")
    if PARAMETER.fullmatch(name) is None or ESCAPES.fullmatch(value) is None:
        raise RefusedError
    try:
        text = unquote_to_bytes(value.replace("+", " ")).decode("utf-8")
    except UnicodeDecodeError as error:
        raise RefusedError from error
    if CONTROL.search(text):
        raise RefusedError
    return name, text
