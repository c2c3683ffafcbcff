"""How images and metadata arrive: encrypted, fetched once, compressed where it helps, their pixels as stored."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from socket import create_connection
from urllib.parse import urlsplit

import pytest
import requests
from deliveries import Study
from platform_client import Platform
from pydicom.uid import generate_uid

FRAME = {"Accept": 'multipart/related; type="application/octet-stream"; transfer-syntax=*'}
LOG = "/var/log/nginx/access.log"


@pytest.fixture(scope="module")
def study(deliver: Callable[[str], Study]) -> Study:
    """A study that nobody has opened."""
    return deliver("denscan-central")


@pytest.fixture(scope="module")
def physician(platform: Platform) -> requests.Session:
    return platform.api(platform.user("physician", "denscan-central"))


def series_path(study: Study) -> str:
    return f"/dicom-web/studies/{study.study_uid}/series/{study.series_uid}"


def frame_path(study: Study) -> str:
    return f"{series_path(study)}/instances/{study.sop_uid}/frames/1"


def logged(platform: Platform, path: str, entries: int) -> list[dict[str, object]]:
    """The access log's entries for a path, once there are so many: nginx writes them every two seconds."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        lines = platform.on_host("grep", "-F", f'"path":"{path}"', LOG, check=False).splitlines()
        if len(lines) >= entries:
            return [json.loads(line) for line in lines]
        time.sleep(0.5)
    raise AssertionError(f"{len(lines)} log entries of {path} instead of {entries}")


@pytest.mark.parametrize(("offered", "spoken"), [(["h2", "http/1.1"], "h2"), (["http/1.1"], "http/1.1")])
def test_it_speaks_tls_1_3_and_http_2(platform, offered, spoken):
    context = ssl.create_default_context(cafile=platform.ca_file)
    context.set_alpn_protocols(offered)
    host = str(urlsplit(platform.url).hostname)
    with create_connection((host, 443), 30) as plain, context.wrap_socket(plain, server_hostname=host) as encrypted:
        assert (encrypted.version(), encrypted.selected_alpn_protocol()) == ("TLSv1.3", spoken)


def test_tls_1_2_is_spoken_with_clients_that_know_no_better_and_only_with_forward_secrecy(platform):
    host = str(urlsplit(platform.url).hostname)
    context = ssl.create_default_context(cafile=platform.ca_file)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with create_connection((host, 443), 30) as plain, context.wrap_socket(plain, server_hostname=host) as encrypted:
        assert encrypted.version() == "TLSv1.2"
    context.set_ciphers("ECDHE+AES+SHA:RSA")
    with create_connection((host, 443), 30) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain, server_hostname=host)


def test_the_first_opening_finds_its_metadata_in_the_cache(platform, physician, study):
    path = f"{series_path(study)}/metadata"
    (warmed,) = logged(platform, path, 1)
    assert (warmed["client"], warmed["status"], warmed["cache"]) == ("127.0.0.1", 200, "MISS")
    for accept in ("application/dicom+json", "application/json, */*;q=0.1", "*/*"):
        assert physician.get(platform.url + path, headers={"Accept": accept}, timeout=60).status_code == 200
    assert [entry["cache"] for entry in logged(platform, path, 4)] == ["MISS", "HIT", "HIT", "HIT"]


