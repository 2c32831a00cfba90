"""What becomes of envelopes with a turn. All of it runs inside the caller's transaction, because it must be true together with the turn.

The program in the sandbox names the ids: it may speak of its own turn's mail only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aegis.core.events import MailAcknowledged, MailFailed, MailInjected, MailRequeued
from aegis.services.mail.box import Box
from aegis.services.mail.model import COLUMNS, WAITS, Joined, envelope, marks
from aegis.services.mail.posting import Posting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aegis.core.clock import Clock
    from aegis.core.envelopes import Envelope
    from aegis.store import Store, Tx


class Taking(Box, Posting):
    """From waiting to done."""

    def __init__(self, store: Store, clock: Clock) -> None:
        Box.__init__(self, store, clock)
        Posting.__init__(self)

    def take(self, tx: Tx, ids: Sequence[str], turn: str) -> list[str]:
        """A turn begins with these envelopes, but for those that ended meanwhile; returns the ones it has, oldest first."""
        tx.execute(f"UPDATE envelopes SET turn = ? WHERE done_at IS NULL AND id IN ({marks(ids)})", (turn, *ids))
        return [row[0] for row in tx.execute("SELECT id FROM envelopes WHERE turn = ? ORDER BY seq", (turn,)).fetchall()]

    def dealt_with(self, tx: Tx, turn: str) -> list[Envelope]:
        """The envelopes of a turn, oldest first."""
        return [envelope(row) for row in tx.execute(f"SELECT {COLUMNS} FROM envelopes WHERE turn = ? ORDER BY seq", (turn,)).fetchall()]

    def join(self, tx: Tx, ids: Sequence[str], turn: str, how: int) -> list[str]:
        """A turn that runs takes up those of these envelopes that wait still; returns them, oldest first. `how` is one of `Joined`.

        They are not injected by that: should the program never confirm them, `requeue` lets them wait again.
        """
        rows = tx.execute(
            f"UPDATE envelopes SET turn = ?, joined = ? WHERE {WAITS} AND id IN ({marks(ids)}) RETURNING seq, id", (turn, how, *ids)
        ).fetchall()
        return [ident for _, ident in sorted(rows)]

    def injected(self, tx: Tx, ids: Sequence[str], *, instance: str, session: str, turn: str) -> None:
        """The program has them. Nothing happens for those of which that is on record."""
        fresh = tx.execute(
            f"SELECT id, msg_id FROM envelopes WHERE turn = ? AND injected_at IS NULL AND id IN ({marks(ids)}) ORDER BY seq", (turn, *ids)
        ).fetchall()
        if not fresh:
            return
        tx.execute(
            f"UPDATE envelopes SET state = 'injected', injected_at = ? WHERE turn = ? AND state = 'accepted' AND id IN ({marks(ids)})",
            (self._clock.now(), turn, *ids),
        )
        named = [msg_id for _, msg_id in fresh if msg_id is not None]
        tx.append(MailInjected([ident for ident, _ in fresh], named), instance=instance, session=session, turn=turn)

    def acknowledged(self, tx: Tx, ids: Sequence[str], *, instance: str, session: str, turn: str) -> None:
        """A model call that included them has been made. Nothing happens for those of which that is on record."""
        fresh = tx.execute(
            f"SELECT id FROM envelopes WHERE turn = ? AND acknowledged_at IS NULL AND id IN ({marks(ids)}) ORDER BY seq", (turn, *ids)
        ).fetchall()
        if not fresh:
            return
        tx.execute(
            "UPDATE envelopes SET state = 'acknowledged', acknowledged_at = ? "
            f"WHERE turn = ? AND acknowledged_at IS NULL AND id IN ({marks(ids)})",
            (self._clock.now(), turn, *ids),
        )
        tx.append(MailAcknowledged([ident for (ident,) in fresh]), instance=instance, session=session, turn=turn)

    def settle_notes(self, tx: Tx, turn: str, *, instance: str, session: str) -> None:
        """A turn ended well: what came with the results of its tools was read, also where the program does not show its results."""
        ids = [
            row[0]
            for row in tx.execute(
                "SELECT id FROM envelopes WHERE turn = ? AND joined = ? AND acknowledged_at IS NULL ORDER BY seq", (turn, Joined.NOTE)
            ).fetchall()
        ]
        if ids:
            self.injected(tx, ids, instance=instance, session=session, turn=turn)
            self.acknowledged(tx, ids, instance=instance, session=session, turn=turn)

    def requeue(self, tx: Tx, turn: str, *, instance: str, session: str, ids: Sequence[str] | None = None) -> list[str]:
        """A turn has ended: those that joined it and that its program never confirmed wait again. Returns them, oldest first.

        With `ids` only those, before its end, because nobody was there to hand them to.
        """
        some = "" if ids is None else f" AND id IN ({marks(ids)})"
        rows = tx.execute(
            "UPDATE envelopes SET turn = NULL, joined = 0 WHERE turn = ? AND joined > 0 AND injected_at IS NULL AND done_at IS NULL"
            f"{some} RETURNING seq, id",
            (turn, *(ids or ())),
        ).fetchall()
        back = [ident for _, ident in sorted(rows)]
        if back:
            tx.append(MailRequeued(back, "the turn ended before its program had them"), instance=instance, session=session, turn=turn)
            over = f"SELECT id FROM envelopes WHERE expires <= ? AND id IN ({marks(back)}) ORDER BY seq"  # meanwhile, unseen by its timer
            for (ident,) in tx.execute(over, (self._clock.now(), *back)).fetchall():
                self.expire(tx, ident, instance=instance, session=session)
        return back

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

    def expire(self, tx: Tx, ident: str, *, instance: str, session: str) -> None:
        """End an envelope that nobody took up in time; nothing happens to one that a turn has."""
        self._end(tx, ident, "expired", "expired", instance=instance, session=session)

    def call_off(self, tx: Tx, instance: str, reason: str) -> None:
        """What agents sent to an instance is not to be worked on any more, and none of them is told how it went.

        What waits has failed, also for the continuation of a turn; what a running turn has ends with that.
        """
        mine = "instance = ? AND sender LIKE 'instance:%' AND done_at IS NULL"
        tx.execute(f"UPDATE envelopes SET report = 0 WHERE {mine}", (instance,))
        rows = tx.execute(
            f"UPDATE envelopes SET state = 'failed', reason = ?, done_at = ? WHERE {mine} "
            "AND (turn IS NULL OR turn IN (SELECT id FROM turns WHERE instance = ? AND finished_at IS NOT NULL)) "
            "RETURNING session, seq, id",
            (reason, self._clock.now(), instance, instance),
        ).fetchall()
        for session in dict.fromkeys(row[0] for row in rows):
            tx.append(MailFailed([ident for key, _, ident in sorted(rows) if key == session], reason), instance=instance, session=session)

    def forget(self, tx: Tx, instance: str) -> None:
        """Remove everything of a deleted instance. Who waits for a report of it is told that there will be none."""
        rows = tx.execute(f"SELECT {COLUMNS} FROM envelopes WHERE instance = ? AND done_at IS NULL AND report = 1", (instance,)).fetchall()
        for row in rows:
            self.answer(tx, envelope(row), "the agent was deleted before it was done", ok=False)
        tx.execute("DELETE FROM envelope_images WHERE envelope IN (SELECT id FROM envelopes WHERE instance = ?)", (instance,))
        tx.execute("DELETE FROM envelopes WHERE instance = ?", (instance,))
        self.forget_bounds(instance)

    def _end(self, tx: Tx, ident: str, state: str, reason: str, **place: Any) -> bool:
        """End an envelope that waits; False when it does not."""
        row = tx.execute(
            f"UPDATE envelopes SET state = ?, reason = ?, done_at = ? WHERE id = ? AND {WAITS} RETURNING {COLUMNS}",
            (state, reason, self._clock.now(), ident),
        ).fetchone()
        if row is None:
            return False
        tx.append(MailFailed([ident], reason), **place)
        self.answer(tx, envelope(row), f"the message was never read: {reason}", ok=False)
        return True
