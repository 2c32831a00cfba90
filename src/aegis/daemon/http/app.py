"""The table of routes, and the state they share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from aegis.core.errors import AegisError, ErrorKind
from aegis.daemon.http import approvals, declare, egress, home, instances, sessions, tether
from aegis.daemon.http.answers import error_response, on_error
from aegis.daemon.http.door import Door

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp

    from aegis.daemon.wiring import House

_INSTANCE = "/v1/instances/{name}"
_SESSION = f"{_INSTANCE}/sessions/{{session:path}}"  # an id may hold slashes


def routes() -> list[Route]:
    """Every route. Each is tried in turn, so those that are asked most stand first."""
    return [
        Route(f"{_INSTANCE}/tether", tether.ingress, methods=["POST"]),
        Route(f"{_INSTANCE}/tether/poll", tether.poll, methods=["GET"]),
        Route("/v1/status", home.status, methods=["GET"]),
        Route("/v1/shutdown", home.shutdown, methods=["POST"]),
        Route("/v1/doctor", home.doctor, methods=["GET"]),
        Route("/v1/backup", home.backup, methods=["POST"]),
        Route("/v1/events", home.events, methods=["GET"]),
        Route("/v1/audit", home.audit, methods=["GET"]),
        Route("/v1/egress", egress.index, methods=["GET"]),
        Route("/v1/egress/check", egress.check, methods=["GET"]),
        Route("/v1/secrets", home.list_secrets, methods=["GET"]),
        Route("/v1/secrets/{name}", home.set_secret, methods=["PUT"]),
        Route("/v1/secrets/{name}", home.delete_secret, methods=["DELETE"]),
        Route("/v1/agents", home.list_agents, methods=["GET"]),
        Route("/v1/agents/{name}", home.show_agent, methods=["GET"]),
        Route("/v1/config", home.show_config, methods=["GET"]),
        Route("/v1/config/explain", home.explain_config, methods=["GET"]),
        Route("/v1/config/trust", home.trust_state, methods=["GET"]),
        Route("/v1/config/trust", home.trust, methods=["POST"]),
        Route("/v1/config/agents", declare.add, methods=["POST"]),
        Route("/v1/config/agents/{name}", declare.change, methods=["PATCH"]),
        Route("/v1/config/agents/{name}", declare.remove, methods=["DELETE"]),
        Route("/v1/instances", instances.index, methods=["GET"]),
        Route("/v1/instances", instances.create, methods=["POST"]),
        Route(_INSTANCE, instances.show, methods=["GET"]),
        Route(_INSTANCE, instances.delete, methods=["DELETE"]),
        Route("/v1/approvals", approvals.index, methods=["GET"]),
        Route("/v1/approvals/{id}", approvals.show, methods=["GET"]),
        Route("/v1/approvals/{id}", approvals.decide, methods=["POST"]),
        Route(f"{_INSTANCE}/stats", instances.stats, methods=["GET"]),
        Route(f"{_INSTANCE}/usage", sessions.usage, methods=["GET"]),
        Route(f"{_SESSION}/settings", sessions.configure, methods=["POST"]),
        Route(f"{_SESSION}/fork", sessions.fork, methods=["POST"]),
        Route(f"{_INSTANCE}/logs", instances.logs, methods=["GET"]),
        Route(f"{_INSTANCE}/exec", instances.execute, methods=["POST"]),
        Route(f"{_INSTANCE}/exec/{{exec_id}}/stdin", instances.stdin, methods=["POST"]),
        Route(f"{_INSTANCE}/tether/stream", tether.stream, methods=["GET"]),
        Route(f"{_INSTANCE}/transcript", tether.transcript, methods=["GET"]),
        Route(f"{_INSTANCE}/mail", tether.mail, methods=["GET"]),
        Route(f"{_INSTANCE}/{{action}}", instances.act, methods=["POST"]),
    ]


def make_app(house: House, token: str | None = None, listens: Collection[str] = ()) -> ASGIApp:
    """The whole application behind its door. `token` and `listens` are for TCP."""
    app = Starlette(
        routes=routes(),
        exception_handlers={AegisError: on_error, ClientDisconnect: on_error, Exception: on_error, HTTPException: _no_route},
    )
    app.state.house = house
    return Door(app, token, listens)


async def _no_route(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    kind, what = (ErrorKind.USAGE, "does not take") if status == 405 else (ErrorKind.NOT_FOUND, "has no route for")
    answer = error_response(
        AegisError(kind, f"this daemon {what} {request.method} {request.url.path}", "the routes are in docs/messages.md")
    )
    answer.status_code = status
    return answer
