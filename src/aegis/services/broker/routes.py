"""Where a request goes: its session, its dialect, what it asks for, and the path at the provider.

A base URL may carry a session: `/s/KEY/v1/messages`, KEY being the session's key in unpadded URL-safe base64. Everything under
it is as at a provider, so any program that lets its base URL be set tells its session without knowing of one.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import parse_qsl, quote, unquote, urlencode

import msgspec

from aegis.core.text import one_line
from aegis.services.broker.refusals import NO_RETRY, Refusal

if TYPE_CHECKING:
    from aegis.models import Dialect
    from aegis.services.broker.connection import Request

#: What is asked for. `count` answers with the number of tokens of a prompt and is no turn of the model's.
Kind = Literal["alive", "models", "generate", "stream", "count"]

#: Paths that name a dialect by themselves -> the dialect, what is asked for, and the path at the provider.
_POST: Final[dict[str, tuple[Dialect, Kind, str]]] = {
    "/v1/messages": ("anthropic", "generate", "/v1/messages"),
    "/v1/messages/count_tokens": ("anthropic", "count", "/v1/messages/count_tokens"),
    "/v1/chat/completions": ("openai", "generate", "/chat/completions"),
    "/chat/completions": ("openai", "generate", "/chat/completions"),
    "/v1/responses": ("responses", "generate", "/responses"),
    "/responses": ("responses", "generate", "/responses"),
}
_GEMINI: Final = re.compile(r"/(v1|v1beta|v1alpha)/models/([^:?#]+):([A-Za-z]+)")
_GEMINI_METHODS: Final[dict[str, Kind]] = {"generateContent": "generate", "streamGenerateContent": "stream", "countTokens": "count"}
_GEMINI_LIST: Final = re.compile(r"/(?:v1beta|v1alpha)/models(?:/(.+))?")
_LIST: Final = re.compile(r"(?:/v1)?/models(?:/(.+))?")
_SESSION: Final = re.compile(r"/s(?:/([^/]*))?(/.*)?")
_LONGEST_SESSION: Final = 300


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One request understood. `model` is the one that the path names; the other dialects name it in the body."""

    dialect: Dialect
    kind: Kind
    session: str | None
    #: At the provider, below its base URL; `{model}` stands for the provider's own name in the dialect that has it in the path.
    path: str = ""
    model: str | None = None
    query: str = ""  # what of the query goes to the provider

    @property
    def name(self) -> str:
        """What calls of the same kind share, as recordings write it."""
        return f"{self.dialect} {self.path}"

    def upstream(self, model: str) -> str:
        """The path and query for a provider that calls the model `model`."""
        path = self.path.replace("{model}", quote(model, safe="-._~"))
        return f"{path}?{self.query}" if self.query else path


def route(request: Request) -> Route:
    """Understand a request. Raises Refusal, in the dialect it seems to be in, for what is not here."""
    session, path = _session(request)
    if path == "/" and request.method in ("GET", "HEAD"):
        return Route(dialect=guess(request, path), kind="alive", session=session)
    if request.method == "GET" and (found := _GEMINI_LIST.fullmatch(path) or _LIST.fullmatch(path)):
        dialect = "gemini" if _GEMINI_LIST.fullmatch(path) else guess(request, path)
        return Route(dialect=dialect, kind="models", session=session, model=unquote(found[1]) if found[1] else None)
    if request.method == "POST" and path in _POST:
        dialect, kind, upstream = _POST[path]
        query = "beta=true" if dialect == "anthropic" and request.query == "beta=true" else ""
        return Route(dialect=dialect, kind=kind, session=session, path=upstream, query=query)
    if request.method == "POST" and (match := _GEMINI.fullmatch(path)) and match[3] in _GEMINI_METHODS:
        kind = _GEMINI_METHODS[match[3]]
        return Route(
            dialect="gemini",
            kind=kind,
            session=session,
            path=f"/{match[1]}/models/{{model}}:{match[3]}",
            model=unquote(match[2]),
            query=_gemini_query(request.query, kind),
        )
    raise Refusal(404, f"there is no {one_line(request.method, 20)} {one_line(path, 100)} here", headers=(NO_RETRY,))


def guess(request: Request, path: str | None = None) -> Dialect:
    """The dialect of a program that asks for what is not here, or for what several dialects have."""
    path = _session_of(request.path)[1] if path is None else path
    if path.startswith(("/v1beta", "/v1alpha")) or _GEMINI.fullmatch(path) or "x-goog-api-key" in request.headers:
        return "gemini"
    if path.startswith("/v1/messages") or "anthropic-version" in request.headers or "x-api-key" in request.headers:
        return "anthropic"
    return "gemini" if key_of(request.query) is not None else "responses" if path.endswith("/responses") else "openai"


def key_of(query: str) -> str | None:
    """The key that a query carries."""
    return next((value for name, value in parse_qsl(query) if name == "key"), None) if "key=" in query else None


def _session(request: Request) -> tuple[str | None, str]:
    """The session of a request, and the rest of its path."""
    key, path = _session_of(request.path)
    if key is None:
        named = request.headers.get("x-aegis-session")
        if named is not None and not _is_session(named):
            raise Refusal(400, "x-aegis-session names no session", headers=(NO_RETRY,))
        return named, path
    try:
        padded = key.encode("ascii") + b"=" * (-len(key) % 4)
        session = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        session = ""
    if "=" in key or not _is_session(session):
        message = f"/s/{one_line(key, 40)} names no session: after /s/ stands the session's key in URL-safe base64 without padding"
        raise Refusal(404, message, headers=(NO_RETRY,))
    return session, path


def _is_session(name: str) -> bool:
    return 0 < len(name) <= _LONGEST_SESSION and name.isascii() and name.isprintable() and " " not in name


def _session_of(path: str) -> tuple[str | None, str]:
    match = _SESSION.fullmatch(path)
    return (match[1] or "", match[2] or "/") if match else (None, path)


def _gemini_query(query: str, kind: Kind) -> str:
    """What of a query the provider gets: how a stream is framed. Other parameters could carry a key or leave the usage out."""
    if kind == "stream" and dict(parse_qsl(query)).get("alt") == "sse":
        return urlencode({"alt": "sse"})
    return ""
