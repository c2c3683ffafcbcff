"""HTTP on loopback. Everybody on the host may read health and metrics.

Everything else needs the secret that nginx and root have, because it shows folder names and stores images.
"""

import hmac
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase, BufferedReader, RawIOBase
from typing import NamedTuple

log = logging.getLogger(__name__)

# Each connection holds a thread; connections beyond these are closed at once. If half of them are in use, the rest of a
# refused upload is not read: otherwise a client that sends very many uploads at once would hold all of them.
MOST_CONNECTIONS = 200
# A sender that needs longer for the head of its request gets no answer.
HEAD_SECONDS = 10.0
# The slowest speed that is accepted: so many bytes of the body a second, over so many seconds of waiting. So every
# upload ends: one of the permitted size takes at most its size divided by this.
SLOWEST = 16 << 10
SLOWEST_OVER = 30.0

# If a request is refused before its body was read, its body is read on for so long. Else the proxy would lose the
# answer.
DRAIN_SECONDS = 5


class SenderGoneError(Exception):
    """The sender left before the end: there is nobody to answer."""


class TooSlowError(Exception):
    """The sender takes longer than its place may be kept."""


class Answer(NamedTuple):
    """The answer to send."""

    status: int
    kind: str
    body: str
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Request:
    """The request; `body` is read from the connection."""

    path: str
    headers: Message
    body: BufferedIOBase


@dataclass(frozen=True)
class Route:
    """A method, a pattern of paths, and the function that answers."""

    method: str
    path: str
    answer: Callable[[Request], Answer]
    is_open: bool = False


class Paced(RawIOBase):
    """Reads from a connection and refuses a sender that is too slow. Our own time is not counted."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._needed, self._seconds = 1 << 20, HEAD_SECONDS  # no head is so large, so only the time counts
        self._received, self._waited = 0, 0.0

    def begin_body(self) -> None:
        """Count the rate from now on, because the head was read."""
        self._needed, self._seconds = int(SLOWEST * SLOWEST_OVER), SLOWEST_OVER
        self._received, self._waited = 0, 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._connection.settimeout(max(0.001, self._seconds - self._waited))
        began = time.monotonic()
        try:
            count = self._connection.recv_into(buffer)
        except TimeoutError as error:
            raise TooSlowError from error
        self._waited += time.monotonic() - began
        self._received += count
        if self._received >= self._needed:
            self._received, self._waited = 0, 0.0
        return count


def serve(host: str, port: int, secret: str, routes: list[Route]) -> ThreadingHTTPServer:
    """A server for these routes; the caller runs it. Raises OSError when the port is taken."""

    open_connections = 0
    counting = threading.Lock()

    def count(change: int) -> bool:
        """Count one connection more or less; return whether it may stay."""
        nonlocal open_connections
        with counting:
            may = open_connections + change <= MOST_CONNECTIONS
            open_connections += change * may
            return may

    class Handler(BaseHTTPRequestHandler):
        server_version = "imaging-importer"
        sys_version = ""
        timeout = 60  # seconds that an answer waits for its reader

        def setup(self) -> None:
            super().setup()
            self._paced = Paced(self.connection)
            self.rfile = BufferedReader(self._paced, 1 << 16)

        def do_GET(self) -> None:
            self._handle()

        def do_POST(self) -> None:
            self._handle()

        def do_DELETE(self) -> None:
            self._handle()

        def handle(self) -> None:
            try:
                super().handle()
            except (TooSlowError, ConnectionError):
                self.close_connection = True

        def _handle(self) -> None:
            self._paced.begin_body()
            try:
                answer = self._answer()
            except (SenderGoneError, ConnectionError, TimeoutError):
                self.close_connection = True
                return
            except Exception:
                log.exception("%s %s failed", self.command, self.path.partition("?")[0])
                answer = as_text(500, "internal error, see the log\n")
            self._send(answer)
            if self.command == "POST":
                self._drain()

        def _answer(self) -> Answer:
            # No route takes a query.
            route = next((r for r in routes if r.method == self.command and re.fullmatch(r.path, self.path)), None)
            given = self.headers.get("Authorization", "").encode()
            may_pass = hmac.compare_digest(given, f"Bearer {secret}".encode())
            if route is None or not (route.is_open or may_pass):
                return as_text(404 if may_pass else 403, "There is nothing here without nginx's secret.\n")
            return route.answer(Request(self.path, self.headers, self.rfile))

        def _send(self, answer: Answer) -> None:
            self.connection.settimeout(self.timeout)
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
            if open_connections > MOST_CONNECTIONS // 2:
                return
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

        def process_request(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]
            if not count(1):
                self.shutdown_request(request)
                return
            try:
                super().process_request(request, client_address)
            except BaseException:
                count(-1)
                raise

        def process_request_thread(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]
            try:
                super().process_request_thread(request, client_address)
            finally:
                count(-1)

    return Server((host, port), Handler)


def as_json(value: object, status: int = 200) -> Answer:
    """A JSON answer."""
    return Answer(status, "application/json", json.dumps(value, indent=1) + "\n")


def as_text(status: int, text: str) -> Answer:
    """An answer for people. An answer that asks the client to try again says when."""
    return Answer(status, "text/plain; charset=utf-8", text, (("Retry-After", "5"),) if status == 503 else ())
