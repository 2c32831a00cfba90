"""Owner of the tables `attention` and `attention_seen` and of the event `attention.raised`."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

import msgspec

from aegis.core.errors import AegisError
from aegis.core.events import ApprovalDecided, Event, InstanceDeleted, InstanceHeld
from aegis.core.events import Attention as Raised
from aegis.core.text import one_line
from aegis.services.attention.finding import TYPES, Finding
from aegis.services.attention.model import TEXT, Notice, summary, together
from aegis.services.attention.quiet import quiet_until
from aegis.services.config import NotifyDefinition

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import tzinfo

    from aegis.core.clock import Clock
    from aegis.core.principals import Principal
    from aegis.services.agents import Instance
    from aegis.services.attention.channels import Channels
    from aegis.services.gate import Gate
    from aegis.store import Store, Tx

_logger = logging.getLogger(__name__)

#: After something happened the log is read so much later, in seconds: much happens at once.
PAUSE: Final = 0.5
#: How long a notice waits, in seconds, for an answer that makes it needless and for others to come with it.
HOLD: Final = 2.0
#: What comes sooner than this after the last notices, in seconds, is told together.
GAP: Final = 5.0
#: How often, in seconds, the clock is looked at while something waits for it: people set clocks, and machines sleep.
RECHECK: Final = 60.0
#: How long it waits after something went wrong, in seconds.
RETRY: Final = 15.0
#: How many notices are given to programs at a time.
AT_ONCE: Final = 4
#: Notices that are told together at most, events that are read at a time, and notices that are kept.
_MANY: Final = 1000
_PAGE: Final = 500
_KEPT: Final = 2000
#: After so many events without news the place up to which the log was read is written down, so that a start need not read them again.
_FAR: Final = 50_000
_GIVEN: Final = ("kind", "instance", "cause", "session", "turn", "handle", "text", "since")
_COLUMNS: Final = "id, kind, instance, cause, session, turn, handle, text, state, since, told_at"


class Attention:
    """Tells a person what he wants to be told.

    Args:
        store, clock, gate: as everywhere.
        channels: the programs that notices are given to.
        settings: what the person wants, asked each time.
        find, ancestors: see `Finding`.
        zone: the time zone of quiet hours, this machine's unless given.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        gate: Gate,
        channels: Channels,
        settings: Callable[[], NotifyDefinition],
        find: Callable[[str], Instance | None],
        ancestors: Callable[[str], list[Instance]],
        zone: tzinfo | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._gate = gate
        self._channels = channels
        self._settings = settings
        self._find = find
        self._ancestors = ancestors
        self._zone = zone
        self._last = NotifyDefinition()  # settings that could be read
        self._seen = self._written = store.read(lambda db: int(db.execute("SELECT seq FROM attention_seen").fetchone()[0]))
        self._told_at = float("-inf")  # by the monotonic clock
        self._was_quiet = False  # something waits because the hours were quiet
        self._sending: set[asyncio.Task[None]] = set()
        self._troubles: dict[str, str] = {}  # what is wrong with a channel, as it was told

    async def run(self) -> None:
        """Follow the log until cancelled. Does nothing at all while nothing happens."""
        try:
            await self._patiently(self._finish_sending)
            while True:
                head = self._store.head
                await self._patiently(self._read)
                wait = await self._patiently(self._tell)
                await self._rest(head, RECHECK if wait is None else wait)
        finally:
            for task in self._sending:
                task.cancel()
            await asyncio.gather(*self._sending, return_exceptions=True)

    async def newest(self, limit: int = 100) -> list[dict[str, Any]]:
        """The newest notices, oldest first: those that wait, were told, or were answered before they were."""
        rows = await self._store.query(
            lambda db: db.execute(f"SELECT {_COLUMNS} FROM attention ORDER BY id DESC LIMIT ?", (limit,)).fetchall()
        )
        return [msgspec.to_builtins(_notice(row)) for row in reversed(rows)]

    async def add(self, notice: Notice) -> None:
        """Tell a person something that is not in the log."""
        settings = self._wanted()
        await self._store.write(lambda tx: self._insert(tx, notice, settings))

    async def test(self, principal: Principal, kind: str) -> dict[str, Any]:
        """Give a notice of that kind to every channel that is on, whatever the hour; says of each how it went."""
        await self._gate.pass_through(principal, "attention.test", kind)
        settings = self._wanted()
        notice = Notice(kind=kind, instance="", cause="test", handle="test", text=f"a test of Aegis ({kind})", since=self._clock.now())
        await self._store.write(lambda tx: tx.append(Raised(kind, notice.text, notice.handle, settings.bell)))
        told = {"bell": {"on": settings.bell, "ok": True, "detail": "`aegis watch` and `aegis chat` ring" if settings.bell else ""}}
        for name in ("desktop", "command"):
            wanted = bool(getattr(settings, name))
            told[name] = {"on": wanted, "ok": True, "detail": ""}
            if wanted:
                try:
                    await self._give(name, settings, notice.text, [notice])
                except AegisError as error:
                    told[name] |= {"ok": False, "detail": error.message + (f"; {error.hint}" if error.hint else "")}
        quiet = quiet_until(settings.quiet, self._clock.now(), self._zone)
        return {"channels": told, "on": settings.on, "quiet_until": quiet}

    # Reading the log.

    async def _read(self) -> None:
        """Make rows of what happened since the last look."""
        while (head := self._store.head) > self._seen:
            await self._read_page(self._seen, head)

    async def _read_page(self, after: int, head: int) -> None:
        events, notices = await self._store.query(lambda db: self._page(db, after, head))
        upto = events[-1].seq if len(events) == _PAGE else head
        if events or upto - self._written > _FAR:
            settings = self._wanted()
            await self._store.write(lambda tx: self._note(tx, events, notices, upto, settings))
            self._written = upto
        self._seen = upto

    def _page(self, db: Any, after: int, head: int) -> tuple[list[Event], list[Notice]]:
        marks = ", ".join("?" * len(TYPES))
        rows = db.execute(
            "SELECT seq, ts, type, CAST(data AS BLOB), instance, session, turn FROM events "
            f"WHERE seq > ? AND seq <= ? AND type IN ({marks}) ORDER BY seq LIMIT ?",
            (after, head, *TYPES, _PAGE),
        ).fetchall()
        events = [Event(seq, ts, kind, msgspec.Raw(data), *place) for seq, ts, kind, data, *place in rows]
        finding = Finding(self._find, self._ancestors, db)
        return events, [notice for event in events if (notice := finding.notice(event)) is not None]

    def _note(self, tx: Tx, events: Sequence[Event], notices: Sequence[Notice], upto: int, settings: NotifyDefinition) -> None:
        for notice in notices:
            self._insert(tx, notice, settings)
        for event in events:
            if event.type == ApprovalDecided.type:
                _answer(
                    tx,
                    "kind = 'needs-you' AND substr(cause, 1, instr(cause || '#', '#') - 1) = ?",
                    msgspec.json.decode(event.data)["approval_id"],
                )
            elif event.type == InstanceHeld.type and msgspec.json.decode(event.data)["state"] in ("released", "dropped"):
                _answer(tx, "kind = 'needs-you' AND cause = ?", msgspec.json.decode(event.data)["held_id"])
            elif event.type == InstanceDeleted.type:
                _answer(tx, "instance = ?", event.instance)
        tx.execute("UPDATE attention_seen SET seq = ?", (upto,))

    def _insert(self, tx: Tx, notice: Notice, settings: NotifyDefinition) -> None:
        """A row for a notice that is wanted and was not told lately."""
        now = self._clock.now()
        known = tx.execute(
            "SELECT 1 FROM attention WHERE instance = ? AND kind = ? AND cause = ? AND (state = 'waiting' OR since > ?)",
            (notice.instance, notice.kind, notice.cause, now - settings.again),
        ).fetchone()
        if known is None and notice.kind in settings.on:
            tx.execute(
                "INSERT INTO attention (kind, instance, cause, session, turn, handle, text, since, due) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*(getattr(notice, name) for name in _GIVEN), now + HOLD),
            )

    # Telling.

    async def _tell(self) -> float:
        """Tell what is due; returns after how many seconds to look again, a long time when nothing waits."""
        now = self._clock.now()
        rows = self._store.read(
            lambda db: db.execute(f"SELECT {_COLUMNS}, due FROM attention WHERE state = 'waiting' ORDER BY id LIMIT ?", (_MANY,)).fetchall()
        )
        if not rows:
            self._was_quiet = False
            return 3600.0
        settings = self._wanted()
        until = quiet_until(settings.quiet, now, self._zone)
        if until is not None:
            self._was_quiet = True
            return min(until - now, RECHECK)
        first = min(float(row[-1]) for row in rows)
        gap = self._told_at + GAP - self._clock.monotonic()
        if first - HOLD > now:  # the clock was set back
            first = now
        if (wait := max(first - now, gap)) > 0:
            return min(wait, RECHECK)
        if len(self._sending) >= AT_ONCE:
            await asyncio.wait(self._sending, return_when=asyncio.FIRST_COMPLETED)
            return 0.0
        due = [_notice(row[:-1]) for row in rows if row[-1] <= now or row[-1] - HOLD > now]
        wanted = together([notice for notice in due if notice.kind in settings.on])
        await self._store.write(lambda tx: self._raise(tx, due, wanted, settings))
        self._told_at = self._clock.monotonic()
        if wanted:
            text, self._was_quiet = summary(wanted, quiet=self._was_quiet), False
            self._send(settings, text, wanted, [notice.id for notice in due])
        return 0.0 if len(rows) == _MANY else HOLD

    def _raise(self, tx: Tx, due: Sequence[Notice], wanted: Sequence[Notice], settings: NotifyDefinition) -> None:
        now = self._clock.now()
        sent = None if wanted and (settings.desktop or settings.command) else now
        tx.executemany(
            "UPDATE attention SET state = 'told', told_at = ?, sent_at = ? WHERE id = ? AND state = 'waiting'",
            [(now, sent, notice.id) for notice in due],
        )
        for notice in wanted:
            place = {"instance": notice.instance or None, "session": notice.session, "turn": notice.turn}
            tx.append(Raised(notice.kind, notice.text, notice.handle, settings.bell), **place)
        newest = max((notice.id for notice in due), default=0)
        tx.execute("DELETE FROM attention WHERE state != 'waiting' AND id <= ?", (newest - _KEPT,))

    async def _finish_sending(self) -> None:
        """What a dead daemon told and did not see through: a request that still waits is given to the channels again."""
        rows = self._store.read(
            lambda db: db.execute(
                f"SELECT {_COLUMNS}, kind = 'needs-you' AND EXISTS (SELECT 1 FROM approvals "
                "WHERE id = substr(cause, 1, instr(cause || '#', '#') - 1) AND state = 'pending') "
                "FROM attention WHERE state = 'told' AND sent_at IS NULL ORDER BY id"
            ).fetchall()
        )
        if rows:
            ids = [row[0] for row in rows]
            again = together([_notice(row[:-1]) for row in rows if row[-1]])
            if again:
                self._send(self._wanted(), summary(again, quiet=False), again, ids)
            else:
                await self._sent(ids)

    def _send(self, settings: NotifyDefinition, text: str, notices: Sequence[Notice], ids: Sequence[int]) -> None:
        names = [name for name in ("desktop", "command") if getattr(settings, name)]
        if names:
            task = asyncio.create_task(self._deliver(names, settings, text, notices, ids), name="attention")
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _deliver(
        self, names: Sequence[str], settings: NotifyDefinition, text: str, notices: Sequence[Notice], ids: Sequence[int]
    ) -> None:
        for name in names:
            try:
                await self._give(name, settings, text, notices)
            except AegisError as error:
                await self._trouble(name, error.message, settings)
            except Exception:
                _logger.exception("a defect in the channel %s", name)
            else:
                self._troubles.pop(name, None)
        await self._sent(ids)

    async def _give(self, name: str, settings: NotifyDefinition, text: str, notices: Sequence[Notice]) -> None:
        if name == "desktop":
            await self._channels.desktop(text, notices)
        else:
            await self._channels.command(settings.command, text, notices)

    async def _sent(self, ids: Sequence[int]) -> None:
        try:
            await self._store.write(
                lambda tx: tx.executemany("UPDATE attention SET sent_at = ? WHERE id = ?", [(self._clock.now(), i) for i in ids])
            )
        except AegisError as error:
            _logger.warning("that notices were sent is not on record: %s", error.message)

    async def _trouble(self, name: str, message: str, settings: NotifyDefinition) -> None:
        """A channel does not work: log it, and show it once, until it worked again."""
        _logger.warning("notices cannot be given to `notify.%s`: %s", name, message)
        if self._troubles.get(name) == message:
            return
        self._troubles[name] = message
        text = one_line(f"notices cannot be given to `notify.{name}`: {message}", TEXT)
        try:
            await self._store.write(lambda tx: tx.append(Raised("failed", text, "", settings.bell)))
        except AegisError as error:
            _logger.warning("and that is not on record: %s", error.message)

    # The rest.

    def _wanted(self) -> NotifyDefinition:
        """The settings, the last that could be read where somebody is in the middle of editing them."""
        try:
            self._last = self._settings()
        except AegisError as error:
            if self._troubles.get("settings") != error.message:
                self._troubles["settings"] = error.message
                _logger.warning("the settings of notices cannot be read, the earlier ones count: %s", error.message)
        else:
            self._troubles.pop("settings", None)
        return self._last

    async def _rest(self, head: int, seconds: float) -> None:
        if seconds > 0:
            await self._store.wait(head, timeout=seconds)
            await self._clock.sleep(min(seconds, PAUSE))

    async def _patiently(self, step: Callable[[], Any]) -> Any:
        """Take a step. A full disk or a defect stops nothing for good."""
        try:
            return await step()
        except AegisError as error:
            _logger.warning("notices wait: %s", error.message)
        except Exception:
            _logger.exception("a defect in attention; it goes on")
        await self._clock.sleep(RETRY)
        return None


def _notice(row: Sequence[Any]) -> Notice:
    return Notice(**dict(zip(_COLUMNS.split(", "), row, strict=True)))


def _answer(tx: Tx, where: str, value: Any) -> None:
    """Nobody needs to be told any more."""
    tx.execute(f"UPDATE attention SET state = 'answered' WHERE state = 'waiting' AND {where}", (value,))
