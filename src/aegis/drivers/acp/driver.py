"""The driver of one agent that its data file describes: finding it, starting it, opening its session."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import TYPE_CHECKING, Any, Final

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.version import __version__
from aegis.drivers import Capabilities, ConversationSpec, Installation, Opened
from aegis.drivers.acp import files, templates
from aegis.drivers.acp.conversation import AcpConversation
from aegis.drivers.acp.failures import AUTH_REQUIRED, NOT_FOUND
from aegis.drivers.acp.machine import Machine
from aegis.drivers.acp.transcript import Transcript
from aegis.drivers.programs import Programs, ProgramSpec

if TYPE_CHECKING:
    from aegis.drivers import McpServer
    from aegis.drivers.acp.spec import AgentSpec
    from aegis.sandboxes.link import Link

_START_SECONDS: Final = 60.0
_PROTOCOL: Final = 1
_INFO: Final = {"name": "aegis", "title": "Aegis", "version": __version__}
#: Files and terminals are the agent's own business in its own sandbox.
_CLIENT: Final = {"fs": {"readTextFile": False, "writeTextFile": False}, "terminal": False}


class AcpDriver:
    """Starts one kind of agent. See the port."""

    def __init__(self, agent: AgentSpec, programs: Programs) -> None:
        self.agent = agent
        self.name = agent.name
        self.dialects = agent.dialects
        self.capabilities = Capabilities(
            resume=agent.resume.how != "none",
            fork=agent.fork,
            permission_requests=True,
            images=agent.images,
            switch_model=agent.model.switch != "none",
            modes=agent.modes.known,
            unasking=agent.modes.unasking,
            efforts=agent.effort.known,
            forgets_failed=agent.quirks.forgets_failed,
        )
        self._programs = programs

    @property
    def program(self) -> ProgramSpec:
        """What is looked for."""
        wanted = self.agent.program
        return ProgramSpec(
            name=self.name,
            command=wanted.command,
            pinned=wanted.pinned,
            oldest=wanted.oldest,
            install=wanted.install,
            version_args=wanted.version_args,
            env={name: value for name, value in self.agent.environment.items() if isinstance(value, str) and "{" not in value},
        )

    async def locate(self) -> Installation:
        """Find the program; see the port."""
        return await self._programs.find(self.program)

    async def start(self, link: Link, spec: ConversationSpec) -> AcpConversation:
        """Start the program and open its session; see the port."""
        found = await self.locate()
        agent = self.agent
        place = await files.make(link, agent.name, spec.session)
        values = _values(agent, spec, place)
        argv, env = _command(agent, found, spec, values)
        try:
            for path, content in agent.files.items():
                # With its own login, what is in HOME came with that.
                if spec.endpoint or not (_wants_endpoint(content) or path.startswith("{home}/")):
                    await files.write(link, templates.text(path, values), templates.document(content, values))
            if spec.resume and agent.resume.rename is not None:
                await files.rename(link, agent.resume.rename, spec.resume)
            program = await link.run(argv, env=env, cwd=spec.cwd)
        except BaseException:
            await asyncio.shield(files.sweep(link, place))
            raise
        machine = Machine(agent, provider=spec.model.rpartition("/")[0] and spec.model.partition("/")[0])
        first = spec.system if agent.quirks.system == "prompt" and not spec.resume else None
        conversation = AcpConversation(agent, link, program, place, machine, first)
        try:
            async with asyncio.timeout(_START_SECONDS):
                conversation.begin(await self._open(link, conversation, spec, found))
        except TimeoutError:
            await conversation.close()
            text = f"{agent.title} was not ready within {_START_SECONDS:g} s"
            raise AegisError(ErrorKind.FAILED, text, "aegis doctor", exit=None, stderr=machine.output.said) from None
        except BaseException:
            await conversation.close()
            raise
        return conversation

    async def _open(self, link: Link, conversation: AcpConversation, spec: ConversationSpec, found: Installation) -> Opened:
        params = {"protocolVersion": _PROTOCOL, "clientCapabilities": _CLIENT, "clientInfo": _INFO}
        hello = await conversation.call("initialize", params)
        if hello.get("protocolVersion") != _PROTOCOL:
            text = f"{self.agent.title} speaks version {hello.get('protocolVersion')!r} of the protocol, not {_PROTOCOL}"
            raise AegisError(ErrorKind.UNAVAILABLE, text, self.agent.program.install and f"`{self.agent.program.install}`")
        can = _table(hello, "agentCapabilities")
        conversation.images = self.agent.images and bool(_table(can, "promptCapabilities").get("image"))
        servers = [_mcp(server, self.agent, _table(can, "mcpCapabilities"), link) for server in spec.mcp]
        where = {"cwd": spec.cwd, "mcpServers": servers}
        try:
            known = await self._session(conversation, spec, where, can)
        except AegisError as error:
            if error.data.get("code") != AUTH_REQUIRED:
                raise
            await self._authenticate(conversation, hello, error)
            known = await self._session(conversation, spec, where, can)
        machine = conversation.machine
        mode = spec.mode or getattr(self.agent.modes, spec.permission)
        if mode and mode != machine.settings.mode:
            await conversation.set_mode(mode)
        if spec.effort and self.agent.effort.option:
            await conversation.configure(effort=spec.effort)
        version = str(_table(hello, "agentInfo").get("version") or found.version)
        return Opened(machine.session, version, bool(spec.resume), machine.settings.model or spec.model, machine.settings.mode, known)

    async def _session(
        self, conversation: AcpConversation, spec: ConversationSpec, where: dict[str, Any], can: dict[str, Any]
    ) -> tuple[str, ...]:
        """Open the session; returns the messages among the pending ones that it holds."""
        machine, rules = conversation.machine, self.agent.resume
        if spec.resume is None:
            result = await conversation.call("session/new", where)
            machine.session = str(result.get("sessionId") or "")
            machine.settings.opened(result)
            if not machine.session:
                text = f"{self.agent.title} opened a session without a name"
                raise AegisError(ErrorKind.FAILED, text, stderr=machine.output.said, exit=None)
            return ()
        method = self._method(spec, can)
        drain = method == "session/load" and rules.drain_seconds > 0
        machine.transcript = Transcript(rules.ignore, rules.drain_until if drain else "")
        try:
            result = await conversation.call(method, {"sessionId": spec.resume, **where})
            machine.session = str(result.get("sessionId") or spec.resume)
            machine.settings.opened(result)
            if drain:
                await conversation.drained(rules.drain_seconds)
            return machine.transcript.known(spec.pending)
        except AegisError as error:
            if error.data.get("code") == NOT_FOUND or (
                error.kind is ErrorKind.FAILED and any(text in error.message for text in rules.missing)
            ):
                text = f"{self.agent.title} has no session {spec.resume}: {error.message}"
                raise AegisError(ErrorKind.NOT_FOUND, text, session=spec.resume) from None
            raise
        finally:
            machine.transcript = None

    def _method(self, spec: ConversationSpec, can: dict[str, Any]) -> str:
        """How it goes on with a session. Raises AegisError: CONFLICT for a copy that it cannot make, NOT_FOUND when it keeps none."""
        more, how = _table(can, "sessionCapabilities"), self.agent.resume.how
        if spec.fork:
            if not isinstance(more.get("fork"), dict):
                raise AegisError(ErrorKind.CONFLICT, f"{self.agent.title} cannot go on with a copy of a session")
            return "session/fork"
        resumes, loads = isinstance(more.get("resume"), dict), bool(can.get("loadSession"))
        if how == "none" or not (resumes or loads):
            raise AegisError(ErrorKind.NOT_FOUND, f"{self.agent.title} cannot go on with an earlier session", session=spec.resume)
        # Only a load tells which of the pending messages it has.
        return "session/load" if loads and (not resumes or how == "load" or spec.pending) else "session/resume"

    async def _authenticate(self, conversation: AcpConversation, hello: dict[str, Any], asked: AegisError) -> None:
        """It wants to be logged in: do what needs no person, else say what a person has to do."""
        refused = asked.message
        if method := self.agent.login.method:
            with contextlib.suppress(AegisError):
                await conversation.call("authenticate", {"methodId": method})
                return
        ways = [str(way.get("description") or way.get("name")) for way in hello.get("authMethods") or [] if isinstance(way, dict)]
        hint = self.agent.login.hint or "; ".join(ways)
        raise AegisError(ErrorKind.DENIED, f"{self.agent.title} is not logged in: {refused}", hint, ways=ways)


def _values(agent: AgentSpec, spec: ConversationSpec, place: files.Place) -> dict[str, str | int]:
    return {
        "endpoint": spec.endpoint,
        "token": spec.token,
        "model": spec.model.partition("/")[2] or spec.model,
        "home": place.home,
        "tmp": place.tmp,
        "cwd": spec.cwd,
        "effort": spec.effort or "",
        "mode": spec.mode or getattr(agent.modes, spec.permission),
        "permission": spec.permission,
        "system": spec.system or "",
        "context": spec.limits.context_tokens,
        "output": spec.limits.max_tokens,
        "servers": ",".join(server.name for server in spec.mcp) or f"none-{secrets.token_hex(8)}",  # a name that nobody declares
    }


def _command(
    agent: AgentSpec, found: Installation, spec: ConversationSpec, values: dict[str, str | int]
) -> tuple[list[str], dict[str, str]]:
    """The command line and the environment. Without an endpoint, with its own login, what names one is left out or replaced."""
    args, environment = agent.program.args, dict(agent.environment)
    if not spec.endpoint:
        args = agent.login.args if agent.login.args is not None else args
        environment = {name: value for name, value in environment.items() if not _wants_endpoint(value)} | agent.login.environment
    env = {name: templates.document(value, values) for name, value in environment.items()}
    return [*found.argv, *(templates.text(arg, values) for arg in args)], {**spec.env, **env, "TMPDIR": str(values["tmp"])}


def _wants_endpoint(value: Any) -> bool:
    return templates.needs(value, "endpoint") or templates.needs(value, "token")


def _mcp(server: McpServer, agent: AgentSpec, can: dict[str, Any], link: Link) -> dict[str, Any]:
    """An MCP server in the protocol's form. Raises AegisError(UNAVAILABLE) for one that the agent cannot reach.

    An agent that takes only commands gets one for Aegis's own server.
    """
    if not server.url:
        command, *args = server.command or [""]
        return {"name": server.name, "command": command, "args": args, "env": _named(server.env)}
    if not can.get("http") and server.url.startswith(f"{link.mcp}/"):
        token = server.headers.get("Authorization", "").removeprefix("Bearer ")
        command, *args = link.mcp_command
        return {
            "name": server.name,
            "command": command,
            "args": args,
            "env": _named({"AEGIS_MCP_URL": server.url, "AEGIS_MCP_TOKEN": token}),
        }
    if not can.get("http"):
        raise AegisError(ErrorKind.UNAVAILABLE, f"{agent.title} does not reach the MCP server `{server.name}`: it takes only commands")
    return {"type": "http", "name": server.name, "url": server.url, "headers": _named(server.headers)}


def _named(values: dict[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in values.items()]


def _table(value: dict[str, Any], key: str) -> dict[str, Any]:
    inner = value.get(key)
    return inner if isinstance(inner, dict) else {}
