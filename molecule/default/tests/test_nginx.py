"""nginx as it runs: TLS, redirects, refused names, headers, routes, and what a stranger must not find."""

from __future__ import annotations

import json
from ipaddress import ip_address

import pytest
from testinfra.host import Host
from wired import Wired

from .conftest import environment_of, show

# Asks nginx by whatever name is given, trusting the platform's own authority only.
ASK = """
import http.client, json, socket, ssl, sys
scheme, sni, name, path = sys.argv[1:5]
if scheme == "https":
    trust = ssl.create_default_context(cafile="/etc/imaging/tls/ca.pem")
    plain = socket.create_connection(("127.0.0.1", 443), timeout=20)
    connection = http.client.HTTPConnection(name)
    connection.sock = trust.wrap_socket(plain, server_hostname=sni)
    tls = connection.sock.version()
else:
    connection = http.client.HTTPConnection("127.0.0.1", 80, timeout=20)
    tls = None
connection.putrequest("GET", path, skip_host=True, skip_accept_encoding=True)
connection.putheader("Host", name)
for header in sys.argv[5:]:
    connection.putheader(*header.split(": ", 1))
connection.endheaders()
answer = connection.getresponse()
headers = {name.lower(): value for name, value in answer.getheaders()}
print(json.dumps({"status": answer.status, "headers": headers, "body": answer.read().decode("latin-1"), "tls": tls}))
"""


class Answer:
    """An HTTP answer."""

    def __init__(self, told: str) -> None:
        answer = json.loads(told)
        self.status: int = answer["status"]
        self.headers: dict[str, str] = answer["headers"]
        self.body: str = answer["body"]
        self.tls: str | None = answer["tls"]


def domain(host: Host) -> str:
    return f"imaging.{environment_of(host)}.test"


def get(host: Host, path: str, *headers: str, scheme: str = "https", name: str = "") -> Answer:
    asked = [scheme, domain(host), name or domain(host), path, *headers]
    return Answer(host.check_output("python3 -c %s" + " %s" * len(asked), ASK, *asked))


def test_it_runs_confined_and_with_the_platform(host: Host) -> None:
    unit = show(host, "nginx.service", "ActiveState", "PartOf", "WantedBy", "MemoryMax", "NoNewPrivileges")
    assert unit["ActiveState"] == "active"
    assert "imaging.target" in unit["PartOf"]
    assert "imaging.target" in unit["WantedBy"]
    assert unit["MemoryMax"] != "infinity"
    assert unit["NoNewPrivileges"] == "yes"


def test_keys_and_credentials_are_roots_alone_and_the_authoritys_certificate_is_everybodys(host: Host) -> None:
    for path in (
        "/etc/imaging/tls/privkey.pem",
        "/etc/imaging/tls/ca-key.pem",
        "/etc/imaging/credentials/nginx/orthanc.conf",
    ):
        file = host.file(path)
        assert (file.user, file.mode) == ("root", 0o600), path
    assert host.file("/etc/imaging/tls/ca.pem").mode == 0o644
    cache = host.file("/var/cache/nginx/dicom-web")
    assert (cache.user, cache.mode) == ("www-data", 0o700)


def test_tls_is_the_newest_and_the_certificate_is_for_this_name_by_the_authority(host: Host) -> None:
    assert get(host, "/").tls == "TLSv1.3"


def test_old_tls_is_refused(host: Host) -> None:
    script = (
        "import socket, ssl, warnings; warnings.simplefilter('ignore'); c = ssl._create_unverified_context();"
        "c.set_ciphers('ALL:@SECLEVEL=0'); c.minimum_version = c.maximum_version = ssl.TLSVersion.TLSv1_1;"
        f"c.wrap_socket(socket.create_connection(('127.0.0.1', 443)), server_hostname='{domain(host)}')"
    )
    refused = host.run("python3 -c %s", script)
    assert refused.rc != 0
    assert "SSLError" in refused.stderr


def test_plain_http_leads_to_https(host: Host) -> None:
    answer = get(host, "/viewer?StudyInstanceUIDs=1.2", scheme="http")
    assert answer.status == 308
    assert answer.headers["location"] == f"https://{domain(host)}/viewer?StudyInstanceUIDs=1.2"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_requests_for_another_name_are_refused(host: Host, scheme: str) -> None:
    assert get(host, "/", scheme=scheme, name="somebody.else.example").status == 421


