"""Verbs for a person's own agent: instances, what runs in them, and what there is to start.

What is missing is missing on purpose. No verb sets, deletes or shows the value of a secret: the agent's provider would read it, and its
transcript keep it; that is one command away for the person (`aegis secret set`). An approval is answered on the person's word, once and for
the exact call that was shown: no verb lets a yes count for more, and none of these verbs is there for an agent in a sandbox.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.text import one_line, printable
from aegis.daemon.mcp.model import Arguments, Said, Verb
from aegis.daemon.mcp.running import EXEC
from aegis.daemon.mcp.talking import READ, SEND
from aegis.daemon.starting import begin
from aegis.services.agents.launching import StartRequest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aegis.daemon.mcp.model import Caller
    from aegis.daemon.wiring import House
    from aegis.services.agents import Instance

_LINES: Final = 500
#: What of an instance a list shows.
_BRIEF: Final = ("handle", "id", "state", "activity", "agent", "driver", "model", "workspace", "open_approvals", "reason")

About = msgspec.Meta
Name = Annotated[str, About(description="Handle or id of the instance.")]


class Named(Arguments, frozen=True):
    """One instance."""

    name: Name


class Start(Arguments, frozen=True):
    """What an instance is started with."""

    name: Annotated[str | None, About(description="Its handle. That of a stopped one, alone, starts it again.")] = None
    kit: Annotated[str | None, About(description="The agent, by a name of kit_list.")] = None
    command: Annotated[list[str], About(description="A program to run in place of an agent.")] = []
    workspace: Annotated[str | None, About(description="The directory it works in; a relative one is meant from yours.")] = None
    model: Annotated[str | None, About(description="provider/model")] = None
    permission: Annotated[Literal["read", "write", "full"] | None, About(description="What it may do there.")] = None
    secrets: Annotated[list[str], About(description="Names from secret_list; NAME:env to show one to programs inside.")] = []
    env: dict[str, str] = {}
    memory_mb: int | None = None
    vcpus: float | None = None


class Listed(Arguments, frozen=True):
    """Which instances."""

    state: Annotated[str | None, About(description="Only those: running, stopped, paused, failed.")] = None


class Logs(Arguments, frozen=True):
    """Which lines."""

    name: Name
    tail: Annotated[int, About(description=f"How many of the last lines; at most {_LINES}.")] = 50


class Nothing(Arguments, frozen=True):
    """No arguments."""


class OneRequest(Arguments, frozen=True):
    """One request for leave."""

    id: Annotated[str, About(description="The whole id, from approvals_list.")]


class Decide(Arguments, frozen=True):
    """The person's answer."""

    id: Annotated[str, About(description="The whole id, from approvals_list.")]
    approve: Annotated[bool, About(description="What your person said.")]
    digest: Annotated[str, About(description="That of approvals_show: the call that your person saw.")]
    reason: Annotated[str, About(description="Why; with a no the agent reads it.")] = ""


async def _start(house: House, caller: Caller, wanted: Start) -> Said:
    request = StartRequest(
        handle=wanted.name,
        agent=wanted.kit,
        project=_project(house, caller),
        command=wanted.command,
        workspace=_directory(wanted.workspace, caller),
        model=wanted.model,
        permission=wanted.permission,
        secrets=wanted.secrets,
        env=wanted.env,
        memory_mb=wanted.memory_mb,
        vcpus=wanted.vcpus,
    )
    begun, created = await begin(house, caller.principal, request)
    told = "started" if created else "started again"
    return Said(f"{told}\n{_line(_brief(house, begun))}\ntether_send gives it work.", _brief(house, begun) | {"created": created})


async def _list(house: House, caller: Caller, wanted: Listed) -> Said:
    found = [_brief(house, each) for each in house.registry.all() if wanted.state is None or each.state == wanted.state]
    text = "\n".join(map(_line, found)) or "There are no instances; instance_start starts one."
    return Said(text, {"instances": found})


async def _info(house: House, caller: Caller, wanted: Named) -> Said:
    described = house.agents.describe(house.registry.get(wanted.name))
    shown = {key: value for key, value in described.items() if value not in (None, "", [], {}) and key != "enforced"}
    return _json(shown)


def _acting(action: str) -> Callable[[House, Caller, Named], Awaitable[Said]]:
    async def act(house: House, caller: Caller, wanted: Named) -> Said:
        found = house.registry.get(wanted.name)
        await getattr(house.agents, action)(caller.principal, found)
        if action == "delete":
            return Said(f"{found.handle} is deleted", {"handle": found.handle, "deleted": True})
        brief = _brief(house, found)
        return Said(_line(brief), brief)

    return act


async def _logs(house: House, caller: Caller, wanted: Logs) -> Said:
    records = house.agents.log(house.registry.get(wanted.name)).tail(max(1, min(wanted.tail, _LINES)))
    lines = [
        f"{datetime.fromtimestamp(each.get('ts', 0.0), UTC):%H:%M:%S} {each.get('stream', '')} {one_line(str(each.get('text', '')), 2000)}"
        for each in records
    ]
    return Said("\n".join(lines) or "nothing was written yet", {"lines": lines})


async def _secrets(house: House, caller: Caller, wanted: Nothing) -> Said:
    names = [info.name for info in await house.secrets.list(caller.principal)]
    told = "\n".join(names) or "There are no secrets. Only the person can add one: `aegis secret set NAME`."
    return Said(told, {"secrets": names})


