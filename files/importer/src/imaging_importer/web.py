"""HTTP on loopback: status page, status.json, metrics, health."""

import json
import logging
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

log = logging.getLogger(__name__)

Answer = tuple[int, str, str]  # status, content type, body
JSON = "application/json"


def serve(
    host: str, port: int, routes: dict[str, Callable[[], Answer]], delete: Callable[[str, str], Answer]
) -> ThreadingHTTPServer:
    """A server for GET on these paths, and for DELETE of what `delete` takes, with its path and Authorization header.

    The caller runs it. Raises OSError when the port is taken.
    """

    class Handler(BaseHTTPRequestHandler):
        server_version = "imaging-importer"
        sys_version = ""
        timeout = 30

        def do_GET(self) -> None:
            route = routes.get(self.path.partition("?")[0])
            self._answer(route or (lambda: (404, "text/plain; charset=utf-8", "not found\n")))

        def do_DELETE(self) -> None:
            self._answer(lambda: delete(self.path, self.headers.get("Authorization", "")))

        def _answer(self, route: Callable[[], Answer]) -> None:
            try:
                status, kind, body = route()
            except Exception:
                log.exception("%s failed", self.path)
                status, kind, body = 500, "text/plain; charset=utf-8", "internal error, see the log\n"
            data = body.encode("utf-8", "replace")
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            log.debug(format, *args)

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        allow_reuse_address = True

    return Server((host, port), Handler)


def as_json(value: object, status: int = 200) -> Answer:
    """A JSON answer."""
    return status, JSON, json.dumps(value, indent=1) + "\n"
