"""Verbs on the sub-agents of the caller, as tools: start a program, wait for one, run something in it, stop it.

The family `children`; what starts and closes an agent is in the core.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

from msgspec import Meta

from aegis.core.errors import AegisError, ErrorKind
from aegis.daemon.mcp.model import Arguments, Caller, Said, Verb
from aegis.daemon.mcp.running import EXEC, Exec
from aegis.services.agents.spawning import Wish
from aegis.services.mail import headers

if TYPE_CHECKING:
    from aegis.core.principals import Principal
    from aegis.daemon.wiring import House
    from aegis.services.agents import Instance
    from aegis.services.agents.spawning import Spawned

Child = Annotated[str, Meta(description="Handle of one you started, or that those started.")]
Slug = Annotated[str | None, Meta(description="The handle it would like.")]
Cwd = Annotated[str | None, Meta(description="Its workspace, as you see it, such as /workspace/docs; yours by default.")]
Permitted = Annotated[str | None, Meta(description="read, write or full; never more than yours.")]
Rules = Annotated[list[str], Meta(description="Ways out, host:port, among yours.")]
Mounts = Annotated[list[str], Meta(description="PATH[:TARGET][:rw] of what you see.")]
Secrets = Annotated[list[str], Meta(description="Names, among yours.")]


class SpawnProgram(Arguments, frozen=True):
    """A plain program."""

    command: Annotated[list[str], Meta(description='The program and its arguments, such as ["sh", "-c", "make"].')]
    slug: Slug = None
    cwd: Cwd = None
    permission: Permitted = None
    egress: Rules = []
    mounts: Mounts = []
    secrets: Secrets = []
    env: dict[str, str] = {}
    memory_mb: float | None = None
    cpus: float | None = None
    pids: int | None = None


class Await(Arguments, frozen=True):
    """A wait."""

    handle: Child
    timeout_s: Annotated[float, Meta(description="At most 600.")] = 50.0


class OfChild(Arguments, frozen=True):
    """One of them."""

    handle: Child


class ExecIn(Arguments, frozen=True):
    """A command in a child."""

    handle: Child
    command: Annotated[list[str], Meta(description='The program and its arguments, such as ["sh", "-c", "ls"].')]
    cwd: Annotated[str | None, Meta(description="A directory inside; its workspace by default.")] = None
    timeout_s: Annotated[float, Meta(description="It is killed after so many seconds; at most 600.")] = 50.0


class Nothing(Arguments, frozen=True):
    """No arguments."""


async def spawn_program(house: House, caller: Caller, wanted: SpawnProgram) -> Said:
    """Start a plain program in a sandbox of its own."""
    parent, principal = _me(caller)
    if not wanted.command:
        raise AegisError(ErrorKind.USAGE, "the command is empty", "give the program and its arguments as a list of strings")
    wish = Wish(**{name: getattr(wanted, name) for name in SpawnProgram.__struct_fields__})
    found = await house.spawning.spawn(principal, parent, caller.session, wish)
    return _spawned(found, "aegis_await returns when it has ended, with what it printed last.")


async def await_(house: House, caller: Caller, wanted: Await) -> Said:
    """Wait for a sub-agent."""
    parent, _ = _me(caller)
    if not wanted.timeout_s >= 0:
        raise AegisError(ErrorKind.USAGE, "timeout_s must not be below zero", "leave it out for 50")
    child = house.descending.own(parent, wanted.handle)
    found = await house.descending.wait(parent, caller.session, child, wanted.timeout_s)
    data: dict[str, Any] = {"handle": child.handle, "done": found.done, "state": found.outcome}
    if not found.done:
        return Said(f"`{child.handle}` is not done: {found.outcome}. Call aegis_await again, or end your turn.", data)
    told = "was ended and is not there any more" if found.gone else f"is done: {found.outcome}"
    parts = [f"`{child.handle}` {told}."]
    if found.text:
        data["text"] = found.text
        parts.append(found.text)
    if found.mail:
        parts.append(headers.note(found.mail))
    return Said("\n\n".join(parts), data)


async def cancel(house: House, caller: Caller, wanted: OfChild) -> Said:
    """Cut what a sub-agent does, and what it started."""
    parent, principal = _me(caller)
    child = house.descending.own(parent, wanted.handle)
    cut = await house.agents.interrupt(principal, child, None)
    text = f"`{child.handle}` and all that it started were stopped." if cut else f"`{child.handle}` did nothing that could be cut."
    return Said(text, {"handle": child.handle, "cancelled": cut})


async def children(house: House, caller: Caller, _wanted: Nothing) -> Said:
    """The caller's sub-agents and theirs."""
    parent, _ = _me(caller)
    nodes = (await house.descending.tree(parent))[1:]
    lines = [f"{'  ' * (node['depth'] - 1)}{node['handle']}  {node['agent']}  {_word(node)}  {_cost(node['total'])}" for node in nodes]
    return Said("\n".join(lines) or "You have started none.", {"children": nodes})


