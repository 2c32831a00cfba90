"""How Claude Code is started: its arguments, its environment, its MCP servers.

All model slots name the one model, so that nothing else is asked for; no settings files are read, so that what a workspace
carries cannot change what the program may do; and nothing is sent anywhere but to the endpoint.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from aegis.core.errors import AegisError, ErrorKind, unknown_name
from aegis.drivers import ConversationSpec

#: Modes that ask for what they do not allow. `bypassPermissions` never asks, so Aegis's answers would mean nothing.
MODES: Final = ("default", "acceptEdits", "plan", "dontAsk")
#: Those in which it edits without asking; in the last one it asks for nothing, and refuses instead.
UNASKING: Final = ("acceptEdits",)
EFFORTS: Final = ("low", "medium", "high", "xhigh", "max")
#: What keeps it from talking to anybody but its model, from updating itself, and from planning for times when nobody wakes it.
QUIET: Final = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_TELEMETRY": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "DISABLE_BUG_COMMAND": "1",
    "CLAUDE_CODE_DISABLE_FEEDBACK_SURVEY": "1",
    "CLAUDE_CODE_DISABLE_CRON": "1",
    "CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS": "1",
}
_SLOTS: Final = (
    "ANTHROPIC_MODEL",
    "ANTHROPIC_SMALL_FAST_MODEL",
    "ANTHROPIC_DEFAULT_OPUS_MODEL",
    "ANTHROPIC_DEFAULT_SONNET_MODEL",
    "ANTHROPIC_DEFAULT_HAIKU_MODEL",
    "ANTHROPIC_DEFAULT_FABLE_MODEL",
    "CLAUDE_CODE_SUBAGENT_MODEL",
)


def model_of(name: str) -> str:
    """The program's part of a model's name. Raises AegisError(USAGE) where there is none."""
    model = name.partition("/")[2]
    if not model:
        raise AegisError(ErrorKind.USAGE, f"the model {name!r} does not name a provider and a model", "`provider/model`")
    return model


def mode_of(wanted: str | None) -> str:
    """The permission mode to start in: the one in which it asks, unless another is wanted. Raises AegisError(NOT_FOUND)."""
    if wanted is None:
        return "default"
    if wanted not in MODES:
        raise unknown_name("permission mode of claude-code", wanted, MODES)
    return wanted


def arguments(spec: ConversationSpec, session: str, *, resume: bool) -> list[str]:
    """The arguments. `session` is the name that the session will have; with `resume` that of `spec.resume` is gone on with."""
    argv = ["-p", "--input-format", "stream-json", "--output-format", "stream-json", "--verbose", "--include-partial-messages"]
    argv += ["--permission-prompt-tool", "stdio", "--permission-mode", mode_of(spec.mode), "--model", model_of(spec.model)]
    argv += ["--setting-sources", "", "--max-turns", str(spec.limits.rounds)]
    argv += ["--strict-mcp-config", "--mcp-config", msgspec.json.encode({"mcpServers": _servers(spec)}).decode()]
    if spec.effort is not None:
        if spec.effort not in EFFORTS:
            raise unknown_name("effort of claude-code", spec.effort, EFFORTS)
        argv += ["--effort", spec.effort]
    if resume:
        argv += [f"--resume={spec.resume}"]
    if resume and spec.fork:
        argv += ["--fork-session"]
    if not resume or spec.fork:
        argv += ["--session-id", session]
    return argv


def environment(spec: ConversationSpec) -> dict[str, str]:
    """What is added to the sandbox's own environment, which has HOME and TMPDIR."""
    env = {**QUIET, **dict.fromkeys(_SLOTS, model_of(spec.model))}
    env["BASH_DEFAULT_TIMEOUT_MS"] = str(int(spec.limits.tool_seconds * 1000))
    if spec.endpoint:  # without one it uses its own login
        env["ANTHROPIC_BASE_URL"] = spec.endpoint
        env["NO_PROXY"] = env["no_proxy"] = "127.0.0.1,localhost"
    if spec.token:
        env["ANTHROPIC_API_KEY"] = spec.token
    return {**env, **spec.env}


def _servers(spec: ConversationSpec) -> dict[str, Any]:
    servers: dict[str, Any] = {}
    for server in spec.mcp:
        if server.url:
            servers[server.name] = {"type": "http", "url": server.url, "headers": server.headers, "alwaysLoad": True}
        else:
            command, *rest = server.command
            servers[server.name] = {"type": "stdio", "command": command, "args": rest, "env": server.env, "alwaysLoad": True}
    return servers
