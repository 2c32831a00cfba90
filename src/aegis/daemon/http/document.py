"""The OpenAPI document: made from the table of routes, the same for every daemon of a version."""

from __future__ import annotations

import asyncio
import functools
import re
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.responses import Response

from aegis.core.version import __version__
from aegis.daemon.http.table import JSON, NDJSON, NO, YES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request

    from aegis.daemon.http.table import Parameter, Row

_REF: Final = "#/components/schemas/{name}"
_ERRORS: Final = {
    400: "The request itself is wrong.",
    401: "Over TCP: no bearer token, or not the right one.",
    403: "The gate said no, or the request is that of a web page.",
    404: "There is nothing of that name.",
    409: "The thing is in a state that does not allow it.",
    413: "The request is over a size limit.",
    415: "The body is not of the media type that it has to be.",
    422: "The work was done and failed.",
    426: "The path speaks WebSocket only.",
    429: "A limit is reached: of money, of a number, of a provider.",
    502: "Something outside does not answer: a provider, a server of tools.",
    503: "This machine cannot do it, or the daemon is ending.",
    504: "It took longer than allowed.",
}
#: The nouns of the API, in the order in which people read of them.
TAGS: Final = {
    "messages": "Frames in and out of an instance, and what was said.",
    "events": "The log: everything that happened, by cursor.",
    "instances": "Live agents and programs in their sandboxes.",
    "sessions": "The conversations of an instance.",
    "approvals": "What agents ask leave for.",
    "attention": "What a person is told of.",
    "budgets": "What may be spent, and what was.",
    "workspaces": "What agents left in a workspace for other programs to act on.",
    "secrets": "Values that go in and never come out.",
    "policies": "The rules of who may do what, and what they would say.",
    "audit": "The record of what was allowed and done.",
    "tools": "What agents can call outside of their sandboxes, and the MCP servers behind it.",
    "egress": "The way out of sandboxes.",
    "configuration": "What is declared, and the trust in it.",
    "daemon": "The daemon and its home.",
}
_ABOUT: Final = (
    "The HTTP API of the Aegis daemon: on the unix socket `aegisd.sock` in its home, where the kernel says who asks, and over TCP with "
    "`aegis serve --listen`, where the bearer token in the file `token` does. Times are wall time in seconds since the epoch. An error is "
    "one object in every case. A POST, PUT, PATCH or DELETE refuses query parameters that it does not know; a GET reads past them. A "
    "number out of its bounds counts as the nearest that is inside. Later versions add keys to answers and never take one away."
)


async def show(_request: Request) -> Response:
    """GET /v1/openapi.json"""
    from aegis.daemon.http.app import rows

    return Response(await asyncio.to_thread(text, rows()), media_type=JSON)  # the first takes as long as a hundred requests


def text(rows: Sequence[Row]) -> bytes:
    """The document as JSON, the same bytes for the same rows."""
    return msgspec.json.encode(document(tuple(rows)))


@functools.cache
def document(rows: tuple[Row, ...]) -> dict[str, Any]:
    """The document of these rows."""
    from aegis.core.events import FACTS, Event
    from aegis.daemon.http import shapes, wire

    kinds: list[Any] = [row.body for row in rows if row.body] + [row.answer for row in rows if row.answer not in (None, dict)]
    facts = [FACTS[kind] for kind in sorted(FACTS)]
    extra = [shapes.Error, Event, wire.Asked, wire.Answered, *facts]
    schemas, components = msgspec.json.schema_components([*kinds, *extra], ref_template=_REF)
    named = dict(zip((_key(kind) for kind in [*kinds, *extra]), schemas, strict=True))
    named[_key(dict)] = {"type": "object"}
    components = {name: _plain(components[name]) for name in sorted(components)}
    components["Event"]["properties"]["data"] = {"anyOf": [named[_key(fact)] for fact in facts]}
    paths: dict[str, dict[str, Any]] = {}
    for row in rows:
        paths.setdefault(row.public_path, {})[row.method.lower()] = _operation(row, named)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Aegis", "version": __version__, "description": _ABOUT, "license": {"name": "MIT", "identifier": "MIT"}},
        "servers": [{"url": "/", "description": "the daemon that gave this document"}],
        "security": [{"bearer": []}],
        "tags": [{"name": name, "description": about} for name, about in TAGS.items()],
        "paths": {path: paths[path] for path in sorted(paths)},
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "description": "The content of `token` in the home."}},
            "schemas": components,
        },
        "x-aegis-events": {kind: named[_key(FACTS[kind])] for kind in sorted(FACTS)},
        "x-aegis-websocket": {"sent": named[_key(wire.Asked)], "received": named[_key(wire.Answered)]},
    }


