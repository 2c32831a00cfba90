"""What is admitted, what is reserved, what is settled."""

from __future__ import annotations

import asyncio
import math

import pytest
from tests.budgets.conftest import Purse

from aegis.core.errors import AegisError, ErrorKind
from aegis.models import Usage
from aegis.services.budgets import Budget
from aegis.services.budgets.money import MICRO


async def test_the_worst_case_is_reserved_and_the_real_use_is_settled(purse: Purse) -> None:
    purse.declare(Budget(name="b", scope="home", usd=MICRO))
    call = purse.call(input_estimate=1000)
    held = await purse.admit(call)
    assert held.taken == held.worst == (1000 * 8 + 1000 * 20, 2000, 1000)
    assert purse.budgets.account(purse.declared[0], "").meter.held == held.taken
    await purse.settle(call, Usage(input=900, output=100, cached=800), cost=0.00236)
    assert purse.spent("home") == (2360, 1000, 100)  # what was cached counts once
    assert purse.budgets.account(purse.declared[0], "").meter.held == (0, 0, 0)
    for scope, subject in (
        ("project", "/p"),
        ("agent", "coder"),
        ("agent", "coder in /p"),
        ("instance", "i1"),
        ("session", "i1 host:default"),
    ):
        assert purse.spent(scope, subject).usd == 2360


async def test_a_refusal_names_every_budget_and_when_it_frees(purse: Purse) -> None:
    purse.declare(
        Budget(name="day", scope="home", tokens=100, window=86_400.0),
        Budget(name="hour", scope="instance", output_tokens=10, window=3600.0),
        Budget(name="wide", scope="home", usd=100 * MICRO),
    )
    await purse.use(90, 10)
    with pytest.raises(AegisError) as refused:
        await purse.admit(purse.call())
    error = refused.value
    assert error.kind is ErrorKind.LIMIT
    assert [b["name"] for b in error.data["budgets"]] == ["day", "hour"]
    day, hour = error.data["budgets"]
    assert (day["spent"], day["reserved"], day["limit"], day["window"]) == (100, 0, 100, 86_400.0)
    now = purse.clock.now()
    assert now + 86_400 <= day["unblock_at"] <= now + 86_400 * 61 / 60 + 1
    assert now + 3600 <= hour["unblock_at"] <= now + 3600 * 61 / 60 + 1
    assert error.data["unblock_at"] == day["unblock_at"]
    assert "aegis budget set day --tokens N" in error.hint
    await purse.clock.advance(day["unblock_at"] - now)
    await purse.admit(purse.call())


async def test_with_less_left_than_the_worst_case_all_that_is_left_is_reserved_and_others_wait(purse: Purse) -> None:
    purse.declare(Budget(name="b", scope="home", tokens=1500))
    first, second = purse.call(input_estimate=1000), purse.call(input_estimate=1000)
    held = await purse.admit(first)
    assert held.taken.tokens == 1500
    waiting = asyncio.ensure_future(purse.admit(second))
    await asyncio.sleep(0)
    assert not waiting.done()
    await purse.settle(first, Usage(input=100, output=50))
    assert (await waiting).taken.tokens == 1350
    await purse.settle(second, Usage(input=1300, output=51))
    with pytest.raises(AegisError):
        await purse.admit(purse.call())


async def test_who_waits_is_refused_when_the_call_before_it_used_all(purse: Purse) -> None:
    purse.declare(Budget(name="b", scope="home", tokens=1500))
    first = purse.call(input_estimate=1000)
    await purse.admit(first)
    waiting = asyncio.ensure_future(purse.admit(purse.call(input_estimate=1000)))
    await asyncio.sleep(0)
    await purse.settle(first, Usage(input=1500))
    with pytest.raises(AegisError):
        await waiting


async def test_a_hundred_at_once_never_exceed_a_cap_together(purse: Purse) -> None:
    cap = 25_000
    purse.declare(Budget(name="b", scope="home", tokens=cap))
    meter = purse.budgets.account(purse.declared[0], "").meter
    most = 0

    async def one() -> None:
        nonlocal most
        call = purse.call(input_estimate=1000)
        await purse.admit(call)
        most = max(most, meter.tokens + meter.held_tokens)
        await purse.settle(call, Usage(input=1000, output=500))

    results = await asyncio.gather(*(one() for _ in range(100)), return_exceptions=True)
    refused = [each for each in results if isinstance(each, AegisError)]
    assert refused
    assert most <= cap
    assert meter.tokens <= cap + 1500


