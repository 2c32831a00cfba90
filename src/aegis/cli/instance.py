"""Verbs about instances: start, list, info, and what can be done to several at once."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, cast

import click

from aegis.cli import render
from aegis.cli.options import (
    PERMISSIONS,
    STATES,
    EgressType,
    Megabytes,
    MountType,
    Pair,
    Word,
    complete_agent,
    complete_provider,
    complete_sandbox,
    complete_secret,
    handle_argument,
    handles_argument,
)  # fmt: skip
from aegis.cli.output import Output, state
from aegis.cli.reach import client, project
from aegis.cli.verbs import Verb
from aegis.client.shapes import Action, InstanceInfo, InstanceRequest
from aegis.core.errors import AegisError, ErrorKind

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from aegis.client.api import Client


def spec_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say how an instance is made; shared by `instance start` and `run`."""
    options = [
        click.option("--name", "handle", metavar="HANDLE", help="Its handle; without one it gets a readable name."),
        click.option("--kit", metavar="KIT", help="A kit to start from, such as `agent`."),
        click.option(
            "--sandbox",
            metavar="KIND",
            shell_complete=complete_sandbox,
            help="The kind of sandbox; the strongest that works here if not given.",
        ),
        click.option("--model", metavar="PROVIDER/MODEL", help="The model, such as `anthropic/claude-sonnet-4-5`."),
        click.option("--workspace", metavar="DIR", help="The directory it works in; a private empty one if not given."),
        click.option("--read-only", is_flag=True, help="Let it read the workspace and not write: `--permission read`."),
        click.option(
            "--permission",
            type=Word("permission", PERMISSIONS),
            metavar="read|write|full",
            help="What it may do: `read` the workspace, `write` it, or `full`: also what --egress and writable mounts give.",
        ),
        click.option(
            "--egress",
            type=EgressType(),
            metavar="RULE",
            multiple=True,
            help="A way to the outside, `host:port`, `packages`, or in JSON a rule on requests; needs `--permission full`.",
        ),
        click.option(
            "--mount",
            "mounts",
            type=MountType(),
            metavar="PATH[:TARGET][:rw]",
            multiple=True,
            help="Show a path inside, read-only without `:rw`.",
        ),
        click.option(
            "--secret",
            "secrets",
            metavar="NAME[:env]",
            multiple=True,
            shell_complete=complete_secret,
            help="A secret it may use; `:env` shows it inside.",
        ),
        click.option("--env", "env", type=Pair(), multiple=True, help="A variable for programs inside."),
        click.option("--memory", "memory_mb", type=Megabytes(), help="The most memory, such as `512M`."),
        click.option("--cpus", type=click.FloatRange(min=0, min_open=True), metavar="N", help="The most processor time, in cores."),
        click.option("--pids", type=click.IntRange(min=8), metavar="N", help="The most processes and threads; at least 8."),
        click.option("--system", metavar="TEXT", help="A system prompt in place of the agent's own."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def agent_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say how an agent works."""
    options = [
        click.option(
            "--provider",
            metavar="PROGRAM",
            shell_complete=complete_provider,
            help="The program that is the agent: `native`, `claude-code`, `codex`, `gemini`, `opencode`.",
        ),
        click.option("--effort", metavar="WORD", help="How hard the model is to think, in the program's own words."),
        click.option("--mode", metavar="MODE", help="The program's own mode to start in."),
        click.option(
            "--approvals",
            type=Word("way of approval", ("auto", "ask")),
            metavar="auto|ask",
            help="Who answers what it asks leave for: the rules of its permission, or you.",
        ),
        click.option(
            "--auth",
            type=Word("way to the model", ("broker", "login")),
            metavar="broker|login",
            help="Whose way to the model: Aegis's broker, or the program's own login.",
        ),
        click.option(
            "--budget",
            metavar="AMOUNT[/WINDOW]",
            multiple=True,
            help="The most it may use with all it spawns: dollars such as `1.50`, `200000tokens`, `2/24h`.",
        ),
        click.option("--record", type=click.Path(dir_okay=False), metavar="FILE", help="Write the model's answers to a file."),
        click.option(
            "--replay", type=click.Path(exists=True, dir_okay=False), metavar="FILE", help="Answer from such a file; no model is called."
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def spec_of(*, command: tuple[str, ...] = (), agent: str | None = None, **given: Any) -> InstanceRequest:
    """The request for an instance from the options that were given."""
    spec = {key: value for key, value in given.items() if value not in (None, (), False)}
    if agent is not None:
        spec["agent"] = agent
    if command:
        spec["command"] = list(command)
    for key in ("workspace", "record", "replay"):
        if key in spec:
            spec[key] = os.path.realpath(os.path.expanduser(spec[key]))
    if "env" in spec:
        spec["env"] = dict(spec["env"])
    for key in ("mounts", "secrets", "egress", "budget"):
        if key in spec:
            spec[key] = list(spec[key])
    return cast("InstanceRequest", spec)


def within_project(out: Output, daemon: Client, spec: InstanceRequest) -> InstanceRequest:
    """`spec` with the project of the working directory, once a person trusts it."""
    directory = project()
    if directory is not None:
        require_trust(out, daemon, directory)
        spec["project"] = str(directory)
    return spec


def require_trust(out: Output, daemon: Client, directory: Path) -> None:
    """Return when the project is trusted as it is now, asking a person if there is one; raises DENIED otherwise."""
    trust = daemon.config.trust(directory)
    if trust["trusted"]:
        return
    if out.interactive:
        show_trust(out, trust["path"], trust["summary"])
        if out.ask("Trust these declarations?"):
            daemon.config.grant(directory, trust["hash"])
            return
    raise AegisError(
        ErrorKind.DENIED, f"the declarations in {directory} are not trusted", "read them, then `aegis config trust`", hash=trust["hash"]
    )


def show_trust(out: Output, path: str, summary: Any) -> None:
    """What a person is asked to trust."""
    out.say((f"{path} declares:", "bold"))
    lines = summary.splitlines() if isinstance(summary, str) else summary if isinstance(summary, list) else [render.compact(summary)]
    for line in lines:
        out.say("  ", str(line))


@click.command(cls=Verb, tail="[-- COMMAND...]")
@click.argument("agent", required=False, shell_complete=complete_agent)
@spec_options
@agent_options
@click.pass_obj
def start(out: Output, /, agent: str | None, command: tuple[str, ...], **given: Any) -> None:
    """Start an instance of an agent, or of a program.

    AGENT is a definition of the project or of your own (`aegis agent list`); the default one if not given. With a command after
    `--` the instance runs that instead of an agent. Without --name the first instance of an agent has the agent's name, further
    ones get readable names. The name of an instance that is stopped starts it again, with its conversations.

    \b
    Examples:
      aegis instance start coder --workspace .
      aegis instance start --kit agent --name my-agent --secret ANTHROPIC_API_KEY
      aegis instance start --provider claude-code --workspace . --approvals ask
      aegis instance start --name web -- python3 -m http.server
    """
    daemon = client()
    spec = within_project(out, daemon, spec_of(agent=agent, command=command, **given))
    if agent not in (None, _BUILT_IN) and "handle" not in spec and all(item["handle"] != agent for item in daemon.instances.all()):
        spec["handle"] = str(agent)
    try:
        item, created = daemon.instances.start(spec)
    except AegisError as error:
        raise _left_behind(daemon, spec, error) from None
    out.data(item)
    if not created and (ignored := _ignored(spec, item)):
        told = f"`{item['handle']}` was started again as it was made; {', '.join(ignored)} had no effect"
        out.warn(f"{told}. `aegis instance delete {item['handle']}` first, to make it anew")
    what = item.get("agent") or item.get("kit")
    out.say(("started " if created else "started again ", "green"), (item["handle"], "bold"), f"  ({what})" if what else "")
    out.pairs(render.brief(item), "  ")
    render.cautions(out, item)
    out.hint(_next(item["handle"], talks=bool(item.get("driver")), runs=bool(command)))


@click.command("list", cls=Verb)
@click.option("--state", "only", type=Word("state", STATES), metavar="STATE", help=f"Only those in this state: {', '.join(STATES)}.")
@click.pass_obj
def show_list(out: Output, only: str | None) -> None:
    """List the instances.

    ACTIVITY is `working`, `needs-you` with how many requests wait for your answer, `idle`, or `limited` until its model's provider gives
    more. `aegis ls` is the same. With --json each instance is an object on a line of its own.
    """
    found = client().instances.all(only)
    for item in found:
        out.data(item)
    if not found:
        out.say(f"no instance is {only}" if only else "no instances yet")
        out.hint("start one with `aegis instance start`")
        return
    bounded = any(item.get("budgets") for item in found)
    head = ("HANDLE", "AGENT", "STATE", "ACTIVITY", "SANDBOX", "ACTIVE", *(("BUDGET",) if bounded else ()), "MODEL", "WORKSPACE")
    out.table(head, ([
        (item["handle"], "bold"), item.get("agent") or item.get("kit") or "-", state(item["state"]),
        render.activity(item), item["sandbox"],
        render.ago(item.get("last_active_at")), *((render.budget(item),) if bounded else ()), item.get("model") or "-",
        item.get("workspace") or "-",
    ] for item in found))  # fmt: skip
    if any(item.get("open_approvals") for item in found):
        out.hint("`aegis approvals list` shows what waits for you")


@click.command(cls=Verb)
@handle_argument
@click.pass_obj
def info(out: Output, handle: str) -> None:
    """Show all about one instance."""
    item = client().instances.get(handle)
    out.data(item)
    out.pairs(render.details(item))
    render.cautions(out, item)


#: The agent that comes with Aegis, whose name would say nothing of an instance.
_BUILT_IN = "agent"
#: What counts also for an instance that is started again.
_KEPT_IN_USE = frozenset({"handle", "project", "secrets"})
_FLAGS = {"mounts": "--mount", "memory_mb": "--memory", "agent": "AGENT", "command": "the command"}


def _ignored(spec: InstanceRequest, item: InstanceInfo) -> list[str]:
    """The flags of a request, as a person wrote them, that would have made another instance than the one that is there."""
    keys = [key for key, value in spec.items() if key not in _KEPT_IN_USE and item.get(key) != value]
    return sorted(_FLAGS.get(key) or f"--{key.replace('_', '-')}" for key in keys)


def _left_behind(daemon: Client, spec: InstanceRequest, error: AegisError) -> AegisError:
    """The error of a start, with what to do about the instance that it may have left in state `failed`."""
    handle = spec.get("handle")
    if handle is None or error.kind in (ErrorKind.UNREACHABLE, ErrorKind.CONFLICT):
        return error
    if not any(item["handle"] == handle for item in daemon.instances.all("failed")):
        return error
    hint = f"`{handle}` is kept as it was made; `aegis instance delete {handle}` before you start it with other settings"
    return AegisError(error.kind, error.message, f"{error.hint}; {hint}" if error.hint else hint, **error.data)


def _next(handle: str, *, talks: bool, runs: bool) -> str:
    """What a person may want to do with a fresh instance."""
    if talks:
        return f"`aegis chat {handle}`"
    return f"`aegis logs -f {handle}`" if runs else f"`aegis exec {handle} -- COMMAND`"


def _each(out: Output, handles: tuple[str, ...], act: Callable[[str], InstanceInfo | dict[str, Any]], done: str) -> int:
    """Do one thing to every handle, going on after a failure; the exit code is that of the first."""
    code = 0
    for handle in handles:
        try:
            item = act(handle)
        except AegisError as exc:
            out.error(exc)
            code = code or exc.exit_code
            continue
        out.data(item)
        also = cast("dict[str, Any]", item).get("also")
        out.say((f"{done} ", "green"), (handle, "bold"), f", and with it {', '.join(also)}" if also else "")
    return code


def _action(action: Action, done: str) -> Callable[[Output, tuple[str, ...]], int]:
    def act(out: Output, handles: tuple[str, ...]) -> int:
        daemon = client()
        return _each(out, handles, lambda handle: daemon.instances.act(handle, action), done)

    return act


@click.command(cls=Verb)
@handles_argument
@click.pass_obj
def pause(out: Output, handles: tuple[str, ...]) -> int:
    """Freeze instances; their memory stays.

    A paused instance uses no processor time. A message wakes it.
    """
    return _action("pause", "paused")(out, handles)


@click.command(cls=Verb)
@handles_argument
@click.pass_obj
def resume(out: Output, handles: tuple[str, ...]) -> int:
    """Let paused instances go on."""
    return _action("resume", "resumed")(out, handles)


@click.command(cls=Verb)
@handles_argument
@click.pass_obj
def restart(out: Output, handles: tuple[str, ...]) -> int:
    """Stop the sandbox and start a new one; conversations go on.

    Changed secrets and settings take effect.
    """
    return _action("restart", "restarted")(out, handles)


@click.command(cls=Verb)
@handles_argument
@click.pass_obj
def disable(out: Output, handles: tuple[str, ...]) -> int:
    """Stop instances and keep messages from waking them.

    All that they spawned is disabled with them. `aegis instance start --name HANDLE` takes one into use again.
    """
    return _action("disable", "disabled")(out, handles)


@click.command(cls=Verb)
@handles_argument
@click.pass_obj
def delete(out: Output, handles: tuple[str, ...]) -> int:
    """Stop instances and forget all they kept.

    Their conversations and private workspaces are gone; a workspace of your own stays as it is. All that they spawned goes with them
    (`aegis tree HANDLE` shows it).
    """
    daemon = client()

    def act(handle: str) -> dict[str, Any]:
        also = daemon.instances.delete(handle)
        return {"handle": handle, "status": "deleted", "also": also}

    return _each(out, handles, act, "deleted")
