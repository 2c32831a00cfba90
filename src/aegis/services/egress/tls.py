"""What a TLS client says in the clear before anything else: the name of the server it wants.

Read from the first bytes of a tunnel, without any cryptography. Only what is well-formed counts; a hello that two readers could
understand differently is refused.
"""

from __future__ import annotations

from typing import Final, NamedTuple

#: More than any hello has, in bytes.
MAX_HELLO: Final = 64 * 1024
#: The alert that ends a handshake: fatal, access denied.
DENIED_ALERT: Final = bytes((0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x31))
_HANDSHAKE, _CLIENT_HELLO = 22, 1
_SERVER_NAME, _ENCRYPTED_HELLO = 0, 0xFE0D
_MAX_RECORD: Final = 16 * 1024


class NotTls(Exception):
    """The bytes are no TLS hello, or not one that can be understood in one way."""


class ClientHello(NamedTuple):
    """The name in the clear (None: none was given), in lower case, and whether there is an encrypted hello besides."""

    server_name: str | None
    encrypted: bool


class _Bytes:
    """A cursor that raises NotTls at the end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        piece = self.data[self.at : self.at + count]
        if len(piece) < count:
            raise NotTls("a length in it is wrong")
        self.at += count
        return piece

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "big")

    def block(self, width: int) -> _Bytes:
        """What follows a length of `width` bytes."""
        return _Bytes(self.take(self.number(width)))

    @property
    def left(self) -> bool:
        return self.at < len(self.data)


def read_hello(data: bytes) -> ClientHello | None:
    """The hello at the beginning of `data`, None while it is not complete. Raises NotTls."""
    message = b""
    at = 0
    while True:
        header = data[at : at + 5]
        if header[:1] not in (b"", bytes((_HANDSHAKE,))) or header[1:2] not in (b"", b"\x03"):
            raise NotTls("it does not begin with a handshake")
        if len(header) < 5:
            return None
        length = int.from_bytes(header[3:5], "big")
        if not 0 < length <= _MAX_RECORD:
            raise NotTls("a record has no possible length")
        message += data[at + 5 : at + 5 + length]
        if message and message[0] != _CLIENT_HELLO:
            raise NotTls("the handshake does not begin with a client's hello")
        if len(message) >= 4:
            whole = 4 + int.from_bytes(message[1:4], "big")
            if whole > MAX_HELLO:
                raise NotTls("the hello is too long")
            if len(message) >= whole:
                return _hello(_Bytes(message[4:whole]))
        if len(data) < at + 5 + length:
            return None
        at += 5 + length


def _hello(body: _Bytes) -> ClientHello:
    body.take(2 + 32)  # version, random
    body.block(1)  # session
    body.block(2)  # ciphers
    body.block(1)  # compressions
    name: str | None = None
    seen: set[int] = set()
    extensions = body.block(2) if body.left else _Bytes(b"")
    if body.left:
        raise NotTls("something follows the hello's extensions")
    while extensions.left:
        kind = extensions.number(2)
        content = extensions.block(2)
        if kind in seen:
            raise NotTls("an extension stands there twice")
        seen.add(kind)
        if kind == _SERVER_NAME:
            name = _server_name(content)
    return ClientHello(name, _ENCRYPTED_HELLO in seen)


def _server_name(content: _Bytes) -> str:
    names = content.block(2)
    if names.number(1) != 0:
        raise NotTls("the server's name is of an unknown kind")
    name = names.block(2).data
    if names.left or content.left:
        raise NotTls("it names more than one server")
    try:
        return name.decode("ascii").lower()
    except UnicodeDecodeError:
        raise NotTls("the server's name is not ASCII") from None
