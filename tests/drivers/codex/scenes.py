"""Scenes with Codex: what is said to it, so that what it answered can be recorded once and replayed without it.

`python -m tests.drivers.codex.scenes` records `frames/NAME.jsonl` anew with the pinned program, and `frames/NAME.events`, one line for
each event that the machine makes of them, for a person to compare. What Aegis did meanwhile stands in the recording between the
frames, as `{"aegis": METHOD, "args": [...]}`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
from tests.drivers.claude.scenes import lines_of

from aegis.core.events import TextDelta
from aegis.drivers import Answer, Asked, DriverEvent, Finished, Happened, McpServer, Message
from aegis.drivers.codex.machine import Machine

FRAMES = Path(__file__).parent / "frames"
PROBE = Path(__file__).parents[1] / "acp" / "mcp_probe.py"
MODEL = "directives"
WAIT = '[[call bash {"command": "sleep 0.4"}]]'


class Scene:
    """One scene being recorded."""

    def __init__(self, talk: Any, name: str, server: Any) -> None:
        self.talk, self.server, self._name, self._n = talk, server, name, 0

    async def send(self, text: str) -> int:
        self._n += 1
        start = len(self.talk.seen)
        await self.talk.conversation.send(f"t{self._n}", [Message(f"{self._name}-{self._n}", text)])
        return start

    async def add(self, turn: str, text: str) -> None:
        self._n += 1
        await self.talk.conversation.add(turn, [Message(f"{self._name}-{self._n}", text)])

    async def turn(self, text: str) -> None:
        await self.over(await self.send(text))

    async def over(self, start: int) -> None:
        await self.talk.until(lambda event: isinstance(event, Finished), start)

    async def delta(self, start: int) -> None:
        await self.talk.until(lambda event: isinstance(event, Happened) and isinstance(event.fact, TextDelta), start)

    async def asked(self, start: int) -> None:
        await self.talk.until(lambda event: isinstance(event, Asked), start)


async def plain(scene: Scene) -> None:
    await scene.turn("[[think Let me see.]] [[say Hello there.]]")
    await scene.turn("[[say Bye.]]")


async def tools(scene: Scene) -> None:
    await scene.turn(
        '[[call write {"path": "/workspace/a.txt", "content": "one\\ntwo\\n"}]] '
        '[[call edit {"path": "/workspace/a.txt", "old": "two", "new": "zwei"}]] [[call bash {"command": "cat a.txt; exit 3"}]] '
        '[[call bash {"command": "cat a.txt"}]] [[par]] [[call bash {"command": "echo both"}]] [[say done]]'
    )


async def denied(scene: Scene) -> None:
    await scene.turn('[[call bash {"command": "echo x > no.txt"}]] [[lastresult]]')
    await scene.turn('[[call write {"path": "/workspace/no.txt", "content": "x\\n"}]] [[lastresult]]')


async def mcp(scene: Scene) -> None:
    await scene.turn('[[call probe.add {"a": 2, "b": 3}]] [[lastresult]]')
    await scene.turn('[[call probe.add {"a": 99, "b": 3}]] [[lastresult]]')


async def cut_text(scene: Scene) -> None:
    start = await scene.send("[[slow 200 20]]")
    await scene.delta(start)
    await scene.talk.conversation.interrupt()
    await scene.over(start)
    await scene.turn("[[say again]]")


async def cut_asking(scene: Scene) -> None:
    start = await scene.send('[[call bash {"command": "echo wait.txt > wait.txt"}]] [[say over]]')
    await scene.asked(start)
    await scene.talk.conversation.interrupt()
    await scene.over(start)


async def failures(scene: Scene) -> None:
    await scene.turn("[[error 400]]")
    scene.server.fault(times=2, status=503)
    await scene.turn("[[say got through]]")
    scene.server.fault(times=9, status=402)
    await scene.turn("[[say paid]]")
    scene.server.mend()
    told = {"error": {"type": "usage_limit_reached", "message": "used up", "plan_type": "plus", "resets_at": 4_000_000_000}}
    scene.server.fault(times=9, status=429, body=json.dumps(told).encode())
    await scene.turn("[[say limited]]")
    scene.server.mend()


async def added(scene: Scene) -> None:
    start = await scene.send(f"{WAIT} [[say done]]")
    await scene.talk.until(lambda event: isinstance(event, Asked), start)
    await scene.add("t1", "by the way")
    await scene.over(start)


async def background(scene: Scene) -> None:
    await scene.turn('[[call =exec_command {"cmd": "sleep 1; echo late", "yield_time_ms": 250}]] [[say started]]')
    await scene.talk.until(lambda event: type(event).__name__ == "Busy" and not event.active)
    await scene.turn("[[say next]]")


SCENES: dict[str, Callable[[Scene], Awaitable[None]]] = {
    scene.__name__: scene for scene in (plain, tools, denied, mcp, cut_text, cut_asking, failures, added, background)
}


def rule(asked: Asked) -> Answer | None:
    """How a scene's requests are answered."""
    given = json.dumps(asked.input)
    if "wait.txt" in given:
        return None
    return Answer(False, "Not on a Sunday.") if "no.txt" in given or "99" in given else Answer(True)


