"""The passes that gateways sign for themselves, to ask nginx for a study before a person does.

A pass names one clinic and the time when it ends. It is signed with a secret of the platform's gateways, so each of
them accepts the passes of the others. A pass is no JWT, so that no rule about tokens of Keycloak ever applies to it.
"""

from __future__ import annotations

import hmac
import re
import time

from imaging_gateway.grammar import CLINIC

PREFIX = "imaging-pass."
_PASS = re.compile(rf"{re.escape(PREFIX)}(?P<clinic>{CLINIC})\.(?P<expires>[0-9]{{1,12}})\.[0-9a-f]{{64}}")


def issue(secret: str, clinic: str, seconds: int) -> str:
    """Make a pass for one clinic."""
    content = f"{PREFIX}{clinic}.{int(time.time()) + seconds}"
    return f"{content}.{_signature(secret, content)}"


def read(secret: str, text: str) -> tuple[str, float] | None:
    """The clinic of a pass and its end in Unix time; None if no gateway of the platform has made the pass."""
    match = _PASS.fullmatch(text)
    content, _, signature = text.rpartition(".")
    if match is None or not hmac.compare_digest(signature, _signature(secret, content)):
        return None
    return match["clinic"], float(match["expires"])


def _signature(secret: str, content: str) -> str:
    return hmac.new(secret.encode(), content.encode(), "sha256").hexdigest()
