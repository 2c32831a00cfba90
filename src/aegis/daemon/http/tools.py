"""Routes of tools: what there is, calls by a person, servers, and what a person accepts of them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.responses import Response

from aegis.core.errors import AegisError, ErrorKind, unknown_name
from aegis.core.events import ToolKind
from aegis.core.principals import Principal, PrincipalKind
from aegis.daemon.http.answers import json_response, read_json
from aegis.daemon.http.instances import house, principal
from aegis.services.tools import ToolCaller

if TYPE_CHECKING:
    from starlette.requests import Request

    from aegis.daemon.wiring import House
    from aegis.services.tools.registry import Listing, Offered


class ToolInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A tool: its id, what it is called over MCP, the JSON schema of its arguments."""

    id: str
    called: str
    server: str
    description: str
    schema: dict[str, Any]
    kind: ToolKind
    changes: bool


class ToolPage(msgspec.Struct, frozen=True, kw_only=True):
    """Tools by their sources; `notes` say by the name of a server why it has none to show."""

    tools: list[ToolInfo]
    notes: dict[str, str]


class CallRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The body of POST /v1/tools/call. With `instance` it is called where that instance's calls are; else for a person of `project`."""

    tool: str
    arguments: dict[str, Any] = {}
    instance: str | None = None
    project: str | None = None


class PinRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The body of POST /v1/tools/pins: accept what a server offers now, if it has this digest."""

    server: str
    digest: str
    project: str | None = None


class TrustServer(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The body of POST /v1/tools/trust: accept a server of the project's `.mcp.json` with exactly this declaration."""

    project: str
    server: str
    hash: str


async def index(request: Request) -> Response:
    """GET /v1/tools?project&instance&agent: what there is, or what an instance, or one of an agent, would be offered."""
    found = await _listing(request)
    return json_response(ToolPage(tools=[_info(each) for each in found.tools], notes=found.notes))


async def show(request: Request) -> Response:
    """GET /v1/tools/{name}: one tool, by its id or what it is called over MCP."""
    name = request.path_params["name"]
    found = await _listing(request)
    known = {each.id: each for each in found.tools} | {each.called: each for each in found.tools}
    if name not in known:
        raise unknown_name("tool", name, [each.id for each in found.tools], "see `aegis tools list`")
    return json_response(_info(known[name]))


async def call(request: Request) -> Response:
    """POST /v1/tools/call: call it as the person; when the client goes away, it ends."""
    parts, wanted = house(request), await read_json(request, CallRequest)
    instance = parts.registry.get(wanted.instance) if wanted.instance else None
    caller = ToolCaller(principal=principal(request), instance=instance, project=_project(parts, wanted.project))
    work = asyncio.ensure_future(parts.tools.call(caller, wanted.tool, wanted.arguments))
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        if not work.done():
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
    if work.cancelled():
        return Response(status_code=499)
    return json_response(work.result())


async def servers(request: Request) -> Response:
    """GET /v1/tools/servers?project: the declared servers, and how each is."""
    parts = house(request)
    return json_response(await parts.tools.info(_project(parts, request.query_params.get("project"))))


async def change(request: Request) -> Response:
    """GET /v1/tools/pins?server&project: how what a server offers now differs from what was accepted."""
    parts, query = house(request), request.query_params
    name = query.get("server")
    if not name:
        raise AegisError(ErrorKind.USAGE, "the server is not named", "`?server=NAME`")
    return json_response(await parts.tools.change(_project(parts, query.get("project")), name))


async def pin(request: Request) -> Response:
    """POST /v1/tools/pins: accept it."""
    parts, wanted = house(request), await read_json(request, PinRequest)
    return json_response(await parts.tools.pin(principal(request), _project(parts, wanted.project), wanted.server, wanted.digest))


async def offers(request: Request) -> Response:
    """GET /v1/tools/trust?project: the servers of its `.mcp.json`, what each would do, and the hash to agree to."""
    parts = house(request)
    project = _project(parts, request.query_params.get("project"))
    if project is None:
        raise AegisError(ErrorKind.USAGE, "the project is not named", "`?project=DIRECTORY`, one that holds `.aegis.yaml`")
    return json_response(parts.tools.declared.offers(project))


async def trust(request: Request) -> Response:
    """POST /v1/tools/trust: accept one of them."""
    parts, wanted = house(request), await read_json(request, TrustServer)
    project = _project(parts, wanted.project)
    assert project is not None
    return json_response(await parts.tools.trust(principal(request), project, wanted.server, wanted.hash))


async def _listing(request: Request) -> Listing:
    parts, query = house(request), request.query_params
    if name := query.get("instance"):
        instance = parts.registry.get(name)
        return await parts.tools.offered(ToolCaller(principal=Principal(PrincipalKind.INSTANCE, instance.id), instance=instance))
    project = _project(parts, query.get("project"))
    caller = ToolCaller(principal=principal(request), project=project)
    if agent := query.get("agent"):
        definition = parts.config.agent(agent, Path(project) if project else None)
        caller = msgspec.structs.replace(caller, servers=tuple(definition.tool_servers), families=tuple(definition.tools))
    return await parts.tools.offered(caller)


def _project(parts: House, named: str | None) -> str | None:
    """The project of a directory, as it is really called. Raises NOT_FOUND for a directory of none."""
    if not named:
        return None
    found = parts.config.project_of(Path(named))
    if found is None:
        raise AegisError(ErrorKind.NOT_FOUND, f"{named[:200]} is in no project", "make it one: write a `.aegis.yaml` there")
    return str(found)


def _info(each: Offered) -> ToolInfo:
    given = each.definition
    return ToolInfo(
        id=each.id, called=each.called, server=each.server, description=given.description, schema=given.schema, kind=given.kind,
        changes=given.changes,
    )  # fmt: skip


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
