"""What fails under an instance: its boot, the disk, the daemon between two steps. The state says what is, and whoever wrote is told."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from tests.agents.conftest import OWNER

from aegis.core import faults
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import Outcome
from aegis.sandboxes.process import ProcessSandbox
from aegis.services.agents import State
from aegis.services.agents.life import CRASHES, state_dir
from aegis.services.agents.world import BALLAST

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from tests.agents.conftest import Bench


@pytest.fixture(autouse=True)
def _unarmed() -> Iterator[None]:
    yield
    faults.disarm()


def on_disk(bench: Bench, what: str = "state") -> Any:
    """A column of the one instance's row."""
    (row,) = bench.house.store.read(lambda db: db.execute(f"SELECT {what} FROM instances").fetchall())
    return row[0]


def full(*_: object) -> Any:
    raise AegisError(ErrorKind.UNAVAILABLE, "the disk is full")


async def test_who_wrote_to_what_does_not_boot_is_told_each_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    instance = await bench.start()
    await bench.house.agents.disable(OWNER, instance)

    async def broken(_self: ProcessSandbox) -> Any:
        raise AegisError(ErrorKind.FAILED, "bwrap is missing", stderr="no such file", exit=127)

    monkeypatch.setattr(ProcessSandbox, "start", broken)
    with pytest.raises(AegisError):
        await bench.house.agents.start(OWNER, instance)
    assert (instance.state, instance.reason) == (State.FAILED, "bwrap is missing")
    for n in range(CRASHES + 1):
        answer = await bench.answer(await bench.send(instance, f"hello {n}", msg_id=f"m{n}"))
        assert (answer.outcome, answer.reply_to) == (Outcome.FAILED, [f"m{n}"])
        assert answer.error is not None
        assert "bwrap is missing" in answer.error["error"] if n < CRASHES - 1 else "is not started again" in answer.error["error"]
    for row in bench.house.mail.box(instance.id):
        assert row["state"] == "failed"
        assert row["reason"]
        assert row["injected_at"] is None
    failed = [ident for event in bench.house.store.events(0, types=["mail.failed"]).events for ident in event.fact.message_ids]  # type: ignore[attr-defined]
    assert failed == [row["id"] for row in bench.house.mail.box(instance.id)]


