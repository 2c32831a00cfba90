"""Routes of the way out: what was asked for, and what would be said."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aegis.core.errors import AegisError, ErrorKind
from aegis.daemon.http.answers import json_response, query_int
from aegis.daemon.http.instances import house

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


async def index(request: Request) -> Response:
    """GET /v1/egress?instance&after&limit: with `after` the oldest above that id, else the newest; oldest first."""
    parts = house(request)
    name = request.query_params.get("instance")
    instance = parts.registry.get(name) if name else None
    found = parts.egress.list(
        instance.id if instance else None, query_int(request, "after", 0, 0, 2**62), query_int(request, "limit", 100, 1, 1000)
    )
    handles = {known.id: known.handle for known in parts.registry.all()}
    connections = [row | {"handle": handles.get(row["instance"])} for row in found]
    warnings = await parts.egress.warnings(instance) if instance else []
    return json_response({"connections": connections, "warnings": warnings})


async def check(request: Request) -> Response:
    """GET /v1/egress/check?instance&place&method: the decision alone; nothing is connected."""
    parts = house(request)
    name, place = request.query_params.get("instance"), request.query_params.get("place")
    if not name or not place:
        raise AegisError(ErrorKind.USAGE, "the check needs an instance and a place", "`?instance=H&place=HOST:PORT`")
    return json_response(await parts.egress.check(parts.registry.get(name), place, request.query_params.get("method") or "GET"))
