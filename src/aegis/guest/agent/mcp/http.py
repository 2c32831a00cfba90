"""An MCP server on the sandbox's loopback: one POST per message, answered by JSON or by a stream of events."""

from __future__ import annotations

import _socket
import time

from aegis.guest.agent.http import CHUNK, Answer, HttpError, Place, request
from aegis.guest.agent.mcp import MAX_MESSAGE, MAX_NOISE, Broken, Late, Refused, Unsent, one_line
from aegis.guest.agent.mcp.machine import headers, notification
from aegis.tether.jsontext import dumps_text, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from aegis.guest.agent.mcp import Flow
    from aegis.guest.agent.mcp.machine import Machine

_WHO = "the server"
#: How often a stream that broke off is asked for its rest, and the pause before that, in seconds, when the server names none.
_RESUMES, _PAUSE = 5, 1.0
_LOOPBACK = {"localhost": "127.0.0.1"}


class Http:
    """The URL, and the connection that is kept between messages."""

    def __init__(self, url: str, headers_: dict[str, str]) -> None:
        self._url = url
        self._headers = {"content-type": "application/json", "accept": "application/json, text/event-stream", **headers_}
        self._place: Place | None = None
        self._path = "/"
        self._kept: _socket.socket | None = None
        self._lingering: _socket.socket | None = None
        self._session = ""
        #: The definitions of the tools, by name, for the arguments that are to be told in headers.
        self.schemas: dict[str, dict[str, Any]] = {}

    def open(self) -> None:
        """Begin anew. Raises Broken for a URL that cannot be used here."""
        self.close()
        scheme, _, rest = self._url.partition("://")
        authority, slash, path = rest.partition("/")
        name, colon, port = authority.rpartition(":")
        name, port = (name, port) if colon and port.isdigit() else (authority, "80")
        host = _LOOPBACK.get(name.lower(), name)
        if scheme != "http" or (not (host.startswith("127.") and host.replace(".", "").isdigit()) and host != "[::1]"):
            raise Broken(f"is at {one_line(self._url, 200)!r}: here only http:// and the loopback of the sandbox are reached")
        try:
            self._place, self._path = Place(f"http://{host}:{port}", "the address"), (slash + path).partition("#")[0] or "/"
        except HttpError as error:
            raise Broken(str(error)) from None

    def request(self, machine: Machine, message: dict[str, Any], until: float, other: int | None = None) -> Flow[tuple[Any, Any]]:
        """Send a request and return its id and the result of its answer. `other` has no meaning here. Raises Unsent, Broken and Late."""
        call = _Call(machine, message)
        yield from self._exchange("POST", dumps_text(message), self._about(machine, message), call, until)
        resumes = 0
        while call.result is None and call.last_event and not machine.modern and resumes < _RESUMES:
            resumes += 1
            resume = min(until, time.monotonic() + call.pause)
            while time.monotonic() < resume:
                yield (), (), resume
            yield from self._exchange("GET", b"", {**self._about(machine, {}), "last-event-id": call.last_event}, call, until)
        if call.result is None:
            raise Broken("ended its answer before it was whole")
        if message["method"] == "initialize" and not isinstance(call.result, Refused):
            self._session = call.session
        return message["id"], call.result

    def notify(self, message: dict[str, Any], until: float, machine: Machine) -> Flow[None]:
        """Send a message that nothing answers; whether the server likes it does not matter. Raises Unsent, Broken and Late."""
        yield from self._exchange("POST", dumps_text(message), self._about(machine, message), None, until)

    def cancel(self, machine: Machine, ident: int) -> None:
        """The connection is closed already, which says it in the newer era; in the older one it must be said, if that can be at once."""
        if machine.modern or self._place is None:
            return
        body = dumps_text(notification("notifications/cancelled", {"requestId": ident}))
        self._let_go()
        try:
            self._lingering = self._place.connect()
            self._lingering.setblocking(True)
            self._lingering.settimeout(0.05)
            self._lingering.sendall(request("POST", self._place, self._path, {**self._headers, **self._about(machine, {})}, body, "close"))
        except OSError:
            self._let_go()

    def hang_up(self) -> None:
        """Tell the server that its session is over, if that can be at once."""
        if self._session and self._place is not None and self._kept is not None:
            try:
                self._kept.send(
                    request("DELETE", self._place, self._path, {**self._headers, "mcp-session-id": self._session}, b"", "close")
                )
            except OSError:
                pass

    @property
    def running(self) -> bool:
        """There is nothing to wait for."""
        return False

    def close(self) -> None:
        """Close what is open. Idempotent."""
        self._session = ""
        self._drop()
        self._let_go()

    def _about(self, machine: Machine, message: dict[str, Any]) -> dict[str, str]:
        schema = self.schemas.get(message["params"]["name"], {}) if message.get("method") == "tools/call" else {}
        session = {"mcp-session-id": self._session} if self._session else {}
        return session | headers(message, machine.version, schema)

    def _exchange(self, method: str, body: bytes, about: dict[str, str], call: _Call | None, until: float) -> Flow[None]:
        """One request and its answer, which goes to `call`."""
        assert self._place is not None
        data = request(method, self._place, self._path, {**self._headers, **about}, body)
        try:
            kept = self._fresh()
            answer = yield from self._ask(data, call, until)
            if answer is None and kept and (call is None or call.repeatable):  # it was closed while the request was on its way
                self._drop()
                answer = yield from self._ask(data, call, until)
            if answer is None:
                raise Broken("closed the connection without an answer")
            if not answer.lasting:
                self._drop()
        except HttpError as error:
            self._drop()
            raise Broken(str(error).removeprefix(_WHO + " ")) from None
        except OSError as error:
            self._drop()
            raise Broken(f"broke the connection: {error.strerror or error}") from None
        except BaseException:  # what is still to come on it belongs to nobody
            self._drop()
            raise
        if call is not None:
            yield from self._settle(call, answer, until)

    def _settle(self, call: _Call, answer: Answer, until: float) -> Flow[None]:
        """Say what the status means, and answer what the server asked meanwhile."""
        call.session = answer.headers.get("mcp-session-id", "")[:1000] or call.session
        if call.result is None and answer.status >= 300:
            if answer.status == 404 and self._session:
                self._session = ""
                raise Unsent("has forgotten the session")
            call.result = Refused(0, f"HTTP {answer.status}: {call.words()}".rstrip(": "))
        elif call.result is None and not call.streams:
            call.result = Refused(0, f"its answer is no message of MCP: {call.words()}".rstrip(": "))
        while call.machine.replies:
            yield from self.notify(call.machine.replies.pop(0), until, call.machine)

    def _ask(self, data: bytes, call: _Call | None, until: float) -> Flow[Answer | None]:
        """Send a request over the connection that there is, or a new one; None when it was closed before anything came."""
        place = self._place
        assert place is not None
        if self._kept is None:
            try:
                self._kept = place.connect()
                yield (), (self._kept.fileno(),), until
                if time.monotonic() >= until:
                    raise Late
                if code := self._kept.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR):
                    raise OSError(code, os_error(code))
                self._kept.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
            except OSError as error:
                raise Unsent(f"is not reachable at {place.authority}: {error.strerror or error}") from None
        sock, rest = self._kept, memoryview(data)
        answer, heard = Answer(_WHO), 0
        while True:
            try:
                while rest:
                    rest = rest[sock.send(rest) :]
            except BlockingIOError:
                pass
            except (BrokenPipeError, ConnectionResetError):
                rest = rest[:0]  # it may have answered before it had read everything
            yield (() if rest else (sock.fileno(),)), ((sock.fileno(),) if rest else ()), until
            if time.monotonic() >= until:
                raise Late
            if rest:
                continue
            try:
                got = sock.recv(CHUNK)
            except BlockingIOError:
                continue
            except ConnectionResetError:
                got = b""
            heard += len(got)
            if not got and not heard:
                return None
            if heard > MAX_NOISE:
                raise Broken(f"said more than {MAX_NOISE} bytes and gave no answer")
            pieces = answer.feed(got) if got else []
            if not got:
                answer.eof()
            if call is not None:
                call.take(answer, pieces)
            if not answer.ended and not pieces:  # many servers write the body when the head has been acknowledged
                sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_QUICKACK, 1)
            if answer.ended or (call is not None and call.streams and call.result is not None):
                return answer

    def _fresh(self) -> bool:
        """Whether there is a connection from before; one that was closed meanwhile, or on which something was said, is dropped."""
        self._let_go()
        if self._kept is None:
            return False
        try:
            self._kept.recv(1, _socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        self._drop()
        return False

    def _drop(self) -> None:
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def _let_go(self) -> None:
        if self._lingering is not None:
            self._lingering.close()
            self._lingering = None


class _Call:
    """One request, and what is known of its answer."""

    def __init__(self, machine: Machine, message: dict[str, Any]) -> None:
        self.machine = machine
        self.ident = message["id"]
        self.repeatable = message["method"] != "tools/call"
        self.result: Any = None
        self.session = ""
        self.last_event = ""
        self.pause = _PAUSE
        self.streams = False
        self._buffer = bytearray()
        self._data: list[bytes] = []
        self._size = 0

    def take(self, answer: Answer, pieces: list[bytes]) -> None:
        """Take pieces of the body of `answer`. Raises Broken."""
        if not answer.status:
            return
        kind = answer.headers.get("content-type", "").lower()
        self.streams = answer.status < 300 and kind.startswith("text/event-stream")
        for piece in pieces:
            self._buffer += piece
            if len(self._buffer) > MAX_MESSAGE:
                raise Broken(f"sent a message of more than {MAX_MESSAGE} bytes")
            if self.streams and b"\n" in piece:
                self._events()
        if answer.ended and not self.streams and "json" in kind:
            self._message(bytes(self._buffer), answer.status < 300)

    def words(self) -> str:
        """What the answer says, for people."""
        return one_line(self._buffer[:1000].decode("utf-8", "replace"))

    def _events(self) -> None:
        *lines, rest = bytes(self._buffer).split(b"\n")
        self._buffer = bytearray(rest)
        for line in lines:
            line = line.rstrip(b"\r")
            field, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if not line and self._data:
                data, self._data, self._size = b"\n".join(self._data), [], 0
                if data.strip():
                    self._message(data, True)
            elif field == b"data":
                self._data.append(value)
                self._size += len(value)
                if self._size > MAX_MESSAGE:
                    raise Broken(f"sent an event of more than {MAX_MESSAGE} bytes")
            elif field == b"id" and len(value) <= 1000:
                self.last_event = value.decode("latin-1")
            elif field == b"retry" and value.isdigit():
                self.pause = min(10.0, int(value[:9]) / 1000)

    def _message(self, data: bytes, must: bool) -> None:
        try:
            value = loads(data)
        except ValueError as error:
            if must:
                raise Broken(f"sent a message that is not JSON ({error})") from None
            return
        for one in value if isinstance(value, list) else [value]:
            answer = self.machine.take(one)
            if answer and self.result is None and ((type(answer[0]) is int and answer[0] == self.ident) or isinstance(answer[1], Refused)):
                self.result = answer[1]


def os_error(code: int) -> str:
    """The words for an error of the system."""
    from os import strerror

    return strerror(code)