def test_the_gateways_way_to_the_cache_is_no_way_around_the_gateway(platform, study):
    command = ("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"http://127.0.0.1:8082{frame_path(study)}")
    assert platform.on_host(*command) == "401"


def test_metadata_is_compressed_for_those_who_take_it_and_the_same_for_all(platform, physician, study):
    for path in (f"{series_path(study)}/metadata", f"/dicom-web/studies/{study.study_uid}/series"):
        packed = physician.get(platform.url + path, headers={"Accept-Encoding": "gzip"}, timeout=60)
        plain = physician.get(platform.url + path, headers={"Accept-Encoding": "identity"}, timeout=60)
        assert packed.headers["Content-Encoding"] == "gzip"
        assert "Content-Encoding" not in plain.headers
        assert "Accept-Encoding" in plain.headers["Vary"]
        assert packed.json() == plain.json() != []


def test_pixels_arrive_as_orthanc_has_them(platform, physician, study):
    here = physician.get(platform.url + frame_path(study), headers={**FRAME, "Accept-Encoding": "gzip"}, timeout=60)
    assert "Content-Encoding" not in here.headers
    boundary = here.headers["Content-Type"].split("boundary=")[1].strip('"').encode()
    (part,) = here.content.split(b"--" + boundary)[1:-1]
    pixels = part.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n")
    file = physician.get(
        f"{platform.url}{series_path(study)}/instances/{study.sop_uid}",
        headers={"Accept": 'multipart/related; type="application/dicom"'},
        timeout=60,
    ).content
    assert len(pixels) >= 512
    assert pixels in file


def test_a_part_of_it_is_served_by_range(platform, physician, study):
    whole = physician.get(platform.url + frame_path(study), headers=FRAME, timeout=60)
    part = physician.get(platform.url + frame_path(study), headers={**FRAME, "Range": "bytes=100-299"}, timeout=60)
    assert part.status_code == 206
    assert part.headers["Content-Range"] == f"bytes 100-299/{len(whole.content)}"
    assert part.content == whole.content[100:300]


def test_many_who_ask_at_once_ask_orthanc_once(platform, physician, deliver):
    path = frame_path(deliver("denscan-central"))
    with ThreadPoolExecutor(12) as readers:
        answers = list(readers.map(lambda _: physician.get(platform.url + path, headers=FRAME, timeout=60), range(12)))
    assert {answer.content for answer in answers} == {answers[0].content}
    assert sorted(str(entry["cache"]) for entry in logged(platform, path, 12)) == ["HIT"] * 11 + ["MISS"]


@pytest.fixture
def without(platform: Platform) -> Iterator[Callable[[str], None]]:
    """Stop a service until the test ends, and wait until everything is ready again."""
    stopped: list[str] = []

    def stop(unit: str) -> None:
        stopped.append(unit)
        platform.on_host("systemctl", "stop", unit)

    yield stop
    # The services that stopped with it start with it.
    platform.on_host("systemctl", "start", *stopped, "imaging.target")
    command = ("curl", "--silent", "--retry", "300", "--retry-delay", "1", "--retry-all-errors", "--fail")
    for port in (9000, 8090, 8080):  # Keycloak, gateway, importer
        platform.on_host(*command, f"http://127.0.0.1:{port}/health/ready")


def test_who_looks_at_a_study_goes_on_while_the_database_is_away(platform, study, without):
    """Known keys, known owners, and what is in the cache; a study that nobody has asked for cannot be decided."""
    physician = platform.api(platform.user("physician", "denscan-central"))
    assert physician.get(platform.url + frame_path(study), headers=FRAME, timeout=60).status_code == 200
    without("postgresql@17-main")
    assert physician.get(platform.url + frame_path(study), headers=FRAME, timeout=60).status_code == 200
    stranger = frame_path(Study("", generate_uid(), study.series_uid, study.sop_uid))
    assert physician.get(platform.url + stranger, headers=FRAME, timeout=60).status_code == 503
    assert physician.get(f"{platform.url}/dicom-web/studies", timeout=60).status_code == 503


def test_who_is_logged_in_goes_on_while_keycloak_is_away(platform, study, without):
    physician = platform.api(platform.user("physician", "denscan-central"))
    without("imaging-keycloak")
    assert physician.get(platform.url + frame_path(study), headers=FRAME, timeout=60).status_code == 200
    assert physician.get(f"{platform.url}/dicom-web/studies?limit=1", timeout=60).status_code == 200
    assert platform.session().get(platform.url + frame_path(study), timeout=60).status_code == 401
