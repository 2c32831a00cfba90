"""What the driver writes, judged by the protocol's own library where that is installed (it is no dependency)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from acp_replay import NAMES, Played, plain

from aegis.drivers import McpServer
from aegis.drivers.acp.driver import _CLIENT, _INFO, _PROTOCOL, _mcp

schema = pytest.importorskip("acp.schema", reason="the package agent-client-protocol is not installed")
MODELS = {
    "initialize": "InitializeRequest",
    "session/new": "NewSessionRequest",
    "session/load": "LoadSessionRequest",
    "session/fork": "ForkSessionRequest",
    "session/prompt": "PromptRequest",
    "session/cancel": "CancelNotification",
    "session/set_mode": "SetSessionModeRequest",
}


def judge(model: str, value: Any) -> None:
    getattr(schema, model).model_validate(value)


@pytest.mark.parametrize("name", NAMES)
def test_frames(name: str) -> None:
    for frame in Played(name).written:
        if (model := MODELS.get(frame.get("method", ""))) is not None:
            judge(model, frame["params"])
        elif "result" in frame:
            judge("RequestPermissionResponse", frame["result"])


def test_the_first_frames() -> None:
    judge("InitializeRequest", {"protocolVersion": _PROTOCOL, "clientCapabilities": _CLIENT, "clientInfo": _INFO})
    servers = [
        McpServer(name="a", command=["x", "y"], env={"A": "b"}),
        McpServer(name="b", url="http://127.0.0.1:1/mcp", headers={"Authorization": "Bearer T"}),
    ]
    link: Any = SimpleNamespace(mcp="http://127.0.0.1:2", mcp_command=["python", "-c", "serve"])
    own = McpServer(name="aegis", url="http://127.0.0.1:2/s/x/mcp", headers={"Authorization": "Bearer T"})
    made = [_mcp(server, plain("gemini"), {"http": True}, link) for server in [*servers, own]]
    commands = _mcp(own, plain("gemini"), {}, link)  # for an agent that takes nothing else
    env = [{"name": "AEGIS_MCP_URL", "value": own.url}, {"name": "AEGIS_MCP_TOKEN", "value": "T"}]
    assert commands == {"name": "aegis", "command": "python", "args": ["-c", "serve"], "env": env}
    made.append(commands)
    judge("NewSessionRequest", {"cwd": "/workspace", "mcpServers": made})
    judge("LoadSessionRequest", {"cwd": "/workspace", "mcpServers": made, "sessionId": "s"})
