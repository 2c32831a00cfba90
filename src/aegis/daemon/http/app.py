"""The table of routes, and the state they share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match, Route, compile_path

from aegis.core.errors import AegisError, ErrorKind
from aegis.daemon.http import mcp
from aegis.daemon.http.answers import error_response, on_error
from aegis.daemon.http.door import Door
from aegis.daemon.http.rows import ROWS

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp, Receive, Scope, Send

    from aegis.daemon.http.table import Row
    from aegis.daemon.wiring import House

_WHERE = "the routes are in docs/http-api.md, and `GET /v1/openapi.json` tells them to programs"


def rows() -> tuple[Row, ...]:
    """Every operation of the HTTP API that the OpenAPI document describes."""
    return ROWS


def routes() -> list[BaseRoute]:
    """Every route: those of the table, and what is no part of the described API. Each is tried in turn."""
    described = [route for row in rows() for route in row.routes()]
    return [
        *_closed(rows()),
        *described[:2],
        Route("/mcp", mcp.serve, methods=["POST", "DELETE"]),
        *described[2:],
    ]


def _closed(table: Sequence[Row]) -> list[Route]:
    """What a path does not take although another, with a parameter in its place, would: `GET /v1/mail/batch` asks for no message."""
    found = []
    for path in {row.path: row for row in table if "{" not in row.path}:
        own = {row.method for row in table if row.path == path}
        others = (row for row in table if "{" in row.path and compile_path(row.path)[0].fullmatch(path))
        if methods := {row.method for row in others} - own:
            found.append(Route(path, _refuse, methods=sorted(methods)))
    return found


async def _refuse(_request: Request) -> Response:
    raise HTTPException(405)


def make_app(house: House, token: str | None = None, listens: Collection[str] = ()) -> ASGIApp:
    """The whole application behind its door. `token` and `listens` are for TCP."""
    app = Starlette(
        routes=routes(),
        exception_handlers={AegisError: on_error, ClientDisconnect: on_error, Exception: on_error, HTTPException: _no_route},
    )
    app.router.default = _nowhere
    app.state.house = house
    return Door(app, token, listens)


async def _nowhere(scope: Scope, receive: Receive, send: Send) -> None:
    """What a path without a route is told, by HTTP or before the upgrade to a WebSocket."""
    what = f"this daemon has no route for {scope.get('method', 'WebSocket')} {scope['path'][:200]}"
    await error_response(AegisError(ErrorKind.NOT_FOUND, what, _WHERE))(scope, receive, send)


async def _no_route(request: Request, error: Exception) -> Response:
    """What Starlette refuses by itself: a method that the path does not take."""
    status = getattr(error, "status_code", 404)
    kind, what = (ErrorKind.USAGE, "does not take") if status == 405 else (ErrorKind.NOT_FOUND, "has no route for")
    answer = error_response(AegisError(kind, f"this daemon {what} {request.method} {request.url.path[:200]}", _WHERE))
    answer.status_code = status
    if status == 405:
        answer.headers["allow"] = ", ".join(sorted(_methods(request)))
    return answer


def _methods(request: Request) -> set[str]:
    """Every method that the path of a request takes."""
    routes = [route for route in request.app.router.routes if isinstance(route, Route) and route.endpoint is not _refuse]
    exact = [route for route in routes if route.path == request.scope["path"]]
    found = exact or [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return {method for route in found for method in route.methods or ()}
