"""The HTTP client, fed byte by byte with what a server may send."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from aegis.guest.agent.http import HttpError, Post
from aegis.guest.agent.wire import Wire


@pytest.fixture
def wire() -> Iterator[Wire]:
    reading, writing = os.pipe()
    one = Wire(reading, writing)
    one.begin(30.0)
    yield one
    os.close(reading)
    os.close(writing)


def ask(wire: Wire, answer: bytes, piece: int = 1, body: bytes = b"{}") -> tuple[int, dict[str, str], bytes, bytes]:
    """The answer as the client sees it, and the request as the server saw it."""
    listener = socket.create_server(("127.0.0.1", 0))
    seen = bytearray()

    def serve() -> None:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection:
            while not seen.endswith(body):
                seen.extend(connection.recv(65536))
            try:
                for i in range(0, len(answer), piece):
                    connection.sendall(answer[i : i + piece])
            except OSError:
                return

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with Post(wire, f"http://127.0.0.1:{listener.getsockname()[1]}/pre/", "/v1/x", {"x-a": "ü"}, body) as post:
            post.send()
            return post.status, post.headers, b"".join(post.body()), bytes(seen)
    finally:
        thread.join()
        listener.close()


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("piece", [1, 3, 1000])
@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (OK + b"Content-Length: 5\r\nX-Y:  z \r\n\r\nhello and more", b"hello"),
        (CHUNKED + b"5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\ntrailer: x\r\n\r\n", b"hello world"),
        (OK + b"\r\nuntil the end", b"until the end"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"content-length: 0\r\n\r\n", b""),
        (b"HTTP/1.0 200\nContent-Length: 2\n\nok", b"ok"),
    ],
)
def test_framing(wire: Wire, answer: bytes, body: bytes, piece: int) -> None:
    status, _, got, seen = ask(wire, answer, piece)
    assert (status, got) == (200, body)
    assert seen.startswith(b"POST /pre/v1/x HTTP/1.1\r\nhost: 127.0.0.1:")
    assert b"content-length: 2\r\nx-a: \xfc\r\n\r\n{}" in seen


LENGTH = OK + b"content-length: "


@pytest.mark.parametrize(
    "answer", [b"", b"SSH-2.0\r\n\r\n", OK, LENGTH + b"x\r\n\r\n", LENGTH + b"9\r\n\r\nshort", CHUNKED + b"5\r\nhel", CHUNKED + b"zz\r\n"]
)
def test_broken(wire: Wire, answer: bytes) -> None:
    with pytest.raises(HttpError):
        ask(wire, answer, 1000)


def test_large_both_ways(wire: Wire) -> None:
    payload = os.urandom(3_000_000)
    status, _, got, seen = ask(wire, OK + b"content-length: 3000000\r\n\r\n" + payload, 1_000_000, payload)
    assert (status, got) == (200, payload)
    assert seen.endswith(payload)


@pytest.mark.parametrize("url", ["", "https://127.0.0.1:1", "http://127.0.0.1", "http://:x"])
def test_urls(wire: Wire, url: str) -> None:
    with pytest.raises(HttpError, match="of the form"):
        Post(wire, url, "/", {}, b"")
