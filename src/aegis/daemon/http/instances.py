"""Routes of instances: life, programs, logs."""

from __future__ import annotations

import base64
import contextlib
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from aegis.core.errors import AegisError, ErrorKind
from aegis.daemon.http.answers import Streamed, json_response, query_flag, query_int, read_json
from aegis.daemon.http.door import PRINCIPAL
from aegis.daemon.starting import begin
from aegis.services.agents.launching import StartRequest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from aegis.core.principals import Principal
    from aegis.daemon.wiring import House
    from aegis.sandboxes.link import Program
    from aegis.services.agents import Instance

#: The most of a line that waits for its end, in bytes: a program may never end it.
_LINE: Final = 1024 * 1024


def house(request: Request) -> House:
    """The daemon's parts."""
    found: House = request.app.state.house
    return found


def principal(request: Request) -> Principal:
    """Who asks; the door has proven it."""
    found: Principal = request.scope[PRINCIPAL]
    return found


def instance(request: Request) -> Instance:
    """The instance that the path names."""
    return house(request).registry.get(request.path_params["name"])


async def index(request: Request) -> Response:
    """GET /v1/instances"""
    state = request.query_params.get("state")
    agents = house(request).agents
    return json_response([agents.describe(i) for i in house(request).registry.all() if state is None or i.state == state])


async def create(request: Request) -> Response:
    """POST /v1/instances: a new instance (201), or a stopped one of that handle started again (200)."""
    wanted = await read_json(request, StartRequest)
    parts = house(request)
    begun, created = await begin(parts, principal(request), wanted)
    return json_response(parts.agents.describe(begun), 201 if created else 200)


async def show(request: Request) -> Response:
    """GET /v1/instances/{name}"""
    return json_response(house(request).agents.describe(instance(request)))


async def delete(request: Request) -> Response:
    """DELETE /v1/instances/{name}"""
    gone = await house(request).agents.delete(principal(request), instance(request))
    return json_response({"status": "deleted", "also": [one.handle for one in gone[1:]]})


async def act(request: Request) -> Response:
    """POST /v1/instances/{name}/{start|pause|resume|restart|disable}: the table lets no other word through."""
    found, agents, action = instance(request), house(request).agents, request.path_params["action"]
    verbs = {"start": agents.start, "pause": agents.pause, "resume": agents.resume, "restart": agents.restart, "disable": agents.disable}
    await verbs[action](principal(request), found)
    return json_response(agents.describe(found))


async def stats(request: Request) -> Response:
    """GET /v1/instances/{name}/stats"""
    return json_response(await house(request).agents.stats(instance(request)))


async def logs(request: Request) -> Response:
    """GET /v1/instances/{name}/logs?follow&tail&since"""
    log = house(request).agents.log(instance(request))
    tail = query_int(request, "tail", 0, 0, 1_000_000) if "tail" in request.query_params else None
    since = _timestamp(request.query_params.get("since"))
    follow = query_flag(request, "follow")
    encode = msgspec.json.Encoder()

    async def produce(write: Callable[[bytes], Awaitable[None]]) -> None:
        if not follow:
            await write(encode.encode_lines(log.tail(tail, since)))
            return
        async for record in log.follow(tail, since):
            await write(encode.encode(record) + b"\n")

    return Streamed(produce)


class ExecRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of an exec."""

    command: list[str]
    env: dict[str, str] = {}
    cwd: str | None = None
    stdin: bool = False
    raw: bool = False


async def execute(request: Request) -> Response:
    """POST /v1/instances/{name}/exec: NDJSON; the program ends when the reader goes away."""
    wanted = await read_json(request, ExecRequest)
    found, parts, who = instance(request), house(request), principal(request)
    if not found.enabled:
        raise AegisError(
            ErrorKind.CONFLICT, f"`{found.handle}` is disabled", f"`aegis instance start --name {found.handle}` enables it again"
        )

    async def produce(write: Callable[[bytes], Awaitable[None]]) -> None:
        async with parts.agents.exec(who, found, wanted.command, env=wanted.env, cwd=wanted.cwd, stdin=wanted.stdin) as (exec_id, program):
            if wanted.stdin:
                parts.programs[exec_id] = program
            try:
                await write(msgspec.json.encode({"exec_id": exec_id, "started_at": parts.clock.now()}) + b"\n")
                output = (
                    _raw(program, write)
                    if wanted.raw
                    else _lines(program, write, {"source": "exec", "instance_id": found.id, "exec_id": exec_id}, parts)
                )
                await output
                last: dict[str, Any] = {"exec_id": exec_id, "exit_code": await program.wait(), "done": True}
            except AegisError as error:
                last = {"exec_id": exec_id, "exit_code": None, "done": True, **error.to_dict()}
            finally:
                parts.programs.pop(exec_id, None)
            await write(msgspec.json.encode(last) + b"\n")

    return Streamed(produce)


async def stdin(request: Request) -> Response:
    """POST /v1/instances/{name}/exec/{exec_id}/stdin: the body is the program's standard input, to its end."""
    program = house(request).programs.pop(request.path_params["exec_id"], None)
    if program is None:
        raise AegisError(
            ErrorKind.NOT_FOUND, f"no program {request.path_params['exec_id']!r} waits for input", "start it with `stdin: true`"
        )
    written = 0
    with contextlib.suppress(AegisError):  # the program has ended and does not want the rest
        async for chunk in request.stream():
            await program.write(chunk)
            written += len(chunk)
        await program.close_stdin()
    return json_response({"written": written})


async def _raw(program: Program, write: Callable[[bytes], Awaitable[None]]) -> None:
    while (piece := await program.read()) is not None:
        stream, data = piece
        await write(b'{"s":%d,"d":"%s"}\n' % (stream, base64.b64encode(data)))


async def _lines(program: Program, write: Callable[[bytes], Awaitable[None]], about: dict[str, str], parts: House) -> None:
    """Output by lines, those over `_LINE` in pieces; what is not UTF-8 is shown with replacement characters."""
    pending = {1: bytearray(), 2: bytearray()}
    encoder = msgspec.json.Encoder()

    def records(stream: int, lines: list[bytes]) -> bytes:
        now, name = parts.clock.now(), "stdout" if stream == 1 else "stderr"
        return encoder.encode_lines([{"ts": now, "stream": name, "line": line.decode("utf-8", "replace"), **about} for line in lines])

    while (piece := await program.read()) is not None:
        stream, data = piece
        buffer = pending[stream]
        buffer += data
        end = buffer.rfind(b"\n")
        if end >= 0:
            lines = bytes(buffer[:end]).split(b"\n")
            del buffer[: end + 1]
            await write(records(stream, lines))
        if len(buffer) > _LINE:
            await write(records(stream, [bytes(buffer)]))
            buffer.clear()
    for stream, rest in pending.items():
        if rest:
            await write(records(stream, [bytes(rest)]))


def _timestamp(text: str | None) -> float | None:
    """Seconds, or RFC 3339, as seconds."""
    if not text:
        return None
    with contextlib.suppress(ValueError):
        return float(text)
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise AegisError(
            ErrorKind.USAGE, f"{text[:40]!r} is not a time", "give RFC 3339, such as 2030-01-31T12:00:00Z, or seconds"
        ) from None
