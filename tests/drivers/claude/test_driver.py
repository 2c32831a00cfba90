"""The driver's shell with a program that goes wrong in a real sandbox."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.drivers.claude.conftest import Box, Talk, allow, driver, facts, spec_of

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import Outcome, Text, ToolResult
from aegis.drivers import Accepted, AgentLimits, Answer, Died, DriverEvent, Finished, McpServer, Message
from aegis.drivers.claude import PROGRAM, ClaudeDriver, launch, transcript
from aegis.drivers.claude import driver as shell
from aegis.drivers.claude.machine import frame_id

FAKE = Path(__file__).with_name("fake.py")
NAME = "0c0ffee0-0000-4000-8000-000000000000"
TURN = [
    {"type": "command_lifecycle", "command_uuid": "UUID", "state": "started"},
    {"type": "system", "subtype": "init", "model": "claude-sonnet-4-5", "permissionMode": "default"},
    {"type": "assistant", "message": {"id": "a", "model": "claude-sonnet-4-5", "content": [{"type": "text", "text": "hello"}]}},
    {"type": "result", "subtype": "success", "is_error": False, "num_turns": 1, "result": "hello", "stop_reason": "end_turn"},
    {"type": "system", "subtype": "session_state_changed", "state": "idle"},
]


@pytest.fixture
async def fake(empty: Box) -> AsyncIterator[Any]:
    """Start the fake in the sandbox with these frames and this environment."""
    shutil.copy(FAKE, empty.work / "fake.py")
    talks: list[Talk] = []

    async def start(frames: list[dict[str, Any]] = TURN, env: dict[str, str] | None = None, **fields: Any) -> Talk:
        (empty.work / "frames").write_text("".join(json.dumps(frame) + "\n" for frame in frames))
        given = {"FAKE_FRAMES": "/workspace/frames", **(env or {})}
        conversation = await fakes().start(empty.link, spec_of(empty.link, env=given, **fields))
        talks.append(Talk(conversation, allow))
        return talks[-1]

    yield start
    for one in talks:
        await one.close()


def fakes() -> ClaudeDriver:
    return driver("python3", "/workspace/fake.py")


def is_died(event: DriverEvent) -> bool:
    return isinstance(event, Died)


async def died(one: Talk) -> Died:
    """The last event; nothing else may come before it that ends a turn."""
    while not one.seen or not is_died(one.seen[-1]):
        async with one._more:
            await one._more.wait()
    last = one.seen[-1]
    assert isinstance(last, Died)
    return last


async def test_a_turn(fake: Any) -> None:
    one = await fake()
    assert one.conversation.opened.version == "9.9.9"
    seen = await one.turn("go")
    assert [type(event) for event in seen if isinstance(event, Accepted | Finished)] == [Accepted, Finished]
    assert seen[-1].text == "hello"
    await one.conversation.committed(1)
    await one.conversation.answer("nothing", Answer(True))
    await one.close()
    assert not any(isinstance(event, Died) for event in one.seen)


@pytest.mark.parametrize("n", range(len(TURN)))
async def test_it_dies_at_each_frame(fake: Any, n: int) -> None:
    one = await fake(env={"FAKE_DIE": str(n)})
    await one.send("go")
    last = await died(one)
    assert (last.exit, last.stderr) == (7, "out of luck")
    assert sum(isinstance(event, Finished) for event in one.seen) == (1 if n > 3 else 0)
    await one.send("again")
    await one.conversation.interrupt()
    with pytest.raises(AegisError):
        await one.conversation.configure(model="scripted/other")


async def test_it_hangs_in_a_turn_and_is_closed(fake: Any, empty: Box) -> None:
    one = await fake(env={"FAKE_HANG": "2"})
    await one.send("go")
    await one.until(lambda event: isinstance(event, Accepted))
    await one.conversation.interrupt()
    await one.close()
    assert "fake.py" not in await empty.run("for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; done")
    assert not any(isinstance(event, Finished | Died) for event in one.seen)


async def test_garbage_at_the_start(fake: Any) -> None:
    one = await fake(env={"FAKE_START": "garbage"})
    assert (await one.turn("go"))[-1].text == "hello"


async def test_a_flood_on_stderr(fake: Any) -> None:
    one = await fake(env={"FAKE_START": "flood"})
    assert (await one.turn("go"))[-1].text == "hello"


async def test_a_large_frame(fake: Any) -> None:
    """Of 20 MB, and it reaches the events whole."""
    block = {"type": "tool_use", "id": "c", "name": "Read", "input": {"file_path": "/workspace/x"}}
    content = [{"type": "tool_result", "tool_use_id": "c", "content": "x" * 20_000_000}]
    large = [
        *TURN[:2],
        {"type": "assistant", "message": {"id": "a", "model": "m", "content": [block]}},
        {"type": "user", "message": {"role": "user", "content": content}},
        *TURN[2:],
    ]
    one = await fake(large)
    seen = await one.turn("go")
    assert len(facts(seen, ToolResult)[0].output) == 20_000_000
    assert facts(seen, Text)[0].text == "hello"


async def test_a_large_message(fake: Any) -> None:
    one = await fake()
    assert (await one.turn("x" * 4_000_000))[-1].outcome is Outcome.COMPLETED


@pytest.mark.parametrize("start", ["silent", "deaf"])
async def test_it_does_not_answer(fake: Any, monkeypatch: pytest.MonkeyPatch, start: str) -> None:
    monkeypatch.setattr(shell, "_START_SECONDS", 0.5)
    with pytest.raises(AegisError, match=r"did not answer within 0\.5 s") as raised:
        await fake(env={"FAKE_START": start})
    assert raised.value.kind is ErrorKind.FAILED


@pytest.mark.parametrize(
    ("word", "kind", "told"),
    [
        ("error: unknown option '--include-partial-messages'", ErrorKind.FAILED, PROGRAM.install),
        ("No conversation found with session ID: x", ErrorKind.NOT_FOUND, "start a new session"),
        ("--dangerously-skip-permissions cannot be used with root/sudo privileges", ErrorKind.FAILED, "doctor"),
        ("Invalid API key · Please run /login", ErrorKind.FAILED, "auth: login"),
    ],
)
async def test_it_does_not_start(fake: Any, word: str, kind: ErrorKind, told: str) -> None:
    with pytest.raises(AegisError) as raised:
        await fake(env={"FAKE_START": "exit", "FAKE_WORD": word})
    assert raised.value.kind is kind
    assert word in raised.value.message
    assert told in raised.value.hint
    assert (raised.value.data["exit"], raised.value.data["stderr"]) == (1, word)


async def test_the_program_is_not_there(empty: Box) -> None:
    with pytest.raises(AegisError, match="not found") as raised:
        await driver("/nowhere/claude").start(empty.link, spec_of(empty.link))
    assert raised.value.data["exit"] == 127


async def test_the_sandbox_goes_in_a_turn(fake: Any, empty: Box) -> None:
    one = await fake(env={"FAKE_HANG": "2"})
    await one.send("go")
    await one.until(lambda event: isinstance(event, Accepted))
    await empty.link.close()
    last = await died(one)
    assert last.exit is None
    assert "the sandbox is gone" in last.stderr


async def test_a_setting_that_it_refuses_or_does_not_answer(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one = await fake()
    with pytest.raises(AegisError, match="no such mode today") as raised:
        await one.conversation.configure(mode="plan")
    assert raised.value.kind is ErrorKind.FAILED
    monkeypatch.setattr(shell, "_REPLY_SECONDS", 0.2)
    with pytest.raises(AegisError, match="did not answer `set_model`") as raised:
        await one.conversation.configure(model="scripted/other")
    assert raised.value.kind is ErrorKind.TIMEOUT


# Arguments and environment.


def told(spec: Any, *, resume: bool = False) -> str:
    return " ".join(launch.arguments(spec, "NEW", resume=resume))


async def test_arguments(empty: Box) -> None:
    plain = spec_of(empty.link)
    assert "--permission-mode default --model claude-sonnet-4-5 --setting-sources  --max-turns 50 --strict-mcp-config" in told(plain)
    assert told(plain).endswith("--session-id NEW")
    assert told(spec_of(empty.link, resume="OLD"), resume=True).endswith("--resume=OLD")
    assert told(spec_of(empty.link, resume="OLD", fork=True), resume=True).endswith("--resume=OLD --fork-session --session-id NEW")
    assert "--effort high" in told(spec_of(empty.link, effort="high"))
    assert "--permission-mode plan" in told(spec_of(empty.link, mode="plan"))
    assert "--max-turns 7 " in told(spec_of(empty.link, limits=AgentLimits(rounds=7)))
    assert "--model a/b" in told(spec_of(empty.link, model="openrouter/a/b"))
    mcp = [McpServer(name="x", url="http://127.0.0.1:1/mcp", headers={"a": "b"}), McpServer(name="y", command=["run", "it"])]
    argv = launch.arguments(spec_of(empty.link, mcp=mcp), "NEW", resume=False)
    assert json.loads(argv[argv.index("--mcp-config") + 1])["mcpServers"] == {
        "x": {"type": "http", "url": "http://127.0.0.1:1/mcp", "headers": {"a": "b"}, "alwaysLoad": True},
        "y": {"type": "stdio", "command": "run", "args": ["it"], "env": {}, "alwaysLoad": True},
    }


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"mode": "bypassPermissions"}, ErrorKind.NOT_FOUND),
        ({"effort": "huge"}, ErrorKind.NOT_FOUND),
        ({"model": "sonnet"}, ErrorKind.USAGE),
    ],
)
async def test_what_cannot_be(empty: Box, fields: dict[str, str], kind: ErrorKind) -> None:
    with pytest.raises(AegisError) as raised:
        await fakes().start(empty.link, spec_of(empty.link, **fields))
    assert raised.value.kind is kind


async def test_environment(empty: Box) -> None:
    env = launch.environment(spec_of(empty.link, env={"MINE": "1", "ANTHROPIC_MODEL": "mine"}))
    assert env["ANTHROPIC_BASE_URL"].startswith(empty.link.endpoint)
    assert env["ANTHROPIC_API_KEY"] == "token-of-the-session"
    assert (env["MINE"], env["ANTHROPIC_MODEL"], env["CLAUDE_CODE_SUBAGENT_MODEL"]) == ("1", "mine", "claude-sonnet-4-5")
    own = launch.environment(spec_of(empty.link, endpoint="", token=""))
    assert not {"ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY"} & set(own)
    assert not set(env) & set(os.environ) - {"NO_PROXY", "no_proxy"}


# The transcript.


def store(box: Box, lines: list[str], session: str = NAME) -> None:
    folder = box.home / ".claude/projects/-workspace"
    folder.mkdir(parents=True)
    (folder / f"{session}.jsonl").write_text("\n".join(lines))


async def test_messages_are_found_in_the_transcript(empty: Box) -> None:
    pending = [Message(ident, "x") for ident in ("a", "b", "c", "d")]
    lines = [
        f'{{"type":"user","uuid":"{frame_id(["a", "b"])}","message":{{}}}}',
        f'{{"type":"assistant","parentUuid":"{frame_id(["c"])}"}}',
        f'{{"type":"user","uuid":"{frame_id(["d"])}","mess',  # torn by a crash
    ]
    store(empty, lines)
    found = await transcript.look(empty.link, NAME, pending)
    assert found == transcript.Found(there=True, begun=False, known=("a", "b"))


async def test_many_messages_are_looked_for(empty: Box) -> None:
    ids = [f"m{n}" for n in range(200)]
    store(empty, [f'{{"uuid":"{frame_id(ids[:150])}"}}', ""])
    found = await transcript.look(empty.link, NAME, [Message(ident, "x") for ident in ids])
    assert found.known == tuple(ids[:150])


async def test_no_transcript(empty: Box) -> None:
    assert await transcript.look(empty.link, str(uuid.uuid4()), [Message("a", "x")]) == transcript.Found(there=False, begun=False)
