"""Reads the body of an upload as it arrives: its length or its chunks (RFC 9112 6 and 7), and its parts.

The parts are those of multipart/related (RFC 2046 5.1 and RFC 2387). Never more than a few chunks are in memory.
"""

from collections.abc import Iterator
from email.message import Message
from email.parser import BytesHeaderParser
from io import BufferedIOBase
from typing import Protocol

from imaging_importer.web import SenderGoneError

CHUNK = 1 << 16
LONGEST_LINE = 1 << 10
LONGEST_PART_HEAD = 1 << 14


class MalformedError(Exception):
    """The body does not agree with its headers. The message tells where it breaks."""


class TooLargeError(Exception):
    """The body is larger than the limit."""


class Source(Protocol):
    """A source of bytes."""

    def read(self) -> bytes:
        """The next bytes, at most CHUNK; empty at the end."""


class Sized:
    """A body whose length was announced."""

    def __init__(self, stream: BufferedIOBase, length: int) -> None:
        self._stream = stream
        self._left = length

    def read(self) -> bytes:
        data = self._stream.read1(min(CHUNK, self._left))
        if self._left and not data:
            raise SenderGoneError
        self._left -= len(data)
        return data


class Chunked:
    """A body in chunks of announced length, with a limit for the whole."""

    def __init__(self, stream: BufferedIOBase, limit: int) -> None:
        self._stream = stream
        self._allowed = limit
        self._left = 0
        self._ended = False

    def read(self) -> bytes:
        if not self._left and not self._ended:
            self._begin_chunk()
        if self._ended:
            return b""
        data = self._stream.read1(min(CHUNK, self._left))
        if not data:
            raise SenderGoneError
        self._left -= len(data)
        if not self._left and self._line():
            raise MalformedError("a chunk does not end where it says")
        return data

    def _begin_chunk(self) -> None:
        size = self._line().partition(b";")[0].strip()
        if not 0 < len(size) <= 16 or not set(size) <= set(b"0123456789abcdefABCDEF"):
            raise MalformedError("the size of a chunk cannot be read")
        self._left = int(size, 16)
        self._allowed -= self._left
        if self._allowed < 0:
            raise TooLargeError
        if not self._left:
            self._ended = True
            while self._line():  # trailers say nothing that is needed here
                pass

    def _line(self) -> bytes:
        line = self._stream.readline(LONGEST_LINE)
        if not line:
            raise SenderGoneError
        if not line.endswith(b"\r\n"):
            raise MalformedError("a line of the chunked encoding does not end")
        return line[:-2]


def open_body(stream: BufferedIOBase, headers: Message, limit: int) -> Source:
    """The body of a request. Raises TooLargeError for more than `limit` bytes, MalformedError without a length."""
    codings, lengths = headers.get_all("Transfer-Encoding", []), headers.get_all("Content-Length", [])
    if [coding.strip().lower() for coding in codings] == ["chunked"] and not lengths:
        return Chunked(stream, limit)
    if codings or len(lengths) != 1 or not (lengths[0].isascii() and lengths[0].isdigit()):
        raise MalformedError("the request does not say how long its body is")
    if int(lengths[0]) > limit:
        raise TooLargeError
    return Sized(stream, int(lengths[0]))


class Parts:
    """The parts of a multipart body, one after the other."""

    def __init__(self, source: Source, boundary: str) -> None:
        self._source = source
        self._delimiter = b"\r\n--" + boundary.encode("ascii")
        # The first delimiter may be at the very beginning, without the line before it.
        self._window = bytearray(b"\r\n")

    def __iter__(self) -> Iterator[tuple[Message, Iterator[bytes]]]:
        """Head and content of each part. The content is read to its end before the next part begins."""
        for _ in self._until(self._delimiter, "no boundary is found in the body"):
            pass  # the preamble
        while not self._is_last():
            head = BytesHeaderParser().parsebytes(self._head())
            content = self._until(self._delimiter, "the body ends before its last boundary")
            yield head, content
            for _ in content:
                pass
        while self._source.read():
            pass  # the epilogue

    def _is_last(self) -> bool:
        while len(self._window) < 2:
            self._fill("the body ends before its last boundary")
        return self._window.startswith(b"--")

    def _head(self) -> bytes:
        # After the delimiter: the rest of its line, header lines, an empty line.
        head = bytearray()
        for data in self._until(b"\r\n\r\n", "a part has no head"):
            head += data
            if len(head) > LONGEST_PART_HEAD:
                raise MalformedError("the head of a part does not end")
        padding, _, fields = bytes(head).partition(b"\r\n")
        if padding.strip(b" \t"):
            raise MalformedError("a line begins like the boundary and is none")
        return fields

    def _until(self, mark: bytes, otherwise: str) -> Iterator[bytes]:
        """Everything before the mark, without the mark itself."""
        while (found := self._window.find(mark)) < 0:
            ready = len(self._window) - len(mark) + 1  # the mark may have begun in the kept bytes
            if ready > 0:
                yield bytes(self._window[:ready])
                del self._window[:ready]
            self._fill(otherwise)
        yield bytes(self._window[:found])
        del self._window[: found + len(mark)]

    def _fill(self, otherwise: str) -> None:
        data = self._source.read()
        if not data:
            raise MalformedError(otherwise)
        self._window += data
