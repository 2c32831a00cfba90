"""An editor talks through `aegis acp` to a program that speaks the same protocol itself, in its sandbox."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from acp.schema import TextContentBlock
from tests.conftest import RealDaemon
from tests.hosts.conftest import editor
from tests.kit.clis import cli
from tests.kit.model_server import ModelServer

from aegis.sandboxes.bwrap import Bwrap


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer() as one:
        yield one


@pytest.fixture
def work() -> Iterator[Path]:
    base = Path(tempfile.mkdtemp(prefix="aegis-work-"))
    yield base
    shutil.rmtree(base, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.realcli("gemini")
async def test_gemini_behind_the_editor(home: RealDaemon, server: ModelServer, work: Path) -> None:
    """Its tools are asked for in the editor, under their own names and places; its modes can be chosen; its history comes back."""
    verdict = await Bwrap().probe()
    if not verdict.ok:
        pytest.skip(f"bwrap: {verdict.detail}; {verdict.mend}")
    declared = f"providers:\n  loop: {{base_url: {server.url}, dialect: gemini}}\nprograms:\n  gemini: {{path: {cli('gemini')}}}\n"
    (home.home / "config.yaml").write_text(declared)
    home.up()
    home.client.instances.start(
        {"handle": "g", "provider": "gemini", "model": "loop/directives", "workspace": str(work), "approvals": "ask"}
    )
    call = f"[[call write {json.dumps({'path': '/workspace/a.txt', 'content': 'one'})}]] [[say written]]"
    async with editor(home, "--instance", "g") as one:
        one.answer = lambda request: next(option.option_id for option in request["options"] if option.kind == "allow_once")
        session = (await one.connection.new_session(cwd=str(work), mcp_servers=[])).session_id
        done = await one.connection.prompt(session_id=session, prompt=[TextContentBlock(type="text", text=call)])
        assert done.stop_reason == "end_turn"
        assert (work / "a.txt").read_text() == "one"
        assert one.text().strip() == "written"
        (asked,) = one.asked
        assert asked["call"].kind == "edit"
        (shown,) = one.of("tool_call")
        assert shown.tool_call_id == asked["call"].tool_call_id
        (result,) = [update for update in one.of("tool_call_update") if update.status == "completed"]
        assert result.content[0].path == str(work / "a.txt")
        if options := one.of("config_option_update"):
            assert {option.id for option in options[-1].config_options} >= {"model"}
    async with editor(home, "--instance", "g") as again:
        await again.connection.load_session(cwd=str(work), session_id=session, mcp_servers=[])
        await again.until(lambda: again.text().strip() == "written")
        assert again.text("user_message_chunk") == call
