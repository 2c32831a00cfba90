"""Routes of secrets. No answer holds a value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypedDict

import msgspec

from aegis.daemon.http.answers import json_response, read_json
from aegis.daemon.http.instances import house, principal

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


class SecretValue(msgspec.Struct, forbid_unknown_fields=True):
    """The body of PUT /v1/secrets/{name}. Without `value` it stays as it is; `hosts` are those that it may be sent to, none for any that a
    rule names; `header` is a header with `{}` for the value, empty for none. What is left out does not change."""

    value: str | None = None
    hosts: list[str] | None = None
    header: str | None = None


class Rollback(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /v1/secrets/{name}/rollback."""

    version: int


class Granted(msgspec.Struct, forbid_unknown_fields=True):
    """Who may use a secret: the agents of one definition, by its name, or those of a project, by its directory."""

    kind: Literal["agent", "project"]
    target: str


class Rotated(TypedDict):
    """There is a new master key; `values` is how many it protects, those of before included."""

    values: int


async def index(request: Request) -> Response:
    """GET /v1/secrets"""
    return json_response(await house(request).secrets.list(principal(request)))


async def show(request: Request) -> Response:
    """GET /v1/secrets/{name}"""
    return json_response(await house(request).secrets.show(principal(request), _name(request)))


async def put(request: Request) -> Response:
    """PUT /v1/secrets/{name}"""
    body = await read_json(request, SecretValue)
    secrets = house(request).secrets
    return json_response(await secrets.set(principal(request), _name(request), body.value, hosts=body.hosts, header=body.header))


async def delete(request: Request) -> Response:
    """DELETE /v1/secrets/{name}"""
    await house(request).secrets.delete(principal(request), _name(request))
    return json_response({"status": "deleted"})


async def versions(request: Request) -> Response:
    """GET /v1/secrets/{name}/versions"""
    return json_response(await house(request).secrets.versions(principal(request), _name(request)))


async def rollback(request: Request) -> Response:
    """POST /v1/secrets/{name}/rollback"""
    body = await read_json(request, Rollback)
    return json_response(await house(request).secrets.rollback(principal(request), _name(request), body.version))


async def grant(request: Request) -> Response:
    """POST /v1/secrets/{name}/grants"""
    body = await read_json(request, Granted)
    return json_response(await house(request).secrets.grant(principal(request), _name(request), body.kind, body.target))


async def revoke(request: Request) -> Response:
    """POST /v1/secrets/{name}/grants/revoke"""
    body = await read_json(request, Granted)
    return json_response(await house(request).secrets.revoke(principal(request), _name(request), body.kind, body.target))


async def rotate_key(request: Request) -> Response:
    """POST /v1/secrets/rotate-key"""
    return json_response({"values": await house(request).secrets.rotate_key(principal(request))})


def _name(request: Request) -> str:
    return str(request.path_params["name"])
