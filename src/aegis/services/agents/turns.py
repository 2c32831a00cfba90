"""One session of one instance: its turns, one after the other, and the conversation they happen in.

A worker runs while there is something to do and ends when there is not; `kick` starts it again. Every turn is a row: open while it
runs, closed exactly once. The row is what recovery goes by: a turn whose outcome is `interrupted` and whose envelopes are not done
waits for its continuation.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import Outcome, TurnFinished, TurnPresence, TurnStarted
from aegis.core.faults import point
from aegis.core.ids import new_id
from aegis.core.text import one_line
from aegis.drivers import Accepted, Acknowledged, ConversationSpec, Died, Finished, Happened, Message, Record
from aegis.services.agents import memory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from aegis.core.envelopes import Envelope
    from aegis.drivers import Conversation, DriverEvent
    from aegis.sandboxes.link import Link
    from aegis.services.agents.life import Life
    from aegis.services.agents.world import World
    from aegis.store import Store, Tx

T = TypeVar("T")
_logger = logging.getLogger(__name__)

#: A turn that was cut short so many times in a row is not tried again.
MAX_ATTEMPTS: Final = 5
#: How long a program may take to end a turn that was interrupted before it is killed, in seconds.
INTERRUPT_GRACE: Final = 5.0
#: How long what a full disk or a defect stopped waits until it is tried again, in seconds: at first, and at most.
FIRST_RETRY: Final = 0.25
LAST_RETRY: Final = 15.0
#: How much text one turn takes up at once, in characters; the rest waits for the next turn.
_TURN_TEXT: Final = 1_000_000


class Cut(NamedTuple):
    """A turn that waits for its continuation."""

    id: str
    attempts: int


def cut_turn(store: Store, instance: str, session: str) -> Cut | None:
    """The turn of a session that was interrupted and has envelopes that nobody has dealt with."""
    row = store.read(
        lambda db: db.execute(
            "SELECT t.id, t.attempts FROM envelopes e JOIN turns t ON t.id = e.turn "
            "WHERE e.instance = ? AND e.session = ? AND e.done_at IS NULL AND e.turn IS NOT NULL AND t.outcome = 'interrupted' LIMIT 1",
            (instance, session),
        ).fetchone()
    )
    return Cut(*row) if row else None


class Session:
    """The worker of one session."""

    def __init__(self, life: Life, key: str) -> None:
        self.life = life
        self.key = key
        self.turn: str | None = None  # the running one, from the moment its envelopes are chosen
        self._taken: frozenset[str] = frozenset()  # its envelopes
        self._world = life.world
        self._instance = life.instance
        self._task: asyncio.Task[None] | None = None
        self._conversation: Conversation | None = None
        self._events: AsyncIterator[DriverEvent] | None = None
        self._cancelled = False
        self._gone = False  # the sandbox was taken away under the turn

    def kick(self) -> None:
        """See to it that a worker looks for work, and that the sandbox of one that has some is not frozen."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work(), name=f"session {self._instance.handle} {self.key}")
        self.life.rouse()

    async def interrupt(self, *, sparing: str | None = None) -> bool:
        """Cut the running turn; it ends as `cancelled`. False when none runs, or one that deals with the envelope `sparing`."""
        if self.turn is None or sparing in self._taken:
            return False
        self._cancelled = True
        turn, conversation = self.turn, self._conversation
        if conversation is not None:
            self.life.spawn(self._insist(turn, conversation))
            with contextlib.suppress(AegisError):  # a sandbox that does not wake has nothing to be told; the turn ends without it
                await self.life.awake()
                if self.turn == turn:
                    await conversation.interrupt()
        return True

    async def halt(self) -> None:
        """Stop working at once and leave everything as a crash would; for when the sandbox is stopped next."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, AegisError):
                await task
        self._conversation = self._events = None

    def sandbox_gone(self) -> None:
        """The sandbox was taken away: the running turn is cut short, not failed."""
        self._gone = self.turn is not None
        self._conversation = self._events = None

    async def _insist(self, turn: str, conversation: Conversation) -> None:
        await self._world.clock.sleep(INTERRUPT_GRACE)
        if self.turn == turn:
            await conversation.close()

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
        cut = cut_turn(self._world.store, self._instance.id, self.key)
        envelopes = self._world.mail.of_turn(cut.id) if cut else _portion(self._world.mail.waiting(self._instance.id, self.key))
        if not envelopes or not self._instance.enabled:
            return False
        await self._run(envelopes, cut)
        return True

    async def _run(self, envelopes: Sequence[Envelope], cut: Cut | None) -> None:
        """One turn, from its row to its end."""
        world, started = self._world, self._world.clock.monotonic()
        self.turn = turn = new_id("turn")
        self._taken = frozenset(e.id for e in envelopes)
        self._cancelled = self._gone = False
        attempts = cut.attempts + 1 if cut else 0
        ids = [e.id for e in envelopes]

        def begin(tx: Tx) -> list[str]:
            point("turn.start.before")
            return self._open(tx, turn, ids, cut, attempts)

        taken = await self._written(begin)
        envelopes = [e for e in envelopes if e.id in taken]
        if envelopes:
            end = await self._outcome(turn, envelopes, continues=cut is not None)
            await self._close(turn, envelopes, self._verdict(end, attempts), (world.clock.monotonic() - started) * 1000)
        self.turn = None
        point("turn.finish.after")

    def _open(self, tx: Tx, turn: str, ids: list[str], cut: Cut | None, attempts: int) -> list[str]:
        """Begin the turn with those of the envelopes that did not expire meanwhile; without any there is none. Idempotent."""
        taken = self._world.mail.take(tx, ids, turn)
        if taken and not tx.execute("SELECT 1 FROM turns WHERE id = ?", (turn,)).fetchone():
            tx.execute(
                "INSERT INTO turns (id, instance, session, continues, attempts, started_at) VALUES (?, ?, ?, ?, ?, ?)",
                (turn, self._instance.id, self.key, cut.id if cut else None, attempts, self._world.clock.now()),
            )
            tx.append(TurnStarted(taken, cut.id if cut else None), instance=self._instance.id, session=self.key, turn=turn)
        return taken

    async def _outcome(self, turn: str, envelopes: Sequence[Envelope], *, continues: bool) -> Finished | Died:
        """Let the program work; whatever goes wrong is an outcome."""
        link: Link | None = None
        end: Finished | Died
        try:
            point("turn.start.after")
            async with self.life.holding() as link:
                self._gone = False  # what went before it was awake did not touch this turn
                end = await self._converse(link, turn, envelopes, continues=continues)
        except AegisError as error:
            await self._drop()
            if error.kind is ErrorKind.INTERRUPTED or not self._instance.enabled:
                self._gone = True
            end = Finished(Outcome.FAILED, error=error.to_dict())
        except Exception as error:
            _logger.exception("a defect in turn %s", turn)
            await self._drop()
            defect = AegisError(ErrorKind.INTERNAL, f"a defect in Aegis: {type(error).__name__}", "see `aegisd.log` in the home")
            end = Finished(Outcome.FAILED, error=defect.to_dict())
        if link is not None and link.closed.done():
            self._gone = True  # the worker may hear of it before the instance's life does
        return end

    async def _converse(self, link: Link, turn: str, envelopes: Sequence[Envelope], *, continues: bool) -> Finished | Died:
        conversation, events = await self._ready(link)
        known = await self._known(envelopes) if continues else set()
        messages = [Message(e.id, _framed(e)) for e in envelopes if e.id not in known]
        if self._cancelled:  # the program heard nothing of the turn, so it could not be told of its end
            return Finished(Outcome.CANCELLED)
        await conversation.send(turn, messages, continues=continues and bool(known))
        point("turn.sent")
        async for event in events:
            match event:
                case Finished() | Died():
                    if isinstance(event, Died):
                        await self._drop()
                    return event
                case _:
                    await self._note(turn, conversation, event)
        await self._drop()
        return Died(None, "")

    async def _note(self, turn: str, conversation: Conversation, event: Accepted | Acknowledged | Record | Happened) -> None:
        """Put one thing that happened on record, in the order in which it did."""
        store, mail = self._world.store, self._world.mail
        place: dict[str, Any] = {"instance": self._instance.id, "session": self.key, "turn": turn}
        match event:
            case Happened(fact):
                if fact.ephemeral:
                    store.emit(fact, **place)
                else:
                    await store.write(lambda tx: tx.append(fact, **place))
            case Record(n, message, facts):

                def record(tx: Tx) -> None:
                    memory.append(tx, **place, ts=self._world.clock.now(), message=message)
                    if message.get("ids"):
                        mail.injected(tx, message["ids"], **place)
                    for fact in facts:
                        tx.append(fact, **place)

                await store.write(record)
                point("turn.message")
                await conversation.committed(n)
            case Accepted():
                point("turn.injected")
            case Acknowledged(ids):
                await store.write(lambda tx: mail.acknowledged(tx, ids, **place))

    def _verdict(self, end: Finished | Died, attempts: int) -> Finished:
        """What the end of the program's work means for the turn."""
        if self._cancelled:
            return Finished(Outcome.CANCELLED, end.text if isinstance(end, Finished) else "")
        if self._gone and not (isinstance(end, Finished) and end.outcome is Outcome.COMPLETED):
            again = attempts < MAX_ATTEMPTS and self._instance.launch.on_interrupt == "resume"
            message = "the sandbox was stopped in the middle of the turn"
            return Finished(Outcome.INTERRUPTED, error={"error": message, "kind": ErrorKind.INTERRUPTED.value, "will_continue": again})
        if isinstance(end, Finished):
            return end
        message = f"the agent's program died (exit {end.exit})" if end.exit is not None else "the agent's program went away"
        error = AegisError(ErrorKind.FAILED, message, f"see `aegis logs {self._instance.handle}`", stderr=end.stderr[-4096:], exit=end.exit)
        self.life.log.write(f"{message}: {one_line(end.stderr[-400:])}")
        return Finished(Outcome.FAILED, error=error.to_dict())

    async def _close(self, turn: str, envelopes: Sequence[Envelope], end: Finished, ms: float) -> None:
        """Write the end of the turn."""
        await self._world.models.settled(self._instance, self.key)

        def finish(tx: Tx) -> None:
            point("turn.finish.before")
            close_turn(self._world, tx, turn, envelopes, end, ms=ms, instance=self._instance.id, session=self.key)

        await self._written(finish)
        self._world.store.emit(TurnPresence("idle"), instance=self._instance.id, session=self.key)

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

    async def _ready(self, link: Link) -> tuple[Conversation, AsyncIterator[DriverEvent]]:
        """The conversation, started with its memory if it is not running."""
        if self._conversation is None or self._events is None:
            launch, world = self._instance.launch, self._world
            assert launch.driver is not None
            assert launch.model is not None
            spec = ConversationSpec(
                session=self.key,
                model=launch.model,
                dialect=world.models.dialect(self._instance),
                system=launch.system,
                history=await memory.history(world.store, self._instance.id, self.key),
                permission=launch.permission,
                limits=launch.turn,
                env={"AEGIS_TOKEN": self._instance.token},
            )
            self._conversation = await world.drivers[launch.driver].start(link, spec)
            self._events = self._conversation.events()
        return self._conversation, self._events

    async def _drop(self) -> None:
        conversation, self._conversation, self._events = self._conversation, None, None
        if conversation is not None:
            with contextlib.suppress(AegisError):
                await conversation.close()

    async def _known(self, envelopes: Sequence[Envelope]) -> set[str]:
        """Which of the messages the conversation's memory holds already."""
        box = await self._world.store.query(
            lambda db: db.execute(
                f"SELECT id FROM envelopes WHERE injected_at IS NOT NULL AND id IN ({', '.join('?' * len(envelopes))})",
                [e.id for e in envelopes],
            ).fetchall()
        )
        return {row[0] for row in box}


