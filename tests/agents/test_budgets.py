"""What becomes of turns: stopped in the middle, waiting for a window, told between turns where nothing else can stop them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from tests.agents.conftest import Bench
from tests.agents.programs import Program

from aegis.core.events import Outcome, TurnFinished, Usage
from aegis.drivers import Finished, Happened
from aegis.services.agents import Instance
from aegis.services.broker.model import Call
from aegis.services.budgets import Budget
from aegis.services.config.model import Allowance

Open = Callable[[], Awaitable[Bench]]
TWO_STEPS = '[[call write {"path": "made", "content": "x"}]] [[say all done]]'


async def bound(bench: Bench, instance: Instance, **caps: Any) -> None:
    """Set the budget of an instance."""
    budget = Budget(name=f"@{instance.handle}", scope="instance", instance=instance.id, set_by_hand=True, **caps)
    await bench.house.budgets.put(budget, lambda tx: None)


async def one_call_left(bench: Bench, instance: Instance, **more: Any) -> None:
    """Let the instance have a turn, and then a budget that its next call uses up."""
    said = await bench.answer(await bench.send(instance, "[[say hello]]"))
    await bound(bench, instance, tokens=2 * (said.input + said.output), **more)


def refused(end: TurnFinished) -> dict[str, Any]:
    """The error of a turn that a budget ended, looked at."""
    assert end.outcome is Outcome.LIMITED, end
    assert end.error is not None
    assert end.error["kind"] == "limit"
    assert "budget" in end.error["error"]
    return end.error


async def test_the_native_agent_is_stopped_in_the_middle_of_a_turn_and_goes_on_when_a_person_raises_it(bench: Bench) -> None:
    instance = await bench.start()
    await one_call_left(bench, instance)
    end = await bench.answer(await bench.send(instance, TWO_STEPS))
    error = refused(end)
    assert len(bench.facts("turn.tool.result")) == 1  # its first call was made, the second was not
    assert error["will_continue"] is False
    assert "aegis budget set --instance a --tokens N" in error["hint"]
    (told,) = error["data"]["budgets"]
    assert (told["name"], told["scope"], told["subject"], told["unblock_at"]) == ("@a", "instance", "a", None)
    assert told["spent"] >= told["limit"]
    assert len(bench.facts("budget.warned")) == 1
    calls = bench.house.budgets.account(Budget(name="x", scope="home", tokens=1), "").meter.tokens
    again = await bench.answer(await bench.send(instance, "[[say more]]"))
    refused(again)
    assert bench.house.budgets.account(Budget(name="x", scope="home", tokens=1), "").meter.tokens == calls
    await bound(bench, instance, tokens=10**6)
    assert (await bench.answer(await bench.send(instance, "[[say more]]"))).outcome is Outcome.COMPLETED


async def test_a_turn_waits_for_a_window_and_goes_on_by_itself_also_after_a_restart(open_bench: Open) -> None:
    bench = await open_bench()
    instance = await bench.start()
    await one_call_left(bench, instance, window=3600.0)
    receipt = await bench.send(instance, TWO_STEPS)
    error = refused(await bench.answer(receipt, skip_cut=False))
    assert error["will_continue"] is True
    until = error["resets_at"]
    assert 0 < until - bench.clock.now() <= 3600 * 61 / 60 + 1
    (fact,) = bench.facts("instance.limited")
    assert (fact.provider, fact.until) == ("budget @a", until)
    await bench.until(lambda: bench.house.agents.activity(instance).word == "limited")
    await bench.house.close()
    bench = await open_bench()
    found = bench.house.registry.get("a")
    await bench.until(lambda: bench.house.agents.activity(found).word == "limited")
    async with asyncio.timeout(30):
        while not any(e.outcome is Outcome.COMPLETED and receipt.id in e.in_reply_to for e in bench.facts("turn.finished")):
            await bench.clock.advance(30.0)
            await asyncio.sleep(0.005)
    assert bench.clock.now() >= until - 60


async def test_who_waits_goes_on_at_once_when_a_person_raises_it(bench: Bench) -> None:
    instance = await bench.start()
    await one_call_left(bench, instance, window=3600.0)
    receipt = await bench.send(instance, TWO_STEPS)
    await bench.answer(receipt, skip_cut=False)
    await bound(bench, instance, tokens=10**6, window=3600.0)
    assert (await bench.answer(receipt)).outcome is Outcome.COMPLETED


async def test_with_a_login_of_its_own_a_program_is_stopped_between_turns(bench: Bench, program: Program) -> None:
    instance = await bench.launch("a", auth="login", budget=Allowance(usd=1_000_000))
    receipt = await bench.send(instance, "work")
    conversation = await program.started()
    await conversation.until("send")
    conversation.accept()
    for cost in (float("nan"), -5.0, 1.5):
        conversation.say(Happened(Usage("anthropic/claude-opus-5-5", 10, 10, cost_usd=cost)))
    conversation.done()
    assert (await bench.answer(receipt)).outcome is Outcome.COMPLETED
    meter = bench.house.budgets.account(Budget(name="x", scope="instance", usd=1), instance.id).meter
    assert meter.usd == 1_500_000 + 2 * 240
    error = refused(await bench.answer(await bench.send(instance, "more")))
    assert error["will_continue"] is False
    assert len(conversation.asked("send")) == 1  # it was not told of it
    shown = bench.house.agents.describe(instance)["budgets"]
    assert [(each["name"], each["state"], each["acts"]) for each in shown] == [("@a", "blocked", "turns")]


async def test_a_program_that_gives_up_after_a_refusal_is_limited_whatever_it_says(bench: Bench, program: Program) -> None:

    instance = await bench.launch("a", budget=Allowance(tokens=50))
    receipt = await bench.send(instance, "work")
    conversation = await program.started()
    turn = (await conversation.until("send"))[0]
    conversation.accept()
    models = bench.house.models
    models._turn_of[instance.id] = lambda session: turn
    call = Call(
        id="call_x", instance=instance.id, session="host:default", model="scripted/echo", dialect="anthropic", path="/", stream=True,
        input_estimate=100, max_tokens=10, started_at=bench.clock.now(),
    )  # fmt: skip
    try:
        await models._admit(call, free=True)
    except Exception as error:
        assert "one call uses more than all of budget `@a`" in str(error)
    conversation.say(Finished(Outcome.FAILED, error={"error": "API error 402", "kind": "failed"}))
    refused(await bench.answer(receipt))
    audit = await bench.house.store.query(
        lambda db: db.execute("SELECT decision, reason FROM audit WHERE action = 'model.call' ORDER BY id").fetchall()
    )
    assert audit[-1][0] == "deny"
    assert "@a" in audit[-1][1]


async def test_a_child_uses_what_its_parent_may(bench: Bench) -> None:
    parent = await bench.start("lead")
    launch = msgspec.structs.replace(parent.launch, origin="host:default")
    child = await bench.house.registry.create("hand", launch, lambda tx: None, parent=parent.id)
    await one_call_left(bench, parent)
    refused(await bench.answer(await bench.send(child, TWO_STEPS)))
    refused(await bench.answer(await bench.send(parent, "[[say more]]")))
