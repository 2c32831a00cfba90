"""The registry: what a caller is offered, and each call on its way through the gate.

A tool has one id, `server.tool`, which rules, the audit log and the command line speak of; over MCP it is `server__tool`, and
`source_tool` for what comes with Aegis. A caller is offered the built-in families of its launch and the servers that its definition
names, and of those what the gate does not forbid it. A list waits for no server longer than a bound.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

import msgspec

from aegis.core.errors import AegisError, ErrorKind, unknown_name
from aegis.core.principals import SYSTEM
from aegis.services.gate import Decision
from aegis.services.tools import Definition, Result, Source, ToolCaller
from aegis.services.tools.cleaning import bounded
from aegis.services.tools.served import Served, called

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aegis.core.clock import Clock
    from aegis.core.principals import Principal
    from aegis.services.agents.model import Instance
    from aegis.services.gate import Gate
    from aegis.services.tools.declared import Declared, Found, TrustOffer
    from aegis.services.tools.pinning import Change, Pins
    from aegis.services.tools.servers import Child, Servers
    from aegis.store import Store

_logger = logging.getLogger(__name__)

#: The most of a result in bytes, where no rule says another; and the most that a rule can allow.
MAX_RESULT: Final = 256 * 1024
_MOST_RESULT: Final = 8 * 1024 * 1024
#: A call ends after so many seconds, whatever its server's own bound is.
MAX_SECONDS: Final = 3600.0
#: For so many seconds what an instance was offered counts for its calls; less where a server had nothing to offer.
_SURE: Final = 10.0
_UNSURE: Final = 1.0
#: Arguments of more bytes than this are in the audit log by their size and digest alone.
_KEPT_ARGUMENTS: Final = 2000


class Offered(msgspec.Struct, frozen=True):
    """A tool as a caller is offered it. `called` is its name over MCP."""

    id: str
    called: str
    server: str
    definition: Definition


class Listing(msgspec.Struct, frozen=True):
    """What a caller is offered, and why some servers have nothing for it, by name."""

    tools: list[Offered]
    notes: dict[str, str] = {}


class ServerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A declared server, for people. `offered` counts the tools that agents can have; the lists name those they cannot, and why."""

    name: str
    origin: str
    project: str | None
    command: list[str]
    url: str
    trusted: bool
    state: str
    problem: str = ""
    running_for: list[str] = []
    pinned: int = 0
    changed: list[str] = []
    added: list[str] = []
    removed: list[str] = []
    refused: dict[str, str] = {}


