"""Looking on: what agents do as it happens, from a point in time, across the death of the daemon, in a terminal and in a pipe."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
from tests.cli.conftest import Program
from tests.cli.terminal import Terminal

from aegis.cli.blocks import GLYPHS

pytestmark = pytest.mark.slow

EDIT = (
    '[[think hmm]] [[call write {"path": "a.txt", "content": "one\\ntwo\\n"}]] '
    '[[call bash {"command": "printf \'\\\\033[31mred\\\\n\'; false"}]] [[say all done]]'
)


@pytest.fixture
def script(daemon: Program) -> Program:
    """The program with an agent `script` that does what a message spells out."""
    daemon("instance", "start", "--name", "script", "--sandbox", "process", "--model", "scripted/directives")
    return daemon


@contextmanager
def watching(program: Program, *args: str) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[str], str]]]:
    """`aegis watch` in a pipe; the function reads to the line that holds a text and returns all up to it."""
    process = program.popen("watch", *args, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None

    def until(text: str) -> str:
        seen = ""
        assert process.stdout is not None
        while text not in seen:
            line = process.stdout.readline().decode()
            assert line, f"{text!r} did not come; there was: {seen}"
            seen += line
        return seen

    try:
        yield process, until
    finally:
        process.kill()
        process.communicate()


def _kill(pid: int) -> None:
    ended = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    assert select.select([ended], [], [], 30)[0]
    os.close(ended)


def test_a_turn_in_a_pipe(script: Program) -> None:
    with watching(script, "script", "--after", "0") as (process, until):
        script("send", "script", EDIT, "--wait")
        shown = until("⚒ 2 (1 failed)")
        assert "✉ " in shown
        assert f"{GLYPHS['edit']} write  a.txt\n" in shown
        assert "a.txt (new)  +2 -0" in shown
        assert "    +one\n" in shown
        assert f"{GLYPHS['execute']} bash  " in shown
        assert "✗ " in shown
        assert "\nall done\n" in shown
        assert "\x1b" not in shown
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


def test_it_begins_when_it_is_told_to(script: Program) -> None:
    script("send", "script", "[[say long ago]]", "--wait")
    script("send", "script", "[[say just now]]", "--wait")
    last = [event for event in script.lines("events") if event["type"] == "mail.accepted"][-1]
    with watching(script, "script", "--since", "1h") as (_, until):
        assert "long ago" in until("just now")
    with watching(script, "--since", datetime.fromtimestamp(last["ts"] - 0.001, UTC).isoformat(), "--json") as (_, until):
        shown = until("turn.finished")
    assert json.loads(shown.splitlines()[0])["seq"] == last["seq"]
    assert "long ago" not in shown


def test_the_turn_that_runs_now_is_shown_from_its_beginning(script: Program) -> None:
    with watching(script, "script", "--after", "0") as (_, until):
        script("send", "script", '[[say working]] [[call bash {"command": "sleep 1000"}]]')
        until("bash")
    with watching(script, "script") as (_, until):
        assert until("sleep 1000") == "── host:default ──\nworking\n⌬ bash  sleep 1000\n"


def test_as_json_it_is_the_events(script: Program) -> None:
    with watching(script, "script", "--session", "one", "--json", "--after", "0") as (process, _):
        script("send", "script", "[[say in two]]", "--session", "two", "--wait")
        script("send", "script", "[[say in one]]", "--session", "one", "--wait")
        assert process.stdout is not None
        found = []
        for line in process.stdout:
            found.append(json.loads(line))
            if found[-1]["type"] == "turn.finished":
                break
    assert {event["session"] for event in found} == {None, "host:one"}
    assert "in two" not in json.dumps(found)


def test_all_instances_are_told_apart(script: Program) -> None:
    script("instance", "start", "--name", "echo", "--sandbox", "process", "--model", "scripted/echo")
    with watching(script, "--after", "0") as (_, until):
        script("send", "script", "[[say from one]]", "--wait")
        script("send", "echo", "from another", "--wait")
        shown = until("echo: from another")
    assert "── script host:default ──\n✉" in shown
    assert "── echo host:default ──\n✉" in shown


def test_it_goes_on_when_the_daemon_dies_or_is_restarted(script: Program) -> None:
    pid = script.json("status")["pid"]
    with watching(script, "script", "--after", "0") as (process, until):
        script("send", "script", '[[say one]] [[call bash {"command": "sleep 3; echo slept"}]] [[say finished]]')
        until("bash")
        _kill(pid)
        shown = until("\nfinished\n")
        assert "cut short, and continued" in shown
        script("down")
        script("send", "script", "[[say another day]]", "--wait")
        until("another day")
        script("instance", "delete", "script")
        until("deleted")
        assert process.wait(30) == 0
        assert process.stderr is not None
        told = process.stderr.read().decode()
    assert "the daemon died; it is started again" in told
    assert "waiting for it to be started again" in told


def test_at_a_terminal_ctrl_c_leaves(script: Program) -> None:
    with Terminal(script, "watch", "script") as terminal:
        terminal.expect("Ctrl-C leaves")
        script("send", "script", EDIT, "--wait")
        terminal.expect("all done")
        terminal.expect("⚒ 2")
        terminal.type("\x03")
        assert terminal.wait() == 130


def test_at_a_terminal_there_are_colours_and_lines_fit(script: Program) -> None:
    narrow = {"TERM": "xterm", "NO_COLOR": "", "COLUMNS": "40"}
    with Terminal(script, "watch", "script", "--after", "0", environment=narrow) as terminal:
        terminal.expect("Ctrl-C leaves")
        script("send", "script", '[[call bash {"command": "seq 1 100 | tr \'\\n\' x; false"}]]', "--wait")
        shown = terminal.expect("⚒ 1")
    assert "\x1b[31m✗ \x1b[0m" in shown
    assert "\x1b[1mbash\x1b[0m" in shown
    failed = next(line for line in shown.splitlines() if "✗" in line)
    assert "…" in failed


def test_an_unknown_instance_is_told(script: Program) -> None:
    assert "did you mean `script`?" in script("watch", "scrip", code=3).stderr


def test_what_was_used_is_summed_up(script: Program) -> None:
    script("send", "script", EDIT, "--wait")
    script("send", "script", "[[say hi]]", "--session", "two", "--wait")
    used = script.json("stats", "script")
    assert (used["turns"], used["tools"], used["tool_errors"]) == (2, 2, 1)
    assert {entry["session"] for entry in used["sessions"]} == {"host:default", "host:two"}
    shown = script("stats", "script").stdout
    assert "host:two" in shown
    assert "total" in shown
    assert "script" in script("stats").stdout
    turns = script.lines("stats", "script", "--turns", "5")
    assert [(turn["session"], turn["tools"], turn["outcome"]) for turn in turns] == [
        ("host:default", 2, "completed"),
        ("host:two", 0, "completed"),
    ]
    assert "completed" in script("stats", "script", "--session", "two", "--turns", "1").stdout
    assert "need a HANDLE" in script("stats", "--turns", "1", code=2).stderr


def test_sessions_are_listed_and_forked(script: Program) -> None:
    script("send", "script", "[[say remember me]]", "--wait")
    [entry] = script.lines("session", "list", "script")
    assert (entry["session"], entry["turns"], entry["model"]) == ("host:default", 1, "scripted/directives")
    assert "host:default" in script("session", "list", "script").stdout
    assert "host:copy" in script("session", "fork", "script", "copy").stdout
    assert script.complete("aegis chat script --session ", 4) == ["copy", "default"]
    assert {entry["session"] for entry in script.lines("session", "list", "script")} == {"host:default", "host:copy"}
    assert "remember me" in script("send", "script", "[[recall]]", "--session", "copy", "--wait").stdout
    assert "give --model" in script("session", "set", "script", code=2).stderr
    changed = script.json("session", "set", "script", "--model", "scripted/echo")
    assert changed["model"] == "scripted/echo"
    assert "echo: [[say x]]" in script("send", "script", "[[say x]]", "--wait").stdout
