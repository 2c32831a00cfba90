"""Scenes with Claude Code: what is said to it, so that what it answered can be recorded once and replayed without it.

`python -m tests.drivers.claude.scenes` records `frames/NAME.jsonl` anew with the pinned program, and `frames/NAME.events`, one line
for each event that the machine makes of them, for a person to compare. A message of a scene is sent in the replay just before the
frame that says that it was queued; everything else that the machine needs to know is in the frames.
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

from aegis.core.envelopes import Image
from aegis.core.events import TextDelta, ThinkingDelta, ToolCall
from aegis.drivers import Answer, Asked, Began, DriverEvent, Finished, Happened, Message
from aegis.drivers.claude.machine import Machine

FRAMES = Path(__file__).parent / "frames"
SESSION = "00000000-0000-4000-8000-00000000a1ce"
MODEL = "scripted/claude-sonnet-4-5"
TASK = {"description": "look", "prompt": "find it", "subagent_type": "general-purpose"}
ASK = {
    "questions": [{"question": "Which?", "header": "H", "multiSelect": False, "options": [{"label": x, "description": x} for x in "AB"]}]
}


class Scene:
    """One scene being recorded."""

    def __init__(self, talk: Any, name: str) -> None:
        self.talk, self._name, self._n = talk, name, 0

    async def send(self, text: str, images: list[Image] | None = None) -> int:
        self._n += 1
        start = len(self.talk.seen)
        await self.talk.conversation.send(f"t{self._n}", [Message(message_id(self._name, self._n), text, images or [])])
        return start

    async def add(self, text: str) -> None:
        self._n += 1
        await self.talk.conversation.add("t1", [Message(message_id(self._name, self._n), text)])

    async def turn(self, text: str) -> None:
        await self.over(await self.send(text))

    async def over(self, start: int) -> None:
        await self.talk.until(lambda event: isinstance(event, Finished), start)

    async def interrupt(self) -> None:
        await self.talk.conversation.interrupt()


def message_id(scene: str, n: int) -> str:
    """The id of the nth message of a scene."""
    return f"{scene}-{n}"


async def plain(scene: Scene) -> None:
    await scene.turn("[[think Let me see.]] [[say Hello there.]]")
    await scene.turn("[[say Bye.]]")


async def tools(scene: Scene) -> None:
    await scene.turn(
        '[[call write {"path": "/workspace/a.txt", "content": "one\\ntwo\\n"}]] [[call read {"path": "/workspace/a.txt"}]] '
        '[[call edit {"path": "/workspace/a.txt", "old": "two", "new": "zwei"}]] [[call bash {"command": "cat a.txt; exit 3"}]] '
        '[[call read {"path": "/workspace/a.txt"}]] [[par]] [[call bash {"command": "echo both"}]] [[say done]]'
    )


async def plans(scene: Scene) -> None:
    await scene.turn(
        '[[call =TaskCreate {"subject": "look", "description": "x"}]] [[call =TaskCreate {"subject": "mend", "description": "y"}]] '
        '[[call =TaskUpdate {"taskId": "1", "status": "in_progress"}]] [[call =TaskList {}]] '
        '[[call =TaskUpdate {"taskId": "2", "status": "deleted"}]] [[say ok]]'
    )


async def denied(scene: Scene) -> None:
    await scene.turn('[[call write {"path": "/workspace/no.txt", "content": "x"}]] [[lastresult]]')


async def question(scene: Scene) -> None:
    await scene.turn(f"[[call =AskUserQuestion {json.dumps(ASK)}]] [[lastresult]]")
    await scene.turn("[[call =EnterPlanMode {}]] [[call =ExitPlanMode {}]] [[say planned]]")


async def cut_text(scene: Scene) -> None:
    start = await scene.send("[[slow 1000 20]]")
    await scene.talk.delta(start)
    await scene.interrupt()
    await scene.over(start)
    await scene.turn("[[say fresh]]")


async def cut_asking(scene: Scene) -> None:
    start = await scene.send('[[call write {"path": "/workspace/wait.txt", "content": "x"}]] [[say done]]')
    await scene.talk.until(lambda event: isinstance(event, Asked), start)
    await scene.interrupt()
    await scene.over(start)


async def added(scene: Scene) -> None:
    start = await scene.send('[[call bash {"command": "sleep 1; echo one"}]] [[call bash {"command": "echo two"}]] [[say end]]')
    await scene.talk.until(lambda event: isinstance(event, Happened) and isinstance(event.fact, ToolCall), start)
    await scene.add("more")
    await scene.over(start)
    await scene.turn("[[say after]]")


async def added_late(scene: Scene) -> None:
    start = await scene.send("[[slow 20 30]]")
    await scene.talk.delta(start)
    await scene.add("[[say late]]")
    await scene.over(start)
    await scene.turn("[[say after]]")


async def added_cut(scene: Scene) -> None:
    start = await scene.send('[[call write {"path": "/workspace/wait.txt", "content": "x"}]] [[say done]]')
    await scene.talk.until(lambda event: isinstance(event, Asked), start)
    await scene.add("more")
    await scene.interrupt()
    await scene.over(start)
    await scene.turn("[[say fresh]]")


async def failures(scene: Scene) -> None:
    await scene.turn("[[error 400]]")
    await scene.turn("[[error 529 1]] [[say ok]]")


async def compacted(scene: Scene) -> None:
    await scene.turn("[[say x]]")
    await scene.turn("/compact")


async def background(scene: Scene) -> None:
    await scene.turn('[[call bash {"command": "sleep 0.5; echo over", "run_in_background": true}]] [[say started]]')
    began = await scene.talk.until(lambda event: isinstance(event, Began))
    await scene.over(scene.talk.seen.index(began))
    await scene.turn("[[say after]]")


async def sub_agent(scene: Scene) -> None:
    await scene.turn(f"[[call =Task {json.dumps({**TASK, 'run_in_background': False})}]] [[say main]]")


async def sub_agent_apart(scene: Scene) -> None:
    await scene.turn(f"[[call =Task {json.dumps(TASK)}]] [[say started]]")
    began = await scene.talk.until(lambda event: isinstance(event, Began))
    await scene.over(scene.talk.seen.index(began))


SCENES: dict[str, Callable[[Scene], Awaitable[None]]] = {
    scene.__name__: scene
    for scene in (
        plain, tools, plans, denied, question, cut_text, cut_asking, failures, compacted, background, sub_agent, sub_agent_apart,
        added, added_late, added_cut,
    )
}  # fmt: skip


def rule(asked: Asked) -> Answer | None:
    """How a scene's requests are answered."""
    path = asked.input.get("file_path", "")
    if path.endswith("wait.txt"):
        return None
    if path.endswith("no.txt"):
        return Answer(False, "Not on a Sunday.")
    return Answer(True, input={"answers": {"Which?": "B"}} if asked.tool == "AskUserQuestion" else None)


