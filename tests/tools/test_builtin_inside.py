"""The built-in tools through a running daemon, over MCP from inside and from the scripted agent: what a sandbox does to them meanwhile."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.conftest import RealDaemon

from aegis.core.errors import AegisError
from aegis.services.agents.bearers import program_bearer_of


class Inside:
    """An instance without a boundary, whose MCP server a test reaches as its programs do."""

    def __init__(self, daemon: RealDaemon, handle: str, workspace: Path, agent: str = "agent") -> None:
        self.daemon, self.handle, self.workspace = daemon, handle, workspace
        daemon.start(handle, workspace=str(workspace), agent=agent)
        with contextlib.closing(sqlite3.connect(f"file:{daemon.home}/aegis.db?mode=ro", uri=True)) as db:
            (token,) = db.execute("SELECT token FROM instances WHERE handle = ?", (handle,)).fetchone()
        self.token = program_bearer_of(str(token), "host:default")
        self.url = urlsplit(self.exec("echo $AEGIS_MCP_URL"))

    def exec(self, script: str) -> str:
        import base64

        out = b""
        with contextlib.closing(self.daemon.client.instances.exec(self.handle, ["/bin/sh", "-c", script])) as stream:
            for item in stream:
                out += base64.b64decode(item.get("d", "")) if item.get("s") == 1 else b""
        return out.decode().strip()

    def open(self, name: str, arguments: dict[str, Any]) -> http.client.HTTPConnection:
        """A connection on which a call was made; its answer is not read yet."""
        connection = http.client.HTTPConnection(self.url.hostname or "", self.url.port, timeout=60)
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name, "arguments": arguments}}
        headers = {"content-type": "application/json", "authorization": f"Bearer {self.token}"}
        connection.request("POST", self.url.path, json.dumps(message).encode(), headers)
        return connection

    def __call__(self, name: str, **arguments: Any) -> tuple[bool, str]:
        """Whether a call went well, and its text."""
        with contextlib.closing(self.open(name, arguments)) as connection:
            result = json.loads(connection.getresponse().read())["result"]
        return not result["isError"], result["content"][0]["text"]


@pytest.fixture(scope="module")
def daemon() -> Iterator[RealDaemon]:
    folder = Path(tempfile.mkdtemp(prefix="aegis-"))
    home = folder / "home"
    home.mkdir(mode=0o700)
    (home / "config.yaml").write_text("defaults:\n  tools: [core, fs, cmd]\nagents:\n  hasty:\n    limits: {tool: 1s}\n")
    real = RealDaemon(home)
    real.up()
    yield real
    real.down()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def a(daemon: RealDaemon, tmp_path: Path) -> Iterator[Inside]:
    yield Inside(daemon, "a", tmp_path)
    with contextlib.suppress(AegisError):
        daemon.client.instances.delete("a")


def test_what_works_on_files_comes_back_when_it_was_killed(a: Inside) -> None:
    assert a("fs_write", path="f", content="x")[0]
    assert a("fs_read", path="f") == (True, "x")
    killed = a("cmd_run", command="for p in $(ps -o pid= --ppid $PPID); do [ $p = $$ ] || kill -9 $p; done; echo done")
    assert "done" in killed[1]
    assert a("fs_read", path="f") == (True, "x")


def test_a_search_that_does_not_end_is_ended(daemon: RealDaemon, tmp_path: Path) -> None:
    a = Inside(daemon, "hasty", tmp_path, "hasty")
    (a.workspace / "f").write_text("a" * 60 + "!\n")
    worked, text = a("fs_grep", pattern="^(a+)+$")
    assert (worked, "took more than 1 s" in text) == (False, True)
    assert a("fs_grep", pattern="^a")[0]


def test_a_call_that_nobody_waits_for_ends(a: Inside) -> None:
    """The command holds a pipe open; when the client goes away, the pipe ends, and with it all that the command started."""
    os.mkfifo(a.workspace / "pipe")
    connection = a.open("cmd_run", {"command": "exec 3> pipe; (sleep 600) & sleep 600", "timeout": 600})
    with (a.workspace / "pipe").open("rb") as pipe:  # opens when the command runs
        connection.close()
        assert pipe.read() == b""


def test_calls_side_by_side_do_not_mix(a: Inside) -> None:
    for n in range(8):
        (a.workspace / f"f{n}").write_text(f"{n}" * 2000)
    wrong: list[object] = []

    def work(n: int) -> None:
        for _ in range(10):
            if (got := a("fs_read", path=f"f{n}")) != (True, f"{n}" * 2000):
                wrong.append(got)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_they_work_on_after_a_pause_and_a_restart(a: Inside) -> None:
    assert a("fs_write", path="f", content="x")[0]
    a.daemon.client.instances.act("a", "pause")
    done = a.daemon.ask("a", '[[call fs_read {"path": "f"}]] [[lastresult]]')
    assert "x" in done["text"]
    a.daemon.client.instances.act("a", "restart")
    done = a.daemon.ask("a", '[[call fs_edit {"path": "f", "target_content": "x", "replacement_content": "y"}]] [[lastresult]]')
    assert "edited `f`" in done["text"]
    assert (a.workspace / "f").read_text() == "y"


def test_how_a_command_ends(a: Inside) -> None:
    assert a("cmd_run", command="echo out; echo err >&2; exit 3") == (True, "out\nerr\n[exit code: 3]")
    assert a("cmd_run", command=["printf", "%s", "$HOME; `id`"]) == (True, "$HOME; `id`\n[exit code: 0]")
    assert a("cmd_run", command=["no-such-program"])[1].endswith("[exit code: 127]")
    assert a("cmd_run", command="kill -9 $$")[1] == "[exit code: -9]"
    assert a("cmd_run", command="cat") == (True, "[exit code: 0]")
    assert a("cmd_run", command="sleep 60", timeout=0.1) == (False, "[ended after 0.1 s, with all its processes]")
    long = a("cmd_run", command="seq 1 100000", max_output=3000)[1]
    assert (long.startswith("1\n2\n"), long.endswith("100000\n[exit code: 0]"), len(long) < 3200) == (True, True, True)
    (a.workspace / "sub").mkdir()
    assert a("cmd_run", command="pwd", cwd="sub")[1].startswith(str(a.workspace / "sub"))
    assert "is not there" in a("cmd_run", command="pwd", cwd="none")[1]
