"""Mail between agents, as tools: handing over, and reading what came."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aegis.core.envelopes import DEFAULT_SESSION
from aegis.core.errors import AegisError, ErrorKind
from aegis.daemon.mcp.model import Caller, Said
from aegis.daemon.mcp.peers import me, peer
from aegis.services.mail import Draft, headers

if TYPE_CHECKING:
    from aegis.daemon.wiring import House
    from aegis.services.agents import Instance

#: The most messages that are read at a time.
_MOST = 64


async def handoff(house: House, caller: Caller, handle: str, text: str, *, interrupt: bool, report: bool) -> Said:
    """Send a message; the answer is one of the reference's: landed, queued, interrupted and landed, rejected."""
    try:
        target = peer(house, handle)
        if target is caller.instance:
            raise AegisError(ErrorKind.USAGE, f"`{target.handle}` is you", "aegis_list_sessions shows the others")
        if (sent := _sent_before(house, caller, target, text)) is not None:
            words = f"landed at {target.handle}"
            note = "you sent it before you were interrupted, and it is not sent twice; with other words it is another message"
            return Said(f"{words}; {note}", {"result": words, "handle": target.handle, "message_id": sent, "position": None, "note": note})
        session = _session(house, caller, target)
        ahead = house.mail.queued(target.id).get(session, 0)
        runs = house.agents.turn_of(target.id, session) is not None
        draft = Draft(instance=target.id, session=session, text=text, interrupt=interrupt, report=report, sender_session=caller.session)
        receipt = await house.mail.accept(caller.principal, draft)
    except AegisError as error:
        hint = "aegis_list_sessions shows those that you can reach" if error.kind is ErrorKind.DENIED else error.hint
        raise AegisError(error.kind, f"handoff rejected: {error.message}", hint, **error.data) from error
    cut = interrupt and runs and not receipt.warning
    position = None if cut or not (runs or ahead) else (house.mail.position(receipt.id) or 0) + 1
    if cut:
        words = f"interrupted & landed at {target.handle}"
    elif position is not None:
        words = f"queued for {target.handle} (position {position})"
    else:
        words = f"landed at {target.handle}"
    facts: dict[str, Any] = {"result": words, "handle": target.handle, "message_id": receipt.id, "position": position}
    notes = [receipt.warning] if receipt.warning else []
    if (until := house.agents.activity(target).until) is not None:
        facts["until"] = until
        notes.append("its model gives no more for now, so it begins later")
    if report:
        notes.append("its final answer comes to you as mail")
    return Said(words + "".join(f"; {note}" for note in notes), facts | ({"note": "; ".join(notes)} if notes else {}))


def _sent_before(house: House, caller: Caller, target: Instance, text: str) -> str | None:
    """The same message, sent in a turn that was cut short: its program may not know that, and do it again when it goes on."""
    turn = house.agents.turn_of(me(caller).id, caller.session or DEFAULT_SESSION)
    span = house.agents.continued(turn) if turn is not None else None
    return house.mail.sent(str(caller.principal), target.id, text, span) if span is not None else None


def _session(house: House, caller: Caller, target: Instance) -> str:
    """The conversation of the target that is meant: the one that wrote to the caller what it works on now, else the target's own."""
    turn = house.agents.turn_of(me(caller).id, caller.session or DEFAULT_SESSION)
    for envelope in reversed(house.mail.of_turn(turn) if turn is not None else []):
        if envelope.sender == f"instance:{target.id}" and envelope.sender_session:
            return envelope.sender_session
    return DEFAULT_SESSION


async def read_mail(house: House, caller: Caller, limit: int) -> Said:
    """What waits for the caller; it is thereby taken into its running turn."""
    mine, session = me(caller), caller.session or DEFAULT_SESSION
    found = await house.mail.read(mine.id, session, max(1, min(limit, _MOST)))
    if not found:
        waiting = house.mail.queued(mine.id).get(session, 0)
        text = "No mail waits for you." if not waiting else f"{waiting} messages wait; your next turn begins with them."
        return Said(text, {"messages": [], "waiting": waiting})
    pictures = await house.mail.images(mine.id, [e.id for e in found])
    told = [
        {"id": e.id, "from": e.name or "person", "at": e.accepted_at, "task": e.task, "status": e.status, "text": e.text} for e in found
    ]
    images = [picture for e in found for picture in pictures.get(e.id, [])]
    return Said(headers.note(found), {"messages": told, "waiting": house.mail.queued(mine.id).get(session, 0)}, images)
