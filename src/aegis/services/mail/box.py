"""Looking into mailboxes. Nothing here changes anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from aegis.core.envelopes import Image
from aegis.core.errors import AegisError, ErrorKind
from aegis.services.mail.model import COLUMNS, DEAD, TOLD, WAITS, envelope, marks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aegis.core.clock import Clock
    from aegis.core.envelopes import Envelope
    from aegis.store import Store

#: The most characters of a text that a list shows.
SHOWN: Final = 4_000


class Box:
    """What waits, what a turn has, what became of a message. Envelopes come without their pictures: `images` has them."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def waiting(self, instance: str, session: str, limit: int = 64) -> list[Envelope]:
        """Envelopes of a session that no turn has taken up and whose time is not over, oldest first; at most `limit`."""
        rows = self._store.read(
            lambda db: db.execute(
                f"SELECT {COLUMNS} FROM envelopes WHERE instance = ? AND session = ? AND {WAITS} "
                "AND (expires IS NULL OR expires > ?) ORDER BY seq LIMIT ?",
                (instance, session, self._clock.now(), limit),
            ).fetchall()
        )
        return [envelope(row) for row in rows]

    def waits(self, instance: str, session: str) -> bool:
        """Whether any envelope of a session waits: the quick look."""
        query = f"SELECT 1 FROM envelopes WHERE instance = ? AND session = ? AND {WAITS} LIMIT 1"
        return self._store.read(lambda db: db.execute(query, (instance, session)).fetchone()) is not None

    def of_turn(self, turn: str) -> list[Envelope]:
        """The envelopes that a turn deals with, oldest first."""
        rows = self._store.read(lambda db: db.execute(f"SELECT {COLUMNS} FROM envelopes WHERE turn = ? ORDER BY seq", (turn,)).fetchall())
        return [envelope(row) for row in rows]

    def joined(self, turn: str) -> frozenset[str]:
        """The ids of those of its envelopes that came into a turn, or one that it continues, while it ran."""
        rows = self._store.read(lambda db: db.execute("SELECT id FROM envelopes WHERE turn = ? AND joined > 0", (turn,)).fetchall())
        return frozenset(row[0] for row in rows)

    def sent(self, sender: str, instance: str, text: str, span: tuple[float, float]) -> str | None:
        """The id of a message with this very text that `sender` sent to an instance within a span of time, in wall seconds."""
        query = "SELECT id FROM envelopes WHERE sender = ? AND instance = ? AND text = ? AND accepted_at BETWEEN ? AND ? LIMIT 1"
        found = self._store.read(lambda db: db.execute(query, (sender, instance, text, *span)).fetchone())
        return None if found is None else str(found[0])

    def position(self, ident: str) -> int | None:
        """How many envelopes of its session are before one that waits; None for one that does not wait."""
        return self._store.read(
            lambda db: (
                db.execute(
                    f"SELECT (SELECT count(*) FROM envelopes o WHERE o.instance = e.instance AND o.session = e.session AND o.seq < e.seq "
                    f"AND o.done_at IS NULL AND o.turn IS NULL) FROM envelopes e WHERE e.id = ? AND {WAITS}",
                    (ident,),
                ).fetchone()
                or (None,)
            )
        )[0]

    def receipt(self, ident: str) -> dict[str, Any]:
        """All about one envelope: its text, its times, why it failed. Raises NOT_FOUND."""
        query = f"SELECT {', '.join(TOLD)}, text, user, report_to FROM envelopes WHERE id = ?"
        found = self._store.read(lambda db: db.execute(query, (ident,)).fetchone())
        if found is None:
            raise AegisError(ErrorKind.NOT_FOUND, f"no message `{ident[:80]}`", "see `aegis inbox list`")
        pictures = self._store.read(lambda db: db.execute("SELECT count(*) FROM envelope_images WHERE envelope = ?", (ident,)).fetchone())
        told = _told(found)
        return {**told, "text": found[-3], "size": len(found[-3]), "images": pictures[0], "position": self.position(ident)}

    def find(self, ending: str) -> str:
        """The whole id of the message whose id ends so. Raises NOT_FOUND, CONFLICT when several do."""
        if len(ending) < 4:
            raise AegisError(ErrorKind.NOT_FOUND, f"no message `{ending}`", "give at least four characters of the end of its id")
        rows = self._store.read(
            lambda db: db.execute("SELECT id FROM envelopes WHERE substr(id, ?) = ? LIMIT 2", (-len(ending), ending)).fetchall()
        )
        if len(rows) > 1:
            raise AegisError(ErrorKind.CONFLICT, f"several messages have ids that end in `{ending}`", "give more of the id")
        if not rows:
            raise AegisError(ErrorKind.NOT_FOUND, f"no message `{ending[:80]}`", "see `aegis inbox list`")
        return str(rows[0][0])

    def box(self, instance: str | None, limit: int = 100, *, dead: bool = False, before: int | None = None) -> list[dict[str, Any]]:
        """The newest `limit` envelopes of an instance, or of all, with the times of their states, oldest first.

        Of long texts the beginning; `size` is the number of their characters. `dead`: only dead letters. `before`: a number, `seq`.
        """
        where = ["instance = ?"] if instance is not None else []
        values: list[Any] = [instance] if instance is not None else []
        if dead:
            where.append(f"state IN ({', '.join(repr(str(state)) for state in DEAD)})")
        if before is not None:
            where.append("seq < ?")
            values.append(before)
        query = (
            f"SELECT {', '.join(TOLD)}, substr(text, 1, {SHOWN}), length(text) FROM envelopes "
            f"{'WHERE ' + ' AND '.join(where) if where else ''} ORDER BY seq DESC LIMIT ?"
        )
        rows = self._store.read(lambda db: db.execute(query, (*values, limit)).fetchall())
        return [{**_told(row), "text": row[-2], "size": row[-1]} for row in reversed(rows)]

    def outbox(self, sender: str, limit: int = 100) -> list[dict[str, Any]]:
        """The newest envelopes of one sender, as `str(principal)` names him, oldest first; told as `box` does."""
        query = (
            f"SELECT {', '.join(TOLD)}, substr(text, 1, {SHOWN}), length(text) FROM envelopes WHERE sender = ? ORDER BY seq DESC LIMIT ?"
        )
        rows = self._store.read(lambda db: db.execute(query, (sender, limit)).fetchall())
        return [{**_told(row), "text": row[-2], "size": row[-1]} for row in reversed(rows)]

    def image_sizes(self, ids: Sequence[str]) -> dict[str, int]:
        """How many bytes of pictures came with each of these envelopes that has any."""
        query = f"SELECT envelope, sum(length(data)) FROM envelope_images WHERE envelope IN ({marks(ids)}) GROUP BY envelope"
        return dict(self._store.read(lambda db: db.execute(query, ids).fetchall()))

    async def images(self, instance: str, ids: Sequence[str]) -> dict[str, list[Image]]:
        """The pictures that came with these envelopes of an instance, in the order in which they were sent."""
        query = (
            "SELECT i.envelope, i.media_type, i.data FROM envelope_images i JOIN envelopes e ON e.id = i.envelope "
            f"WHERE e.instance = ? AND i.envelope IN ({marks(ids)}) ORDER BY i.envelope, i.n"
        )
        found: dict[str, list[Image]] = {}
        for ident, media_type, data in await self._store.query(lambda db: db.execute(query, (instance, *ids)).fetchall()):
            found.setdefault(ident, []).append(Image(media_type, data))
        return found

    def oldest(self, turn: str) -> float | None:
        """When the oldest envelope of a turn was accepted, in wall seconds."""
        (ts,) = self._store.read(lambda db: db.execute("SELECT min(accepted_at) FROM envelopes WHERE turn = ?", (turn,)).fetchone())
        return None if ts is None else float(ts)

    def places_with_mail(self) -> list[tuple[str, str]]:
        """Every (instance, session) for which an envelope waits; for the start of the daemon."""
        return self._store.read(
            lambda db: db.execute(
                f"SELECT instance, session FROM envelopes WHERE {WAITS} GROUP BY instance, session ORDER BY min(seq)"
            ).fetchall()
        )

    def sessions(self, instance: str) -> list[str]:
        """The sessions of an instance with an envelope that is not done."""
        rows = self._store.read(
            lambda db: db.execute(
                f"SELECT session FROM envelopes WHERE instance = ? AND {WAITS} "
                "UNION SELECT session FROM envelopes WHERE instance = ? AND done_at IS NULL AND turn IS NOT NULL",
                (instance, instance),
            ).fetchall()
        )
        return [row[0] for row in rows]

    def queued(self, instance: str) -> dict[str, int]:
        """How many envelopes wait, by session."""
        query = f"SELECT session, count(*) FROM envelopes WHERE instance = ? AND {WAITS} GROUP BY session"
        return dict(self._store.read(lambda db: db.execute(query, (instance,)).fetchall()))


def _told(row: Sequence[Any]) -> dict[str, Any]:
    told = dict(zip(TOLD, row, strict=False))
    return {**told, "report": bool(told["report"])}
