"""Sub-agents: a tree of 30 children that is spawned through the MCP plane, and the time in which cancelling and deleting its top reach all.

Floor: a Python interpreter that does nothing, once for each child, as many at a time as this machine has processors: what 30 processes
cost by themselves.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aegis.client import launch
from aegis.client.api import Client
from benchmarks.harness import Row, end, row

if TYPE_CHECKING:
    from collections.abc import Iterator

_CONFIG = "defaults: {tools: [core, children], spawn: {depth: 3, children: 10, total: 40}}\n"
_HANG = "[[hang 600]]"


def main(quick: bool) -> list[Row]:
    """All rows."""
    width = 2 if quick else 5  # children of the top, each with as many of its own
    rounds = 1 if quick else 5
    folder = Path(tempfile.mkdtemp(prefix="aegis-bench-"))
    home = folder / "home"
    home.mkdir(mode=0o700)
    (home / "config.yaml").write_text(_CONFIG)
    try:
        launch.ensure_daemon(home)
        client = Client(launch.socket_path(home))
        try:
            found: list[Row] = []
            for sandbox in [s["name"] for s in client.doctor()["sandboxes"] if s["ok"]]:
                found += _trees(client, sandbox, width, rounds)
            return found
        finally:
            end(client)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _trees(client: Client, sandbox: str, width: int, rounds: int) -> list[Row]:
    children = width + width * width
    floor, spawned, cancelled, deleted = [], [], [], []
    for _ in range(rounds):
        floor.append(_floor(children))
        client.instances.start({"handle": "top", "agent": "agent", "sandbox": sandbox, "model": "scripted/directives"})
        head = client.status()["head"]
        started = time.perf_counter()
        branch = " ".join(_par(json.dumps({"prompt": _HANG}), width)) + f" {_HANG}"
        client.mail.send("top", " ".join(_par(json.dumps({"prompt": branch}), width)) + f" {_HANG}")
        _await(client, head, "turn.started", children + 1)
        spawned.append((time.perf_counter() - started) * 1000)
        head = client.status()["head"]
        started = time.perf_counter()
        client.mail.cancel("top")
        _await(client, head, "turn.finished", children + 1)
        cancelled.append((time.perf_counter() - started) * 1000)
        started = time.perf_counter()
        gone = client.instances.delete("top")
        deleted.append((time.perf_counter() - started) * 1000)
        if len(gone) != children:
            raise AssertionError(gone)
    note = f"{os.cpu_count()} processors"
    return [
        row(f"{sandbox}: a tree of {children} sub-agents, each at work", sorted(spawned), sorted(floor), f"budget 2 000 ms for 30; {note}"),
        row(f"{sandbox}: cancel its top until all {children + 1} turns are over", sorted(cancelled), None, "budget 2 000 ms"),
        row(f"{sandbox}: delete its top with all below", sorted(deleted), None, "budget 2 000 ms"),
    ]


def _par(arguments: str, width: int) -> Iterator[str]:
    """So many calls at once, in one step."""
    for n in range(width):
        if n:
            yield "[[par]]"
        yield f"[[call aegis_spawn {arguments}]]"


def _await(client: Client, after: int, kind: str, count: int) -> None:
    with client.follow_events(after, types=(kind,)) as stream:
        for n, _ in enumerate(stream, 1):
            if n == count:
                return


def _floor(count: int) -> float:
    """Milliseconds for so many interpreters."""
    argv: list[Any] = [sys.executable, "-I", "-S", "-c", "pass"]
    started = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done in [pool.submit(subprocess.run, argv, check=True) for _ in range(count)]:
            done.result()
    return (time.perf_counter() - started) * 1000
