"""A small HTTP/1.1 client for the sandbox's own loopback: the parts of it that every use needs, and the POST of a model call.

The standard client costs 29 ms to import and cannot wait together with stdin. This one never blocks but in `Wire.wait`, and ends
at once when closed. No TLS, no redirects, no proxies.
"""

from __future__ import annotations

import _socket
import errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from aegis.guest.agent.wire import Wire

CHUNK = 64 * 1024
_MAX_HEAD = 64 * 1024
_HEAD, _SIZE, _DATA, _AFTER, _TRAILERS, _REST = range(6)


class HttpError(Exception):
    """The connection broke, or what came is not HTTP."""


class Place:
    """Where a URL leads: `host`, `port`, `authority` as it stands there, and `path`. Raises HttpError when it is not http://HOST:PORT[/PATH]."""

    def __init__(self, url: str, who: str) -> None:
        scheme, _, rest = url.rstrip("/").partition("://")
        self.authority, slash, path = rest.partition("/")
        host, _, port = self.authority.rpartition(":")
        if scheme != "http" or not host or not port.isdigit() or int(port) > 65535:
            raise HttpError(f"{who} `{url}` is not of the form http://HOST:PORT")
        self.path = slash + path
        self.host = host.strip("[]")
        self.port = int(port)
        self._family = _socket.AF_INET6 if "[" in host else _socket.AF_INET

    def connect(self) -> _socket.socket:
        """A socket on its way there: writable when it is connected. Raises OSError."""
        found = _socket.socket(self._family, _socket.SOCK_STREAM)
        found.setblocking(False)
        code = found.connect_ex((self.host, self.port))
        if code not in (0, errno.EINPROGRESS):
            found.close()
            raise OSError(code, "connect failed")
        return found


def request(method: str, place: Place, path: str, headers: dict[str, str], body: bytes, connection: str = "keep-alive") -> bytes:
    """A request as it goes out; `host`, `connection` and `content-length` are added."""
    lines = [
        f"{method} {place.path}{path} HTTP/1.1",
        f"host: {place.authority}",
        f"connection: {connection}",
        f"content-length: {len(body)}",
    ]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace") + body


class Answer:
    """One answer, put together from its bytes as they come.

    Attributes:
        status: 0 until the head is there.
        headers: their names in lower case.
        ended: the answer is whole; `feed` takes no more.
        lasting: when it ended, the connection can be used again.
    """

    def __init__(self, who: str) -> None:
        self._who = who
        self.status = 0
        self.headers: dict[str, str] = {}
        self.ended = False
        self.lasting = False
        self._buffer = bytearray()
        self._state = _HEAD
        self._left = 0  # of the body, or of its piece
        self._head: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        """Take what came; returns what it adds to the body, each piece that was sent as one for itself. Raises HttpError."""
        self._buffer += data
        out: list[bytes] = []
        while not self.ended:
            if self._state == _DATA or self._state == _REST:
                piece = bytes(self._buffer if self._state == _REST else self._buffer[: self._left])
                if piece:
                    out.append(piece)
                self._left -= len(piece)
                del self._buffer[: len(piece)]
                if self._state == _REST or self._left:
                    break
                self._body_part_over()
            elif (line := self._line()) is None:
                break
            else:
                self._take(line)
        return out

    def eof(self) -> None:
        """Nothing more comes. Raises HttpError when that is too early."""
        if self._state != _REST and not self.ended:
            raise HttpError(f"the connection to {self._who} ended early")
        self.ended, self.lasting = True, False

    def _line(self) -> bytes | None:
        end = self._buffer.find(b"\n")
        if end < 0:
            if len(self._buffer) > _MAX_HEAD:
                raise HttpError(f"{self._who} sent a header line without an end")
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line.strip()

    def _take(self, line: bytes) -> None:
        if self._state == _HEAD:
            if line or not self._head:
                self._head.append(line)
                if sum(map(len, self._head)) > _MAX_HEAD:
                    raise HttpError(f"{self._who} sent more headers than anybody needs")
                if len(self._head) == 1:
                    self._status(line)
            else:
                self._headed()
        elif self._state == _SIZE:
            self._left = self._number(line.partition(b";")[0].decode("latin-1"), 16)
            self._state = _DATA if self._left else _TRAILERS
        elif self._state == _AFTER:
            self._state = _SIZE
        elif not line:
            self._end()

    def _status(self, line: bytes) -> None:
        parts = line.split(None, 2)
        if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or not parts[1].isdigit():
            raise HttpError(f"{self._who} does not speak HTTP/1.1")
        self._version, self._code = parts[0], int(parts[1])

    def _headed(self) -> None:
        lines, self._head = self._head[1:], []
        if self._code == 100:
            return
        for line in lines:
            name, _, value = line.decode("latin-1").partition(":")
            self.headers[name.strip().lower()] = value.strip()
        self.status = self._code
        if self.status in (204, 304):
            self._end()
        elif "chunked" in self.headers.get("transfer-encoding", "").lower():
            self._state = _SIZE
        elif "content-length" in self.headers:
            self._left = self._number(self.headers["content-length"], 10)
            self._state = _DATA
        else:
            self._state = _REST

    def _body_part_over(self) -> None:
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            self._state = _AFTER
        else:
            self._end()

    def _end(self) -> None:
        self.ended = True
        self.lasting = self._version == b"HTTP/1.1" and "close" not in self.headers.get("connection", "").lower() and not self._buffer

    def _number(self, text: str, base: int) -> int:
        try:
            number = int(text, base)
        except ValueError:
            number = -1
        if number < 0:
            raise HttpError(f"{self._who} sent a length that is no number")
        return number


