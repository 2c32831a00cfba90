"""What happens at the same time: boots and stops, sleep and mail, turns and whoever wants to end them. The processes are real."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from tests.agents.conftest import OWNER

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import Outcome
from aegis.core.principals import Principal, PrincipalKind
from aegis.sandboxes.process import ProcessSandbox
from aegis.services.agents import State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.agents.conftest import Bench

    from aegis.services.agents import Instance

LONG = '[[call bash {"command": "sleep 30"}]] [[say never]]'


async def calls(bench: Bench, count: int = 1) -> None:
    """Wait until so many tools were called."""
    await bench.until(lambda: len(bench.house.store.events(0, types=["turn.tool.call"]).events) >= count)


def outcomes(bench: Bench) -> list[str]:
    """How the turns so far ended."""
    return [event.fact.outcome.value for event in bench.house.store.events(0, types=["turn.finished"]).events]  # type: ignore[attr-defined]


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Sandboxes that do not come up before the event is set."""
    gate, start = asyncio.Event(), ProcessSandbox.start

    async def waiting(self: ProcessSandbox) -> Any:
        await gate.wait()
        return await start(self)

    monkeypatch.setattr(ProcessSandbox, "start", waiting)
    return gate


async def booting(bench: Bench) -> tuple[Instance, asyncio.Task[Instance]]:
    """An instance in the middle of its boot, and the task that waits for it."""
    task = asyncio.create_task(bench.start())
    await bench.until(lambda: (found := bench.house.registry.find("a")) is not None and found.state is State.STARTING)
    return bench.house.registry.get("a"), task


async def test_a_message_at_the_very_moment_of_the_pause_is_answered(bench: Bench) -> None:
    instance = await bench.start()
    await bench.answer(await bench.send(instance, "[[say one]]"))
    life = bench.house.agents._of(instance).life
    look, receipts = life.stats, []

    async def stats() -> Any:
        used = await look()
        if not receipts:
            receipts.append(await bench.send(instance, '[[call bash {"command": "sleep 0.3"}]] [[say two]]'))
            await calls(bench)
        return used

    life.stats = stats  # type: ignore[method-assign]
    await bench.clock.advance(61.0)
    await bench.until(lambda: bool(receipts))
    assert (await bench.answer(receipts[0])).text == "two"


async def test_one_failed_look_does_not_keep_an_instance_awake_for_ever(bench: Bench) -> None:
    instance = await bench.start()
    life = bench.house.agents._of(instance).life
    look, failed = life.stats, []

    async def stats() -> Any:
        if not failed:
            failed.append(True)
            raise AegisError(ErrorKind.TIMEOUT, "the guest did not answer")
        return await look()

    life.stats = stats  # type: ignore[method-assign]
    await bench.clock.advance(61.0)
    await bench.until(lambda: bool(failed))
    await bench.clock.advance(61.0)
    await bench.until(lambda: instance.state is State.PAUSED)


async def test_who_gives_up_waiting_does_not_abort_the_boot_of_others(bench: Bench, stuck: asyncio.Event) -> None:
    instance, impatient = await booting(bench)
    receipt = await bench.send(instance, "[[say hello]]")
    impatient.cancel()
    await asyncio.sleep(0)
    stuck.set()
    assert (await bench.answer(receipt)).text == "hello"
    assert not bench.house.agents._of(instance).life._deaths, "it is no crash"


async def test_delete_does_not_wait_for_a_boot(bench: Bench, stuck: asyncio.Event, short_home: Path) -> None:
    instance, task = await booting(bench)
    await bench.house.agents.delete(OWNER, instance)
    with pytest.raises(AegisError) as caught:
        await task
    assert caught.value.kind is ErrorKind.INTERRUPTED
    assert bench.house.registry.all() == []
    assert list((short_home / "instances").iterdir()) == []


async def test_disable_cuts_a_boot_and_the_message_waits(bench: Bench, stuck: asyncio.Event) -> None:
    instance, task = await booting(bench)
    receipt = await bench.send(instance, "[[say later]]")
    await bench.house.agents.disable(OWNER, instance)
    with pytest.raises(AegisError):
        await task
    assert (instance.state, instance.reason, instance.enabled) == (State.STOPPED, "disabled", False)
    stuck.set()
    await bench.house.agents.start(OWNER, instance)
    assert (await bench.answer(receipt)).text == "later"


