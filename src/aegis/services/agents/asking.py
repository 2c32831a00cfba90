"""What one program asks leave for: answered by the rules where they say something, else by a person.

Each request is dealt with in a task of its own, so that the turn streams on while it waits. An answer of the rules leaves one audit
row, written before the program hears it; without the row the answer is no. A person's answer is the business of the approvals
service, which writes its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final, NamedTuple

from aegis.core.errors import AegisError
from aegis.core.principals import Principal, PrincipalKind
from aegis.core.text import one_line
from aegis.drivers import Answer
from aegis.services.gate import Decision
from aegis.services.gate.prompts import judge, own_verb

if TYPE_CHECKING:
    from collections.abc import Callable

    from aegis.core.clock import Clock
    from aegis.drivers import Asked, Conversation
    from aegis.services.agents.life import Life

_logger = logging.getLogger(__name__)

#: So many requests of one program may wait for an answer.
MOST_OPEN: Final = 64
#: The action of the audit row of an answer that the rules gave.
ACTION: Final = "tool.use"


class _Open(NamedTuple):
    """A request without an answer: the turn it belongs to, and the task that sees to it."""

    turn: str
    task: asyncio.Task[None]


class Asking:
    """The open requests of one conversation."""

    def __init__(self, life: Life, session: str, conversation: Conversation, changed: Callable[[], None]) -> None:
        self._life = life
        self._session = session
        self._conversation = conversation
        self._changed = changed  # called when somebody begins or ceases to wait for a person
        self._open: dict[str, _Open] = {}
        self._persons = 0  # how many wait for one
        self._some = asyncio.Event()
        self._none = asyncio.Event()
        self._none.set()

    def __bool__(self) -> bool:
        """Whether the program waits for an answer."""
        return bool(self._open)

    def asked(self, turn: str, request: Asked) -> None:
        """Begin to deal with a request that was made in `turn`.

        An answer counts for the one request it was given for: of two that a driver gives the same name nobody knows which one the
        answer would reach, so neither is answered yes.
        """
        if (known := self._open.pop(request.id, None)) is not None:
            known.task.cancel()
            self._refuse(turn, request, "two requests had the same name")
            return
        if len(self._open) >= MOST_OPEN:
            self._refuse(turn, request, f"{MOST_OPEN} requests wait for an answer already")
            return
        task = asyncio.create_task(self._deal(turn, request), name=f"request {request.id} of {self._life.instance.handle}")
        self._open[request.id] = _Open(turn, task)

        def done(ended: asyncio.Task[None]) -> None:
            if (known := self._open.get(request.id)) is not None and known.task is ended:
                del self._open[request.id]

        task.add_done_callback(done)

    def _refuse(self, turn: str, request: Asked, reason: str) -> None:
        """Answer no without dealing with it."""

        async def answer() -> None:
            with contextlib.suppress(AegisError):
                await self._conversation.answer(request.id, Answer(allow=False, reason=reason))

        self._life.spawn(answer())

    async def withdrawn(self, request: str) -> None:
        """The program does not wait for this one any more."""
        if request in self._open:
            await self._life.world.approvals.withdraw(
                instance=self._life.instance.id, session=self._session, reason="the agent does not want it any more", driver_id=request
            )
        if (known := self._open.pop(request, None)) is not None:
            known.task.cancel()

    def drop(self, turn: str | None = None) -> None:
        """Nobody waits for what was asked in `turn`, or at all. What a person was to answer stays on record until it is withdrawn."""
        for known in [each for each in self._open.values() if turn is None or each.turn == turn]:
            known.task.cancel()

    async def spend(self, clock: Clock, seconds: float) -> None:
        """Return after `seconds` in which nobody waited for a person."""
        while seconds > 0:
            await self._none.wait()
            began = clock.monotonic()
            passed = asyncio.ensure_future(clock.sleep(seconds))
            asked = asyncio.ensure_future(self._some.wait())
            try:
                await asyncio.wait((passed, asked), return_when=asyncio.FIRST_COMPLETED)
            finally:
                passed.cancel()
                asked.cancel()
            seconds -= clock.monotonic() - began

    async def _deal(self, turn: str, request: Asked) -> None:
        try:
            await self._answer(turn, request)
        except AegisError as error:  # the program or its sandbox is gone, or the disk full: nobody hears the answer
            _logger.debug("request %s of %s: %s", request.id, self._life.instance.handle, error.message)
        except Exception:
            _logger.exception("a defect while %s waited for leave", self._life.instance.handle)
            await self._conversation.answer(request.id, Answer(allow=False, reason="Aegis could not deal with the request"))

    async def _answer(self, turn: str, request: Asked) -> None:
        launch, world = self._life.instance.launch, self._life.world
        egress = launch.permission == "full" and bool(launch.egress)
        answer = judge(request, permission=launch.permission, approvals=launch.approvals, egress=egress)
        if answer is not None:
            if own_verb(request) is None:  # what one of Aegis's own verbs does is on record where it is done
                answer = await self._recorded(turn, request, answer)
            await self._conversation.answer(request.id, answer)
            return
        try:
            pending = await world.approvals.ask(instance=self._life.instance.id, session=self._session, turn=turn, request=request)
        except AegisError as error:
            await self._conversation.answer(request.id, Answer(allow=False, reason=f"nobody can be asked: {error.message}"))
            return
        self._wait(1)
        try:
            answer = await pending.verdict()
        finally:
            self._wait(-1)
        self._life.rouse()
        await self._conversation.answer(request.id, answer)
        await world.approvals.delivered(pending.id)

    async def _recorded(self, turn: str, request: Asked, answer: Answer) -> Answer:
        """Write the audit row of an answer; without it the answer is no."""
        context = {"session": self._session, "turn": turn, "kind": request.kind, "title": one_line(request.title[:1000])}
        principal = Principal(PrincipalKind.INSTANCE, self._life.instance.id)
        decision = Decision(principal, ACTION, one_line(request.tool[:1000]), answer.allow, answer.reason or "granted at launch", context)
        try:
            await self._life.world.gate.record(decision)
        except AegisError as error:
            return Answer(allow=False, reason=f"it could not be written down: {error.message}")
        return answer

    def _wait(self, more: int) -> None:
        self._persons += more
        if self._persons:
            self._some.set()
            self._none.clear()
        else:
            self._some.clear()
            self._none.set()
        self._changed()