def statuses(row: Row) -> list[int]:
    """The statuses that an operation may refuse with."""
    found = {400, 401, 403, 503, *row.errors}
    if "{" in row.path:
        found.add(404)
    if row.mutates:
        found.add(415)
    if row.body or row.raw:
        found.add(413)
    return sorted(found)


def parameters(row: Row) -> list[tuple[str, Parameter]]:
    """Every parameter of an operation, with where it stands: those of the path first."""
    from aegis.daemon.http.rows import PLACES
    from aegis.daemon.http.table import text as words

    told = {place.name: place for place in row.places}
    names = re.findall(r"\{(\w+)\}", row.public_path)
    return [("path", told.get(name) or words(name, PLACES[name])) for name in names] + [("query", given) for given in row.query]


def _operation(row: Row, named: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"operationId": row.name, "summary": row.summary, "tags": [row.tag]}
    if given := [_parameter(place, parameter) for place, parameter in parameters(row)]:
        found["parameters"] = given
    if row.body:
        content: dict[str, Any] = {JSON: {"schema": named[_key(row.body)]}}
        for media in row.takes:
            told = "lines of JSON, each of which is one `x-item`"
            content[media] = {"schema": {"type": "string", "description": told}, "x-item": named[_key(row.body)].get("items")}
        found["requestBody"] = {"required": _required(row.body), "content": content}
    elif row.raw:
        found["requestBody"] = {"required": True, "content": {row.raw: {"schema": {"type": "string", "format": "binary"}}}}
    answer: dict[str, Any] = {"description": "Done."}
    if row.answer is not None:
        schema = named[_key(row.answer)]
        content = {JSON: {"schema": schema}} if row.pages else {}
        for media in row.streams:
            item = {"$ref": "#/components/schemas/Event"} if row.pages else schema
            form = "lines, each of which is one" if media == NDJSON else "server-sent events, the data of each of which is one"
            content[media] = {"schema": {"type": "string", "description": f"{form} `x-item`"}, "x-item": item}
        answer["content"] = content
    success = {row.status: answer, **{status: {**answer, "description": f"Done: {why}."} for status, why in row.also.items()}}
    if row.socket is not None:
        success = {101: {"description": "WebSocket from here on: `x-aegis-websocket` has the frames. Said to an upgrade only."}}
    refused = {"content": {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}}
    responses = {**success, **{status: {"description": _ERRORS[status], **refused} for status in statuses(row)}}
    found["responses"] = {str(status): responses[status] for status in sorted(responses)}
    return found


def _required(kind: Any) -> bool:
    """Whether a body has to be sent: one that may be empty need not."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return any(field.required for field in msgspec.structs.fields(kind))
    return True


def _parameter(place: str, parameter: Parameter) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    meaning = parameter.meaning
    if parameter.kind == "int":
        schema = {"type": "integer"}
        if parameter.default is not None:
            schema["default"] = parameter.default
        if parameter.high is not None and parameter.high < 2**62:
            meaning += f"; from {parameter.low} to {parameter.high}"
    elif parameter.kind == "flag":
        schema = {"enum": [*YES, *NO]}
    elif parameter.choices:
        schema["enum"] = list(parameter.choices)
    elif parameter.pattern:
        schema["pattern"] = parameter.pattern
    elif place == "path" or parameter.required:
        schema["minLength"] = 1
    return {
        "name": parameter.name,
        "in": place,
        "required": place == "path" or parameter.required,
        "description": meaning,
        "schema": schema,
    }


def _key(kind: Any) -> str:
    return repr(kind)


def _plain(schema: Any) -> Any:
    """A schema without what says nothing: titles that repeat the name, the indentation of docstrings, empty lists."""
    if isinstance(schema, list):
        return [_plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {}
    for key, value in schema.items():
        if key == "title" and isinstance(value, str):
            continue
        if key == "description" and isinstance(value, str):
            found[key] = re.sub(r"\s*\n\s*", " ", re.sub(r"\n\s*\n\s*", "\0", value)).replace("\0", "\n\n")
        elif key == "required" and value == []:
            continue
        else:
            found[key] = _plain(value)
    return found
