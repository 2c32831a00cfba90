"""What programs ask leave for: answered by the rules, by a person, by nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.agents.conftest import OWNER
from tests.agents.test_sessions import S, begun

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import Outcome, Text
from aegis.drivers import Answer, Asked, Began, Happened, Withdrawn
from aegis.services.agents import State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.agents.conftest import Bench
    from tests.agents.programs import Conversation, Program

    from aegis.core.envelopes import Receipt
    from aegis.services.agents import Instance
    from aegis.services.approvals import Approval

BASH = Asked(id="r1", tool="Bash", input={"command": "make"}, kind="execute", title="make", call_id="c1")
EDIT = Asked(id="r2", tool="Edit", input={"file_path": "a"}, kind="edit")


async def asked(bench: Bench, program: Program, **launch: Any) -> tuple[Instance, Conversation, Receipt]:
    """An instance whose program waits for a person."""
    await bench.launch(approvals="ask", **launch)
    instance, conversation, receipt = await begun(bench, program)
    conversation.accept()
    conversation.say(BASH)
    await bench.until(lambda: bench.house.approvals.open(instance.id) == 1)
    return instance, conversation, receipt


def pending(bench: Bench) -> Approval:
    """The one request that waits."""
    (found,) = bench.house.approvals.list()
    return found


async def decide(bench: Bench, approve: bool, **more: Any) -> None:
    """The person answers."""
    await bench.house.approvals.decide(OWNER, pending(bench).id, approve=approve, **more)


async def test_the_rules_answer_and_each_answer_is_on_record(bench: Bench, program: Program) -> None:
    await bench.launch(permission="read")
    _instance, conversation, receipt = await begun(bench, program)
    conversation.accept()
    conversation.say(BASH, EDIT)
    await conversation.until("answer", 2)
    answers = dict(conversation.asked("answer"))
    assert answers["r1"] == Answer(True)
    assert not answers["r2"].allow
    assert "read-only" in answers["r2"].reason
    rows = [row for row in bench.house.gate.list(limit=100) if row["action"] == "tool.use"]
    assert sorted((row["resource"], row["decision"]) for row in rows) == [("Bash", "allow"), ("Edit", "deny")]
    assert {row["principal"].partition(":")[0] for row in rows} == {"instance"}
    assert rows[0]["data"]["session"] == S
    conversation.done()
    await bench.answer(receipt)
    assert bench.facts("approval.requested") == []


async def test_an_answer_that_cannot_be_put_on_record_is_no(bench: Bench, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    _instance, conversation, _receipt = await begun(bench, program)

    async def full(_decision: object) -> None:
        raise AegisError(ErrorKind.UNAVAILABLE, "the disk is full")

    monkeypatch.setattr(bench.house.gate, "record", full)
    conversation.say(BASH)
    _request, answer = await conversation.until("answer")
    assert not answer.allow
    assert "the disk is full" in answer.reason


async def test_a_person_allows(bench: Bench, program: Program) -> None:
    instance, conversation, receipt = await asked(bench, program)
    assert bench.house.agents.activity(instance).word == "needs-you"
    assert bench.house.agents.describe(instance)["open_approvals"] == 1
    conversation.say(Happened(Text("while it waits")))
    await bench.until(lambda: bool(bench.facts("turn.text")))
    assert conversation.asked("answer") == []
    await decide(bench, True, input={"command": "make -n"})
    assert await conversation.until("answer") == ("r1", Answer(True, input={"command": "make -n"}))
    assert bench.house.agents.activity(instance).word == "working"
    conversation.done()
    assert (await bench.answer(receipt)).outcome is Outcome.COMPLETED
    assert [fact.verdict for fact in bench.facts("approval.decided")] == ["approved"]
    (row,) = bench.house.approvals.list(state="approved")
    assert row.delivered_at is not None


async def test_a_person_refuses(bench: Bench, program: Program) -> None:
    _instance, conversation, _receipt = await asked(bench, program)
    await decide(bench, False, reason="not now")
    _request, answer = await conversation.until("answer")
    assert (answer.allow, answer.reason) == (False, "not now")


async def test_waiting_for_a_person_is_not_the_turn_s_time(bench: Bench, program: Program) -> None:
    instance, conversation, receipt = await asked(bench, program)
    limit = instance.launch.turn.turn_seconds
    await bench.until(lambda: bench.house.agents.activity(instance).word == "needs-you" and not bench.clock.due(limit))  # it stands still
    await bench.clock.advance(100_000.0)
    assert conversation.asked("interrupt") == []
    await decide(bench, True)
    await conversation.until("answer")
    await bench.until(lambda: bench.clock.due(limit))  # it goes on
    await bench.clock.advance(limit - 1.0)
    assert conversation.asked("interrupt") == []
    await bench.clock.advance(1.0)
    await conversation.until("interrupt")
    answer = await bench.answer(receipt)
    assert answer.error is not None
    assert answer.error["kind"] == "timeout"


async def test_a_request_that_the_program_gives_up(bench: Bench, program: Program) -> None:
    instance, conversation, receipt = await asked(bench, program)
    conversation.say(Withdrawn("r1"))
    await bench.until(lambda: bench.house.approvals.open(instance.id) == 0)
    assert [fact.verdict for fact in bench.facts("approval.decided")] == ["withdrawn"]
    conversation.done()
    await bench.answer(receipt)
    assert conversation.asked("answer") == []


@pytest.mark.parametrize("how", ["interrupt", "end", "death"])
async def test_a_request_ends_with_its_turn(bench: Bench, program: Program, how: str) -> None:
    from aegis.drivers import Died

    instance, conversation, receipt = await asked(bench, program)
    match how:
        case "interrupt":
            await bench.house.agents.interrupt(OWNER, instance, S)
        case "end":
            conversation.done()
        case "death":
            conversation.say(Died(1, ""))
    await bench.answer(receipt)
    await bench.until(lambda: bench.house.approvals.open(instance.id) == 0)
    assert [fact.verdict for fact in bench.facts("approval.decided")] == ["withdrawn"]
    assert conversation.asked("answer") == []
    await bench.until(lambda: bench.house.agents.activity(instance).word == "idle")


@pytest.mark.parametrize("answered", ["before", "between", "after"])
async def test_an_answer_outlives_the_daemon(open_bench: Callable[[], Awaitable[Bench]], program: Program, answered: str) -> None:
    """A person is asked once, also when the daemon dies before, while or after they answer."""
    bench = await open_bench()
    instance, conversation, receipt = await asked(bench, program)
    if answered == "before":
        await decide(bench, True)
        await conversation.until("answer")
    await bench.house.close()
    bench = await open_bench()
    again = await program.started(2)
    await again.until("send")
    if answered == "between":
        await decide(bench, True)
    again.say(BASH)
    if answered == "after":
        await bench.until(lambda: len(again.did) >= 1 and bench.house.approvals.open(instance.id) == 1)
        await decide(bench, True)
    assert await again.until("answer") == ("r1", Answer(True))
    again.done()
    assert (await bench.answer(receipt)).outcome is Outcome.COMPLETED
    assert len(bench.facts("approval.requested")) == 1
    assert [fact.verdict for fact in bench.facts("approval.decided")] == ["approved"]


async def test_a_request_of_a_turn_that_does_not_go_on_is_withdrawn(open_bench: Callable[[], Awaitable[Bench]], program: Program) -> None:
    bench = await open_bench()
    instance, _conversation, receipt = await asked(bench, program, on_interrupt="hold")
    await bench.house.close()
    bench = await open_bench()
    assert bench.house.approvals.open(instance.id) == 0
    assert (await bench.answer(receipt)).outcome is Outcome.INTERRUPTED
    assert [fact.verdict for fact in bench.facts("approval.decided")] == ["withdrawn"]


async def test_the_sandbox_goes_while_a_request_is_open(bench: Bench, program: Program) -> None:
    instance, _conversation, receipt = await asked(bench, program)
    await bench.house.agents.restart(OWNER, instance)
    again = await program.started(2)
    await again.until("send")
    assert instance.state is State.RUNNING
    await decide(bench, True)
    again.say(BASH)
    assert await again.until("answer") == ("r1", Answer(True))
    again.done()
    assert (await bench.answer(receipt)).outcome is Outcome.COMPLETED


async def test_a_question_in_a_turn_of_its_own_waits_for_a_person(bench: Bench, program: Program) -> None:
    await bench.launch(approvals="ask")
    instance, conversation, receipt = await begun(bench, program)
    conversation.accept()
    conversation.done()
    await bench.answer(receipt)
    conversation.say(Began(), Asked(id="q", tool="AskUserQuestion", input={"q": "Which?"}, question=True))
    await bench.until(lambda: bench.house.approvals.open(instance.id) == 1)
    assert pending(bench).turn == bench.house.agents._of(instance).session(S).turn
    await decide(bench, True, input={"answers": {"Which?": "B"}})
    assert (await conversation.until("answer"))[1].input == {"answers": {"Which?": "B"}}
    conversation.done()
    await bench.until(lambda: len(bench.facts("turn.finished")) == 2)


async def test_an_instance_that_is_deleted_while_it_asks_leaves_nothing(bench: Bench, program: Program) -> None:
    instance, _conversation, _receipt = await asked(bench, program)
    await bench.house.agents.delete(OWNER, instance)
    assert bench.house.approvals.list(state=None) == []
    assert bench.house.approvals.open(instance.id) == 0
