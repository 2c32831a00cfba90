"""What came in at the model server, and what may go wrong with it."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import h11

from aegis.core.errors import AegisError
from aegis.models import Dialect
from aegis.models.scripted.provider import aside
from aegis.models.scripted.reading import read

_SESSION: Final = re.compile(r"/s/([A-Za-z0-9_-]+)(?=/)")
_GEMINI: Final = re.compile(r"/models/([^/:]+):(generateContent|streamGenerateContent|countTokens)$")
_ENDS: Final[tuple[tuple[str, Dialect], ...]] = (
    ("/messages", "anthropic"),
    ("/messages/count_tokens", "anthropic"),
    ("/chat/completions", "openai"),
    ("/responses", "responses"),
)


@dataclass
class Request:
    """A request as it came in, and what became of it. Times are of the monotonic clock."""

    method: str
    path: str  # without its query and without the `/s/KEY` of a session
    query: str
    headers: dict[str, str]  # names in lower case
    body: Any  # parsed; None where it is not JSON
    session: str | None  # KEY of `/s/KEY`
    dialect: Dialect | None = None  # None: not a call of a model
    model: str = ""
    side: bool = False  # a title, a count, a shape: not the work itself
    tools: list[str] = field(default_factory=list)
    status: int = 0
    started: float = 0.0
    first: float | None = None  # the first byte of the answer's body was sent
    ended: float | None = None
    disconnected: bool = False  # the client went away before the answer was complete


@dataclass
class Fault:
    """Something that goes wrong with the next calls. See `ModelServer.fault`."""

    times: int
    status: int | None
    headers: dict[str, str]
    body: bytes | None
    cut_after: int | None
    content_type: str | None
    hang: bool
    when: Callable[[Request], bool]


def understood(head: h11.Request, body: bytes) -> Request:
    """A request with what can be told of it before it is answered."""
    target, _, query = head.target.decode("latin-1").partition("?")
    session = _SESSION.match(target)
    path = target[session.end() :] if session else target
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
    request = Request(head.method.decode(), path, query, headers, None, session[1] if session else None)
    text = plain(request, body)
    with contextlib.suppress(ValueError, RecursionError):
        request.body = json.loads(text)
    gemini = _GEMINI.search(path)
    if request.method == "POST":
        request.dialect = "gemini" if gemini else next((dialect for end, dialect in _ENDS if path.endswith(end)), None)
    if request.dialect is not None:
        request.model = gemini[1] if gemini else str(request.body.get("model", "")) if isinstance(request.body, dict) else ""
        with contextlib.suppress(AegisError):
            conversation = read(request.dialect, text, path)
            request.tools = list(conversation.tools)
            request.side = bool(aside(conversation))
        request.side = request.side or path.endswith(("/count_tokens", ":countTokens"))
    return request


def plain(request: Request, body: bytes) -> bytes:
    """The body as it was before the program compressed it."""
    return gzip.decompress(body) if request.headers.get("content-encoding") == "gzip" else body
