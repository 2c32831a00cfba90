"""Wrong command lines and missing daemons: the exit code, the one line, the hint. No daemon is started here."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from tests.cli.conftest import Program

from aegis.core.version import __version__


def test_the_version(aegis: Program) -> None:
    for flag in ("--version", "-V"):
        assert aegis(flag).stdout == f"aegis {__version__}\n"


def test_nothing_said_is_help(aegis: Program) -> None:
    assert aegis().stdout == aegis("--help").stdout
    assert "aegis instance" in aegis("instance").stdout


@pytest.mark.parametrize(
    ("args", "message", "hint"),
    [
        (("statsu",), "error: `aegis` has no verb `statsu`", "hint: did you mean `status`?"),
        (("instance", "lst"), "error: `aegis instance` has no verb `lst`", "hint: did you mean `list`?"),
        (("ls", "--jsn"), "error: no option `--jsn` in `aegis ls`", "hint: did you mean `--json`?"),
        (("instance", "start", "--work", "."), "error: no option `--work` in `aegis instance start`", "hint: did you mean `--workspace`?"),
        (("instance", "start", "--pids", "1"), "1 is not in the range x>=8", "hint: see"),
        (("ls", "--state", "runing"), "there is no state `runing`; did you mean `running`?", "hint: see `aegis ls --help`"),
        (
            ("read", "x", "--types", "assistent.done"),
            "there is no frame type `assistent.done`; did you mean `assistant.done`?",
            "hint: see",
        ),
        (("completion", "tcsh"), "there is no script for the shell `tcsh`", "hint: see"),
        (("demo", "--model", "mine"), "`mine` is not `provider/model`", "add --base-url URL"),
        (("demo", "--model", "lab/mine"), "the demo knows no model provider `lab`", "add --base-url URL"),
        (("demo", "--base-url", "http://127.0.0.1:1"), "--base-url needs a --model", "hint: name a model"),
        (("exec", "x", "ls", "-l"), "a command comes after `--`", "hint: see `aegis exec --help`"),
        (("exec", "x"), "error: no command: write it after `--`", "hint: see `aegis exec --help`"),
        (("run", "--memory", "much", "--", "true"), "'much' is not a size", "hint: see `aegis run --help`"),
        (("instance", "start", "--env", "x"), "'x' is not `KEY=VALUE`", "hint: see `aegis instance start --help`"),
        (("instance", "start", "--mount", "/nowhere/at/all"), "there is no /nowhere/at/all to mount", "hint: see"),
        (("send", "x", "hi", "--session", "a b"), "'a b' is not a session", "hint: see"),
        (("send", "x", "hi", "--timeout", "3"), "error: --timeout is for --wait", "hint: see `aegis send --help`"),
        (("instance", "delete"), "missing argument 'HANDLE...'", "hint: see `aegis instance delete --help`"),
    ],
)
def test_a_wrong_command_line_is_exit_2_with_the_nearest_right_one(aegis: Program, args: tuple[str, ...], message: str, hint: str) -> None:
    done = aegis(*args, code=2)
    assert message in done.stderr
    assert hint in done.stderr
    assert done.stdout == ""
    assert not list(aegis.home.iterdir())


def test_a_wrong_command_line_is_json_when_json_was_asked_for(aegis: Program) -> None:
    done = aegis("ls", "--json", "--jsn", code=2)
    assert json.loads(done.stderr)["kind"] == "usage"


def test_no_daemon_is_exit_7_for_status_and_none_is_started(aegis: Program) -> None:
    done = aegis("status", code=7)
    assert "does not run" in done.stdout
    assert "aegis up" in done.stderr
    assert json.loads(aegis("status", "--json", code=7).stdout) == {"status": "stopped", "home": str(aegis.home)}
    assert not list(aegis.home.iterdir())


def test_down_without_a_daemon_is_done_already(aegis: Program) -> None:
    assert "does not run" in aegis("down").stdout
    assert aegis.json("down") == {"status": "stopped", "stopped": False}


def test_a_home_too_long_for_a_socket_is_told_with_its_length(aegis: Program) -> None:
    aegis.environment["AEGIS_HOME"] = f"/tmp/{'x' * 120}"
    done = aegis("ls", code=2)
    assert "is 137 bytes long" in done.stderr
    assert "set AEGIS_HOME" in done.stderr


def test_a_home_that_cannot_be_made_is_told(aegis: Program, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    aegis.environment["AEGIS_HOME"] = str(tmp_path / "file" / "home")
    assert "cannot write to the home" in aegis("ls", code=1).stderr


def test_a_reader_that_leaves_is_no_failure(aegis: Program) -> None:
    process = aegis.popen("--help", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait() == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_printed_without_a_daemon(aegis: Program, shell: str) -> None:
    assert "_AEGIS_COMPLETE" in aegis("completion", shell).stdout
    assert not list(aegis.home.iterdir())


def test_completion_knows_verbs_and_starts_no_daemon(aegis: Program) -> None:
    assert aegis.complete("aegis st", 1) == ["stats", "status"]
    assert aegis.complete("aegis instance re", 2) == ["resume", "restart"]
    assert "--memory" in aegis.complete("aegis run --m", 2)
    assert aegis.complete("aegis exec ", 2) == []
    assert not list(aegis.home.iterdir())
