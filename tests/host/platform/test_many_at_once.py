"""Many requests at once from one address: a client that holds unused places loses them, and a whole ward is served."""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from urllib.parse import urlsplit

import h2.config
import h2.connection
import h2.events
import pytest
from deliveries import Study
from platform_client import Platform
from raw_http import statuses

HALF_REQUESTS = 300
# nginx: client_header_timeout and client_body_timeout, and what a busy machine takes longer.
GONE_AFTER_SECONDS = 16
READERS, IMAGES_AT_ONCE = 40, 25


def connect(platform: Platform, stack: ExitStack, protocol: str) -> ssl.SSLSocket:
    host = urlsplit(platform.url).hostname
    context = ssl.create_default_context(cafile=platform.ca_file)
    context.set_alpn_protocols([protocol])
    plain = stack.enter_context(socket.create_connection((host, 443), timeout=30))
    return stack.enter_context(context.wrap_socket(plain, server_hostname=host))


def half_head(host: str) -> bytes:
    return f"GET / HTTP/1.1\r\nHost: {host}\r\nX: ".encode()


def half_body(host: str) -> bytes:
    return (
        f"POST /auth/realms/imaging/protocol/openid-connect/token HTTP/1.1\r\nHost: {host}\r\n"
        "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 1000\r\n\r\ngrant_type="
    ).encode()


def half_of_http2(host: str) -> bytes:
    """A stream whose body never comes."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    connection.initiate_connection()
    path = "/auth/realms/imaging/protocol/openid-connect/token"
    fields = [(":method", "POST"), (":scheme", "https"), (":authority", host), (":path", path)]
    connection.send_headers(1, [*fields, ("content-type", "application/x-www-form-urlencoded")])
    return connection.data_to_send()


@pytest.mark.parametrize(
    ("half", "protocol"), [(half_head, "http/1.1"), (half_body, "http/1.1"), (half_of_http2, "h2")]
)
def test_half_requests_do_not_stay_and_keep_nobody_out(
    platform: Platform, central_physician, half: Callable[[str], bytes], protocol: str
) -> None:
    text = half(urlsplit(platform.url).hostname or "")
    with ExitStack() as stack:
        connections = []
        for _ in range(HALF_REQUESTS):
            connections.append(connect(platform, stack, protocol))
            connections[-1].sendall(text)
        for _ in range(5):
            asked = time.monotonic()
            assert central_physician.get(f"{platform.url}/dicom-web/studies?limit=1", timeout=10).status_code == 200
            assert time.monotonic() - asked < 3
        last = time.monotonic()
        answers = dict.fromkeys(connections, b"")
        open_ones = set(connections)
        while open_ones and time.monotonic() - last < GONE_AFTER_SECONDS:
            for connection in select.select(list(open_ones), [], [], 0.5)[0]:
                try:
                    received = connection.recv(65536)
                except OSError:
                    received = b""
                answers[connection] += received
                # Over HTTP/2 the request is gone when its answer is there; the connection may serve another.
                if not received or (protocol == "h2" and ended(answers[connection])):
                    open_ones.discard(connection)
        assert not open_ones, f"{len(open_ones)} of {HALF_REQUESTS} are still there"
        if half is half_body:
            told = [status for answer in answers.values() for status in statuses(answer)]
            assert told.count(429) >= HALF_REQUESTS - 64 - 10, "places for bodies: 64"


def ended(received: bytes) -> bool:
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    connection.initiate_connection()
    connection.send_headers(1, [(":method", "POST"), (":scheme", "https"), (":authority", "x"), (":path", "/")])
    events = connection.receive_data(received)
    over = (h2.events.ResponseReceived, h2.events.StreamReset, h2.events.ConnectionTerminated)
    return any(isinstance(event, over) for event in events)


def test_a_ward_of_forty_readers_behind_one_address_reads(platform: Platform, central_study: Study) -> None:
    """Each has a connection of its own and 25 images under way on it, as the viewer fetches ahead."""
    path = f"/dicom-web/studies/{central_study.study_uid}/series/{central_study.series_uid}/metadata"
    host = urlsplit(platform.url).hostname or ""
    fields = [(":method", "GET"), (":scheme", "https"), (":authority", host), (":path", path)]
    tokens = [platform.login(platform.user("physician", "denscan-central"))["access_token"] for _ in range(10)]

    def read(number: int) -> list[int]:
        with ExitStack() as stack:
            tls = connect(platform, stack, "h2")
            connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
            connection.initiate_connection()
            for stream in range(IMAGES_AT_ONCE):
                authorization = ("authorization", f"Bearer {tokens[number % len(tokens)]}")
                connection.send_headers(1 + 2 * stream, [*fields, authorization], end_stream=True)
            tls.sendall(connection.data_to_send())
            found: list[int] = []
            over = 0
            while over < IMAGES_AT_ONCE and (received := tls.recv(65536)):
                for event in connection.receive_data(received):
                    if isinstance(event, h2.events.ResponseReceived):
                        found.append(int(dict(event.headers)[b":status"]))
                    elif isinstance(event, h2.events.DataReceived):
                        connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    elif isinstance(event, h2.events.StreamEnded):
                        over += 1
                tls.sendall(connection.data_to_send())
            return found

    with ThreadPoolExecutor(READERS) as pool:
        answers = [status for found in pool.map(read, range(READERS)) for status in found]
    assert answers == [200] * READERS * IMAGES_AT_ONCE


def test_a_ward_logs_in_within_a_minute(platform: Platform) -> None:
    """Forty logins from one address, each with a mistake before it: more than sixty forms in less than a minute."""
    query = {
        "client_id": "ohif", "response_type": "code", "scope": "openid", "redirect_uri": f"{platform.url}/callback",
        "code_challenge": "a" * 43, "code_challenge_method": "S256",
    }  # fmt: skip

    def send_form(number: int) -> int:
        visitor = platform.session()
        page = visitor.get(f"{platform.realm_url}/protocol/openid-connect/auth", params=query, timeout=60)
        action = page.text.partition('id="kc-form-login"')[2].partition('action="')[2].partition('"')[0]
        assert action, number
        form = {"username": f"nobody-{number % 40}", "password": "wrong"}
        return visitor.post(action.replace("&amp;", "&"), data=form, allow_redirects=False, timeout=60).status_code

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(send_form, range(80))) == [200] * 80


def test_one_login_that_sends_its_form_again_and_again_is_slowed(platform: Platform) -> None:
    visitor = platform.session()
    visitor.cookies.set("AUTH_SESSION_ID", "x", domain=urlsplit(platform.url).hostname or "")
    url = f"{platform.realm_url}/login-actions/authenticate"
    assert 429 in [visitor.post(url, data={}, timeout=30).status_code for _ in range(15)]
