"""Routes of the audit record: pages and lines without end, one row, the check of the whole, the export."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, TypedDict

import msgspec

from aegis.core.audit import Head
from aegis.core.errors import AegisError, ErrorKind
from aegis.daemon.http.answers import Streamed, json_response, query_flag, query_int
from aegis.daemon.http.instances import house, principal
from aegis.services.gate.audit import Filter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from aegis.daemon.wiring import House


class AuditRecord(TypedDict):
    """Who asked for what, and what was decided. `policies` are the rules that decided, `digest` is that of the exact call, `cost` in US
    dollars, `prev` the hash of the record before, `handle` that of the instance that acted, where there is one now."""

    id: int
    ts: float
    principal: str
    handle: str | None
    action: str
    resource: str
    decision: str
    reason: str
    policies: list[str]
    digest: str
    data: Any
    cost: float | None
    prev: str
    hash: str


class AuditLine(TypedDict, total=False):
    """A line of an export: first what it is, then heads, then rows."""

    format: str
    rows: int
    exported_at: float
    public_key: str
    head: Head
    id: int
    ts: float
    principal: str
    action: str
    resource: str
    decision: str
    reason: str
    policies: str
    digest: str
    data: str
    cost: float | None
    prev: str
    hash: str


class AuditPage(TypedDict):
    """Records of the audit log, oldest first."""

    records: list[AuditRecord]


async def index(request: Request) -> Response:
    """GET /v1/audit?after&limit&newest&follow&principal&action&decision&since"""
    parts = house(request)
    after, limit = query_int(request, "after", 0, 0, 2**62), query_int(request, "limit", 100, 1, 1000)
    wanted = _filter(request, parts)
    if not query_flag(request, "follow"):
        rows = await parts.gate.audit.find(after, limit, wanted, newest=query_flag(request, "newest"))
        return json_response({"records": [_named(parts, row) for row in rows]})
    encode = msgspec.json.Encoder().encode_lines

    async def produce(write: Callable[[bytes], Awaitable[None]]) -> None:
        async for rows in parts.gate.audit.follow(after, wanted):
            await write(encode([_named(parts, row) for row in rows]))

    return Streamed(produce)


async def show(request: Request) -> Response:
    """GET /v1/audit/{id}: with what the call cost that it let pass, where that is known."""
    parts = house(request)
    row = _named(parts, parts.gate.audit.get(query_number(request.path_params["id"])))
    if row["cost"] is None and row["action"] == "model.call":
        found = parts.store.read(
            lambda db: db.execute("SELECT sum(cost_usd) FROM model_calls WHERE audit = ?", (row["id"],)).fetchone()  # by its index
        )
        row["cost"] = found[0] if found else None
    return json_response(row)


async def verify(request: Request) -> Response:
    """GET /v1/audit/verify"""
    return json_response(await house(request).gate.audit.verify())


async def export(request: Request) -> Response:
    """GET /v1/audit/export: the record as it is with the row of this request."""
    parts = house(request)
    await parts.gate.pass_through(principal(request), "audit.export", "*")
    pieces = parts.gate.audit.export()
    first = await anext(pieces)

    async def produce(write: Callable[[bytes], Awaitable[None]]) -> None:
        await write(first)
        async for piece in pieces:
            await write(piece)

    return Streamed(produce)


def query_number(text: str) -> int:
    """The number of a row in a path. Raises USAGE."""
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise AegisError(ErrorKind.USAGE, f"{text[:40]!r} is not the number of a record", "`aegis audit list` shows them")
    return int(text)


def _filter(request: Request, parts: House) -> Filter:
    query = request.query_params
    decision = query.get("decision") or None
    if decision not in (None, "allow", "deny", "ask"):
        raise AegisError(ErrorKind.USAGE, f"decision={decision[:40]!r} is none", "write `allow`, `deny` or `ask`")
    return Filter(
        principals=_principals(parts, query.get("principal")),
        actions=tuple(filter(None, query.get("action", "").split(","))),
        decision=decision,
        since=_seconds(query.get("since")),
    )


def _principals(parts: House, wanted: str | None) -> tuple[str, ...]:
    """Who is meant: a principal as the record writes it, a handle or an id of an instance, or else the name of a person."""
    if not wanted:
        return ()
    if ":" in wanted:
        return (wanted,)
    found = parts.registry.find(wanted)
    return (f"instance:{found.id}",) if found is not None else (f"person:{wanted}", f"system:{wanted}", f"instance:{wanted}")


def _seconds(text: str | None) -> float | None:
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise AegisError(ErrorKind.USAGE, f"since={text[:40]!r} is not a time", "give RFC 3339 or seconds") from None


def _named(parts: House, row: dict[str, Any]) -> dict[str, Any]:
    """A row with the handle of the instance that acted, where there is one now."""
    kind, _, ident = row["principal"].partition(":")
    found = parts.registry.find(ident) if kind == "instance" else None
    return row | {"handle": found.handle if found is not None else None}
