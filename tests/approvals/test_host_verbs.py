"""The verbs of a person's own agent: it shows a request, and passes an answer on for exactly the call that was shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from tests.agents.conftest import OWNER, Bench, bench, open_bench, program
from tests.agents.test_sessions import begun

from aegis.core.errors import AegisError, ErrorKind
from aegis.daemon.mcp.host import VERBS, Decide, OneRequest
from aegis.daemon.mcp.model import Caller
from aegis.drivers import Answer, Asked

if TYPE_CHECKING:
    from tests.agents.programs import Program

__all__ = ["bench", "open_bench", "program"]


async def test_an_answer_is_passed_on_for_the_call_that_was_shown(bench: Bench, program: Program) -> None:
    await bench.launch(approvals="ask")
    instance, conversation, _receipt = await begun(bench, program)
    conversation.say(Asked(id="r1", tool="Bash", input={"command": "rm -r x"}, kind="execute", title="rm -r x"))
    await bench.until(lambda: bench.house.approvals.open(instance.id) == 1)
    verbs = {verb.name: verb for verb in VERBS}
    caller = Caller(OWNER)
    [listed] = (await verbs["approvals_list"].run(bench.house, caller, msgspec.convert({}, verbs["approvals_list"].arguments))).data[
        "approvals"
    ]
    assert (listed["risk"], listed["default"]) == ("deletes recursively", "reject")
    shown = (await verbs["approvals_show"].run(bench.house, caller, OneRequest(listed["id"]))).data
    assert shown["argv"] == ["rm", "-r", "x"]
    with pytest.raises(AegisError) as caught:
        await verbs["approvals_decide"].run(bench.house, caller, Decide(listed["id"], approve=True, digest="0" * 64))
    assert caught.value.kind is ErrorKind.CONFLICT
    await verbs["approvals_decide"].run(bench.house, caller, Decide(listed["id"], approve=True, digest=shown["digest"]))
    assert await conversation.until("answer") == ("r1", Answer(True))
    assert {verb.family for verb in VERBS if verb.name.startswith("approvals_")} == {"host"}
