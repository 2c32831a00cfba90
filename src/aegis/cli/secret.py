"""Verbs about secrets. A value is best typed or piped: on a command line every user of the machine can see it."""

from __future__ import annotations

import sys

import click

from aegis.cli import render
from aegis.cli.options import complete_secret
from aegis.cli.output import Output
from aegis.cli.reach import client
from aegis.cli.verbs import Verb
from aegis.core.errors import AegisError, ErrorKind


@click.command("set", cls=Verb)
@click.argument("name")
@click.argument("value", required=False)
@click.pass_obj
def set_(out: Output, name: str, value: str | None) -> None:
    """Store a secret.

    Without VALUE it is asked for and not shown, or read from standard input, without the newline at its end. It can be replaced
    and deleted, never read back.

    \b
    Examples:
      aegis secret set ANTHROPIC_API_KEY
      pass show openai | aegis secret set OPENAI_API_KEY
    """
    if value is not None:
        out.warn("a value on the command line is visible to other users and stays in the shell's history; better: leave it out")
    elif sys.stdin.isatty():
        value = out.read_hidden(f"value of {name}: ")
    else:
        value = sys.stdin.buffer.read().decode("utf-8", "strict").removesuffix("\n").removesuffix("\r")
    if not value:
        raise AegisError(ErrorKind.USAGE, f"the value of `{name}` is empty", "to forget a secret: `aegis secret delete`")
    told = client().secrets.set(name, value)
    out.data(told)
    out.say(("stored ", "green"), (told["name"], "bold"), (f" (version {told['version']})", "dim"))


@click.command("list", cls=Verb)
@click.pass_obj
def list_(out: Output) -> None:
    """List the names of the secrets."""
    found = client().secrets.all()
    for item in found:
        out.data(item)
    if not found:
        out.say("no secrets yet")
        out.hint("store one with `aegis secret set NAME`")
        return
    out.table(("NAME", "VERSION", "CHANGED"), (
        [(item["name"], "bold"), str(item["version"]), render.when(item.get("updated_at") or item["created_at"])] for item in found
    ))  # fmt: skip


@click.command(cls=Verb)
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete_secret)
@click.pass_obj
def delete(out: Output, names: tuple[str, ...]) -> None:
    """Forget secrets.

    Instances that use one keep working until they need it again.
    """
    daemon = client()
    for name in names:
        daemon.secrets.delete(name)
        out.data({"name": name, "status": "deleted"})
        out.say(("deleted ", "green"), (name, "bold"))
