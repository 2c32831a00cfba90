"""The driver with a scripted agent in a real sandbox of kind `process`: its life, and what goes wrong with it."""

from __future__ import annotations

import asyncio
import shutil
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from aegis.core.envelopes import Image
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import Outcome, SessionSettings, Text, TextDelta
from aegis.drivers import (
    Answer,
    Asked,
    ConversationSpec,
    Died,
    DriverEvent,
    Finished,
    Happened,
    Installation,
    McpServer,
    Message,
    Withdrawn,
)
from aegis.drivers.acp import AcpDriver, conversation
from aegis.drivers.acp.conversation import AcpConversation
from aegis.drivers.acp.spec import parse
from aegis.drivers.programs import Programs
from aegis.sandboxes import Mount, SandboxSpec
from aegis.sandboxes.link import Link
from aegis.sandboxes.process import ProcessKind

FILE = """
name = "fake"
title = "Fake"
dialects = ["openai"]
images = true
fork = true
program = { command = ["fake"], install = "make fake" }
environment = { SEEN = "{endpoint} {token} {model} {permission}" }
model = { switch = "set_model" }
modes = { known = ["build", "plan"], read = "plan" }
files = { "{tmp}/a/b.txt" = "{system}" }
"""


class Fake(AcpDriver):
    """The driver of the scripted agent, which needs not be found."""

    def __init__(self, *settings: str, more: str = "") -> None:
        super().__init__(parse(FILE + more, "fake.toml"), Programs(path=""))
        self._argv = [sys.executable, str(Path(__file__).parent / "fake_agent.py"), *settings]

    async def locate(self) -> Installation:
        return Installation(name="fake", argv=self._argv, version="1", path=Path("fake"))


@pytest.fixture
async def link(tmp_path: Path) -> AsyncIterator[Link]:
    (tmp_path / "work").mkdir()
    mount = Mount(tmp_path / "work", str(tmp_path / "work"), writable=True)
    spec = SandboxSpec(id=uuid.uuid4().hex, index=1, handle="one", home=tmp_path / "home", state=tmp_path / "home/state", workspace=mount)
    sandbox = ProcessKind().create(spec)
    yield await sandbox.start()
    await sandbox.stop(0.0)


def spec(tmp_path: Path, **fields: Any) -> ConversationSpec:
    base = {
        "session": "host:default",
        "model": "p/m",
        "dialect": "openai",
        "endpoint": "http://e",
        "token": "t",
        "cwd": str(tmp_path / "work"),
    }
    return ConversationSpec(**{**base, **fields})


async def turn(
    started: AcpConversation, text: str, answer: Answer | None = None, events: AsyncIterator[DriverEvent] | None = None
) -> list[DriverEvent]:
    """A turn up to its end, or the end of the process."""
    await started.send("t", [Message("m", text)])
    seen: list[DriverEvent] = []
    async for event in events or started.events():
        seen.append(event)
        if isinstance(event, Asked) and answer is not None:
            await started.answer(event.id, answer)
        if isinstance(event, Finished | Died):
            break
    return seen


async def until(events: AsyncIterator[DriverEvent], kind: type) -> Any:
    async for event in events:
        if isinstance(event, kind) or (isinstance(event, Happened) and isinstance(event.fact, kind)):
            return event
    raise AssertionError("it ended")


def texts(events: list[DriverEvent]) -> list[str]:
    return [event.fact.text for event in events if isinstance(event, Happened) and isinstance(event.fact, Text)]


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "ZX"


async def test_turns(link: Link, tmp_path: Path) -> None:
    started = await Fake().start(link, spec(tmp_path, permission="read", system="Be good."))
    assert (started.opened.program_session, started.opened.version, started.opened.model, started.opened.mode) == (
        "s-1",
        "9",
        "p/m",
        "plan",
    )
    seen = await turn(started, "think:hm say:a say:b tool say:c unknown garbage say:d")
    assert texts(seen) == ["ab", "cd"]
    assert seen[-1] == Finished(Outcome.COMPLETED, "cd", reason="end_turn")
    assert texts(await turn(started, "env:SEEN")) == ["http://e t m read"]
    [tmp] = texts(await turn(started, "env:TMPDIR"))
    assert (Path(tmp) / "a/b.txt").read_text() == "Be good."
    await started.close()
    await started.close()
    assert not Path(tmp).exists()
    assert [event async for event in started.events()] == []


async def test_the_instructions_come_before_the_first_message_alone(link: Link, tmp_path: Path) -> None:
    started = await Fake().start(link, spec(tmp_path, system="say:first"))
    assert texts(await turn(started, "say:second")) == ["firstsecond"]
    assert texts(await turn(started, "say:third")) == ["third"]
    await started.close()


@pytest.mark.parametrize(("answer", "option"), [(Answer(True), '"y"'), (Answer(False, "no"), '"n"')])
@pytest.mark.parametrize("ident", ["", "one"])
async def test_leave(link: Link, tmp_path: Path, answer: Answer, option: str, ident: str) -> None:
    started = await Fake().start(link, spec(tmp_path))
    seen = await turn(started, f"ask:{ident} say:!", answer)
    assert option in texts(seen)[0]
    await started.answer("unknown", answer)
    await started.close()


