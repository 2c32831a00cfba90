"""The Model Context Protocol as a server speaks it, without I/O and without memory: messages in, what is to be done and said out.

Two eras are served side by side. In the older one (revisions 2024-11-05 to 2025-11-25) a client says `initialize` first; in the newer
one each request says in `_meta` which revision it speaks. Every message shows which era it belongs to, so nothing needs to be kept
between them; whoever carries the messages keeps the calls that are under way, for `Heard.cancelled`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Final, NamedTuple

import msgspec

from aegis.core.envelopes import Image
from aegis.core.version import __version__

#: Revisions with a handshake, oldest first, and those without.
HANDSHAKE: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
MODERN: Final = ("2026-07-28",)
#: Those in which several messages may come as one list. Clients say their revision in a header from the next one on.
_BATCHING: Final = frozenset({"2024-11-05", "2025-03-26"})
#: The most messages of one list.
MAX_BATCH: Final = 64

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
HEADER_MISMATCH: Final = -32020
UNSUPPORTED_VERSION: Final = -32022
CANCELLED: Final = -32800
#: The HTTP status of an answer that is only this error, in the newer era; 200 for others. In the older one, that of the first two.
_STATUS: Final = {
    PARSE_ERROR: 400,
    INVALID_REQUEST: 400,
    INVALID_PARAMS: 400,
    HEADER_MISMATCH: 400,
    UNSUPPORTED_VERSION: 400,
    METHOD_NOT_FOUND: 404,
}
_ALWAYS: Final = (PARSE_ERROR, INVALID_REQUEST, UNSUPPORTED_VERSION)

_META: Final = "io.modelcontextprotocol/"
_VERSION_KEY: Final = f"{_META}protocolVersion"
_CAPABILITIES_KEY: Final = f"{_META}clientCapabilities"
_SERVER_KEY: Final = f"{_META}serverInfo"
_SERVER: Final = {"name": "aegis", "title": "Aegis", "version": __version__}
_CAN: Final = {"tools": {"listChanged": False}}
#: What a client may keep of a list, in the newer era: what it may do follows from its launch, which can change when it restarts.
_CACHING: Final = {"resultType": "complete", "ttlMs": 60_000, "cacheScope": "private"}

Ident = int | str
Message = dict[str, Any]


class Offer(NamedTuple):
    """What a caller can have. `tools` are its definitions in the protocol's form."""

    instructions: str
    tools: tuple[Message, ...]
    names: frozenset[str]


class Call(msgspec.Struct, frozen=True):
    """A tool that is called. `token` is what news of its progress has to carry, None when none is wanted."""

    ident: Ident
    name: str
    arguments: dict[str, Any]
    modern: bool = False
    token: Ident | None = None


class Heard(msgspec.Struct):
    """What one message, or a list of them, came to."""

    #: What can be answered at once.
    answers: list[Message] = []
    #: What is to be done; each is answered by `result` or `error`.
    calls: list[Call] = []
    #: Requests, by their ids, that the client does not wait for any more.
    cancelled: list[Ident] = []
    #: The client said `initialize`: a session begins.
    opened: bool = False
    #: It came as a list, and is answered by one.
    batch: bool = False
    #: The HTTP status, once everything is answered.
    status: int = 200


def hear(body: bytes, offer: Offer, headers: Mapping[str, str] | None = None) -> Heard:
    """What a client's bytes come to. `headers` are those of HTTP, names in lower case; None where the way has none."""
    heard = Heard()
    try:
        message = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        _refuse(heard, None, PARSE_ERROR, "this is not JSON")
        return heard
    if not isinstance(message, list):
        _hear(heard, message, offer, headers)
    else:
        heard.batch = True
        _hear_batch(heard, message, offer, headers)
    if not heard.answers and not heard.calls:
        heard.status = 202
    return heard


def _hear_batch(heard: Heard, messages: list[Any], offer: Offer, headers: Mapping[str, str] | None) -> None:
    version = (headers or {}).get("mcp-protocol-version")
    refusal = ""
    if version is not None and version not in _BATCHING:
        refusal = f"revision {version} of the protocol has no lists of messages: send them one by one"
    elif not messages:
        refusal = "a list without messages"
    elif len(messages) > MAX_BATCH:
        refusal = f"a list of {len(messages)} messages; at most {MAX_BATCH} may come at once"
    elif any(isinstance(m, dict) and (m.get("method") == "initialize" or _names_version(m)) for m in messages):
        refusal = "this must not be part of a list"
    if refusal:
        heard.batch = False
        _refuse(heard, None, INVALID_REQUEST, refusal)
        return
    for message in messages:
        _hear(heard, message, offer, headers)
    heard.status = 200