async def pause(house: House, caller: Caller, wanted: OfChild) -> Said:
    """Freeze a sub-agent."""
    parent, principal = _me(caller)
    child = house.descending.own(parent, wanted.handle)
    await house.agents.pause(principal, child)
    return Said(f"`{child.handle}` is paused; a message wakes it.", {"handle": child.handle, "state": child.state})


async def resume(house: House, caller: Caller, wanted: OfChild) -> Said:
    """Let a sub-agent go on."""
    parent, principal = _me(caller)
    child = house.descending.own(parent, wanted.handle)
    await house.agents.resume(principal, child)
    return Said(f"`{child.handle}` is {child.state}.", {"handle": child.handle, "state": child.state})


async def exec_(house: House, caller: Caller, wanted: ExecIn) -> Said:
    """Run a command in a sub-agent's sandbox."""
    parent, _ = _me(caller)
    child = house.descending.to_run_in(parent, wanted.handle)
    return await EXEC.run(house, caller, Exec(child.id, wanted.command, wanted.cwd, wanted.timeout_s))


def _me(caller: Caller) -> tuple[Instance, Principal]:
    if caller.instance is None:
        raise AegisError(ErrorKind.DENIED, "only an agent in a sandbox has sub-agents", "instance_start starts one for a person")
    return caller.instance, caller.principal


def _spawned(found: Spawned, then: str) -> Said:
    launch, handle = found.instance.launch, found.instance.handle
    less = f" It has less than its kind declares: {', '.join(sorted(found.cuts))}." if found.cuts else ""
    data = {
        "handle": handle,
        "agent": launch.agent,
        "model": launch.model,
        "permission": launch.permission,
        "task": found.message,
        "cut": sorted(found.cuts),
    }
    return Said(f"`{handle}` works in a sandbox of its own, permission `{launch.permission}`.{less} {then}", data)


def _word(node: dict[str, Any]) -> str:
    if not node["enabled"]:
        return "disabled"
    return str(node["activity"] if node["driver"] else node["state"])


def _cost(total: dict[str, Any]) -> str:
    cost = total["cost_usd"]
    return f"{total['input'] + total['output']} tokens" + (f", ${cost:.4f}" if cost else "")


#: In the order in which they are listed.
VERBS: Final[tuple[Verb, ...]] = (
    Verb(
        "aegis_spawn_program",
        "Start a plain program in a sandbox of its own, with a share of what you may.",
        SpawnProgram,
        spawn_program,
        "children",
    ),
    Verb(
        "aegis_await",
        "Wait until a sub-agent or program has nothing more to do; its report comes with the answer.",
        Await,
        await_,
        "children",
    ),
    Verb("aegis_cancel", "Cut what a sub-agent does now, and end the work of all that it started.", OfChild, cancel, "children"),
    Verb("aegis_children", "The tree of your sub-agents: state, tokens, cost.", Nothing, children, "children", changes=False),
    Verb("aegis_exec", "Run a command in the sandbox of a sub-agent.", ExecIn, exec_, "children"),
    Verb("aegis_pause", "Freeze a sub-agent; a message wakes it.", OfChild, pause, "children"),
    Verb("aegis_resume", "Let a paused or stopped sub-agent go on.", OfChild, resume, "children"),
)