async def test_it_writes_no_file_by_our_hand(link: Link, tmp_path: Path) -> None:
    started = await Fake().start(link, spec(tmp_path))
    assert texts(await turn(started, f"fs:{tmp_path}/evil")) == ["-32601"]
    assert not (tmp_path / "evil").exists()
    await started.close()


@pytest.mark.parametrize("number", range(7))
async def test_death_at_each_frame(link: Link, tmp_path: Path, number: int) -> None:
    """Before the session is open the start fails; after it the events end with `Died`. Nothing waits for ever."""
    driver = Fake(f"--die-at={number}")
    if number < 2:
        with pytest.raises(AegisError, match="did not start") as raised:
            await driver.start(link, spec(tmp_path))
        assert raised.value.kind is ErrorKind.FAILED
        assert raised.value.data["exit"] == 9
        assert f"dead at {number}" in raised.value.data["stderr"]
        return
    started = await driver.start(link, spec(tmp_path))
    seen = await turn(started, "say:a tool say:b say:c")
    assert isinstance(seen[-1], Died)
    assert seen[-1].exit == 9
    with pytest.raises(AegisError):
        await started.configure(mode="plan")
    await started.interrupt()
    await started.close()


async def test_death_tells_what_was_said(link: Link, tmp_path: Path) -> None:
    started = await Fake().start(link, spec(tmp_path))
    seen = await turn(started, "garbage stderr:help die:3")
    assert isinstance(seen[-1], Died)
    assert seen[-1].exit == 3
    assert "not json" in seen[-1].stderr
    assert "help" in seen[-1].stderr
    await started.close()


async def test_cut(link: Link, tmp_path: Path) -> None:
    started = await Fake("--late=1").start(link, spec(tmp_path))
    events = started.events()
    await started.send("t", [Message("m", "say:a wait say:b")])
    await until(events, TextDelta)
    await started.interrupt()
    assert (await until(events, Finished)).outcome is Outcome.CANCELLED
    await started.interrupt()
    assert texts(await turn(started, "say:next", events=events)) == ["next"]
    await started.close()


async def test_cut_while_it_asks(link: Link, tmp_path: Path) -> None:
    started = await Fake().start(link, spec(tmp_path))
    events = started.events()
    await started.send("t", [Message("m", "ask")])
    asked = await until(events, Asked)
    await started.interrupt()
    assert await until(events, Withdrawn) == Withdrawn(asked.id)
    assert (await until(events, Finished)).outcome is Outcome.CANCELLED
    await started.close()


async def test_cut_of_a_program_that_does_not_listen(link: Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "_CANCEL_SECONDS", 0.01)
    started = await Fake().start(link, spec(tmp_path))
    events = started.events()
    await started.send("t", [Message("m", "say:a hang")])
    await until(events, TextDelta)
    await started.interrupt()
    rest = [event async for event in events if not isinstance(event, Happened)]
    assert [type(event) for event in rest] == [Finished, Died]
    assert rest[0].outcome is Outcome.CANCELLED  # type: ignore[union-attr]
    await started.close()


async def test_a_flood_waits_for_its_reader(link: Link, tmp_path: Path) -> None:
    started = await Fake().start(link, spec(tmp_path))
    events = started.events()
    await started.send("t", [Message("m", "flood:30000")])
    await until(events, TextDelta)
    while len(started._events) < conversation._MOST_UNREAD:
        await asyncio.sleep(0.01)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(started._events) < conversation._MOST_UNREAD * 3
    assert len((await until(events, Finished)).text) == 30000
    await started.close()


async def test_a_large_frame(link: Link, tmp_path: Path) -> None:
    started = await Fake().start(link, spec(tmp_path))
    assert len((await turn(started, "big:8000000"))[-1].text) == 8_000_000  # type: ignore[union-attr]
    await started.close()


async def test_nothing_is_left_of_it(link: Link, tmp_path: Path) -> None:
    started = await Fake().start(link, spec(tmp_path))
    [pid] = texts(await turn(started, "child"))
    assert alive(int(pid))
    await started.close()
    assert not alive(int(pid))


async def test_close_in_a_turn_that_hangs(link: Link, tmp_path: Path) -> None:
    started = await Fake().start(link, spec(tmp_path))
    events = started.events()
    await started.send("t", [Message("m", "child hang")])
    pid = int((await until(events, TextDelta)).fact.text)
    await started.close()
    assert not alive(pid)


async def test_settings(link: Link, tmp_path: Path) -> None:
    started = await Fake().start(link, spec(tmp_path))
    events = started.events()
    await started.configure(model="p/other", mode="plan")
    assert [(await until(events, SessionSettings)).fact for _ in range(2)] == [
        SessionSettings(mode="plan"),
        SessionSettings(model="p/other"),
    ]
    for wanted, kind in (
        ({"mode": "paln"}, ErrorKind.NOT_FOUND),
        ({"model": "p/bad"}, ErrorKind.CONFLICT),
        ({"effort": "high"}, ErrorKind.CONFLICT),
    ):
        with pytest.raises(AegisError) as raised:
            await started.configure(**wanted)
        assert raised.value.kind is kind
    await started.close()


