"""An MCP server on standard input and output that is a pipe to the daemon's own.

One thread for each request, so that one that waits holds up no other. Lines go to `POST /mcp` as they are and come back as they are;
nothing is known here of tools but which may be asked twice. A daemon that does not run is started. When it dies under a request, the
request is made again if that is harmless, else its client is told, as a failed tool, what to look at.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import secrets
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from aegis.client import launch
from aegis.client.transport import Connection
from aegis.core.errors import AegisError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

#: Tools that change nothing and may be asked again; `tether_send` is made so by an id.
READING: Final = frozenset(
    {"tether_read", "instance_list", "instance_info", "logs", "kit_list", "secret_list", "approvals_list", "approvals_show"}
)
#: The longest line that is read, in bytes, how many requests there may be at a time, and how often one is made again.
MAX_LINE: Final = 16 * 1024 * 1024
MOST: Final = 64
_TRIES: Final = 4
#: Seconds that requests under way may still take once the input has ended.
_GRACE: Final = 1.0
_PARSE, _REQUEST, _INTERNAL = -32700, -32600, -32603
_META: Final = "io.modelcontextprotocol/protocolVersion"


class Gone(Exception):
    """The client does not wait for the answer any more."""


class Pipe:
    """Between the client, whose lines are read here and written by `write`, and the daemon of `home`."""

    def __init__(self, home: Path, directory: Path, write: Callable[[bytes], None]) -> None:
        self._home = home
        self._directory = quote(str(directory))
        self._write = write
        self._writing = threading.Lock()
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._running: dict[str, Request] = {}  # by the JSON of the request's id
        self._client = secrets.token_urlsafe(12)
        self._version = ""
        self._room = threading.BoundedSemaphore(MOST)

    def run(self) -> None:
        """Serve until the input ends."""
        for line in _lines():
            if line is None:
                self._say(_error(None, _REQUEST, f"a line of more than {MAX_LINE} bytes"))
            elif line.strip():
                self._hear(line)
        with self._idle:
            self._idle.wait_for(lambda: not self._running, _GRACE)
        self._writing.acquire()  # for good: no thread may be in the middle of a line when the process ends

    def _hear(self, line: bytes) -> None:
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            self._say(_error(None, _PARSE, "this is not JSON"))
            return
        if isinstance(message, dict) and "method" in message and "id" not in message:
            self._notified(message)
            return
        request = Request(message, line)
        if not self._room.acquire(blocking=False):
            self._say(_error(request.ident, _INTERNAL, f"{MOST} requests are under way; wait for one of them"))
            return
        with self._lock:
            self._running[request.key] = request
        threading.Thread(target=self._serve, args=(request,), daemon=True).start()

    def _notified(self, message: dict[str, Any]) -> None:
        """What is only told: that a request is not waited for matters, and ends with its connection."""
        params = message.get("params")
        if message.get("method") == "notifications/cancelled" and isinstance(params, dict):
            with self._lock:
                request = self._running.get(json.dumps(params.get("requestId")))
            if request is not None:
                request.drop()

    def _serve(self, request: Request) -> None:
        try:
            for answer in self._answers(request):
                if not request.dropped:
                    self._say(answer)
        except Gone:
            pass
        except AegisError as error:
            self._say(request.failure(error))
        except BrokenPipeError:
            pass  # nobody reads any more; the input will end
        except Exception as error:
            self._say(_error(request.ident, _INTERNAL, f"a defect in Aegis: {type(error).__name__}"))
        finally:
            with self._idle:
                if self._running.get(request.key) is request:
                    del self._running[request.key]
                self._idle.notify_all()
            self._room.release()

    def _answers(self, request: Request) -> Iterator[bytes]:
        """The lines that the daemon answers, across its death where that is harmless."""
        for attempt in range(1, _TRIES + 1):
            sent = False
            try:
                launch.ensure_daemon(self._home)
                connection = request.connect(launch.socket_path(self._home))
                try:
                    connection.connect()
                    sent = True
                    yield from self._exchange(connection, request)
                    return
                finally:
                    connection.close()
            except (OSError, http.client.HTTPException) as error:
                if request.dropped:
                    raise Gone from None
                if attempt == _TRIES or (sent and not request.harmless):
                    raise AegisError.from_dict(_lost(error, sent)) from None

    def _exchange(self, connection: http.client.HTTPConnection, request: Request) -> Iterator[bytes]:
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "Mcp-Session-Id": self._client,
            "Aegis-Directory": self._directory,
        }
        connection.request("POST", "/mcp", body=request.body, headers=headers | request.headers(self._version))
        response = connection.getresponse()
        if response.headers.get_content_type() == "text/event-stream":
            answered = False
            for event in _events(response):
                answered = answered or b'"method"' not in event[:200]
                yield event
            if not answered:
                raise http.client.IncompleteRead(b"")
            return
        body = response.read()
        if not body:
            return
        told = json.loads(body)
        if isinstance(told, dict) and "jsonrpc" not in told:  # refused before it was read as a message
            raise AegisError.from_dict(told)
        if request.method == "initialize" and isinstance(told, dict):
            self._version = str((told.get("result") or {}).get("protocolVersion") or "")
        yield body

    def _say(self, line: bytes) -> None:
        with self._writing, contextlib.suppress(BrokenPipeError):
            self._write(line.replace(b"\n", b" ").replace(b"\r", b" ") + b"\n")


class Request:
    """A request of the client, or a list of them, and the connection on which it is under way."""

    def __init__(self, message: Any, line: bytes) -> None:
        single = message if isinstance(message, dict) else {}
        self.ident = single.get("id")
        self.key = json.dumps(self.ident) if single else f"list {secrets.token_hex(4)}"
        self.method = str(single.get("method"))
        self.body = line
        self.harmless = bool(single) and self.method != "tools/call"
        self.dropped = False
        self._connection: Connection | None = None
        self._params = single.get("params") if isinstance(single.get("params"), dict) else {}
        if self.method == "tools/call" and isinstance(self._params, dict):
            self._called(single, self._params)

    def connect(self, path: Path) -> Connection:
        """A connection for it to the socket `path`. Raises Gone when it is not waited for any more."""
        self._connection = Connection(path, None)
        if self.dropped:
            raise Gone
        return self._connection

    def drop(self) -> None:
        """It is not waited for any more: the connection ends, which tells the daemon to stop."""
        self.dropped = True
        sock = self._connection.sock if self._connection is not None else None
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def headers(self, version: str) -> dict[str, str]:
        """What the newer era of the protocol wants said outside of the message, too."""
        meta = (self._params or {}).get("_meta")
        modern = meta.get(_META) if isinstance(meta, dict) else None
        if not isinstance(modern, str):
            return {"MCP-Protocol-Version": version} if version else {}
        named = str((self._params or {}).get("name", "")) if self.method == "tools/call" else ""
        found = {"MCP-Protocol-Version": modern, "Mcp-Method": self.method, "Mcp-Name": named}
        return {key: quote(value, safe="/ :_-.") for key, value in found.items() if value}

    def failure(self, error: AegisError) -> bytes:
        """An error that came from outside the protocol, as the client can show it: that of a tool to its model."""
        text = f"{error.message}. {error.hint}" if error.hint else error.message
        if self.method != "tools/call":
            return _error(self.ident, _INTERNAL, text)
        result = {"content": [{"type": "text", "text": text}], "isError": True}
        return json.dumps({"jsonrpc": "2.0", "id": self.ident, "result": result}).encode()

    def _called(self, message: dict[str, Any], params: dict[str, Any]) -> None:
        """See to it that what can be harmless when it is done twice is."""
        name, arguments = params.get("name"), params.get("arguments")
        self.harmless = name in READING
        if name == "tether_send" and isinstance(arguments, dict):
            arguments.setdefault("msg_id", f"auto-{secrets.token_hex(10)}")
            self.body = json.dumps(message).encode()
            self.harmless = True


def _lost(error: Exception, sent: bool) -> dict[str, Any]:
    if not sent:
        return {"error": f"the daemon cannot be reached: {error}", "kind": "unreachable", "hint": "`aegis status` says more"}
    told = "the daemon died while it did this, so it may be done or not"
    return {"error": told, "kind": "unreachable", "hint": "look with instance_list before you do it again"}


def _error(ident: Any, code: int, text: str) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": ident, "error": {"code": code, "message": text}}).encode()


def _lines() -> Iterator[bytes | None]:
    """The lines of the input; None for one that is too long."""
    source = sys.stdin.buffer
    while line := source.readline(MAX_LINE):
        if not line.endswith(b"\n") and len(line) == MAX_LINE:
            while line and not line.endswith(b"\n"):
                line = source.readline(MAX_LINE)
            yield None
        else:
            yield line


def _events(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The data of the events of a stream."""
    data: list[bytes] = []
    while line := response.readline():
        line = line.rstrip(b"\r\n")
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif not line and data:
            yield b"\n".join(data)
            data = []
