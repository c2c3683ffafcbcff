"""HTTP/2 as no browser speaks it: text that HTTP/2 keeps in one frame must not become two requests of HTTP/1.

A client of its own (the library h2, with its own checks off) says what it wants; the attacker is a physician of
denscan-almaty, the victim's study belongs to denscan-central.
"""

from __future__ import annotations

import socket
import ssl
from urllib.parse import urlsplit

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import pytest
from platform_client import Platform

from .test_attacks import NOTHING_HERE

SECONDS = 5


def speak(platform: Platform, headers: list[tuple[str, str]], body: bytes = b"") -> tuple[int | str, bytes]:
    """Send one request over HTTP/2; its status and body, or how the server ended it."""
    host = urlsplit(platform.url).hostname
    context = ssl.create_default_context(cafile=platform.ca_file)
    context.set_alpn_protocols(["h2"])
    unchecked = h2.config.H2Configuration(
        client_side=True, validate_outbound_headers=False, normalize_outbound_headers=False
    )
    connection = h2.connection.H2Connection(unchecked)
    status: int | str = "silence"
    content = b""
    with (
        socket.create_connection((host, 443), timeout=SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=host) as tls,
    ):
        assert tls.selected_alpn_protocol() == "h2"
        connection.initiate_connection()
        connection.send_headers(1, headers, end_stream=not body)
        if body:
            connection.send_data(1, body, end_stream=True)
        try:
            tls.sendall(connection.data_to_send())
            while received := tls.recv(65536):
                for event in connection.receive_data(received):
                    if isinstance(event, h2.events.ResponseReceived):
                        status = int(dict(event.headers)[b":status"])
                    elif isinstance(event, h2.events.DataReceived):
                        content += event.data
                    elif isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
                        return "refused" if status == "silence" else status, content
                    elif isinstance(event, h2.events.StreamEnded):
                        return status, content
                tls.sendall(connection.data_to_send())
        except (OSError, h2.exceptions.ProtocolError):
            return "refused" if status == "silence" else status, content
    return "refused" if status == "silence" else status, content


@pytest.fixture
def paths(central_study, almaty_study) -> dict[str, str]:
    return {
        "victim": f"/dicom-web/studies/{central_study.study_uid}/series",
        "own": f"/dicom-web/studies/{almaty_study.study_uid}/series",
    }


@pytest.fixture
def request_of(platform, almaty_physician):
    """The header fields of a good request for a path, and more."""

    def request_of(path: str, *more: tuple[str, str], method: str = "GET") -> list[tuple[str, str]]:
        host = urlsplit(platform.url).hostname
        pseudo = [(":method", method), (":scheme", "https"), (":authority", host), (":path", path)]
        return [*pseudo, ("authorization", str(almaty_physician.headers["Authorization"])), *more]

    return request_of


def test_the_control_a_plain_request_is_served(platform, request_of, paths, almaty_study):
    status, body = speak(platform, request_of(paths["own"]))
    assert status == 200
    assert almaty_study.series_uid.encode() in body
    assert speak(platform, request_of(paths["victim"])) == (404, NOTHING_HERE)


INNER = "GET /system HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    ("more", "body"),
    [
        pytest.param([("content-length", "0")], INNER, id="H2.CL"),
        pytest.param([("content-length", "5")], INNER, id="length shorter than the data"),
        pytest.param([("content-length", "500")], INNER, id="length longer than the data"),
        pytest.param([("transfer-encoding", "chunked")], "0\r\n\r\n" + INNER, id="H2.TE"),
        pytest.param([("x", "a\r\nX-Original-URI: {own}")], "", id="line break in a value"),
        pytest.param([("x\r\nx-original-uri", "{own}")], "", id="line break in a name"),
        pytest.param([("accept", "*/*\r\nTransfer-Encoding: chunked\r\n\r\n" + INNER)], "", id="request in Accept"),
        pytest.param([("x", "a\0b")], "", id="null byte"),
        pytest.param([("X-Upper", "1")], "", id="upper case name"),
        pytest.param([("connection", "x-original-uri"), ("x-original-uri", "{own}")], "", id="connection header"),
        pytest.param([(":path", "{own}")], "", id="path given twice"),
        pytest.param([(":authority", "evil.example")], "", id="authority given twice"),
        pytest.param([("host", "evil.example")], "", id="another host"),
        pytest.param([(":protocol", "websocket")], "", id="extended CONNECT"),
        pytest.param([("authorization", "Bearer x")], "", id="two tokens"),
        pytest.param([("x-http-method-override", "DELETE")], "", id="method override"),
        pytest.param([("range", "bytes=0-1")], "", id="range"),
        pytest.param([("expect", "100-continue")], "", id="expect"),
    ],
)
def test_a_crooked_request_opens_no_foreign_study(platform, request_of, paths, central_study, more, body):
    fields = [(name.format(**paths), value.format(**paths)) for name, value in more]
    for path in (paths["victim"], paths["own"]):
        status, content = speak(platform, request_of(path, *fields), body.encode())
        allowed = {400, 401, 404, 405, 421, 501, "refused"} | ({200} if path == paths["own"] else set())
        assert status in allowed
        assert central_study.study_uid.encode() not in content
        assert b"ApiVersion" not in content, "Orthanc answered the inner request"


@pytest.mark.parametrize(
    "path",
    ["{own}/../../{victim}", "//{own}", "{own}\r\nX-Original-URI: {own}", "{own} HTTP/1.1\r\nX: y", "*", "", "{own}\0"],
)
def test_a_crooked_path_is_no_path(platform, request_of, paths, path):
    status, _ = speak(platform, request_of(path.format(**paths)))
    assert status in (400, 404, "refused")


@pytest.mark.parametrize("method", ["get", "GET /system", "G\0T", "CONNECT", "TRACE", "PRI"])
def test_a_crooked_method_is_none(platform, request_of, paths, method):
    status, _ = speak(platform, request_of(paths["own"], method=method))
    assert status in (400, 404, 405, "refused")


def test_a_hundred_streams_of_two_clinics_on_one_connection_stay_apart(platform, request_of, paths, almaty_study):
    """Each stream is authorised by itself: no decision and no answer goes to the stream beside it."""
    host = urlsplit(platform.url).hostname
    context = ssl.create_default_context(cafile=platform.ca_file)
    context.set_alpn_protocols(["h2"])
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    statuses: dict[int, int] = {}
    contents: dict[int, bytes] = {}
    ended: set[int] = set()
    streams = {1 + 2 * number: ("own", "victim")[number % 2] for number in range(100)}
    with (
        socket.create_connection((host, 443), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname=host) as tls,
    ):
        connection.initiate_connection()
        for stream, which in streams.items():
            connection.send_headers(stream, request_of(paths[which]), end_stream=True)
        tls.sendall(connection.data_to_send())
        while len(ended) < len(streams):
            received = tls.recv(65536)
            assert received, "the connection ended early"
            for event in connection.receive_data(received):
                if isinstance(event, h2.events.ResponseReceived):
                    statuses[event.stream_id] = int(dict(event.headers)[b":status"])
                elif isinstance(event, h2.events.DataReceived):
                    contents[event.stream_id] = contents.get(event.stream_id, b"") + event.data
                    connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    ended.add(event.stream_id)
            tls.sendall(connection.data_to_send())
    for stream, which in streams.items():
        if which == "own":
            assert statuses[stream] == 200
            assert almaty_study.series_uid.encode() in contents[stream]
        else:
            assert (statuses[stream], contents[stream]) == (404, NOTHING_HERE)
