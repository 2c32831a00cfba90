"""The Model Context Protocol as a client speaks it, without I/O: what is asked of a server, and what its messages mean.

Two eras are spoken. In the newer one each request says by itself which revision it is in; in the older one both sides agree on one with
`initialize` first. Everything that a server says is taken as a stranger's: it is looked at before it is used.
"""

from __future__ import annotations

import base64
from typing import Any, Final

import msgspec

from aegis.core.text import one_line
from aegis.core.version import __version__

Message = dict[str, Any]

MODERN: Final = "2026-07-28"
#: The revisions that begin with `initialize`, newest first.
HANDSHAKE: Final = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
UNSUPPORTED: Final = -32022
NO_METHOD: Final = -32601
_META: Final = "io.modelcontextprotocol/"
_CLIENT: Final = {"name": "aegis", "version": __version__}
#: So many questions of a server are answered at a time; more of them are no conversation.
_REPLIES: Final = 16
_HEADER: Final = 4096


class Broken(Exception):
    """The server is gone or does not keep to the protocol: this connection is of no use any more. The text says how."""


class Refused(Exception):
    """It answered with an error of JSON-RPC."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(one_line(message, 600))
        self.code = code
        self.data = data


class Speaker:
    """One conversation with one server.

    Attributes:
        version: the revision that is spoken; empty until that is known.
        changed: the server said that its tools are others now.
        replies: messages that are due to it, oldest first.
    """

    def __init__(self, version: str = "") -> None:
        self.version = version
        self.changed = False
        self.replies: list[Message] = []
        self._last = 0

    @property
    def modern(self) -> bool:
        """Whether each request says its revision."""
        return self.version == MODERN

    def request(self, method: str, params: Message | None = None) -> Message:
        """The next request."""
        self._last += 1
        params = dict(params or {})
        if self.version == MODERN:
            params["_meta"] = {f"{_META}protocolVersion": MODERN, f"{_META}clientInfo": _CLIENT, f"{_META}clientCapabilities": {}}
        return {"jsonrpc": "2.0", "id": self._last, "method": method, "params": params}

    def discover(self) -> Message:
        """Ask in the newer era what there is."""
        self.version = MODERN
        return self.request("server/discover")

    def initialize(self) -> Message:
        """Ask in the older era for a revision."""
        self.version = ""
        return self.request("initialize", {"protocolVersion": HANDSHAKE[0], "capabilities": {}, "clientInfo": _CLIENT})

    def take(self, message: Any) -> tuple[Any, Any] | None:
        """What the server said: the id and the result of an answer, with a Refused in place of one; None for all else."""
        if not isinstance(message, dict):
            return None
        if "method" in message:
            self._told(message)
            return None
        if isinstance(error := message.get("error"), dict):
            code = error.get("code")
            told = str(error.get("message") or "it gave no reason")
            return message.get("id"), Refused(code if isinstance(code, int) else 0, told[:4000], error.get("data"))
        return (message.get("id"), message["result"]) if "result" in message else None

    def _told(self, message: Message) -> None:
        ident = message.get("id")
        if message["method"] == "notifications/tools/list_changed":
            self.changed = True
        elif isinstance(ident, int | str) and len(self.replies) < _REPLIES:
            ping = message["method"] == "ping"
            answer: Message = {"result": {}} if ping else {"error": {"code": NO_METHOD, "message": "not offered here"}}
            self.replies.append({"jsonrpc": "2.0", "id": ident, **answer})

    def discovered(self, result: Any) -> bool:
        """Whether the answer to `discover` is that of a server of the newer era."""
        return isinstance(result, dict) and MODERN in _listed(result.get("supportedVersions"))

    def initialized(self, result: Any) -> None:
        """Take the answer to `initialize`. Raises Broken for a revision that nobody knows."""
        version = result.get("protocolVersion") if isinstance(result, dict) else None
        if version not in HANDSHAKE:
            raise Broken(f"speaks the protocol revision {str(version)[:40]!r}, which is not known here")
        self.version = str(version)


def notification(method: str, params: Message | None = None) -> Message:
    """A message that nothing answers."""
    return {"jsonrpc": "2.0", "method": method, **({"params": params} if params else {})}


def is_modern(refusal: Refused) -> bool:
    """Whether a refusal to shake hands shows a server of the newer era alone."""
    data = refusal.data if isinstance(refusal.data, dict) else {}
    return refusal.code == UNSUPPORTED and MODERN in _listed(data.get("supported"))


def messages(line: bytes) -> list[Any]:
    """The messages of a line or a body. What is no message is what a careless program prints; what begins as one must be one.

    Raises Broken.
    """
    line = line.strip()
    if not line.startswith((b"{", b"[")):
        return []
    try:
        value = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if line.startswith(b"["):
            return []  # as many programs begin the lines of their logs
        raise Broken(f"sent a message that is not JSON ({one_line(str(error), 100)})") from None
    return value if isinstance(value, list) else [value]


def headers(message: Message, version: str) -> dict[str, str]:
    """What an HTTP request says of the message in it."""
    found = {"mcp-protocol-version": version} if version else {}
    if version == MODERN and "id" in message and "method" in message:
        found["mcp-method"] = message["method"]
        if message["method"] == "tools/call":
            found["mcp-name"] = _value(message["params"]["name"])
    return found


def _value(text: str) -> str:
    """A text as the value of a header: as it is where that can be, else encoded as the protocol says."""
    if text.isascii() and text.isprintable() and text == text.strip() and not text.startswith("=?"):
        return text[:_HEADER]
    return f"=?base64?{base64.b64encode(text.encode('utf-8', 'replace')).decode()}?="


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