def test_a_handshake_for_another_name_gets_no_certificate(host: Host) -> None:
    script = (
        "import socket, ssl; ssl._create_unverified_context().wrap_socket("
        "socket.create_connection(('127.0.0.1', 443)), server_hostname='somebody.else.example')"
    )
    assert "unrecognized name" in host.run("python3 -c %s", script).stderr.lower().replace("_", " ")


@pytest.mark.parametrize(
    "path", ["/", "/viewer?StudyInstanceUIDs=1.2", "/nothing-here", "/dicom-web/studies/1.2/metadata"]
)
def test_every_answer_carries_the_security_headers(host: Host, path: str) -> None:
    headers = get(host, path).headers
    assert headers["strict-transport-security"] == "max-age=63072000"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "camera=()" in headers["permissions-policy"]
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["server"] == "nginx"


def test_only_the_decode_worker_may_compile_text_into_code(host: Host) -> None:
    page = get(host, "/").headers["content-security-policy"]
    assert "'unsafe-eval'" not in page
    assert "script-src 'self' 'wasm-unsafe-eval' 'sha256-" in page
    facts = host.file("/opt/imaging/viewer/current/nginx.conf").content_string
    (worker,) = [line.split()[0] for line in facts.splitlines() if line.strip().startswith("/")]
    assert "'unsafe-eval'" in get(host, worker).headers["content-security-policy"]


def test_scripts_come_compressed_and_are_kept_for_ever_but_the_page_and_the_configuration_are_not(host: Host) -> None:
    page = get(host, "/")
    assert page.headers["cache-control"] == "no-cache"
    assert get(host, "/app-config.js").headers["cache-control"] == "no-cache"
    script = page.body.split('src="/app.bundle.')[1].split('"')[0]
    answer = get(host, f"/app.bundle.{script}", "Accept-Encoding: br")
    assert answer.headers["content-encoding"] == "br"
    assert "immutable" in answer.headers["cache-control"]


# fmt: off
CLOSED = [
    "/nothing-here", "/index.html", "/silent-refresh.html", "/sw.js", "/nginx.conf", "/?token=x", "/viewer?%74oken=x",
    "/auth/", "/auth/realms/master", "/auth/admin/master/console/", "/auth/metrics", "/auth/health",
    "/auth/realms/imaging/../master", "/auth/realms/imaging/..%3b/master",
    "/auth/realms/imaging/clients-registrations/default",
    "/metrics", "/health", "/authorize", "/.authorize", "/stub_status", "/wado", "/instances", "/grafana",
    "/status.json",
]
# fmt: on


def test_everything_closed_is_closed_with_one_and_the_same_answer(host: Host) -> None:
    answers = {path: get(host, path) for path in CLOSED}
    assert {path: answer.status for path, answer in answers.items() if answer.status != 404} == {}
    assert len({answer.body for answer in answers.values()}) == 1


@pytest.mark.parametrize(
    "path", ["/dicom-web/studies", "/dicom-web/studies/1.2/metadata", "/orthanc/system", "/dicom-web/nothing"]
)
def test_without_a_token_images_are_answered_401(host: Host, path: str) -> None:
    answer = get(host, path)
    assert answer.status == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_the_access_log_has_neither_queries_nor_tokens(host: Host) -> None:
    get(host, "/dicom-web/studies?PatientName=Mustermann", "Authorization: Bearer abc.def.ghi")
    host.run("sleep 3")  # the log is written every two seconds
    log = host.file("/var/log/nginx/access.log").content_string
    entries = [json.loads(line) for line in log.splitlines()]
    assert any(entry["path"] == "/dicom-web/studies" for entry in entries)
    assert "Mustermann" not in log
    assert "abc.def.ghi" not in log
    assert "Mustermann" not in host.check_output("journalctl --unit=nginx --no-pager --output=cat")


def test_its_status_page_answers_this_host_only(host: Host, wired: Wired) -> None:
    address, port = wired["nginx_internal_address"], wired["nginx_status_port"]
    assert ip_address(address).is_loopback
    sockets = host.socket.get_listening_sockets()
    assert [s for s in sockets if s.endswith(f":{port}")] == [f"tcp://{address}:{port}"]
    page = f"import urllib.request as u; print(u.urlopen('http://{address}:{port}/stub_status').read().decode())"
    assert "Active connections" in host.check_output("python3 -c %s", page)