class Post:
    """One POST to the model endpoint and its answer. A context manager: leaving it closes the socket, whatever state it is in.

    Args:
        url: `http://HOST:PORT[/PREFIX]`.
        headers: `content-length`, `host` and `connection` are added.
    """

    def __init__(self, wire: Wire, url: str, path: str, headers: dict[str, str], body: bytes) -> None:
        self._wire = wire
        self._place = Place(url, "the model endpoint")
        self._request = request("POST", self._place, path, headers, body, "close")
        self._answer = Answer("the model endpoint")
        self._first: list[bytes] = []  # of the body, that came with the head
        self._socket: _socket.socket | None = None

    @property
    def status(self) -> int:
        """The status of the answer."""
        return self._answer.status

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the answer, with names in lower case."""
        return self._answer.headers

    def __enter__(self) -> Post:
        return self

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            self._socket.close()

    def send(self) -> None:
        """Send the request and read the head of the answer into `status` and `headers` (names in lower case)."""
        try:
            self._socket = self._place.connect()
            self._send(self._socket)
            while not self._answer.status:
                self._first += self._more()
        except OSError as error:
            raise HttpError(f"the model endpoint is not reachable: {error}") from None

    def body(self) -> Iterator[bytes]:
        """The answer's body, decoded, as it comes. Raises HttpError when it ends before its end."""
        yield from self._first
        try:
            while not self._answer.ended:
                yield from self._more()
        except OSError as error:
            raise HttpError(f"the connection to the model broke: {error}") from None

    def _send(self, to: _socket.socket) -> None:
        rest = memoryview(self._request)
        while rest:
            self._wire.wait(write=[to.fileno()])
            try:
                rest = rest[to.send(rest) :]
            except BlockingIOError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                return  # it may have answered before it had read everything (too large, limit); the answer tells

    def _more(self) -> list[bytes]:
        """What the next bytes add to the body."""
        assert self._socket is not None
        while True:
            self._wire.wait(read=[self._socket.fileno()])
            try:
                data = self._socket.recv(CHUNK)
            except BlockingIOError:
                continue
            if data:
                return self._answer.feed(data)
            self._answer.eof()
            return []