async def test_a_family_shares_what_its_root_may_use(purse: Purse) -> None:
    purse.parents = {"child": "root", "grandchild": "child"}
    purse.declare(Budget(name="@root", scope="instance", instance="root", tokens=1000))
    await purse.use(600, instance="child")
    await purse.use(400, instance="grandchild")
    for member in ("root", "child", "grandchild"):
        with pytest.raises(AegisError, match="@root"):
            await purse.admit(purse.call(member))
    await purse.admit(purse.call("stranger"))


async def test_a_deleted_instance_leaves_what_it_used_with_its_parents_and_the_home(purse: Purse) -> None:
    purse.parents = {"child": "root"}
    purse.declare(Budget(name="b", scope="home", tokens=500), Budget(name="@root", scope="instance", instance="root", tokens=500))
    await purse.use(500, instance="child")
    await purse.store.write(lambda tx: purse.budgets.forget(tx, "child"))
    assert purse.spent("instance", "root").tokens == 500
    with pytest.raises(AegisError, match=r"`b`.*`@root`"):
        await purse.admit(purse.call("root"))


@pytest.mark.parametrize("cost", [math.nan, -1.0, math.inf, -math.inf, 1e300])
async def test_what_is_no_cost_is_not_free_and_corrupts_nothing(purse: Purse, cost: float) -> None:
    purse.declare(Budget(name="b", scope="home", usd=MICRO))
    call = purse.call()
    await purse.admit(call)
    await purse.settle(call, Usage(input=1000, output=100), cost=cost)
    spent = purse.spent("home").usd
    assert spent == (10**15 if cost == 1e300 else 1000 * 4 + 100 * 20)
    again = purse.new()
    await again.open()
    assert again.account(purse.declared[0], "").meter.usd == spent


async def test_tokens_beyond_all_bounds_are_cut(purse: Purse) -> None:
    purse.declare(Budget(name="b", scope="home", tokens=10**12))
    for _ in range(3):
        call = purse.call("other", max_tokens=10**400, input_estimate=-5)
        held = await purse.budgets.admit(call, session=None, free=True)
        assert held is not None
        assert held.worst.tokens == 10_000_000
        purse.budgets.drop(call.id)
    call = purse.call()
    await purse.admit(call)
    await purse.settle(call, Usage(input=10**400, output=-7))
    assert purse.spent("home").tokens == 10**15


async def test_an_unknown_price_counts_at_the_dearest_or_is_refused(purse: Purse) -> None:
    purse.declare(Budget(name="b", scope="home", usd=100 * MICRO))
    await purse.use(1_000_000, 0, model="somewhere/unheard-of")
    assert purse.spent("home").usd >= 5 * MICRO
    purse.declare(Budget(name="b", scope="home", usd=100 * MICRO, unpriced="refuse"))
    with pytest.raises(AegisError, match="nobody knows the price"):
        await purse.admit(purse.call(model="somewhere/unheard-of"))
    await purse.admit(purse.call())
    await purse.admit(purse.call(model="somewhere/unheard-of"), free=True)


async def test_a_model_that_costs_nothing_is_called_when_the_money_is_gone(purse: Purse) -> None:
    purse.declare(Budget(name="b", scope="home", usd=1))
    await purse.use(1000, 10)
    with pytest.raises(AegisError):
        await purse.admit(purse.call())
    await purse.admit(purse.call(), free=True)


async def test_an_answer_that_broke_off_is_not_free(purse: Purse) -> None:
    call = purse.call()
    await purse.admit(call)
    call.pieces, call.received = 40, 4000
    await purse.settle(call, Usage(input=900, output=1), outcome="cancelled")
    assert purse.spent("home").output == 40
    unseen = purse.call(stream=False)
    await purse.admit(unseen)
    await purse.settle(unseen, None, outcome="cancelled")
    assert purse.spent("home").output == 1040
    refused = purse.call()
    await purse.admit(refused)
    await purse.settle(refused, None, outcome="failed")
    assert purse.spent("home").output == 1040


async def test_a_stream_that_passes_a_cap_by_far_is_cut(purse: Purse) -> None:
    purse.declare(Budget(name="b", scope="home", output_tokens=1000))
    await purse.use(0, 900)
    call = purse.call(max_tokens=50_000)
    assert (await purse.admit(call)).taken.output == 100
    call.pieces = 150
    assert purse.budgets.passes(call) is None
    call.pieces = 250
    error = purse.budgets.passes(call)
    assert error is not None
    assert error.data["budgets"][0]["name"] == "b"


