"""Other agents as an agent may see them: who there is, what each does, what was said."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from aegis.core import events as e
from aegis.core.envelopes import DEFAULT_SESSION
from aegis.core.errors import AegisError
from aegis.core.text import one_line, printable
from aegis.daemon.mcp.model import Caller, Said

if TYPE_CHECKING:
    from aegis.daemon.wiring import House
    from aegis.services.agents import Instance

#: The longest that a call waits for another agent, in seconds.
LONGEST: Final = 600.0
#: What a transcript has of one text, of one tool call, and of everything, in characters, and how many events are looked at.
_TEXT: Final = 4000
_CALL: Final = 300
_WHOLE: Final = 40_000
_EVENTS: Final = 1000
_SAYING: Final = tuple(kind.type for kind in (e.MailAccepted, e.Text, e.ToolCall, e.ToolResult, e.TurnFinished))
#: What the reference calls the state of an agent, by our words for what it is about.
_STATES: Final = {"working": "working", "starting": "working", "failed": "error"}


def me(caller: Caller) -> Instance:
    """The instance that calls."""
    assert caller.instance is not None
    return caller.instance


def peer(house: House, handle: str) -> Instance:
    """An instance by its handle. Raises NOT_FOUND with the nearest."""
    try:
        return house.registry.get(handle.removeprefix("agent:")[:100])  # looking for the nearest of a long one takes long
    except AegisError as error:
        near = f"did you mean `{error.data['nearest']}`? " if error.data.get("nearest") else ""
        raise AegisError(error.kind, f"no agent `{one_line(handle, 80)}`", f"{near}aegis_list_sessions shows those there are") from None


def others(house: House, caller: Caller) -> list[Instance]:
    """The other instances that the caller may see, oldest first."""
    return [i for i in house.registry.all() if i is not caller.instance and house.gate.decide(caller.principal, "peer.read", i.id).allow]


def row(house: House, instance: Instance, caller: Caller) -> dict[str, Any]:
    """One of `aegis_list_sessions`, with the fields of the reference and ours."""
    parent = house.registry.find(instance.parent or "")
    activity = house.agents.activity(instance)
    return {
        "handle": instance.handle,
        "agent_slug": instance.launch.agent,
        "state": _STATES.get(activity.word, "ready"),
        "activity": activity.word,
        "active": instance is caller.instance,
        "unseen": sum(house.mail.queued(instance.id).values()),
        "spawned_by": parent.handle if parent is not None else None,
        "enabled": instance.enabled,
    }


def line(found: dict[str, Any]) -> str:
    """A row as a line."""
    notes = ["you"] * found["active"] + [f"started by {found['spawned_by']}"] * bool(found["spawned_by"])
    notes += [f"{found['unseen']} messages wait"] * bool(found["unseen"]) + ["switched off"] * (not found["enabled"])
    return f"{found['handle']}  {found['agent_slug']}  {found['activity']}" + (f"  ({', '.join(notes)})" if notes else "")


async def status(house: House, caller: Caller, handle: str | None, wait: float) -> Said:
    """What an agent is about, after waiting until it is done; of oneself, until mail is there."""
    instance = peer(house, handle) if handle else me(caller)
    await house.gate.check(caller.principal, "peer.read", instance.id)
    deadline = house.clock.monotonic() + max(0.0, min(wait, LONGEST))
    own = instance is caller.instance
    session = caller.session or DEFAULT_SESSION
    began = house.store.head
    while True:
        head = house.store.head
        over = _mail_came(house, instance, session, began) if own else not _busy(house, instance)
        left = deadline - house.clock.monotonic()
        if over or left <= 0 or house.registry.find(instance.id) is not instance:
            break
        await house.store.wait(head, instance=instance.id, timeout=left)
        await asyncio.sleep(0)  # what the event is about has been done when those who told of it have gone on
    return _told(house, instance, caller, waited=wait > 0 and not over)


def _mail_came(house: House, instance: Instance, session: str, since: int) -> bool:
    """Whether mail waits, or came meanwhile: one that is told of it in the middle of its turn has it by now."""
    if house.mail.waits(instance.id, session):
        return True
    return bool(house.store.events(since, instance=instance.id, session=session, types=(e.MailAccepted.type,), limit=1).events)


def _busy(house: House, instance: Instance) -> bool:
    """Whether it will do more without anybody's doing."""
    word = house.agents.activity(instance).word
    if word in ("working", "starting", "unknown"):
        return True
    return word == "idle" and instance.enabled and bool(house.mail.queued(instance.id))