async def test_a_daemon_that_ends_during_a_boot_says_so(open_bench: Callable[[], Awaitable[Bench]], stuck: asyncio.Event) -> None:
    bench = await open_bench()
    instance, task = await booting(bench)
    await bench.house.close()
    with pytest.raises(AegisError):
        await task
    assert (instance.state, instance.reason) == (State.STOPPED, "the daemon ended")


async def test_two_restarts_at_once_both_succeed(bench: Bench) -> None:
    instance = await bench.start()
    receipt = await bench.send(instance, '[[call bash {"command": "sleep 0.5"}]] [[say at last]]')
    await calls(bench)
    agents = bench.house.agents
    await asyncio.gather(agents.restart(OWNER, instance), agents.restart(OWNER, instance))
    assert instance.state is State.RUNNING
    assert (await bench.answer(receipt)).text == "at last"


@pytest.mark.parametrize("verb", ["start", "restart", "resume"])
async def test_what_is_deleted_is_not_booted_again(bench: Bench, verb: str) -> None:
    agents = bench.house.agents
    instance = await bench.start()
    life = agents._of(instance).life
    await asyncio.gather(agents.delete(OWNER, instance), getattr(agents, verb)(OWNER, instance), return_exceptions=True)
    assert (life.sandbox, agents._live, bench.house.registry.all()) == (None, {}, [])
    with pytest.raises(AegisError):
        await getattr(agents, verb)(OWNER, instance)
    assert agents._live == {}


async def test_a_second_delete_leaves_the_next_owner_of_the_handle_alone(bench: Bench) -> None:
    instance = await bench.start()
    results = await asyncio.gather(*(bench.house.agents.delete(OWNER, instance) for _ in range(2)), return_exceptions=True)
    assert [r.kind for r in results if isinstance(r, AegisError)] == [ErrorKind.CONFLICT]
    again = await bench.start()
    bench.house.registry.forget(instance)
    assert bench.house.registry.get("a") is again
    assert len(bench.house.store.events(0, types=["instance.deleted"]).events) == 1


async def test_a_message_thaws_a_turn_that_a_person_froze(bench: Bench) -> None:
    instance = await bench.start()
    first = await bench.send(instance, '[[call bash {"command": "sleep 0.2"}]] [[say one]]')
    await calls(bench)
    await bench.house.agents.pause(OWNER, instance)
    assert instance.state is State.PAUSED
    second = await bench.send(instance, "[[say two]]")
    done = await bench.answer(first)
    assert (done.text, done.in_reply_to) == ("two", [first.id, second.id])  # which it read when it went on


async def test_a_turn_that_was_completed_stays_completed(bench: Bench) -> None:
    """The sandbox before it went while the turn waited for one: nothing of the turn was cut."""
    instance = await bench.start()
    live = bench.house.agents._of(instance)
    await live.life._lock.acquire()
    receipt = await bench.send(instance, "[[say once]]")
    await bench.until(lambda: live.session("host:default").turn is not None)
    live.session("host:default").sandbox_gone()
    live.life._lock.release()
    assert (await bench.answer(receipt, skip_cut=False)).outcome is Outcome.COMPLETED


async def test_cancel_before_the_conversation_exists(bench: Bench, stuck: asyncio.Event) -> None:
    instance, _task = await booting(bench)
    receipt = await bench.send(instance, LONG)
    worker = bench.house.agents._of(instance).session("host:default")
    await bench.until(lambda: worker.turn is not None)
    assert await bench.house.agents.interrupt(OWNER, instance, "host:default")
    stuck.set()
    assert (await bench.answer(receipt)).outcome is Outcome.CANCELLED
    (row,) = bench.house.mail.box(instance.id)
    assert (row["state"], row["done_at"] is None) == ("failed", False), "the program never had it"
    assert (await bench.answer(await bench.send(instance, "[[say next]]"))).text == "next"


async def test_cancel_at_every_instant_of_a_turn(bench: Bench) -> None:
    """Wherever it strikes, that turn ends once, and the next one is not touched."""
    instance = await bench.start()
    worker = bench.house.agents._of(instance).session("host:default")
    for n in range(25):
        receipt = await bench.send(instance, '[[call bash {"command": "true"}]] [[say done]]')
        await bench.until(lambda: worker.turn is not None)
        await asyncio.sleep(n * 0.003)
        await bench.house.agents.interrupt(OWNER, instance, "host:default")
        after = await bench.send(instance, f"[[say after {n}]]")
        assert (await bench.answer(receipt)).outcome in (Outcome.CANCELLED, Outcome.COMPLETED)
        assert (await bench.answer(after)).text == f"after {n}"
    started = len(bench.house.store.events(0, types=["turn.started"], limit=1000).events)
    assert started == len(bench.house.store.events(0, types=["turn.finished"], limit=1000).events)


