"""HTTP on loopback. Health and metrics are for everybody on the host; all else takes the secret that nginx and root
have, because it tells folder names and stores images.
"""

import hmac
import json
import logging
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from typing import NamedTuple

from imaging_importer.body import BrokenOffError

log = logging.getLogger(__name__)

# A request that is refused before its body was read is read on for so long, or the proxy would lose the answer.
DRAIN_SECONDS = 5


class Answer(NamedTuple):
    """What is sent back."""

    status: int
    kind: str
    body: str
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Request:
    """What was asked; `body` is read from the connection."""

    path: str
    headers: Message
    body: BufferedIOBase


@dataclass(frozen=True)
class Route:
    """A method and a pattern of paths, and who answers."""

    method: str
    path: str
    answer: Callable[[Request], Answer]
    is_open: bool = False


def serve(host: str, port: int, secret: str, routes: list[Route]) -> ThreadingHTTPServer:
    """A server for these routes; the caller runs it. Raises OSError when the port is taken."""

    class Handler(BaseHTTPRequestHandler):
        server_version = "imaging-importer"
        sys_version = ""
        timeout = 60  # seconds between two bytes

        def do_GET(self) -> None:
            self._handle()

        def do_POST(self) -> None:
            self._handle()

        def do_DELETE(self) -> None:
            self._handle()

        def _handle(self) -> None:
            try:
                answer = self._answer()
            except (BrokenOffError, ConnectionError, TimeoutError):
                self.close_connection = True
                return
            except Exception:
                log.exception("%s %s failed", self.command, self.path.partition("?")[0])
                answer = as_text(500, "internal error, see the log\n")
            self._send(answer)
            if self.command == "POST":
                self._drain()

        def _answer(self) -> Answer:
            # None takes a query.
            route = next((r for r in routes if r.method == self.command and re.fullmatch(r.path, self.path)), None)
            given = self.headers.get("Authorization", "").encode()
            may_pass = hmac.compare_digest(given, f"Bearer {secret}".encode())
            if route is None or not (route.is_open or may_pass):
                return as_text(404 if may_pass else 403, "There is nothing here without the front door's secret.\n")
            return route.answer(Request(self.path, self.headers, self.rfile))

        def _send(self, answer: Answer) -> None:
            data = answer.body.encode("utf-8", "replace")
            self.send_response(answer.status)
            for name, value in answer.headers:
                self.send_header(name, value)
            self.send_header("Content-Type", answer.kind)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(data)

        def _drain(self) -> None:
            try:
                self.connection.shutdown(socket.SHUT_WR)
                self.connection.settimeout(DRAIN_SECONDS)
                end = time.monotonic() + DRAIN_SECONDS
                while time.monotonic() < end and self.connection.recv(1 << 16):
                    pass
            except OSError:
                pass

        def log_message(self, format: str, *args: object) -> None:
            log.debug(format, *args)

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        allow_reuse_address = True

    return Server((host, port), Handler)


def as_json(value: object, status: int = 200) -> Answer:
    """A JSON answer."""
    return Answer(status, "application/json", json.dumps(value, indent=1) + "\n")


def as_text(status: int, text: str) -> Answer:
    """An answer for people; one that asks to come back says when."""
    return Answer(status, "text/plain; charset=utf-8", text, (("Retry-After", "5"),) if status == 503 else ())
