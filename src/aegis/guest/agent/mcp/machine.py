"""The protocol alone: what is asked of an MCP server, and what its answers mean. No input or output.

Two eras are spoken. In the newer one every request says by itself which version it is in, and `server/discover` tells what there is;
in the older one both sides agree on a version with `initialize` first. A server is asked in the newer one, and anything but a proper
answer leads to the older one.
"""

from __future__ import annotations

from aegis.guest.agent.mcp import Broken, Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Message = dict[str, Any]

MODERN = "2026-07-28"
#: The versions that begin with `initialize`, newest first.
HANDSHAKE = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
#: The codes of JSON-RPC and MCP that matter here.
UNSUPPORTED_VERSION, NO_METHOD = -32022, -32601
_META = "io.modelcontextprotocol/"
_CLIENT = {"name": "aegis", "version": "1"}
#: The most of a header, of which one comes from each marked argument.
_HEADER = 4096


class Machine:
    """One connection to one server.

    Attributes:
        version: what is spoken; empty until that is known.
        changed: the server said that its tools are others now.
        replies: messages that are due to the server, oldest first: it asked for something.
    """

    def __init__(self) -> None:
        self.version = ""
        self.changed = False
        self.replies: list[Message] = []
        self._last = 0

    @property
    def modern(self) -> bool:
        """Whether each request says its version."""
        return self.version == MODERN

    def request(self, method: str, params: Message | None = None) -> Message:
        """The next request."""
        self._last += 1
        params = dict(params or {})
        if self.modern:
            meta = {"protocolVersion": MODERN, "clientInfo": _CLIENT, "clientCapabilities": {}}
            params["_meta"] = {_META + name: value for name, value in meta.items()}
        return {"jsonrpc": "2.0", "id": self._last, "method": method, "params": params}

    def discover(self) -> Message:
        """Ask in the newer era what there is."""
        self.version = MODERN
        return self.request("server/discover")

    def initialize(self) -> Message:
        """Ask in the older era for a version."""
        self.version = ""
        return self.request("initialize", {"protocolVersion": HANDSHAKE[0], "capabilities": {}, "clientInfo": _CLIENT})

    def take(self, message: Any) -> tuple[Any, Any] | None:
        """Take what the server said. Returns the id and the result of an answer, a Refused in its place; None for all else."""
        if not isinstance(message, dict):
            return None
        if "method" in message:
            self._told(message)
            return None
        if isinstance(error := message.get("error"), dict):
            code = error.get("code")
            told = str(error.get("message") or "it gave no reason")
            return message.get("id"), Refused(code if isinstance(code, int) else 0, told, error.get("data"))
        return (message.get("id"), message["result"]) if "result" in message else None

    def _told(self, message: Message) -> None:
        method, ident = message["method"], message.get("id")
        if method == "notifications/tools/list_changed":
            self.changed = True
        elif ident is not None and len(self.replies) < 16:  # more of them is no conversation
            answer: Message = {"result": {}} if method == "ping" else {"error": {"code": NO_METHOD, "message": "not offered here"}}
            self.replies.append({"jsonrpc": "2.0", "id": ident, **answer})

    def discovered(self, result: Any) -> bool:
        """Whether the answer to `discover` is that of a server of the newer era."""
        return isinstance(result, dict) and MODERN in _listed(result.get("supportedVersions"))

    def initialized(self, result: Any) -> None:
        """Take the answer to `initialize`. Raises Broken for a version that nobody knows."""
        version = result.get("protocolVersion") if isinstance(result, dict) else None
        if version not in HANDSHAKE:
            raise Broken(f"speaks the protocol version {str(version)[:40]!r}, which is not known here")
        self.version = str(version)


def notification(method: str, params: Message | None = None) -> Message:
    """A message that nothing answers."""
    return {"jsonrpc": "2.0", "method": method, **({"params": params} if params else {})}


def is_modern(refusal: Refused) -> bool:
    """Whether a refusal to shake hands shows a server of the newer era alone, which this client could speak to."""
    data = refusal.data if isinstance(refusal.data, dict) else {}
    return refusal.code == UNSUPPORTED_VERSION and MODERN in _listed(data.get("supported"))


def headers(message: Message, version: str, schema: Message) -> dict[str, str]:
    """What an HTTP request says of the message in it. `schema` is that of the tool that is called: it may mark arguments to be told."""
    found = {"mcp-protocol-version": version} if version else {}
    if version != MODERN or "id" not in message or "method" not in message:  # an answer to what the server asked has no method
        return found
    found["mcp-method"] = message["method"]
    if message["method"] == "tools/call":
        found["mcp-name"] = _value(message["params"]["name"])
        found |= _marked(schema, message["params"].get("arguments") or {}, 0)
    return found


def _marked(schema: Message, arguments: Any, depth: int) -> dict[str, str]:
    found: dict[str, str] = {}
    properties = schema.get("properties")
    if not isinstance(properties, dict) or not isinstance(arguments, dict) or depth > 8:
        return found
    for name, one in properties.items():
        value = arguments.get(name)
        if not isinstance(one, dict) or value is None:
            continue
        mark = one.get("x-mcp-header")
        if (
            isinstance(mark, str)
            and mark.isascii()
            and mark.replace("-", "").replace("_", "").isalnum()
            and not isinstance(value, (dict, list))
        ):
            found["mcp-param-" + mark] = _value(str(value).lower() if isinstance(value, bool) else str(value))
        found |= _marked(one, value, depth + 1)
    return found


def _value(text: str) -> str:
    """A text as the value of a header: as it is where that can be, else encoded as the protocol says."""
    plain = text.isascii() and text.isprintable() and text == text.strip() and not text.startswith("=?")
    if plain:
        return text[:_HEADER]
    import binascii  # 0.3 ms, for such values only

    return f"=?base64?{binascii.b2a_base64(text.encode('utf-8', 'replace'), newline=False).decode()}?="


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
