"""Recorded conversations with real agents, played to the machine: what it writes is compared with what was written then."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from aegis.drivers import Answer, Asked, DriverEvent
from aegis.drivers.acp import shipped
from aegis.drivers.acp.machine import Machine, Reply
from aegis.drivers.acp.spec import AgentSpec
from aegis.drivers.acp.transcript import Transcript

FRAMES = Path(__file__).parent / "frames"
NAMES = sorted(path.stem for path in FRAMES.glob("*.jsonl"))


def agent(name: str, **changes: Any) -> AgentSpec:
    """A shipped agent, some of it changed."""
    return msgspec.structs.replace(next(spec for spec in shipped() if spec.name == name), **changes)


def plain(name: str) -> AgentSpec:
    """The agent without the request that tells it to go on after a refusal: the recordings have none."""
    spec = agent(name)
    return msgspec.structs.replace(spec, quirks=msgspec.structs.replace(spec.quirks, reject_ends_turn=False, reject_hides_reason=False))


def frames(name: str) -> list[tuple[str, dict[str, Any]]]:
    """A recording: ("to" or "from" the agent, frame)."""
    return [next(iter(json.loads(line).items())) for line in (FRAMES / f"{name}.jsonl").read_text().splitlines()]


class Played:
    """A recording played to its end: the events, the replies, what the machine wrote, and the transcript of a load."""

    def __init__(self, name: str, pieces: int = 0) -> None:
        self.machine = Machine(plain(name.partition("-")[0]), provider="p", now=lambda: 0.0, wall=lambda: 1_000_000.0)
        self.events: list[DriverEvent] = []
        self.replies: list[Reply] = []
        self.written: list[dict[str, Any]] = []
        self.wanted: list[dict[str, Any]] = []
        self.transcript: Transcript | None = None
        self._loaded = False
        self._methods: dict[int, str] = {}
        for way, frame in frames(name):
            if way == "to":
                self.wanted.append(frame)
                self._act(frame)
            else:
                data = json.dumps(frame).encode() + b"\n"
                size = pieces or len(data)
                for start in range(0, len(data), size):
                    self._hear(data[start : start + size])
            self._write()

    def _act(self, frame: dict[str, Any]) -> None:
        method, params = frame.get("method"), frame.get("params", {})
        if method == "session/prompt":
            assert not self.machine.busy
            self.machine.prompt(params["prompt"], [f"m{frame['id']}"])
        elif method == "session/cancel":
            self.events += self.machine.cancel()
        elif method is not None:
            if method == "session/load":
                self.machine.transcript = self.transcript = Transcript(
                    self.machine._spec.resume.ignore, self.machine._spec.resume.drain_until
                )
                self.machine.session = params["sessionId"]
            self._methods[self.machine.request(method, params)] = method
        elif "result" in frame and frame["result"]["outcome"]["outcome"] == "selected":
            asked = next(event for event in reversed(self.events) if isinstance(event, Asked))
            allow = frame["result"]["outcome"]["optionId"] in ("once", "proceed_once")
            self.machine.answer(asked.id, Answer(allow, "no"))

    def _hear(self, data: bytes) -> None:
        for event in self.machine.feed(data):
            if not isinstance(event, Reply):
                self.events.append(event)
                continue
            self.replies.append(event)
            if self._methods[event.id] in ("session/new", "session/load") and event.error is None:
                self.machine.session = event.result.get("sessionId", self.machine.session)
                self.machine.settings.opened(event.result)
            self._loaded |= self._methods[event.id] == "session/load"
        if self._loaded and self.transcript is not None and self.transcript.complete:
            self.machine.transcript = None

    def _write(self) -> None:
        data, events = self.machine.take()
        self.written += [json.loads(line) for line in data.splitlines()]
        self.events += events