def _hear(heard: Heard, message: Any, offer: Offer, headers: Mapping[str, str] | None) -> None:
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        _refuse(heard, None, INVALID_REQUEST, "this is no message of JSON-RPC 2.0")
        return
    ident = message.get("id")
    if "method" not in message and ("result" in message or "error" in message):
        return  # an answer, although nothing was asked
    method, params = message.get("method"), message.get("params")
    if "id" in message and (isinstance(ident, bool) or not isinstance(ident, int | str)):
        _refuse(heard, None, INVALID_REQUEST, "the id of a request is a whole number or a text")
        return
    if not isinstance(method, str):
        _refuse(heard, ident, INVALID_REQUEST, "the method of a request is a text")
        return
    if "id" not in message:
        _notified(heard, method, params)
        return
    assert isinstance(ident, int | str)
    if params is None:
        params = {}
    if not isinstance(params, dict):
        _refuse(heard, ident, INVALID_PARAMS, "`params` is an object")
        return
    said = (headers or {}).get("mcp-protocol-version")
    if _names_version(message) or (said is not None and said not in HANDSHAKE):
        wrong = _mismatch(method, params, headers)
        if wrong is not None:
            _refuse(heard, ident, *wrong)
            return
        _modern(heard, ident, method, params, offer)
    else:
        _handshake(heard, ident, method, params, offer)


def _notified(heard: Heard, method: str, params: Any) -> None:
    """Of what clients only tell, one thing matters."""
    if method == "notifications/cancelled" and isinstance(params, dict):
        ident = params.get("requestId")
        if isinstance(ident, int | str) and not isinstance(ident, bool):
            heard.cancelled.append(ident)


def _handshake(heard: Heard, ident: Ident, method: str, params: Message, offer: Offer) -> None:
    """A request of the older era."""
    match method:
        case "initialize":
            wanted = params.get("protocolVersion")
            version = wanted if wanted in HANDSHAKE else HANDSHAKE[-1]
            heard.opened = True
            told = {"protocolVersion": version, "capabilities": _CAN, "serverInfo": _SERVER, "instructions": offer.instructions}
            heard.answers.append(answer(ident, told))
        case "ping":
            heard.answers.append(answer(ident, {}))
        case "tools/list":
            _listed(heard, ident, params, offer, {})
        case "tools/call":
            _called(heard, ident, params, offer, modern=False)
        case _:
            _refuse(heard, ident, METHOD_NOT_FOUND, f"there is no method {method[:80]!r}", modern=False)


def _modern(heard: Heard, ident: Ident, method: str, params: Message, offer: Offer) -> None:
    """A request of the newer era."""
    match method:
        case "server/discover":
            told = {"supportedVersions": MODERN, "capabilities": _CAN, "instructions": offer.instructions, "_meta": {_SERVER_KEY: _SERVER}}
            heard.answers.append(answer(ident, {**told, **_CACHING}))
        case "tools/list":
            _listed(heard, ident, params, offer, _CACHING)
        case "tools/call":
            _called(heard, ident, params, offer, modern=True)
        case _:
            _refuse(heard, ident, METHOD_NOT_FOUND, f"there is no method {method[:80]!r}")


def _listed(heard: Heard, ident: Ident, params: Message, offer: Offer, more: Message) -> None:
    if params.get("cursor") is not None:  # there is one page
        _refuse(heard, ident, INVALID_PARAMS, "there is no such cursor", modern=bool(more))
        return
    heard.answers.append(answer(ident, {"tools": offer.tools, **more}))