async def test_a_call_that_is_larger_than_a_whole_budget_is_no_wait(purse: Purse) -> None:
    purse.declare(Budget(name="b", scope="home", tokens=500, window=60.0))
    with pytest.raises(AegisError, match="one call uses more than all of budget `b`") as refused:
        await purse.admit(purse.call(input_estimate=500))
    assert refused.value.data["unblock_at"] is None
    call = purse.call(max_tokens=50_000)
    await purse.admit(call)
    call.pieces = 600
    error = purse.budgets.passes(call)
    assert error is not None
    assert error.data["unblock_at"] is None


async def test_a_call_under_way_when_the_daemon_died_counts_with_what_was_reserved(purse: Purse) -> None:
    purse.declare(Budget(name="b", scope="home", tokens=5000, window=3600.0))
    await purse.admit(purse.call(input_estimate=1000))
    again = purse.budgets = purse.new()
    await again.open()
    assert purse.spent("home").tokens == 2000
    assert purse.spent("home", window=3600.0).tokens == 2000
    once_more = purse.new()
    await once_more.open()
    assert once_more.account(purse.declared[0], "").meter.tokens == 2000


async def test_a_disk_that_takes_nothing_loses_nothing_and_counts_nothing_twice(purse: Purse) -> None:
    call = purse.call()
    await purse.admit(call)
    call.usage, call.outcome = Usage(input=10, output=5), "completed"
    purse.budgets.settle(call)
    lost = purse.budgets.settlement("i1", "host:default", None)
    lost.failed()
    assert purse.spent("home").tokens == 15
    await purse.use(1, 1)
    assert purse.spent("home").tokens == 17
    again = purse.new()
    await again.open()
    assert again.account(Budget(name="x", scope="home", tokens=1), "").meter.tokens == 17
    await purse.store.write(lost.write)  # what was told as failed was there after all
    again = purse.new()
    assert again.account(Budget(name="x", scope="home", tokens=1), "").meter.tokens == 17


async def test_near_a_cap_a_person_is_told_once(purse: Purse) -> None:
    purse.declare(Budget(name="b", scope="home", tokens=1000, window=3600.0))

    def told() -> int:
        return len([e for e in purse.store.events(after=0, limit=100)[0] if e.type == "budget.warned"])

    await purse.use(799)
    assert told() == 0
    await purse.use(1)
    await purse.use(1)
    assert told() == 1
    purse.budgets = purse.new()
    await purse.budgets.open()
    await purse.use(1)
    assert told() == 1
    await purse.clock.advance(7300)
    await purse.use(1)
    await purse.use(899)
    assert told() == 2


async def test_who_waits_goes_on_when_it_frees_or_is_raised(purse: Purse) -> None:
    purse.declare(Budget(name="b", scope="home", tokens=100, window=60.0))
    await purse.use(100)
    until = purse.budgets.held("i1", "host:default")
    assert until is not None
    assert purse.budgets.waiting("i1") == until
    purse.declare(Budget(name="b", scope="home", tokens=200, window=60.0))
    assert purse.freed == ["i1"]
    assert purse.budgets.held("i1", "host:default") is None
    await purse.use(200)
    purse.freed.clear()
    until = purse.budgets.held("i1", "host:default")
    assert until is not None
    for _ in range(200):
        if purse.freed:
            break
        await purse.clock.advance(1.0)
        await asyncio.sleep(0)
    assert purse.freed == ["i1"]
    assert purse.clock.now() >= until


async def test_a_budget_for_ever_is_no_wait(purse: Purse) -> None:
    purse.declare(Budget(name="b", scope="home", tokens=100))
    await purse.use(100)
    assert purse.budgets.held("i1", "host:default") is None
    with pytest.raises(AegisError) as refused:
        purse.budgets.check("i1", "host:default")
    assert refused.value.data["unblock_at"] is None


async def test_what_counts_no_tokens_needs_none(purse: Purse) -> None:
    purse.declare(Budget(name="b", scope="home", tokens=1))
    await purse.use(5)
    assert await purse.admit(purse.call(counts_only=True)) is None
    assert await purse.admit(purse.call(source="replayed")) is None
