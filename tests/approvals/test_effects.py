"""Calls that a rule wants a person asked about: durable, bound to the exact call, ended by their deadline."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from aegis.core.clock import ManualClock
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.principals import SYSTEM, Principal, PrincipalKind
from aegis.drivers import Asked
from aegis.services.approvals import Approvals, Terms
from aegis.services.gate import Decision, Gate
from aegis.services.gate.calls import effect_of
from aegis.store import Store, Timers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from aegis.services.approvals import Approval
    from aegis.services.gate import Effect

OWNER = Principal(PrincipalKind.PERSON, "tester")
AGENT = Principal(PrincipalKind.INSTANCE, "inst_1")
OTHER = Principal(PrincipalKind.INSTANCE, "inst_2")
S = "host:default"
SPAN = 600.0


def call(command: str = "git push", session: str = S) -> Effect:
    return effect_of("cmd.run", "execute", {"command": command}, cwd="/workspace", workspace="/workspace", session=session)


def ruled(effect: Effect, principal: Principal = AGENT) -> Decision:
    """What the gate says when a rule wants a person asked."""
    return Decision(
        principal, "tool.call", effect.tool, False, "pushes want a look", {}, ask=True, policies=("mine.push",), digest=effect.digest
    )


class Desk:
    """The service on a store of its own, with timers by a clock that stands still."""

    def __init__(self, store: Store, clock: ManualClock) -> None:
        self.store, self.clock = store, clock
        self.gate = Gate(store, clock)
        self.timers = Timers(store, clock)
        self.approvals = Approvals(store, clock, self.gate, self.timers)
        self.approvals.terms = lambda _instance: Terms(SPAN)
        self.turn: str | None = "t1"
        self.approvals.turn_of = lambda _instance, _session: self.turn
        self.running = asyncio.ensure_future(self.timers.run())

    def ask(self, effect: Effect, principal: Principal = AGENT) -> asyncio.Task[Decision]:
        return asyncio.ensure_future(self.approvals.for_effect(ruled(effect, principal), effect))

    async def open(self, count: int = 1) -> list[Approval]:
        """Wait until so many requests are open."""
        while True:
            head = self.store.head
            if len(found := self.approvals.list()) == count:
                return found
            await self.store.wait(head, timeout=5)

    async def say(self, approve: bool = True, **more: Any) -> Approval:
        [asked] = await self.open()
        return await self.approvals.decide(OWNER, asked.id, approve=approve, **more)

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [msgspec.json.decode(event.data) for event in self.store.events(limit=1000).events if event.type == kind]

    async def close(self) -> None:
        self.running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.running
        await self.store.close()

    async def again(self) -> Desk:
        """The next daemon on the same disk."""
        await self.close()
        return Desk(await Store.open(self.store.path, self.clock), self.clock)


@pytest.fixture
async def desks(tmp_path: Path) -> AsyncIterator[list[Desk]]:
    clock = ManualClock()
    opened = [Desk(await Store.open(tmp_path / "aegis.db", clock), clock)]
    yield opened
    await opened[-1].close()


@pytest.fixture
def desk(desks: list[Desk]) -> Desk:
    return desks[0]


async def test_a_request_has_the_exact_call(desk: Desk) -> None:
    effect = call("git push --force")
    asked = desk.ask(effect)
    [found] = await desk.open()
    assert (found.action, found.resource, found.tool, found.kind) == ("tool.call", "cmd.run", "cmd.run", "execute")
    assert (found.argv, found.cwd, found.digest) == (["git", "push", "--force"], "/workspace", effect.digest)
    assert found.risk == "pushes want a look; force-pushes"
    assert (found.deadline, found.default, found.scope) == (desk.clock.now() + SPAN, "reject", "once")
    assert found.policies == ["mine.push"]
    assert desk.approvals.open("inst_1") == 1
    [told] = desk.events("approval.requested")
    assert told["risk"] == found.risk
    assert told["argv"] == found.argv
    await desk.say(reason="go on")
    decision = await asked
    assert decision.allow
    assert not decision.ask
    assert "approved" in decision.reason
    assert desk.approvals.get(found.id).delivered_at is not None


async def test_no_command_of_a_line_hides_behind_the_first(desk: Desk) -> None:
    asked = desk.ask(call("echo fine; rm -rf build"))
    [found] = await desk.open()
    assert found.title == "echo fine; rm -rf build"
    assert found.argv == ["echo fine; rm -rf build"]
    await desk.say(False)
    await asked


async def test_a_no_is_a_denial_with_its_reason(desk: Desk) -> None:
    asked = desk.ask(call())
    await desk.say(False, reason="not on a Friday")
    decision = await asked
    assert (decision.allow, decision.ask, decision.reason) == (False, False, "not on a Friday")


async def test_a_yes_counts_for_one_exact_call(desk: Desk) -> None:
    """Approving one `python3 -c` approves no other, no other session, no other instance, and not the same again."""
    first = desk.ask(call("python3 -c 'print(1)'"))
    await desk.say()
    assert (await first).allow
    others = [
        desk.ask(call("python3 -c 'print(1)'")),
        desk.ask(call("python3 -c 'print(2)'")),
        desk.ask(call("python3 -c 'print(1)'", session="host:two")),
        desk.ask(call("python3 -c 'print(1)'"), OTHER),
    ]
    await desk.open(4)
    assert not any(each.done() for each in others)
    for each in desk.approvals.list():
        await desk.approvals.decide(OWNER, each.id, approve=False)
    assert not any(each.allow for each in await asyncio.gather(*others))


async def test_a_yes_for_the_session_counts_for_the_same_call_there(desk: Desk) -> None:
    first = desk.ask(call())
    done = await desk.say(scope="session")
    assert done.scope == "session"
    assert (await first).allow
    again = await desk.approvals.for_effect(ruled(call()), call())
    assert again.allow
    assert done.id in again.reason
    for effect, who in ((call("git push "), AGENT), (call(session="host:two"), AGENT), (call(), OTHER)):
        other = desk.ask(effect, who)
        await desk.say(False)
        assert not (await other).allow
    assert desk.approvals.granted("inst_1", S, call().digest, "tool.use", "cmd.run") is None  # another action


async def test_two_same_calls_at_a_time_are_two_requests(desk: Desk) -> None:
    both = [desk.ask(call()), desk.ask(call())]
    first, second = await desk.open(2)
    await desk.approvals.decide(OWNER, first.id, approve=True)
    await desk.approvals.decide(OWNER, second.id, approve=False)
    assert sorted([each.allow for each in await asyncio.gather(*both)]) == [False, True]


async def test_an_answer_serves_no_second_call_that_comes_while_it_is_handed_over(desk: Desk) -> None:
    first = desk.ask(call())
    [asked] = await desk.open()
    deciding = asyncio.ensure_future(desk.approvals.decide(OWNER, asked.id, approve=True))
    second = desk.ask(call())
    await deciding
    assert (await first).allow
    assert (await desk.say(False)).id != asked.id
    assert not (await second).allow


async def test_a_call_that_was_cut_off_is_given_its_answer_once(desk: Desk) -> None:
    first = desk.ask(call())
    [asked] = await desk.open()
    first.cancel()
    await asyncio.wait([first])
    await desk.approvals.decide(OWNER, asked.id, approve=True)
    assert (await desk.ask(call())).allow
    second = desk.ask(call())
    assert (await desk.say(False)).id != asked.id
    assert not (await second).allow


async def test_the_answer_outlives_the_daemon(desks: list[Desk]) -> None:
    first = desks[0].ask(call())
    [asked] = await desks[0].open()
    first.cancel()
    await asyncio.wait([first])
    desks.append(await desks[0].again())
    desk = desks[-1]
    assert desk.approvals.open("inst_1") == 1
    second = desk.ask(call())
    for _ in range(20):
        await asyncio.sleep(0)
    assert [each.id for each in desk.approvals.list()] == [asked.id]  # no second request
    await desk.approvals.decide(OWNER, asked.id, approve=True)
    assert (await second).allow


async def test_a_deadline_ends_it_also_across_a_restart(desks: list[Desk]) -> None:
    first = desks[0].ask(call())
    [asked] = await desks[0].open()
    first.cancel()
    await asyncio.wait([first])
    await desks[0].clock.advance(SPAN / 2)
    desks.append(await desks[0].again())
    desk = desks[-1]
    again = desk.ask(call())
    await desk.clock.advance(SPAN / 2 + 1)
    decision = await asyncio.wait_for(again, 5)
    assert (decision.allow, decision.reason) == (False, "nobody answered in time")
    done = desk.approvals.get(asked.id)
    assert (done.state, done.principal) == ("rejected", str(SYSTEM))
    [told] = desk.events("approval.decided")
    assert told["verdict"] == "rejected"
    row = next(row for row in desk.gate.list() if row["action"] == "approval.decide")
    assert (row["principal"], row["reason"]) == (str(SYSTEM), "the deadline passed")
    with pytest.raises(AegisError) as caught:
        await desk.approvals.decide(OWNER, asked.id, approve=True)
    assert caught.value.kind is ErrorKind.CONFLICT


async def test_a_default_of_yes_counts_only_where_it_was_set(desk: Desk) -> None:
    desk.approvals.terms = lambda instance: Terms(60.0, "approve" if instance == "inst_1" else "reject")
    asked, other = desk.ask(call()), desk.ask(call(), OTHER)
    await desk.open(2)
    await desk.clock.advance(61)
    decisions = await asyncio.wait_for(asyncio.gather(asked, other), 5)
    assert [each.allow for each in decisions] == [True, False]
    assert "its default is yes" in decisions[0].reason
    question = await desk.approvals.ask(
        instance="inst_1", session=S, turn="t1", request=Asked(id="q", tool="Ask", input={"q": 1}, question=True)
    )
    assert desk.approvals.get(question.id).default == "reject"  # nobody can answer a question but a person


async def test_an_escalation_tells_again_and_puts_the_deadline_off(desk: Desk) -> None:
    asked = desk.ask(call())
    [found] = await desk.open()
    await desk.clock.advance(SPAN - 10)
    done = await desk.approvals.escalate(OWNER, found.id, seconds=300.0, reason="blocks the release")
    assert (done.escalated_by, done.deadline) == (str(OWNER), desk.clock.now() + 300)
    [told] = desk.events("approval.escalated")
    assert (told["principal"], told["reason"], told["deadline"]) == (str(OWNER), "blocks the release", done.deadline)
    assert (await desk.approvals.escalate(OWNER, found.id, seconds=1.0)).deadline == done.deadline  # never sooner
    await desk.clock.advance(60)
    assert desk.approvals.get(found.id).state == "pending"
    await desk.clock.advance(300)
    assert not (await asyncio.wait_for(asked, 5)).allow
    with pytest.raises(AegisError) as caught:
        await desk.approvals.escalate(OWNER, found.id)
    assert caught.value.kind is ErrorKind.CONFLICT
    for seconds in (0.0, -1.0, 1e12, float("nan")):
        with pytest.raises(AegisError):
            await desk.approvals.escalate(OWNER, found.id, seconds=seconds)


async def test_an_instance_neither_answers_nor_escalates(desk: Desk) -> None:
    asked = desk.ask(call())
    [found] = await desk.open()
    for attempt in (
        desk.approvals.decide(AGENT, found.id, approve=True),
        desk.approvals.decide(AGENT, found.id, approve=True, scope="session"),
        desk.approvals.escalate(AGENT, found.id, seconds=3600.0),
    ):
        with pytest.raises(AegisError) as caught:
            await attempt
        assert caught.value.kind is ErrorKind.DENIED
    assert desk.approvals.get(found.id).state == "pending"
    await desk.say(False)
    await asked


async def test_what_the_gate_holds_is_not_edited_and_a_question_has_no_scope(desk: Desk) -> None:
    asked = desk.ask(call())
    [found] = await desk.open()
    for more in ({"input": {"command": "ls"}}, {"scope": "always"}, {"scope": "rule", "rule": ""}):
        with pytest.raises(AegisError):
            await desk.approvals.decide(OWNER, found.id, approve=True, **more)
    with pytest.raises(AegisError):
        await desk.approvals.decide(OWNER, found.id, approve=False, scope="session")
    await desk.say(False)
    await asked


async def test_the_end_of_a_turn_ends_what_it_asked(desk: Desk) -> None:
    asked = desk.ask(call())
    await desk.open()
    await desk.approvals.withdraw(instance="inst_1", session=S, reason="the turn is over")
    assert (await asked).reason == "the turn is over"
    assert desk.store.read(lambda db: db.execute("SELECT count(*) FROM timers").fetchone()[0]) == 0


async def test_a_deleted_instance_leaves_nothing(desk: Desk) -> None:
    asked = desk.ask(call())
    await desk.open()
    await desk.store.write(lambda tx: desk.approvals.forget(tx, "inst_1"))
    assert not (await asked).allow
    assert desk.store.read(lambda db: db.execute("SELECT count(*) FROM timers").fetchone()[0]) == 0


async def test_only_calls_of_agents_are_asked_about_and_not_without_end(desk: Desk) -> None:
    mine = ruled(call(), OWNER)
    assert await desk.approvals.for_effect(mine, call()) is mine
    waiting = [desk.ask(call(f"echo {n}")) for n in range(64)]
    await desk.open(64)
    refused = await desk.approvals.for_effect(ruled(call("one more")), call("one more"))
    assert "64 requests wait" in refused.reason
    await desk.approvals.withdraw(instance="inst_1", session=S, reason="over")
    assert not any(each.allow for each in await asyncio.gather(*waiting))


async def test_an_action_without_a_call_is_bound_to_what_it_is_about(desk: Desk) -> None:
    decision = Decision(AGENT, "mail.send", "inst_2", False, "say it first", {"session": S}, ask=True, policies=("mine.mail",))
    asked = asyncio.ensure_future(desk.approvals.for_effect(decision, None))
    [found] = await desk.open()
    assert (found.tool, found.title, found.session) == ("mail.send", "mail.send inst_2", S)
    await desk.say(scope="session")
    assert (await asked).allow
    assert (await desk.approvals.for_effect(decision, None)).allow
    other = msgspec.structs.replace(decision, resource="inst_3")
    asking = asyncio.ensure_future(desk.approvals.for_effect(other, None))
    await desk.say(False)
    assert not (await asking).allow
