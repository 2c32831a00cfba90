"""Aegis's MCP server over standard input and output, for programs in the sandbox that take MCP servers only as commands.

`PYTHONPATH=$AEGIS_LIB $AEGIS_PYTHON -m aegis.guest.mcp` is such a command. Each line in is a message and becomes a POST to
`AEGIS_MCP_URL` with `AEGIS_MCP_TOKEN`; what comes back is written as lines. Calls run side by side, so one that waits holds up no other.
It ends when its input has ended and everything is answered. Nothing is decided here, and nothing is known of what messages mean but
what the way needs: ids, for answers that only this end can give, and the headers of the newer era.
"""

from __future__ import annotations

import _socket
import os
import sys

from aegis.guest.agent.http import CHUNK, Answer, HttpError, Place, request
from aegis.guest.loop import READ, WRITE, Loop
from aegis.tether.jsontext import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: The longest message, in bytes, and the most POSTs at a time; what comes beyond that waits in the pipe.
MAX_LINE = 16 * 1024 * 1024
_MOST = 64
_WHO = "Aegis's MCP server"
_VERSION = "io.modelcontextprotocol/protocolVersion"


class Bridge:
    """Reads lines from `source`, writes lines to `sink`: descriptors. Raises HttpError for a URL that cannot be used."""

    def __init__(self, url: str, token: str, source: int, sink: int) -> None:
        self._place = Place(url, _WHO)
        self._headers = {
            "authorization": f"Bearer {token}",
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
        }
        self._loop = Loop()
        self._source, self._sink = source, sink
        self._input = bytearray()
        self._output = bytearray()
        self._over = False  # the input has ended
        self._skipping = False  # a line that is too long
        self._flights: list[_Flight] = []
        self._kept: list[_socket.socket] = []

    def run(self) -> None:
        """Work until the input has ended and everything is answered, or nobody reads the answers any more."""
        os.set_blocking(self._source, False)
        os.set_blocking(self._sink, False)
        self._listen()
        while not (self._over and not self._flights and not self._output and not self._input):
            self._loop.turn()

    def _listen(self) -> None:
        if self._over or len(self._flights) >= _MOST:
            self._loop.forget(self._source)
            return
        try:
            self._loop.watch(self._source, READ, self._read)
        except PermissionError:  # a file: always there to be read
            self._loop.after(0.0, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._source, CHUNK)
        except BlockingIOError:
            return
        self._input += data
        if not data:
            self._over = True
            self._loop.forget(self._source)
            if self._input and not self._skipping:
                self._input += b"\n"
        self._lines()
        if not self._over:
            self._listen()

    def _lines(self) -> None:
        while len(self._flights) < _MOST:
            end = self._input.find(b"\n")
            if end < 0:
                if self._over:
                    self._input.clear()
                elif len(self._input) > MAX_LINE:
                    self._input.clear()
                    if not self._skipping:
                        self._say(None, -32700, f"a message is over {MAX_LINE} bytes")
                    self._skipping = True
                return
            line = bytes(self._input[:end]).strip()
            del self._input[: end + 1]
            if self._skipping:
                self._skipping = False
            elif line:
                self._message(line)

    def _message(self, line: bytes) -> None:
        try:
            message = loads(line.decode())
        except (ValueError, RecursionError):
            self._say(None, -32700, "this is not JSON")
            return
        if isinstance(message, dict) and message.get("method") == "notifications/cancelled" and "id" not in message:
            if self._give_up(message.get("params")):
                return
        _Flight(self, message, line)

    def _give_up(self, params: Any) -> bool:
        """Whether the request that nobody waits for any more is under way: then it ends with its connection, without an answer."""
        wanted = params.get("requestId") if isinstance(params, dict) else None
        for flight in self._flights:
            if flight.ident is not None and flight.ident == wanted and type(flight.ident) is type(wanted):
                flight.end(None)
                return True
        return False

    def _say(self, ident: Any, code: int, text: str) -> None:
        self.write(dumps({"jsonrpc": "2.0", "id": ident, "error": {"code": code, "message": text}}))

    def write(self, line: bytes) -> None:
        """A line for the program."""
        self._output += line.replace(b"\n", b" ") + b"\n"
        self._flush()

    def _flush(self) -> None:
        try:
            while self._output:
                del self._output[: os.write(self._sink, self._output[:CHUNK])]
            self._loop.forget(self._sink)
        except BlockingIOError:
            self._loop.watch(self._sink, WRITE, self._flush)
        except OSError:  # nobody reads
            os._exit(0)


