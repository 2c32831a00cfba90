"""The attacker's hands: a running daemon, sandboxes with a boundary, and programs of the attacker's choice inside them."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.conftest import RealDaemon

from aegis.core.errors import AegisError, ErrorKind

ROOT = os.geteuid() == 0
#: Runs Python inside, with nothing of the workspace on its path; the words after the code are its arguments.
_PYTHON = 'exec "$AEGIS_PYTHON" -I -c "$@"'


class Done(NamedTuple):
    """How a program inside ended."""

    code: int
    out: str
    err: str


class Box:
    """One instance of a running daemon, and what a program inside can do."""

    def __init__(self, daemon: RealDaemon, handle: str, workspace: Path) -> None:
        self.daemon = daemon
        self.client = daemon.client
        self.handle = handle
        self.workspace = workspace

    @property
    def id(self) -> str:
        return str(self.client.instances.get(self.handle)["id"])

    @property
    def state(self) -> Path:
        """Where the daemon keeps what is this instance's."""
        return self.daemon.home / "instances" / self.id

    @property
    def pid(self) -> int:
        """The guest's process on the host."""
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if self.id.encode() in _cmdline(pid) and "\t1\n" in Path(f"/proc/{pid}/status").read_text().partition("NSpid:")[2][:40]:
                    return int(pid)
        raise AssertionError(f"no guest of {self.handle}")

    def run(self, *argv: str, **options: Any) -> Done:
        """Run a program to its end."""
        out = {1: b"", 2: b""}
        try:
            with contextlib.closing(self.client.instances.exec(self.handle, list(argv), **options)) as stream:
                for item in stream:
                    if "s" in item:
                        out[item["s"]] += base64.b64decode(item["d"])
                    elif item.get("done") and item["exit_code"] is not None:
                        return Done(item["exit_code"], out[1].decode("utf-8", "replace"), out[2].decode("utf-8", "replace"))
                    elif item.get("done"):
                        return Done(126, "", str(item))
        except AegisError as error:
            if error.kind is ErrorKind.INTERNAL:
                raise
            return Done(126, "", error.message)
        raise AssertionError("the daemon ended the stream without a result")

    def sh(self, script: str, **options: Any) -> Done:
        """Run a shell script."""
        return self.run("/bin/sh", "-c", script, **options)

    def python(self, code: str, *args: str, **options: Any) -> Any:
        """Run Python; what it prints is JSON."""
        done = self.run("/bin/sh", "-c", _PYTHON, "sh", code, *args, **options)
        assert done.code == 0, done
        return json.loads(done.out)

    def attempts(self, code: str, *args: str) -> dict[str, str]:
        """Run lines of Python, each an attempt `name: statement`; says of each `done`, or the error's name."""
        lines = [line.strip() for line in code.strip().splitlines() if line.strip()]
        return dict(self.python(_ATTEMPTS, json.dumps(lines), *args))

    def ask(self, text: str, **options: Any) -> dict[str, Any]:
        """Let the agent do what the directives say."""
        return self.daemon.ask(self.handle, text, **options)

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Have the agent call one tool; returns the result block of its transcript."""
        self.ask(f"[[call {tool} {json.dumps(arguments)}]] [[say done]]")
        blocks = [b for m in self.client.mail.transcript(self.handle)["messages"] for b in m["content"]]
        return next(b for b in reversed(blocks) if b["type"] == "tool_result")


_ATTEMPTS = """
import ctypes, errno, json, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
def put(path, data):
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
found = {}
for line in json.loads(sys.argv[1]):
    name, _, statement = line.partition(": ")
    try:
        exec(statement)
        found[name] = "done"
    except OSError as error:
        found[name] = errno.errorcode.get(error.errno, type(error).__name__)
    except Exception as error:
        found[name] = type(error).__name__
print(json.dumps(found))
"""


def _cmdline(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.fixture(scope="module")
def house() -> Iterator[RealDaemon]:
    """One running daemon for all attacks of a file; skips where no sandbox with a boundary works."""
    folder = Path(tempfile.mkdtemp(prefix="aegis-"))
    real = RealDaemon(folder / "home")
    real.up()
    try:
        bwrap = next(s for s in real.client.doctor()["sandboxes"] if s["name"] == "bwrap")
        if not bwrap["ok"]:
            pytest.skip(f"bwrap: {bwrap['detail']}; {bwrap['mend']}")
        yield real
    finally:
        real.down()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def box(house: RealDaemon, tmp_path: Path) -> Iterator[Callable[..., Box]]:
    """Makes instances in `bwrap` with a workspace of their own; they are deleted with the test."""
    made: list[str] = []

    def make(handle: str = "a", workspace: Path | None = None, **spec: Any) -> Box:
        place = workspace or tmp_path / f"work-{handle}"
        place.mkdir(exist_ok=True)
        house.start(handle, **{"sandbox": "bwrap", "workspace": str(place), **spec})
        made.append(handle)
        return Box(house, handle, place)

    yield make
    for handle in made:
        with contextlib.suppress(Exception):
            house.client.instances.delete(handle)
