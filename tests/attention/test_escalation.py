"""A request that somebody wants answered: told again through the channels, however lately it was told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.agents.conftest import OWNER
from tests.agents.test_sessions import begun
from tests.attention.test_attention import ask

from aegis.services.attention.service import GAP, HOLD

if TYPE_CHECKING:
    from tests.agents.programs import Program
    from tests.attention.conftest import Watch


async def test_an_escalation_is_told_and_an_answer_ends_it(watch: Watch, program: Program) -> None:
    bench = watch.bench
    await bench.launch(approvals="ask")
    _, conversation, _ = await begun(bench, program)
    ask(conversation)
    await bench.until(lambda: bool(bench.facts("approval.requested")))
    (request,) = bench.facts("approval.requested")
    await watch.until(lambda: len(watch.told.texts) == 1)
    await bench.house.approvals.escalate(OWNER, request.approval_id, reason="blocks the release")
    await watch.until(lambda: len(watch.told.texts) == 2)
    assert "still waits for your answer" in watch.told.texts[1]
    assert "blocks the release" in watch.told.texts[1]
    await bench.house.approvals.escalate(OWNER, request.approval_id)
    await bench.house.approvals.decide(OWNER, request.approval_id, approve=False)
    await watch.passes(HOLD + GAP + 5)
    assert len(watch.told.texts) == 2
    assert [row["state"] for row in await bench.house.attention.newest()] == ["told", "told", "answered"]
