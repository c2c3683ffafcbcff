"""Requests as no client library would send them: bytes over TLS, and what comes back."""

from __future__ import annotations

import re
import socket
import ssl
from urllib.parse import urlsplit

from platform_client import Platform

LONGEST_ANSWER = 1_000_000


def exchange(platform: Platform, request: bytes, seconds: float = 3) -> bytes:
    """Send the bytes on one connection; return all that is answered until it is closed or `seconds` are silent."""
    host = urlsplit(platform.url).hostname
    context = ssl.create_default_context(cafile=platform.ca_file)
    answer = b""
    with (
        socket.create_connection((host, 443), timeout=seconds) as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        try:
            connection.sendall(request)
            while len(answer) < LONGEST_ANSWER and (part := connection.recv(65536)):
                answer += part
        except OSError:
            pass  # refused by closing the connection, or silent
    return answer


def statuses(answer: bytes) -> list[int]:
    """The status of each HTTP/1 answer among the bytes."""
    return [int(code) for code in re.findall(rb"HTTP/1\.[01] ([0-9]{3}) ", answer)]
