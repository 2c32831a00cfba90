"""The official SDK as the client, over HTTP and over the bridge of standard input and output, in both eras, against a real daemon."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from tests.conftest import RealDaemon

from aegis.daemon.mcp.core import VERBS

pytestmark = pytest.mark.timeout(120)
MODES = ["auto", "legacy", "2026-07-28"]


class Inside:
    """What a program in the sandbox of an instance finds in its environment."""

    def __init__(self, real: RealDaemon, handle: str) -> None:
        self.handle = handle
        out = b""
        with closing(real.client.instances.exec(handle, ["/usr/bin/env"])) as stream:
            for item in stream:
                if item.get("s") == 1:
                    out += base64.b64decode(item["d"])
                elif item.get("done"):
                    break
        self.env = dict(line.split("=", 1) for line in out.decode().splitlines() if "=" in line)


@pytest.fixture(scope="module")
def real() -> Iterator[RealDaemon]:
    """A daemon with two agents without a boundary, so that a test reaches what their programs reach."""
    folder = Path(tempfile.mkdtemp(prefix="aegis-"))
    daemon = RealDaemon(folder / "home")
    daemon.up()
    daemon.start("a")
    daemon.start("b")
    yield daemon
    daemon.down()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def inside(real: RealDaemon) -> Inside:
    """The environment of programs of `a`."""
    return Inside(real, "a")


@asynccontextmanager
async def by_http(inside: Inside) -> Any:
    """A transport of the SDK."""
    headers = {"authorization": f"Bearer {inside.env['AEGIS_MCP_TOKEN']}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30, trust_env=False) as http,
        streamable_http_client(inside.env["AEGIS_MCP_URL"], http_client=http) as streams,
    ):
        yield streams


def by_stdio(inside: Inside) -> Any:
    """As a program is told to start the bridge."""
    command = ["-c", 'PYTHONPATH="$AEGIS_LIB" exec "$AEGIS_PYTHON" -m aegis.guest.mcp']
    return stdio_client(StdioServerParameters(command="/bin/sh", args=command, env=inside.env))


WAYS = {"http": by_http, "stdio": by_stdio}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", WAYS)
async def test_everything_an_agent_does(real: RealDaemon, inside: Inside, way: str, mode: str) -> None:
    async with Client(WAYS[way](inside), mode=mode) as client:  # type: ignore[arg-type]
        assert "aegis_meta" in (client.instructions or "") or mode == "2026-07-28"
        tools = (await client.list_tools()).tools
        assert [tool.name for tool in tools] == [verb.name for verb in VERBS]
        sessions = await client.call_tool("aegis_list_sessions", {})
        assert sessions.structured_content is not None
        assert [row["handle"] for row in sessions.structured_content["sessions"]][:2] == ["a", "b"]
        assert not sessions.is_error
        sent = await client.call_tool("aegis_handoff", {"target_handle": "b", "context": f"[[say from {way} {mode}]]", "from_handle": "a"})
        assert sent.structured_content is not None
        assert "b" in sent.structured_content["result"]
        waited = await client.call_tool("aegis_status", {"handle": "b", "wait_s": 30})
        assert waited.structured_content is not None
        assert f"from {way} {mode}" in waited.structured_content["last_turn"]["text"]
        refused = await client.call_tool("aegis_handoff", {"target_handle": "nobody", "context": "x"})
        assert refused.is_error
        with pytest.raises(MCPError, match="no tool"):
            await client.call_tool("aegis_nothing", {})


async def test_calls_side_by_side(real: RealDaemon, inside: Inside) -> None:
    """One that waits holds up no other, over either way."""
    for way in WAYS.values():
        async with Client(way(inside)) as client:
            waiting = asyncio.ensure_future(client.call_tool("aegis_status", {"wait_s": 600}))
            for _ in range(10):
                assert not (await client.call_tool("aegis_meta", {})).is_error
            assert not waiting.done()
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            assert not (await client.call_tool("aegis_meta", {})).is_error


async def test_without_the_bearer(inside: Inside) -> None:
    """What a program sees that lost its bearer: an error that says so."""
    process = await asyncio.create_subprocess_exec(
        inside.env["AEGIS_PYTHON"], "-m", "aegis.guest.mcp",
        env={**inside.env, "PYTHONPATH": inside.env["AEGIS_LIB"], "AEGIS_MCP_TOKEN": "x"},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate(b'{"jsonrpc":"2.0","id":"one","method":"ping"}\nno json\n')
    found = sorted((json.loads(line) for line in out.splitlines()), key=lambda one: str(one["id"]))
    assert found[0]["error"]["code"] == -32700
    assert found[1]["id"] == "one"
    assert "not the bearer" in found[1]["error"]["message"]
    assert process.returncode == 0


async def test_the_bridge_says_what_it_needs(tmp_path: Path) -> None:
    source = Path(__file__).parents[2] / "src"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "aegis.guest.mcp", env={"PYTHONPATH": str(source), "PATH": os.defpath}, stderr=asyncio.subprocess.PIPE
    )
    _, err = await process.communicate()
    assert process.returncode == 2
    assert b"AEGIS_MCP_URL" in err
