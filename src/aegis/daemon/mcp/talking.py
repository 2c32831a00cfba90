"""The verbs by which a person's own agent sends messages to instances and reads what comes back."""

from __future__ import annotations

import asyncio
import base64
import binascii
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

from aegis.core.envelopes import MAX_IMAGE, Image, session_key
from aegis.core.errors import AegisError, ErrorKind, unknown_name
from aegis.daemon.mcp.model import Arguments, Said, Verb
from aegis.daemon.mcp.showing import pictures
from aegis.services.mail import Draft

if TYPE_CHECKING:
    from aegis.daemon.mcp.model import Caller
    from aegis.daemon.wiring import House
    from aegis.services.agents import Instance

_WAIT: Final = 30_000
_FRAMES: Final = 200
#: Texts in frames are cut at so many characters, and an answer ends at the frame that reaches so many.
_TEXT: Final = 12_000
_WHOLE: Final = 48_000
#: Frames that nobody reads who does not ask for them: pieces of what comes whole afterwards, and figures.
_PIECES: Final = frozenset({"assistant.delta", "reasoning.delta", "status.presence", "usage"})

About = msgspec.Meta
Target = Annotated[str, About(description="Handle or id of the instance.")]


class Send(Arguments, frozen=True):
    """A message."""

    instance: Target
    text: str
    images: Annotated[list[dict[str, str]], About(description='Each {"media_type": "image/png", "data": BASE64}.')] = []
    session_id: Annotated[str, About(description="The conversation.")] = "default"
    msg_id: Annotated[str | None, About(description="An id of yours; sending it again changes nothing.")] = None
    interrupt: Annotated[bool, About(description="Cut the turn that runs.")] = False


class Read(Arguments, frozen=True):
    """Which frames."""

    instance: Target
    session_id: Annotated[str | None, About(description="One conversation; all by default.")] = None
    after_seq: Annotated[int, About(description="Only frames after this number.")] = 0
    limit: int = 50
    wait_ms: Annotated[int, About(description=f"Wait so long for the first one, at most {_WAIT}.")] = 0
    types: Annotated[list[str], About(description='Such as ["assistant.done"], the answer of a turn.')] = []


async def _send(house: House, caller: Caller, wanted: Send) -> Said:
    found = _receiver(house, wanted.instance)
    session = _session(wanted.session_id)
    draft = Draft(
        instance=found.id,
        session=session,
        text=wanted.text,
        msg_id=wanted.msg_id,
        interrupt=wanted.interrupt,
        images=[_image(number, each) for number, each in enumerate(wanted.images, 1)],
    )
    receipt = await house.mail.accept(caller.principal, draft)
    ident = session.partition(":")[2]
    data = {"msg_id": wanted.msg_id or receipt.id, "id": receipt.id, "session_id": ident, "ingress_seq": receipt.seq}
    data["duplicate"] = receipt.duplicate
    call = f'tether_read(instance="{found.handle}", after_seq={receipt.seq}, types=["assistant.done"], wait_ms={_WAIT})'
    return Said(f"accepted, seq {receipt.seq}; the answer: {call}", data)


async def _read(house: House, caller: Caller, wanted: Read) -> Said:
    from aegis.daemon.http.frames import FRAME_OF, event_types, render  # whose package knows this one

    found = house.registry.get(wanted.instance)
    for name in wanted.types:
        if name not in FRAME_OF.values():
            raise unknown_name("frame type", name[:80], set(FRAME_OF.values()))
    kinds = event_types(wanted.types or set(FRAME_OF.values()) - _PIECES)
    session = _session(wanted.session_id) if wanted.session_id else None
    limit = max(1, min(wanted.limit or 50, _FRAMES))
    deadline = house.clock.monotonic() + max(0, min(wanted.wait_ms, _WAIT)) / 1000
    cursor, evicted, timed_out = max(0, wanted.after_seq), 0, False
    while True:
        page = house.store.events(cursor, instance=found.id, session=session, types=kinds, limit=limit)
        evicted = max(evicted, page.evicted)
        frames = [frame for event in page.events if (frame := render(event)) is not None]
        if frames:
            break
        if page.events:
            cursor = page.next_seq
            continue
        left = deadline - house.clock.monotonic()
        if left <= 0 or not await house.store.wait(max(cursor, page.next_seq), instance=found.id, timeout=left):
            timed_out = wanted.wait_ms > 0
            break
    kept = _bounded(frames)
    data: dict[str, Any] = {"frames": kept, "next_seq": kept[-1]["seq"] if kept else max(0, wanted.after_seq), "timed_out": timed_out}
    if evicted:
        data["evicted"] = evicted
    if not kept:
        data["activity"] = house.agents.activity(found).word
        if house.approvals.open(found.id):
            data["note"] = "it waits for a person: approvals_list"
    answers = [str(frame["payload"].get("text", "")) for frame in kept if frame["type"] == "assistant.done"]
    images = await asyncio.to_thread(pictures, found, answers) if any("](" in text for text in answers) else []
    return Said(msgspec.json.encode(data).decode(), data, images)


def _receiver(house: House, name: str) -> Instance:
    found = house.registry.get(name)
    if not found.enabled:
        told = f"`{found.handle}` is disabled"
        raise AegisError(ErrorKind.CONFLICT, told, f"instance_start with name {found.handle} starts it again")
    if found.launch.driver is None:
        raise AegisError(ErrorKind.CONFLICT, f"`{found.handle}` runs a program, not an agent", "exec runs commands in it")
    return found


def _session(text: str) -> str:
    """The key of a session that is named by its id, or as `channel:id`."""
    channel, colon, ident = text.partition(":")
    return session_key(channel, ident) if colon else session_key("host", text)


def _image(number: int, given: dict[str, str]) -> Image:
    """A picture as it was sent; what is in it the mail looks at."""
    data = given.get("data", "")
    if len(data) > MAX_IMAGE * 2:
        raise AegisError(ErrorKind.TOO_LARGE, f"picture {number} is over {MAX_IMAGE:,} bytes", "make it smaller")
    try:
        return Image(given.get("media_type", ""), base64.b64decode(data, validate=True))
    except binascii.Error:
        raise AegisError(ErrorKind.USAGE, f"the data of picture {number} is not base64", "encode its bytes") from None


def _bounded(frames: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As many of the frames as a model can be given at once, the first always; long texts in them are cut."""
    kept: list[dict[str, Any]] = []
    whole = 0
    for frame in frames:
        short = {**frame, "payload": _short(frame["payload"])}
        whole += len(msgspec.json.encode(short))
        if kept and whole > _WHOLE:
            break
        kept.append(short)
    return kept


def _short(value: Any, most: int = _TEXT) -> Any:
    if isinstance(value, str):
        return value if len(value) <= most else f"{value[:most]} [cut: {len(value) - most} characters more]"
    if isinstance(value, dict):
        return {key: _short(inner, most) for key, inner in value.items()}
    if isinstance(value, list):
        return [_short(inner, most) for inner in value[:100]]
    return value


SEND: Final = Verb(
    "tether_send",
    "Send a message to an agent. It is on disk when this returns, and wakes the agent; the answer is read with tether_read.",
    Send,
    _send,
    "host",
)
READ: Final = Verb(
    "tether_read",
    "Read what an agent did and said, from a number on. To wait for an answer give types and wait_ms, and call again while timed_out.",
    Read,
    _read,
    "host",
    changes=False,
)
