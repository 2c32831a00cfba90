"""What a new daemon finds of the instances that there were: what goes on, what sleeps, what cannot be started and why."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from tests.agents.conftest import OWNER, Bench
from tests.agents.test_sessions import begun

from aegis.core.clock import ManualClock
from aegis.core.errors import AegisError, ErrorKind
from aegis.daemon.wiring import build
from aegis.drivers import Installation
from aegis.sandboxes import Verdict
from aegis.services.agents.life import Life
from aegis.services.agents.model import MountRule, State
from aegis.services.agents.returning import AT_ONCE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.agents.programs import Program

    from aegis.services.agents import Instance
    from aegis.services.agents.returning import Returned


async def crash(bench: Bench) -> None:
    """The daemon dies: nothing more is written, the sandboxes go with it."""
    for live in bench.house.agents._live.values():
        await live.halt()
    await bench.house.close()


async def report(bench: Bench) -> dict[str, Returned]:
    return {one.handle: one for one in await bench.house.agents.returning.report()}


async def test_all_of_it_comes_back_asleep_and_only_what_has_work_goes_on(
    open_bench: Callable[[], Awaitable[Bench]], program: Program
) -> None:
    one = await open_bench()
    calm = await one.launch("calm")
    conversation_of = await _cut(one, program)
    held = await one.launch("held", on_interrupt="hold")
    await one.send(held, "work")
    await _until_sent(one, program, 2)
    off = await one.launch("off")
    await one.house.agents.disable(OWNER, off)
    await crash(one)

    two = await open_bench()
    found = await report(two)
    assert [(h, r.enabled, r.resumes, r.obstacle) for h, r in found.items()] == [
        ("calm", True, 0, ""),
        ("cut", True, 1, ""),
        ("held", True, 0, ""),
        ("off", False, 0, ""),
    ]
    await two.until(lambda: len(program.turns) == 3)
    assert program.turns[-1].spec.session == conversation_of
    assert {i.handle for i in two.house.registry.all() if i.state is State.RUNNING} == {"cut"}
    assert two.house.registry.get(calm.id).state is State.STOPPED


async def _cut(bench: Bench, program: Program) -> str:
    """An instance `cut` whose turn runs; the session of it."""
    cut = await bench.launch("cut")
    await bench.send(cut, "work", "host:mine")
    await _until_sent(bench, program, 1)
    return "host:mine"


async def _until_sent(bench: Bench, program: Program, count: int) -> None:
    await bench.until(lambda: len(program.turns) == count)
    await program.turns[-1].until("send")


async def test_many_with_work_start_a_few_at_a_time(
    open_bench: Callable[[], Awaitable[Bench]], program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await open_bench()
    instances = [await one.launch(f"i{n}") for n in range(3 * AT_ONCE)]
    for instance in instances:
        await one.house.agents.disable(OWNER, instance)
    await _post(one, instances)
    await crash(one)

    booting, most, boot = 0, 0, Life._boot
    gate = asyncio.Event()

    async def slowly(self: Life) -> Any:
        nonlocal booting, most
        booting += 1
        most = max(most, booting)
        await gate.wait()
        try:
            return await boot(self)
        finally:
            booting -= 1

    monkeypatch.setattr(Life, "_boot", slowly)
    two = await open_bench()
    await two.until(lambda: booting == AT_ONCE)
    await asyncio.sleep(0.02)
    assert most == AT_ONCE
    gate.set()
    await two.until(lambda: len(program.turns) == len(instances))
    assert most == AT_ONCE


async def _post(bench: Bench, instances: list[Instance]) -> None:
    """Mail that waits for instances that are in use, though nobody works on it yet."""
    for instance in instances:
        instance.enabled = False
        await bench.send(instance, "work")
    await bench.house.store.write(lambda tx: tx.execute("UPDATE instances SET enabled = 1"))


async def test_what_cannot_be_started_says_why_and_waits_and_the_others_go_on(
    open_bench: Callable[[], Awaitable[Bench]], program: Program, tmp_path: Path
) -> None:
    one = await open_bench()
    space = tmp_path / "space"
    space.mkdir()
    instances = {
        "space": await one.launch("space", workspace=str(space)),
        "fine": await one.launch("fine"),
    }
    for n, instance in enumerate(instances.values(), 1):
        await one.send(instance, "work")
        await _until_sent(one, program, n)
    await crash(one)
    space.rmdir()

    two = await open_bench()
    await _until_sent(two, program, 3)
    found = await report(two)
    assert "is gone" in found["space"].obstacle
    assert str(space) in found["space"].obstacle
    assert found["space"].mend
    assert found["space"].resumes == 1
    assert found["fine"].obstacle == ""
    instance = two.house.registry.get("space")
    now = two.house.agents.activity(instance)
    assert (now.word, now.note) == ("idle", found["space"].obstacle)
    assert two.house.agents.returning.hindered == 1
    assert instance.state is State.STOPPED, "nobody tried, so nothing has failed"

    space.mkdir()
    await two.house.agents.start(OWNER, instance)
    await _until_sent(two, program, 4)
    assert two.house.agents.activity(instance).note == ""
    assert two.house.agents.returning.hindered == 0
    program.turns[-1].done("after all")
    await two.until(lambda: any(end.text == "after all" for end in two.facts("turn.finished")))


@pytest.mark.parametrize("what", ["program", "driver", "secret", "login", "sandbox", "mount", "replay"])
async def test_each_thing_that_can_be_gone_is_named(
    open_bench: Callable[[], Awaitable[Bench]], program: Program, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = await open_bench()
    house = bench.house
    changes: dict[str, Any] = {}
    if what == "mount":
        changes = {"mounts": [MountRule(str(tmp_path), "/shown")]}
    if what == "replay":
        (tmp_path / "calls").touch()
        changes = {"replay": str(tmp_path / "calls")}
    instance = await bench.launch("a", **changes)
    await house.agents._of(instance).life.stop("for the test")
    assert await house.agents.returning.examine([instance]) == {}
    relaunch: dict[str, Any] = {
        "driver": {"driver": "gone"},
        "secret": {"secrets": ["NAME"]},
        "login": {"auth": "login"},
        "mount": {"mounts": [MountRule(str(tmp_path / "gone"), "/shown")]} if what == "mount" else {},
        "replay": {"replay": str(tmp_path / "gone")},
    }.get(what, {})
    instance.launch = msgspec.structs.replace(instance.launch, **relaunch)
    if what == "program":
        program.missing = AegisError(ErrorKind.NOT_FOUND, "the program `fake` is not installed", "`install fake`")
    if what == "login":
        monkeypatch.setattr(house.agents._world.logins, "check", _no_login)
    if what == "sandbox":

        async def verdicts() -> dict[str, Verdict]:
            return {"process": Verdict(False, "not here", "mend it")}

        house.agents.returning.verdicts = verdicts
    found = (await house.agents.returning.examine([instance]))[instance.id]
    named = {"driver": "gone", "secret": "NAME", "login": "logged in", "sandbox": "not here", "program": "not installed"}
    assert named.get(what, str(tmp_path)) in found.reason
    assert found.mend
    (one,) = await house.agents.returning.report()
    assert one.obstacle == found.reason


def _no_login(*_: object) -> None:
    raise AegisError(ErrorKind.NOT_FOUND, "you have not logged in with fake", "log in")


async def test_another_version_of_the_program_is_a_note_and_no_obstacle(bench: Bench, program: Program, tmp_path: Path) -> None:
    instance, conversation, receipt = await begun(bench, program)
    conversation.done()
    await bench.answer(receipt)

    async def locate() -> Installation:
        return Installation(name="fake", argv=["/bin/true"], version="2.0", path=tmp_path)

    program.locate = locate  # type: ignore[method-assign]
    (one,) = await bench.house.agents.returning.report()
    assert (one.obstacle, one.notes) == ("", ["fake is 2.0 now; its conversations were made with 1.0"])
    assert one.handle == instance.handle


async def test_clean_puts_everything_aside_and_deletes_nothing(
    short_home: Path, program: Program, open_bench: Callable[[], Awaitable[Bench]]
) -> None:
    one = await open_bench()
    await _cut(one, program)
    await crash(one)
    house = await build(short_home, ManualClock())
    house.agents._world.drivers["fake"] = program  # type: ignore[index]
    try:
        await house.agents.open(clean=True)
        two = Bench(house, ManualClock())
        await asyncio.sleep(0.02)
        instance = house.registry.get("cut")
        assert not instance.enabled
        assert instance.state is State.STOPPED
        assert house.agents.returning.put_aside == 1
        assert len(program.turns) == 1
        (one_,) = await house.agents.returning.report()
        assert (one_.enabled, one_.resumes) == (False, 1)
        assert house.gate.list()[-1]["action"] == "instance.disable"
        await house.agents.start(OWNER, instance)
        await _until_sent(two, program, 2)
        program.turns[-1].done("gone on with")
        await two.until(lambda: any(end.text == "gone on with" for end in two.facts("turn.finished")))
    finally:
        await house.close()


async def test_a_program_that_hangs_keeps_nobody_else_from_going_on(open_bench: Callable[[], Awaitable[Bench]], program: Program) -> None:
    one = await open_bench()
    await _cut(one, program)
    native = await one.start("native")
    await one.house.agents._of(native).life.stop("for the test")
    await _post(one, [native])
    await crash(one)
    asked = asyncio.Event()

    async def hangs() -> None:
        await asked.wait()
        raise AegisError(ErrorKind.UNAVAILABLE, "the program `fake` does not answer")

    program.locate = hangs  # type: ignore[method-assign]
    two = await open_bench()
    await two.until(lambda: [end.in_reply_to for end in two.facts("turn.finished") if end.outcome == "completed"] != [])
    assert two.house.registry.get("cut").state is State.STOPPED
    asked.set()
    await two.until(lambda: two.house.agents.returning.hindered == 1)
    await two.until(lambda: two.house.store.read(lambda db: db.execute("SELECT count(*) FROM attention").fetchone()[0]) == 1)
    (row,) = await two.house.attention.newest()
    assert (row["kind"], row["handle"], row["text"]) == ("needs-you", "cut", "cut cannot go on: the program `fake` does not answer")
