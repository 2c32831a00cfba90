"""HTTP over one channel: many requests on a connection, bodies of any size, and what is not HTTP."""

import json
from typing import Any

import pytest

from aegis.services.broker.connection import MAX_BODY


def head(served: Any, length: int, *more: str) -> bytes:
    lines = ["POST /v1/messages HTTP/1.1", "host: x", f"x-api-key: {served.client.token}", f"content-length: {length}", *more]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def error(reply: Any) -> dict[str, Any]:
    return dict(json.loads(reply.body)["error"])


async def test_one_connection_carries_many_requests(served: Any) -> None:
    reader, writer = await served.connect()
    body = b'{"model":"echo","messages":[{"role":"user","content":"hi"}]}'
    head = f"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: {served.client.token}\r\n"
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:5], body[5:])) + b"0\r\n\r\n"
    requests = [
        f"{head}content-length: {len(body)}\r\n\r\n".encode() + body,
        f"{head}transfer-encoding: chunked\r\n\r\n".encode() + chunked,
    ]
    for request in requests:
        writer.write(request)
        assert b"echo: hi" in (await served.read(reader)).body
    writer.write(b"".join(requests * 3))  # pipelined
    for _ in range(6):
        assert b"echo: hi" in (await served.read(reader)).body
    writer.close()
    await served.ended()
    assert len(served.recorded) == 8


async def test_a_client_that_waits_to_be_asked_for_the_body(served: Any) -> None:
    reader, writer = await served.connect()
    body = b'{"model":"echo","messages":[]}'
    writer.write(head(served, len(body), "expect: 100-continue"))
    assert (await served.read(reader, body=False)).status == 100
    writer.write(body)
    assert (await served.read(reader)).status == 200
    writer.close()


async def test_too_large_a_body_is_refused_and_the_client_reads_why(served: Any) -> None:
    reader, writer = await served.connect()
    writer.write(f"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: {MAX_BODY + 1}\r\n\r\n".encode())
    reply = await served.read(reader)
    assert (reply.status, error(reply)["type"], reply.headers["connection"]) == (413, "request_too_large", "close")
    for _ in range(64):
        writer.write(b"x" * 65536)
        await writer.drain()
    writer.close()
    await served.ended()
    reader, writer = await served.connect()
    writer.write(b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
    chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
    for _ in range(33):
        writer.write(chunk)
        await writer.drain()
    assert (await served.read(reader)).status == 413
    writer.close()
    await served.ended()


async def test_one_instance_cannot_fill_the_daemon_with_bodies(served: Any) -> None:
    half = b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 30000000\r\n\r\n"
    held = [await served.connect() for _ in range(2)]
    for _, writer in held:
        writer.write(half + b"x" * 29_999_999)
        await writer.drain()
    reply = await served.raw(half + b"x" * 20_000_000)
    assert (reply.status, error(reply)["type"]) == (429, "rate_limit_error")
    for _, writer in held:
        writer.close()
    await served.ended()
    assert (await served.post("/v1/messages", b'{"model":"echo","messages":[]}')).status == 200


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: " + b"b" * 70_000, 431),
        (b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx", 400),
        (b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-encoding: gzip\r\ncontent-length: 1\r\n\r\nx", 415),
    ],
)
async def test_what_is_not_http(served: Any, data: bytes, status: int) -> None:
    assert (await served.raw(data)).status == status
    await served.ended()
    assert not served.recorded


@pytest.mark.parametrize("body", [b"", b"{}", b"nonsense", b'{"model":"a","model":"b"}'])
async def test_bodies_that_say_nothing(served: Any, body: bytes) -> None:
    reply = await served.post("/v1/messages", body)
    assert (reply.status, error(reply)["type"]) == (400, "invalid_request_error")
