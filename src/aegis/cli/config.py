"""Verbs about the configuration in force, and the trust in a project."""

from __future__ import annotations

import json
from typing import Any

import click

from aegis.cli.instance import show_trust
from aegis.cli.options import complete_key
from aegis.cli.output import Output, Piece
from aegis.cli.reach import client, project, required_project
from aegis.cli.verbs import Verb
from aegis.core.errors import AegisError, ErrorKind


@click.command(cls=Verb)
@click.pass_obj
def show(out: Output) -> None:
    """Show every key with its value and where it comes from.

    A flag is stronger than the environment, that than the project, that than your own file, that than the default.
    """
    daemon, where = client(), project()
    values = daemon.config.show(where)
    out.data({"values": values})
    out.table(("KEY", "VALUE", "FROM"), ([(row["key"], "bold"), text_of(row["value"]), (str(row["source"]), "dim")] for row in values))
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
    out.say((told["key"], "bold"), f" = {text_of(told['value'])}", (f"  ({told['source']})", "dim"))
    if told.get("meaning"):
        out.say(told["meaning"])
    out.pairs(((str(row["source"]), f"{text_of(row['value'])}  {row.get('place') or ''}") for row in told.get("layers", [])), "  ")


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


def text_of(value: Any) -> Piece:
    """A value as people read it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