def _called(heard: Heard, ident: Ident, params: Message, offer: Offer, *, modern: bool) -> None:
    name, arguments = params.get("name"), params.get("arguments")
    if not isinstance(name, str):
        _refuse(heard, ident, INVALID_PARAMS, "the `name` of a tool is a text", modern=modern)
        return
    if name not in offer.names:
        near = get_close_matches(name[:80], offer.names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else "tools/list names those there are"
        _refuse(heard, ident, INVALID_PARAMS, f"there is no tool {name[:80]!r} for you; {hint}", modern=modern)
        return
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        _refuse(heard, ident, INVALID_PARAMS, "the `arguments` of a tool are an object", modern=modern)
        return
    meta = params.get("_meta")
    token = meta.get("progressToken") if isinstance(meta, dict) else None
    if isinstance(token, bool) or not isinstance(token, int | str):
        token = None
    heard.calls.append(Call(ident, name, arguments, modern, token))


def _names_version(message: Message) -> bool:
    """Whether it is of the newer era, by its own word."""
    params = message.get("params")
    meta = params.get("_meta") if isinstance(params, dict) else None
    return isinstance(meta, dict) and _VERSION_KEY in meta


def _mismatch(method: str, params: Message, headers: Mapping[str, str] | None) -> tuple[int, str, Any] | None:
    """What is wrong with what a request of the newer era says of itself, in the order in which clients rely on it."""
    meta = params.get("_meta")
    version = meta.get(_VERSION_KEY) if isinstance(meta, dict) else None
    said = (headers or {}).get("mcp-protocol-version")
    if version is None and said is not None and said not in MODERN:
        return _unsupported(said)
    if not isinstance(meta, dict) or version is None or _CAPABILITIES_KEY not in meta:
        return INVALID_PARAMS, f"params._meta must have `{_VERSION_KEY}` and `{_CAPABILITIES_KEY}`", None
    if headers is not None:
        named = params.get("name") if method == "tools/call" else None
        if said != version:
            return HEADER_MISMATCH, "the header MCP-Protocol-Version is not the revision that the request names", None
        if headers.get("mcp-method") != method:
            return HEADER_MISMATCH, "the header Mcp-Method is not the method of the request", None
        if named is not None and _decoded(headers.get("mcp-name")) != named:
            return HEADER_MISMATCH, "the header Mcp-Name is not the name of the tool that is called", None
    if not isinstance(version, str):
        return INVALID_PARAMS, f"`{_VERSION_KEY}` is a text", None
    return None if version in MODERN else _unsupported(version)


def _unsupported(version: str) -> tuple[int, str, Any]:
    return UNSUPPORTED_VERSION, "this revision of the protocol is not spoken here", {"supported": MODERN, "requested": version[:80]}


def _decoded(value: str | None) -> str | None:
    """The text of a header, which is in base64 where plain characters do not do; None when it is not right."""
    if value is None or not (value.startswith("=?base64?") and value.endswith("?=")):
        return value
    try:
        return base64.b64decode(value[9:-2], validate=True).decode()
    except ValueError:
        return None


def _refuse(heard: Heard, ident: Any, code: int, text: str, data: Any = None, *, modern: bool = True) -> None:
    heard.answers.append(error(ident, code, text, data))
    if modern or code in _ALWAYS:
        heard.status = _STATUS.get(code, 200)


def answer(ident: Ident, result: Message) -> Message:
    """The answer to a request that went well."""
    return {"jsonrpc": "2.0", "id": ident, "result": result}


def error(ident: Any, code: int, text: str, data: Any = None) -> Message:
    """The answer to a request that is refused; `ident` is None where it could not be read."""
    said: Message = {"code": code, "message": text}
    if data is not None:
        said["data"] = data
    return {"jsonrpc": "2.0", "id": ident, "error": said}


def result(call: Call, text: str, data: Message | None, images: list[Image], *, failed: bool) -> Message:
    """The answer to a call: what the tool says, also that it failed, which the model is to see."""
    content: list[Message] = [{"type": "text", "text": text}]
    content += [{"type": "image", "data": base64.b64encode(i.data).decode(), "mimeType": i.media_type} for i in images]
    said: Message = {"content": content, "isError": failed}
    if data is not None:
        said["structuredContent"] = data
    if call.modern:
        said["resultType"] = "complete"
    return answer(call.ident, said)


def given(call: Call, content: list[Message], data: Message | None, *, failed: bool) -> Message:
    """The answer to a call whose content is in the protocol's form already."""
    said: Message = {"content": content, "isError": failed}
    if data is not None:
        said["structuredContent"] = data
    if call.modern:
        said["resultType"] = "complete"
    return answer(call.ident, said)


def progress(call: Call, done: float, text: str) -> Message:
    """News of a call that goes on; `done` only ever grows. Only for one with a token."""
    return {
        "jsonrpc": "2.0",
        "method": "notifications/progress",
        "params": {"progressToken": call.token, "progress": done, "message": text},
    }
