"""The agent as a plain subprocess over pipes, driven frame by frame."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aegis.guest
import aegis.tether

LIMITS = {"rounds": 50, "turn_seconds": 50.0, "tool_seconds": 20.0, "context_tokens": 100_000, "max_tokens": 1000}
START = "import os, sys; sys.path.insert(0, os.environ['AEGIS_LIB']); from aegis.guest.agent.main import main; main()"


def library(place: Path) -> Path:
    """A directory that holds what a sandbox sees of Aegis: `tether` and `guest` alone."""
    (place / "lib/aegis").mkdir(parents=True)
    for part in (aegis.tether, aegis.guest):
        source = Path(next(iter(part.__path__)))
        (place / "lib/aegis" / source.name).symlink_to(source)
    return place / "lib"


class AgentProcess:
    """One agent. `frames` is all it has said. Records are committed as they come unless `hold` says not to."""

    def __init__(self, lib: Path, workspace: Path, url: str, **init: Any) -> None:
        self.frames: list[dict[str, Any]] = []
        self.hold = False
        python = getattr(sys, "_base_executable", sys.executable)
        env = {"PATH": os.environ["PATH"], "AEGIS_LIB": str(lib), "AEGIS_MODEL_URL": url, "AEGIS_TOKEN": "token-1", "HOME": str(workspace)}
        self.process = subprocess.Popen(
            [python, "-I", "-S", "-c", START], cwd=workspace, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        limits = {**LIMITS, **init.pop("limits", {})}
        first = {"session": "host:default", "system": None, "model": "anthropic/test", "dialect": "anthropic", "history": []}
        self.send("init", **{**first, "permission": "write", **init, "limits": limits})
        self.until("ready")

    def send(self, type_: str, **fields: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"type": type_, **fields}).encode() + b"\n")
        self.process.stdin.flush()

    def next(self) -> dict[str, Any]:
        """The next frame."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the agent died: {self.process.stderr.read().decode() if self.process.stderr else ''}"
        frame: dict[str, Any] = json.loads(line)
        self.frames.append(frame)
        if frame["type"] == "record" and not self.hold:
            self.send("committed", n=frame["n"])
        return frame

    def until(self, type_: str, **fields: Any) -> dict[str, Any]:
        """Read up to a frame like this."""
        while True:
            frame = self.next()
            if frame["type"] == type_ and all(frame.get(k) == v for k, v in fields.items()):
                return frame

    def begin(self, *texts: str, continues: bool = False, ids: list[str] | None = None, turn: str = "turn-1") -> None:
        names = ids or [f"{turn}.{i}" for i in range(len(texts))]
        self.send("turn", turn=turn, messages=[{"id": i, "text": t} for i, t in zip(names, texts, strict=True)], continues=continues)

    def turn(self, *texts: str, on: Callable[[dict[str, Any]], None] | None = None, **options: Any) -> dict[str, Any]:
        """A whole turn; `on` sees each frame. Returns the frame that finished it."""
        self.begin(*texts, **options)
        while True:
            frame = self.next()
            if on:
                on(frame)
            if frame["type"] == "finished":
                return frame

    @property
    def records(self) -> list[dict[str, Any]]:
        return [f["message"] for f in self.frames if f["type"] == "record"]

    def results(self) -> list[dict[str, Any]]:
        return [b for m in self.records for b in m["content"] if b["type"] == "tool_result"]

    def close(self) -> int:
        """End it; returns its exit code."""
        if self.process.poll() is None:
            try:
                self.send("close")
            except BrokenPipeError:
                pass
        try:
            code = self.process.wait(10)
        finally:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
                if pipe:
                    pipe.close()
        return code
