"""How Codex is started: its configuration, its environment, its MCP servers, what it knows of models.

Its own sandbox is off, for Aegis's is the wall, and it asks for leave for all that it does not know to be harmless. What is given on
its command line comes before every file, so that neither a repository nor the agent's own HOME can change it. Nothing is sent
anywhere but to the endpoint.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any, Final

import msgspec

from aegis.core.errors import AegisError, ErrorKind, unknown_name
from aegis.drivers import ConversationSpec
from aegis.drivers.claude.frames import a_dict, a_list, a_text

EFFORTS: Final = ("minimal", "low", "medium", "high", "xhigh", "max")
#: The variable that holds what it presents to the endpoint.
KEY: Final = "AEGIS_CODEX_KEY"
#: How often a failed model call is tried again, each time told to us. The waits grow from 0.2 s by doubling.
_RETRIES: Final = 10
#: Off: what asks others than the model, what goes on without being asked, and its own sub-agents, for Aegis has some.
_OFF: Final = ("plugins", "apps", "goals", "memories", "multi_agent", "multi_agent_v2", "image_generation", "shell_snapshot")
#: What of a known model makes Codex hide tools from it, or hand them to it in another way than as tools.
_DIRECT: Final[dict[str, Any]] = {
    "supports_search_tool": False,
    "tool_mode": None,
    "use_responses_lite": False,
    "multi_agent_version": None,
    "experimental_supported_tools": [],
}


def model_of(name: str) -> str:
    """The program's part of a model's name. Raises AegisError(USAGE) where there is none."""
    model = name.partition("/")[2]
    if not model:
        raise AegisError(ErrorKind.USAGE, f"the model {name!r} does not name a provider and a model", "`provider/model`")
    return model


def effort_of(wanted: str | None) -> str | None:
    """How hard it is to think. Raises AegisError(NOT_FOUND) for a word that it does not know."""
    if wanted is not None and wanted not in EFFORTS:
        raise unknown_name("effort of codex", wanted, EFFORTS)
    return wanted


def arguments(spec: ConversationSpec, models: str | None) -> list[str]:
    """The arguments. `models` is the file that says what it is to know of models."""
    settings: dict[str, Any] = {
        "check_for_update_on_startup": False,
        "analytics.enabled": False,
        "feedback.enabled": False,
        "otel.exporter": "none",
        "web_search": "disabled",  # the provider would look things up for it, past every rule about the network
        "history.persistence": "none",
        "cli_auth_credentials_store": "file",
        "model_auto_compact_token_limit": spec.limits.context_tokens,
        **{f"features.{name}": False for name in _OFF},
        "projects": {str(path): {"trust_level": "untrusted"} for path in (PurePosixPath(spec.cwd), *PurePosixPath(spec.cwd).parents)},
    }
    if spec.endpoint:  # without one it uses its own login
        settings["model_provider"] = "aegis"
        settings["model_providers.aegis"] = {
            "name": "Aegis",
            "base_url": f"{spec.endpoint}/v1",
            "wire_api": "responses",
            "env_key": KEY,
            "request_max_retries": 0,  # these would not be told
            "stream_max_retries": _RETRIES,
        }
    if models is not None:
        settings["model_catalog_json"] = models
    return ["app-server", *(word for key, value in settings.items() for word in ("-c", f"{key}={_toml(value)}"))]


def environment(spec: ConversationSpec, home: str, tmp: str) -> dict[str, str]:
    """What is added to the sandbox's own environment, which has HOME."""
    env = {"CODEX_HOME": f"{home}/.codex", "TMPDIR": tmp, "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
    if not spec.endpoint:
        env = {"CODEX_HOME": env["CODEX_HOME"], "TMPDIR": tmp}
    if spec.token:
        env[KEY] = spec.token
    return {**spec.env, **env}


def thread(spec: ConversationSpec, repository: str = "") -> dict[str, Any]:
    """What a thread is started, resumed or copied with; `repository` is what its AGENTS.md says."""
    asked: dict[str, Any] = {
        "cwd": spec.cwd,
        "model": model_of(spec.model),
        "approvalPolicy": "untrusted",
        "sandbox": "danger-full-access",
        "config": {"mcp_servers": _servers(spec)},
    }
    parts = [spec.system] if spec.system else []
    if repository:
        parts.append(f"The repository says in its AGENTS.md:\n\n{repository}")
    if parts:
        asked["developerInstructions"] = "\n\n".join(parts)
    return asked


def catalogue(told: bytes) -> bytes | None:
    """What Codex is to know of models: what it knows, changed so that its tools are there as tools; None where it tells nothing."""
    try:
        known = msgspec.json.decode(told)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    models = [
        model | {key: value for key, value in _DIRECT.items() if key in model} for model in map(a_dict, a_list(a_dict(known).get("models")))
    ]
    models = [model for model in models if a_text(model.get("slug"))]
    return msgspec.json.encode({"models": models}) if models else None


def _servers(spec: ConversationSpec) -> dict[str, Any]:
    servers: dict[str, Any] = {}
    for server in spec.mcp:
        if server.url:
            one: dict[str, Any] = {"url": server.url, "http_headers": server.headers}
        else:
            command, *rest = server.command
            one = {"command": command, "args": rest, "env": server.env}
        servers[server.name] = one | {"tool_timeout_sec": spec.limits.turn_seconds, "default_tools_approval_mode": "prompt"}
    return servers


def _toml(value: Any) -> str:
    """A value as TOML on one line; a text as JSON is one in TOML too."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{_toml(str(key))}={_toml(inner)}" for key, inner in value.items()) + "}"
    return msgspec.json.encode(value).decode()
