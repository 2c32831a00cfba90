"""The daemon, or the program, is killed in the worst moments, with each real program: everything accepted is dealt with once or marked."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest
from tests.conftest import wait_gone
from tests.programs.conftest import DIALECTS, Event, Lab, finished, mostly_with, only

from aegis.core.errors import AegisError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

WORK = '[[call bash {"command": "echo ran >> ran.txt; sleep 2"}]] [[slow 60 20]]'
#: The moments that other programs are always tried at.
ALWAYS = {("codex", "tool"), ("gemini", "stream"), ("opencode", "accepted")}
MOMENTS = {
    "accepted": "mail.accepted",
    "tool": "turn.tool.call",
    "stream": "turn.text.delta",
}


def recall(lab: Lab) -> str:
    return str(finished(lab.ask("[[recall]]"))["text"])


@pytest.mark.parametrize(
    ("lab", "moment"),
    [
        (program, moment)
        if program == "claude-code" or (program, moment) in ALWAYS
        else pytest.param(program, moment, marks=pytest.mark.thorough)
        for program in DIALECTS
        for moment in MOMENTS
    ],
    indirect=["lab"],
)
def test_the_daemon_is_killed(lab: Lab, moment: str) -> None:
    lab.start()
    lab.ask("[[say the word is marzipan]]")
    receipt = lab.send(WORK)
    lab.until(receipt, lambda event: event["type"] == MOMENTS[moment])
    lab.real.kill()
    lab.real.up()
    events = lab.turn(receipt)
    end = finished(events)
    assert end["outcome"] == "completed", end
    ends = [data for data in only(events, "turn.finished") if receipt["id"] in data["in_reply_to"]]
    assert sum(not (data.get("error") or {}).get("will_continue") for data in ends) == 1
    told = recall(lab)
    assert "marzipan" in told
    assert told.count("echo ran") == 1, f"the message is in the program's conversation not once: {told}"


def pid_of(lab: Lab) -> int:
    """The program's process, on the host."""
    names = {"claude-code": b"/claude\x00", "gemini": b"gemini.js\x00", "opencode": b"/opencode\x00acp", "codex": b"/codex\x00app-server"}
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (path / "cmdline").read_bytes()
            environment = (path / "environ").read_bytes()
            if names[lab.program] in line and not line.startswith(b"/bin/sh\x00") and b"AEGIS_HANDLE=a\x00" in environment + b"\x00":
                if _below(int(path.name), lab.real.pid):
                    found.append(int(path.name))
    assert found, "the program does not run"
    return min(found)


def _below(pid: int, ancestor: int) -> bool:
    while pid > 1:
        pid = int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
        if pid == ancestor:
            return True
    return False


def _died(events: list[Event]) -> None:
    end = finished(events)
    assert end["outcome"] == "failed", end
    assert "died" in end["error"]["error"], end
    assert end["error"]["hint"]


def test_the_program_is_killed_in_a_stream(lab: Lab) -> None:
    lab.start()
    lab.ask("[[say the word is marzipan]]")
    receipt = lab.send("[[slow 400 50]]")
    lab.until(receipt, lambda event: event["type"] == "turn.text.delta")
    pid = pid_of(lab)
    lab.inside(f"kill -9 {inner(pid)}")
    wait_gone(pid)
    _died(lab.turn(receipt))
    lab.server.until(lambda: any(request.disconnected for request in lab.server.requests))
    assert "marzipan" in recall(lab)


def inner(pid: int) -> int:
    """The same process as the sandbox counts it."""
    status = (Path("/proc") / str(pid) / "status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1])


@mostly_with("claude-code", "gemini")
def test_the_program_is_killed_while_a_person_is_asked(lab: Lab) -> None:
    lab.start(approvals="ask")
    receipt = lab.send('[[call write {"path": "/workspace/a.txt", "content": "x"}]] [[say done]]')
    lab.until(receipt, lambda event: event["type"] == "approval.requested")
    (pending,) = lab.client.approvals.list()
    pid = pid_of(lab)
    lab.inside(f"kill -9 {inner(pid)}")
    _died(lab.turn(receipt))
    assert lab.client.approvals.list() == []
    with pytest.raises(AegisError):
        lab.client.approvals.decide(pending["id"], approve=True)
    assert not (lab.workspace / "a.txt").exists()
    assert finished(lab.ask("[[say fine]]"))["text"].strip() == "fine"


@mostly_with("claude-code", "opencode")
def test_the_daemon_is_stopped_while_a_program_works(lab: Lab) -> None:
    lab.start()
    mark = str(random.randrange(100_000, 900_000))  # nobody else's
    receipt = lab.send('[[call bash {"command": "setsid sleep 1MARK & sleep 2MARK"}]] [[say done]]'.replace("MARK", mark))
    lab.until(receipt, lambda event: event["type"] == "turn.tool.call")
    lab.inside(f'until grep -q "[s]leep.2{mark}" /proc/[0-9]*/cmdline 2>/dev/null; do sleep 0.02; done')
    pid = pid_of(lab)
    lab.real.down()
    wait_gone(pid)
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            assert mark.encode() not in path.read_bytes(), path
    lab.real.up()
    lab.client.mail.cancel("a")
