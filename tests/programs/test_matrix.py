"""The matrix: everything a person does with an agent, with each real program, unmodified, in the sandbox, through the daemon."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest
from tests.programs.conftest import DIALECTS, Lab, finished, mostly_with, only

from aegis.client.images import image_of
from aegis.client.shapes import DEFAULT_SESSION
from aegis.core.errors import AegisError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
THOROUGH = [pytest.mark.thorough]


def test_turns_follow_each_other_and_stream(shared: Lab) -> None:
    first = shared.ask("[[think let me see]] [[slow 12 30]]")
    end = finished(first)
    assert end["outcome"] == "completed", end
    deltas = [d["text"] for d in only(first, "turn.text.delta")]
    assert len(deltas) >= 3, "the text came in one piece"
    assert "".join(deltas).strip() == "".join(d["text"] for d in only(first, "turn.text")).strip()
    assert "t11" in end["text"]
    assert "let me see" in "".join(d["text"] for d in only(first, "turn.thinking.delta"))
    assert [d["text"].strip("*\n ") for d in only(first, "turn.thinking")] == ["let me see"]  # Gemini puts a heading over it
    second = shared.ask("[[recall]]")
    assert "t11" not in finished(second)["text"]
    assert "slow 12 30" in finished(second)["text"], "the program forgot the first turn"


def test_a_file_is_edited(shared: Lab) -> None:
    events = shared.ask('[[call write {"path": "/workspace/a.txt", "content": "hello\\n"}]] [[say written]]')
    assert finished(events)["outcome"] == "completed", finished(events)
    assert (shared.workspace / "a.txt").read_text() == "hello\n"
    (call,) = only(events, "turn.tool.call")
    assert call["kind"] == "edit"
    assert any(place["path"] == "/workspace/a.txt" for place in call["locations"]), call
    (result,) = only(events, "turn.tool.result")
    assert result["call_id"] == call["call_id"]
    assert result["ok"]
    (diff,) = result["diffs"]
    assert (diff["path"], diff.get("old") or "", diff["new"]) == ("/workspace/a.txt", "", "hello\n")
    assert finished(events)["text"].strip() == "written"


def test_a_shell_command_runs(shared: Lab) -> None:
    events = shared.ask('[[call bash {"command": "expr 40 + 2 > out.txt; cat out.txt; id -u"}]] [[lastresult]]')
    assert finished(events)["outcome"] == "completed", finished(events)
    assert (shared.workspace / "out.txt").read_text() == "42\n"
    (call,) = only(events, "turn.tool.call")
    assert call["kind"] == "execute"
    assert "42" in only(events, "turn.tool.result")[0]["output"]
    assert "42" in finished(events)["text"]


def test_calls_are_metered(shared: Lab) -> None:
    before = shared.client.instances.get("a")["usage"]
    end = finished(shared.ask("[[say hello]]"))
    assert end["input"] > 0
    assert end["output"] > 0
    used = shared.client.instances.get("a")["usage"]
    assert used["input"] - before["input"] == end["input"]
    events = shared.ask("[[say again]]")
    assert {usage["model"] for usage in only(events, "turn.usage")} == {"loop/directives"}


def test_read_means_read(lab: Lab) -> None:
    (lab.workspace / "there.txt").write_text("old")
    lab.start(permission="read")
    text = '[[call write {"path": "/workspace/there.txt", "content": "new"}]] [[call bash {"command": "echo x > /workspace/b.txt"}]] [[say done]]'
    assert finished(lab.ask(text))["outcome"] in ("completed", "failed")
    assert [path.name for path in lab.workspace.iterdir()] == ["there.txt"]
    assert (lab.workspace / "there.txt").read_text() == "old"


@pytest.mark.parametrize(
    ("lab", "verdict"),
    [
        *((program, "approve") for program in DIALECTS),
        *(pytest.param(p, "reject", marks=[] if p == "claude-code" else THOROUGH) for p in DIALECTS),
    ],
    indirect=["lab"],
)
def test_a_person_is_asked(lab: Lab, verdict: str) -> None:
    lab.start(approvals="ask")
    receipt = lab.send('[[call write {"path": "/workspace/a.txt", "content": "x"}]] [[say end of it]]')
    events = lab.until(receipt, lambda event: event["type"] == "approval.requested")
    assert not (lab.workspace / "a.txt").exists()
    assert lab.client.instances.get("a")["activity"] == "needs-you"
    (pending,) = lab.client.approvals.list()
    assert pending["id"] == events[-1]["data"]["approval_id"]
    lab.client.approvals.decide(pending["id"], approve=verdict == "approve", reason="because")
    end = finished(lab.turn(receipt))
    assert end["outcome"] == "completed", end
    assert (lab.workspace / "a.txt").exists() == (verdict == "approve")
    assert lab.client.approvals.list() == []
    assert finished(lab.ask("[[say usable]]"))["text"].strip() == "usable"


@mostly_with("claude-code", "codex", "gemini")
def test_an_approval_survives_the_daemon(lab: Lab) -> None:
    lab.start(approvals="ask")
    receipt = lab.send('[[call write {"path": "/workspace/a.txt", "content": "x"}]] [[say done]]')
    lab.until(receipt, lambda event: event["type"] == "approval.requested")
    lab.real.kill()
    lab.real.up()
    for pending in lab.client.approvals.list():
        lab.client.approvals.decide(pending["id"], approve=True)
    events = lab.until(
        receipt, lambda event: event["type"] == "turn.finished" and not (event["data"].get("error") or {}).get("will_continue")
    )
    # The program may word its work anew after the interruption; what it asks again for takes the answer that was given.
    for pending in lab.client.approvals.list():
        with contextlib.suppress(AegisError):
            lab.client.approvals.decide(pending["id"], approve=True)
    assert finished(events)["outcome"] == "completed", finished(events)


def test_a_stream_is_interrupted(shared: Lab) -> None:
    receipt = shared.send("[[slow 400 50]]")
    shared.until(receipt, lambda event: event["type"] == "turn.text.delta")
    shared.client.mail.cancel("a")
    assert finished(shared.turn(receipt))["outcome"] == "cancelled"
    shared.server.until(lambda: any(request.disconnected for request in shared.server.requests))
    after = shared.ask("[[say fresh]]")
    assert finished(after)["outcome"] == "completed", finished(after)
    assert "".join(d["text"] for d in only(after, "turn.text.delta")).strip() == "fresh", "something of the cut turn leaked"


def test_a_running_shell_is_interrupted(shared: Lab) -> None:
    receipt = shared.send('[[call bash {"command": "echo begun > begun.txt; sleep 299"}]] [[say over]]')
    shared.until(receipt, lambda event: event["type"] == "turn.tool.call")
    shared.inside("while ! test -e /workspace/begun.txt; do sleep 0.02; done")
    assert shared.processes("sleep 299")
    shared.client.mail.cancel("a")
    assert finished(shared.turn(receipt))["outcome"] == "cancelled"
    shared.inside('while grep -q "[s]leep.299" /proc/[0-9]*/cmdline 2>/dev/null; do sleep 0.02; done')
    after = shared.ask("[[say fresh]]")
    assert finished(after)["text"].strip() == "fresh"


@mostly_with("claude-code", "codex", "gemini")
def test_a_pending_permission_is_interrupted(lab: Lab) -> None:
    lab.start(approvals="ask")
    receipt = lab.send('[[call write {"path": "/workspace/a.txt", "content": "x"}]] [[say over]]')
    lab.until(receipt, lambda event: event["type"] == "approval.requested")
    lab.client.mail.cancel("a")
    assert finished(lab.turn(receipt))["outcome"] == "cancelled"
    assert lab.client.approvals.list() == []
    assert not (lab.workspace / "a.txt").exists()
    assert finished(lab.ask("[[say fresh]]"))["text"].strip() == "fresh"


def test_an_error_of_the_model_is_told(shared: Lab) -> None:
    end = finished(shared.ask("[[error 400]]"))
    assert end["outcome"] == "failed"
    assert "400" in str(end["error"])
    assert finished(shared.ask("[[say fine]]"))["text"].strip() == "fine"


def test_an_overload_is_tried_again(shared: Lab) -> None:
    end = finished(shared.ask("[[error 503 1]] [[say got through]]"))
    assert end["outcome"] == "completed", end
    assert end["text"].strip() == "got through"


def test_the_model_is_switched(shared: Lab) -> None:
    assert finished(shared.ask("[[say one]]"))["text"].strip() == "one"
    shared.client.sessions.configure("a", DEFAULT_SESSION, model="loop/echo")
    events = shared.ask("two")
    assert finished(events)["text"].strip() == "echo: two"
    assert {usage["model"] for usage in only(events, "turn.usage")} == {"loop/echo"}
    assert shared.server.calls[-1].model == "echo"
    shared.client.sessions.configure("a", DEFAULT_SESSION, model="loop/directives")


def test_memory_survives_a_kill_in_the_middle(lab: Lab) -> None:
    lab.start()
    lab.ask("[[say remember the word marzipan]]")
    receipt = lab.send("[[slow 200 50]]")
    lab.until(receipt, lambda event: event["type"] == "turn.text.delta")
    lab.real.kill()
    lab.real.up()
    end = finished(lab.turn(receipt))
    assert end["outcome"] == "completed", end
    assert "marzipan" in finished(lab.ask("[[recall]]"))["text"]


@mostly_with("claude-code", "codex", "gemini")
def test_memory_survives_the_end_of_the_program(lab: Lab) -> None:
    lab.start()
    lab.ask("[[say remember the word marzipan]]")
    lab.client.instances.act("a", "restart")
    assert "marzipan" in finished(lab.ask("[[recall]]"))["text"]


def test_sessions_are_apart(lab: Lab) -> None:
    lab.start()
    one = lab.send("[[slow 20 20]] [[say aubergine]]", session=("host", "one"))
    two = lab.send("[[slow 20 20]] [[say cucumber]]", session=("host", "two"))
    assert finished(lab.turn(one))["outcome"] == "completed"
    assert finished(lab.turn(two))["outcome"] == "completed"
    assert "aubergine" not in finished(lab.ask("[[recall]]", session=("host", "two")))["text"]


def test_a_fork_knows_what_was_before(lab: Lab) -> None:
    lab.start()
    lab.ask("[[say the word is marzipan]]")
    try:
        lab.client.sessions.fork("a", DEFAULT_SESSION, ("host", "copy"))
    except AegisError as error:
        assert lab.program == "gemini", error  # the others can
        assert "copy" in error.message
        return
    assert "marzipan" in finished(lab.ask("[[recall]]", session=("host", "copy")))["text"]
    assert finished(lab.ask("[[recall]]"))["text"].count("recall") == 1, "the copy wrote into the original"


@mostly_with("claude-code", "codex", "gemini")
def test_nothing_is_left(lab: Lab) -> None:
    info = lab.start()
    seconds = str(random.randrange(100_000, 900_000))  # nobody else's
    lab.ask(
        '[[call bash {"command": "setsid sleep SECONDS > /dev/null 2>&1 < /dev/null & echo ok"}]] [[say done]]'.replace("SECONDS", seconds)
    )
    lab.client.instances.delete("a")
    assert not any(f"sleep\0{seconds}".encode() in line for line in _cmdlines())
    assert not (lab.real.home / "instances" / info["id"]).exists()


def _cmdlines() -> list[bytes]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            found.append(path.read_bytes())
    return found


def test_pictures_reach_the_model(shared: Lab, tmp_path: Path) -> None:
    pixel = bytes.fromhex(
        "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415408d763f8cfc000000301010018dd8db00000000049454e44ae426082"
    )
    events = shared.ask("[[images]]", images=[image_of(pixel)])
    assert finished(events)["outcome"] == "completed", finished(events)
    assert "image/png" in finished(events)["text"]


@mostly_with("claude-code", "codex", "gemini")
def test_a_recorded_run_is_played_again(lab: Lab, tmp_path: Path) -> None:
    tape = tmp_path / "tape.jsonl"
    text = '[[call write {"path": "/workspace/a.txt", "content": "hello\\n"}]] [[slow 5 1]] [[say done]]'
    lab.start("a", record=str(tape))
    recorded = lab.ask(text, "a")
    lab.client.instances.delete("a")
    calls = len(lab.server.requests)
    (lab.workspace / "a.txt").unlink()
    lab.start("b", replay=str(tape))
    replayed = lab.ask(text, "b")
    assert len(lab.server.requests) == calls, "a replayed run called the model"
    assert (lab.workspace / "a.txt").read_text() == "hello\n"
    kinds = ("turn.text", "turn.tool.call", "turn.tool.result", "turn.finished")
    assert [e["type"] for e in replayed if e["type"] in kinds] == [e["type"] for e in recorded if e["type"] in kinds]
    assert [d["text"] for d in only(replayed, "turn.text")] == [d["text"] for d in only(recorded, "turn.text")]
