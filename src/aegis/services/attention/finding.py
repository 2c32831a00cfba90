"""What of the log is worth telling a person: one event in, a notice or nothing out."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from aegis.core.events import (
    ApprovalEscalated,
    ApprovalRequested,
    BudgetWarned,
    InstanceHeld,
    InstanceLimited,
    InstanceState,
    Outcome,
    TurnFinished,
    TurnStuck,
)
from aegis.core.text import one_line
from aegis.services.attention.model import TEXT, Notice

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aegis.core.events import Event
    from aegis.services.agents import Instance

#: The events that are looked at. `approval.decided` ends what a request raised.
TYPES: Final = (
    ApprovalRequested.type,
    BudgetWarned.type,
    "approval.decided",
    ApprovalEscalated.type,
    InstanceHeld.type,
    InstanceLimited.type,
    InstanceState.type,
    "instance.deleted",
    TurnFinished.type,
    TurnStuck.type,
)
#: What stands in the cause of a notice between a request and the number of the event that told of it again.
AGAIN: Final = "#"
_BRIEF: Final = 160


class Finding:
    """Judges events.

    Args:
        find: an instance by its id.
        ancestors: who spawned it, and who spawned that one, up to the one that a person started.
        db: a reading connection, for the senders of messages.
    """

    def __init__(self, find: Callable[[str], Instance | None], ancestors: Callable[[str], list[Instance]], db: Any) -> None:
        self._find = find
        self._ancestors = ancestors
        self._db = db

    def notice(self, event: Event) -> Notice | None:
        """What a person is to be told of an event. Of children only that they need somebody, or seem stuck."""
        instance = self._find(event.instance or "")
        if instance is None or instance.launch.ephemeral:  # whoever made it for one program waits for that
            return None
        above = self._ancestors(instance.id)
        who = f"{instance.handle} (for {above[-1].handle})" if above else instance.handle
        match event.fact:
            case ApprovalRequested(approval_id=ident, tool=tool, title=title):
                what = one_line(title or tool, _BRIEF)
                return self._of(event, instance, "needs-you", ident, f"{who} asks leave: {what}")
            case ApprovalEscalated(approval_id=ident, title=title, risk=risk, reason=reason):
                more = "".join(f" ({each})" for each in (one_line(risk, 80), one_line(reason, 80)) if each)
                text = f"{who} still waits for your answer: {one_line(title, _BRIEF)}{more}"
                return self._of(event, instance, "needs-you", f"{ident}{AGAIN}{event.seq}", text)
            case InstanceHeld(held_id=ident, path=path, state=state, reason=reason) if state in ("held", "failed"):
                did = "was put aside" if state == "held" else "could NOT be put aside"
                text = f"{path} that {who} left {did} ({reason}): `aegis held list`"
                return self._of(event, instance, "needs-you", ident or path, text)
            case TurnStuck(reason=reason, tool=tool, count=count, seconds=seconds):
                told = f"nothing heard for {seconds / 60:.0f} min" if seconds else f"{reason}: {tool}, {count} times" if tool else reason
                return self._of(event, instance, "stuck", f"{reason} {tool}", f"{who} seems stuck: {told}")
            case InstanceLimited(provider=provider, until=until) if not above and self._has_work(instance.id):
                clock = datetime.fromtimestamp(until).strftime("%H:%M")
                return self._of(event, instance, "limited", provider, f"{who} waits for {one_line(provider, 60)} until {clock}")
            case BudgetWarned() as warned:
                what = f"budget {warned.name} is used up to {100 * warned.spent // warned.limit} %"
                return self._of(event, instance, "limited", f"{warned.name} {warned.subject}", f"{what}; {who} just used some")
            case TurnFinished() as end if not above:
                return self._ended(event, instance, end)
            case InstanceState(state=state, previous=previous, reason=reason) if not above:
                return self._moved(event, instance, state, previous, reason)
        return None

    def _ended(self, event: Event, instance: Instance, end: TurnFinished) -> Notice | None:
        error = end.error or {}
        if error.get("will_continue") or end.outcome is Outcome.CANCELLED or not self._for_a_person(end.in_reply_to):
            return None
        if end.outcome is Outcome.COMPLETED:
            if not end.in_reply_to:
                return None  # it went on by itself
            said = next((line for line in end.text.splitlines() if line.strip()), "")
            text = f"{instance.handle} is done: {one_line(said, _BRIEF)}" if said else f"{instance.handle} is done"
            return self._of(event, instance, "done", event.turn or "", text)
        why = one_line(str(error.get("error") or end.outcome), _BRIEF)
        if end.outcome is Outcome.LIMITED:
            return self._of(event, instance, "limited", why, f"{instance.handle} ran into a limit: {why}")
        return self._of(event, instance, "failed", why, f"{instance.handle} failed: {why}")

    def _moved(self, event: Event, instance: Instance, state: str, previous: str, reason: str) -> Notice | None:
        """The end of a sandbox or of a plain program. One that did not start fails the turn that wanted it."""
        if previous not in ("running", "paused"):
            return None
        why = one_line(reason, _BRIEF)
        if state == "failed":
            return self._of(event, instance, "failed", why, f"{instance.handle} failed: {why}")
        if state == "stopped" and instance.launch.command and reason == "the program ended":
            return self._of(event, instance, "done", str(event.seq), f"{instance.handle} is done: {why}")
        return None

    def _for_a_person(self, ids: Sequence[str]) -> bool:
        """Whether a person wrote one of the messages; also when nobody wrote any, because the program began by itself."""
        if not ids:
            return True
        marks = ", ".join("?" * len(ids))
        query = f"SELECT 1 FROM envelopes WHERE id IN ({marks}) AND sender LIKE 'person:%' LIMIT 1"
        return self._db.execute(query, list(ids)).fetchone() is not None

    def _has_work(self, instance: str) -> bool:
        return (
            self._db.execute("SELECT 1 FROM envelopes WHERE instance = ? AND done_at IS NULL LIMIT 1", (instance,)).fetchone() is not None
        )

    @staticmethod
    def _of(event: Event, instance: Instance, kind: str, cause: str, text: str) -> Notice:
        return Notice(
            kind=kind, instance=instance.id, cause=cause, handle=instance.handle, text=one_line(text, TEXT),
            session=event.session, turn=event.turn, since=event.ts,
        )  # fmt: skip
