"""An MCP server for tests, with good and bad manners. Standard library alone, so that it runs inside any sandbox.

    python mcp_server.py [ERA [MANNER...]]          over stdin and stdout
    python mcp_server.py ERA MANNER... http PORT    over HTTP at http://127.0.0.1:PORT/mcp; says `ready PORT` when it is

Eras: `modern` (each request says its version), `legacy` (`initialize` first), `both`. Manners: `frail` (ends on a method that it does not
know), `deaf` (says nothing to one), `slow` (half a second before anything), `mute` (never answers), `dead` (ends at once, with words
on stderr), `sse` (answers by streams), `cuts` (streams break off after an event, and go on by GET), `sessions` (wants its session id),
`once` (closes each connection after its answer), `pages` (lists one tool per page), `many` (lists 300 tools), `odd` (lists what is
no proper tool), `fat` (a definition of 1 MB). Its tools are the functions of `TOOLS`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODERN, LEGACY = "2026-07-28", "2025-11-25"
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"\0" * 32).decode()
NUMBERS = {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}, "required": ["a", "b"]}
ODD: list[Any] = [
    None,
    {"name": 7},
    {"name": "", "inputSchema": {}},
    {"name": "no schema"},
    {"name": "read", "description": "imitates", "inputSchema": {"type": "nonsense", "properties": {"bad name!": {}, "p": {"type": "str"}}}},
    {"name": "x" * 200, "inputSchema": {"anyOf": [{"type": "object"}], "properties": {"q": {"$ref": "http://evil/"}}}},
    {"name": "x" * 200 + "y", "inputSchema": []},
    {"name": "a/b", "description": 7, "inputSchema": {"type": "object", "required": "q"}},
    {"name": "a.b", "inputSchema": {"properties": {"n": {"type": "array", "items": [{}]}}, "required": ["gone", "n"]}},
]


class Over(Exception):
    """The server is to end."""


class McpServer:
    """What the server answers, whatever carries it. `seen` are the messages that came, `told` what it says without being asked."""

    def __init__(self, era: str = "both", *manners: str) -> None:
        self.era = era
        self.manners = frozenset(manners)
        self.seen: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.calls = 0
        self.told: list[Any] = []
        self.raw: list[bytes] = []
        self.extra: list[str] = []
        self.cancelled = threading.Event()
        self.called = threading.Event()

    def answer(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """The answer to one message, if it gets one. Raises Over."""
        self.seen.append(message)
        if "slow" in self.manners:
            time.sleep(0.5)
        if "mute" in self.manners:
            return None
        if message.get("method") == "notifications/cancelled":
            self.cancelled.set()
        if "id" not in message or "method" not in message:
            return None
        head = {"jsonrpc": "2.0", "id": message["id"]}
        try:
            return {**head, "result": self._result(message["method"], message.get("params") or {})}
        except LookupError as error:
            if "frail" in self.manners:
                raise Over from None
            return None if "deaf" in self.manners else {**head, "error": {"code": -32601, "message": f"no {error}"}}
        except ValueError as error:
            return {**head, "error": {"code": -32602, "message": str(error), "data": {"supported": [MODERN]}}}

    def _result(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        modern = "io.modelcontextprotocol/protocolVersion" in params.get("_meta", {})
        if modern and self.era == "legacy":
            raise LookupError(method)
        if method == "initialize" and self.era != "modern":
            info = {"name": "kit", "version": "1"}
            return {"protocolVersion": LEGACY, "capabilities": {"tools": {"listChanged": True}}, "serverInfo": info}
        if not modern and self.era == "modern":
            raise ValueError("each request says its version")
        if method == "server/discover":
            return {"resultType": "complete", "supportedVersions": [MODERN], "capabilities": {"tools": {}}}
        if method == "tools/list":
            return self._listed(params.get("cursor"))
        if method == "tools/call":
            self.calls += 1
            self.called.set()
            if params["name"] not in TOOLS:
                raise ValueError(f"no tool {params['name']}")
            found = TOOLS[params["name"]](self, params.get("arguments") or {})
            return found if isinstance(found, dict) else {"content": [{"type": "text", "text": str(found)}]}
        raise LookupError(method)

    def _listed(self, cursor: str | None) -> dict[str, Any]:
        names = [*TOOLS, *self.extra]
        tools: list[Any] = [
            {"name": n, "description": f"does {n}", "inputSchema": NUMBERS if n == "add" else {"type": "object"}} for n in names
        ]
        for tool in tools:
            tool["annotations"] = {"readOnlyHint": True}
        if "odd" in self.manners:
            tools = [*ODD, *tools]
        if "many" in self.manners:
            tools = [{"name": f"tool_{n}", "inputSchema": {"type": "object"}} for n in range(300)]
        if "fat" in self.manners:
            tools.insert(
                0, {"name": "fat", "description": "x" * 1_000_000, "inputSchema": {"properties": {f"p{n}": {} for n in range(50_000)}}}
            )
        if "pages" in self.manners:
            at = int(cursor or 0)
            return {"tools": tools[at : at + 1], **({"nextCursor": str(at + 1)} if at + 1 < len(tools) else {})}
        return {"tools": tools}

    def say(self, message: Any) -> None:
        """Say something that is no answer."""
        self.told.append(message)


def _add(_: McpServer, given: dict[str, Any]) -> str:
    return str(given["a"] + given["b"])


def _echo(_: McpServer, given: dict[str, Any]) -> dict[str, Any]:
    return given["result"] if "result" in given else {"content": [{"type": "text", "text": given.get("text", "")}]}


def _hang(_: McpServer, given: dict[str, Any]) -> str:
    time.sleep(given.get("seconds", 600))
    return "woke"


def _flood(server: McpServer, given: dict[str, Any]) -> str:
    server.raw += [b'{"jsonrpc":"2.0","method":"notifications/message","params":"%s"}\n' % (b"x" * 1000)] * 1000 * int(given.get("mb", 1))
    return "over"


def _line(server: McpServer, given: dict[str, Any]) -> str:
    server.raw.append(b'{"jsonrpc":"2.0","method":"' + b"x" * 1_000_000 * int(given["mb"]))
    return "over"


def _deep(server: McpServer, _: dict[str, Any]) -> str:
    server.raw.append(b'{"jsonrpc":"2.0","method":"x","params":' + b"[" * 200_000 + b"]" * 200_000 + b"}\n")
    return "over"


def _die(_: McpServer, given: dict[str, Any]) -> str:
    with contextlib.suppress(OSError):
        os.write(2, b"a last word\n\x1b[2J")
    os._exit(given.get("code", 3))


def _change(server: McpServer, _: dict[str, Any]) -> str:
    server.extra.append(f"new{len(server.extra)}")
    server.say({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
    return "changed"


def _asks(server: McpServer, _: dict[str, Any]) -> str:
    server.say({"jsonrpc": "2.0", "id": "ping-1", "method": "ping"})
    server.say({"jsonrpc": "2.0", "id": "roots-1", "method": "roots/list"})
    return "asked"


def _stray(server: McpServer, _: dict[str, Any]) -> str:
    server.say({"jsonrpc": "2.0", "id": 4711, "result": {"content": [{"type": "text", "text": "not this"}]}})
    server.raw.append(b"a line of a log\n[another one]\n\n")
    return "this"


def _chatter(_: McpServer, given: dict[str, Any]) -> str:
    sys.stderr.write(("noise " * 10 + "\n") * int(given.get("lines", 1)))
    sys.stderr.flush()
    return "said"


def _hush(_: McpServer, given: dict[str, Any]) -> str:
    os.close(2)
    return "silent"


def _env(_: McpServer, given: dict[str, Any]) -> str:
    return os.environ.get(given["name"], "(unset)")


def _child(_: McpServer, given: dict[str, Any]) -> str:
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    return f"{os.getpid()} {child.pid}"


TOOLS: dict[str, Any] = {
    "add": _add, "echo": _echo, "hang": _hang, "flood": _flood, "line": _line, "deep": _deep, "die": _die, "change": _change,
    "asks": _asks, "stray": _stray, "chatter": _chatter, "env": _env, "hush": _hush, "child": _child,
}  # fmt: skip


def stdio(server: McpServer) -> None:
    """Serve stdin and stdout until the end."""
    if "dead" in server.manners:
        sys.exit("there is no such thing here")
    out = sys.stdout.buffer
    for line in sys.stdin:
        try:
            answer = server.answer(json.loads(line))
        except Over:
            return
        told, raw, server.told, server.raw = server.told, server.raw, [], []
        out.write(b"".join(json.dumps(one).encode() + b"\n" for one in told) + b"".join(raw))
        if answer is not None:
            out.write(json.dumps(answer).encode() + b"\n")
        out.flush()


def web(server: McpServer, port: int = 0) -> ThreadingHTTPServer:
    """An HTTP server at `/mcp` of a port; it serves when its `serve_forever` is called."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def reply(self, status: int, body: bytes = b"", kind: str = "application/json", **headers: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            if "once" in server.manners:
                self.send_header("Connection", "close")
                self.close_connection = True
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            server.headers.append(headers)
            message = json.loads(body)
            modern = "_meta" in (message.get("params") or {})
            wants = "sessions" in server.manners and not modern and message.get("method") != "initialize"
            if wants and headers.get("mcp-session-id") not in sessions:
                self.reply(404)
                return
            if modern and (headers.get("mcp-protocol-version") != MODERN or headers.get("mcp-method") != message["method"]):
                self.reply(400, b'{"jsonrpc":"2.0","id":null,"error":{"code":-32020,"message":"headers"}}')
                return
            answer = server.answer(message)
            if answer is None:
                if "id" in message and "method" in message:
                    time.sleep(600)
                self.reply(202)
                return
            extra = {}
            if message["method"] == "initialize" and "sessions" in server.manners:
                sessions.add(f"s{len(sessions)}")
                extra = {"Mcp_Session_Id": f"s{len(sessions) - 1}"}
            told, server.told = server.told, []
            if "sse" not in server.manners:
                self.reply(200, json.dumps(answer).encode(), **extra)
                return
            events = b"".join(b"event: message\r\ndata: " + json.dumps(one).encode() + b"\r\n\r\n" for one in told)
            if "cuts" in server.manners and message["method"] == "tools/call":
                waiting["7"] = answer
                self.reply(200, events + b"id: 7\nretry: 10\ndata: \n\n", "text/event-stream", **extra)
                return
            events += b": a comment\n\ndata: " + json.dumps(answer).encode() + b"\n\n"
            self.reply(200, events, "text/event-stream", **extra)

        def do_GET(self) -> None:
            answer = waiting.pop(self.headers.get("Last-Event-ID", ""), None)
            if answer is None:
                self.reply(405)
            else:
                self.reply(200, b"data: " + json.dumps(answer).encode() + b"\n\n", "text/event-stream")

        def do_DELETE(self) -> None:
            sessions.discard(self.headers.get("Mcp-Session-Id", ""))
            self.reply(200)

    sessions: set[str] = set()
    waiting: dict[str, dict[str, Any]] = {}
    found = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    found.daemon_threads = True
    found.sessions = sessions  # type: ignore[attr-defined]
    return found


if __name__ == "__main__":
    words = sys.argv[1:]
    if "http" in words:
        served = web(McpServer(*words[: words.index("http")]), int(words[-1]))
        print("ready", served.server_address[1], flush=True)
        served.serve_forever()
    else:
        stdio(McpServer(*(words or ["both"])))
