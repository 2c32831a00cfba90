"""Mail: messages on their way to an instance, from acceptance to the end of the turn that dealt with them.

Guarantees: `accept` returns after the envelope is on disk; the same `msg_id` from the same sender to the same instance is one
envelope however often it is sent; the envelopes of a session are handed out in the order of their acceptance; every state has a
time. Mail does not wake anybody and does not run turns: it tells `on_accepted`, and the agents service does the rest.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import msgspec

from aegis.core.envelopes import MAX_TEXT, Envelope, Receipt
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import MailAccepted, MailAcknowledged, MailFailed, MailInjected
from aegis.core.faults import point
from aegis.core.ids import new_id

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

    from aegis.core.clock import Clock
    from aegis.core.principals import Principal
    from aegis.services.gate import Gate
    from aegis.store import Store, Tx

__all__ = ["MAX_WAITING", "Draft", "Mail", "MailState"]

#: How many envelopes may wait for one instance before further ones are refused.
MAX_WAITING: Final = 20_000


class MailState(StrEnum):
    """How far an envelope has come."""

    ACCEPTED = "accepted"
    INJECTED = "injected"
    ACKNOWLEDGED = "acknowledged"
    FAILED = "failed"
    EXPIRED = "expired"


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """A message that is not accepted yet."""

    instance: str
    session: str
    text: str
    msg_id: str | None = None
    user: dict[str, Any] | None = None
    interrupt: bool = False
    expires: float | None = None


_COLUMNS: Final = "id, instance, session, sender, text, msg_id, user, expires"


def _envelope(row: sqlite3.Row | tuple[Any, ...]) -> Envelope:
    ident, instance, session, sender, text, msg_id, user, expires = row
    return Envelope(
        id=ident,
        instance=instance,
        session=session,
        sender=sender,
        text=text,
        msg_id=msg_id,
        user=msgspec.json.decode(user) if user else None,
        expires=expires,
    )


class Mail:
    """Owner of the table `envelopes` and of the events `mail.*`."""

    def __init__(self, store: Store, clock: Clock, gate: Gate) -> None:
        self._store = store
        self._clock = clock
        self._gate = gate
        #: Called in the event loop whenever an envelope is on disk, for a repeated one again; set by the wiring.
        self.on_accepted: Callable[[Envelope], None] = lambda _envelope: None
        #: Sets the timer that calls `expire` when an envelope's time is over, in the transaction that stores it; set by the wiring.
        self.set_expiry: Callable[[Tx, Envelope], None] = lambda _tx, _envelope: None

    async def accept(self, principal: Principal, draft: Draft) -> Receipt:
        """Store a message durably.

        Raises AegisError: USAGE (a NUL, an empty text, a bad msg_id), TOO_LARGE, LIMIT (the box is full), DENIED, UNAVAILABLE
        (the disk does not take it; nothing was accepted).
        """
        _check(draft)
        decision = await self._gate.check(principal, "mail.send", draft.instance, session=draft.session)
        point("mail.accept.before")
        sender, now = str(principal), self._clock.now()
        envelope = Envelope(id=new_id("msg"), sender=sender, **msgspec.structs.asdict(draft))

        def store(tx: Tx) -> Receipt:
            if draft.msg_id is not None:
                known = tx.execute(
                    "SELECT id, seq FROM envelopes WHERE instance = ? AND sender = ? AND msg_id = ?", (draft.instance, sender, draft.msg_id)
                ).fetchone()
                if known is not None:
                    return Receipt(known[0], known[1], duplicate=True)
            (waiting,) = tx.execute("SELECT count(*) FROM envelopes WHERE instance = ? AND done_at IS NULL", (draft.instance,)).fetchone()
            if waiting >= MAX_WAITING:
                raise AegisError(
                    ErrorKind.LIMIT, f"{waiting} messages already wait for this instance", "let it work through them, or delete it"
                )
            self._gate.write(tx, decision)
            seq = tx.append(
                MailAccepted(envelope.id, sender, envelope.text, envelope.msg_id, envelope.user),
                instance=draft.instance,
                session=draft.session,
            )
            tx.execute(
                f"INSERT INTO envelopes (seq, state, accepted_at, {_COLUMNS}) VALUES (?, 'accepted', ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    seq,
                    now,
                    envelope.id,
                    envelope.instance,
                    envelope.session,
                    sender,
                    envelope.text,
                    envelope.msg_id,
                    msgspec.json.encode(envelope.user).decode() if envelope.user else None,
                    envelope.expires,
                ),
            )
            if envelope.expires is not None:
                self.set_expiry(tx, envelope)
            point("mail.accept.commit")
            return Receipt(envelope.id, seq)

        receipt = await self._store.write(store)
        self.on_accepted(envelope)
        point("mail.accept.after")
        return receipt

    def waiting(self, instance: str, session: str, limit: int = 64) -> list[Envelope]:
        """Envelopes of a session that no turn has taken up, oldest first; at most `limit`."""
        rows = self._store.read(
            lambda db: db.execute(
                f"SELECT {_COLUMNS} FROM envelopes "
                "WHERE instance = ? AND session = ? AND done_at IS NULL AND turn IS NULL ORDER BY seq LIMIT ?",
                (instance, session, limit),
            ).fetchall()
        )
        return [_envelope(row) for row in rows]

    def of_turn(self, turn: str) -> list[Envelope]:
        """The envelopes that a turn deals with, oldest first."""
        rows = self._store.read(lambda db: db.execute(f"SELECT {_COLUMNS} FROM envelopes WHERE turn = ? ORDER BY seq", (turn,)).fetchall())
        return [_envelope(row) for row in rows]

    def places_with_mail(self) -> list[tuple[str, str]]:
        """Every (instance, session) for which an envelope waits; for the start of the daemon."""
        return self._store.read(
            lambda db: db.execute(
                "SELECT DISTINCT instance, session FROM envelopes WHERE done_at IS NULL AND turn IS NULL ORDER BY seq"
            ).fetchall()
        )

    def queued(self, instance: str) -> dict[str, int]:
        """How many envelopes wait, by session."""
        return dict(
            self._store.read(
                lambda db: db.execute(
                    "SELECT session, count(*) FROM envelopes WHERE instance = ? AND done_at IS NULL AND turn IS NULL GROUP BY session",
                    (instance,),
                ).fetchall()
            )
        )

    def box(self, instance: str, limit: int = 100) -> list[dict[str, Any]]:
        """The newest `limit` envelopes of an instance with the times of their states, oldest first."""
        names = (
            "id",
            "seq",
            "session",
            "sender",
            "msg_id",
            "text",
            "state",
            "turn",
            "accepted_at",
            "injected_at",
            "acknowledged_at",
            "done_at",
            "reason",
        )
        rows = self._store.read(
            lambda db: db.execute(
                f"SELECT {', '.join(names)} FROM envelopes WHERE instance = ? ORDER BY seq DESC LIMIT ?", (instance, limit)
            ).fetchall()
        )
        return [dict(zip(names, row, strict=True)) for row in reversed(rows)]

    # What follows runs inside the caller's transaction, because it must be true together with the turn.

    def take(self, tx: Tx, ids: Sequence[str], turn: str) -> None:
        """A turn takes these envelopes up."""
        tx.execute(f"UPDATE envelopes SET turn = ? WHERE id IN ({_marks(ids)})", (turn, *ids))

    def injected(self, tx: Tx, ids: Sequence[str], *, instance: str, session: str, turn: str) -> None:
        """The program has them."""
        tx.execute(
            f"UPDATE envelopes SET state = 'injected', injected_at = ? WHERE state = 'accepted' AND id IN ({_marks(ids)})",
            (self._clock.now(), *ids),
        )
        named = tx.execute(
            f"SELECT msg_id FROM envelopes WHERE msg_id IS NOT NULL AND id IN ({_marks(ids)}) ORDER BY seq", tuple(ids)
        ).fetchall()
        tx.append(MailInjected(list(ids), [row[0] for row in named]), instance=instance, session=session, turn=turn)

    def acknowledged(self, tx: Tx, ids: Sequence[str], *, instance: str, session: str, turn: str) -> None:
        """A model call that included them has been made."""
        tx.execute(
            f"UPDATE envelopes SET state = 'acknowledged', acknowledged_at = ? WHERE acknowledged_at IS NULL AND id IN ({_marks(ids)})",
            (self._clock.now(), *ids),
        )
        tx.append(MailAcknowledged(list(ids)), instance=instance, session=session, turn=turn)

    def done(self, tx: Tx, turn: str) -> None:
        """The turn that dealt with them is over."""
        tx.execute("UPDATE envelopes SET done_at = ? WHERE turn = ? AND done_at IS NULL", (self._clock.now(), turn))

    def expire(self, tx: Tx, envelope: str, *, instance: str, session: str) -> None:
        """End an envelope that nobody took up in time; nothing happens to one that a turn has."""
        cursor = tx.execute(
            "UPDATE envelopes SET state = 'expired', reason = 'expired', done_at = ? WHERE id = ? AND turn IS NULL AND done_at IS NULL",
            (self._clock.now(), envelope),
        )
        if cursor.rowcount:
            tx.append(MailFailed([envelope], "expired"), instance=instance, session=session)

    def forget(self, tx: Tx, instance: str) -> None:
        """Remove everything of a deleted instance."""
        tx.execute("DELETE FROM envelopes WHERE instance = ?", (instance,))


def _marks(ids: Sequence[str]) -> str:
    return ", ".join("?" * len(ids))


def _check(draft: Draft) -> None:
    size = len(draft.text.encode("utf-8", "surrogatepass"))
    if size > MAX_TEXT:
        raise AegisError(
            ErrorKind.TOO_LARGE,
            f"the message has {size:,} bytes, the limit is {MAX_TEXT:,}",
            "put the material into a file of the workspace and name it in the message",
        )
    if not draft.text.strip():
        raise AegisError(ErrorKind.USAGE, "the message has no text", "send at least one character that is not white space")
    if "\x00" in draft.text:
        raise AegisError(ErrorKind.USAGE, f"the message has a NUL character at offset {draft.text.index(chr(0))}", "remove it")
    try:
        draft.text.encode()
    except UnicodeEncodeError as error:
        raise AegisError(ErrorKind.USAGE, f"the message is not valid Unicode at offset {error.start}", "send UTF-8 text") from error
    if draft.msg_id is not None and not 1 <= len(draft.msg_id) <= 200:
        raise AegisError(ErrorKind.USAGE, "msg_id must have 1 to 200 characters", "leave it out, or shorten it")