def frames_of(name: str) -> list[bytes]:
    """The recorded frames of a scene, each with its newline."""
    return (FRAMES / f"{name}.jsonl").read_bytes().splitlines(keepends=True)


class Replay:
    """Feeds a machine with a recording."""

    def __init__(self, name: str) -> None:
        self.machine = Machine(session=SESSION, model=MODEL)
        self._name, self._n = name, 0
        self._cuts = name.startswith("cut")

    def feed(self, frame: bytes) -> list[DriverEvent]:
        """One frame, whole."""
        self.before(frame)
        events = self.machine.feed(frame)
        self.after(events)
        return events

    def before(self, frame: bytes) -> None:
        """Send the message that this frame will say is queued."""
        told = json.loads(frame)
        if told.get("type") == "command_lifecycle" and told.get("state") == "queued":
            self._n += 1
            message = Message(message_id(self._name, self._n), "x")
            if self._n != 2 or not self._name.startswith("added"):
                self.machine.send(f"t{self._n}", [message])
                return
            self.machine.add([message])
            if self._name == "added_cut":
                self.machine.interrupt()

    def after(self, events: list[DriverEvent]) -> None:
        """Answer what was asked; interrupt as the scene did."""
        for event in events:
            if isinstance(event, Asked) and (answer := rule(event)) is not None:
                self.machine.answer(event.id, answer)
            if self._cuts and (isinstance(event, Asked) or (isinstance(event, Happened) and isinstance(event.fact, TextDelta))):
                self.machine.interrupt()
                self._cuts = False


def lines_of(events: list[DriverEvent]) -> list[str]:
    """Events as text, one line each; neighbouring deltas of one kind are joined."""
    lines: list[tuple[str, str]] = []
    for event in events:
        if isinstance(event, Happened):
            kind, value = event.fact.type, msgspec.to_builtins(event.fact)
            if isinstance(event.fact, TextDelta | ThinkingDelta) and lines and lines[-1][0] == kind:
                before = json.loads(lines.pop()[1])
                value["text"] = before["text"] + value["text"]
        else:
            kind, value = type(event).__name__, msgspec.to_builtins(event)
        lines.append((kind, json.dumps(value, sort_keys=True)))
    return [f"{kind} {value}" for kind, value in lines]


def replayed(name: str) -> list[DriverEvent]:
    """All events of a scene."""
    replay = Replay(name)
    return [event for frame in frames_of(name) for event in replay.feed(frame)]


async def _record(name: str) -> None:
    from tests.drivers.claude.conftest import Box, Mount, Talk, cli, real, spec_of
    from tests.kit.model_server import ModelServer

    raw = bytearray()
    feed = Machine.feed

    def tee(machine: Machine, data: bytes) -> list[DriverEvent]:
        raw.extend(data)
        return feed(machine, data)

    folder = cli("claude-code").parent
    with tempfile.TemporaryDirectory(prefix="aegis-scene-") as place, ModelServer() as server:
        box = Box(Path(place), server, (Mount(folder, str(folder)),))
        await box.up()
        Machine.feed = tee  # type: ignore[method-assign]
        try:
            talk = Talk(await real().start(box.link, spec_of(box.link, fresh_id=SESSION)), rule)
            raw.clear()  # what it said to `initialize` names the machine and is long
            await SCENES[name](Scene(talk, name))
            await talk.close()
        finally:
            Machine.feed = feed  # type: ignore[method-assign]
            await box.down()
    keep = [line for line in bytes(raw).splitlines(keepends=True) if line.endswith(b"\n") and b'"control_response"' not in line]
    (FRAMES / f"{name}.jsonl").write_bytes(b"".join(keep))
    (FRAMES / f"{name}.events").write_text("\n".join(lines_of(replayed(name))) + "\n")


if __name__ == "__main__":
    for wanted in sys.argv[1:] or SCENES:
        asyncio.run(_record(wanted))
        print(wanted)
