"""What Aegis adds to a foreign program: the time to its start, the time to its first word, and the daemon's share of many streams.

The floor of the times is the same pinned program, bare, driven by a few lines here against the same model server, outside of any
sandbox, in turns with Aegis, so that what else the machine does meets both. The floor of the streams is a process that only carries
the same pieces from one socket to another. Without the pinned programs (`./dev clis`) there are no rows.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from aegis.client import launch
from aegis.client.api import Client
from benchmarks.harness import Row, end, percentile, row

if TYPE_CHECKING:
    from collections.abc import Iterator

_PIECES = "[[slow 5 5]]"


def main(quick: bool) -> list[Row]:
    """All rows."""
    clis = Path(os.environ.get("AEGIS_TEST_CLIS", "tests/clis")).resolve() / "node_modules"
    claude = clis / "@anthropic-ai" / "claude-code-linux-x64" / "claude"
    if not claude.exists() or shutil.which("bwrap") is None:
        print("  the pinned programs or bubblewrap are not installed: ./dev clis", file=sys.stderr)
        return []
    from tests.kit.model_server import ModelServer

    folder = Path(tempfile.mkdtemp(prefix="aegis-bench-"))
    try:
        with ModelServer(limit=100_000) as server:
            return _claude(folder, claude, server.url, 2 if quick else 8, 5 if quick else 40) + _many(folder, claude, server.url, quick)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Bare:
    """Claude Code without Aegis."""

    def __init__(self, program: Path, folder: Path, url: str) -> None:
        folder.mkdir(parents=True)
        env = {
            "HOME": str(folder),
            "PATH": "/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "TMPDIR": str(folder),
            "ANTHROPIC_API_KEY": "dummy",
            "ANTHROPIC_BASE_URL": url,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
        }
        argv = [
            *(str(program), "-p", "--input-format", "stream-json", "--output-format", "stream-json", "--verbose"),
            *("--include-partial-messages", "--model", "directives", "--setting-sources", "", "--session-id", str(uuid.uuid4())),
        ]
        self._process = subprocess.Popen(argv, env=env, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.say({"type": "control_request", "request_id": "1", "request": {"subtype": "initialize", "hooks": None}})
        self.until(b"control_response")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def say(self, frame: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(frame).encode() + b"\n")
        self._process.stdin.flush()

    def until(self, wanted: bytes) -> None:
        assert self._process.stdout is not None
        while wanted not in (line := self._process.stdout.readline()):
            assert line, "the program ended"

    def turn(self) -> float:
        """Milliseconds to the first piece of the answer; returns at its end."""
        started = time.perf_counter()
        self.say({"type": "user", "message": {"role": "user", "content": _PIECES}})
        self.until(b'"text_delta"')
        first = time.perf_counter()
        self.until(b'"type":"result"')
        return (first - started) * 1000


def _claude(folder: Path, program: Path, url: str, starts: int, turns: int) -> list[Row]:
    bare_starts, aegis_starts, bare_turns, aegis_turns = [], [], [], []
    with _home(folder / "home", program, url) as client:
        for number in range(starts + 1):  # the first one reads the program from the disk and asks for its version
            started = time.perf_counter()
            with _Bare(program, folder / f"bare{number}", url):
                bare_starts.append((time.perf_counter() - started) * 1000)
            aegis_starts.append(_session(client, f"s{number}", folder))
        _start(client, "t", folder)
        with _Bare(program, folder / "bare", url) as bare:
            for _ in range(turns + 2):  # the first two are slower, in both
                bare_turns.append(bare.turn())
                aegis_turns.append(_turn(client, "t"))
    return [
        _beside("claude-code: start to ready (with its sandbox)", aegis_starts[1:], bare_starts[1:], "60 ms"),
        _beside("claude-code: message to first delta, warm", aegis_turns[2:], bare_turns[2:], "2 ms"),
    ]


def _beside(name: str, times: list[float], floor: list[float], budget: str) -> Row:
    """A row with what is added; the tenth percentiles tell of a machine that is busy with other things as well."""
    times, floor = sorted(times), sorted(floor)
    quiet, added = percentile(times, 10) - percentile(floor, 10), percentile(times, 50) - percentile(floor, 50)
    return row(name, times, floor, f"adds {added:.1f} ms, {quiet:.1f} ms at p10; budget {budget}")


def _session(client: Client, handle: str, folder: Path) -> float:
    """Milliseconds from asking for an instance until its program is ready for its first message, which is there already."""
    started = time.perf_counter()
    _start(client, handle, folder)
    receipt = client.mail.send(handle, _PIECES)
    _until(client, handle, receipt, "session.opened")
    passed = (time.perf_counter() - started) * 1000
    _until(client, handle, receipt, "turn.finished")
    client.instances.delete(handle)
    return passed


def _many(folder: Path, program: Path, url: str, quick: bool) -> list[Row]:
    """The daemon's share of a processor while instances stream 100 pieces a second each."""
    rows = []
    count, seconds = (2, 2) if quick else (10, 10)
    with _home(folder / "many", program, url) as client:
        for provider in ("native", "claude-code"):
            handles = [f"{provider}-{number}" for number in range(count)]
            for handle in handles:
                _start(client, handle, folder, provider)
                _turn(client, handle)
            receipts = [client.mail.send(handle, f"[[slow {seconds * 100} 10]]") for handle in handles]
            pid = client.status()["pid"]
            for handle, receipt in zip(handles, receipts, strict=True):
                _until(client, handle, receipt, "turn.text.delta")
            with _relay(count) as relay:
                head, used, floor, started = client.status()["head"], _cpu(pid), _cpu(relay), time.perf_counter()
                time.sleep(seconds / 2)
                passed = time.perf_counter() - started
                used, floor, events = _cpu(pid) - used, _cpu(relay) - floor, client.status()["head"] - head
            for handle, receipt in zip(handles, receipts, strict=True):
                _until(client, handle, receipt, "turn.finished")
            for handle in handles:
                client.instances.delete(handle)
            share, each = used / passed * 100, used / max(1, events) * 1e6
            note = f"{share:.1f} % of one core, {each:.0f} us a piece; budget 15 %; floor: a bare relay"
            name = f"{provider}: daemon's CPU ms a second, {count} streams of 100/s"
            rows.append(row(name, [used / passed * 1000], [max(floor / passed * 1000, 0.01)], note))
    return rows


