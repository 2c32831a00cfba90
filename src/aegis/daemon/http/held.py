"""Routes of what was taken out of workspaces."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from aegis.daemon.http.answers import json_response, query_int, read_json
from aegis.daemon.http.instances import house, principal
from aegis.services.guarding import Held

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


class HeldText(Held, frozen=True, kw_only=True):
    """One with its content and its difference to what was there before; each character that is not seen is written out as `\\u{...}`.

    `changed` says that it is not what was held any more: a program had it open.
    """

    text: str = ""
    diff: str = ""
    changed: bool = False


class HeldVerdict(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /v1/held/{id}: put it back where it was, or remove it for good."""

    release: bool


class LookRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /v1/held: of which instance the workspace is looked at."""

    instance: str


async def index(request: Request) -> Response:
    """GET /v1/held?state&instance&limit: what is held, unless `state` is another one or `all`."""
    parts, query = house(request), request.query_params
    name, state = query.get("instance"), query.get("state") or "held"
    found = parts.guarding.list(
        instance=parts.registry.get(name).id if name else None,
        state=None if state == "all" else state,
        limit=query_int(request, "limit", 100, 1, 1000),
    )
    return json_response(found)


async def show(request: Request) -> Response:
    """GET /v1/held/{id}"""
    parts = house(request)
    held = parts.guarding.get(request.path_params["id"])
    return json_response(HeldText(**msgspec.structs.asdict(held), **await parts.guarding.text(held)))


async def decide(request: Request) -> Response:
    """POST /v1/held/{id}"""
    body, parts = await read_json(request, HeldVerdict), house(request)
    act = parts.guarding.release if body.release else parts.guarding.drop
    return json_response(await act(principal(request), request.path_params["id"]))


async def look(request: Request) -> Response:
    """POST /v1/held: looks now; what is held of that instance."""
    body, parts = await read_json(request, LookRequest), house(request)
    instance = parts.registry.get(body.instance)
    await parts.agents.look_after(instance)
    return json_response(parts.guarding.list(instance=instance.id))
