"""Starting, listing, changing and deleting instances, and trust in a project."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Program
from tests.cli.terminal import Terminal

pytestmark = pytest.mark.slow

Start = Callable[..., Any]


def test_start_says_what_the_instance_got(daemon: Program, tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    done = daemon("instance", "start", "--name", "a", "--sandbox", "process", "--workspace", "w")
    assert "started a" in done.stdout
    assert f"{tmp_path.resolve()}/w (read and write)" in done.stdout
    assert "scripted/echo" in done.stdout
    assert "warning: the sandbox `process` has no boundary" in done.stderr
    assert "warning: scripted/echo is a script, not a model" in done.stderr
    assert "hint: `aegis chat a`" in done.stderr


def test_what_has_no_effect_on_an_instance_that_is_there_is_told(daemon: Program, start: Start) -> None:
    start("a")
    daemon("instance", "disable", "a")
    again = daemon("instance", "start", "--name", "a", "--model", "scripted/directives", "--memory", "1G")
    assert "started again a" in again.stdout
    assert "`a` was started again as it was made; --memory, --model had no effect" in again.stderr
    daemon("instance", "disable", "a")
    assert "had no effect" not in daemon("instance", "start", "--name", "a", "--model", "scripted/echo", "--sandbox", "process").stderr


def test_a_life_from_start_to_delete(daemon: Program, start: Start) -> None:
    item = start("a", "--env", "A=1", "--system", "be brief")
    assert (item["handle"], item["state"], item["env_keys"]) == ("a", "running", ["A"])
    assert [each["handle"] for each in daemon.lines("ls")] == ["a"]
    assert daemon.lines("ls") == daemon.lines("instance", "list")
    assert daemon.lines("instance", "list", "--state", "stopped") == []
    assert daemon.json("instance", "info", "a")["id"] == item["id"]
    assert item["id"] in daemon("instance", "info", "a").stdout
    assert daemon.json("instance", "pause", "a")["state"] == "paused"
    assert "paused" in daemon("ls").stdout
    assert daemon.json("instance", "resume", "a")["state"] == "running"
    assert daemon.json("instance", "restart", "a")["id"] == item["id"]
    assert daemon.json("instance", "disable", "a")["enabled"] is False
    again = daemon("instance", "start", "--name", "a")
    assert "started again a" in again.stdout
    assert daemon.json("instance", "info", "a")["id"] == item["id"]
    assert daemon.json("instance", "delete", "a") == {"handle": "a", "status": "deleted", "also": []}
    assert daemon.lines("ls") == []


def test_several_at_once_go_on_after_a_failure(daemon: Program, start: Start) -> None:
    start("a")
    start("b")
    done = daemon("instance", "delete", "a", "nobody", "b", code=3)
    assert done.stdout == "deleted a\ndeleted b\n"
    assert "no instance `nobody`" in done.stderr


def test_what_does_not_exist_is_exit_3_with_the_nearest(daemon: Program, start: Start) -> None:
    start("lucid-knuth")
    done = daemon("instance", "info", "lucid-knut", code=3)
    assert "did you mean `lucid-knuth`" in done.stderr
    assert json.loads(daemon("instance", "info", "lucid-knut", "--json", code=3).stderr)["kind"] == "not_found"


def test_ps_shows_processes(daemon: Program, start: Start) -> None:
    start("a")
    [item] = daemon.lines("ps")
    assert item["processes"] >= 1
    assert "a " in daemon("ps").stdout


def test_handles_are_completed_from_a_running_daemon(daemon: Program, start: Start) -> None:
    start("alpha")
    start("beta")
    assert daemon.complete("aegis exec al", 2) == ["alpha"]


def test_an_untrusted_project_is_refused_until_a_person_agrees(daemon: Program, tmp_path: Path) -> None:
    (tmp_path / ".aegis.yaml").write_text("agents:\n  coder:\n    sandbox: process\n    model: scripted/echo\n")
    inside = tmp_path / "deep" / "inside"
    inside.mkdir(parents=True)
    daemon.cwd = inside
    refused = daemon("instance", "start", "coder", code=4)
    assert "are not trusted" in refused.stderr
    assert "aegis config trust" in refused.stderr
    assert "--yes" in daemon("config", "trust", code=4).stderr
    assert daemon.json("config", "trust", "--yes")["trusted"] is True
    assert daemon.json("instance", "start", "coder")["agent"] == "coder"
    assert "coder" in daemon("agent", "list").stdout
    assert daemon.json("agent", "show", "coder")["model"] == "scripted/echo"
    (tmp_path / ".aegis.yaml").write_text("agents:\n  coder:\n    sandbox: process\n    model: scripted/demo\n")
    assert "are not trusted" in daemon("instance", "start", "coder", code=4).stderr


def test_a_person_at_a_terminal_is_asked_to_trust(daemon: Program, tmp_path: Path) -> None:
    (tmp_path / ".aegis.yaml").write_text("agents:\n  coder:\n    sandbox: process\n    model: scripted/echo\n")
    with Terminal(daemon, "instance", "start", "coder") as terminal:
        terminal.expect("Trust these declarations? [y/N]")
        terminal.type("n\n")
        assert terminal.wait() == 4
    with Terminal(daemon, "instance", "start", "coder") as terminal:
        shown = terminal.expect("[y/N]")
        assert "coder" in shown
        terminal.type("y\n")
        terminal.expect("started")
        assert terminal.wait() == 0


def test_settings_are_shown_and_explained(daemon: Program) -> None:
    values = {row["key"]: row["value"] for row in daemon.json("config", "show")["values"]}
    assert values["default_agent"]
    told = daemon.json("config", "explain", "default_agent")
    assert told["value"] == values["default_agent"]
    assert "default_agent" in daemon("config", "explain", "default_agent").stdout
    assert "did you mean" in daemon("config", "explain", "defalt_agent", code=3).stderr


def test_secrets_are_taken_from_a_pipe_and_never_shown(daemon: Program) -> None:
    assert "stored KEY" in daemon("secret", "set", "KEY", stdin=b"hidden\n").stdout
    warned = daemon("secret", "set", "OTHER", "hidden")
    assert "visible to other users" in warned.stderr
    assert [item["name"] for item in daemon.lines("secret", "list")] == ["KEY", "OTHER"]
    assert "hidden" not in daemon("secret", "list").stdout + daemon("secret", "list", "--json").stdout
    assert "is empty" in daemon("secret", "set", "EMPTY", code=2).stderr
    assert daemon("secret", "delete", "KEY", "OTHER").stdout == "deleted KEY\ndeleted OTHER\n"
    daemon("secret", "delete", "KEY", code=3)


def test_a_secret_that_is_typed_is_not_shown(daemon: Program) -> None:
    with Terminal(daemon, "secret", "set", "KEY") as terminal:
        terminal.expect("value of KEY: ")
        terminal.type("typed-hidden\n")
        shown = terminal.expect("stored")
        assert terminal.wait() == 0
    assert "typed-hidden" not in shown


def test_each_effect_has_a_record(daemon: Program, start: Start) -> None:
    start("a")
    assert "instance.create" in {record["action"] for record in daemon.lines("audit", "list")}
    assert "instance.create" in daemon("audit", "list").stdout


def test_the_working_directory_is_where_paths_are_meant(daemon: Program, tmp_path: Path, start: Start) -> None:
    (tmp_path / "data").mkdir()
    item = start("a", "--mount", "data:/data")
    assert item["mounts"] == [{"source": os.path.realpath(tmp_path / "data"), "target": "/data", "writable": False}]


def test_the_first_instance_of_an_agent_has_its_name(daemon: Program) -> None:
    daemon("agent", "add", "mine", "--model", "scripted/echo", "--user")
    found = [daemon.json("instance", "start", "mine", "--sandbox", "process")["handle"] for _ in range(2)]
    assert found[0] == "mine"
    assert found[1] != "mine"
    assert daemon.json("instance", "start", "agent", "--sandbox", "process", "--model", "scripted/echo")["handle"] != "agent"