async def test_an_ephemeral_instance_that_does_not_boot_is_not_kept(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(_self: ProcessSandbox) -> Any:
        raise AegisError(ErrorKind.FAILED, "no")

    monkeypatch.setattr(ProcessSandbox, "start", broken)
    with pytest.raises(AegisError, match="no"):
        await bench.start(ephemeral=True)
    await bench.until(lambda: bench.house.registry.all() == [])


async def test_an_ephemeral_instance_whose_sandbox_dies_is_not_kept(bench: Bench) -> None:
    import os
    import signal

    instance = await bench.start(ephemeral=True)
    life = bench.house.agents._of(instance).life
    async with bench.house.agents.exec(OWNER, instance, ["sleep", "60"], env={}, cwd=None, stdin=False) as (_, program):
        os.kill(life.sandbox.pid, signal.SIGKILL)  # type: ignore[union-attr]
        with pytest.raises(AegisError):
            await program.wait()
    await bench.until(lambda: bench.house.registry.all() == [])


async def test_a_boot_that_cannot_be_written_down_does_not_happen(bench: Bench) -> None:
    instance = await bench.start()
    agents = bench.house.agents
    await agents.disable(OWNER, instance)
    await bench.house.store.write(lambda tx: bench.house.registry.enable(tx, instance, True))
    faults.arm("store.commit.before", "enospc")
    with pytest.raises(AegisError) as caught:
        await agents._of(instance).life.awake()
    assert caught.value.kind is ErrorKind.UNAVAILABLE
    assert (instance.state, on_disk(bench)) == (State.STOPPED, "stopped")
    await agents._of(instance).life.awake()
    assert (instance.state, on_disk(bench)) == (State.RUNNING, "running")


async def test_a_disk_that_fills_during_a_boot_leaves_a_sandbox_that_sleeps_and_stops(bench: Bench) -> None:
    instance = await bench.start()
    agents = bench.house.agents
    await agents.disable(OWNER, instance)
    await bench.house.store.write(lambda tx: bench.house.registry.enable(tx, instance, True))
    faults.arm("store.commit.before", "enospc", 2)
    await agents._of(instance).life.awake()
    assert instance.state is State.RUNNING
    await bench.clock.advance(61.0)
    await bench.until(lambda: instance.state is State.PAUSED)
    await bench.until(lambda: on_disk(bench) == "paused")


async def test_a_sandbox_that_came_up_in_vain_is_taken_away(bench: Bench, short_home: Path) -> None:
    from aegis.sandboxes import tree

    faults.arm("instance.started", "raise")
    with pytest.raises(RuntimeError):
        await bench.start()
    assert bench.house.registry.get("a").state is State.FAILED
    assert tree.kill_orphans(short_home) == []


async def test_what_could_not_be_written_is_not_so_in_memory(bench: Bench, monkeypatch: pytest.MonkeyPatch, short_home: Path) -> None:
    import msgspec

    instance = await bench.start()
    agents, registry, launch = bench.house.agents, bench.house.registry, instance.launch
    with monkeypatch.context() as patch:
        patch.setattr(bench.house.store, "write", full)
        for effect in (
            agents.disable(OWNER, instance),
            agents.delete(OWNER, instance),
            agents.start(OWNER, instance, msgspec.structs.replace(launch, model="scripted/echo")),
            registry.move(instance, State.PAUSED),
        ):
            with pytest.raises(AegisError):
                await effect
    assert (instance.enabled, instance.state, instance.launch) == (True, State.RUNNING, launch)
    assert registry.get("a") is instance
    assert state_dir(short_home, instance).exists()
    assert (await bench.answer(await bench.send(instance, "[[say unharmed]]"))).text == "unharmed"


@pytest.mark.parametrize("verb", ["disable", "delete"])
async def test_the_reserved_space_lets_one_stop_on_a_full_disk(bench: Bench, short_home: Path, verb: str) -> None:
    instance = await bench.start()
    life = bench.house.agents._of(instance).life
    (short_home / BALLAST).write_bytes(b"x")
    faults.arm("store.commit.before", "enospc")
    await getattr(bench.house.agents, verb)(OWNER, instance)
    assert life.sandbox is None
    assert not (short_home / BALLAST).exists()
    actions = [row["action"] for row in bench.house.gate.list(limit=1000)]
    assert actions.count(f"instance.{verb}") == 1


async def test_the_audit_row_of_a_delete_is_there_before_the_effect(bench: Bench) -> None:
    instance = await bench.start()
    faults.arm("instance.ended", "raise")
    with pytest.raises(RuntimeError):
        await bench.house.agents.delete(OWNER, instance)
    assert [row["action"] for row in bench.house.gate.list(limit=1000)][-1] == "instance.delete"
    await bench.house.agents.delete(OWNER, instance)
    assert bench.house.registry.all() == []


async def test_files_of_what_a_dead_daemon_was_deleting_are_removed(open_bench: Callable[[], Awaitable[Bench]], short_home: Path) -> None:
    bench = await open_bench()
    instance = await bench.start()
    await bench.house.close()
    left = short_home / "instances" / "inst_gone" / "home"
    left.mkdir(parents=True)
    await open_bench()
    assert [folder.name for folder in (short_home / "instances").iterdir()] == [instance.id]


@pytest.mark.parametrize("kind", ["turn.started", "turn.finished"])
async def test_a_write_that_is_told_as_failed_but_is_there_is_not_made_twice(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A disk may fail in the very act. The turn goes on, and begins and ends once."""
    instance = await bench.start()
    store, write, lied = bench.house.store, bench.house.store.write, []

    async def lying(fn: Any) -> Any:
        result = await write(fn)
        if not lied and store.events(0, types=[kind]).events:
            lied.append(True)
            full()
        return result

    monkeypatch.setattr(store, "write", lying)
    receipt = await bench.send(instance, "[[say once]]")
    await bench.until(lambda: bool(lied))
    await asyncio.sleep(0.05)
    await bench.clock.advance(1.0)
    assert (await bench.answer(receipt)).text == "once"
    await bench.until(lambda: bench.house.agents._of(instance).session("host:default").turn is None)
    for each in ("turn.started", "turn.finished"):
        assert len(store.events(0, types=[each]).events) == 1


async def test_a_daemon_starts_on_a_full_disk(open_bench: Callable[[], Awaitable[Bench]], short_home: Path) -> None:
    bench = await open_bench()
    instance = await bench.start()
    await bench.send(instance, '[[call bash {"command": "sleep 30"}]] [[say never]]')
    await bench.until(lambda: bool(bench.house.store.events(0, types=["turn.tool.call"]).events))
    await bench.house.close()
    (short_home / BALLAST).write_bytes(b"x")
    faults.arm("store.commit.before", "enospc")
    bench = await open_bench()
    assert not (short_home / BALLAST).exists()
    assert bench.house.registry.get("a").state is not State.RUNNING
