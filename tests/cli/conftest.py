"""The program as a person runs it: a process of its own, with a home of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SECONDS = 45.0


class Program:
    """Runs `aegis` with one home, in one directory."""

    def __init__(self, home: Path, cwd: Path) -> None:
        self.home = home
        self.cwd = cwd
        self.environment = {**os.environ, "AEGIS_HOME": str(home), "COLUMNS": "80", "NO_COLOR": "1"}

    def argv(self, *args: str) -> list[str]:
        """The command line."""
        return [sys.executable, "-m", "aegis", *args]

    def __call__(self, *args: str, stdin: bytes | None = None, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run it to its end; checks the exit code unless `code` is None."""
        done = subprocess.run(
            self.argv(*args), input=stdin or b"", capture_output=True, timeout=SECONDS, cwd=self.cwd, env=self.environment, check=False
        )
        text = subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())
        assert code is None or text.returncode == code, f"exit {text.returncode}\n{text.stdout}\n{text.stderr}"
        return text

    def json(self, *args: str, stdin: bytes | None = None) -> Any:
        """The one JSON object that it answers."""
        return json.loads(self(*args, "--json", stdin=stdin).stdout)

    def lines(self, *args: str) -> list[Any]:
        """The JSON objects that it answers, one on each line."""
        return [json.loads(line) for line in self(*args, "--json").stdout.splitlines()]

    def complete(self, words: str, index: int) -> list[str]:
        """What a shell is told when a person asks how the word at `index` may go on."""
        asked = {"_AEGIS_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(index)}
        done = subprocess.run(self.argv(), capture_output=True, timeout=SECONDS, cwd=self.cwd, env=self.environment | asked, check=True)
        return [line.partition(",")[2] for line in done.stdout.decode().split()]

    def popen(self, *args: str, **given: Any) -> subprocess.Popen[bytes]:
        """Start it and do not wait."""
        return subprocess.Popen(self.argv(*args), cwd=self.cwd, env=self.environment, **given)


@pytest.fixture
def aegis(tmp_path: Path) -> Iterator[Program]:
    """The program with an empty home; a daemon that it started ends with the test."""
    home = Path(tempfile.mkdtemp(prefix="aegis-"))
    program = Program(home, tmp_path)
    yield program
    if (home / "aegisd.sock").exists():
        program("down", code=None)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def daemon(aegis: Program) -> Program:
    """The same, with a daemon that runs."""
    aegis("up")
    return aegis


@pytest.fixture
def start(daemon: Program) -> Callable[..., Any]:
    """Start an instance that needs nothing of the machine, and return it."""

    def start(name: str, *more: str) -> Any:
        return daemon.json("instance", "start", "--name", name, "--sandbox", "process", "--model", "scripted/echo", *more)

    return start
