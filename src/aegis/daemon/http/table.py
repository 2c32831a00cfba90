"""The form of the table of routes: what an operation takes, what it gives back, what it may refuse with.

One row is everything that is known of an operation. The routes, the checks before a handler runs and the OpenAPI document (`openapi`)
are made of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from starlette.routing import BaseRoute, Route, WebSocketRoute

from aegis.core.errors import AegisError, ErrorKind
from aegis.daemon.http.answers import error_response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.websockets import WebSocket

JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"
SSE: Final = "text/event-stream"
BYTES: Final = "application/octet-stream"

#: The largest number that a cursor can be.
CURSOR: Final = 2**62
#: How a query says yes and no.
YES: Final = ("1", "true", "yes")
NO: Final = ("0", "false", "no")


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter of a path or a query.

    An `int` outside of `low`..`high` counts as the nearest that is inside; a `flag` is one of `YES` and `NO`.
    """

    name: str
    meaning: str
    kind: Literal["text", "int", "flag"] = "text"
    required: bool = False
    low: int | None = None
    high: int | None = None
    default: int | None = None
    choices: tuple[str, ...] = ()
    pattern: str = ""


def text(name: str, meaning: str, *, required: bool = False, choices: tuple[str, ...] = (), pattern: str = "") -> Parameter:
    """A text of a path or a query. `pattern` tells programs what the handler takes; it is the handler that checks."""
    return Parameter(name=name, meaning=meaning, required=required, choices=choices, pattern=pattern)


def integer(name: str, meaning: str, default: int | None = None, low: int = 0, high: int = CURSOR) -> Parameter:
    """A whole number of a query."""
    return Parameter(name=name, meaning=meaning, kind="int", low=low, high=high, default=default)


def flag(name: str, meaning: str) -> Parameter:
    """A yes or no of a query; no unless said."""
    return Parameter(name=name, meaning=meaning, kind="flag")


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """One operation.

    Args:
        method: the HTTP method. Only GET changes nothing.
        path: as Starlette writes it, with `{name}` for parameters and `{name:path}` for those that may hold slashes.
        handler: what answers.
        name: the name of the operation for programs, unique.
        summary: what it does, in one line for people.
        tag: the noun it belongs to.
        places: the parameters of the path that the table of common ones (`rows.PLACES`) does not describe.
        query: the parameters of the query.
        body: the type of its JSON body; None when it takes none.
        raw: the media type of a body that is not JSON.
        takes: further media types that its body may have.
        answer: the type of its JSON answer, or of one line of what it streams.
        status: the status of success.
        also: further statuses of success with the same answer, and what they mean.
        streams: the media types of an answer that comes piece by piece, in addition to JSON with `pages`, else instead of it.
        pages: whether JSON is one of its answers.
        errors: the statuses it may refuse with, besides those that follow from the rest of the row.
        socket: what answers at the same path when it is asked for a WebSocket.
    """

    method: str
    path: str
    handler: Callable[[Request], Awaitable[Response]]
    name: str
    summary: str
    tag: str
    places: tuple[Parameter, ...] = ()
    query: tuple[Parameter, ...] = ()
    body: Any = None
    raw: str = ""
    takes: tuple[str, ...] = ()
    answer: Any = None
    status: int = 200
    also: Mapping[int, str] = field(default_factory=dict)
    streams: tuple[str, ...] = ()
    pages: bool = True
    errors: tuple[int, ...] = ()
    socket: Callable[[WebSocket], Awaitable[None]] | None = None

    @property
    def mutates(self) -> bool:
        """Whether it may change anything."""
        return self.method != "GET"

    @property
    def public_path(self) -> str:
        """The path as documents write it."""
        return self.path.replace(":path}", "}")

    def routes(self) -> list[BaseRoute]:
        """What Starlette needs to serve it."""
        found: list[BaseRoute] = [
            Route(path, endpoint, methods=[self.method], name=self.name) for path, endpoint in self._endpoints(self.path, {})
        ]
        if self.socket is not None:
            found.append(WebSocketRoute(self.path, self.socket, name=f"{self.name}.socket"))
        return found

    def _endpoints(self, path: str, chosen: dict[str, str]) -> Iterator[tuple[str, Callable[[Request], Awaitable[Response]]]]:
        """The path, with one of its own for each choice of a word: another word is then no route, and takes none from others."""
        for place in self.places:
            if place.choices and f"{{{place.name}}}" in path:
                for word in place.choices:
                    yield from self._endpoints(path.replace(f"{{{place.name}}}", word), {**chosen, place.name: word})
                return

        async def serve(request: Request) -> Response:
            request.path_params.update(chosen)
            return await self.serve(request)

        yield path, serve if chosen else self.serve

    async def serve(self, request: Request) -> Response:
        """Refuse what the row does not allow, then let the handler answer."""
        if self.mutates:
            self._check_query(request)
            if refused := self._check_media(request):
                return refused
        return await self.handler(request)

    def _check_query(self, request: Request) -> None:
        """A mutation does not guess what an unknown word was to mean; a read does without it."""
        if not request.scope["query_string"]:
            return
        known = {parameter.name for parameter in self.query}
        if unknown := sorted(set(request.query_params) - known):
            raise AegisError(
                ErrorKind.USAGE,
                f"{self.method} {request.url.path[:200]} takes no query parameter {unknown[0][:40]!r}",
                "it takes " + ", ".join(f"`{name}`" for name in sorted(known)) if known else "put it into the body",
            )

    def _check_media(self, request: Request) -> Response | None:
        """What a form of a web page can send is refused, whoever sends it: JSON has to be called JSON, and bytes bytes."""
        told = request.headers.get("content-type")
        if told is None:
            return None
        given, wanted = told.partition(";")[0].strip().lower(), self.raw or JSON
        if given == wanted or given in self.takes:
            return None
        error = AegisError(
            ErrorKind.USAGE, f"the request's Content-Type is {told[:80]!r}, not {wanted}", f"send `-H 'Content-Type: {wanted}'`"
        )
        answer = error_response(error)
        answer.status_code = 415
        return answer
