"""`aegis acp` as an editor starts it, with the official SDK as the editor's side of the protocol."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from acp import spawn_agent_process
from acp.client.connection import ClientSideConnection
from tests.conftest import RealDaemon

SECONDS = 30


class Editor:
    """The client's side: it keeps what it is told, and answers what it is asked by the id of an option."""

    def __init__(self) -> None:
        self.updates: list[Any] = []
        self.asked: list[Any] = []
        self.answer: Callable[[Any], str | None] = lambda request: "allow"
        self._news = asyncio.Condition()
        self.connection: ClientSideConnection

    async def session_update(self, session_id: str, update: Any, **_: Any) -> None:
        self.updates.append(update)
        async with self._news:
            self._news.notify_all()

    async def request_permission(self, session_id: str, tool_call: Any, options: Any, **_: Any) -> Any:
        asked = {"session": session_id, "call": tool_call, "options": options}
        self.asked.append(asked)
        async with self._news:
            self._news.notify_all()
        chosen = self.answer(asked)
        if chosen == "never":
            await asyncio.Event().wait()
        return {"outcome": {"outcome": "cancelled"} if chosen is None else {"outcome": "selected", "optionId": chosen}}

    async def until(self, holds: Callable[[], Any]) -> Any:
        """Wait until something is so, looking at each news."""
        async with asyncio.timeout(SECONDS), self._news:
            await self._news.wait_for(holds)
        return holds()

    def on_connect(self, connection: Any) -> None:
        return

    async def ext_method(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        return {}

    async def ext_notification(self, method: str, params: dict[str, Any]) -> None:
        return

    def of(self, kind: str) -> list[Any]:
        """The updates of one kind."""
        return [update for update in self.updates if update.session_update == kind]

    def text(self, kind: str = "agent_message_chunk") -> str:
        """All text of one kind."""
        return "".join(update.content.text for update in self.of(kind))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A project's folder, which is no home and has a name."""
    base = Path(tempfile.mkdtemp(prefix="aegis-work-"))
    (base / "shop").mkdir()
    yield (base / "shop").resolve()
    shutil.rmtree(base, ignore_errors=True)


@pytest.fixture
def home(short_home: Path) -> Iterator[RealDaemon]:
    """A home whose daemon does not run yet, and whose agents need no model and no sandbox of the machine."""
    short_home.mkdir(mode=0o700)
    (short_home / "config.yaml").write_text("defaults: {model: scripted/directives, sandbox: process}\n")
    real = RealDaemon(short_home)
    yield real
    real.down()


def environment(home: RealDaemon, **more: str) -> dict[str, str]:
    """What a program that an editor starts has around it."""
    return {**os.environ, "AEGIS_HOME": str(home.home), **more}


@contextlib.asynccontextmanager
async def editor(home: RealDaemon, *options: str) -> AsyncIterator[Editor]:
    """An editor that has started `aegis acp` and greeted it."""
    one = Editor()
    argv = ("-m", "aegis", "acp", *options)
    async with spawn_agent_process(one, sys.executable, *argv, env=environment(home), use_unstable_protocol=True) as (connection, process):
        one.connection = connection
        said = await connection.initialize(protocol_version=1)
        assert said.protocol_version == 1
        yield one
        assert process.stdin is not None
        process.stdin.close()
        async with asyncio.timeout(SECONDS):
            assert await process.wait() == 0
