"""Sleep, wake, death and limits of an instance, on a clock that the test moves; the processes are real."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import msgspec
import pytest
from tests.agents.conftest import OWNER

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import Outcome
from aegis.services.agents import State
from aegis.services.agents.life import CRASHES
from aegis.services.agents.turns import MAX_ATTEMPTS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.agents.conftest import Bench


async def test_idle_is_paused_then_stopped_and_a_message_boots_it(bench: Bench) -> None:
    instance = await bench.start()
    assert (await bench.answer(await bench.send(instance, "[[say one]] heron"))).text == "one"
    await bench.clock.advance(59.0)
    assert instance.state is State.RUNNING
    await bench.clock.advance(2.0)
    await bench.until(lambda: instance.state is State.PAUSED)
    await bench.clock.advance(301.0)
    await bench.until(lambda: instance.state is State.STOPPED)
    assert instance.reason == "idle"
    assert "heron" in (await bench.answer(await bench.send(instance, "[[recall]]"))).text
    assert instance.state is State.RUNNING


async def test_work_of_children_counts_as_activity(bench: Bench, tmp_path: Path) -> None:
    instance = await bench.start(workspace=str(tmp_path))
    text = '[[call bash {"command": "setsid sh -c \\"while :; do :; done\\" >/dev/null 2>&1 & echo $!"}]] [[say off]]'
    await bench.answer(await bench.send(instance, text))
    await asyncio.sleep(0.3)  # the loop burns CPU in real time
    await bench.clock.advance(61.0)
    await asyncio.sleep(0.1)
    assert instance.state is State.RUNNING


async def test_a_turn_keeps_it_awake(bench: Bench) -> None:
    instance = await bench.start()
    receipt = await bench.send(instance, '[[call bash {"command": "sleep 1"}]] [[say done]]')
    await bench.until(lambda: "tool" in str(bench.house.store.events(0, types=["turn.tool.call"]).events))
    await bench.clock.advance(3600.0)
    assert instance.state is State.RUNNING
    assert (await bench.answer(receipt)).outcome is Outcome.COMPLETED


async def test_the_death_of_the_sandbox_cuts_the_turn_and_it_is_continued(bench: Bench, tmp_path: Path) -> None:
    instance = await bench.start(workspace=str(tmp_path))
    receipt = await bench.send(instance, '[[call bash {"command": "echo $PPID > up; sleep 1; true"}]] [[say at last]]')
    await bench.until(lambda: (tmp_path / "up").exists() and (tmp_path / "up").read_text().strip() != "")
    live = bench.house.agents._of(instance)
    os.kill(live.life.sandbox.pid, signal.SIGKILL)  # type: ignore[union-attr]
    cut = await bench.answer(receipt, skip_cut=False)
    assert cut.outcome is Outcome.INTERRUPTED
    assert cut.error is not None
    assert cut.error["will_continue"]
    assert (await bench.answer(receipt)).text == "at last"


async def test_a_crash_loop_is_not_fed(bench: Bench) -> None:
    instance = await bench.start()
    live = bench.house.agents._of(instance)
    for _ in range(CRASHES):
        await live.life.awake()
        os.kill(live.life.sandbox.pid, signal.SIGKILL)  # type: ignore[union-attr]
        await bench.until(lambda: instance.state is State.FAILED)
    with pytest.raises(AegisError, match="is not started again") as caught:
        await live.life.awake()
    assert caught.value.kind is ErrorKind.CONFLICT
    answer = await bench.answer(await bench.send(instance, "hello"))
    assert answer.outcome is Outcome.FAILED, "whoever writes to it is told"
    await bench.house.agents.restart(OWNER, instance)
    assert instance.state is State.RUNNING


async def test_a_turn_is_not_continued_for_ever(open_bench: Callable[[], Awaitable[Bench]]) -> None:
    bench = await open_bench()
    instance = await bench.start()
    receipt = await bench.send(instance, '[[call bash {"command": "sleep 30"}]] [[say never]]')
    for attempt in range(MAX_ATTEMPTS + 1):
        session = bench.house.agents._of(bench.house.registry.get("a")).session("host:default")
        await bench.until(lambda running=session: running.turn is not None)  # type: ignore[misc]
        await bench.house.close()
        bench = await open_bench()
        assert attempt <= MAX_ATTEMPTS
    answer = await bench.answer(receipt)
    assert answer.outcome is Outcome.INTERRUPTED
    assert not (answer.error or {}).get("will_continue")


async def test_on_interrupt_hold_does_not_continue(open_bench: Callable[[], Awaitable[Bench]]) -> None:
    bench = await open_bench()
    instance = await bench.start()
    held = msgspec.structs.replace(instance.launch, on_interrupt="hold")
    await bench.house.store.write(lambda tx: bench.house.registry.relaunch(tx, instance, held))
    receipt = await bench.send(instance, '[[call bash {"command": "sleep 30"}]] [[say never]]')
    await bench.until(lambda: bool(bench.house.store.events(0, types=["turn.tool.call"]).events))
    await bench.house.close()
    bench = await open_bench()
    answer = await bench.answer(receipt)
    assert answer.outcome is Outcome.INTERRUPTED
    instance = bench.house.registry.get("a")
    assert (await bench.answer(await bench.send(instance, "[[say next]]"))).text == "next"


async def test_an_envelope_expires_when_nobody_takes_it_up(bench: Bench) -> None:
    instance = await bench.start()
    timers = asyncio.create_task(bench.house.timers.run())
    try:
        first = await bench.send(instance, '[[call bash {"command": "sleep 1"}]] [[say first]]')
        await bench.until(lambda: bool(bench.house.store.events(0, types=["turn.tool.call"]).events))
        other = await bench.start("b")  # work that is reported has a turn of its own, and so waits for the end of this one
        late = await bench.send(instance, "[[say too late]]", expires=bench.clock.now() + 5.0, report_to=other.id)
        await asyncio.sleep(0.05)  # the runner of timers is asleep on the moved clock
        await bench.clock.advance(6.0)
        await bench.until(lambda: any(row["state"] == "expired" for row in bench.house.mail.box(instance.id)))
        assert (await bench.answer(first)).text == "first"
        assert late.id not in str(await bench.house.agents.transcript(instance, "host:default"))
    finally:
        timers.cancel()


async def test_a_handle_is_unique_even_when_two_ask_at_once(bench: Bench) -> None:
    results = await asyncio.gather(bench.start("twin"), bench.start("twin"), return_exceptions=True)
    assert sum(isinstance(r, AegisError) and r.kind is ErrorKind.CONFLICT for r in results) == 1


@pytest.mark.parametrize("handle", ["", "a b", "../x", "рm", "a\nb", "-rf", "x" * 64, "system", "All"])
async def test_bad_handles_are_refused(bench: Bench, handle: str) -> None:
    with pytest.raises(AegisError) as caught:
        await bench.house.registry.create(handle, (await bench.start("model-launch")).launch, lambda _tx: None)
    assert caught.value.kind is ErrorKind.USAGE


async def test_an_instance_may_do_nothing_but_call_its_model(bench: Bench) -> None:
    from aegis.core.principals import Principal, PrincipalKind

    instance = await bench.start()
    inside = Principal(PrincipalKind.INSTANCE, instance.id)
    with pytest.raises(AegisError) as caught:
        await bench.house.agents.delete(inside, instance)
    assert caught.value.kind is ErrorKind.DENIED
    (denial,) = [row for row in bench.house.gate.list(limit=1000) if row["decision"] == "deny"]
    assert (denial["principal"], denial["action"]) == (f"instance:{instance.id}", "instance.delete")


async def test_every_effect_leaves_one_audit_row(bench: Bench) -> None:
    instance = await bench.start()
    await bench.answer(await bench.send(instance, "[[say hi]]"))
    await bench.house.agents.pause(OWNER, instance)
    await bench.house.agents.resume(OWNER, instance)
    async with bench.house.agents.exec(OWNER, instance, ["true"], env={}, cwd=None, stdin=False) as (_, program):
        assert await program.wait() == 0
    await bench.house.agents.delete(OWNER, instance)
    actions = [row["action"] for row in bench.house.gate.list(limit=1000)]
    assert actions == [
        "instance.create",
        "mail.send",
        "model.call",
        "instance.pause",
        "instance.resume",
        "instance.exec",
        "instance.delete",
    ]


async def test_delete_forgets_everything_but_the_workspace(bench: Bench, tmp_path: Path, short_home: Path) -> None:
    (tmp_path / "mine").write_text("kept")
    instance = await bench.start(workspace=str(tmp_path))
    await bench.answer(await bench.send(instance, "[[say hi]]"))
    await bench.house.agents.delete(OWNER, instance)
    assert (tmp_path / "mine").read_text() == "kept"
    assert list((short_home / "instances").iterdir()) == []
    for table in ("instances", "envelopes", "memory", "turns", "model_calls"):
        assert bench.house.store.read(lambda db, t=table: db.execute(f"SELECT count(*) FROM {t}").fetchone()) == (0,), table