async def test_cancel_thaws_a_frozen_turn(bench: Bench) -> None:
    instance = await bench.start()
    receipt = await bench.send(instance, LONG)
    await calls(bench)
    await bench.house.agents.pause(OWNER, instance)
    assert await bench.house.agents.interrupt(OWNER, instance, "host:default")
    assert (await bench.answer(receipt)).outcome is Outcome.CANCELLED


async def test_who_may_not_cancel_cancels_nothing(bench: Bench) -> None:
    instance = await bench.start()
    receipt = await bench.send(instance, '[[call bash {"command": "sleep 0.5"}]] [[say undisturbed]]')
    await calls(bench)
    with pytest.raises(AegisError) as caught:
        await bench.house.agents.interrupt(Principal(PrincipalKind.INSTANCE, instance.id), instance, "host:default")
    assert caught.value.kind is ErrorKind.DENIED
    assert (await bench.answer(receipt)).text == "undisturbed"


async def test_an_interrupting_message_cuts_the_turn_before_it_and_not_its_own(bench: Bench) -> None:
    instance = await bench.start()
    first = await bench.send(instance, LONG)
    await calls(bench)
    second = await bench.send(instance, "[[say now]]", interrupt=True, msg_id="now")
    assert (await bench.answer(first)).outcome is Outcome.CANCELLED
    assert (await bench.answer(second)).text == "now"
    third = await bench.send(instance, '[[call bash {"command": "sleep 0.3"}]] [[say whole]]', interrupt=True, msg_id="own")
    await calls(bench, 2)
    again = await bench.send(instance, "[[say whole]]", interrupt=True, msg_id="own")
    assert (again.id, again.duplicate) == (third.id, True)
    assert (await bench.answer(third)).text == "whole", "a message sent twice does not cut its own turn"
    accepted = [event.seq for event in bench.house.store.events(0, types=["mail.accepted"]).events]
    cut = [event.seq for event in bench.house.store.events(0, types=["turn.finished"]).events]
    assert accepted[1] < cut[0], "it is accepted before anything is cut"


async def test_a_refused_message_cuts_nothing(bench: Bench) -> None:
    instance = await bench.start()
    receipt = await bench.send(instance, '[[call bash {"command": "sleep 0.5"}]] [[say undisturbed]]')
    await calls(bench)
    with pytest.raises(AegisError):
        await bench.send(instance, "a\x00b", interrupt=True)
    assert (await bench.answer(receipt)).text == "undisturbed"


async def test_cancel_of_a_session_that_never_was_leaves_nothing(bench: Bench) -> None:
    instance = await bench.start()
    assert not await bench.house.agents.interrupt(OWNER, instance, "host:never")
    assert bench.house.agents._of(instance).sessions == {}


async def test_instances_that_come_and_go_leave_nothing_in_the_daemon(bench: Bench) -> None:
    import os

    async def one(n: int) -> None:
        instance = await bench.start(f"i{n}")
        await bench.answer(await bench.send(instance, "[[say hi]]"))
        await bench.house.agents.delete(OWNER, instance)

    await one(0)
    await bench.until(lambda: bench.house.agents._live == {})
    await asyncio.sleep(0.1)
    tasks, descriptors = len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))
    for n in range(10):
        await one(n)
    await asyncio.sleep(0.1)
    assert len(asyncio.all_tasks()) <= tasks
    assert len(os.listdir("/proc/self/fd")) <= descriptors
    assert bench.house.models._turn_of == {}
    assert bench.house.models._turns == {}
    assert bench.house.models._open == {}


async def test_a_delete_in_the_middle_of_a_model_call_leaves_no_row(bench: Bench) -> None:
    instance = await bench.start()
    await bench.send(instance, "[[slow 500 20]]")
    async with asyncio.timeout(20):
        while not bench.house.store.events(0, types=["turn.text.delta"]).events:
            await bench.clock.advance(0.02)  # the scripted model writes by this clock
            await asyncio.sleep(0.005)
    await bench.house.agents.delete(OWNER, instance)
    await bench.house.models.close()
    await asyncio.sleep(0.2)
    for table in ("instances", "envelopes", "memory", "turns", "model_calls", "model_totals"):
        assert bench.house.store.read(lambda db, t=table: db.execute(f"SELECT count(*) FROM {t}").fetchone()) == (0,), table