def close_turn(
    world: World, tx: Tx, turn: str, envelopes: Sequence[Envelope], end: Finished, *, ms: float, instance: str, session: str
) -> None:
    """The last rows of a turn: its outcome, its totals, its one terminal event, its envelopes done (unless it is to be continued).

    Idempotent: a turn that has ended stays as it is.
    """
    ended = "UPDATE turns SET finished_at = ?, outcome = ? WHERE id = ? AND finished_at IS NULL"
    if not tx.execute(ended, (world.clock.now(), end.outcome, turn)).rowcount:
        return
    used = world.models.totals(tx, turn=turn)
    tx.append(
        TurnFinished(
            end.outcome,
            [e.id for e in envelopes],
            end.text,
            end.error,
            reply_to=[e.msg_id for e in envelopes if e.msg_id],
            input=used["input"],
            output=used["output"],
            cached=used["cached"],
            cost_usd=used["cost_usd"],
            rounds=end.rounds or used["calls"],
            ms=round(ms, 3),
        ),
        instance=instance,
        session=session,
        turn=turn,
    )
    if not (end.error and end.error.get("will_continue")):
        reason = str((end.error or {}).get("error") or end.outcome)
        world.mail.done(tx, turn, reason, instance=instance, session=session)


def _portion(envelopes: list[Envelope]) -> list[Envelope]:
    """As many of the waiting envelopes as one turn takes: at least one."""
    total = 0
    for count, envelope in enumerate(envelopes):
        total += len(envelope.text)
        if count and total > _TURN_TEXT:
            return envelopes[:count]
    return envelopes


def _framed(envelope: Envelope) -> str:
    """The text, and with a `user`, as shared channels tell one, the name of that person before it.

    Neither the name nor the text can imitate somebody else: a header stands at the beginning of a line, has no brackets within,
    and the further lines of a text that has one are indented.
    """
    if envelope.user is None:
        return envelope.text
    name = next((str(envelope.user[key]) for key in ("name", "username", "id") if envelope.user.get(key)), "")
    name = one_line(name, 64).replace("[", "(").replace("]", ")") or "somebody"
    return f"[{name}]: " + "\n  ".join(envelope.text.splitlines())
