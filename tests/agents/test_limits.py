"""Providers that give no more for now: everybody waits, and goes on by itself."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING

import pytest
from tests.agents.conftest import OWNER
from tests.agents.test_sessions import S, begun

from aegis.core.events import InstanceActivity, Outcome
from aegis.drivers import Finished
from aegis.services.agents.activity import Activity
from aegis.services.agents.verdicts import MAX_WAIT
from aegis.services.broker import LimitHit
from aegis.services.limits import FIRST_HOLD, LAST_HOLD

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.agents.conftest import Bench
    from tests.agents.programs import Conversation, Program

    from aegis.core.envelopes import Receipt
    from aegis.core.events import TurnFinished
    from aegis.services.agents import Instance


@pytest.fixture
async def timed(open_bench: Callable[[], Awaitable[Bench]]) -> AsyncIterator[Callable[[float | None], Awaitable[Bench]]]:
    """Open the home with its timers running, at the time at which the last daemon ended plus so many seconds."""
    runners: list[asyncio.Task[None]] = []
    last: list[Bench] = []

    async def stop() -> None:
        for runner in runners:
            runner.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await runner
        runners.clear()

    async def open_(later: float | None = None) -> Bench:
        await stop()
        bench = await open_bench()
        if last:
            bench.clock.jump(last[-1].clock.now() - bench.clock.now() + (later or 0.0))
        last.append(bench)
        runners.append(asyncio.create_task(bench.house.timers.run()))
        await asyncio.sleep(0)
        return bench

    yield open_
    await stop()


def limit(bench: Bench, conversation: Conversation, resets_at: float | None) -> None:
    """The provider refuses a call of the running turn, and the program gives up."""
    turn = conversation.asked("send")[-1][0]
    bench.house.models._limits[turn] = LimitHit("scripted", resets_at, "usage limit reached")
    conversation.say(Finished(Outcome.FAILED, error={"error": "429", "kind": "failed"}))


async def limited(bench: Bench, program: Program, seconds: float | None) -> tuple[Instance, Conversation, Receipt, TurnFinished]:
    """An instance whose first turn ran into a limit."""
    instance, conversation, receipt = await begun(bench, program)
    conversation.accept()
    limit(bench, conversation, bench.clock.now() + seconds if seconds is not None else None)
    return instance, conversation, receipt, await bench.answer(receipt, skip_cut=False)


async def pass_time(bench: Bench, seconds: float) -> None:
    """Let time pass in steps, so that who is woken can sleep again."""
    steps = max(4, int(seconds / 30.0))
    for _ in range(steps):
        await asyncio.sleep(0.002)
        await bench.clock.advance(seconds / steps)
    await asyncio.sleep(0.02)


async def sent(bench: Bench, program: Program, count: int) -> Conversation:
    """Let time pass until so many turns were sent to the program; the conversation that got the last of them."""
    async with asyncio.timeout(30):
        while len(program.turns) < count:
            await bench.clock.advance(2.0)
            await asyncio.sleep(0.005)
    return program.turns[count - 1]


def waits(bench: Bench, instance: Instance) -> bool:
    """Whether the instance has nothing to do but to wait for its provider."""
    return bench.house.agents.activity(instance).word == "limited"


@pytest.mark.parametrize("told", [True, False])
async def test_a_turn_waits_for_its_provider_and_goes_on(
    timed: Callable[[float | None], Awaitable[Bench]], program: Program, told: bool
) -> None:
    bench = await timed(None)
    instance, _conversation, receipt, cut = await limited(bench, program, 7200.0 if told else None)
    await bench.until(lambda: waits(bench, instance))
    wait = 7200.0 if told else FIRST_HOLD
    assert cut.outcome is Outcome.LIMITED
    assert cut.error is not None
    assert (cut.error["will_continue"], cut.error["resets_at"]) == (True, bench.clock.now() + wait)
    assert bench.house.limits.held("scripted") == bench.clock.now() + wait
    await bench.until(lambda: bench.house.agents.activity(instance) == Activity("limited", bench.clock.now() + wait))
    (fact,) = bench.facts("instance.limited")
    assert (fact.provider, fact.until, fact.told) == ("scripted", bench.clock.now() + wait, told)
    another = await bench.send(instance, "and this", "host:other")
    await pass_time(bench, wait - 1.0)
    assert len(program.turns) == 1
    current = await sent(bench, program, 2)
    _turn, messages, continues = current.asked("send")[-1]
    assert (messages, continues) == ([], True)
    assert any(fact.continues is not None for fact in bench.facts("turn.started"))
    current.done("at last")
    assert (await bench.answer(receipt)).text == "at last"
    other = await sent(bench, program, 3)
    assert other.spec.session == "host:other"
    other.accept()
    other.done("too")
    assert (await bench.answer(another)).text == "too"
    assert bench.house.store.read(lambda db: db.execute("SELECT count(*) FROM provider_limits").fetchone()) == (0,), "it works again"


async def test_a_limit_outlives_the_daemon(timed: Callable[[float | None], Awaitable[Bench]], program: Program) -> None:
    bench = await timed(None)
    _instance, _conversation, receipt, _cut = await limited(bench, program, 7200.0)
    until = bench.house.limits.held("scripted")
    await bench.house.close()
    bench = await timed(600.0)
    instance = bench.house.registry.get("a")
    assert bench.house.limits.held("scripted") == until
    assert bench.house.agents.activity(instance) == Activity("limited", until)
    await pass_time(bench, 6000.0)
    assert len(program.conversations) == 1
    again = await sent(bench, program, 2)
    _turn, messages, continues = again.asked("send")[-1]
    assert (messages, continues) == ([], True)
    again.done("at last")
    assert (await bench.answer(receipt)).text == "at last"


async def test_a_limit_that_ended_while_nobody_looked(timed: Callable[[float | None], Awaitable[Bench]], program: Program) -> None:
    bench = await timed(None)
    _instance, _conversation, receipt, _cut = await limited(bench, program, 7200.0)
    await bench.house.close()
    bench = await timed(10_000.0)
    again = await sent(bench, program, 2)
    again.done("at last")
    assert (await bench.answer(receipt)).text == "at last"


async def test_a_provider_that_tells_no_time_is_asked_less_and_less_often(
    timed: Callable[[float | None], Awaitable[Bench]], program: Program
) -> None:
    bench = await timed(None)
    instance, _conversation, receipt, _cut = await limited(bench, program, None)
    await bench.until(lambda: waits(bench, instance))
    waited = []
    for count in range(2, 10):
        until = bench.house.limits.held("scripted")
        assert until is not None
        waited.append(until - bench.clock.now())
        await pass_time(bench, waited[-1])
        limit(bench, await sent(bench, program, count), None)
        await bench.until(lambda: waits(bench, instance))
    assert waited == [min(FIRST_HOLD * 2**n, LAST_HOLD) for n in range(8)]
    attempts = bench.house.store.read(lambda db: db.execute("SELECT max(attempts) FROM turns").fetchone())
    assert attempts == (0,), "waiting for a provider is not a crash"
    assert (await bench.answer(receipt, skip_cut=False)).outcome is Outcome.LIMITED


async def test_a_limit_that_lasts_too_long_is_not_waited_for(timed: Callable[[float | None], Awaitable[Bench]], program: Program) -> None:
    bench = await timed(None)
    instance, _conversation, _receipt, end = await limited(bench, program, MAX_WAIT + 1.0)
    assert end.outcome is Outcome.LIMITED
    assert end.error is not None
    assert not end.error["will_continue"]
    assert bench.house.mail.sessions(instance.id) == []


@pytest.mark.parametrize("verb", ["interrupt", "restart"])
async def test_a_person_tries_at_once(timed: Callable[[float | None], Awaitable[Bench]], program: Program, verb: str) -> None:
    bench = await timed(None)
    instance, conversation, receipt, _cut = await limited(bench, program, 7200.0)
    await bench.until(lambda: waits(bench, instance))
    if verb == "interrupt":
        assert await bench.house.agents.interrupt(OWNER, instance, S)
        await conversation.until("send", 2)
        current = conversation
    else:
        await bench.house.agents.restart(OWNER, instance)
        current = await program.started(2)
        await current.until("send")
    limit(bench, current, bench.clock.now() + 7200.0)
    await bench.until(lambda: bench.house.limits.held("scripted") is not None)
    await bench.until(lambda: waits(bench, instance))
    await bench.house.agents.interrupt(OWNER, instance, S)
    await current.until("send", 3 if verb == "interrupt" else 2)
    current.done("there")
    assert (await bench.answer(receipt)).text == "there"


async def test_everybody_with_that_provider_waits_and_they_do_not_go_on_at_once(
    timed: Callable[[float | None], Awaitable[Bench]], program: Program
) -> None:
    bench = await timed(None)
    others = [await bench.launch(f"b{n}") for n in range(4)]
    await limited(bench, program, 7200.0)
    assert {bench.house.agents.activity(other).word for other in others} == {"limited"}
    told = [e.instance for e in bench.house.store.events(0, types=["instance.limited"]).events]
    assert set(told) == {i.id for i in bench.house.registry.all()}
    for other in others:
        await bench.send(other, "hello")
    await pass_time(bench, 7200.0)
    moments: dict[str, float] = {}
    async with asyncio.timeout(60):
        while len(moments) < 5:
            await bench.clock.advance(0.5)
            await asyncio.sleep(0.005)
            for conversation in program.turns[1:]:
                moments.setdefault(conversation.spec.token, bench.clock.monotonic())
    assert len(set(moments.values())) > 2, "each after a wait of its own"


async def test_a_login_of_the_program_s_own_tells_the_limit_itself(
    timed: Callable[[float | None], Awaitable[Bench]], program: Program
) -> None:
    bench = await timed(None)
    instance = await bench.launch(auth="login")
    receipt = await bench.send(instance, "hello")
    conversation = await program.started()
    await conversation.until("send")
    conversation.accept()
    resets = bench.clock.now() + 300.0
    conversation.say(Finished(Outcome.FAILED, error={"error": "limit reached", "kind": "limit", "data": {"resets_at": resets}}))
    cut = await bench.answer(receipt, skip_cut=False)
    assert cut.outcome is Outcome.LIMITED
    assert bench.house.limits.held("the login of fake") == resets
    assert bench.house.limits.held("scripted") is None, "others of that provider pay for themselves"


async def test_its_activity_is_told_once_for_each_change(timed: Callable[[float | None], Awaitable[Bench]], program: Program) -> None:
    bench = await timed(None)
    seen: list[InstanceActivity] = []

    async def follow() -> None:
        async for event in bench.house.store.subscribe(after=0):
            if event.type == "instance.activity":
                seen.append(event.fact)  # type: ignore[arg-type]

    following = asyncio.create_task(follow())
    _instance, _conversation, receipt, _cut = await limited(bench, program, 100.0)
    await bench.until(lambda: bool(seen) and seen[-1].activity == "limited")
    (await sent(bench, program, 2)).done()
    await bench.answer(receipt)
    await bench.until(lambda: seen[-1].activity == "idle")
    following.cancel()
    words = [fact.activity for fact in seen]
    assert [a for a, b in itertools.pairwise(words) if a == b] == []
    assert words[:2] == ["starting", "idle"]
    assert words[-4:] == ["limited", "idle", "working", "idle"] or words[-3:] == ["limited", "working", "idle"]


async def test_a_sandbox_that_does_not_answer_is_unknown(bench: Bench, program: Program) -> None:
    from aegis.core.errors import AegisError, ErrorKind

    instance = await bench.launch()
    life = bench.house.agents._of(instance).life
    assert life.sandbox is not None
    look = life.sandbox.stats

    async def silent() -> None:
        raise AegisError(ErrorKind.TIMEOUT, "the guest did not answer")

    life.sandbox.stats = silent  # type: ignore[method-assign, assignment]
    with pytest.raises(AegisError):
        await bench.house.agents.stats(instance)
    assert bench.house.agents.activity(instance).word == "unknown"
    life.sandbox.stats = look  # type: ignore[method-assign]
    await bench.house.agents.stats(instance)
    assert bench.house.agents.activity(instance).word == "idle"
