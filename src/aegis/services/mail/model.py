"""The nouns of mail: a draft, an envelope as a row, how far it has come, and the bounds."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import msgspec

from aegis.core.envelopes import Envelope, Image

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

#: How many envelopes may wait for one instance before further ones are refused, and how many of them from one agent.
MAX_WAITING: Final = 20_000
MAX_FROM_AGENT: Final = 1_000
#: The largest text that an agent may send, in bytes of UTF-8; a person may send `MAX_TEXT`.
MAX_AGENT_TEXT: Final = 256 * 1024
#: So often a message is passed on from one agent to the next until a person has to write.
MAX_HOPS: Final = 24


class MailState(StrEnum):
    """How far an envelope has come."""

    ACCEPTED = "accepted"
    INJECTED = "injected"
    ACKNOWLEDGED = "acknowledged"
    FAILED = "failed"
    EXPIRED = "expired"


#: The states of a dead letter: nobody will deliver it, unless somebody has it tried again.
DEAD: Final = (MailState.FAILED, MailState.EXPIRED)


class Joined:
    """How an envelope came into its turn."""

    FIRST: Final = 0  # the turn began with it
    MESSAGE: Final = 1  # the program was handed it in the middle of the turn
    NOTE: Final = 2  # the program got its text with the result of a tool


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """A message that is not accepted yet. `instance` is an id."""

    instance: str
    session: str
    text: str
    msg_id: str | None = None
    user: dict[str, Any] | None = None
    interrupt: bool = False
    expires: float | None = None  # wall time, seconds
    images: list[Image] = []
    sender_session: str | None = None  # the conversation of the agent that sends it
    task: str | None = None
    status: str | None = None
    report: bool = False  # the sender wants the final text of the turn that deals with it
    report_to: str | None = None  # or wants this instance, by id, to have it
    hold: bool = False  # keep it for an instance that is disabled, until somebody starts that again; else it is refused


#: What is true of an envelope that no turn has taken up, in the words of the index that holds exactly these.
WAITS: Final = "done_at IS NULL AND turn IS NULL"
COLUMNS: Final = (
    "id, instance, session, sender, text, msg_id, user, interrupt, expires, name, sender_session, task, status, hops, report, report_to, "
    "accepted_at"
)
#: What is told of an envelope, beside its text.
TOLD: Final = (
    "id", "seq", "instance", "session", "sender", "name", "msg_id", "task", "status", "hops", "report", "state", "turn",
    "accepted_at", "injected_at", "acknowledged_at", "done_at", "expires", "reason",
)  # fmt: skip


def envelope(row: sqlite3.Row | tuple[Any, ...]) -> Envelope:
    """An envelope from a row of `COLUMNS`."""
    ident, instance, session, sender, text, msg_id, user, cuts, expires, name, sender_session, task, status, hops, report, to, at = row
    return Envelope(
        id=ident,
        instance=instance,
        session=session,
        sender=sender,
        text=text,
        msg_id=msg_id,
        user=msgspec.json.decode(user) if user else None,
        interrupt=bool(cuts),
        expires=expires,
        name=name,
        sender_session=sender_session,
        task=task,
        status=status,
        hops=hops,
        report=bool(report),
        report_to=to,
        accepted_at=at,
    )


def row(item: Envelope) -> tuple[Any, ...]:
    """The row of `COLUMNS` of an envelope."""
    user = msgspec.json.encode(item.user).decode() if item.user is not None else None
    return (
        item.id, item.instance, item.session, item.sender, item.text, item.msg_id, user,
        int(item.interrupt), item.expires, item.name, item.sender_session, item.task, item.status, item.hops,
        int(item.report), item.report_to, item.accepted_at,
    )  # fmt: skip


def marks(values: Sequence[object]) -> str:
    """The place-holders of a list in SQL."""
    return ", ".join("?" * len(values))