def recorded(name: str) -> list[bytes]:
    """The lines of a recording, each with its newline."""
    return (FRAMES / f"{name}.jsonl").read_bytes().splitlines(keepends=True)


class Replay:
    """Feeds a machine with a recording, and does what Aegis did."""

    def __init__(self) -> None:
        self.machine = Machine(model=MODEL)
        self.said = b""

    def line(self, line: bytes) -> list[DriverEvent]:
        """One line of the recording."""
        told = json.loads(line)
        if "aegis" not in told:
            events = self.machine.feed(line)
            self.said += self.machine.outgoing()
            return events
        match told["aegis"], told["args"]:
            case "opened", [thread, numbers]:
                self.machine.thread, self.machine._numbers = thread, numbers
            case "answer", [request, answer]:
                self.said += self.machine.answer(request, msgspec.convert(answer, Answer))
            case ("send" | "add") as method, [turn, messages]:
                self.said += getattr(self.machine, method)(turn, msgspec.convert(messages, list[Message]))
            case "interrupt", _:
                self.said += self.machine.interrupt()
        return []


def replayed(name: str) -> list[DriverEvent]:
    """All events of a scene."""
    replay = Replay()
    return [event for line in recorded(name) for event in replay.line(line)]


class _Tee(Machine):
    """Writes down what is said to a machine, in its order."""

    raw: bytearray

    def _note(self, method: str, *args: Any) -> None:
        self.raw += msgspec.json.encode({"aegis": method, "args": args}) + b"\n"

    def feed(self, data: bytes) -> list[DriverEvent]:
        self.raw += data
        return super().feed(data)

    def send(self, turn: str, messages: list[Message], *, continues: bool = False) -> bytes:
        self._note("send", turn, messages)
        return super().send(turn, messages, continues=continues)

    def add(self, turn: str, messages: list[Message]) -> bytes:
        self._note("add", turn, messages)
        return super().add(turn, messages)

    def answer(self, request: str, answer: Answer) -> bytes:
        self._note("answer", request, answer)
        return super().answer(request, answer)

    def interrupt(self) -> bytes:
        self._note("interrupt")
        return super().interrupt()


async def _record(name: str) -> None:
    from tests.drivers.claude.conftest import Box, Mount, Talk
    from tests.drivers.codex.conftest import mounts, real, spec_of
    from tests.kit.model_server import ModelServer

    raw = bytearray()
    with tempfile.TemporaryDirectory(prefix="aegis-scene-") as place, ModelServer() as server:
        box = Box(Path(place), server, (*mounts(), Mount(PROBE, "/opt/probe.py")))
        await box.up()
        try:
            servers = [McpServer(name="probe", command=["python3", "/opt/probe.py"])] if name == "mcp" else []
            conversation = await real().start(box.link, spec_of(box.link, mcp=servers))
            machine = conversation._machine
            machine.__class__, machine.raw = _Tee, raw
            machine._note("opened", machine.thread, machine._numbers)
            talk = Talk(conversation, rule)
            await SCENES[name](Scene(talk, name, server))
            machine.__class__ = Machine
            await talk.close()
        finally:
            await box.down()
    lines = bytes(raw).splitlines(keepends=True)
    (FRAMES / f"{name}.jsonl").write_bytes(b"".join(line for line in lines if line.endswith(b"\n")))
    (FRAMES / f"{name}.events").write_text("\n".join(lines_of(replayed(name))) + "\n")


if __name__ == "__main__":
    for wanted in sys.argv[1:] or SCENES:
        asyncio.run(_record(wanted))
        print(wanted)
