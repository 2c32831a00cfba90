"""HTTP over the socket, synchronous and asynchronous: every failure is an AegisError, lines come whole, an early end is felt."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from aegis.client.aio import Http
from aegis.client.transport import Transport, path_of, target_of
from aegis.core.errors import AegisError, ErrorKind

Serve = Callable[[Callable[[BaseHTTPRequestHandler], None]], Path]


def _whole(status: int, body: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return answer


def _chunks(*chunks: bytes, ended: bool = True) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        for chunk in chunks:
            request.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        if ended:
            request.wfile.write(b"0\r\n\r\n")
        request.close_connection = True

    return answer


async def _call(path: Path, way: str) -> object:
    """One call, by the synchronous or the asynchronous client."""
    if way == "sync":
        return Transport(path).call("GET", "/v1/x").body
    http = Http(path)
    try:
        return await http.call("GET", "/v1/x")
    finally:
        await http.close()


async def _lines(path: Path, way: str) -> list[dict[str, object]]:
    if way == "sync":
        with Transport(path).stream("GET", "/v1/x") as stream:
            return list(stream)
    http = Http(path)
    try:
        async with http.stream("GET", "/v1/x") as lines:
            return [json.loads(line) async for line in lines]
    finally:
        await http.close()


ways = pytest.mark.parametrize("way", ["sync", "async"])


def test_parts_of_a_path_are_quoted_and_absent_members_left_out() -> None:
    assert path_of("instances", "a/../b c", "exec") == "/v1/instances/a%2F..%2Fb%20c/exec"
    assert target_of("/v1/x", {"a": None, "b": False, "c": True, "d": 0, "e": "ü&"}) == "/v1/x?c=1&d=0&e=%C3%BC%26"
    assert target_of("/v1/x", {"a": None}) == "/v1/x"


@ways
async def test_an_error_of_the_daemon_is_raised_as_it_is(serve: Serve, way: str) -> None:
    body = json.dumps({"error": "no instance `x`", "kind": "not_found", "hint": "did you mean `y`?", "data": {"nearest": "y"}}).encode()
    with pytest.raises(AegisError) as caught:
        await _call(serve(_whole(404, body)), way)
    assert caught.value.to_dict() == json.loads(body)


@ways
async def test_an_answer_that_is_not_ours_says_what_came(serve: Serve, way: str) -> None:
    with pytest.raises(AegisError) as caught:
        await _call(serve(_whole(404, b"Not Found")), way)
    assert caught.value.kind is ErrorKind.INTERNAL
    assert "404: Not Found" in caught.value.message
    assert "aegis up" in caught.value.hint


@ways
async def test_nobody_there_is_unreachable(home: Path, way: str) -> None:
    with pytest.raises(AegisError) as caught:
        await _call(home / "aegisd.sock", way)
    assert caught.value.kind is ErrorKind.UNREACHABLE
    assert caught.value.hint == "start it with `aegis up`"


@ways
async def test_lines_come_whole_however_they_are_cut(serve: Serve, way: str) -> None:
    items = [{"text": "a\u2028b\u0085c"}, {"long": "x" * 2_000_000}, {"n": 3}]
    data = b"\n".join(json.dumps(item, ensure_ascii=False).encode() for item in items) + b"\n"
    cut = [data[i : i + 70_001] for i in range(0, len(data), 70_001)]
    assert await _lines(serve(_chunks(*cut)), way) == items


@ways
async def test_blank_lines_are_a_sign_of_life_and_no_more(serve: Serve, way: str) -> None:
    assert await _lines(serve(_chunks(b'\n{"n":1}\n', b"\n\n", b'{"n":2}\n')), way) == [{"n": 1}, {"n": 2}]


@ways
async def test_an_error_within_a_stream_is_raised(serve: Serve, way: str) -> None:
    with pytest.raises(AegisError, match="it died") as caught:
        await _lines(serve(_chunks(b'{"n":1}\n', b'{"error":"it died","kind":"failed"}\n')), way)
    assert caught.value.kind is ErrorKind.FAILED


@ways
async def test_a_stream_that_breaks_off_is_unreachable(serve: Serve, way: str) -> None:
    with pytest.raises(AegisError) as caught:
        await _lines(serve(_chunks(b'{"n":1}\n', ended=False)), way)
    assert caught.value.kind is ErrorKind.UNREACHABLE


@ways
async def test_a_stream_refused_at_once_raises_the_error(serve: Serve, way: str) -> None:
    with pytest.raises(AegisError) as caught:
        await _lines(serve(_whole(409, b'{"error":"it is disabled","kind":"conflict"}')), way)
    assert caught.value.kind is ErrorKind.CONFLICT


def test_no_answer_in_time_is_a_timeout(serve: Serve) -> None:
    release = threading.Event()
    path = serve(lambda request: (release.wait(30), setattr(request, "close_connection", True))[0] and None)
    with pytest.raises(AegisError) as caught:
        Transport(path).call("GET", "/v1/x", timeout=0.05)
    release.set()
    assert caught.value.kind is ErrorKind.TIMEOUT


def test_closing_a_stream_is_felt_at_the_other_end(serve: Serve) -> None:
    felt = threading.Event()

    def answer(request: BaseHTTPRequestHandler) -> None:
        _chunks(b'{"n":1}\n', ended=False)(request)
        request.connection.recv(1)  # returns when the reader closes
        felt.set()

    with Transport(serve(answer)).stream("GET", "/v1/x") as stream:
        assert next(iter(stream)) == {"n": 1}
    assert felt.wait(10)


def test_an_upload_sends_every_chunk_and_the_end(serve: Serve) -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        got = b""
        while size := int(request.rfile.readline(), 16):
            got += request.rfile.read(size)
            request.rfile.readline()
        request.rfile.readline()
        _whole(200, json.dumps({"got": got.decode()}).encode())(request)

    assert Transport(serve(answer)).upload("/v1/x", iter([b"one ", b"two"])) == {"got": "one two"}
