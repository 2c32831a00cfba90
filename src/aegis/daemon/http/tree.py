"""The route of the tree: who spawned whom."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from aegis.daemon.http.answers import json_response
from aegis.daemon.http.instances import house
from aegis.daemon.http.shapes import Totals

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


class TreeNode(TypedDict):
    """An instance in the tree. `usage` is its own, `total` with that of all below it; `children` counts those right below it.

    `session` is the conversation of the parent in which it was spawned.
    """

    id: str
    handle: str
    parent: str | None
    parent_handle: str | None
    depth: int
    children: int
    session: str | None
    agent: str
    driver: str | None
    model: str | None
    permission: str
    state: str
    activity: str
    activity_until: float | None
    open_approvals: int
    enabled: bool
    reason: str
    created_at: float
    last_active_at: float
    usage: Totals
    total: Totals


async def index(request: Request) -> Response:
    """GET /v1/tree?root: parents before their children."""
    parts, name = house(request), request.query_params.get("root")
    return json_response(await parts.descending.tree(parts.registry.get(name) if name else None))
