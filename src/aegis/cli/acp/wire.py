"""JSON-RPC over lines, as a pure state machine: bytes in, messages out; what is to be written is taken with `take`."""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

from aegis.core.errors import AegisError, ErrorKind

#: The longest message that is read, in bytes: pictures in it are base64.
MAX_LINE: Final = 64 * 1024 * 1024

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
NOT_FOUND: Final = -32002
_CODES: Final = {
    ErrorKind.USAGE: INVALID_PARAMS,
    ErrorKind.TOO_LARGE: INVALID_PARAMS,
    ErrorKind.NOT_FOUND: NOT_FOUND,
}

Ident = int | str | None


class Request(NamedTuple):
    """The client wants an answer."""

    id: Ident
    method: str
    params: dict[str, Any]


class Notice(NamedTuple):
    """The client tells something."""

    method: str
    params: dict[str, Any]


class Answer(NamedTuple):
    """The client answers what it was asked. `result` is None when it answered with an error."""

    id: int
    result: dict[str, Any] | None


class Wire:
    """One side of a connection."""

    def __init__(self) -> None:
        self._unread: list[bytes] = []
        self._size = 0
        self._skipping = False
        self._outgoing: list[bytes] = []
        self._asked = 0

    def feed(self, data: bytes) -> list[Request | Notice | Answer]:
        """The messages that these bytes complete. What is none is answered as JSON-RPC says."""
        *lines, rest = data.split(b"\n")
        found: list[Request | Notice | Answer] = []
        for line in lines:
            whole = b"".join([*self._unread, line])
            self._unread, self._size = [], 0
            if self._skipping:
                self._skipping = False
            elif whole.strip() and (message := self._message(whole)) is not None:
                found.append(message)
        if rest and not self._skipping:
            self._unread.append(rest)
            self._size += len(rest)
            if self._size > MAX_LINE:
                self._skipping, self._unread, self._size = True, [], 0
                self._put({"id": None, "error": {"code": INVALID_REQUEST, "message": f"a message of more than {MAX_LINE} bytes"}})
        return found

    def respond(self, ident: Ident, result: dict[str, Any]) -> None:
        """Answer a request."""
        self._put({"id": ident, "result": result})

    def fail(self, ident: Ident, error: AegisError) -> None:
        """Answer a request with an error; what to do next is part of the message, since editors show nothing else."""
        text = f"{error.message}. {error.hint}" if error.hint else error.message
        self.refuse(ident, _CODES.get(error.kind, INTERNAL_ERROR), text, error.to_dict())

    def refuse(self, ident: Ident, code: int, text: str, data: Any = None) -> None:
        """Answer a request with an error of the protocol."""
        self._put({"id": ident, "error": {"code": code, "message": text, **({"data": data} if data is not None else {})}})

    def ask(self, method: str, params: dict[str, Any]) -> int:
        """Ask the client; the number of the request."""
        self._asked += 1
        self._put({"id": self._asked, "method": method, "params": params})
        return self._asked

    def tell(self, method: str, params: dict[str, Any]) -> None:
        """Tell the client."""
        self._put({"method": method, "params": params})

    def take(self) -> bytes:
        """What is to be written."""
        data, self._outgoing = b"".join(self._outgoing), []
        return data

    def _message(self, line: bytes) -> Request | Notice | Answer | None:
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            self.refuse(None, PARSE_ERROR, "this is not JSON")
            return None
        if not isinstance(message, dict):
            self.refuse(None, INVALID_REQUEST, "a message is an object")
            return None
        method, ident, params = message.get("method"), message.get("id"), message.get("params")
        if method is None and ("result" in message or "error" in message):
            result = message.get("result")
            return Answer(ident, result if isinstance(result, dict) else None) if isinstance(ident, int) else None
        if not isinstance(method, str) or not isinstance(ident, int | str | None):
            self.refuse(None, INVALID_REQUEST, "a request has a `method`, and an `id` that is a number or a text")
            return None
        if params is None:
            params = {}
        if not isinstance(params, dict):
            if "id" in message:
                self.refuse(ident, INVALID_PARAMS, "`params` is an object")
            return None
        return Request(ident, method, params) if "id" in message else Notice(method, params)

    def _put(self, message: dict[str, Any]) -> None:
        # A lone surrogate, from a file name say, becomes an escape.
        text = json.dumps({"jsonrpc": "2.0", **message}, ensure_ascii=False, separators=(",", ":"))
        self._outgoing.append(text.encode("utf-8", "backslashreplace") + b"\n")
