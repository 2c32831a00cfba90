"""Routes of sessions: what they run with, copies of them, what they used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from aegis.core.envelopes import session_key
from aegis.core.errors import AegisError, ErrorKind
from aegis.daemon.http.answers import json_response, read_json
from aegis.daemon.http.instances import house, instance, principal

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST .../settings: what is to change."""

    model: str | None = None
    mode: str | None = None
    effort: str | None = None


class Fork(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST .../fork: the session that is to begin as a copy."""

    to: str


async def configure(request: Request) -> Response:
    """POST /v1/instances/{name}/sessions/{session}/settings: counts from the next model call on."""
    body, found = await read_json(request, Settings), instance(request)
    if body == Settings():
        raise AegisError(ErrorKind.USAGE, "nothing is to be changed", "give `model`, `mode` or `effort`")
    session = _key(request.path_params["session"])
    agents = house(request).agents
    await agents.configure(principal(request), found, session, model=body.model, mode=body.mode, effort=body.effort)
    return json_response(agents.describe(found))


async def fork(request: Request) -> Response:
    """POST /v1/instances/{name}/sessions/{session}/fork: 201; the copy knows all that was said, and both go on apart."""
    body, found = await read_json(request, Fork), instance(request)
    session, to = _key(request.path_params["session"]), _key(body.to)
    agents = house(request).agents
    await agents.fork(principal(request), found, session, to)
    return json_response(agents.describe(found), 201)


async def usage(request: Request) -> Response:
    """GET /v1/instances/{name}/usage?session&turn"""
    query = request.query_params
    session = _key(query["session"]) if query.get("session") else None
    return json_response(await house(request).agents.usage(instance(request), session, query.get("turn") or None))


def _key(text: str) -> str:
    """A session's key as somebody wrote it; USAGE for one that cannot be."""
    channel, _, ident = text.partition(":")
    return session_key(channel, ident)
