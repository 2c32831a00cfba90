"""What one program asks leave for: answered by the rules where they say something, else by a person.

The rules of the gate see the exact call first. What a `forbid` meets is refused, what `@ask` meets a person is asked about even where
nobody else is to be asked, and what a `permit` of a person covers in full spares the question. The rest the rules of the permission
answer. They are the bound in every case: no rule and no person lets a program do what those refuse.

Each request is dealt with in a task of its own, so that the turn streams on while it waits. An answer of the rules leaves one audit
row, written before the program hears it; without the row the answer is no. A person's answer is the business of the approvals
service, which writes its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from aegis.core.errors import AegisError
from aegis.core.principals import Principal, PrincipalKind
from aegis.core.text import one_line
from aegis.drivers import Answer
from aegis.services.approvals.model import Terms
from aegis.services.gate import Decision
from aegis.services.gate.calls import effect_of
from aegis.services.gate.prompts import asking_rules, judge, own_verb, written_by_a_person
from aegis.services.gate.rules import BUILT_IN

if TYPE_CHECKING:
    from collections.abc import Callable

    from aegis.core.clock import Clock
    from aegis.drivers import Asked, Conversation
    from aegis.services.agents.life import Life
    from aegis.services.agents.model import Instance, Launch
    from aegis.services.gate import Effect, Gate

_logger = logging.getLogger(__name__)

#: So many requests of one program may wait for an answer.
MOST_OPEN: Final = 64
#: The action of the audit row of an answer that the rules gave.
ACTION: Final = "tool.use"
#: How some programs name the tool of an MCP server.
_OF_SERVER: Final = re.compile(r"mcp__([A-Za-z0-9-]+(?:_[A-Za-z0-9-]+)*)__(.+)")


def answered_within(instance: Instance | None) -> Terms:
    """How long what an instance asks for waits, and what counts then."""
    return Terms() if instance is None else Terms(instance.launch.approvals_deadline, instance.launch.approvals_default)


def place_of(launch: Launch) -> tuple[str, str]:
    """Where the program of an instance begins, and its workspace, as they are called where it runs."""
    if launch.workspace is None:
        return "/home/agent", "/home/agent"
    inside = launch.workspace if launch.sandbox == "process" else "/workspace"
    return inside, inside


def asked_before(gate: Gate, launch: Launch) -> str:
    """Whether a program that asks only when it is told to is to ask: a person wants that, or rules of people are about tools."""
    gate.policies.of(launch.project or "")  # it looks at the files
    rules = gate.policies.rules(launch.project or "")
    about = any(rule.source != BUILT_IN and (rule.statement.actions is None or ACTION in rule.statement.actions) for rule in rules)
    return "ask" if about else launch.approvals


def tool_of(name: str) -> str:
    """A tool as rules name it: that of an MCP server with the server's name before it, `github.create_issue`."""
    found = _OF_SERVER.fullmatch(name)
    return one_line(f"{found[1]}.{found[2]}" if found else name, 1000)


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
        if own_verb(request) is not None or request.question:  # what one of Aegis's own verbs does the gate sees where it is done
            effect, decision, approvals = None, None, launch.approvals
        else:
            try:
                effect = self._effect(request)
            except AegisError as error:
                await self._conversation.answer(request.id, await self._recorded(turn, request, Answer(allow=False, reason=error.message)))
                return
            try:
                decision = await self._decided(effect, turn, request)
            except AegisError as error:  # so many of them were made already; it is on record
                await self._conversation.answer(request.id, Answer(allow=False, reason=f"{error.message}; {error.hint}"))
                return
            approvals = self._approvals(decision, effect)
        if decision is not None and not decision.allow and not decision.ask:
            answer: Answer | None = Answer(allow=False, reason="; ".join(filter(None, (decision.reason, decision.hint))))
        else:
            answer = judge(request, permission=launch.permission, approvals=approvals, egress=egress)
        if answer is not None and answer.allow and decision is not None and decision.ask:
            answer = None  # a rule wants a person asked
        if answer is None and effect is not None:
            granted = world.approvals.granted(self._life.instance.id, self._session, effect.digest, ACTION, effect.tool)
            if granted is not None:
                answer = Answer(allow=True)
                decision = msgspec.structs.replace(
                    decision, allow=True, ask=False, reason=f"approved for this session by {granted.principal} ({granted.id})"
                )  # type: ignore[type-var]
        if answer is not None:
            if own_verb(request) is None:
                answer = await self._recorded(turn, request, answer, decision)
            await self._conversation.answer(request.id, answer)
            return
        try:
            pending = await world.approvals.ask(
                instance=self._life.instance.id,
                session=self._session,
                turn=turn,
                request=request,
                effect=effect,
                policies=asking_rules(world.gate, decision) if decision is not None else (),
            )
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

    def _effect(self, request: Asked) -> Effect:
        """The exact call. Raises USAGE and TOO_LARGE for one that nobody could judge."""
        cwd, workspace = place_of(self._life.instance.launch)
        return effect_of(
            tool_of(request.tool),
            request.kind,
            request.input,
            cwd=cwd,
            workspace=workspace,
            session=self._session,
            locations=[each.path for each in request.locations],
        )

    async def _decided(self, effect: Effect, turn: str, request: Asked) -> Decision:
        """What the rules of the gate say. Raises DENIED where a rule allows only so many calls, and they were made."""
        principal = Principal(PrincipalKind.INSTANCE, self._life.instance.id)
        about = {"session": self._session, "turn": turn, "kind": request.kind, "title": one_line(request.title[:1000])}
        gate = self._life.world.gate
        decision = gate.decide(principal, ACTION, effect.tool, effect=effect, **about)
        if decision.allow and decision.obligations.held:
            return await gate.check(principal, ACTION, effect.tool, effect=effect, **about)
        return decision

    def _approvals(self, decision: Decision, effect: Effect) -> str:
        """Who answers what the rules allow: nobody is asked where a rule that a person wrote permits each thing that the call touches."""
        approvals = self._life.instance.launch.approvals
        if approvals != "ask" or not decision.allow or not written_by_a_person(decision):
            return approvals
        gate = self._life.world.gate
        for facet in effect.facets or ():
            alone = msgspec.structs.replace(effect, facets=(facet,))
            if not written_by_a_person(gate.decide(decision.principal, ACTION, effect.tool, effect=alone, session=self._session)):
                return approvals
        return "auto"

    async def _recorded(self, turn: str, request: Asked, answer: Answer, decided: Decision | None = None) -> Answer:
        """Write the audit row of an answer; without it the answer is no."""
        if decided is None:
            context = {"session": self._session, "turn": turn, "kind": request.kind, "title": one_line(request.title[:1000])}
            principal = Principal(PrincipalKind.INSTANCE, self._life.instance.id)
            decided = Decision(principal, ACTION, tool_of(request.tool[:1000]), answer.allow, "", context)
        reason = decided.reason if answer.allow == decided.allow and decided.reason else answer.reason
        decision = msgspec.structs.replace(decided, allow=answer.allow, ask=False, reason=reason or "granted at launch")
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
