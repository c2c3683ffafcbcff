"""nginx between a test's gateway and Orthanc: answers that read large images whole are counted."""

from __future__ import annotations

import getpass
import http.client
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jinja2
import pytest
import yaml
from project import ROOT
from wired import Wired

ROLE = ROOT / "roles" / "nginx"
NGINX = ROOT / ".cache" / "nginx" / "usr" / "sbin" / "nginx"  # tests/packages.sh

HEAVY, LIGHT = "/dicom-web/studies/1.9", "/dicom-web/studies/1.1"
INSTANCE = "/series/1.3/instances/{}"


@dataclass
class Orthanc:
    """Answers when it is let; knows what it is asked meanwhile."""

    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    let: threading.Event = field(default_factory=threading.Event)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.asked.append((request.path, dict(request.headers)))
        if "wait" in request.path:
            self.let.wait(20)
        request.send_response(200)
        request.send_header("Content-Type", "multipart/related")
        request.send_header("Content-Length", str(len(request.path)))
        request.end_headers()
        request.wfile.write(request.path.encode())


def decide(request: BaseHTTPRequestHandler) -> None:
    path = request.headers["X-Original-URI"].partition("?")[0]
    request.send_response(204)
    request.send_header("X-Study-Revision", "1")
    request.send_header("X-Orthanc-Accept", "as stored")
    # As the gateway does: whole files of a study with a large instance.
    if path.startswith(HEAVY) and re.fullmatch(r"(/(studies|series|instances)/[0-9.]+)+", path[len("/dicom-web") :]):
        request.send_header("X-Heavy", "1")
    request.end_headers()


def serve(answer: Callable[[BaseHTTPRequestHandler], None]) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def configuration(directory: Path, gateway: str, orthanc: str, port: int) -> str:
    """The role's own, without TLS, viewer and modules, with files in a directory."""
    variables = {
        **Wired().of("nginx"),
        **yaml.safe_load((ROLE / "defaults" / "main.yml").read_text()),
        **yaml.safe_load((ROLE / "vars" / "main.yml").read_text()),
        "nginx_domain": "imaging.example.org",
        "nginx_gateway_address": gateway,
        "nginx_orthanc_address": orthanc,
        "nginx_loopback_port": port,
        "nginx_cache_path": directory / "cache",
        "__nginx_certificate": {"chain": "", "key": ""},
        "__nginx_viewer_release": directory,
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ROLE / "templates"),
        trim_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701
    )
    text = environment.get_template("nginx.conf.j2").render(variables)
    text = re.sub(r"^ *(load_module|ssl_\w+|http2|brotli_static|js_\w+|listen (80|443|\[)).*\n", "", text, flags=re.M)
    text = re.sub(r"^ *server \{\n *return 421;\n *\}\n", "", text, flags=re.M)
    text = re.sub(rf"listen 127\.0\.0\.1:(?!{port};)\d+;", f"listen unix:{directory}/status.sock;", text)
    text = text.replace("/run/nginx/", f"{directory}/").replace("/var/log/nginx/", f"{directory}/")
    text = text.replace("/etc/imaging/credentials/nginx/", f"{directory}/").replace(
        "/etc/nginx/mime.types", "mime.types"
    )
    paths = "".join(
        f"    {name}_temp_path {directory}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    text = text.replace("user www-data;", f"user {getpass.getuser()};")
    return "daemon off;\n" + text.replace("http {\n", "http {\n" + paths, 1)


@dataclass
class Front:
    orthanc: Orthanc
    port: int

    def ask(self, path: str, address: str = "127.0.0.1") -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20, source_address=(address, 0))
        connection.request(
            "GET", path, headers={"Host": "imaging.example.org", "X-Heavy": "", "X-Real-IP": "192.0.2.9"}
        )
        return connection

    def status(self, path: str, address: str = "127.0.0.1") -> int:
        return self.answer(self.ask(path, address))[0]

    def answer(self, connection: http.client.HTTPConnection) -> tuple[int, dict[str, str], str]:
        answer = connection.getresponse()
        body = answer.read().decode()
        connection.close()
        return answer.status, dict(answer.headers), body

    def begin(self, path: str, address: str) -> http.client.HTTPConnection:
        """Ask, and return when Orthanc is asked."""
        before = len(self.orthanc.asked)
        connection = self.ask(path, address)
        wait_until(lambda: len(self.orthanc.asked) > before)
        return connection


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    if not NGINX.exists():
        pytest.skip("no nginx: sh tests/packages.sh")
    # The path of a socket has an end.
    directory = tmp_path_factory.mktemp("n")
    (directory / "nginx.conf").touch()
    orthanc = Orthanc()
    servers = [serve(decide), serve(orthanc.answer)]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    addresses = [f"127.0.0.1:{server.server_port}" for server in servers]
    viewer = "map $uri $viewer_decode_worker { default 0; }\nmap $uri $viewer_script_hashes { default ''; }\n"
    (directory / "nginx.conf").write_text(viewer)
    (directory / "mime.types").write_text("types { }\n")
    for name in ("orthanc.conf", "importer.conf"):
        (directory / name).write_text('proxy_set_header Authorization "Basic a-secret";\n')
    main = directory / "main.conf"
    main.write_text(configuration(directory, *addresses, port))
    with (directory / "log").open("w") as log:
        process = subprocess.Popen([NGINX, "-p", directory, "-c", main], stderr=log)
    try:
        wait_until(lambda: process.poll() is not None or socket.socket().connect_ex(("127.0.0.1", port)) == 0)
        assert process.poll() is None, (directory / "log").read_text()
        yield Front(orthanc, port)
    finally:
        orthanc.let.set()
        process.terminate()
        process.wait(10)
        for server in servers:
            server.shutdown()
            server.server_close()


