"""What a person is told, when, and what he is not told."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
from tests.agents.test_sessions import begun
from tests.attention.conftest import OWNER, Watch

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import Outcome, ToolCall
from aegis.drivers import Asked, Finished, Happened
from aegis.services.agents.stuck import SAME
from aegis.services.attention.service import GAP, HOLD

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.agents.conftest import Bench
    from tests.agents.programs import Conversation, Program


def ask(conversation: Conversation, ident: str = "r", command: str = "make") -> None:
    """The program asks for leave."""
    conversation.say(Asked(id=ident, tool="Bash", input={"command": command}, kind="execute", title=command))


async def test_a_request_is_told_once_and_the_bell_is_on_record(watch: Watch, program: Program) -> None:
    bench = watch.bench
    await bench.launch(approvals="ask")
    instance, conversation, _ = await begun(bench, program)
    ask(conversation, command="rm -rf \x1b[31mbuild\n\u202e now")
    await watch.until(lambda: bool(watch.told.texts))
    assert watch.told.texts == ["a asks leave: rm -rf build now"]
    (fact,) = bench.facts("attention.raised")
    assert (fact.kind, fact.handle, fact.bell) == ("needs-you", "a", True)
    await watch.passes(60)
    assert len(watch.told.texts) == 1
    (row,) = await bench.house.attention.newest()
    assert (row["state"], row["instance"], row["kind"]) == ("told", instance.id, "needs-you")


async def test_a_request_that_is_answered_before_it_is_told_is_not_told(watch: Watch, program: Program) -> None:
    bench = watch.bench
    await bench.launch(approvals="ask")
    _, conversation, _ = await begun(bench, program)
    ask(conversation)
    await bench.until(lambda: bool(bench.facts("approval.requested")))
    (request,) = bench.facts("approval.requested")
    await watch.passes(HOLD / 2)
    await bench.house.approvals.decide(OWNER, request.approval_id, approve=True)
    await watch.passes(HOLD + GAP + 5)
    assert watch.told.texts == []
    assert [row["state"] for row in await bench.house.attention.newest()] == ["answered"]


async def test_done_and_failed_are_told_where_a_person_asked_and_agents_among_themselves_are_not(watch: Watch, program: Program) -> None:
    bench = watch.bench
    a, b = await bench.start("a"), await bench.start("b")
    await bench.answer(await watch.from_agent(a, b, "[[say between us]]"))
    await watch.passes(HOLD + GAP)
    assert watch.told.texts == []
    await bench.answer(await bench.send(a, "[[say the work is done]]"))
    await watch.until(lambda: len(watch.told.texts) == 1)
    assert watch.told.texts == ["a is done: the work is done"]
    await watch.passes(GAP)
    await bench.answer(await bench.send(b, "[[error 400 bad]]"))
    await watch.until(lambda: len(watch.told.texts) == 2)
    assert watch.told.texts[1].startswith("b ")


async def test_a_child_is_heard_of_when_it_needs_somebody_and_its_root_is_named(watch: Watch, program: Program) -> None:
    bench = watch.bench
    await bench.launch(approvals="ask")
    boss = await bench.start("boss")
    kid, conversation, receipt = await begun(bench, program)
    kid.parent = boss.id
    ask(conversation)
    await watch.until(lambda: bool(watch.told.texts))
    assert watch.told.texts == ["a (for boss) asks leave: make"]
    (request,) = bench.facts("approval.requested")
    await bench.house.approvals.decide(OWNER, request.approval_id, approve=True)
    conversation.done("all of it")
    await bench.answer(receipt)
    await watch.passes(HOLD + GAP + 2)
    assert len(watch.told.texts) == 1, "that a child is done is its parent's business"


async def test_what_seems_stuck_is_told_and_not_stopped(watch: Watch, program: Program) -> None:
    bench = watch.bench
    _, conversation, _ = await begun(bench, program)
    conversation.accept()
    for n in range(SAME * 2):
        conversation.say(Happened(ToolCall(f"c{n}", "Bash", {"command": "make"})))
    await watch.until(lambda: bool(watch.told.texts))
    assert watch.told.texts == [f"a seems stuck: the same call again and again: Bash, {SAME} times"]
    assert not conversation.asked("interrupt")


async def test_many_at_once_are_told_together(watch: Watch) -> None:
    bench = watch.bench
    instances = [await bench.start(f"i{n}") for n in range(7)]
    receipts = [await bench.send(instance, "[[say done]]") for instance in instances for _ in range(2)]
    for receipt in receipts:
        await bench.answer(receipt)
    await watch.until(lambda: bool(watch.told.texts))
    await watch.passes(GAP + HOLD + 5)
    assert len(watch.told.texts) <= 2
    assert watch.told.texts[0].startswith("7 agents are done: i")
    assert "and 2 more" in watch.told.texts[0]
    assert len({fact.handle for fact in bench.facts("attention.raised")}) == 7


async def test_a_limit_is_told_of_those_with_work(watch: Watch, program: Program) -> None:
    bench = watch.bench
    await bench.launch("idle")
    instance, _conversation, _ = await begun(bench, program)
    await bench.house.limits.hit(instance.launch.supply(None), until=bench.clock.now() + 3600, reason="used up")
    await watch.until(lambda: bool(watch.told.texts))
    assert watch.told.texts[0].startswith("a waits for ")
    assert len(watch.told.texts) == 1


async def test_what_is_not_wanted_is_not_told(watch: Watch) -> None:
    bench = watch.bench
    watch.settings = msgspec.structs.replace(watch.settings, on=["needs-you"])
    a = await bench.start("a")
    await bench.answer(await bench.send(a, "[[say x]]"))
    await watch.passes(HOLD + GAP)
    assert watch.told.texts == []
    assert bench.facts("attention.raised") == []


async def test_the_same_failure_is_told_again_after_a_while_only(watch: Watch, program: Program) -> None:
    bench = watch.bench
    instance, conversation, _receipt = await begun(bench, program)
    watch.settings = msgspec.structs.replace(watch.settings, again=120.0)
    error = AegisError(ErrorKind.FAILED, "the model is gone").to_dict()
    for n in range(3):
        conversation.say(Finished(Outcome.FAILED, error=error))
        await bench.until(lambda n=n: len(bench.facts("turn.finished")) == n + 1)  # type: ignore[misc]
        await watch.passes(HOLD + GAP + 1 if n < 1 else 130)
        await bench.send(instance, "again")
        await conversation.until("send", n + 2)
    assert watch.told.texts == ["a failed: the model is gone"] * 2


async def test_in_quiet_hours_nothing_is_told_and_afterwards_all_of_it(watch: Watch, program: Program) -> None:
    bench = watch.bench
    bench.house.attention._zone = UTC
    now = datetime.fromtimestamp(bench.clock.now(), UTC)
    minute = now.hour * 60 + now.minute
    end = (minute + 3) % 1440
    watch.settings = msgspec.structs.replace(watch.settings, quiet=[f"{now:%H:%M}-{end // 60:02d}:{end % 60:02d}"])
    await bench.launch(approvals="ask")
    _, conversation, _ = await begun(bench, program)
    ask(conversation, "r1")
    ask(conversation, "r2", "make clean")
    b = await bench.start("b")
    await bench.answer(await bench.send(b, "[[say b was here]]"))
    await bench.until(lambda: len(bench.facts("approval.requested")) == 2)
    await watch.passes(20)
    await bench.house.approvals.decide(OWNER, bench.facts("approval.requested")[0].approval_id, approve=True)
    await watch.passes(40)
    assert watch.told.texts == []
    assert bench.facts("attention.raised") == []
    await watch.until(lambda: bool(watch.told.texts), 1.0)
    assert watch.told.texts == ["while it was quiet: 1 agent needs you: a; 1 agent is done: b"]
    assert bench.clock.now() >= now.timestamp() + 120


async def test_a_channel_that_does_not_work_is_shown_once_and_stops_nothing(watch: Watch) -> None:
    bench = watch.bench
    watch.told.error = AegisError(ErrorKind.FAILED, "`hook` ended with 1: no bus")
    a = await bench.start("a")
    for n in range(3):
        await bench.answer(await bench.send(a, f"[[say {n}]]"))
        await watch.passes(GAP + HOLD + 1)
    shown = [fact for fact in bench.facts("attention.raised") if not fact.handle]
    assert [fact.text for fact in shown] == ["notices cannot be given to `notify.desktop`: `hook` ended with 1: no bus"]
    watch.told.error = None
    await bench.answer(await bench.send(a, "[[say works]]"))
    await watch.until(lambda: watch.told.texts == ["a is done: works"])


async def test_a_channel_that_hangs_holds_up_no_record_and_no_more_than_a_few_run(watch: Watch) -> None:
    bench = watch.bench
    watch.told.gate = asyncio.Event()
    a = await bench.start("a")
    for n in range(6):
        await bench.answer(await bench.send(a, f"[[say {n}]]"))
        await watch.passes(GAP + HOLD)
    assert len(bench.house.attention._sending) == 4
    watch.told.gate.set()
    await watch.until(lambda: sum(len(batch) for batch in watch.told.notices) >= 5)


async def test_a_crash_neither_loses_nor_repeats(open_bench: Callable[[], Awaitable[Bench]], program: Program) -> None:
    one = Watch(await open_bench())
    bench = one.bench
    await bench.launch(approvals="ask")
    _, conversation, _ = await begun(bench, program)
    one.begin()
    ask(conversation, "r1")
    await one.until(lambda: len(one.told.texts) == 1)
    one.told.gate = asyncio.Event()  # the next one is given to a program, and the daemon dies before that ends
    ask(conversation, "r2", "make clean")
    await one.until(lambda: len(bench.facts("attention.raised")) == 2)
    ask(conversation, "r3", "make install")  # of this one nothing is on record but the request
    await bench.until(lambda: len(bench.facts("approval.requested")) == 3)
    await one.end()
    await bench.house.close()
    two = Watch(await open_bench())
    two.begin()
    await two.until(lambda: len(two.told.texts) >= 2)
    await two.passes(GAP + HOLD + 5)
    assert sorted(two.told.texts) == ["a asks leave: make clean", "a asks leave: make install"]
    assert len(two.bench.facts("attention.raised")) == 3
    await two.end()


async def test_a_deleted_instance_needs_nobody(watch: Watch, program: Program) -> None:
    bench = watch.bench
    await bench.launch(approvals="ask")
    instance, conversation, _ = await begun(bench, program)
    ask(conversation)
    await bench.until(lambda: bool(bench.facts("approval.requested")))
    await bench.house.agents.delete(OWNER, instance)
    await watch.passes(HOLD + GAP)
    assert watch.told.texts == []


async def test_a_test_goes_to_every_channel_that_is_on_whatever_is_wanted(watch: Watch) -> None:
    watch.settings = msgspec.structs.replace(watch.settings, on=[], quiet=["00:00-23:59"], command=["/bin/true"])
    told = await watch.bench.house.attention.test(OWNER, "done")
    assert told["channels"]["desktop"] == {"on": True, "ok": True, "detail": ""}
    assert len(watch.told.texts) == 2
    watch.told.error = AegisError(ErrorKind.FAILED, "no bus")
    told = await watch.bench.house.attention.test(OWNER, "done")
    assert told["channels"]["command"] == {"on": True, "ok": False, "detail": "no bus"}
    assert [fact.handle for fact in watch.bench.facts("attention.raised")] == ["test", "test"]