async def _kits(house: House, caller: Caller, wanted: Nothing) -> Said:
    project = _project(house, caller)
    kits = [
        {"name": each.name, "provider": each.provider, "model": each.model, "permission": each.permission, "approvals": each.approvals}
        for each in house.config.agents(Path(project) if project else None)
    ]
    lines = [f"{kit['name']}  {kit['provider']}  {kit['model'] or '(model by default)'}  {kit['permission']}" for kit in kits]
    return Said("\n".join(lines), {"kits": kits})


async def _approvals(house: House, caller: Caller, wanted: Nothing) -> Said:
    found = []
    for each in house.approvals.list(state="pending", limit=50):
        instance = house.registry.find(each.instance)
        about: dict[str, Any] = {
            "id": each.id,
            "instance": instance.handle if instance else each.instance,
            "tool": each.tool,
            "asked_at": each.asked_at,
        }
        about |= {"risk": each.risk} if each.risk else {}
        about |= {"deadline": each.deadline, "default": each.default} if each.deadline else {}
        found.append(about | {"title": one_line(each.title or each.tool, 300)})
    lines = [f"{item['id']}  {item['instance']}  {item['tool']}: {item['title']}" for item in found]
    told = "\n".join([*lines, "Show yours each with approvals_show; answer only on a person's word."]) if lines else "none"
    return Said(told, {"approvals": found})


async def _approval(house: House, caller: Caller, wanted: OneRequest) -> Said:
    found = house.approvals.get(wanted.id)
    instance = house.registry.find(found.instance)
    shown = {key: value for key, value in msgspec.to_builtins(found).items() if value not in (None, "", [], {}, False)}
    return _json(shown | {"instance": instance.handle if instance else found.instance})


async def _decide(house: House, caller: Caller, wanted: Decide) -> Said:
    if house.approvals.get(wanted.id).digest != wanted.digest:
        raise AegisError(ErrorKind.CONFLICT, "that is the digest of another call", "show your person this one: approvals_show")
    done = await house.approvals.decide(caller.principal, wanted.id, approve=wanted.approve, reason=wanted.reason)
    return Said(f"{done.state}: {one_line(done.title or done.tool, 300)}", {"id": done.id, "state": done.state})


def _brief(house: House, instance: Instance) -> dict[str, Any]:
    """What a list shows of an instance."""
    described = house.agents.describe(instance)
    return {key: described[key] for key in _BRIEF if described.get(key) not in (None, "", 0)}


def _line(brief: dict[str, Any]) -> str:
    """An instance in a line."""
    who = brief.get("agent") or "a program"
    parts = [brief["handle"], brief["state"], brief.get("activity", ""), who, brief.get("model", ""), brief.get("workspace", "")]
    waits = f"waits for a person: {brief['open_approvals']} (approvals_list)" if brief.get("open_approvals") else ""
    return printable("  ".join(str(part) for part in [*parts, waits, one_line(brief.get("reason") or "", 200)] if part))


def _json(value: dict[str, Any]) -> Said:
    return Said(msgspec.json.encode(value).decode(), msgspec.to_builtins(value))


def _project(house: House, caller: Caller) -> str | None:
    """The project that the caller works in."""
    found = house.config.project_of(Path(caller.directory)) if caller.directory else None
    return str(found) if found else None


def _directory(path: str | None, caller: Caller) -> str | None:
    """A directory as an absolute path."""
    if path is None or Path(path).is_absolute():
        return path
    if not caller.directory:
        raise AegisError(ErrorKind.USAGE, f"`{path[:200]}` is not an absolute path", "give the whole path of the directory")
    return str(Path(caller.directory, path).resolve())


#: In the order in which they are listed.
VERBS: Final[tuple[Verb, ...]] = (
    SEND,
    READ,
    Verb("instance_start", "Start an agent, or a program, in a sandbox of its own.", Start, _start, "host"),
    Verb("instance_list", "The instances there are, and what each is about.", Listed, _list, "host", changes=False),
    Verb("instance_info", "All about one instance.", Named, _info, "host", changes=False),
    Verb("instance_pause", "Freeze an instance; its memory stays.", Named, _acting("pause"), "host"),
    Verb("instance_resume", "Let a paused instance go on.", Named, _acting("resume"), "host"),
    Verb("instance_restart", "A fresh sandbox; conversations go on.", Named, _acting("restart"), "host"),
    Verb("instance_disable", "Stop an instance; messages do not wake it until it is started.", Named, _acting("disable"), "host"),
    Verb("instance_delete", "Stop an instance and forget all it kept, but its workspace.", Named, _acting("delete"), "host"),
    EXEC,
    Verb("logs", "What the programs of an instance wrote.", Logs, _logs, "host", changes=False),
    Verb("kit_list", "The agents that instance_start can start here.", Nothing, _kits, "host", changes=False),
    Verb("secret_list", "Names of the stored secrets; no verb shows or changes a value.", Nothing, _secrets, "host", changes=False),
    Verb("approvals_list", "What agents ask leave for. Only a person answers.", Nothing, _approvals, "host", changes=False),
    Verb("approvals_show", "One request with the exact call, its risk and its digest.", OneRequest, _approval, "host", changes=False),
    Verb("approvals_decide", "Pass on your person's answer to one request, once, for exactly the call he saw.", Decide, _decide, "host"),
)
