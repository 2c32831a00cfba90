"""Routes that change what is declared: an agent more, another value, an agent less."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from aegis.core.errors import AegisError, ErrorKind
from aegis.daemon.http.answers import json_response, read_json
from aegis.daemon.http.instances import house, principal

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


class AddRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /v1/config/agents: `values` by the keys of an agent, in a project's directory or, without one, in the home."""

    name: str
    values: dict[str, Any] = {}
    project: str | None = None
    hash: str | None = None  # of the files that the change is meant for


class ChangeRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of PATCH /v1/config/agents/{name}; null takes a key away."""

    values: dict[str, Any]
    project: str | None = None
    hash: str | None = None


async def add(request: Request) -> Response:
    """POST /v1/config/agents"""
    wanted = await read_json(request, AddRequest)
    return await _edit(request, wanted.name, wanted.values, wanted.project, wanted.hash, new=True)


async def change(request: Request) -> Response:
    """PATCH /v1/config/agents/{name}"""
    wanted = await read_json(request, ChangeRequest)
    return await _edit(request, request.path_params["name"], wanted.values, wanted.project, wanted.hash, new=False)


async def remove(request: Request) -> Response:
    """DELETE /v1/config/agents/{name}?project&hash"""
    query = request.query_params
    return await _edit(request, request.path_params["name"], None, query.get("project"), query.get("hash"), new=False)


async def _edit(
    request: Request, name: str, values: dict[str, Any] | None, project: str | None, expect: str | None, *, new: bool
) -> Response:
    place = Path(project) if project else None
    if place is not None and not place.is_absolute():
        raise AegisError(ErrorKind.USAGE, f"the project {project!r} is not an absolute path", "give the whole path")
    parts = house(request)
    keys = sorted(values) if values is not None else []
    await parts.gate.pass_through(principal(request), "config.edit", name, project=project, keys=keys, remove=values is None)
    edited = await parts.config.edit(place, name, values, new=new, expect=expect)
    return json_response(edited, 201 if new else 200)
