"""Reading the name out of a TLS hello."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.egress.conftest import hello

from aegis.services.egress.tls import ClientHello, NotTls, read_hello


def extension(kind: int, content: bytes) -> bytes:
    return kind.to_bytes(2, "big") + len(content).to_bytes(2, "big") + content


def name_extension(*names: bytes, kind: int = 0) -> bytes:
    listed = b"".join(bytes((kind,)) + len(name).to_bytes(2, "big") + name for name in names)
    return extension(0, len(listed).to_bytes(2, "big") + listed)


def made(extensions: bytes, *, record: int = 16000, tail: bytes = b"") -> bytes:
    """A hello put together by hand, cut into records."""
    body = b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00" + len(extensions).to_bytes(2, "big") + extensions + tail
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    pieces = [message[at : at + record] for at in range(0, len(message), record)]
    return b"".join(b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece for piece in pieces)


def test_a_real_hello() -> None:
    assert read_hello(hello("Site.Test")) == ClientHello("site.test", False)
    assert read_hello(hello(None)) == ClientHello(None, False)
    assert read_hello(hello("site.test") + b"more") == ClientHello("site.test", False)


def test_every_beginning_of_a_hello_waits_for_the_rest() -> None:
    whole = hello("site.test")
    assert all(read_hello(whole[:cut]) is None for cut in range(len(whole)))


def test_a_hello_in_many_records() -> None:
    whole = made(name_extension(b"site.test"), record=7)
    assert read_hello(whole) == ClientHello("site.test", False)
    assert all(read_hello(whole[:cut]) is None for cut in range(len(whole)))


def test_an_encrypted_hello_is_noted() -> None:
    assert read_hello(made(name_extension(b"site.test") + extension(0xFE0D, b"x"))) == ClientHello("site.test", True)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n", b"SSH-2.0-x\r\n", b"\x80\x2e\x01\x00\x02", b"\x15\x03\x01\x00\x02\x01\x00", b"\x16\x02\x00\x00\x04\x01\x00\x00\x00",
        b"\x16\x03\x01\x00\x00", b"\x16\x03\x01\xff\xff", b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", b"\x16\x03\x01\x00\x04\x01\xff\xff\xff",
        made(name_extension(b"a.test") + name_extension(b"b.test")),
        made(name_extension(b"a.test", b"b.test")),
        made(name_extension(b"a.test", kind=1)),
        made(name_extension(b"\xff.test")),
        made(extension(0, b"")),
        made(extension(0, b"\x00\x05\x00\x00\x09abc")),
        made(name_extension(b"a.test") + b"\x00"),
        made(name_extension(b"a.test"), tail=b"x"),
    ],
)  # fmt: skip
def test_what_is_no_hello(data: bytes) -> None:
    with pytest.raises(NotTls):
        read_hello(data)


@given(st.binary(max_size=400))
def test_no_bytes_break_the_reader(noise: bytes) -> None:
    whole = bytearray(hello_once())
    for at, byte in enumerate(noise):
        whole[(at * 7 + byte) % len(whole)] ^= byte
    for data in (bytes(whole), noise, b"\x16\x03\x01" + noise):
        try:
            read_hello(data)
        except NotTls:
            pass


_HELLO: list[bytes] = []


def hello_once() -> bytes:
    if not _HELLO:
        _HELLO.append(hello("site.test"))
    return _HELLO[0]