#: Sends back what comes in on each socket: what no daemon can do with less.
_RELAY = """
import asyncio, socket, sys
import uvloop

async def carry(number):
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=number))
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()

async def main():
    await asyncio.gather(*(carry(int(number)) for number in sys.argv[1:]))

uvloop.run(main())
"""


@contextlib.contextmanager
def _relay(count: int) -> Iterator[int]:
    """A process that carries `count` streams of 100 pieces a second; its pid."""
    pairs = [socket.socketpair() for _ in range(count)]
    inner = [str(theirs.fileno()) for _, theirs in pairs]
    process = subprocess.Popen([sys.executable, "-c", _RELAY, *inner], pass_fds=[theirs.fileno() for _, theirs in pairs])
    ended = threading.Event()

    def feed(ours: socket.socket) -> None:
        with ours:
            while not ended.wait(0.01):
                ours.send(b"x" * 130)
                ours.recv(65536)

    feeders = [threading.Thread(target=feed, args=(ours,)) for ours, _ in pairs]
    for _, theirs in pairs:
        theirs.close()
    for feeder in feeders:
        feeder.start()
    try:
        time.sleep(0.3)  # its start is not what is measured
        yield process.pid
    finally:
        ended.set()
        for feeder in feeders:
            feeder.join()
        process.wait()


@contextlib.contextmanager
def _home(home: Path, program: Path, url: str) -> Iterator[Client]:
    home.mkdir(mode=0o700)
    (home / "config.yaml").write_text(
        f"providers:\n  loop: {{base_url: '{url}', dialect: anthropic}}\nprograms:\n  claude-code: {{path: '{program}'}}\n"
    )
    launch.ensure_daemon(home)
    client = Client(launch.socket_path(home))
    try:
        yield client
    finally:
        end(client)


def _start(client: Client, handle: str, folder: Path, provider: str = "claude-code") -> None:
    workspace = folder / "work" / handle
    workspace.mkdir(parents=True, exist_ok=True)
    wanted: Any = {"handle": handle, "provider": provider, "model": "loop/directives", "workspace": str(workspace)}
    client.instances.start(wanted)


def _turn(client: Client, handle: str) -> float:
    """Milliseconds from sending a message to the first piece of the answer at a subscriber; returns at the end of the turn."""
    with contextlib.closing(client.follow_events(client.status()["head"], instance=handle)) as stream:
        events = iter(stream)
        started = time.perf_counter()
        client.mail.send(handle, _PIECES)
        first = 0.0
        for event in events:
            if event.get("type") == "turn.text.delta" and not first:
                first = time.perf_counter()
            if event.get("type") == "turn.finished":
                return (first - started) * 1000
    raise AssertionError("the stream ended")


def _until(client: Client, handle: str, receipt: Any, kind: str) -> None:
    with contextlib.closing(client.follow_events(receipt["ingress_seq"] - 1, instance=handle)) as stream:
        for event in stream:
            if event.get("type") == kind:
                return
    raise AssertionError("the stream ended")


def _cpu(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
