"""Programs in a sandbox: bytes come through as they are, exit codes are kept, an end here is an end there."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Program
from tests.cli.terminal import Terminal

pytestmark = pytest.mark.slow

Start = Callable[..., Any]


@pytest.fixture
def box(daemon: Program, start: Start) -> Program:
    """The program with an instance `box`."""
    start("box")
    return daemon


def test_streams_and_exit_codes_are_the_programs_own(box: Program) -> None:
    done = box("exec", "box", "--", "sh", "-c", "echo out; echo err >&2; exit 42", code=42)
    assert (done.stdout, done.stderr) == ("out\n", "err\n")
    box("exec", "box", "--", "sh", "-c", "kill -9 $$", code=137)


def test_as_json_it_is_text_and_the_exit_code(box: Program) -> None:
    done = box(
        "exec", "box", "--json", "--", "sh", "-c", "printf 'out \\303'; sleep 0; printf '\\251\\n\\377'; echo err >&2; exit 3", code=3
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert "".join(item["text"] for item in found if item.get("stream") == "stdout") == "out \u00e9\n\ufffd"
    assert [item["text"] for item in found if item.get("stream") == "stderr"] == ["err\n"]
    assert found[-1] == {"exit_code": 3}
    assert json.loads(box("run", "--json", "--sandbox", "process", "--", "true").stdout) == {"exit_code": 0}
    assert json.loads(box("exec", "nobody", "--json", "--", "true", code=3).stderr)["kind"] == "not_found"


def test_variables_and_directory_reach_it(box: Program, tmp_path: Path) -> None:
    done = box("exec", "box", "--env", "A=x y", "--cwd", "/", "--", "sh", "-c", 'echo "$A"; pwd')
    assert done.stdout == "x y\n/\n"


def test_a_program_that_is_not_there_is_told(box: Program) -> None:
    assert "nosuch" in box("exec", "box", "--", "nosuch", code=3).stderr


def test_input_is_forwarded_to_its_end(box: Program) -> None:
    data = os.urandom(300_000)
    argv = box.argv("exec", "box", "--", "cat")
    done = subprocess.run(argv, input=data, capture_output=True, env=box.environment, check=True, timeout=45)
    assert done.stdout == data


def test_a_program_that_leaves_its_input_unread_ends_all_the_same(box: Program) -> None:
    read, write = os.pipe()
    os.write(write, b"first\nsecond\n")
    process = box.popen("exec", "box", "--", "head", "-n1", stdin=read, stdout=subprocess.PIPE)
    os.close(read)
    out, _ = process.communicate(timeout=45)  # the pipe stays open: nothing ever ends the input
    os.close(write)
    assert (process.returncode, out) == (0, b"first\n")


@pytest.mark.parametrize("script", ["seq 1 100000", "head -c 1000000 /dev/zero | tr '\\0' x"], ids=["lines", "line"])
def test_much_output_comes_whole(box: Program, script: str) -> None:
    here = subprocess.run(["sh", "-c", script], capture_output=True, check=True).stdout
    there = box("exec", "box", "--", "sh", "-c", script).stdout.encode()
    assert hashlib.sha256(there).digest() == hashlib.sha256(here).digest()


def test_ctrl_c_ends_the_program(box: Program, tmp_path: Path) -> None:
    process = box.popen("exec", "box", "--", "sh", "-c", "echo $$; exec sleep 1000", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        inner = os.pidfd_open(int(process.stdout.readline()))  # `process` shares our pids
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    _gone(inner)


def test_a_reader_that_leaves_ends_the_program(box: Program) -> None:
    process = box.popen("exec", "box", "--", "sh", "-c", "echo $$; exec yes", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        inner = os.pidfd_open(int(process.stdout.readline()))
    assert process.wait(30) == 0
    _gone(inner)


def test_run_keeps_the_exit_code_and_leaves_nothing(daemon: Program) -> None:
    done = daemon("run", "--sandbox", "process", "--", "sh", "-c", "cat; exit 42", stdin=b"in", code=42)
    assert done.stdout == "in"
    assert daemon.lines("ls") == []


def test_run_leaves_nothing_when_it_fails_or_is_cut(daemon: Program) -> None:
    daemon("run", "--sandbox", "process", "--", "nosuch", code=3)
    daemon("run", "--sandbox", "nosuch", "--", "true", code=3)
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        process = daemon.popen(
            "run", "--sandbox", "process", "--", "sh", "-c", "echo up; sleep 1000", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        with process.stdout:
            assert process.stdout.readline() == b"up\n"
            process.send_signal(number)
            assert process.wait(30) == code
    assert daemon.lines("ls") == []


def test_run_does_not_touch_an_instance_that_has_its_name(box: Program) -> None:
    assert "already" in box("run", "--name", "box", "--", "true", code=1).stderr
    assert [item["handle"] for item in box.lines("ls")] == ["box"]


def test_typed_input_is_forwarded_when_asked(box: Program) -> None:
    with Terminal(box, "exec", "-i", "box", "--", "sh", "-c", "echo ready; read line; echo got $line") as terminal:
        terminal.expect("ready")
        terminal.type("typed\n")
        terminal.expect("got typed")
        assert terminal.wait() == 0


def test_a_plain_program_has_logs(daemon: Program) -> None:
    daemon("instance", "start", "--name", "p", "--sandbox", "process", "--", "sh", "-c", "echo one; echo two; exec sleep 1000")
    process = daemon.popen("logs", "-f", "p", stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            if line.strip().endswith(b"two"):
                break
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert [item["text"] for item in daemon.lines("logs", "p", "--tail", "1")] == ["two"]
    assert daemon.lines("logs", "p", "--since", "2000-01-01T00:00:00Z")


def _gone(pidfd: int) -> None:
    import select

    assert select.select([pidfd], [], [], 30)[0]
    os.close(pidfd)
