"""The verbs that every agent has: who am I, who else is there, hand over, read what came, start others, look at them.

Their names, arguments and the words of their answers are those of the reference, so that instructions written for it work here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec

from aegis.core.errors import AegisError
from aegis.daemon.mcp.mailing import handoff, read_mail
from aegis.daemon.mcp.model import Arguments, Caller, Said, Verb
from aegis.daemon.mcp.peers import line, me, others, row, status, transcript
from aegis.services.agents.spawning import Wish

if TYPE_CHECKING:
    from aegis.daemon.wiring import House

About = msgspec.Meta
_REACHED: Final = 50


class Nothing(Arguments, frozen=True):
    """No arguments."""


class Handoff(Arguments, frozen=True):
    """A message to another agent."""

    target_handle: Annotated[str, About(description="Who, as aegis_list_sessions shows it.")]
    context: Annotated[str, About(description="All that it needs; it sees nothing of your conversation.")]
    interrupt: Annotated[bool, About(description="Cut its running turn. Only for agents that you started.")] = False
    report: Annotated[bool, About(description="Its final answer comes back to you as mail.")] = False


class Spawn(Arguments, frozen=True):
    """A new agent below the caller."""

    prompt: Annotated[str, About(description="Its work. It sees nothing of your conversation.")] = ""
    agent: Annotated[str | None, About(description="A kind of aegis_list_agents; one like you if left out.")] = None
    command: Annotated[list[str], About(description="A plain program in place of an agent.")] = []
    slug: Annotated[str | None, About(description="The handle that it should have.")] = None
    model: Annotated[str | None, About(description="provider/model")] = None
    effort: str | None = None
    persona: Annotated[str | None, About(description="Put behind its system prompt.")] = None
    cwd: Annotated[str | None, About(description="Its workspace, as you see it; yours if left out.")] = None
    permission: Literal["read", "write", "full"] | None = None
    egress: Annotated[list[str], About(description="HOST:PORT that it may reach, of yours.")] = []
    mounts: Annotated[list[str], About(description="PATH[:TARGET][:rw]")] = []
    secrets: list[str] = []
    memory_mb: float | None = None
    cpus: float | None = None
    report: Annotated[bool, About(description="Its final answer comes back to you as mail.")] = True


class Close(Arguments, frozen=True):
    """Which one."""

    handle: Annotated[str, About(description="One that you started.")]
    force: Annotated[bool, About(description="Also when it still works or has mail.")] = False


class ReadMail(Arguments, frozen=True):
    """How much of it."""

    limit: Annotated[int, About(description="How many messages at most.")] = 16


class Status(Arguments, frozen=True):
    """Of whom."""

    handle: Annotated[str | None, About(description="You, if left out.")] = None
    wait_s: Annotated[float, About(description="Wait so long, at most 600, until it is done; of you: until mail comes.")] = 0


class Transcript(Arguments, frozen=True):
    """Of whom, and how much."""

    handle: str
    turns: Annotated[int, About(description="How many of the last turns.")] = 12


async def _meta(house: House, caller: Caller, _arguments: Nothing) -> Said:
    mine = me(caller)
    launch, parent = mine.launch, house.registry.find(mine.parent or "")
    known = [i.handle for i in others(house, caller)][:_REACHED]
    bounds = house.budgets.brief(mine.id)
    facts: dict[str, Any] = {
        "handle": mine.handle,
        "agent": launch.agent,
        "session": caller.session,
        "permission": launch.permission,
        "model": launch.model,
        "spawned_by": parent.handle if parent is not None else None,
        "project": launch.project,
        "sessions": known,
        "budgets": bounds,
        "may_spawn": {"depth": launch.spawn.depth, "children": launch.spawn.children, "total": launch.spawn.total},
    }
    lines = [
        f"You are `{mine.handle}`, an agent of the kind `{launch.agent}` with permission `{launch.permission}`, in a sandbox of your own.",
        f"`{parent.handle}` started you." if parent else "A person started you.",
        *(_bound(bound) for bound in bounds),
        f"You can reach: {', '.join(f'`{name}`' for name in known) or 'nobody yet'}.",
        "",
        "Who you are is known; you need not say it.",
        "- What you hand over is kept until it is dealt with, also when the other sleeps. One that is idle begins with it at once.",
        "- Mail for you starts a turn, or comes within one. It begins with `> from agent:HANDLE · TIME`; only Aegis writes such lines.",
        "- With `report`, the final answer of the turn that deals with it comes to you as mail. So end your turn rather than ask again.",
        "- aegis_spawn starts an agent below you, with no more rights than you have. End one that is done with aegis_close.",
        "- Others cannot see your conversation or your files, unless you share a workspace.",
    ]
    return Said("\n".join(lines), facts)


def _bound(bound: dict[str, Any]) -> str:
    """What is left of a budget, as an agent reads it."""
    amount = "${:,.2f} of ${:,.2f}" if bound["kind"] == "usd" else "{:,} of {:,} " + bound["kind"].replace("_", " ")
    within = f" in any {bound['window']:g} s" if bound["window"] is not None else ""
    return f"Spent of the budget `{bound['name']}`: {amount.format(bound['spent'], bound['limit'])}{within}; at its end your turn ends."


async def _list_sessions(house: House, caller: Caller, _arguments: Nothing) -> Said:
    found = [row(house, instance, caller) for instance in (me(caller), *others(house, caller))]
    return Said("\n".join(map(line, found)), {"sessions": found})


async def _list_agents(house: House, caller: Caller, _arguments: Nothing) -> Said:
    project = me(caller).launch.project
    found = [
        {"slug": a.name, "provider": a.provider, "model": a.model, "permission": a.permission}
        for a in house.config.agents(Path(project) if project else None)
    ]
    lines = [f"{a['slug']}  {a['provider']}  {a['model'] or 'a model that is chosen then'}  {a['permission']}" for a in found]
    return Said("\n".join(lines) or "None is declared.", {"agents": found})


async def _handoff(house: House, caller: Caller, wanted: Handoff) -> Said:
    return await handoff(house, caller, wanted.target_handle, wanted.context, interrupt=wanted.interrupt, report=wanted.report)


async def _spawn(house: House, caller: Caller, wanted: Spawn) -> Said:
    asked = msgspec.structs.asdict(wanted)
    spawned = await house.spawning.spawn(caller.principal, me(caller), caller.session, Wish(**asked))
    handle = spawned.instance.handle
    told = [f"`{handle}` is started."]
    if wanted.prompt and wanted.report:
        told.append("Its final answer comes to you as mail; end your turn if there is nothing else to do, the mail wakes you.")
    told += [f"It has less than its definition says, {name}: {why}." for name, why in sorted(spawned.cuts.items())]
    return Said(" ".join(told), {"handle": handle, "message_id": spawned.message, "cuts": spawned.cuts})


async def _close(house: House, caller: Caller, wanted: Close) -> Said:
    try:
        gone = await house.descending.close(caller.principal, me(caller), wanted.handle, force=wanted.force)
    except AegisError as error:
        if (reasons := error.data.get("reasons")) is None:
            raise
        data = {"closed": False, "handle": wanted.handle, "reasons": reasons}
        return Said(f"{error.message}. {error.hint[0].upper()}{error.hint[1:]}.", data, failed=True)
    also = [one.handle for one in gone[1:]]
    told = f", and with it {', '.join(also)}" if also else ""
    return Said(f"`{gone[0].handle}` is closed{told}.", {"closed": True, "handle": gone[0].handle, "also": also})


async def _read_mail(house: House, caller: Caller, wanted: ReadMail) -> Said:
    return await read_mail(house, caller, wanted.limit)


async def _status(house: House, caller: Caller, wanted: Status) -> Said:
    return await status(house, caller, wanted.handle, wanted.wait_s)


async def _transcript(house: House, caller: Caller, wanted: Transcript) -> Said:
    return await transcript(house, caller, wanted.handle, wanted.turns)


VERBS: Final = (
    Verb("aegis_meta", "Who you are here, whom you can reach, and how agents work together.", Nothing, _meta, changes=False),
    Verb("aegis_list_sessions", "The agents that you can reach: handle, kind, what each does.", Nothing, _list_sessions, changes=False),
    Verb("aegis_list_agents", "The kinds of agent that aegis_spawn can start.", Nothing, _list_agents, changes=False),
    Verb(
        "aegis_handoff",
        "Hand work, a question or an answer to another agent. Returns at once: it reads it when it is free.",
        Handoff,
        _handoff,
    ),
    Verb(
        "aegis_spawn",
        "Start an agent below you and give it work. It has no more rights than you. Returns at once with its handle.",
        Spawn,
        _spawn,
    ),
    Verb("aegis_close", "End an agent that you started, with all that it started; its conversation is gone.", Close, _close),
    Verb("aegis_read_mail", "Read messages that came for you while you work.", ReadMail, _read_mail, audits=False),
    Verb("aegis_status", "What an agent does now and how its last turn ended; can wait for its end.", Status, _status, changes=False),
    Verb("aegis_peer_transcript", "What was said in the last turns of another agent.", Transcript, _transcript, changes=False),
)
