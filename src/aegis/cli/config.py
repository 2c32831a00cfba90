"""Verbs about definitions of agents and the configuration in force."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from aegis.cli.instance import show_trust
from aegis.cli.options import complete_agent, complete_key
from aegis.cli.output import Output, Piece
from aegis.cli.reach import client, project, required_project
from aegis.cli.verbs import Verb
from aegis.core.errors import AegisError, ErrorKind

if TYPE_CHECKING:
    from collections.abc import Iterator


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
    out.table(("NAME", "MODEL", "SANDBOX", "PERMISSION", "FROM"), ([
        (item["name"], "bold"), *(str(item.get(key) or "-") for key in ("model", "sandbox", "permission", "source")),
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
            yield key, _text(value)


@click.command(cls=Verb)
@click.pass_obj
def show(out: Output) -> None:
    """Show every key with its value and where it comes from.

    A flag is stronger than the environment, that than the project, that than your own file, that than the default.
    """
    daemon, where = client(), project()
    values = daemon.config.show(where)
    out.data({"values": values})
    out.table(("KEY", "VALUE", "FROM"), ([(row["key"], "bold"), _text(row["value"]), (str(row["source"]), "dim")] for row in values))
    if where is not None and not daemon.config.trust(where)["trusted"]:
        out.warn(f"the declarations in {where} are not trusted, so they are not in force; `aegis config trust`")


@click.command(cls=Verb)
@click.argument("key", shell_complete=complete_key)
@click.pass_obj
def explain(out: Output, key: str) -> None:
    """Say where the value of one key comes from.

    Shows every place that sets it, the strongest first.
    """
    told = client().config.explain(key, project())
    out.data(told)
    out.say((told["key"], "bold"), f" = {_text(told['value'])}", (f"  ({told['source']})", "dim"))
    if told.get("meaning"):
        out.say(told["meaning"])
    out.pairs(((str(row["source"]), f"{_text(row['value'])}  {row.get('place') or ''}") for row in told.get("layers", [])), "  ")


@click.command(cls=Verb)
@click.argument("directory", required=False)
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.pass_obj
def trust(out: Output, directory: str | None, yes: bool) -> None:
    """Let the declarations of a project take effect.

    A repository that you cloned can declare agents; they do nothing before you agree to them. What you agree to is the content as
    it is now: after a change you are asked again.
    """
    where = required_project(directory)
    daemon = client()
    told = daemon.config.trust(where)
    if not told["trusted"]:
        if not yes:
            show_trust(out, told["path"], told["summary"])
            if not out.interactive:
                raise AegisError(ErrorKind.DENIED, f"nobody is there to agree to {told['path']}", "read it; --yes agrees to it")
            if not out.ask("Trust these declarations?"):
                raise AegisError(ErrorKind.DENIED, f"{told['path']} stays untrusted")
        daemon.config.grant(where, told["hash"])
    out.data({"trusted": True, "path": told["path"], "hash": told["hash"]})
    out.say(("already trusted " if told["trusted"] else "trusted ", "green"), told["path"])


def _text(value: Any) -> Piece:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
