"""Mail: messages on their way to an instance, from acceptance to the end of the turn that dealt with them.

Guarantees: `accept` returns after the envelope is on disk; the same `msg_id` from the same sender to the same instance is one
envelope however often it is sent; the envelopes of a session are handed out in the order of their acceptance; every state has a
time. Mail does not wake anybody and does not run turns: it tells `on_accepted`, and the agents service does the rest.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import msgspec

from aegis.core.envelopes import MAX_TEXT, Envelope, Image, Receipt
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import MailAccepted, MailAcknowledged, MailFailed, MailInjected
from aegis.core.faults import point
from aegis.core.ids import new_id
from aegis.services.mail.pictures import check_images

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
    images: list[Image] = []


#: What is true of an envelope that no turn has taken up, in the words of the index that holds exactly these.
_WAITS: Final = "done_at IS NULL AND turn IS NULL"
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
        self._bounds: dict[str, int] = {}  # instance -> at most so many wait; for the writer's thread alone
        #: Called in the event loop whenever an envelope is on disk, for a repeated one again; set by the wiring.
        self.on_accepted: Callable[[Envelope], None] = lambda _envelope: None
        #: Sets the timer that calls `expire` when an envelope's time is over, in the transaction that stores it; set by the wiring.
        self.set_expiry: Callable[[Tx, Envelope], None] = lambda _tx, _envelope: None
        #: Raises NOT_FOUND when the instance is gone, in the transaction that stores an envelope for it; set by the wiring.
        self.require: Callable[[Tx, str], None] = lambda _tx, _instance: None
        #: Raises AegisError when what an instance runs cannot be shown pictures; set by the wiring.
        self.admit_images: Callable[[str], None] = lambda _instance: None

    async def accept(self, principal: Principal, draft: Draft) -> Receipt:
        """Store a message durably.

        Raises AegisError: USAGE (a NUL, an empty text, a bad msg_id, an end that is over, a picture that is none), TOO_LARGE, LIMIT (the
        box is full), NOT_FOUND (the instance was deleted meanwhile), CONFLICT (pictures for an agent that cannot take them), DENIED,
        UNAVAILABLE (the disk does not take it). Then nothing was accepted.
        """
        now = self._clock.now()
        _check(draft, now)
        if draft.images:
            check_images(draft.images)
            self.admit_images(draft.instance)
        cutting = {"interrupt": True} if draft.interrupt else {}
        decision = await self._gate.check(principal, "mail.send", draft.instance, session=draft.session, **cutting)
        point("mail.accept.before")
        sender = str(principal)
        envelope = Envelope(id=new_id("msg"), sender=sender, **{**msgspec.structs.asdict(draft), "images": []})  # they stay on disk

        def store(tx: Tx) -> Receipt:
            if draft.msg_id is not None:
                known = tx.execute(
                    "SELECT id, seq FROM envelopes WHERE instance = ? AND sender = ? AND msg_id = ?", (draft.instance, sender, draft.msg_id)
                ).fetchone()
                if known is not None:
                    return Receipt(known[0], known[1], duplicate=True)
            self.require(tx, draft.instance)
            self._make_room(tx, draft.instance)
            self._gate.write(tx, decision)
            seq = tx.append(
                MailAccepted(envelope.id, sender, envelope.text, envelope.msg_id, envelope.user, len(draft.images)),
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
                    msgspec.json.encode(envelope.user).decode() if envelope.user is not None else None,
                    envelope.expires,
                ),
            )
            if draft.images:
                tx.executemany(
                    "INSERT INTO envelope_images (envelope, n, media_type, data) VALUES (?, ?, ?, ?)",
                    [(envelope.id, n, image.media_type, image.data) for n, image in enumerate(draft.images)],
                )
            if envelope.expires is not None:
                self.set_expiry(tx, envelope)
            point("mail.accept.commit")
            return Receipt(envelope.id, seq)

        receipt = await self._store.write(store)
        if receipt.duplicate:  # it cuts nothing a second time, least of all its own turn
            envelope = msgspec.structs.replace(envelope, id=receipt.id, interrupt=False)
        self.on_accepted(envelope)
        point("mail.accept.after")
        return receipt

    def _make_room(self, tx: Tx, instance: str) -> None:
        """Refuse what does not fit into the box. Counting costs, so it is done only when the bound since the last count is reached."""
        bound = self._bounds.get(instance, MAX_WAITING)
        if bound >= MAX_WAITING:
            (bound,) = tx.execute(f"SELECT count(*) FROM envelopes WHERE instance = ? AND {_WAITS}", (instance,)).fetchone()
        if bound >= MAX_WAITING:
            raise AegisError(ErrorKind.LIMIT, f"{bound} messages already wait for this instance", "let it work through them, or delete it")
        self._bounds[instance] = bound + 1

    def waiting(self, instance: str, session: str, limit: int = 64) -> list[Envelope]:
        """Envelopes of a session that no turn has taken up and whose time is not over, oldest first; at most `limit`.

        Without their pictures, as everywhere but in what `images` returns.
        """
        rows = self._store.read(
            lambda db: db.execute(
                f"SELECT {_COLUMNS} FROM envelopes WHERE instance = ? AND session = ? AND {_WAITS} "
                "AND (expires IS NULL OR expires > ?) ORDER BY seq LIMIT ?",
                (instance, session, self._clock.now(), limit),
            ).fetchall()
        )
        return [_envelope(row) for row in rows]

    def of_turn(self, turn: str) -> list[Envelope]:
        """The envelopes that a turn deals with, oldest first."""
        rows = self._store.read(lambda db: db.execute(f"SELECT {_COLUMNS} FROM envelopes WHERE turn = ? ORDER BY seq", (turn,)).fetchall())
        return [_envelope(row) for row in rows]

    def image_sizes(self, ids: Sequence[str]) -> dict[str, int]:
        """How many bytes of pictures came with each of these envelopes that has any."""
        query = f"SELECT envelope, sum(length(data)) FROM envelope_images WHERE envelope IN ({_marks(ids)}) GROUP BY envelope"
        return dict(self._store.read(lambda db: db.execute(query, ids).fetchall()))

    async def images(self, instance: str, ids: Sequence[str]) -> dict[str, list[Image]]:
        """The pictures that came with these envelopes of an instance, in the order in which they were sent."""
        query = (
            "SELECT i.envelope, i.media_type, i.data FROM envelope_images i JOIN envelopes e ON e.id = i.envelope "
            f"WHERE e.instance = ? AND i.envelope IN ({_marks(ids)}) ORDER BY i.envelope, i.n"
        )
        found: dict[str, list[Image]] = {}
        for envelope, media_type, data in await self._store.query(lambda db: db.execute(query, (instance, *ids)).fetchall()):
            found.setdefault(envelope, []).append(Image(media_type, data))
        return found

    def oldest(self, turn: str) -> float | None:
        """When the oldest envelope of a turn was accepted, in wall seconds."""
        (ts,) = self._store.read(lambda db: db.execute("SELECT min(accepted_at) FROM envelopes WHERE turn = ?", (turn,)).fetchone())
        return None if ts is None else float(ts)

    def places_with_mail(self) -> list[tuple[str, str]]:
        """Every (instance, session) for which an envelope waits; for the start of the daemon."""
        return self._store.read(
            lambda db: db.execute(
                f"SELECT instance, session FROM envelopes WHERE {_WAITS} GROUP BY instance, session ORDER BY min(seq)"
            ).fetchall()
        )

    def sessions(self, instance: str) -> list[str]:
        """The sessions of an instance with an envelope that is not done."""
        rows = self._store.read(
            lambda db: db.execute(
                f"SELECT session FROM envelopes WHERE instance = ? AND {_WAITS} "
                "UNION SELECT session FROM envelopes WHERE instance = ? AND done_at IS NULL AND turn IS NOT NULL",
                (instance, instance),
            ).fetchall()
        )
        return [row[0] for row in rows]

    def queued(self, instance: str) -> dict[str, int]:
        """How many envelopes wait, by session."""
        return dict(
            self._store.read(
                lambda db: db.execute(
                    f"SELECT session, count(*) FROM envelopes WHERE instance = ? AND {_WAITS} GROUP BY session",
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

    # What follows runs inside the caller's transaction, because it must be true together with the turn. The program in the
    # sandbox names the ids: it may speak of its own turn's mail only.

    def take(self, tx: Tx, ids: Sequence[str], turn: str) -> list[str]:
        """A turn takes these envelopes up, but for those that ended meanwhile; returns the ones it has, oldest first."""
        tx.execute(f"UPDATE envelopes SET turn = ? WHERE done_at IS NULL AND id IN ({_marks(ids)})", (turn, *ids))
        return [row[0] for row in tx.execute("SELECT id FROM envelopes WHERE turn = ? ORDER BY seq", (turn,)).fetchall()]

    def injected(self, tx: Tx, ids: Sequence[str], *, instance: str, session: str, turn: str) -> None:
        """The program has them. Nothing happens for those of which that is on record."""
        fresh = tx.execute(
            f"SELECT id, msg_id FROM envelopes WHERE turn = ? AND injected_at IS NULL AND id IN ({_marks(ids)}) ORDER BY seq", (turn, *ids)
        ).fetchall()
        if not fresh:
            return
        tx.execute(
            f"UPDATE envelopes SET state = 'injected', injected_at = ? WHERE turn = ? AND state = 'accepted' AND id IN ({_marks(ids)})",
            (self._clock.now(), turn, *ids),
        )
        named = [msg_id for _, msg_id in fresh if msg_id is not None]
        tx.append(MailInjected([ident for ident, _ in fresh], named), instance=instance, session=session, turn=turn)

    def acknowledged(self, tx: Tx, ids: Sequence[str], *, instance: str, session: str, turn: str) -> None:
        """A model call that included them has been made. Nothing happens for those of which that is on record."""
        fresh = tx.execute(
            f"SELECT id FROM envelopes WHERE turn = ? AND acknowledged_at IS NULL AND id IN ({_marks(ids)}) ORDER BY seq", (turn, *ids)
        ).fetchall()
        if not fresh:
            return
        tx.execute(
            "UPDATE envelopes SET state = 'acknowledged', acknowledged_at = ? "
            f"WHERE turn = ? AND acknowledged_at IS NULL AND id IN ({_marks(ids)})",
            (self._clock.now(), turn, *ids),
        )
        tx.append(MailAcknowledged([ident for (ident,) in fresh]), instance=instance, session=session, turn=turn)

    def done(self, tx: Tx, turn: str, reason: str, *, instance: str, session: str) -> None:
        """The turn that dealt with them is over; those that the program never had have failed for `reason`."""
        now = self._clock.now()
        missed = tx.execute(
            "SELECT id FROM envelopes WHERE turn = ? AND done_at IS NULL AND state = 'accepted' ORDER BY seq", (turn,)
        ).fetchall()
        tx.execute(
            "UPDATE envelopes SET state = 'failed', reason = ? WHERE turn = ? AND done_at IS NULL AND state = 'accepted'", (reason, turn)
        )
        tx.execute("UPDATE envelopes SET done_at = ? WHERE turn = ? AND done_at IS NULL", (now, turn))
        if missed:
            tx.append(MailFailed([row[0] for row in missed], reason), instance=instance, session=session, turn=turn)

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
        tx.execute("DELETE FROM envelope_images WHERE envelope IN (SELECT id FROM envelopes WHERE instance = ?)", (instance,))
        tx.execute("DELETE FROM envelopes WHERE instance = ?", (instance,))


def _marks(ids: Sequence[str]) -> str:
    return ", ".join("?" * len(ids))


def _check(draft: Draft, now: float) -> None:
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
    if draft.expires is not None and not now < draft.expires < float("inf"):  # also when it is not a number
        raise AegisError(ErrorKind.USAGE, "the message would expire before it is accepted", "give the seconds it may wait, over zero")
