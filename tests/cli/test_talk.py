"""Messages and conversations, from a pipe and at a terminal."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from tests.cli.conftest import Program
from tests.cli.terminal import Terminal

pytestmark = pytest.mark.slow

Start = Callable[..., Any]
SLOW = '[[say working]] [[call bash {"command": "sleep 1000"}]]'


@pytest.fixture
def echo(daemon: Program, start: Start) -> Program:
    """The program with an agent `echo` that repeats."""
    start("echo")
    return daemon


@pytest.fixture
def script(daemon: Program) -> Program:
    """The program with an agent `script` that does what a message spells out."""
    daemon("instance", "start", "--name", "script", "--sandbox", "process", "--model", "scripted/directives")
    return daemon


def test_an_answer_can_be_waited_for(echo: Program) -> None:
    done = echo("send", "echo", "hello there", "--wait")
    assert "hello there" in done.stdout
    told = echo.json("send", "echo", "-", "--wait", stdin=b"from a pipe")
    assert told["outcome"] == "completed"
    assert "from a pipe" in told["text"]


def test_a_message_is_accepted_once(echo: Program) -> None:
    first = echo.json("send", "echo", "once", "--msg-id", "mine")
    again = echo.json("send", "echo", "once", "--msg-id", "mine")
    assert (first["duplicate"], again["duplicate"], again["id"]) == (False, True, first["id"])
    assert "already accepted" in echo("send", "echo", "once", "--msg-id", "mine").stdout


def test_what_came_back_is_read_by_number(echo: Program) -> None:
    seq = echo.json("send", "echo", "hello")["ingress_seq"]
    page = echo.json("read", "echo", "--after", str(seq), "--wait", "30", "--types", "assistant.done")
    [frame] = page["frames"]
    assert "hello" in frame["payload"]["text"]
    assert page["next_seq"] == frame["seq"]
    assert "assistant.done" in echo("read", "echo", "--after", str(seq)).stdout
    assert "nothing after 999999" in echo("read", "echo", "--after", "999999").stdout


def test_sessions_are_apart(echo: Program) -> None:
    echo("send", "echo", "in one", "--session", "one", "--wait")
    echo("send", "echo", "in two", "--session", "other:two", "--wait")
    assert "in one" in echo("transcript", "echo", "-s", "host:one").stdout
    assert "in one" not in echo("transcript", "echo", "-s", "other:two").stdout
    assert "nothing was said" in echo("transcript", "echo").stdout


def test_mail_shows_how_far_each_came(echo: Program) -> None:
    ident = echo.json("send", "echo", "hello", "--wait")["message_id"]
    [item] = echo.lines("inbox", "list", "echo")
    assert (item["id"], item["state"]) == (ident, "acknowledged")
    assert "acknowledged" in echo("inbox", "list", "echo").stdout
    assert "acknowledged +" in echo("send", "echo", "again", "--wait").stderr


def test_a_message_may_not_be_waited_for_too_long(script: Program) -> None:
    done = script("send", "script", SLOW, "--wait", "--timeout", "0.2", code=6)
    assert "has not answered within 0.2 s" in done.stderr
    assert "aegis read script" in done.stderr


def test_a_conversation_from_a_pipe(echo: Program) -> None:
    done = echo("chat", "echo", stdin="one\n\ntwo ü\n".encode())
    assert "one" in done.stdout
    assert "two ü" in done.stdout
    assert "↑" in done.stdout
    assert done.stderr == ""


def test_a_conversation_from_a_pipe_as_json(script: Program) -> None:
    done = script("chat", "script", "--json", stdin=b"[[say one]]\n[[error 400]]\n", code=1)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["data"]["outcome"] for event in found if event["type"] == "turn.finished"] == ["completed", "failed"]
    assert "one" in [event["data"]["text"] for event in found if event["type"] == "turn.text"]
    assert json.loads(done.stderr)["kind"] == "failed"


def test_a_conversation_at_a_terminal(echo: Program) -> None:
    with Terminal(echo, "chat", "echo") as terminal:
        terminal.expect("echo> ")
        terminal.type("hello\n")
        terminal.expect("echo: hello")
        terminal.expect("echo> ")
        terminal.type("\x03")
        terminal.expect("leaves")
        terminal.expect("echo> ")
        terminal.type("\x03")
        assert terminal.wait() == 130
    with Terminal(echo, "chat", "echo") as terminal:
        terminal.expect("echo> ")
        terminal.type("\x04")
        assert terminal.wait() == 0


def test_ctrl_c_cuts_the_turn_and_the_conversation_goes_on(script: Program) -> None:
    with Terminal(script, "chat", "script") as terminal:
        terminal.expect("script> ")
        terminal.type(f"{SLOW}\n")
        terminal.expect("⌬ bash")
        terminal.type("\x03")
        terminal.expect("cut")
        terminal.expect("script> ")
        terminal.type("[[say back again]]\n")
        terminal.expect("back again")
        terminal.expect("script> ")
        terminal.type("\x04")
        assert terminal.wait() == 0
    outcomes = [e["data"]["outcome"] for e in script.lines("events") if e["type"] == "turn.finished"]
    assert outcomes == ["cancelled", "completed"]


def _kill(program: Program) -> None:
    """SIGKILL to the daemon; returns when it is gone."""
    pid = program.json("status")["pid"]
    ended = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    assert select.select([ended], [], [], 30)[0]
    os.close(ended)


def test_waiting_survives_the_death_of_the_daemon(script: Program) -> None:
    process = script.popen("send", "script", "[[hang 2]] [[say after all]]", "--wait", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    events = script.popen("events", "-f", "--after", "0", "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert events.stdout is not None
    for line in events.stdout:
        if json.loads(line)["type"] == "turn.started":
            break
    _kill(script)
    out, err = process.communicate(timeout=45)
    assert (process.returncode, out) == (0, b"after all\n"), err
    assert b"warning: the daemon died; it is started again" in err
    _, err = events.communicate(timeout=45)
    assert events.returncode == 7
    assert json.loads(err)["hint"].startswith("`aegis events -f --after ")


def test_a_conversation_survives_the_death_of_the_daemon(script: Program) -> None:
    with Terminal(script, "chat", "script") as terminal:
        terminal.expect("script> ")
        terminal.type('[[say one]] [[call bash {"command": "sleep 2; echo slept"}]] [[say finished]]\n')
        terminal.expect("⌬ bash")
        _kill(script)
        terminal.expect("the daemon died; it is started again")
        terminal.expect("cut short, and continued")
        terminal.expect("finished")
        terminal.expect("script> ")
        _kill(script)
        terminal.type("[[say back again]]\n")
        terminal.expect("]]")  # the terminal's echo of what was typed
        terminal.expect("back again")
        terminal.expect("script> ")


def test_a_command_ends_with_the_daemon_and_says_so(script: Program) -> None:
    process = script.popen("exec", "script", "--", "sh", "-c", "echo ready; sleep 1000", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    _kill(script)
    _, err = process.communicate(timeout=45)
    assert process.returncode == 7
    assert b"the daemon ended while `sh` ran, and the command with it" in err


def test_events_are_listed_and_followed(echo: Program) -> None:
    echo("send", "echo", "hello", "--wait")
    found = echo.lines("events")
    assert [event["seq"] for event in found] == sorted({event["seq"] for event in found})
    assert {"instance.created", "mail.accepted", "turn.finished"} <= {event["type"] for event in found}
    middle = found[len(found) // 2]["seq"]
    assert [event["seq"] for event in echo.lines("events", "--after", str(middle))] == [e["seq"] for e in found if e["seq"] > middle]
    assert {event["instance"] for event in echo.lines("events", "--instance", "echo")} == {found[0]["instance"]}
    assert "turn.finished" in echo("events").stdout

    process = echo.popen("events", "-f", "--after", str(found[-1]["seq"]), "--json", stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        echo("send", "echo", "again")
        for line in process.stdout:
            if json.loads(line)["type"] == "turn.finished":
                break
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


def test_an_instance_without_an_agent_takes_no_messages(daemon: Program) -> None:
    daemon("instance", "start", "--name", "p", "--sandbox", "process", "--", "sleep", "1000")
    assert "not an agent" in daemon("send", "p", "hello", code=1).stderr
