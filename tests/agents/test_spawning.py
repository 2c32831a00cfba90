"""What a spawned instance gets, who may still have one, and what ends it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.agents.conftest import OWNER, Bench

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.faults import arm, disarm
from aegis.core.principals import Principal, PrincipalKind
from aegis.services.agents import Instance
from aegis.services.agents.model import SpawnRights, State
from aegis.services.agents.spawning import Spawned, Wish
from aegis.services.agents.world import BALLAST

SESSION = "host:default"


def principal(instance: Instance) -> Principal:
    return Principal(PrincipalKind.INSTANCE, instance.id)


async def spawn(bench: Bench, parent: Instance, prompt: str = "[[say done]]", **wish: Any) -> Spawned:
    return await bench.house.spawning.spawn(principal(parent), parent, SESSION, Wish(prompt=prompt, **wish))


async def refused(bench: Bench, parent: Instance, **wish: Any) -> AegisError:
    before = {i.id for i in bench.house.registry.all()}
    with pytest.raises(AegisError) as caught:
        await bench.house.spawning.spawn(principal(parent), parent, SESSION, Wish(**({"prompt": "x"} | wish)))
    assert {i.id for i in bench.house.registry.all()} == before, "nothing is left of it"
    return caught.value


async def relaunch(bench: Bench, instance: Instance, **changes: Any) -> None:
    """Give an instance other rights, as its definition could have."""
    launch = msgspec.structs.replace(instance.launch, **changes)
    await bench.house.store.write(lambda tx: bench.house.registry.relaunch(tx, instance, launch))


def audits(bench: Bench, action: str = "instance.spawn") -> list[dict[str, Any]]:
    return [row for row in bench.house.gate.list(limit=1000) if row["action"] == action]


def boxes(bench: Bench, instance: Instance) -> list[dict[str, Any]]:
    return bench.house.mail.box(instance.id)


async def test_a_child_is_there_with_its_message_and_its_report_comes_back(bench: Bench, tmp_path: Path) -> None:
    parent = await bench.start(workspace=str(tmp_path))
    found = await spawn(bench, parent, "[[say the answer]]", slug="helper", persona="be brief")
    child = found.instance
    assert (child.handle, child.parent, child.launch.origin, child.launch.ephemeral) == ("helper", parent.id, SESSION, False)
    assert (child.launch.model, child.launch.driver, child.launch.system) == (parent.launch.model, "native", "be brief")
    assert (child.launch.workspace, child.launch.spawn) == (str(tmp_path), SpawnRights(1, 8, 32))
    await bench.until(lambda: bool(boxes(bench, parent)))
    (report,) = boxes(bench, parent)
    assert (report["text"], report["status"], report["name"], report["task"]) == ("the answer", "ok", "agent:helper", found.message)
    (row,) = audits(bench)
    assert (row["principal"], row["decision"], row["data"]["asked"]) == (f"instance:{parent.id}", "allow", {"slug": "helper"})
    assert row["data"]["given"]["permission"] == "write"
    assert (await spawn(bench, parent, slug="helper")).instance.handle == "helper-2"


async def test_a_child_gets_no_more_than_its_parent_and_hears_why(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    (tmp_path / "out").symlink_to("/etc")
    (tmp_path / ".git" / "hooks").mkdir(parents=True)
    parent = await bench.start(workspace=str(tmp_path), memory_mb=512)
    error = await refused(bench, parent, permission="full", memory_mb=4096, egress=["a.example:443"])
    assert error.kind is ErrorKind.DENIED
    assert set(error.data["refused"]) == {"permission", "memory", "egress"}
    for cwd, kind in (
        ("/workspace/../..", ErrorKind.DENIED),
        ("../x", ErrorKind.DENIED),
        ("/etc", ErrorKind.DENIED),
        ("out", ErrorKind.DENIED),
        ("/workspace/.git", ErrorKind.DENIED),
        (".git/hooks", ErrorKind.DENIED),
        ("/workspace/none", ErrorKind.NOT_FOUND),
        ("a\x00b", ErrorKind.USAGE),
    ):
        assert (await refused(bench, parent, cwd=cwd)).kind is kind, cwd
    for wish, kind in (
        ({"agent": "nobody"}, ErrorKind.NOT_FOUND),
        ({"prompt": " "}, ErrorKind.USAGE),
        ({"command": ["true"]}, ErrorKind.USAGE),
        ({"slug": "two words"}, ErrorKind.USAGE),
        ({"slug": "owner"}, ErrorKind.USAGE),
        ({"secrets": ["KEY"]}, ErrorKind.DENIED),
        ({"secrets": ["*"]}, ErrorKind.DENIED),
        ({"env": {"AEGIS_TOKEN": "x"}}, ErrorKind.USAGE),
        ({"mounts": ["part:/data:rw"]}, ErrorKind.DENIED),
        ({"mounts": ["part"]}, ErrorKind.USAGE),
        ({"model": "nowhere/x"}, ErrorKind.NOT_FOUND),
        ({"sandbox": "vm"}, ErrorKind.NOT_FOUND),
    ):
        assert (await refused(bench, parent, **wish)).kind is kind, wish
    assert all(row["decision"] == "deny" and row["data"]["refused"] for row in audits(bench))
    child = (await spawn(bench, parent, cwd="part", mounts=["part:/data"])).instance
    assert child.launch.workspace == str(tmp_path / "part")
    assert [(m.source, m.target, m.writable) for m in child.launch.mounts] == [(str(tmp_path / "part"), "/data", False)]
    assert child.launch.limits.memory_bytes == 256 * 2**20, "half of what is left, as nobody said how much"


async def test_the_limits_of_all_descendants_together_never_exceed_those_of_an_ancestor(bench: Bench) -> None:
    parent = await bench.start(memory_mb=1000, pids=400)
    await relaunch(bench, parent, spawn=SpawnRights(3, 8, 32))
    first = (await spawn(bench, parent, memory_mb=600)).instance
    below = (await spawn(bench, first, memory_mb=300)).instance
    error = await refused(bench, parent, memory_mb=200)
    assert (error.kind, set(error.data["refused"])) == (ErrorKind.LIMIT, {"memory"})
    assert (await refused(bench, below, memory_mb=200)).kind is ErrorKind.LIMIT
    everybody = bench.house.registry.descendants(parent.id)
    for _ in range(20):
        try:
            everybody.append((await spawn(bench, parent)).instance)
        except AegisError as error_:
            assert error_.kind is ErrorKind.LIMIT
            break
    assert sum(i.launch.limits.memory_bytes or 0 for i in everybody) <= 1000 * 2**20
    assert sum(i.launch.limits.pids or 0 for i in everybody) <= 400
    await bench.house.agents.delete(OWNER, first)
    assert (await spawn(bench, parent, memory_mb=600)).instance.launch.limits.memory_bytes == 600 * 2**20


async def test_of_fifty_at_once_exactly_the_limit_is_started(bench: Bench) -> None:
    parent = await bench.start()
    await relaunch(bench, parent, spawn=SpawnRights(2, 5, 32))
    results = await asyncio.gather(*(spawn(bench, parent, slug="c") for _ in range(50)), return_exceptions=True)
    errors = [r for r in results if isinstance(r, AegisError)]
    assert (len(errors), {e.kind for e in errors}) == (45, {ErrorKind.LIMIT})
    assert len(bench.house.registry.children(parent.id)) == 5
    assert len({i.handle for i in bench.house.registry.children(parent.id)}) == 5
    error = errors[0]
    assert (error.data["have"], error.data["most"], "aegis_close" in error.hint) == (5, 5, True)


async def test_depth_and_total_of_every_ancestor_count(bench: Bench) -> None:
    parent = await bench.start()
    await relaunch(bench, parent, spawn=SpawnRights(2, 2, 3))
    one, two = (await spawn(bench, parent)).instance, (await spawn(bench, parent)).instance
    assert (await refused(bench, parent)).kind is ErrorKind.LIMIT
    below = (await spawn(bench, one)).instance
    assert below.launch.spawn.depth == 0
    assert (await refused(bench, below)).kind is ErrorKind.DENIED
    assert (await refused(bench, two)).kind is ErrorKind.LIMIT, "three in all"
    await relaunch(bench, parent, spawn=SpawnRights(0, 2, 3))
    assert (await refused(bench, two)).kind is ErrorKind.DENIED


async def test_a_child_that_does_not_start_gives_its_place_back(bench: Bench, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    parent = await bench.start(workspace=str(tmp_path))
    await relaunch(bench, parent, spawn=SpawnRights(2, 1, 1))
    kind = bench.house.agents._world.kinds["process"]
    create = kind.create

    def broken(spec: Any) -> Any:
        raise AegisError(ErrorKind.FAILED, "the guest died", "", stderr="line one\nno such library")

    kind.create = broken  # type: ignore[method-assign]
    error = await refused(bench, parent)
    assert (error.kind, "no such library" in error.message, "spawn again" in error.hint) == (ErrorKind.FAILED, True, True)
    kind.create = create  # type: ignore[method-assign]
    await spawn(bench, parent)


@pytest.mark.parametrize("how", ["delete", "disable"])
@pytest.mark.parametrize("where", ["reserved", "booting"])
async def test_a_parent_that_is_ended_between_reserve_and_start_leaves_no_child(bench: Bench, how: str, where: str) -> None:
    parent = await bench.start()
    agents = bench.house.agents
    boot, begun, go = agents.boot, asyncio.Event(), asyncio.Event()

    async def slow(instance: Instance) -> None:
        if where == "booting":
            await boot(instance)
        begun.set()
        await go.wait()
        if where == "reserved":
            await boot(instance)

    agents.boot = slow  # type: ignore[method-assign]
    spawning = asyncio.create_task(spawn(bench, parent))
    await begun.wait()
    await getattr(agents, how)(OWNER, parent)
    go.set()
    with pytest.raises(AegisError) as caught:
        await spawning
    assert caught.value.kind in (ErrorKind.INTERRUPTED, ErrorKind.CONFLICT, ErrorKind.NOT_FOUND)
    await bench.until(lambda: len(bench.house.registry.all()) == (how == "disable"))


async def test_who_asks_and_goes_away_leaves_no_child(bench: Bench) -> None:
    parent = await bench.start()
    agents, begun = bench.house.agents, asyncio.Event()

    async def never(_instance: Instance) -> None:
        begun.set()
        await asyncio.Event().wait()

    agents.boot = never  # type: ignore[method-assign]
    spawning = asyncio.create_task(spawn(bench, parent))
    await begun.wait()
    spawning.cancel()
    await bench.until(lambda: bench.house.registry.all() == [parent])


async def test_disabling_and_deleting_reach_every_descendant(bench: Bench) -> None:
    parent = await bench.start()
    child = (await spawn(bench, parent, "[[hang 60]]")).instance
    below = (await spawn(bench, child, "[[hang 60]]")).instance
    other = await bench.start("b")
    await bench.house.agents.disable(OWNER, parent)
    assert [(i.state, i.enabled) for i in (parent, child, below)] == [(State.STOPPED, False)] * 3
    assert "above it" in below.reason
    gone = await bench.house.agents.delete(OWNER, parent)
    assert [i.handle for i in gone] == [parent.handle, child.handle, below.handle]
    assert bench.house.registry.all() == [other]
    assert [row["data"]["descendants"] for row in audits(bench, "instance.delete")] == [[child.handle, below.handle]]
    assert not list((bench.house.home / "instances").glob(f"{child.id}*"))


async def test_cancelling_cuts_what_was_begun_in_that_conversation(bench: Bench) -> None:
    parent = await bench.start()
    receipt = await bench.send(parent, "[[hang 60]]")
    child = (await spawn(bench, parent, "[[hang 60]]")).instance
    below = (await spawn(bench, child, "[[hang 60]]")).instance
    spawned = await bench.house.spawning.spawn(principal(parent), parent, "host:other", Wish(prompt="[[hang 60]]"))
    agents = bench.house.agents
    await bench.until(lambda: all(agents.working(i) for i in (parent, child, below, spawned.instance)))
    await bench.house.mail.accept(principal(parent), _draft(child, "more"))
    assert await agents.interrupt(OWNER, parent, SESSION)
    assert (await bench.answer(receipt)).outcome == "cancelled"
    await bench.until(lambda: not any(agents.working(i) for i in (parent, child, below)))
    assert agents.working(spawned.instance), "another conversation began it"
    assert [row["state"] for row in boxes(bench, child)][1:] == ["failed"], "what waited is called off"
    assert not [row for row in boxes(bench, parent) if row["status"]], "nobody is woken by a report of what was cancelled"


def _draft(to: Instance, text: str) -> Any:
    from aegis.services.mail import Draft

    return Draft(instance=to.id, session=SESSION, text=text, sender_session=SESSION, report=True)


async def test_a_cascade_that_was_cut_short_is_finished_by_the_next_daemon(open_bench: Any) -> None:
    bench: Bench = await open_bench()
    parent = await bench.start()
    await spawn(bench, parent)
    await bench.until(lambda: [row["done_at"] is not None for row in boxes(bench, parent)] == [True])
    arm("cascade.recorded", "raise")
    try:
        with pytest.raises(RuntimeError):
            await bench.house.agents.delete(OWNER, parent)
    finally:
        disarm()
    assert len(bench.house.registry.all()) == 2
    await bench.house.close()
    again: Bench = await open_bench()
    assert again.house.registry.all() == []


async def test_a_reserved_child_of_a_dead_daemon_is_removed(open_bench: Any) -> None:
    bench: Bench = await open_bench()
    parent = await bench.start()
    arm("spawn.started", "raise")
    bench.house.agents.discard = lambda _instance: None  # type: ignore[assignment,method-assign,return-value]
    try:
        with pytest.raises(RuntimeError):
            await spawn(bench, parent)
    finally:
        disarm()
    assert len(bench.house.registry.all()) == 2
    await bench.house.close()
    again: Bench = await open_bench()
    assert [i.handle for i in again.house.registry.all()] == [parent.handle]


async def test_a_program_that_fails_for_good_takes_its_children_with_it(bench: Bench) -> None:
    parent = await bench.start("p", command=["sh", "-c", "read x < /dev/zero; sleep 60"], model=None)
    child = (await spawn(bench, parent, "[[hang 60]]", model="scripted/directives")).instance
    program = (await bench.house.spawning.spawn(principal(parent), parent, None, Wish(command=["sleep", "60"]))).instance
    live = bench.house.agents._live[parent.id]
    await live.life._end(State.FAILED, "the program ended with 1", 0.0)
    live.life.on_lost()
    await bench.until(lambda: not child.enabled and child.state is State.STOPPED and program.state is State.STOPPED)
    assert parent.enabled


async def test_a_parent_closes_its_own_children_when_nothing_is_open(bench: Bench) -> None:
    parent = await bench.start()
    me, descending = principal(parent), bench.house.descending
    child = (await spawn(bench, parent, "[[hang 60]]", slug="busy")).instance
    below = (await spawn(bench, child, "[[say x]]", slug="below")).instance
    await bench.until(lambda: bench.house.agents.working(child))
    await bench.house.mail.accept(me, _draft(child, "more"))
    with pytest.raises(AegisError) as caught:
        await descending.close(me, parent, "busy")
    assert (caught.value.kind, len(caught.value.data["reasons"])) == (ErrorKind.CONFLICT, 3)
    for name, kind in (("below", ErrorKind.DENIED), ("a", ErrorKind.USAGE), ("bsuy", ErrorKind.NOT_FOUND)):
        with pytest.raises(AegisError) as caught:
            await descending.close(me, parent, name)
        assert caught.value.kind is kind
    assert [i.handle for i in await descending.close(me, parent, "busy", force=True)] == ["busy", "below"]
    assert not boxes(bench, parent), "who closes a child needs no report of that"
    assert bench.house.registry.find(below.id) is None


async def test_waiting_for_a_child_and_the_tree_with_its_cost(bench: Bench) -> None:
    parent = await bench.start()
    child = (await spawn(bench, parent, "[[say yes]]")).instance
    program = (await bench.house.spawning.spawn(principal(parent), parent, None, Wish(command=["sh", "-c", "echo out; exit 3"]))).instance
    descending = bench.house.descending
    found = await descending.wait(parent, None, child, 30)
    assert (found.done, found.outcome, found.text) == (True, "completed", "yes")
    found = await descending.wait(parent, None, program, 30)
    assert (found.done, found.outcome, "with 3" in found.text) == (True, "failed", True), found
    hanging = (await spawn(bench, child, "[[hang 60]]")).instance
    assert not (await descending.wait(parent, None, hanging, 0.05)).done
    nodes = await descending.tree()
    assert [(n["handle"], n["depth"]) for n in nodes] == [(parent.handle, 0), (child.handle, 1), (hanging.handle, 2), (program.handle, 1)]
    assert nodes[0]["total"]["calls"] >= nodes[1]["usage"]["calls"] == 1
    assert nodes[0]["usage"]["calls"] in (0, 1), "the report may have begun a turn"
    assert [n["handle"] for n in await descending.tree(child)] == [child.handle, hanging.handle]
    shown = bench.house.agents.describe(child)
    assert (shown["parent"], shown["children"]) == (parent.handle, [hanging.handle])


@pytest.mark.parametrize("verb", ["disable", "delete", "interrupt"])
async def test_a_family_ends_on_a_full_disk(bench: Bench, short_home: Path, verb: str) -> None:
    parent = await bench.start()
    child = (await spawn(bench, parent, "[[hang 60]]")).instance
    below = (await spawn(bench, child, "[[hang 60]]")).instance
    agents = bench.house.agents
    await bench.until(lambda: agents.working(child) and agents.working(below))
    (short_home / BALLAST).write_bytes(b"x")
    arm("store.commit.before", "enospc")
    await getattr(agents, verb)(OWNER, parent, *([SESSION] if verb == "interrupt" else []))
    async with asyncio.timeout(30):
        while any(agents.working(i) for i in (parent, child, below)):
            await asyncio.sleep(0.01)
            await bench.clock.advance(0.05)  # the end of a turn may be what the disk did not take: it is tried again after a while
    if verb != "interrupt":
        assert not [i for i in bench.house.registry.all() if i.enabled or i.state is not State.STOPPED]


async def test_a_family_is_known_again_after_a_restart_and_an_orphan_belongs_to_the_person(open_bench: Any) -> None:
    bench: Bench = await open_bench()
    parent = await bench.start()
    await spawn(bench, parent, slug="kid")
    await bench.until(lambda: [row["done_at"] is not None for row in boxes(bench, parent)] == [True])
    await bench.house.close()
    again: Bench = await open_bench()
    assert [i.handle for i in again.house.registry.descendants(parent.id)] == ["kid"]
    await again.house.store.write(lambda tx: tx.execute("DELETE FROM instances WHERE id = ?", (parent.id,)))
    await again.house.close()
    third: Bench = await open_bench()
    (node,) = await third.house.descending.tree()
    assert (node["handle"], node["parent"], node["depth"]) == ("kid", None, 0)
    assert third.house.agents.describe(third.house.registry.get("kid"))["parent"] is None


async def test_where_a_person_is_asked_nothing_is_started_that_asks_nobody(bench: Bench) -> None:
    parent = await bench.start()
    child = (await spawn(bench, parent)).instance
    await relaunch(bench, parent, approvals="ask")
    assert (await refused(bench, parent, prompt="", command=["true"])).kind is ErrorKind.DENIED
    error = await refused(bench, parent)
    assert (error.kind, "no boundary" in error.message) == (ErrorKind.DENIED, True), (
        "it is `ask` as well, and nothing would hold it to an answer"
    )
    with pytest.raises(AegisError, match="asks nobody"):
        bench.house.descending.to_run_in(parent, child.handle)
