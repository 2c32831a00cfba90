"""The pump of one conversation: it reads what the program says, in order, and puts it on record.

During a turn everything belongs to that turn. Between turns there are facts about the session, word that the program works in the
background (which keeps the sandbox awake), and turns that the program begins by itself: those are opened and closed from here. A
turn of ours that was sent meanwhile waits below the program's own until that has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from aegis.core.bounds import MAX_SAID, bounded, count, number, shortened
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import (
    Outcome,
    SessionCompacted,
    SessionContext,
    SessionOpened,
    SessionSettings,
    SessionTitle,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    Usage,
)
from aegis.core.faults import point
from aegis.core.ids import new_id
from aegis.core.text import one_line
from aegis.drivers import Accepted, Acknowledged, Asked, Began, Busy, Died, Finished, Happened, Noted, Record, Withdrawn
from aegis.services.agents import memory, sessions
from aegis.services.agents.asking import Asking
from aegis.services.agents.hearing import Hearing
from aegis.services.agents.holding import Holding
from aegis.services.agents.pace import REQUEST, TURN, Pace, cost_of
from aegis.services.agents.records import put

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from aegis.core.events import Fact
    from aegis.drivers import Conversation, DriverEvent
    from aegis.services.agents.life import Life
    from aegis.store import Tx

_logger = logging.getLogger(__name__)

#: How long a program that was ended may take to say so, in seconds.
_CLOSE_SECONDS: Final = 5.0
#: The most bytes of an error that a program tells, as JSON.
_MAX_ERROR: Final = 64 * 1024
#: A program's name for a session, which becomes an argument of its next start; and what such a name may not be, an option.
_NAME: Final = re.compile(r"[A-Za-z0-9_][\x21-\x7e]{0,199}")
_ABOUT_THE_SESSION: Final = (SessionOpened, SessionSettings, SessionTitle, SessionContext, SessionCompacted)


class Running:
    """A turn while it runs."""

    def __init__(self, envelopes: Collection[str] = (), attempts: int = 0, *, began: float = 0.0, since: float = 0.0) -> None:
        self.id = new_id("turn")
        self.envelopes = set(envelopes)  # those that joined it included
        self.writers: set[tuple[str, str]] = set()  # who wrote them; see `headers`
        self.noted: dict[str, str] = {}  # those that came with the result of a tool which nobody has seen yet, with their headers
        self.shown: set[str] = set()  # those of them whose result the program has shown, and no word of its model since
        self.attempts = attempts
        self.began = began  # by the monotonic clock
        self.since = since  # wall time
        self.accepted = False  # the program has the messages
        self.read: set[str] = set()  # those of which it has told that its model has them
        self.cancelled = False  # somebody cut it
        self.called_off = asyncio.Event()  # the same, for who waits before there is a conversation to be cut
        self.gone = False  # the sandbox was taken away under it
        self.bound: AegisError | None = None  # the bound of ours that it ran into
        #: How the program's work ended; the exception when that could not be recorded.
        self.end: asyncio.Future[Finished | Died] = asyncio.get_running_loop().create_future()
        #: Its end is on record, and what follows may be read.
        self.closed = asyncio.Event()


class Host(Protocol):
    """The session that a pump works for."""

    key: str

    async def own_began(self, pump: Pump) -> Running:
        """The program began a turn by itself: write its beginning."""
        ...

    async def own_ended(self, pump: Pump, turn: Running, end: Finished | Died) -> None:
        """It has ended: write its end."""
        ...

    async def cut(self, pump: Pump, turn: Running) -> None:
        """Let the program end a turn, by force if need be."""
        ...

    def pump_over(self, pump: Pump) -> None:
        """Nothing more comes from this conversation."""
        ...

    def program_reads(self) -> None:
        """The program has the messages of the turn that was sent, and works."""
        ...


class Pump:
    """One conversation that runs."""

    def __init__(self, host: Host, life: Life, conversation: Conversation, *, keeps_memory: bool) -> None:
        self.conversation = conversation
        self.keeps_memory = keeps_memory  # it resumes by its own name of the session
        #: The turn that was sent, and the one that the program began by itself, which goes first.
        self.sent: Running | None = None
        self.own: Running | None = None
        self.background = False  # the program works between turns
        self.asking = Asking(life, host.key, conversation, life.on_change)
        self.hearing = Hearing(life, host.key, lambda: bool(self.asking))
        self.used = life.world.clock.monotonic()  # when a turn last began or ended in it
        self._host = host
        self._life = life
        self._world = life.world
        self._last = ""  # the turn that was last
        self._holding = Holding(life.world.store)
        self._later: dict[str, Callable[[Tx], object]] = {}  # what is put on record behind the next event
        self._context = SessionContext(0)  # as it was told last
        self._pace = Pace(life.world.clock)
        self._ended: Finished | Died | None = None  # how the conversation ended
        self._bounds: asyncio.Task[None] | None = None
        self._task = asyncio.create_task(self._run(), name=f"conversation {host.key} of {life.instance.handle}")

    @property
    def idle(self) -> bool:
        """Whether ending it would cut nothing."""
        return self.sent is None and self.own is None and not self.background and not self.asking

    @property
    def over(self) -> bool:
        """Whether the program has ended."""
        return self._ended is not None

    def begin(self, turn: Running) -> None:
        """From here on what the program says belongs to `turn`, which is sent next."""
        self._holding.release()
        if self._ended is not None:
            turn.end.set_result(self._ended)
            return
        self.sent, self._last = turn, turn.id
        self._bound(turn)

    async def close(self) -> None:
        """End the program, and read to the end what it still says, where that comes soon."""
        self._host.pump_over(self)
        self.asking.drop()
        with contextlib.suppress(AegisError):
            await self.conversation.close()
        await asyncio.wait({self._task}, timeout=_CLOSE_SECONDS)
        await self.abandon()

    async def abandon(self) -> None:
        """Stop reading at once and write nothing more, as a crash would."""
        self.asking.drop()
        self._unbound()
        self._task.cancel()
        await asyncio.wait({self._task})
        self._awake(False)
        if self.own is not None:
            self._life.release()
            self.own.closed.set()
            self.own = None

    async def _run(self) -> None:
        end: Finished | Died = Died(None, "")
        failure: Exception | None = None
        try:
            async for event in self.conversation.events():
                if isinstance(event, Died):
                    end = event
                    break
                if isinstance(event, Finished):
                    self._catch_up()
                await self._take(event)
                if not (isinstance(event, Acknowledged) or (isinstance(event, Happened) and isinstance(event.fact, SessionContext))):
                    self._catch_up()
        except Exception as error:
            failure = error
            if not isinstance(error, AegisError):
                _logger.exception("a defect in a conversation of %s", self._life.instance.handle)
        self._catch_up()
        self._ended = end if failure is None else _failed(failure)
        sent, self.sent = self.sent, None
        link = self._life.link
        if sent is None and self.own is None and isinstance(end, Died) and end.stderr and link is not None and not link.closed.done():
            self._life.log.write(f"the agent's program ended between turns (exit {end.exit}): {one_line(end.stderr[-400:])}")
        self._unbound()
        self.asking.drop()
        with contextlib.suppress(AegisError):
            await self.conversation.close()
        try:
            if self.own is not None:
                await self._end_own(self._ended)
        finally:
            self._awake(False)
            self._host.pump_over(self)
            if sent is not None and not sent.end.done():
                sent.end.set_result(self._ended)

    async def _take(self, event: DriverEvent) -> None:
        self.hearing.heard(event)
        match event:
            case Began():
                await self._pace.spend(TURN)
                if self.own is None and (self.sent is None or not self.sent.accepted):
                    self._life.hold()
                    try:
                        self.own = await self._host.own_began(self)
                    except BaseException:
                        self._life.release()
                        raise
                    self._last = self.own.id
                    self._bound(self.own)
            case Busy(active):
                self._awake(active)
            case Asked():
                await self._pace.spend(REQUEST)
                self.asking.asked((self.own or self.sent).id if self.own or self.sent else self._last, event)  # type: ignore[union-attr]
            case Noted(text):
                await self._pace.spend(cost_of(len(text)))
                self._life.log.write(one_line(text))
            case Withdrawn(request):
                await self.asking.withdrawn(request)
            case Finished():
                await self._finished(_within(event))
            case Accepted() | Acknowledged():
                if self.sent is not None:
                    await self._mail(self.sent, event)
            case Record() | Happened():
                await self._note(self.own or self.sent, event)

    async def _finished(self, end: Finished) -> None:
        self._unbound()
        if self.own is not None:
            self.asking.drop(self.own.id)
            await self._end_own(end)
            if self.sent is not None:
                self._last = self.sent.id
                self._bound(self.sent)
        elif self.sent is not None:
            turn, self.sent = self.sent, None
            self.used = self._world.clock.monotonic()
            self.asking.drop(turn.id)
            if not turn.end.done():
                turn.end.set_result(end)
            await turn.closed.wait()  # so that what follows is numbered after its end

    async def _end_own(self, end: Finished | Died) -> None:
        turn = self.own
        assert turn is not None
        try:
            await self._host.own_ended(self, turn, end)
        finally:
            self.own = None
            self.used = self._world.clock.monotonic()
            self._life.release()
            turn.closed.set()
            self._life.on_change()

    async def _mail(self, turn: Running, event: Accepted | Acknowledged) -> None:
        """The program has the messages, or its model has seen them."""
        mail, place = self._world.mail, self._place(turn)
        if isinstance(event, Acknowledged):
            fresh = turn.envelopes.intersection(event.ids) - turn.read
            if fresh:
                turn.read |= fresh
                ids = [*turn.read]
                self._later["read"] = lambda tx: mail.acknowledged(tx, ids, **place)
            return
        turn.accepted = True
        if self.keeps_memory and event.ids:
            await self._world.store.write(lambda tx: mail.injected(tx, event.ids, **place))
        point("turn.injected")
        self._host.program_reads()

    def _catch_up(self) -> None:
        """Have written what may wait: the first word of an answer follows it at once, and must not wait for the disk because of it."""
        if self._later:
            writes, self._later = [*self._later.values()], {}
            with contextlib.suppress(AegisError):
                self._world.store.put(lambda tx: [write(tx) for write in writes]).add_done_callback(_missed)

    async def _note(self, turn: Running | None, event: Record | Happened) -> None:
        """Put one thing that happened on record, in the order in which it did."""
        store, mail, place = self._world.store, self._world.mail, self._place(turn)
        match event:
            case Record(n, message, facts):
                if turn is None:
                    return
                self._release(place)

                def record(tx: Any) -> None:
                    memory.append(tx, **place, ts=self._world.clock.now(), message=message)
                    if message.get("ids"):
                        mail.injected(tx, message["ids"], **place)
                    if shown:
                        mail.injected(tx, shown, **place)
                    for fact in facts:
                        put(tx, bounded(fact), **place)

                shown = _shown(turn, facts)
                await store.write(record)
                self._noticed(turn, shown, facts)
                point("turn.message")
                await self.conversation.committed(n)
            case Happened(Usage() as usage):
                # The broker saw every call itself, unless the program speaks to its provider with a login of its own.
                if self._life.instance.launch.auth == "login":
                    await self._world.models.tell(self._life.instance, self._host.key, turn.id if turn else None, usage)
            case Happened(said):
                fact = bounded(said)
                if isinstance(fact, _ABOUT_THE_SESSION):
                    await self._pace.spend(1.0)
                    await self._about_the_session(fact, turn)
                elif turn is None:
                    _logger.debug("%s outside of a turn of %s", fact.type, self._life.instance.handle)
                elif fact.ephemeral:
                    if (piece := self._holding.pass_on(fact)) is not None:
                        store.emit(piece, **place)
                else:
                    self._release(place)
                    await self._pace.spend(cost_of(len(msgspec.json.encode(fact))))
                    shown = _shown(turn, [said])

                    def happened(tx: Tx) -> None:
                        put(tx, fact, **place)
                        if shown:
                            mail.injected(tx, shown, **place)

                    await store.write(happened)
                    self._noticed(turn, shown, [said])
                    if isinstance(fact, ToolResult):
                        await self._count(turn)

    def _release(self, place: dict[str, Any]) -> None:
        """Something whole follows the pieces of it."""
        for piece in self._holding.release():
            self._world.store.emit(piece, **place)

    def _noticed(self, turn: Running, shown: list[str], facts: Sequence[Fact]) -> None:
        """Messages that came with the results of tools: the next word of the model shows that it has read them."""
        if turn.shown and any(isinstance(fact, Text | Thinking | ToolCall) and fact.parent is None for fact in facts):
            turn.read |= turn.shown
            turn.shown = set()
            ids, mail, place = [*turn.read], self._world.mail, self._place(turn)
            self._later["read"] = lambda tx: mail.acknowledged(tx, ids, **place)
        turn.shown.update(shown)
        for ident in shown:
            del turn.noted[ident]

    async def _about_the_session(self, fact: Fact, turn: Running | None) -> None:
        columns: dict[str, Any] = {}
        if isinstance(fact, SessionContext):
            fact = SessionContext(fact.used, fact.size or self._context.size)
            if fact == self._context:
                return
            self._context = fact
        match fact:
            case SessionOpened(program_session=name):
                if not _NAME.fullmatch(name):
                    return
                columns = {"program_session": name}
            case SessionTitle(title):
                columns = {"title": title}
            case SessionContext(used, size):
                columns = {"context_used": used, "context_size": size}
            case SessionSettings(mode=mode) if mode and mode != self.conversation.opened.mode and self._known(mode):
                columns = {"mode": mode}
        place = self._place(turn)

        def store(tx: Any) -> None:
            if columns:
                sessions.change(tx, self._life.instance.id, self._host.key, self._world.clock.now(), **columns)
            tx.append(fact, **place)

        if isinstance(fact, SessionContext) and turn is not None:
            self._later["context"] = store
        else:
            await self._world.store.write(store)

    def _known(self, mode: str) -> bool:
        """Whether the program can be started in a mode: it says what it likes, and must not be kept from starting by that."""
        driver = self._world.drivers.get(self._life.instance.launch.driver or "")
        if driver is None or mode not in driver.capabilities.modes:
            return False
        return self._life.instance.launch.approvals != "ask" or mode not in driver.capabilities.unasking

    def _place(self, turn: Running | None) -> dict[str, Any]:
        return {"instance": self._life.instance.id, "session": self._host.key, "turn": turn.id if turn else None}

    def _awake(self, active: bool) -> None:
        """Hold the sandbox, or let go of it."""
        if active != self.background:
            self.background = active
            if active:
                self._life.hold()
            else:
                self._life.release()
            self._life.on_change()

    # The bounds of a turn. Aegis's own agent keeps them itself.

    def _bound(self, turn: Running) -> None:
        self._unbound()
        self.hearing.begin(turn.id)
        if self.keeps_memory:
            self._bounds = asyncio.create_task(self._overdue(turn), name=f"the time of {turn.id}")

    def _unbound(self) -> None:
        self.hearing.end()
        if self._bounds is not None:
            self._bounds.cancel()
            self._bounds = None

    async def _overdue(self, turn: Running) -> None:
        seconds = self._life.instance.launch.turn.turn_seconds
        await self.asking.spend(self._world.clock, seconds)
        turn.bound = AegisError(
            ErrorKind.TIMEOUT, f"the turn's time limit of {seconds:g} s is reached", "raise `turn_seconds`", limit="turn_seconds"
        )
        await self._host.cut(self, turn)

    async def _count(self, turn: Running) -> None:
        """Cut a turn that has made all the model calls that it may."""
        rounds = self._life.instance.launch.turn.rounds
        if not self.keeps_memory or turn.bound is not None:
            return
        if self._world.store.read(lambda db: self._world.models.totals(db, turn=turn.id)["calls"]) >= rounds:
            turn.bound = AegisError(ErrorKind.LIMIT, f"the limit of {rounds} rounds is reached", "raise `rounds`", limit="rounds")
            await self._host.cut(self, turn)


def _shown(turn: Running, facts: Sequence[Fact]) -> list[str]:
    """The envelopes that came with the results of these tools."""
    outputs = [fact.output for fact in facts if isinstance(fact, ToolResult)] if turn.noted else []
    return [ident for ident, header in turn.noted.items() if any(header in output for output in outputs)]


def _within(end: Finished) -> Finished:
    """The end of a turn, no larger than one may be."""
    cost = None if end.cost_usd is None else number(end.cost_usd)
    return msgspec.structs.replace(
        end,
        text=end.text[:MAX_SAID],
        error=None if end.error is None else shortened(end.error, _MAX_ERROR),
        reason=one_line(end.reason[:1000]),
        rounds=count(end.rounds),
        input=count(end.input),
        output=count(end.output),
        cached=count(end.cached),
        cost_usd=cost,
    )


def _missed(written: asyncio.Future[Any]) -> None:
    """Take note of what could not be written and nobody waits for; what follows it meets the same."""
    if not written.cancelled() and (error := written.exception()) is not None:
        _logger.debug("not on record: %s", error)


def _failed(error: Exception) -> Finished:
    defect = AegisError(ErrorKind.INTERNAL, f"a defect in Aegis: {type(error).__name__}", "see `aegisd.log` in the home")
    told = error if isinstance(error, AegisError) else defect
    return Finished(Outcome.FAILED, error=told.to_dict())