async def test_pictures(link: Link, tmp_path: Path) -> None:
    message = Message("m", "say:x", [Image("image/png", b"1")])
    started = await Fake().start(link, spec(tmp_path))
    await started.send("t", [message])
    assert (await until(started.events(), Finished)).outcome is Outcome.COMPLETED
    started.images = False
    with pytest.raises(AegisError, match="takes no pictures"):
        await started.send("t", [message])
    await started.close()


async def test_two_turns_at_once_are_refused(link: Link, tmp_path: Path) -> None:
    started = await Fake().start(link, spec(tmp_path))
    await started.send("t", [Message("m", "wait")])
    with pytest.raises(AegisError) as raised:
        await started.send("u", [Message("n", "say:x")])
    assert raised.value.kind is ErrorKind.CONFLICT
    await started.close()


async def test_going_on(link: Link, tmp_path: Path) -> None:
    pending = [Message("a", "one"), Message("b", "two"), Message("c", "three"), Message("d", "thr")]
    started = await Fake().start(link, spec(tmp_path, resume="s-1", pending=pending, system="say:never"))
    assert (started.opened.resumed, started.opened.known) == (True, ("b", "c"))
    assert texts(await turn(started, "say:x")) == ["x"]
    await started.close()
    forked = await Fake().start(link, spec(tmp_path, resume="s-0", fork=True))
    assert forked.opened.program_session == "s-1"
    await forked.close()
    with pytest.raises(AegisError) as raised:
        await Fake().start(link, spec(tmp_path, resume="gone"))
    assert raised.value.kind is ErrorKind.NOT_FOUND


async def test_login(link: Link, tmp_path: Path) -> None:
    with pytest.raises(AegisError, match="not logged in") as raised:
        await Fake("--login=1").start(link, spec(tmp_path))
    assert raised.value.kind is ErrorKind.DENIED
    started = await Fake("--login=1", more='[login]\nmethod = "key"\n').start(link, spec(tmp_path))
    await started.close()


async def test_its_own_login_leaves_out_what_names_the_endpoint(link: Link, tmp_path: Path) -> None:
    started = await Fake(more='[login]\nenvironment = { OTHER = "{model}" }\n').start(link, spec(tmp_path, endpoint="", token=""))
    assert texts(await turn(started, "env:SEEN")) == ["-"]
    assert texts(await turn(started, "env:OTHER")) == ["m"]
    await started.close()


async def test_another_protocol(link: Link, tmp_path: Path) -> None:
    with pytest.raises(AegisError, match="version 2 of the protocol") as raised:
        await Fake("--protocol=2").start(link, spec(tmp_path))
    assert raised.value.kind is ErrorKind.UNAVAILABLE


async def test_it_says_nothing(link: Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aegis.drivers.acp.driver._START_SECONDS", 0.5)
    with pytest.raises(AegisError, match="was not ready within") as raised:
        await Fake("--mute=1").start(link, spec(tmp_path))
    assert raised.value.kind is ErrorKind.FAILED


async def test_a_server_of_tools_that_it_cannot_reach(link: Link, tmp_path: Path) -> None:
    with pytest.raises(AegisError, match="does not reach the MCP server `far`"):
        await Fake().start(link, spec(tmp_path, mcp=[McpServer(name="far", url="http://127.0.0.1:1/mcp")]))


async def test_a_program_that_is_not_there(link: Link, tmp_path: Path) -> None:
    with pytest.raises(AegisError) as raised:
        await AcpDriver(parse(FILE, "fake.toml"), Programs(path=str(tmp_path))).start(link, spec(tmp_path))
    assert raised.value.kind is ErrorKind.NOT_FOUND
    assert "make fake" in raised.value.hint


async def test_the_sandbox_goes(link: Link, tmp_path: Path) -> None:
    started = await Fake().start(link, spec(tmp_path))
    await started.send("t", [Message("m", "say:a hang")])
    events = started.events()
    await until(events, TextDelta)
    await link.close()
    assert "the sandbox is gone" in (await until(events, Died)).stderr
    await started.close()


async def test_the_largest_file_is_the_session(link: Link, tmp_path: Path) -> None:
    folder = tmp_path / "home/state/home/x/one"
    folder.mkdir(parents=True)
    for name, size in (("s-1-abcdefgh.log", 3), ("s-2-abcdefgh.log", 9), ("s-3-other.log", 99)):
        (folder / name).write_text("x" * size)
    more = '[resume.rename]\ndirectory = "x/*"\nmatch = "s-*-{short}.log"\nto = "s-0-{short}.log"\n'
    for _ in range(2):
        started = await Fake(more=more).start(link, spec(tmp_path, resume="abcdefgh-1234"))
        await started.close()
        assert (folder / "s-0-abcdefgh.log").read_text() == "x" * 9
        assert not (folder / "s-1-abcdefgh.log").exists()
        assert (folder / "s-3-other.log").exists()
    shutil.rmtree(folder)