class Tools:
    """The registry."""

    def __init__(self, store: Store, clock: Clock, gate: Gate, declared: Declared, pins: Pins, servers: Servers) -> None:
        self.declared = declared
        #: Takes known secrets out of what tools gave; set by the wiring.
        self.clean: Callable[[str], str] = lambda text: text
        self._store = store
        self._clock = clock
        self._gate = gate
        self._pins = pins
        self._servers = servers
        self._built_in: dict[str, Source] = {}
        self._served: dict[Child, Served] = {}
        self._last: dict[str, tuple[float, dict[str, Offered]]] = {}
        self._dropping: set[asyncio.Future[None]] = set()

    def register(self, source: Source) -> None:
        """Add a source that comes with Aegis; its name is the family by which agents get it."""
        self._built_in[source.name] = source

    @property
    def families(self) -> list[str]:
        """The names of the sources that come with Aegis."""
        return sorted(self._built_in)

    def has(self, instance: Instance) -> bool:
        """Whether an instance has tools from here at all."""
        return bool(instance.launch.tool_servers) or not self._built_in.keys().isdisjoint(instance.launch.tools)

    async def offered(self, caller: ToolCaller) -> Listing:
        """What the caller may call, by the names of their sources. Waits for slow servers no longer than a bound."""
        notes: dict[str, str] = {}
        sources = self._sources(caller, notes)
        found = await asyncio.gather(*(self._list(source, caller, notes) for source in sources))
        every: list[Offered] = []
        for source, definitions in zip(sources, found, strict=True):
            built_in = source.name in self._built_in
            for each in definitions:
                name = f"{source.name}_{each.name}" if built_in else called(source.name, each.name)
                every.append(Offered(f"{source.name}.{each.name}", name, source.name, each))
        if caller.instance is not None:
            until = self._clock.monotonic() + (_UNSURE if notes else _SURE)
            self._last[caller.instance.id] = (until, {each.called: each for each in every})
        return Listing([each for each in every if self._may(caller.principal, each.id)], notes)

    async def last(self, caller: ToolCaller) -> dict[str, Offered]:
        """What an instance had a moment ago, by the names of MCP; looked for anew if that is longer ago.

        What it is not to see is among it, so that a call of it is denied with the reason, and on record.
        """
        assert caller.instance is not None
        known = self._last.get(caller.instance.id)
        if known is None or self._clock.monotonic() >= known[0]:
            await self.offered(caller)
            known = self._last[caller.instance.id]
        return known[1]

    async def call(self, caller: ToolCaller, name: str, arguments: dict[str, Any]) -> Result:
        """Call a tool by its id or by its name over MCP. The gate is asked with the exact call, which is on record before it is made.

        Raises AegisError: NOT_FOUND for a tool that the caller does not have, DENIED, and whatever the source raises.
        """
        source, tool = self._resolve(caller, name)
        ident = f"{source.name}.{tool}"
        about: dict[str, Any] = {"session": caller.session} if caller.session else {}
        try:
            effect = source.effect(caller, tool, arguments)
        except AegisError as error:
            if error.kind is ErrorKind.DENIED:  # what it refuses by itself, such as a path that leads out, is on record as well
                await self._gate.record(Decision(caller.principal, "tool.call", ident, False, error.message, about))
            raise
        if effect.size <= _KEPT_ARGUMENTS:
            about["arguments"] = arguments
        else:
            about["size"] = effect.size
        async with self._gate.passing(caller.principal, "tool.call", ident, effect=effect, **about) as decision:
            limit = min(decision.obligations.max_result or MAX_RESULT, _MOST_RESULT)
            try:
                async with asyncio.timeout(MAX_SECONDS):
                    given = await source.call(caller, tool, arguments, limit=limit)
            except TimeoutError:
                raise AegisError(ErrorKind.TIMEOUT, f"`{ident}` did not end within {MAX_SECONDS:g} s", "ask for less") from None
        return self._cleaned(bounded(given, limit))

    async def trust(self, principal: Principal, project: str, name: str, digest: str) -> TrustOffer:
        """Accept a server of a project's `.mcp.json`; see `Declared.trust`."""
        offer = await self.declared.trust(principal, project, name, digest)
        self._last.clear()
        return offer

    async def ended(self, ident: str) -> None:
        """An instance has stopped: its servers end with it. Returns when nothing of them is left."""
        self._last.pop(ident, None)
        for child in self._servers.of(ident):
            self._served.pop(child, None)
        await self._servers.ended(ident)

    async def close(self) -> None:
        """End every server."""
        self._served.clear()
        await self._servers.close()

    async def info(self, project: str | None) -> list[ServerInfo]:
        """Every server that is declared, and how it is."""
        found: list[ServerInfo] = []
        for each in self.declared.servers(project).values():
            children = [child for child in self._servers.all() if child.origin == each.origin]
            changes = [served.change for child in children if (served := self._served.get(child)) is not None and served.change is not None]
            worst = next((change for change in changes if change.any), None)
            states = [child.state for child in children]
            found.append(
                ServerInfo(
                    name=each.server.name,
                    origin=each.server.origin,
                    project=each.origin.project or None,
                    command=each.server.command,
                    url=each.server.url,
                    trusted=each.trusted,
                    state=_worst(states) if each.trusted else "invalid" if each.problem else "not trusted",
                    problem=each.problem or next((child.problem for child in children if child.problem), ""),
                    running_for=[child.owner.handle if child.owner is not None else "you" for child in children if child.running],
                    pinned=len(self._pins.of(each.origin)),
                    changed=worst.changed if worst else [],
                    added=worst.added if worst else [],
                    removed=worst.removed if worst else [],
                    refused=next((child.offered.refused for child in children if child.offered.refused), {}),
                )
            )
        return found

    async def change(self, project: str | None, name: str) -> Change:
        """How what a server offers now differs from what was accepted. The server is started for that if it does not run.

        Raises NOT_FOUND with the nearest name, DENIED for one that is not trusted, UNAVAILABLE.
        """
        served = await self._fresh(project, name)
        found = await served.compare()
        assert found is not None
        return found

    async def pin(self, principal: Principal, project: str | None, name: str, digest: str) -> Change:
        """Accept what a server offers now, if it is what has that digest. Raises CONFLICT when it is not; else as `change`."""
        served = await self._fresh(project, name)
        found = await served.compare()
        assert found is not None
        if found.digest != digest:
            raise AegisError(ErrorKind.CONFLICT, f"`{name}` offers something else by now", f"run `aegis tools pin {name}` again")
        child = served.child
        decision = await self._gate.check(
            principal, "tool.pin", name, digest=digest, changed=found.changed, added=found.added, removed=found.removed
        )
        offered = child.offered.tools

        def write(tx: Any) -> None:
            self._gate.write(tx, decision)
            self._pins.accept(tx, child.origin, offered)

        await self._store.write(write)
        for each, other in self._served.items():
            if each.origin == child.origin:
                other.again()
        self._last.clear()
        return found

    async def _fresh(self, project: str | None, name: str) -> Served:
        """A server of a person's own, started and listed just now: one that runs for long may know nothing of what it is by now."""
        caller = ToolCaller(principal=SYSTEM, project=project)
        found = self._found(caller, name)
        for child in self._servers.of(""):
            if child.origin == found.origin and not child.calls:
                self._served.pop(child, None)
                await self._servers.drop(child)
        served = self._serve(caller, found)
        await served.child.ready()
        await served.child.list_again()
        return served

    def _may(self, principal: Principal, ident: str) -> bool:
        """Whether somebody is to see a tool: nothing forbids him to list it, nor, whatever its arguments, to call it."""
        return self._gate.offers(principal, ident)

    def _sources(self, caller: ToolCaller, notes: dict[str, str]) -> list[Source]:
        """The sources of a caller. Why a server is none of them goes to `notes`."""
        launch = caller.instance.launch if caller.instance is not None else None
        families = launch.tools if launch is not None else caller.families
        found = [source for name, source in sorted(self._built_in.items()) if families is None or name in families]
        names = launch.tool_servers if launch is not None else caller.servers
        if names is not None and not names:
            return found
        declared = self.declared.servers(_project(caller))
        for name in declared if names is None else names:
            try:
                found.append(self._serve(caller, self._found(caller, name)))
            except AegisError as error:
                notes[name] = error.message
        return found

    def _found(self, caller: ToolCaller, name: str) -> Found:
        """A declared server that may be used. Raises NOT_FOUND with the nearest name, DENIED for one that is not trusted, USAGE."""
        declared = self.declared.servers(_project(caller), fresh=caller.instance is None)
        if name not in declared:
            raise unknown_name("tool server", name, declared, "declare it under `tool_servers`, or in `.mcp.json` of the project")
        found = declared[name]
        if found.problem:
            raise AegisError(ErrorKind.USAGE, f"the declaration of `{name}` in {found.server.source}: {found.problem}", "put it right")
        if not found.trusted:
            text = f"the tool server `{name}` of {found.server.source} is not trusted, so it is not started"
            raise AegisError(ErrorKind.DENIED, text, f"a person reads and accepts it with `aegis tools trust {name}`")
        return found

    def _serve(self, caller: ToolCaller, found: Found) -> Served:
        """The source of a server for this caller. One that runs by a declaration that does not hold any more is ended."""
        owner = caller.instance
        whose = owner.id if owner is not None else ""
        for child in self._servers.of(whose):
            if child.origin[:2] == found.origin[:2] and child.origin != found.origin:
                self._served.pop(child, None)
                task = asyncio.ensure_future(self._servers.drop(child))
                self._dropping.add(task)
                task.add_done_callback(self._dropping.discard)
        child = self._servers.child(owner, found.server, found.origin)
        served = self._served.get(child)
        if served is None:
            alive = set(self._servers.all())
            self._served = {each: other for each, other in self._served.items() if each in alive}
            served = self._served[child] = Served(child, self._pins)
        return served

    async def _list(self, source: Source, caller: ToolCaller, notes: dict[str, str]) -> Sequence[Definition]:
        try:
            return await source.tools(caller)
        except AegisError as error:
            notes[source.name] = error.message
            return []

    def _resolve(self, caller: ToolCaller, name: str) -> tuple[Source, str]:
        """The source and its own name of a tool. Raises NOT_FOUND."""
        head, dot, tool = name.partition(".")
        if not dot:
            head, mark, rest = name.partition("__")
            if mark:
                source = self._source(caller, head)
                return source, self._own_name(caller, source, name) or rest
            head = next((each for each in self._built_in if name.startswith(f"{each}_")), "")
            tool = name.removeprefix(f"{head}_")
        if not head or not tool:
            raise unknown_name("tool", name[:200], [], "see `aegis tools list`")
        return self._source(caller, head), tool

    def _own_name(self, caller: ToolCaller, source: Source, name: str) -> str | None:
        return source.tool_of(name) if isinstance(source, Served) else None

    def _source(self, caller: ToolCaller, name: str) -> Source:
        """A source that the caller has. Raises NOT_FOUND, and as `_found`."""
        launch = caller.instance.launch if caller.instance is not None else None
        if (built_in := self._built_in.get(name)) is not None:
            if launch is not None and name not in launch.tools:
                raise AegisError(ErrorKind.NOT_FOUND, f"you have no tools `{name}`", f"the key `tools` of the agent names `{name}`")
            return built_in
        if launch is not None and name not in launch.tool_servers:
            raise unknown_name("tool server", name[:80], launch.tool_servers, "the key `tool_servers` of the agent names those it has")
        return self._serve(caller, self._found(caller, name))

    def _cleaned(self, given: Result) -> Result:
        content = [{**part, "text": self.clean(part["text"])} if isinstance(part.get("text"), str) else part for part in given.content]
        structured = given.structured
        if structured is not None:
            text = msgspec.json.encode(structured).decode()
            if (safe := self.clean(text)) != text:
                try:
                    structured = msgspec.json.decode(safe)
                except msgspec.DecodeError:
                    structured = None
        return Result(content=content, structured=structured, is_error=given.is_error)


def _project(caller: ToolCaller) -> str | None:
    return caller.instance.launch.project if caller.instance is not None else caller.project


def _worst(states: list[str]) -> str:
    return next((state for state in ("failed", "starting", "running") if state in states), "stopped")
