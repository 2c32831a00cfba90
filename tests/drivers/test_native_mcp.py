"""The native driver and MCP servers: what the agent is told of them, and what comes back of their tools."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
from model_server import ModelServer, Say, call, text
from tests.drivers.test_native_driver import link, server, spec, turn
from tests.kit import mcp_server

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import Outcome, ToolCall, ToolResult
from aegis.drivers import Finished, McpServer, Noted, Record
from aegis.drivers.native import NativeDriver, _servers

if TYPE_CHECKING:
    from aegis.sandboxes.link import Link

__all__ = ["link", "server"]
COMMAND = [getattr(sys, "_base_executable", sys.executable), "-I", "-S", mcp_server.__file__]


async def test_a_turn_with_servers(link: Link, server: ModelServer) -> None:
    server.script = [Say([call("kit__add", {"a": 1, "b": 2}), call("gone__x", {"what": "y"}, "t2")]), Say([text("Done.")])]
    servers = [McpServer(name="kit", command=COMMAND), McpServer(name="gone", command=["/nowhere/at-all"])]
    conversation = await NativeDriver().start(link, spec(mcp=servers))
    seen = await turn(conversation, conversation.events(), "go")
    assert seen[-1] == Finished(Outcome.COMPLETED, "Done.", None, 2)
    facts = [fact for event in seen if isinstance(event, Record) for fact in event.facts]
    calls = [(f.name, f.kind, f.title) for f in facts if isinstance(f, ToolCall)]
    assert calls == [("kit__add", "other", ""), ("gone__x", "other", "y")]
    assert [(f.name, f.ok, f.output[:30]) for f in facts if isinstance(f, ToolResult)] == [
        ("kit__add", True, "3"),
        ("gone__x", False, "error: there is no tool `gone_"),
    ]
    [noted] = [event for event in seen if isinstance(event, Noted)]
    assert noted.text.startswith("MCP server `gone`: ended with exit code 127: cannot run /nowhere/at-all")
    await conversation.close()


class _Link:
    def __init__(self, mcp: str | None) -> None:
        self._mcp = mcp

    @property
    def mcp(self) -> str:
        if self._mcp is None:
            raise AegisError(ErrorKind.UNAVAILABLE, "none")
        return self._mcp


@pytest.mark.parametrize(
    ("endpoint", "url", "own"),
    [
        ("http://127.0.0.1:7", "http://127.0.0.1:7/s/aG9zdA/mcp", True),
        ("http://127.0.0.1:7", "http://127.0.0.1:77/s/aG9zdA/mcp", False),
        ("http://127.0.0.1:7", "http://127.0.0.1:7.evil/s/aG9zdA/mcp", False),
        ("http://127.0.0.1:7", "", False),
        (None, "http://127.0.0.1:7/s/aG9zdA/mcp", False),
    ],
)
def test_only_the_servers_behind_the_guest_are_believed(endpoint: str | None, url: str, own: bool) -> None:
    """Neither a name nor a place in the list makes a server Aegis's own."""
    given = McpServer(name="aegis", url=url, headers={"a": "b"}) if url else McpServer(name="aegis", command=["x"], env={"A": "b"})
    link: Any = _Link(endpoint)
    [told] = _servers(link, spec(mcp=[given]))
    assert told == {"name": "aegis", "command": given.command, "env": given.env, "url": url, "headers": given.headers, "own": own}