def _told(house: House, instance: Instance, caller: Caller, *, waited: bool) -> Said:
    activity = house.agents.activity(instance)
    facts = row(house, instance, caller) | {"instance_state": instance.state.value, "reason": instance.reason}
    if activity.until is not None:
        facts["until"] = activity.until
    lines = [line(facts)]
    if instance.reason and activity.word == "failed":
        lines.append(f"why: {one_line(instance.reason, 500)}")
    found = house.store.events(0, instance=instance.id, types=(e.TurnFinished.type,), limit=1, before=house.store.head + 1).events
    if found and isinstance(fact := found[0].fact, e.TurnFinished):
        told = fact.text or str((fact.error or {}).get("error", ""))
        facts["last_turn"] = {"outcome": fact.outcome, "text": told[:_TEXT], "ended_at": found[0].ts}
        lines.append(f"its last turn: {fact.outcome}" + (f"\n{_indented(told, _TEXT)}" if told else ""))
    if waited:
        facts["timed_out"] = True
        lines.append("It is not done yet. End your turn if you can: what it reports comes to you as mail.")
    return Said("\n".join(lines), facts)


async def transcript(house: House, caller: Caller, handle: str, turns: int) -> Said:
    """What was said in the last turns of the conversation that an agent had last."""
    instance = peer(house, handle)
    await house.gate.pass_through(caller.principal, "peer.read", instance.id, what="transcript")
    events = house.store.events(0, instance=instance.id, types=_SAYING, limit=_EVENTS, before=house.store.head + 1).events
    session = events[-1].session if events else None
    events = [event for event in events if event.session == session]
    kept: list[e.Event] = []
    ends = 0
    for event in reversed(events):
        ends += isinstance(event.fact, e.TurnFinished)
        if ends > max(1, turns):
            break
        kept.append(event)
    entries = [entry for event in reversed(kept) if (entry := _entry(event.fact)) is not None]
    lines: list[str] = []
    size = 0
    for role, text in reversed(entries):  # the newest matters most
        shown = f"{role}:\n{_indented(text, _TEXT)}"
        size += len(shown)
        if size > _WHOLE:
            lines.append("(what was said before is left out; ask for fewer turns)")
            break
        lines.append(shown)
    text = "\n".join(reversed(lines)) or f"`{instance.handle}` has said nothing yet."
    return Said(
        text, {"handle": instance.handle, "session": session, "entries": [{"role": r, "text": t[:_TEXT]} for r, t in entries[-60:]]}
    )


def _entry(fact: e.Fact) -> tuple[str, str] | None:
    match fact:
        case e.MailAccepted():
            return fact.name or "person", fact.text
        case e.Text(text):
            return "assistant", text
        case e.ToolCall(_, name, arguments):
            return "tool call", one_line(f"{name} {arguments}", _CALL)
        case e.ToolResult(_, name, ok, output):
            return "tool result" if ok else "tool error", f"{name}: {output[:_CALL]}"
        case e.TurnFinished() if fact.error:
            return "error", str(fact.error.get("error", ""))
    return None


def _indented(text: str, most: int) -> str:
    """A text whose lines cannot be taken for ours."""
    cut = printable(text)[:most]
    return "\n".join(f"  {part}" for part in cut.splitlines()) + (" …" if len(text) > most else "")
