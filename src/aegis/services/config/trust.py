"""Which declarations a person has read and accepted: the table `trusted_projects`.

Trust is in a path with a content, so an edit, a pull or a switch to an unknown branch asks again, and a switch back does not. It does
not look at what the declarations say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aegis.core.text import one_line

if TYPE_CHECKING:
    from pathlib import Path

    from aegis.core.clock import Clock
    from aegis.services.config.model import AgentDefinition, ProjectConfig, ToolServer
    from aegis.store import Store


_SANDBOXES: Final = {None: "the strongest sandbox here", "process": "NO sandbox (process): it acts as you"}

_ASKED: Final = {
    "auto": "approvals auto: nobody is asked before it uses a tool",
    "ask": "approvals ask: a person is asked before it uses a tool",
}


class Trust:
    """Remembers trusted (project, hash) pairs."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def is_trusted(self, project: Path, digest: str) -> bool:
        """Whether a person accepted exactly this content at exactly this path."""
        return bool(
            self._store.read(
                lambda db: db.execute("SELECT 1 FROM trusted_projects WHERE path = ? AND hash = ?", (str(project), digest)).fetchone(),
            )
        )

    async def trust(self, project: Path, digest: str) -> None:
        """Remember it; returns when that is on disk."""
        row = (str(project), digest, self._clock.now())
        await self._store.write(lambda tx: tx.execute("INSERT OR IGNORE INTO trusted_projects (path, hash, at) VALUES (?, ?, ?)", row))


def summary(config: ProjectConfig) -> list[str]:
    """What the declarations would do, as printable lines: what each agent runs in, sees and is given, and where keys would be sent."""
    lines = [f"default agent: {config.default_agent}"]
    for agent in config.agents.values():
        lines.extend(_agent_lines(agent))
    for provider in config.providers.values():
        secret = f", with the secret {provider.secret}" if provider.secret else ", without a key"
        lines.append(f"provider {provider.name}: model calls go to {provider.base_url}{secret}")
    for server in config.tool_servers.values():
        if server.origin == "project":
            lines.extend(server_lines(server))
    return [one_line(line, 500) for line in lines]


def server_lines(server: ToolServer) -> list[str]:
    """What a tool server would do, as lines."""
    name = f"tool server {server.name}"
    if server.command:
        sandbox = "NO sandbox (process): it acts as you" if server.sandbox == "process" else "a sandbox of its own"
        lines = [f"{name}: starts {' '.join(server.command)} in {sandbox}"]
        if server.workspace != "none":
            lines.append(f"{name}: may {server.workspace} the workspace of the agent")
    else:
        lines = [f"{name}: the daemon sends what agents call to {server.url}"]
        lines.extend(f"{name}: with the header {key}: {value}" for key, value in server.headers.items())
    if server.env:
        lines.append(f"{name}: sets {', '.join(server.env)}")
    lines.extend(f"{name}: may connect to {rule}" for rule in server.egress)
    lines.extend(f"{name}: {'can write' if mount.writable else 'sees'} {mount.source}" for mount in server.mounts)
    lines.extend(f"{name}: is given the value of the secret {secret}" for secret in server.exposed)
    return [one_line(line, 500) for line in lines]


def _agent_lines(agent: AgentDefinition) -> list[str]:
    sandbox = _SANDBOXES.get(agent.sandbox, f"sandbox {agent.sandbox}")
    lines = [f"agent {agent.name}: {sandbox}, permission {agent.permission}, model {agent.model or 'chosen at start'}"]
    lines.append(f"agent {agent.name}: runs {agent.provider}, {_ASKED[agent.approvals]}")
    if agent.guard != "hold":
        lines.append(f"agent {agent.name}: what it leaves for your git, editor or shell to run STAYS there (guard: {agent.guard})")
    if agent.approvals_default == "approve":
        lines.append(f"agent {agent.name}: MAY DO WHAT NOBODY LOOKED AT: what is not answered in time counts as approved")
    may = agent.spawn
    if may.depth and may.children and may.total:
        deep = f"{may.depth} generations" if may.depth > 1 else "one generation"
        lines.append(
            f"agent {agent.name}: may start {may.children} agents by itself, {may.total} with theirs, {deep}, none with more rights"
        )
    if agent.security is not None:
        lines.append(f"agent {agent.name}: calls only what the security context {agent.security} lists")
    if agent.auth == "login":
        lines.append(f"agent {agent.name}: is given a COPY OF YOUR LOGIN to {agent.provider} (auth login)")
    lines.extend(f"agent {agent.name}: may connect to {rule}" for rule in agent.egress)
    for server in agent.mcp:
        use = f"starts {' '.join(server.command)}" if server.command else f"is reached at {server.url}"
        given = f", with {', '.join([*server.env, *server.headers])}" if server.env or server.headers else ""
        lines.append(f"agent {agent.name}: the MCP server {server.name} {use}{given}")
    if agent.workspace:
        lines.append(f"agent {agent.name}: workspace {agent.workspace}")
    lines.extend(f"agent {agent.name}: {'can write' if mount.writable else 'sees'} {mount.source}" for mount in agent.mounts)
    if agent.tool_servers:
        lines.append(f"agent {agent.name}: uses the tool servers {', '.join(agent.tool_servers)}")
    for secret in agent.secrets:
        use = "is given the value of" if secret in agent.exposed else "uses, through the daemon,"
        lines.append(f"agent {agent.name}: {use} the secret {secret}")
    if agent.env:
        lines.append(f"agent {agent.name}: sets {', '.join(agent.env)}")
    return lines