def test_two_large_images_are_sent_at_once_one_to_each_address(front: Front) -> None:
    first = front.begin(HEAVY + "?wait", "127.0.0.1")

    status, headers, text = front.answer(front.ask(HEAVY + "/series/1.3", "127.0.0.1"))
    assert (status, headers["Retry-After"]) == (503, "5")
    assert text.startswith("Large images are being sent")

    second = front.begin(HEAVY + INSTANCE.format("1.4") + "?wait", "127.0.0.2")
    for path in ("", "/series/1.3", INSTANCE.format("1.5")):
        assert front.status(HEAVY + path, "127.0.0.3") == 503

    # Small requests do not wait.
    for path in ("/metadata", "/series", "/series/1.3/metadata", INSTANCE.format("1.4") + "/frames/1"):
        assert front.status(HEAVY + path) == 200
    for path in ("", "/series/1.3", INSTANCE.format("1.4")):
        assert front.status(LIGHT + path) == 200

    front.orthanc.let.set()
    assert [front.answer(connection)[0] for connection in (first, second)] == [200, 200]
    assert front.status(HEAVY, "127.0.0.3") == 200
    assert front.status(HEAVY, "127.0.0.1") == 200


def test_orthanc_is_asked_for_a_large_image_as_for_any(front: Front) -> None:
    for study in (HEAVY, LIGHT):
        assert front.status(study) == 200
        assert front.status(study + INSTANCE.format("1.4")) == 200
    (heavy, of_heavy), (heavy_one, of_heavy_one), (light, of_light), (light_one, of_light_one) = front.orthanc.asked
    assert (heavy, heavy_one, light, light_one) == (
        HEAVY, HEAVY + INSTANCE.format("1.4"), LIGHT, LIGHT + INSTANCE.format("1.4"),
    )  # fmt: skip
    assert of_heavy == of_light == of_heavy_one == of_light_one
    assert of_heavy == {
        "Host": "imaging.example.org",
        "Authorization": "Basic a-secret",
        "Accept": "as stored",
        "Forwarded": "host=imaging.example.org;proto=https",
    }


def test_what_the_cache_has_is_not_counted(front: Front) -> None:
    kept = HEAVY + INSTANCE.format("1.4")
    assert front.status(kept) == 200
    front.begin(HEAVY + "?wait", "127.0.0.1")
    assert front.status(kept) == 200
    assert front.status(HEAVY + INSTANCE.format("1.5")) == 503


def test_who_leaves_keeps_the_place_until_orthanc_answers(front: Front) -> None:
    front.begin(HEAVY + "?wait", "127.0.0.1").close()
    time.sleep(0.3)
    assert front.status(HEAVY) == 503
    front.orthanc.let.set()
    wait_until(lambda: front.status(HEAVY) == 200)
