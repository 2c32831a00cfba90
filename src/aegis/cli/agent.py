"""Verbs about definitions of agents: look at them, and write them where they belong."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aegis.cli.config import text_of
from aegis.cli.options import (
    EgressType,
    Megabytes,
    MountType,
    Pair,
    complete_agent,
    complete_provider,
    complete_sandbox,
    complete_secret,
)
from aegis.cli.output import Output, Piece
from aegis.cli.reach import client, project
from aegis.cli.verbs import Verb
from aegis.core.errors import AegisError, ErrorKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_COLUMNS = ("provider", "model", "effort", "sandbox", "permission", "source")


@click.command("list", cls=Verb)
@click.pass_obj
def agent_list(out: Output) -> None:
    """List the agents that can be started here.

    Those of the project of the working directory, your own, and the built-in ones.
    """
    found = client().agents(project())
    for item in found:
        out.data(item)
    if not found:
        out.say("no agents are defined")
        return
    out.table(("NAME", *(column.upper() for column in _COLUMNS[:-1]), "FROM"), ([
        (item["name"], "bold"), *(str(item.get(key) or "-") for key in _COLUMNS),
    ] for item in found))  # fmt: skip
    out.hint("`aegis instance start NAME`")


@click.command("show", cls=Verb)
@click.argument("name", shell_complete=complete_agent)
@click.pass_obj
def agent_show(out: Output, name: str) -> None:
    """Show one definition."""
    item = client().agent(name, project())
    out.data(item)
    out.pairs(_flat(item))


def _flat(item: dict[str, Any]) -> Iterator[tuple[str, Piece]]:
    """What is set, one row for each, the members of a mapping one by one."""
    for key, value in item.items():
        if isinstance(value, dict):
            yield from ((f"{key}.{name}", piece) for name, piece in _flat(value))
        elif value not in (None, "", []):
            yield key, text_of(value)


def _where(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options --user and --project."""
    for name, meaning in (
        ("project", "In the `.aegis.yaml` of the project, or, where there is none, a new one in the working directory."),
        ("user", "In your own `config.yaml`, for all projects."),
    ):
        function = click.option(f"--{name}", f"in_{name}", is_flag=True, help=meaning)(function)
    return function


@click.command("add", cls=Verb)
@click.argument("name")
@click.option("--provider", metavar="NAME", shell_complete=complete_provider, help="The program that runs it; `native` if not given.")
@click.option("--model", metavar="PROVIDER/MODEL", help="The model, or an alias.")
@click.option("--effort", metavar="WORD", help="How hard the model is to think.")
@click.option("--mode", metavar="WORD", help="The mode of the program to start in.")
@click.option("--permission", type=click.Choice(["read", "write", "full"]), help="What it may do with its workspace, and beyond.")
@click.option("--approvals", type=click.Choice(["auto", "ask"]), help="Whether a person is asked before it uses a tool.")
@click.option(
    "--auth", type=click.Choice(["broker", "login"]), help="Who proves it to the provider: the daemon, or a copy of its own login."
)
@click.option("--sandbox", metavar="KIND", shell_complete=complete_sandbox, help="The kind of sandbox.")
@click.option("--workspace", metavar="DIR", help="The directory it works in.")
@click.option("--egress", type=EgressType(), metavar="HOST:PORT", multiple=True, help="Where it may connect to; needs `--permission full`.")
@click.option("--mount", "mounts", type=MountType(), metavar="PATH[:TARGET][:rw]", multiple=True, help="Show a path inside.")
@click.option("--secret", "secrets", metavar="NAME[:env]", multiple=True, shell_complete=complete_secret, help="A secret it may use.")
@click.option("--env", "env", type=Pair(), multiple=True, help="A variable for programs inside.")
@click.option("--memory", type=Megabytes(), help="The most memory, such as `512M`.")
@click.option("--cpus", type=click.FloatRange(min=0, min_open=True), metavar="N", help="The most processor time, in cores.")
@click.option("--pids", type=click.IntRange(min=8), metavar="N", help="The most processes and threads.")
@click.option("--system", metavar="TEXT", help="The system prompt.")
@_where
@click.pass_obj
def agent_add(out: Output, /, name: str, in_user: bool, in_project: bool, **given: Any) -> None:
    """Declare an agent.

    It is written into the `.aegis.yaml` of the project of the working directory, or, where there is no project, into your own
    configuration. What stands there stays as it is, comments included; nothing is written that would not be valid.

    \b
    Examples:
      aegis agent add reviewer --permission read --model opus
      aegis agent add coder --provider claude-code --workspace . --approvals ask
    """
    place = _place(in_user, in_project)
    _told(out, client().config.add_agent(name, _values(given, place), place), "declared")


@click.command("set", cls=Verb)
@click.argument("name", shell_complete=complete_agent)
@click.argument("key")
@click.argument("value", required=False)
@_where
@click.pass_obj
def agent_set(out: Output, name: str, key: str, value: str | None, in_user: bool, in_project: bool) -> None:
    """Change one key of a declared agent.

    VALUE is as in the file: `full`, `2G`, `[api.example.com:443]`. Without VALUE the key is taken away. `aegis config explain
    agents.NAME.KEY` says what a key means.

    \b
    Examples:
      aegis agent set coder effort high
      aegis agent set coder limits.memory 2G
      aegis agent set coder model
    """
    _told(out, client().config.set_agent(name, {key: value}, _place(in_user, in_project)), "changed")


@click.command("remove", cls=Verb)
@click.argument("name", shell_complete=complete_agent)
@_where
@click.pass_obj
def agent_remove(out: Output, name: str, in_user: bool, in_project: bool) -> None:
    """Take the declaration of an agent away.

    Its instances stay as they are.
    """
    _told(out, client().config.remove_agent(name, _place(in_user, in_project)), "removed")


def _place(in_user: bool, in_project: bool) -> Path | None:
    """The directory of the project to change; None for the home."""
    if in_user and in_project:
        raise AegisError(ErrorKind.USAGE, "--user and --project exclude each other", "give one")
    found = None if in_user else project()
    return Path.cwd() if in_project and found is None else found


def _values(given: dict[str, Any], place: Path | None) -> dict[str, Any]:
    """The keys of an agent from the options that were given."""
    named = {"memory": "limits.memory", "cpus": "limits.cpus", "pids": "limits.pids"}
    values = {named.get(key, key): value for key, value in given.items() if value not in (None, ())}
    if "limits.memory" in values:
        size = values["limits.memory"]
        values["limits.memory"] = f"{size}M" if size % 1024 else f"{size // 1024}G"
    values |= {f"env.{key}": value for key, value in values.pop("env", ())}
    for key in ("egress", "secrets"):
        if key in values:
            values[key] = list(values[key])
    if "mounts" in values:
        values["mounts"] = [
            mount["source"]
            if mount["target"] in ("", mount["source"]) and not mount["writable"]
            else {"path": mount["source"], "target": mount["target"], "writable": mount["writable"]}
            for mount in values["mounts"]
        ]
    if "workspace" in values:
        real = os.path.realpath(os.path.expanduser(values["workspace"]))
        # A project that is cloned to another place keeps its meaning.
        inside = place is not None and Path(real).is_relative_to(place)
        values["workspace"] = os.path.relpath(real, place) if inside else real
    return values


def _told(out: Output, edited: dict[str, Any], word: str) -> None:
    out.data(edited)
    out.say((f"{word} ", "green"), (edited["name"], "bold"), f" in {edited['file']}")
    if not edited["trusted"]:
        out.warn("the declarations there are not trusted, so they are not in force; `aegis config trust`")
