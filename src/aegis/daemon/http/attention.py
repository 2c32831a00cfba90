"""Routes of attention: what a person was told, and whether he would hear of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict

import msgspec

from aegis.daemon.http.answers import json_response, query_int, read_json
from aegis.daemon.http.instances import house, principal

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

Kind = Literal["needs-you", "stuck", "failed", "limited", "done"]


class NoticeInfo(TypedDict):
    """A notice. `state` is `waiting`, `told`, or `answered` before it had to be told. Times are seconds since the epoch."""

    id: int
    kind: Kind
    instance: str
    handle: str
    session: str | None
    turn: str | None
    cause: str
    text: str
    state: Literal["waiting", "told", "answered"]
    since: float
    told_at: float | None


class ChannelTest(TypedDict):
    """How a channel took a test; one that is not `on` was not tried."""

    on: bool
    ok: bool
    detail: str


class AttentionTest(TypedDict):
    """The channels by their names, the kinds that are told, and until when quiet hours keep everything back."""

    channels: dict[str, ChannelTest]
    on: list[str]
    quiet_until: float | None


class TestRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /v1/attention/test."""

    kind: Kind = "needs-you"


async def index(request: Request) -> Response:
    """GET /v1/attention?limit: the newest notices, oldest first."""
    found: list[dict[str, Any]] = await house(request).attention.newest(query_int(request, "limit", 100, 1, 1000))
    return json_response(found)


async def test(request: Request) -> Response:
    """POST /v1/attention/test: a notice to every channel that is on."""
    wanted = await read_json(request, TestRequest)
    return json_response(await house(request).attention.test(principal(request), wanted.kind))
