"""MCP servers of Aegis's own agent, through the whole daemon: declared ones beside it in the sandbox, and Aegis's own."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from tests.agents.conftest import OWNER
from tests.kit import mcp_server

from aegis.core.events import Outcome
from aegis.drivers import McpServer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.agents.conftest import Bench

ADD = '[[call kit__add {"a": 1, "b": 2}]][[lastresult]]'


def declared(place: Path) -> list[McpServer]:
    """A server in a file of the workspace, and one that is not there."""
    shutil.copy(mcp_server.__file__, place / "server.py")
    return [McpServer(name="kit", command=["python3", "server.py"]), McpServer(name="gone", command=["nothing-there"])]


async def test_declared_servers_and_aegis_itself(bench: Bench, tmp_path: Path) -> None:
    instance = await bench.start(workspace=str(tmp_path), mcp=declared(tmp_path))
    assert (await bench.answer(await bench.send(instance, ADD))).text == "result: 3"
    told = await bench.answer(await bench.send(instance, "[[call aegis_list_sessions {}]][[lastresult]]"))
    assert told.outcome is Outcome.COMPLETED
    assert told.text.startswith("result: a ")
    log = [record["text"] for record in bench.house.agents.log(instance).tail()]
    assert [line for line in log if "MCP" in line] == [
        "MCP server `gone`: ended with exit code 127: cannot run nothing-there: No such file or directory"
    ]
    assert [fact.name for fact in bench.facts("turn.tool.call")] == ["kit__add", "aegis_list_sessions"]


async def test_a_person_is_asked_before_tools_that_may_change_something(bench: Bench, tmp_path: Path) -> None:
    instance = await bench.launch(driver="native", approvals="ask", workspace=str(tmp_path), mcp=declared(tmp_path))
    told = await bench.answer(await bench.send(instance, "[[call aegis_list_sessions {}]][[lastresult]]"))
    assert told.text.startswith("result: a ")  # nobody had to be asked
    for text, tool in (
        (ADD, "kit__add"),
        ('[[call aegis_handoff {"target_handle": "b", "context": "do"}]][[lastresult]]', "aegis_handoff"),
    ):
        receipt = await bench.send(instance, text)
        await bench.until(lambda: bench.house.approvals.open(instance.id) == 1)
        [waiting] = bench.house.approvals.list()
        assert (waiting.tool, waiting.kind) == (tool, "other")
        await bench.house.approvals.decide(OWNER, waiting.id, approve=False, reason="not now")
        assert "not now" in (await bench.answer(receipt)).text
