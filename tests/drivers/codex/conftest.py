"""A sandbox of kind bwrap with the pinned Codex in it and the scripted models at its endpoint."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.drivers.claude.conftest import Box, Talk, allow
from tests.kit.clis import cli, pin
from tests.kit.model_server import ModelServer

from aegis.drivers import Answer, Asked, ConversationSpec, Installation
from aegis.drivers.codex import CodexDriver
from aegis.drivers.resolving import resolve
from aegis.sandboxes import Mount
from aegis.sandboxes.link import Link

PROBE = Path(__file__).parents[1] / "acp" / "mcp_probe.py"


def mounts() -> tuple[Mount, ...]:
    """What a sandbox must show for the pinned program."""
    return resolve(cli("codex"), ("codex",), [])[0].mounts


def real() -> CodexDriver:
    """The driver of the pinned program."""

    async def find(wanted: Any) -> Installation:
        path = cli("codex").resolve()
        return Installation(name=wanted.name, argv=[str(path)], version=pin("codex").partition("-")[0], path=path)

    return CodexDriver(find)


def spec_of(link: Link, **fields: Any) -> ConversationSpec:
    """What a conversation is started with, at the least."""
    base: dict[str, Any] = {
        "session": "host:default",
        "model": "scripted/directives",
        "dialect": "responses",
        "endpoint": f"{link.endpoint}/s/aG9zdDpkZWZhdWx0",
        "token": "token-of-the-session",
    }
    return ConversationSpec(**{**base, **fields})


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer() as one:
        yield one


@pytest.fixture
async def box(tmp_path: Path, server: ModelServer) -> AsyncIterator[Box]:
    """A sandbox in which the real program is shown."""
    one = Box(tmp_path, server, (*mounts(), Mount(PROBE, "/opt/probe.py")))
    await one.up()
    yield one
    await one.down()


@pytest.fixture
async def talk(box: Box) -> AsyncIterator[Callable[..., Any]]:
    """Start the real program in the box. Fields are those of `ConversationSpec`; `rule` answers its requests."""
    talks: list[Talk] = []

    async def start(rule: Callable[[Asked], Answer | None] = allow, **fields: Any) -> Talk:
        conversation = await real().start(box.link, spec_of(box.link, **fields))
        talks.append(Talk(conversation, rule))  # type: ignore[arg-type]  # the two conversations are used alike
        return talks[-1]

    yield start
    for one in talks:
        await one.close()
