"""The bodies of uploads, cut anywhere, and what is no body."""

import io
import random
from email.message import Message

import pytest
from imaging_importer.ways_in.body import MalformedError, Parts, TooLargeError, open_body
from imaging_importer.web import SenderGoneError
from uploads import multipart


class Pieces:
    """A source that gives a few bytes at a time."""

    def __init__(self, body: bytes, random_: random.Random) -> None:
        self.body, self.random = io.BytesIO(body), random_

    def read(self) -> bytes:
        return self.body.read(self.random.randrange(1, 9))


def contents(body: bytes, boundary: str = "b0", seed: int = 0) -> list[bytes]:
    return [b"".join(content) for _, content in Parts(Pieces(body, random.Random(seed)), boundary)]


@pytest.mark.parametrize("seed", range(20))
def test_parts_come_out_as_they_went_in_wherever_the_body_is_cut(seed: int) -> None:
    random_ = random.Random(seed)
    # Pieces of the delimiter inside the content are content.
    words = [b"\r\n--b", b"\r\n", b"-", b"--b0", b"\r", b"x", b"\0" * 30]
    parts = [b"".join(random_.choices(words, k=random_.randrange(12))) for _ in range(5)]
    parts = [part.replace(b"\r\n--b0", b"") for part in parts]
    body = b"preamble\r\n" * random_.randrange(2) + multipart(parts, "b0") + b"epilogue" * random_.randrange(2)
    assert contents(body, seed=seed) == parts


def test_the_head_of_a_part_is_read_and_padding_behind_a_boundary_is_not() -> None:
    body = b"--b0 \t\r\ncontent-type: application/DICOM; x=y\r\n\r\nab\r\n--b0\r\n\r\nc\r\n--b0--"
    heads = [
        (head.get_content_type(), b"".join(content)) for head, content in Parts(Pieces(body, random.Random(1)), "b0")
    ]
    assert heads == [("application/dicom", b"ab"), ("text/plain", b"c")]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no boundary at all",
        b"--b0\r\n",
        b"--b0\r\n\r\nab",
        b"--b0\r\n\r\nab\r\n--b0",
        b"--b0\r\n\r\nab\r\n--b",
        b"--b0x\r\n\r\nab\r\n--b0--",
        b"--b1\r\n\r\nab\r\n--b1--",
        b"--b0\r\nContent-Type: application/dicom\r\nab\r\n--b0--",
        b"--b0\r\n" + b"X: y\r\n" * 5000 + b"\r\nab\r\n--b0--",
    ],
)
def test_what_is_no_multipart_body_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedError):
        contents(body)


def read_all(raw: bytes, limit: int = 100, **headers: str) -> bytes:
    message = Message()
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    source = open_body(io.BytesIO(raw), message, limit)
    return b"".join(iter(source.read, b""))


def test_a_chunked_body_is_put_together() -> None:
    raw = b"3\r\nabc\r\nA;name=value\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nnext request"
    assert read_all(raw, Transfer_Encoding="chunked") == b"abc0123456789"
    assert read_all(b"abcd", Content_Length="3") == b"abc"


@pytest.mark.parametrize(
    ("raw", "headers", "error"),
    [
        (b"x", {}, MalformedError),
        (b"x", {"Content_Length": "-1"}, MalformedError),
        (b"x", {"Content_Length": "1", "Transfer_Encoding": "chunked"}, MalformedError),
        (b"x", {"Transfer_Encoding": "gzip"}, MalformedError),
        (b"x", {"Content_Length": "101"}, TooLargeError),
        (b"xy", {"Content_Length": "3"}, SenderGoneError),
        (b"65\r\nx", {"Transfer_Encoding": "chunked"}, TooLargeError),
        (b"60\r\n" + b"x" * 96 + b"\r\n9\r\n", {"Transfer_Encoding": "chunked"}, TooLargeError),
        (b"3\r\nabcd", {"Transfer_Encoding": "chunked"}, MalformedError),
        (b"-3\r\nabc\r\n", {"Transfer_Encoding": "chunked"}, MalformedError),
        (b"3\r\nab", {"Transfer_Encoding": "chunked"}, SenderGoneError),
        (b"", {"Transfer_Encoding": "chunked"}, SenderGoneError),
        (b"1" * 2000, {"Transfer_Encoding": "chunked"}, MalformedError),
    ],
)
def test_a_body_that_breaks_its_word_is_refused(raw: bytes, headers: dict[str, str], error: type[Exception]) -> None:
    with pytest.raises(error):
        read_all(raw, **headers)
