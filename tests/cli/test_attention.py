"""The verbs about what a person is told, and what came back with the daemon, as a person sees them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.cli.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import Program


def test_what_was_told_and_how_it_would_be(aegis: Program, tmp_path: Path) -> None:
    hook = tmp_path / "hook"
    hook.write_text("#!/bin/sh\necho no bus >&2; exit 1\n")
    hook.chmod(0o755)
    (aegis.home / "config.yaml").write_text(f"notify: {{command: [{hook}], on: [needs-you, done]}}\n")
    assert "nothing needed you yet" in aegis("attention", "list").stdout
    done = aegis("attention", "test", "failed", code=1)
    assert "✗ your command  `hook` ended with 1: no bus" in done.stdout
    assert "- the desktop  off; `notify.desktop`" in done.stdout
    assert "`notify.on` leaves out `failed`" in done.stderr
    assert "did you mean `failed`?" in aegis("attention", "test", "faild", code=2).stderr
    hook.write_text("#!/bin/sh\nexit 0\n")
    told = aegis.json("attention", "test")
    assert told["channels"]["command"] == {"on": True, "ok": True, "detail": ""}
    aegis("instance", "start", "--name", "a", "--sandbox", "process", "--model", "scripted/echo")
    aegis("send", "a", "hello", "--wait")
    with Terminal(aegis, "watch", "--after", "0") as terminal:
        terminal.expect("\a")
        terminal.expect("a is done")
    (one,) = aegis.lines("attention", "list")
    assert (one["kind"], one["handle"], one["state"]) == ("done", "a", "told")
    assert "a is done" in aegis("attention", "list").stdout
    assert "is done" not in aegis("transcript", "a").stdout


def test_up_says_what_came_back_and_clean_puts_it_aside(start: Callable[..., Any], daemon: Program, tmp_path: Path) -> None:
    space = tmp_path / "space"
    space.mkdir()
    start("a")
    start("b", "--workspace", str(space))
    daemon("send", "a", "hello", "--wait")
    daemon("down")
    space.rmdir()
    shown = daemon("up").stdout
    assert "2 instances came back, asleep until needed" in shown
    rows = [line.split() for line in shown.splitlines()]
    assert ["a", "agent", "asleep", "1", "-"] in rows
    assert ["b", "agent", "cannot", "start", "0", "-"] in rows
    assert f"✗ b  its workspace {space} is gone" in shown
    assert "came back" not in daemon("up").stdout
    assert "1 instance cannot be started" in daemon("up").stderr
    assert "idle (cannot start)" in daemon("ls").stdout
    assert f"its workspace {space} is gone" in daemon("instance", "info", "b").stdout
    assert "✗ b  its workspace" in daemon("doctor", code=None).stdout
    assert "already runs" in daemon("up", "--clean", code=1).stderr
    daemon("down")
    with Terminal(daemon, "up", "--clean") as terminal:
        terminal.expect("Go on?")
        terminal.type("n\n")
        terminal.expect("nothing was started")
    daemon("status", code=7)
    shown = daemon("up", "--clean").stdout
    assert "2 instances put aside; nothing was deleted" in shown
    assert [line.split()[3] for line in daemon("ls").stdout.splitlines()[1:]] == ["disabled", "disabled"]
    daemon("instance", "start", "--name", "a")
    assert "hello" in daemon("transcript", "a").stdout
    daemon("send", "a", "again", "--wait")
