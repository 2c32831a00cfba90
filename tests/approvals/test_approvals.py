"""Requests for leave: on disk before anybody waits, answered once, and not asked twice after the end of the daemon."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from aegis.core.clock import ManualClock
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.principals import Principal, PrincipalKind
from aegis.drivers import Answer, Asked
from aegis.services.approvals import MAX_INPUT, Approvals, Terms, digest_of
from aegis.services.approvals.model import bounded
from aegis.services.gate import Gate
from aegis.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

OWNER = Principal(PrincipalKind.PERSON, "tester")
PLACE: dict[str, str] = {"instance": "inst_1", "session": "host:default"}
RM = Asked(id="d1", tool="Bash", input={"command": "rm x"}, kind="execute", title="rm x", call_id="c1")


class Desk:
    """The service on a store of its own."""

    def __init__(self, store: Store, clock: ManualClock) -> None:
        self.store = store
        self.clock = clock
        self.gate = Gate(store, clock)
        self.approvals = Approvals(store, clock, self.gate)
        self.changed: list[tuple[str, int]] = []
        self.approvals.on_change = lambda instance: self.changed.append((instance, self.approvals.open(instance)))

    def events(self) -> list[tuple[str, dict[str, Any]]]:
        page = self.store.events(limit=1000)
        return [(event.type, msgspec.json.decode(event.data)) for event in page.events if event.type.startswith("approval.")]

    def audited(self) -> list[tuple[str, str]]:
        return [(row["action"], row["decision"]) for row in self.gate.list()]

    async def turn(self, ident: str, continues: str | None = None) -> str:
        """A row of a turn."""
        await self.store.write(
            lambda tx: tx.execute(
                "INSERT INTO turns (id, instance, session, continues, attempts, started_at) VALUES (?, ?, ?, ?, 0, 0)",
                (ident, PLACE["instance"], PLACE["session"], continues),
            )
        )
        return ident

    async def again(self) -> Desk:
        """The next daemon on the same disk."""
        path = self.store.path
        await self.store.close()
        self.store = await Store.open(path, self.clock)
        return Desk(self.store, self.clock)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    clock = ManualClock()
    first = Desk(await Store.open(tmp_path / "aegis.db", clock), clock)
    yield first
    await first.store.close()


async def test_a_request_waits_for_a_person(desk: Desk) -> None:
    pending = await desk.approvals.ask(**PLACE, turn="t1", request=RM)
    [waiting] = desk.approvals.list()
    assert (waiting.id, waiting.tool, waiting.input, waiting.state, waiting.title) == (pending.id, "Bash", RM.input, "pending", "rm x")
    assert desk.approvals.open("inst_1") == 1
    verdict = asyncio.create_task(pending.verdict())
    done = await desk.approvals.decide(OWNER, pending.id, approve=True, input={"command": "rm -i x"})
    assert await verdict == Answer(allow=True, input={"command": "rm -i x"})
    assert (done.state, done.principal, done.decided_at) == ("approved", str(OWNER), desk.clock.now())
    assert desk.approvals.open("inst_1") == 0
    assert desk.changed == [("inst_1", 1), ("inst_1", 0)]
    assert desk.events() == [
        (
            "approval.requested",
            {
                "approval_id": pending.id, "tool": "Bash", "input": RM.input, "kind": "execute", "title": "rm x", "call_id": "c1",
                "digest": digest_of("Bash", RM.input), "deadline": desk.clock.now() + Terms().seconds,
            },
        ),
        ("approval.decided", {"approval_id": pending.id, "verdict": "approved", "principal": str(OWNER)}),
    ]  # fmt: skip
    assert desk.audited() == [("approval.decide", "allow")]


async def test_a_no_carries_its_reason(desk: Desk) -> None:
    pending = await desk.approvals.ask(**PLACE, turn="t1", request=RM)
    await desk.approvals.decide(OWNER, pending.id, approve=False, reason="not here")
    assert await pending.verdict() == Answer(allow=False, reason="not here")


async def test_a_request_is_answered_once(desk: Desk) -> None:
    pending = await desk.approvals.ask(**PLACE, turn="t1", request=RM)
    both = await asyncio.gather(
        desk.approvals.decide(OWNER, pending.id, approve=True),
        desk.approvals.decide(OWNER, pending.id, approve=False),
        return_exceptions=True,
    )
    [refused] = [each for each in both if isinstance(each, AegisError)]
    assert refused.kind is ErrorKind.CONFLICT
    assert "approved already" in refused.message
    assert len(desk.events()) == 2
    assert desk.audited() == [("approval.decide", "allow")]


async def test_who_may_not_answer_does_not(desk: Desk) -> None:
    pending = await desk.approvals.ask(**PLACE, turn="t1", request=RM)
    with pytest.raises(AegisError) as caught:
        await desk.approvals.decide(Principal(PrincipalKind.INSTANCE, "inst_1"), pending.id, approve=True)
    assert caught.value.kind is ErrorKind.DENIED
    assert desk.audited() == [("approval.decide", "deny")]
    assert desk.approvals.open("inst_1") == 1


@pytest.mark.parametrize(
    ("ident", "given", "kind"),
    [
        ("appr_none", {"approve": True}, ErrorKind.NOT_FOUND),
        (None, {"approve": False, "input": {}}, ErrorKind.USAGE),
        (None, {"approve": True, "input": {"x": "y" * 16 * MAX_INPUT}}, ErrorKind.TOO_LARGE),
    ],
)
async def test_an_answer_that_makes_no_sense_is_refused(desk: Desk, ident: str | None, given: dict[str, Any], kind: ErrorKind) -> None:
    pending = await desk.approvals.ask(**PLACE, turn="t1", request=RM)
    with pytest.raises(AegisError) as caught:
        await desk.approvals.decide(OWNER, ident or pending.id, **given)
    assert caught.value.kind is kind
    assert desk.approvals.get(pending.id).state == "pending"


async def test_what_waits_outlives_the_daemon_and_is_not_asked_again(desk: Desk) -> None:
    await desk.turn("t1")
    first = await desk.approvals.ask(**PLACE, turn="t1", request=RM)
    desk = await desk.again()
    assert desk.approvals.open("inst_1") == 1
    await desk.turn("t2", "t1")
    again = await desk.approvals.ask(**PLACE, turn="t2", request=msgspec.structs.replace(RM, id="d7", call_id="c9"))
    assert again.id == first.id
    assert len(desk.events()) == 1
    assert (desk.approvals.get(first.id).turn, desk.approvals.get(first.id).call_id) == ("t2", "c9")
    await desk.approvals.decide(OWNER, first.id, approve=True)
    assert (await again.verdict()).allow
    await desk.store.close()


async def test_an_answer_that_nobody_fetched_is_given_after_a_restart(desk: Desk) -> None:
    await desk.turn("t1")
    first = await desk.approvals.ask(**PLACE, turn="t1", request=RM)
    desk = await desk.again()
    await desk.approvals.decide(OWNER, first.id, approve=False, reason="no")
    await desk.turn("t2", "t1")
    again = await desk.approvals.ask(**PLACE, turn="t2", request=RM)
    assert await again.verdict() == Answer(allow=False, reason="no")
    await desk.approvals.delivered(again.id)
    assert desk.approvals.get(again.id).delivered_at == desk.clock.now()
    await desk.store.close()


async def test_an_answer_serves_the_turn_that_continues_once(desk: Desk) -> None:
    for turn, before in (("t1", None), ("t2", "t1"), ("t3", "t2")):
        await desk.turn(turn, before)
    first = await desk.approvals.ask(**PLACE, turn="t1", request=RM)
    await desk.approvals.decide(OWNER, first.id, approve=True)
    await desk.approvals.delivered(first.id)
    again = await desk.approvals.ask(**PLACE, turn="t3", request=RM)
    assert (again.id, await again.verdict()) == (first.id, Answer(allow=True))
    assert (await desk.approvals.ask(**PLACE, turn="t3", request=RM)).id != first.id
    assert desk.approvals.open("inst_1") == 1


async def test_an_answer_serves_no_turn_that_has_nothing_to_do_with_it(desk: Desk) -> None:
    await desk.turn("t1")
    await desk.turn("t2")
    first = await desk.approvals.ask(**PLACE, turn="t1", request=RM)
    await desk.approvals.decide(OWNER, first.id, approve=True)
    await desk.approvals.withdraw(**PLACE, reason="the turn ended")
    assert desk.approvals.get(first.id).state == "approved"
    assert (await desk.approvals.ask(**PLACE, turn="t2", request=RM)).id != first.id
    other = {**PLACE, "session": "host:other"}
    assert (await desk.approvals.ask(**other, turn="t9", request=RM)).id != first.id


async def test_the_same_at_once_is_two_requests(desk: Desk) -> None:
    one, two = await asyncio.gather(*(desk.approvals.ask(**PLACE, turn="t1", request=RM) for _ in range(2)))
    assert one.id != two.id
    await desk.approvals.decide(OWNER, one.id, approve=True)
    assert [item.id for item in desk.approvals.list()] == [two.id]


async def test_one_request_is_withdrawn_and_then_all(desk: Desk) -> None:
    asked = [await desk.approvals.ask(**PLACE, turn="t1", request=msgspec.structs.replace(RM, id=f"d{n}")) for n in range(3)]
    await desk.approvals.withdraw(**PLACE, reason="the agent gave up", driver_id="d1")
    await desk.approvals.withdraw(**PLACE, reason="nothing", driver_id="unknown")
    assert await asked[1].verdict() == Answer(allow=False, reason="the agent gave up")
    assert desk.approvals.open("inst_1") == 2
    await desk.approvals.withdraw(**PLACE, reason="the turn was cut")
    assert [item.state for item in desk.approvals.list(state=None)] == ["withdrawn"] * 3
    assert desk.approvals.open("inst_1") == 0
    head = desk.store.head
    await desk.approvals.withdraw(**PLACE, reason="again")
    assert desk.store.head == head
    with pytest.raises(AegisError, match="withdrawn already: the agent gave up"):
        await desk.approvals.decide(OWNER, asked[1].id, approve=True)


async def test_a_wait_that_was_given_up_can_be_taken_up_again(desk: Desk) -> None:
    await desk.turn("t1")
    await desk.turn("t2", "t1")
    pending = await desk.approvals.ask(**PLACE, turn="t1", request=RM)
    wait = asyncio.create_task(pending.verdict())
    await asyncio.sleep(0)
    wait.cancel()
    with pytest.raises(asyncio.CancelledError):
        await wait
    again = await desk.approvals.ask(**PLACE, turn="t2", request=RM)
    assert again.id == pending.id
    await desk.approvals.decide(OWNER, again.id, approve=True)
    assert (await again.verdict()).allow


async def test_a_deleted_instance_leaves_nothing(desk: Desk) -> None:
    pending = await desk.approvals.ask(**PLACE, turn="t1", request=RM)
    await desk.store.write(lambda tx: desk.approvals.forget(tx, "inst_1"))
    assert not (await pending.verdict()).allow
    assert desk.approvals.list(state=None) == []
    assert desk.approvals.open("inst_1") == 0


async def test_lists_are_by_state_and_instance(desk: Desk) -> None:
    mine = await desk.approvals.ask(**PLACE, turn="t1", request=RM)
    other = await desk.approvals.ask(instance="inst_2", session="s:1", turn="t2", request=RM)
    await desk.approvals.decide(OWNER, other.id, approve=True)
    assert [item.id for item in desk.approvals.list(instance="inst_1")] == [mine.id]
    assert [item.id for item in desk.approvals.list(state="approved")] == [other.id]
    assert [item.id for item in desk.approvals.list(state=None)] == [mine.id, other.id]
    assert [item.id for item in desk.approvals.list(state=None, limit=1)] == [other.id]
    with pytest.raises(AegisError, match="no state"):
        desk.approvals.list(state="asleep")


def test_the_order_of_keys_does_not_matter() -> None:
    assert digest_of("T", {"a": 1, "b": {"c": 2, "d": 3}}) == digest_of("T", {"b": {"d": 3, "c": 2}, "a": 1})
    assert digest_of("T", {"a": 1}) != digest_of("U", {"a": 1}) != digest_of("U", {"a": "1"})


@pytest.mark.parametrize(
    "value",
    [
        {"path": "x", "content": "y" * 200_000},
        {"edits": [{"old": "a" * 3000, "new": "b" * 3000}] * 100},
        {"k" * n: n for n in range(1000)},
        {"deep": [[[[[[[[[["z" * 100_000]]]]]]]]]]},
        {str(n): "v" * 50 for n in range(100_000)},
    ],
)
def test_what_is_kept_of_an_input_has_an_end(value: dict[str, Any]) -> None:
    kept = bounded(value)
    assert len(msgspec.json.encode(kept)) <= MAX_INPUT
    assert next(iter(kept)) in value or "truncated" in kept


async def test_the_whole_input_counts_though_not_all_of_it_is_kept(desk: Desk) -> None:
    await desk.turn("t1")
    await desk.turn("t2", "t1")
    long = Asked(id="d", tool="Write", input={"content": "y" * 200_000 + "1"}, kind="edit")
    one = await desk.approvals.ask(**PLACE, turn="t1", request=long)
    assert "more characters" in desk.approvals.get(one.id).input["content"]
    other = msgspec.structs.replace(long, input={"content": "y" * 200_000 + "2"})
    assert (await desk.approvals.ask(**PLACE, turn="t2", request=other)).id != one.id
    assert (await desk.approvals.ask(**PLACE, turn="t2", request=long)).id == one.id
