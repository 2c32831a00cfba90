"""The mailbox at the command line: dead letters, messages that are kept, work that is handed over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import Program


@pytest.fixture
def echo(daemon: Program, start: Callable[..., Any]) -> Program:
    """The program with an agent `echo` that repeats."""
    start("echo")
    return daemon


def test_a_mailbox(echo: Program) -> None:
    assert "no dead letters" in echo("inbox", "list", "--dead").stdout
    echo("instance", "start", "agent", "--name", "second", "--model", "scripted/echo", "--sandbox", "process")
    told = echo.json("handoff", "echo", "mend it", "--report-to", "second", "--wait")
    assert (told["text"], told["mail"]["state"]) == ("echo: mend it", "acknowledged")
    frames = echo.json("read", "second", "--wait", "30", "--types", "assistant.done")["frames"]
    assert f"task#{told['message_id']} · ok" in frames[0]["payload"]["text"]
    assert "agent:echo (ok)" in echo("inbox", "list").stdout
    echo("instance", "disable", "echo")
    assert "disabled" in echo("send", "echo", "x", code=1).stderr
    kept = echo.json("send", "echo", "kept", "--hold", "--expires", "2h")["id"]
    shown = echo("inbox", "show", kept[-6:]).stdout
    assert "expires" in shown
    assert shown.endswith("kept\n")
    assert "accepted" in echo("inbox", "list", "echo").stdout
    assert "dropped" in echo("inbox", "drop", kept[-6:]).stdout
    [dead] = echo.lines("inbox", "list", "--dead")
    assert (dead["id"], dead["reason"]) == (kept, "dropped")
    assert "is disabled" in echo("inbox", "retry", kept, code=1).stderr
    assert "waits again" in echo("inbox", "retry", kept, "--hold").stdout
    assert echo.json("inbox", "show", kept)["position"] == 0
    assert "does not wait" in echo("inbox", "drop", told["message_id"], code=1).stderr


def test_bad_words(echo: Program) -> None:
    for words, code in (
        (("send", "echo", "x", "--expires", "0s"), 2),
        (("send", "echo", "x", "--expires", "soon"), 2),
        (("send", "echo", "x", "--timeout", "3"), 2),
        (("handoff", "nobody", "x"), 3),
        (("handoff", "echo", "x", "--report-to", "echo"), 2),
        (("handoff", "echo", "x", "--report-to", "nobody"), 3),
        (("inbox", "show", "msg_none"), 3),
        (("inbox", "retry", "zz"), 3),
        (("inbox", "list", "nobody"), 3),
    ):
        assert echo(*words, code=code).stderr.startswith("error: "), words
