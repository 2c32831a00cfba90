"""A small streaming HTTP/1.1 POST, for the guest's loopback endpoint and nothing else.

The standard client costs 29 ms to import and cannot wait together with stdin. This one does one request per connection, never
blocks but in `Wire.wait`, and ends at once when closed. No TLS, no redirects, no proxies, no keep-alive.
"""

from __future__ import annotations

import _socket
import errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from aegis.guest.agent.wire import Wire

_CHUNK = 64 * 1024
_MAX_HEAD = 64 * 1024


class HttpError(Exception):
    """The connection broke, or what came is not HTTP."""


class Post:
    """One POST and its answer. A context manager: leaving it closes the socket, whatever state it is in.

    Args:
        url: `http://HOST:PORT[/PREFIX]`.
        headers: `content-length`, `host` and `connection` are added.
    """

    def __init__(self, wire: Wire, url: str, path: str, headers: dict[str, str], body: bytes) -> None:
        self._wire = wire
        scheme, _, rest = url.rstrip("/").partition("://")
        authority, slash, prefix = rest.partition("/")
        host, _, port = authority.rpartition(":")
        if scheme != "http" or not host or not port.isdigit():
            raise HttpError(f"the model endpoint `{url}` is not of the form http://HOST:PORT")
        self.status = 0
        self.headers: dict[str, str] = {}
        self._buffer = bytearray()
        self._ended = False
        lines = [f"POST {slash}{prefix}{path} HTTP/1.1", f"host: {authority}", "connection: close", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._request = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace") + body
        self._address = (host.strip("[]"), int(port))
        self._socket = _socket.socket(_socket.AF_INET6 if "[" in host else _socket.AF_INET, _socket.SOCK_STREAM)
        self._socket.setblocking(False)

    def __enter__(self) -> Post:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self) -> None:
        """Send the request and read the head of the answer into `status` and `headers` (names in lower case)."""
        try:
            self._send()
            head = self._head()
            while head[0] == 100:
                head = self._head()
            self.status, self.headers = head
        except OSError as error:
            raise HttpError(f"the model endpoint is not reachable: {error}") from None

    def body(self) -> Iterator[bytes]:
        """The answer's body, decoded, as it comes. Raises HttpError when it ends before its end."""
        try:
            if "chunked" in self.headers.get("transfer-encoding", "").lower():
                yield from self._chunks()
            elif "content-length" in self.headers:
                yield from self._exactly(self._number(self.headers["content-length"], 10))
            else:
                while self._buffer or self._more():
                    yield self._take(len(self._buffer))
        except OSError as error:
            raise HttpError(f"the connection to the model broke: {error}") from None

    def _send(self) -> None:
        code = self._socket.connect_ex(self._address)
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, "connect failed")
        rest = memoryview(self._request)
        while rest:
            self._wire.wait(write=[self._socket.fileno()])
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                return  # it may have answered before it had read everything (too large, limit); the answer tells

    def _more(self) -> bool:
        """Get more bytes into the buffer; False at the end of the stream."""
        while not self._ended:
            self._wire.wait(read=[self._socket.fileno()])
            try:
                data = self._socket.recv(_CHUNK)
            except BlockingIOError:
                continue
            self._ended = not data
            self._buffer += data
            return bool(data)
        return False

    def _take(self, n: int) -> bytes:
        data = bytes(self._buffer[:n])
        del self._buffer[:n]
        return data

    def _line(self) -> bytes:
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > _MAX_HEAD:
                raise HttpError("the model endpoint sent a header line without an end")
            if not self._more():
                raise HttpError("the connection to the model ended early")
        return self._take(end + 1).strip()

    def _head(self) -> tuple[int, dict[str, str]]:
        parts = self._line().split(None, 2)
        if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or not parts[1].isdigit():
            raise HttpError("the model endpoint does not speak HTTP/1.1")
        headers = {}
        while line := self._line():
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        return int(parts[1]), headers

    def _chunks(self) -> Iterator[bytes]:
        while size := self._number(self._line().partition(b";")[0].decode("latin-1"), 16):
            yield from self._exactly(size)
            self._line()
        while self._line():
            pass

    def _exactly(self, n: int) -> Iterator[bytes]:
        while n:
            if not self._buffer and not self._more():
                raise HttpError("the connection to the model ended early")
            data = self._take(min(n, len(self._buffer)))
            n -= len(data)
            yield data

    @staticmethod
    def _number(text: str, base: int) -> int:
        try:
            return int(text, base)
        except ValueError:
            raise HttpError("the model endpoint sent a length that is no number") from None