class _Flight:
    """A message on its way, and its answer."""

    def __init__(self, bridge: Bridge, message: Any, line: bytes) -> None:
        self._bridge = bridge
        self._line = line
        self.ident: Any = message.get("id") if isinstance(message, dict) and "method" in message else None
        self._opens = isinstance(message, dict) and message.get("method") == "initialize"
        self._answer = Answer(_WHO)
        self._body = bytearray()
        self._said = False
        self._unsent = memoryview(request("POST", bridge._place, "", {**bridge._headers, **_told(message)}, line))
        self._socket: _socket.socket | None = None
        bridge._flights.append(self)
        try:
            self._socket = self._connection()
            bridge._loop.watch(self._socket.fileno(), READ | WRITE, self._ready)
        except OSError as error:
            self.end(f"{_WHO} is not reachable: {error}")

    def _connection(self) -> _socket.socket:
        while self._bridge._kept:
            kept = self._bridge._kept.pop()
            try:
                kept.recv(1)
            except BlockingIOError:  # open, and silent
                return kept
            except OSError:
                pass
            kept.close()
        return self._bridge._place.connect()

    def _ready(self) -> None:
        assert self._socket is not None
        try:
            if self._unsent:
                try:
                    self._unsent = self._unsent[self._socket.send(self._unsent) :]
                except BlockingIOError:
                    pass
                if not self._unsent:
                    self._bridge._loop.watch(self._socket.fileno(), READ, self._ready)
            data = self._socket.recv(CHUNK)
            if data:
                pieces = self._answer.feed(data)
            else:
                self._answer.eof()
                pieces = []
        except BlockingIOError:
            return
        except (OSError, HttpError) as error:
            self.end(f"the connection to {_WHO} broke: {error}")
            return
        for piece in pieces:
            self._body += piece
        if self._answer.headers.get("content-type", "").startswith("text/event-stream"):
            self._events()
        if self._answer.ended:
            self._whole()

    def _events(self) -> None:
        while (end := self._body.find(b"\n")) >= 0:
            line = bytes(self._body[:end]).strip()
            del self._body[: end + 1]
            if line.startswith(b"data:"):
                self._said = True
                self._bridge.write(line[5:].strip())

    def _whole(self) -> None:
        if self._opens and (session := self._answer.headers.get("mcp-session-id")):
            self._bridge._headers["mcp-session-id"] = session
        body = bytes(self._body).strip()
        if self._said or not body:
            self.end(None if self._said or self._answer.status < 300 else f"{_WHO} answered {self._answer.status}")
        elif b'"jsonrpc"' in body[:4096]:
            self._bridge.write(body)
            self.end(None)
        else:
            self.end(_reason(body, self._answer.status))

    def end(self, problem: str | None) -> None:
        """It is over; a problem is told to who waits for it, if there is somebody."""
        bridge, sock = self._bridge, self._socket
        bridge._flights.remove(self)
        if sock is not None:
            bridge._loop.forget(sock.fileno())
            if self._answer.ended and self._answer.lasting and not self._unsent:
                bridge._kept.append(sock)
            else:
                sock.close()
        if problem is not None and self.ident is not None:
            bridge._say(self.ident, -32000, problem)
        bridge._loop.after(0.0, self._next)

    def _next(self) -> None:
        self._bridge._lines()
        self._bridge._listen()


def _told(message: Any) -> dict[str, str]:
    """What the newer era wants to have in headers, too."""
    params = message.get("params") if isinstance(message, dict) else None
    meta = params.get("_meta") if isinstance(params, dict) else None
    version = meta.get(_VERSION) if isinstance(meta, dict) else None
    if not isinstance(version, str) or not isinstance(params, dict):
        return {}
    told = {"mcp-protocol-version": _header(version), "mcp-method": _header(message.get("method"))}
    if message.get("method") == "tools/call":
        told["mcp-name"] = _header(params.get("name"))
    return told


def _header(value: Any) -> str:
    """A text as the value of a header: as it is, or in base64 where a line could not hold it."""
    text = value if isinstance(value, str) else ""
    if text.isascii() and text.isprintable() and text == text.strip() and not text.startswith("=?"):
        return text
    from binascii import b2a_base64

    return f"=?base64?{b2a_base64(text.encode(errors='replace'), newline=False).decode()}?="


def _reason(body: bytes, status: int) -> str:
    try:
        said = loads(body.decode())
        return f"{said['error']}. {said.get('hint', '')}".strip()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{_WHO} answered {status}"


def main() -> None:
    """Be the bridge. Needs `AEGIS_MCP_URL` and `AEGIS_MCP_TOKEN`."""
    url, token = os.environ.get("AEGIS_MCP_URL", ""), os.environ.get("AEGIS_MCP_TOKEN", "")
    try:
        Bridge(url, token, 0, 1).run()
    except HttpError as error:
        sys.stderr.write(f"aegis.guest.mcp: {error}; AEGIS_MCP_URL and AEGIS_MCP_TOKEN are set for programs in an Aegis sandbox\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
