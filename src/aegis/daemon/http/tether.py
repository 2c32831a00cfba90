"""Routes of messages: the tether's ingress, poll and stream, transcripts and the state of mail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from aegis.core.envelopes import DEFAULT_SESSION, MAX_IMAGE, MAX_IMAGES, Image, session_key
from aegis.core.errors import AegisError, ErrorKind
from aegis.daemon.http.answers import MAX_BODY, Streamed, json_response, query_int, read_json
from aegis.daemon.http.following import follow, resume, wants_sse
from aegis.daemon.http.frames import answers, event_types, render
from aegis.daemon.http.instances import house, instance, principal
from aegis.daemon.http.transcripts import SAYING, said
from aegis.services.mail import Draft

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response


#: The agent whose memory Aegis keeps.
NATIVE = "native"
#: The largest frame, in bytes: the pictures in base64, and the rest.
_MAX_FRAME = MAX_BODY + MAX_IMAGES * MAX_IMAGE * 4 // 3


class SessionName(msgspec.Struct):
    """The session of a frame."""

    channel: str = "host"
    id: str = "default"


class Payload(msgspec.Struct):
    """What an ingress frame carries; fields of other frame types are ignored."""

    text: str = ""
    images: list[Image] = []
    user: dict[str, Any] | None = None
    interrupt: bool = False
    expires_s: float | None = None
    task: str | None = None
    report_to: str | None = None
    hold: bool = False


class IngressFrame(msgspec.Struct):
    """A frame from a sender."""

    type: Annotated[str, msgspec.Meta(extra_json_schema={"enum": ["user.message", "control.cancel", "control.ping"]})]
    v: Annotated[int, msgspec.Meta(extra_json_schema={"const": 1})] = 1
    session: SessionName = msgspec.field(default_factory=SessionName)
    msg_id: str | None = None
    payload: Payload | None = None
    ts: str | None = None
    seq: int | None = None


async def ingress(request: Request) -> Response:
    """POST /v1/instances/{name}/tether: 202 when the message is on disk."""
    frame = await read_json(request, IngressFrame, _MAX_FRAME)
    found, parts, who = instance(request), house(request), principal(request)
    if frame.v != 1:
        raise AegisError(ErrorKind.USAGE, f"frame version {frame.v} is not known", "send v: 1")
    session = session_key(frame.session.channel, frame.session.id)
    payload = frame.payload or Payload()
    answer: dict[str, Any] = {"msg_id": frame.msg_id, "session_id": frame.session.id}
    match frame.type:
        case "user.message":
            expires = parts.clock.now() + payload.expires_s if payload.expires_s is not None else None
            draft = Draft(
                instance=found.id,
                session=session,
                text=payload.text,
                msg_id=frame.msg_id,
                user=payload.user,
                interrupt=payload.interrupt,
                expires=expires,
                images=payload.images,
                task=payload.task,
                report_to=None if payload.report_to is None else parts.registry.get(payload.report_to).id,
                hold=payload.hold,
            )
            receipt = await parts.mail.accept(who, draft)
            return json_response({**answer, "ingress_seq": receipt.seq, "id": receipt.id, "duplicate": receipt.duplicate}, 202)
        case "control.cancel":
            cut = await parts.agents.interrupt(who, found, session)
            return json_response({**answer, "ingress_seq": parts.store.head, "cancelled": cut}, 202)
        case "control.ping":
            return json_response({**answer, "ingress_seq": parts.store.head}, 202)
        case other:
            raise AegisError(
                ErrorKind.USAGE,
                f"frame type {other[:40]!r} is not one that can be sent",
                "send `user.message`, `control.cancel` or `control.ping`",
            )


async def poll(request: Request) -> Response:
    """GET /v1/instances/{name}/tether/poll: frames after a cursor, waiting for the first if asked to."""
    found, parts, query = instance(request), house(request), request.query_params
    after = query_int(request, "after_seq", 0, 0, 2**62)
    before = query_int(request, "before_seq", 0, 0, 2**62) if query.get("before_seq") else None
    limit = query_int(request, "limit", 50, 0, 200) or 50
    wait = query_int(request, "wait_ms", 0, 0, 30_000) / 1000
    types = event_types(filter(None, query["types"].split(","))) if query.get("types") else event_types(None)
    matches = _matcher(request)
    session = f"{query['channel']}:{query['session_id']}" if query.get("channel") and query.get("session_id") else None
    deadline = parts.clock.monotonic() + wait
    cursor, evicted = after, 0
    while True:
        page = parts.store.events(
            cursor if before is None else after, instance=found.id, session=session, types=types, limit=limit, before=before
        )
        frames = [frame for event in page.events if (frame := render(event)) is not None and matches(frame)]
        evicted = max(evicted, page.evicted)
        timed_out = False
        if not frames and page.events and before is None:
            cursor = page.next_seq  # a full page of frames of other sessions; look further
            continue
        if not frames and before is None and wait:
            left = deadline - parts.clock.monotonic()
            if left > 0 and await parts.store.wait(max(cursor, page.next_seq), instance=found.id, timeout=left):
                continue
            timed_out = True
        if before is not None:
            next_seq = frames[0]["seq"] if frames else before
        else:
            next_seq = frames[-1]["seq"] if frames else after
        return json_response({"frames": frames, "next_seq": next_seq, "timed_out": timed_out, "evicted": evicted})


async def stream(request: Request) -> Response:
    """GET /v1/instances/{name}/tether/stream: frames as they come, NDJSON or SSE, from `after_seq` or `Last-Event-ID` on."""
    found, parts, sse = instance(request), house(request), wants_sse(request)
    matches = _matcher(request)
    subscription = parts.store.subscribe(after=resume(request, "after_seq"), instance=found.id)

    async def produce(write: Callable[[bytes], Awaitable[None]]) -> None:
        async for news in follow(subscription):
            if news.evicted:  # its `seq` is the cursor: who comes back with it misses nothing
                gap = {"v": 1, "type": "event.evicted", "seq": news.cursor, "payload": {"evicted": news.evicted}}
                await write(_line(gap, sse))
            elif not news.events:
                await write(b": alive\n\n" if sse else b"\n")
            elif out := [_line(frame, sse) for event in news.events if (frame := render(event)) is not None and matches(frame)]:
                await write(b"".join(out))

    return Streamed(produce, "text/event-stream" if sse else "application/x-ndjson")


async def transcript(request: Request) -> Response:
    """GET /v1/instances/{name}/transcript?session&after"""
    session = request.query_params.get("session") or DEFAULT_SESSION
    limit = query_int(request, "limit", 500, 1, 1000)
    found, parts, after = instance(request), house(request), query_int(request, "after", 0, 0, 2**62)
    if found.launch.driver in (None, NATIVE):
        messages = await parts.agents.transcript(found, session, after, limit)
        more = len(messages) == limit
    else:  # the program keeps its own files; what was told of it is as good for reading
        messages = said(parts.store.events(after, instance=found.id, session=session, types=SAYING, limit=limit).events)
        more = bool(messages)
    return json_response({"session": session, "messages": messages, "next": messages[-1]["n"] if more else None})


def _line(frame: dict[str, Any], sse: bool) -> bytes:
    body = msgspec.json.encode(frame)
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (frame["seq"], frame["type"].encode(), body) if sse else body + b"\n"


def _matcher(request: Request) -> Callable[[dict[str, Any]], bool]:
    """The filters of the query string as one predicate on frames."""
    channel, ident = request.query_params.get("channel"), request.query_params.get("session_id")
    reply_to = request.query_params.get("reply_to_msg_id")

    def matches(frame: dict[str, Any]) -> bool:
        session = frame["session"]
        return (
            (not channel or session["channel"] == channel)
            and (not ident or session["id"] == ident)
            and (not reply_to or answers(frame, reply_to))
        )

    return matches
