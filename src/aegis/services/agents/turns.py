"""One session of one instance: its turns, one after the other, and the conversation they happen in.

A worker runs while there is something to do and ends when there is not; `kick` starts it again. Every turn is a row: open while it
runs, closed exactly once. The row is what recovery goes by: a turn whose outcome is `interrupted` or `limited` and whose envelopes
are not done waits for its continuation. A turn that the program begins by itself has no envelopes; the worker lets it go first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import Outcome, TurnPresence
from aegis.core.faults import point
from aegis.core.ids import new_id
from aegis.drivers import Finished, Message
from aegis.services.agents import records, sessions
from aegis.services.agents.conversing import Pump, Running
from aegis.services.agents.opening import Opening
from aegis.services.agents.portions import joinable, portion
from aegis.services.agents.verdicts import MAX_ATTEMPTS, limited, verdict
from aegis.services.mail import Joined, headers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from aegis.core.envelopes import Envelope
    from aegis.drivers import Died, Listening
    from aegis.sandboxes.link import Link
    from aegis.services.agents.life import Life
    from aegis.services.agents.records import Cut
    from aegis.store import Tx

__all__ = ["MAX_ATTEMPTS", "Session"]

T = TypeVar("T")
_logger = logging.getLogger(__name__)

#: How long a program may take to end a turn that was interrupted before it is killed, in seconds.
INTERRUPT_GRACE: Final = 5.0
#: How long what a full disk or a defect stopped waits until it is tried again, in seconds: at first, and at most.
FIRST_RETRY: Final = 0.25
LAST_RETRY: Final = 15.0
#: The most messages that a program is handed at once in the middle of a turn.
_AT_ONCE: Final = 64
#: What a program is told that had to begin anew.
_FORGOTTEN: Final = "[Aegis: the conversation before this message is lost, and you do not know it. Ask if you need something of it.]"


class Session:
    """The worker of one session."""

    def __init__(self, life: Life, key: str, make_room: Callable[[Session], Awaitable[None]]) -> None:
        self.life = life
        self.key = key
        self.stale = False  # it was told settings that its program takes only when it is started anew
        self._make_room = make_room  # see that one more program may run
        self._world = life.world
        self._instance = life.instance
        self._task: asyncio.Task[None] | None = None
        self._running: Running | None = None  # the turn, from the moment its envelopes are chosen
        self._pump: Pump | None = None
        self._pumps: set[Pump] = set()  # with those whose sandbox has gone and that still write down the end
        self._changing = asyncio.Lock()  # held while the program is started or ended
        self._joining = asyncio.Lock()  # held while mail is taken into the turn that runs

    @property
    def turn(self) -> str | None:
        """The turn that runs, or that is about to."""
        own = self._pump.own if self._pump is not None else None
        running = own or self._running
        return running.id if running is not None else None

    @property
    def background(self) -> bool:
        """Whether the program works between turns."""
        return self._pump is not None and self._pump.background

    @property
    def pump(self) -> Pump | None:
        """The conversation that runs."""
        return self._pump

    @property
    def model(self) -> str | None:
        """The full name of the model that the session uses."""
        return sessions.row(self._world.store, self._instance.id, self.key).model or self._instance.launch.model

    @property
    def provider(self) -> str:
        """Who gives it, by the name that limits are kept under."""
        return self._instance.launch.supply(self.model)

    def kick(self) -> None:
        """See to it that a worker looks for work, and that the sandbox of one that has some is not frozen."""
        self.life.rouse()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work(), name=f"session {self._instance.handle} {self.key}")

    async def rest(self, seconds: float) -> None:
        """Return when the worker has nothing to do, or after so many seconds."""
        if self._task is not None:
            patience = asyncio.ensure_future(self._world.clock.sleep(seconds))
            try:
                await asyncio.wait({self._task, patience}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                patience.cancel()

    async def interrupt(self, *, sparing: str | None = None) -> bool:
        """Cut the running turn; it ends as `cancelled`. False when none runs, or one that deals with the envelope `sparing`.

        A turn that waits for its provider is tried at once instead.
        """
        pump = self._pump
        turn = pump.own if pump is not None and pump.own is not None else self._running
        if turn is None and sparing is None and self.held() and records.cut_turn(self._world.store, self._instance.id, self.key):
            await self._world.limits.lift(self.provider)
            self.kick()
            return True
        if turn is None or sparing in turn.envelopes:
            return False
        turn.cancelled = True
        turn.called_off.set()
        if pump is not None:
            await self.cut(pump, turn)
        return True

    async def over(self, turn: str) -> None:
        """Return when the turn with this id does not run, or not any more."""
        for running in (self._running, self._pump.own if self._pump is not None else None):
            if running is not None and running.id == turn:
                await running.closed.wait()

    async def cut(self, pump: Pump, turn: Running) -> None:
        """Let the program end a turn; it is killed when that takes too long."""
        self.life.spawn(self._insist(pump, turn))
        pump.asking.drop(turn.id)
        with contextlib.suppress(AegisError):  # a sandbox that does not wake has nothing to be told; the turn ends without it
            await self._world.approvals.withdraw(instance=self._instance.id, session=self.key, reason="the turn was interrupted")
            await self.life.awake()
            if turn in (pump.own, pump.sent):
                await pump.conversation.interrupt()

    async def halt(self) -> None:
        """Stop working at once and leave everything as a crash would; for when the sandbox is stopped next."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, AegisError):
                await task
        self._pump = None
        for pump in list(self._pumps):
            await pump.abandon()
        self._pumps.clear()

    async def retire(self) -> bool:
        """End the program if that cuts nothing; the next turn resumes it. False when it works."""
        if self._running is not None or self._changing.locked():  # never wait for one that may wait for us
            return False
        async with self._changing:
            if self._running is not None or self._pump is None or not self._pump.idle:
                return False
            await self._pump.close()
            return True

    async def configure(self, *, model: str | None, mode: str | None, effort: str | None) -> None:
        """Change what the running program uses, at once or with its next turn. Raises what the program has against it."""
        if self._pump is None:
            return
        async with self.life.holding():
            pump = self.pump  # it may have ended while the sandbox woke
            if pump is None:
                return
            try:
                await pump.conversation.configure(model=model, mode=mode, effort=effort)
            except AegisError as error:
                if error.kind is not ErrorKind.CONFLICT:
                    raise
                self.stale = True

    def sandbox_gone(self) -> None:
        """The sandbox was taken away: the running turn is cut short, not failed."""
        pump, self._pump = self._pump, None
        for turn in (self._running, pump.own if pump is not None else None):
            if turn is not None:
                turn.gone = True

    # Mail that comes while a turn runs.

    async def join(self, limit: int, how: int, *, pictures: bool = True) -> list[Envelope]:
        """Take waiting envelopes into the turn that runs, oldest first; none when none runs that could read them.

        `how` is one of `Joined`; without `pictures` only those before the first that has any.
        """
        async with self._joining:
            turn = self._reading
            envelopes = joinable(self._world.mail, self._instance.id, self.key, limit, how, pictures=pictures) if turn else []
            if turn is None or not envelopes:
                return []
            ids = [e.id for e in envelopes]
            try:
                taken = set(await self._world.store.write(lambda tx: records.joins(self._world, tx, turn.id, ids, how)))
                point("mail.joined")
            except BaseException:  # who asked has gone: nobody would read them in this turn
                self.life.spawn(self._give_back(turn, ids))
                raise
            envelopes = [e for e in envelopes if e.id in taken]
            turn.envelopes |= taken
            if how == Joined.NOTE:
                turn.noted |= {e.id: headers.header(e) for e in envelopes}
            return envelopes

    def pass_on(self) -> None:
        """Let the program have what waits, if it takes messages in the middle of a turn."""
        if self._listens and self._reading is not None and self._world.mail.waits(self._instance.id, self.key):
            self.life.spawn(self._pass_on())

    async def _pass_on(self) -> None:
        envelopes = await self.join(_AT_ONCE, Joined.MESSAGE)
        turn, pump = self._running, self._pump
        if envelopes and turn is not None and pump is not None and pump.sent is turn:
            messages = await self._messages(envelopes, turn)
            await cast("Listening", pump.conversation).add(turn.id, messages)

    async def _give_back(self, turn: Running, ids: list[str]) -> None:
        place = {"instance": self._instance.id, "session": self.key}
        await self._world.store.write(lambda tx: self._world.mail.requeue(tx, turn.id, ids=ids, **place))
        turn.envelopes.difference_update(ids)

    @property
    def _reading(self) -> Running | None:
        """The turn whose program can be told something now."""
        pump = self._pump
        turn = pump.own or pump.sent if pump is not None else None
        readable = turn is not None and not turn.cancelled and not turn.gone and (turn.accepted or turn is (pump and pump.own))
        return turn if readable else None

    @property
    def _listens(self) -> bool:
        driver = self._world.drivers.get(self._instance.launch.driver or "")
        return driver is not None and driver.capabilities.mid_turn_input

    @property
    def _forgets(self) -> bool:
        driver = self._world.drivers.get(self._instance.launch.driver or "")
        return driver is not None and driver.capabilities.forgets_failed

    def held(self) -> float | None:
        """Until when the provider gives nothing more, or a budget that frees by itself is used up."""
        provider, budget = self._world.limits.held(self.provider), self._world.budgets.held(self._instance.id, self.key)
        return max(provider, budget) if provider is not None and budget is not None else provider or budget

    # What the conversation tells; see `conversing.Host`.

    async def own_began(self, pump: Pump) -> Running:
        """The program began a turn by itself."""
        turn = Running(began=self._world.clock.monotonic(), since=self._world.clock.now())
        await self._world.store.write(lambda tx: records.open_own(self._world, tx, turn.id, instance=self._instance.id, session=self.key))
        self.life.on_change()
        return turn

    async def own_ended(self, pump: Pump, turn: Running, end: Finished | Died) -> None:
        """Such a turn has ended. Nobody waits for it, so it is never continued."""
        if (link := self.life.link) is None or link.closed.done():
            turn.gone = True
        await self._close(turn, end)
        if self._world.mail.waits(self._instance.id, self.key):
            self.kick()

    def program_reads(self) -> None:
        """The program has the messages of its turn: it can have what came meanwhile."""
        self.pass_on()

    def pump_over(self, pump: Pump) -> None:
        """Nothing more comes from a conversation."""
        self._pumps.discard(pump)
        if self._pump is pump:
            self._pump = None

    # The worker.

    async def _insist(self, pump: Pump, turn: Running) -> None:
        await self._world.clock.sleep(INTERRUPT_GRACE)
        if turn in (pump.own, pump.sent):
            await pump.conversation.close()

    async def _work(self) -> None:
        while True:
            try:
                if not await self._work_once():
                    self._task = None  # nothing awaits between the look and this line, so no wake-up is lost
                    return
            except Exception:
                _logger.exception("a defect in the worker of session %s of %s; it goes on", self.key, self._instance.handle)
                await self._drop()
                await self._world.clock.sleep(1.0)

    async def _work_once(self) -> bool:
        """Run one turn if there is work; False when there is none."""
        while self._pump is not None and self._pump.own is not None:  # its own turn goes first
            await self._pump.own.closed.wait()
        cut = records.cut_turn(self._world.store, self._instance.id, self.key)
        envelopes = self._world.mail.of_turn(cut.id) if cut else portion(self._world.mail, self._instance.id, self.key)
        if not envelopes or not self._instance.enabled:
            return False
        if self.held():
            self.life.on_change()
            return False
        await self._run(envelopes, cut)
        return True

    async def _run(self, envelopes: Sequence[Envelope], cut: Cut | None) -> None:
        """One turn, from its row to its end."""
        clock = self._world.clock
        attempts = cut.attempts + (cut.outcome == Outcome.INTERRUPTED) if cut else 0
        turn = self._running = Running({e.id for e in envelopes}, attempts, began=clock.monotonic(), since=clock.now())
        try:
            ids = [e.id for e in envelopes]

            def begin(tx: Tx) -> list[str]:
                point("turn.start.before")
                return records.open_turn(self._world, tx, turn.id, ids, cut, attempts, instance=self._instance.id, session=self.key)

            taken = await self._written(begin)
            envelopes = [e for e in envelopes if e.id in taken]
            if envelopes:
                self.life.on_change()
                await self._close(turn, await self._outcome(turn, envelopes, continues=cut is not None))
        finally:
            self._running = None
            turn.closed.set()
        self.life.on_change()
        point("turn.finish.after")

    async def _outcome(self, turn: Running, envelopes: Sequence[Envelope], *, continues: bool) -> Finished | Died:
        """Let the program work; whatever goes wrong is an outcome."""
        link: Link | None = None
        end: Finished | Died
        try:
            point("turn.start.after")
            try:
                self._world.budgets.check(self._instance.id, self.key)
            except AegisError as error:
                self._world.budgets.note(turn.id, error)
                return Finished(Outcome.LIMITED, error=error.to_dict())
            async with self.life.holding() as link:
                turn.gone = False  # what went before it was awake did not touch this turn
                end = await self._converse(link, turn, envelopes, continues=continues)
        except AegisError as error:
            await self._drop()
            if error.kind is ErrorKind.INTERRUPTED or not self._instance.enabled:
                turn.gone = True
            end = Finished(Outcome.FAILED, error=error.to_dict())
        except Exception as error:
            _logger.exception("a defect in turn %s", turn.id)
            await self._drop()
            defect = AegisError(ErrorKind.INTERNAL, f"a defect in Aegis: {type(error).__name__}", "see `aegisd.log` in the home")
            end = Finished(Outcome.FAILED, error=defect.to_dict())
        if link is not None and link.closed.done():
            turn.gone = True  # the worker may hear of it before the instance's life does
        return end

    async def _converse(self, link: Link, turn: Running, envelopes: Sequence[Envelope], *, continues: bool) -> Finished | Died:
        messages = await self._messages(envelopes, turn)
        joined = self._world.mail.joined(turn.id) if continues else frozenset()  # the program has those; it got them otherwise
        pending = [message for message in messages if message.id not in joined]
        pump, opening = await self._ready(link, turn, pending if continues else [])
        known: frozenset[str] = frozenset()
        if continues:
            known = opening.known if opening is not None and opening.known is not None else await self._known(envelopes)
        # One that runs still and forgot them is told them again, with the word that they were begun.
        forgot = opening is None and self._forgets
        if not (opening is not None and opening.forgotten):
            known |= joined
        messages = [message for message in messages if forgot or message.id not in known]
        if opening is not None and opening.forgotten and messages:
            messages.insert(0, Message(new_id("note"), _FORGOTTEN))
        if turn.cancelled:  # the program heard nothing of the turn, so it could not be told of its end
            return Finished(Outcome.CANCELLED)
        pump.begin(turn)
        await pump.conversation.send(turn.id, messages, continues=continues and bool(known))
        point("turn.sent")
        return await turn.end

    async def _messages(self, envelopes: Sequence[Envelope], turn: Running) -> list[Message]:
        ids = [e.id for e in envelopes]
        images = await self._world.mail.images(self._instance.id, ids) if self._world.mail.image_sizes(ids) else {}
        turn.writers |= headers.writers(envelopes)
        texts = headers.in_turn(envelopes, named=len(turn.writers) > 1)
        return [Message(e.id, text, images.get(e.id, [])) for e, text in zip(envelopes, texts, strict=True)]

    async def _ready(self, link: Link, turn: Running, pending: list[Message]) -> tuple[Pump, Opening | None]:
        """The conversation; started, and with what is known of its start, if it is not running."""
        async with self._changing:
            if self._pump is not None and (self._pump.over or (self.stale and self._pump.idle)):
                await self._pump.close()
            if self._pump is not None:
                return self._pump, None
            await self._make_room(self)
            opening = Opening(self.life, self.key)
            conversation = await _unless_called_off(turn, opening.start(link, turn.id, pending))
            self.stale = False
            self._pump = Pump(self, self.life, conversation, keeps_memory=opening.keeps_memory)
            self._pumps.add(self._pump)
            return self._pump, opening

    async def _drop(self) -> None:
        async with self._changing:
            if self._pump is not None:
                await self._pump.close()

    async def _known(self, envelopes: Sequence[Envelope]) -> frozenset[str]:
        """Which of the messages the program's memory holds already."""
        box = await self._world.store.query(
            lambda db: db.execute(
                f"SELECT id FROM envelopes WHERE injected_at IS NOT NULL AND id IN ({', '.join('?' * len(envelopes))})",
                [e.id for e in envelopes],
            ).fetchall()
        )
        return frozenset(row[0] for row in box)

    async def _close(self, turn: Running, end: Finished | Died) -> None:
        """Write the end of a turn."""
        world = self._world
        await world.models.settled(self._instance, self.key)
        await world.guard.look_soon(self._instance, kept=self.life.protects(), session=self.key, turn=turn.id)
        final = verdict(turn, end, self._instance, self.life.log)
        final = await limited(turn, final, world, self._instance, provider=self.provider, session=self.key)
        if final.outcome is Outcome.COMPLETED:
            await self._quietly(world.limits.worked(self.provider, turn.since))
        ms = (world.clock.monotonic() - turn.began) * 1000

        def finish(tx: Tx) -> None:
            point("turn.finish.before")
            records.close_turn(world, tx, turn.id, final, ms=ms, instance=self._instance.id, session=self.key)

        await self._written(finish)
        world.store.emit(TurnPresence("idle"), instance=self._instance.id, session=self.key)

    async def _quietly(self, work: Awaitable[object]) -> None:
        """What a full disk may leave undone without harm to the turn."""
        try:
            await work
        except AegisError as error:
            _logger.warning("session %s of %s: %s", self.key, self._instance.handle, error.message)

    async def _written(self, fn: Callable[[Tx], T]) -> T:
        """Write the beginning or the end of a turn; with a disk that takes nothing, try again until it does.

        `fn` is idempotent: a disk may fail in the very act, and what is told as failed be there.
        """
        delay = FIRST_RETRY
        while True:
            try:
                return await self._world.store.write(fn)
            except AegisError as error:
                _logger.warning("session %s of %s waits: %s", self.key, self._instance.handle, error.message)
            except Exception:
                _logger.exception("a defect in the worker of session %s of %s", self.key, self._instance.handle)
            await self._world.clock.sleep(delay)
            delay = min(delay * 2, LAST_RETRY)


async def _unless_called_off(turn: Running, start: Coroutine[Any, Any, T]) -> T:
    """Start a program, for as long as somebody wants the turn. Raises AegisError(INTERRUPTED) when nobody does any more."""
    starting = asyncio.ensure_future(start)
    off = asyncio.ensure_future(turn.called_off.wait())
    try:
        await asyncio.wait({starting, off}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            return starting.result()
        raise AegisError(ErrorKind.INTERRUPTED, "the turn was interrupted while its program started")
    finally:
        for task in (starting, off):
            task.cancel()
        await asyncio.gather(starting, off, return_exceptions=True)
