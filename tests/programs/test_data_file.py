"""An agent that nobody wrote a line of Python for: its data file in the home, and the real daemon with a sandbox around it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.conftest import RealDaemon
from tests.programs.conftest import Lab, finished, only

from aegis.core.errors import AegisError, ErrorKind
from aegis.services.agents.service import MAX_PROGRAMS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.kit.model_server import ModelServer

DATA = """
name = "small"
title = "Small agent"
dialects = ["anthropic"]
fork = true

[program]
command = ["small-agent"]

[environment]
SMALL_URL = "{endpoint}"
SMALL_KEY = "{token}"
SMALL_MODEL = "{model}"
SMALL_EFFORT = "{effort}"

[modes]
known = ["ask", "plan"]

[effort]
known = ["low", "high"]
option = "effort"

[login]
files = [".small-login"]
egress = ["small.example.com:443"]
"""


@pytest.fixture
def lab(short_home: Path, server: ModelServer, workspace: Path, tmp_path: Path) -> Iterator[Lab]:
    """The daemon with the agent's data file in its home."""
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed: apt-get install bubblewrap")
    program = tmp_path / "small-agent" / "small-agent"
    program.parent.mkdir()
    program.write_text(f"#!{os.path.realpath(sys.executable)}\n" + (Path(__file__).parent / "small_agent.py").read_text())
    program.chmod(0o755)
    short_home.mkdir(mode=0o700, exist_ok=True)
    (short_home / "programs").mkdir()
    (short_home / "programs/small.toml").write_text(DATA)
    (short_home / "config.yaml").write_text(
        f"providers:\n  loop: {{base_url: '{server.url}', dialect: anthropic}}\nprograms:\n  small: {{path: '{program}'}}\n"
    )
    real = RealDaemon(short_home)
    real.up()
    yield Lab("small", real, server, workspace)
    real.down()


def test_a_day_with_it(lab: Lab) -> None:
    (lab.workspace / "there.txt").write_text("x")
    lab.start(approvals="ask", effort="high")
    events = lab.ask("look model:hello set")
    (call,), (result,) = only(events, "turn.tool.call"), only(events, "turn.tool.result")
    assert (call["name"], call["kind"], result["output"]) == ("look", "read", "there.txt")
    end = finished(events)
    assert end["outcome"] == "completed"
    assert '"effort": "high"' in end["text"]
    assert (end["rounds"], len(only(events, "turn.usage"))) == (1, 1)  # it asked its model through the broker
    (opened,) = only(events, "session.opened")
    assert (opened["program"], opened["version"], opened.get("resumed", False)) == ("small", "1.2.3", False)

    receipt = lab.send("write:a.txt say:over")
    lab.until(receipt, lambda event: event["type"] == "approval.requested")
    assert not (lab.workspace / "a.txt").exists()
    (pending,) = lab.client.approvals.list()
    lab.client.approvals.decide(pending["id"], approve=True)
    assert finished(lab.turn(receipt))["text"] == "over"
    assert (lab.workspace / "a.txt").read_text() == "written"

    receipt = lab.send("write:b.txt say:over")
    lab.until(receipt, lambda event: event["type"] == "approval.requested")
    (pending,) = lab.client.approvals.list()
    lab.client.approvals.decide(pending["id"], approve=False, reason="no more")
    assert finished(lab.turn(receipt))["outcome"] == "completed"
    assert not (lab.workspace / "b.txt").exists()

    receipt = lab.send("look wait say:never")
    lab.until(receipt, lambda event: event["type"] == "turn.tool.result")
    lab.client.mail.cancel("a")
    assert finished(lab.turn(receipt))["outcome"] == "cancelled"
    assert finished(lab.ask("say:still"))["text"] == "still"


def test_it_goes_on_after_a_crash_of_the_daemon_and_a_stop(lab: Lab) -> None:
    lab.start()
    assert finished(lab.ask("say:first"))["text"] == "first"
    receipt = lab.send("look wait")
    lab.until(receipt, lambda event: event["type"] == "turn.tool.result")
    lab.real.kill()
    lab.real.up()
    lab.until(receipt, lambda event: event["type"] == "session.opened" and event["data"].get("resumed"))
    lab.client.mail.cancel("a")
    lab.turn(receipt)
    lab.client.instances.act("a", "restart")
    told = finished(lab.ask("recall"))["text"]
    assert told.startswith("say:first | look wait | ")
    assert told.count("look wait") == 1  # the message that it had is not said again


def test_settings_and_copies(lab: Lab) -> None:
    lab.start(effort="low", mode="plan")
    assert json.loads(finished(lab.ask("set"))["text"]) == {"effort": "low", "mode": "plan"}
    lab.client.sessions.configure("a", effort="high", mode="ask")
    assert json.loads(finished(lab.ask("set"))["text"]) == {"effort": "high", "mode": "ask"}
    with pytest.raises(AegisError) as caught:
        lab.client.sessions.configure("a", effort="hardest")
    assert caught.value.kind is ErrorKind.NOT_FOUND
    lab.client.sessions.fork("a", ("host", "default"), ("host", "copy"))
    assert finished(lab.ask("recall", session=("host", "copy")))["text"] == "set | set | recall"
    assert "copy" not in finished(lab.ask("recall"))["text"]


def test_it_may_only_read(lab: Lab) -> None:
    lab.start(permission="read")
    events = lab.ask("write:a.txt say:over")
    assert finished(events)["outcome"] == "completed"
    assert not only(events, "turn.tool.result")[0]["ok"]
    assert list(lab.workspace.iterdir()) == []


def test_a_file_is_read_again_when_it_changes(lab: Lab, short_home: Path) -> None:
    file = short_home / "programs/small.toml"
    file.write_text(DATA + "\n[quirks]\nnonsense = true\n")
    (row,) = [row for row in lab.client.doctor()["programs"] if row.get("fault")]
    assert "`quirks.nonsense`" in row["detail"]
    lab.start()  # as it was before the mistake
    file.write_text(DATA.replace('SMALL_MODEL = "{model}"', 'SMALL_MODEL = "{model}"\nSMALL_NEW = "new"'))
    lab.client.instances.act("a", "restart")
    assert finished(lab.ask("env:SMALL_NEW"))["text"] == "new"
    assert [row for row in lab.client.doctor()["programs"] if row.get("fault")] == []
    (short_home / "programs/other.toml").write_text(DATA.replace('name = "small"', 'name = "other"'))
    assert "other" in {row["name"] for row in lab.client.doctor()["programs"]}
    with pytest.raises(AegisError) as caught:
        lab.start("b", auth="login")
    assert caught.value.data["egress"] == ["small.example.com:443"]


def test_of_many_sessions_the_idle_ones_end_and_remember(lab: Lab) -> None:
    lab.start()
    for number in range(MAX_PROGRAMS + 1):
        assert finished(lab.ask(f"say:{number}", session=("host", f"s{number}")))["text"] == str(number)
    assert len(lab.processes("small-agent/small-agent")) == MAX_PROGRAMS
    assert finished(lab.ask("recall", session=("host", "s0")))["text"] == "say:0 | recall"
    assert len(lab.processes("small-agent/small-agent")) == MAX_PROGRAMS
