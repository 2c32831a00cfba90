"""Verbs about secrets. A value is best typed or piped: on a command line every user of the machine can see it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

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
@click.option("--host", "hosts", multiple=True, metavar="HOST", help="It may be sent there alone; `*.example.com`: all below. Repeatable.")
@click.option("--any-host", is_flag=True, help="It is bound to no host any more.")
@click.option("--header", metavar="TEXT", help='The header that carries it there, `{}` standing for it: "Authorization: Bearer {}".')
@click.option("--keep", is_flag=True, help="Keep the value; only the hosts or the header change.")
@click.pass_obj
def set_(out: Output, name: str, value: str | None, hosts: tuple[str, ...], any_host: bool, header: str | None, keep: bool) -> None:
    """Store a secret.

    Without VALUE it is asked for and not shown, or read from standard input, without the newline at its end. It can be replaced
    and deleted, never read back. The value that it replaces is kept as a version.

    \b
    Examples:
      aegis secret set ANTHROPIC_API_KEY
      pass show openai | aegis secret set OPENAI_API_KEY
      aegis secret set GITHUB_TOKEN --host api.github.com --header "Authorization: Bearer {}"
    """
    if any_host and hosts:
        raise AegisError(ErrorKind.USAGE, "--host and --any-host contradict each other", "leave one of them out")
    if keep and value is not None:
        raise AegisError(ErrorKind.USAGE, "a value and --keep contradict each other", "leave one of them out")
    if keep and not (hosts or any_host or header is not None):
        raise AegisError(ErrorKind.USAGE, "--keep changes nothing by itself", "add --host, --any-host or --header")
    if value is not None:
        out.warn("a value on the command line is visible to other users and stays in the shell's history; better: leave it out")
    elif keep:
        pass
    elif sys.stdin.isatty():
        value = out.read_hidden(f"value of {name}: ")
    else:
        value = sys.stdin.buffer.read().decode("utf-8", "strict").removesuffix("\n").removesuffix("\r")
    if not value and not keep:
        raise AegisError(ErrorKind.USAGE, f"the value of `{name}` is empty", "to forget a secret: `aegis secret delete`")
    told = client().secrets.set(name, value, hosts=list(hosts) if hosts or any_host else None, header=header)
    out.data(told)
    out.say(("kept " if keep else "stored ", "green"), (told["name"], "bold"), (f" (version {told['version']})", "dim"))


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


@click.command(cls=Verb)
@click.argument("name", shell_complete=complete_secret)
@click.pass_obj
def show(out: Output, name: str) -> None:
    """Show all about a secret but its value."""
    _show(out, client().secrets.show(name))


@click.command(cls=Verb)
@click.argument("name", shell_complete=complete_secret)
@click.pass_obj
def versions(out: Output, name: str) -> None:
    """List the values that a secret has and had.

    The values themselves are not shown. Twenty of those before the present one are kept.
    """
    found = client().secrets.versions(name)
    for item in found:
        out.data(item)
    rows = ([str(each["version"]), render.when(each["at"]), ("in use", "green") if each["current"] else ""] for each in found)
    out.table(("VERSION", "SINCE", ""), rows)


@click.command(cls=Verb)
@click.argument("name", shell_complete=complete_secret)
@click.argument("version", type=click.IntRange(min=1))
@click.pass_obj
def rollback(out: Output, name: str, version: int) -> None:
    """Make an earlier value the present one again.

    It becomes the newest version; the value that was in use is kept as one of those before.
    """
    told = client().secrets.rollback(name, version)
    out.data(told)
    out.say(("rolled back ", "green"), (name, "bold"), f" to the value of version {version}", (f" (now version {told['version']})", "dim"))


@click.command(cls=Verb)
@click.argument("name", shell_complete=complete_secret)
@click.option("--agent", "agents", multiple=True, metavar="NAME", help="The agents of this definition. Repeatable.")
@click.option("--project", "projects", multiple=True, metavar="DIR", help="The agents of this project. Repeatable.")
@click.pass_obj
def grant(out: Output, name: str, agents: tuple[str, ...], projects: tuple[str, ...]) -> None:
    """Let an agent or a project use a secret, and nobody else.

    A secret without grants serves whatever declares it. From the first grant on it serves only those that it is granted to.

    \b
    Examples:
      aegis secret grant DEPLOY_KEY --agent deployer
      aegis secret grant GITHUB_TOKEN --project .
    """
    _each(out, name, agents, projects, revoke=False)


@click.command(cls=Verb)
@click.argument("name", shell_complete=complete_secret)
@click.option("--agent", "agents", multiple=True, metavar="NAME", help="The agents of this definition. Repeatable.")
@click.option("--project", "projects", multiple=True, metavar="DIR", help="The agents of this project. Repeatable.")
@click.pass_obj
def revoke(out: Output, name: str, agents: tuple[str, ...], projects: tuple[str, ...]) -> None:
    """Take a grant back.

    After the last one the secret serves whatever declares it again; delete it if nobody is to have it.
    """
    _each(out, name, agents, projects, revoke=True)


@click.command("rotate-key", cls=Verb)
@click.pass_obj
def rotate_key(out: Output) -> None:
    """Protect all secrets by a new master key.

    The keys of all values are wrapped anew in one transaction, and the old master key is gone. Copies of the database from before need the
    key from before: keep it with them, or make a new copy.
    """
    count = client().secrets.rotate_key()
    out.data({"values": count})
    out.say(("a new master key ", "green"), f"protects {count} {'value' if count == 1 else 'values'}")
    out.hint("older copies of the home need the key that was copied with them; `aegis backup FILE` makes a new one of the database")


def _each(out: Output, name: str, agents: tuple[str, ...], projects: tuple[str, ...], *, revoke: bool) -> None:
    wanted = [("agent", agent) for agent in agents] + [("project", str(Path(project).resolve())) for project in projects]
    if not wanted:
        raise AegisError(ErrorKind.USAGE, "nobody is named", "add --agent NAME or --project DIR")
    daemon = client()
    for kind, target in wanted:
        told = daemon.secrets.grant(name, kind, target, revoke=revoke)
    _show(out, told)


def _show(out: Output, told: dict[str, Any]) -> None:
    out.data(told)
    out.pairs([
        ("secret", (told["name"], "bold")),
        ("version", str(told["version"])),
        ("stored", render.when(told["created_at"])),
        ("changed", render.when(told["updated_at"])),
        ("hosts", ", ".join(told["hosts"]) or "any that a rule names"),
        *([("header", told["header"])] if told["header"] else []),
        ("used by", ", ".join(f"{each['kind']} {each['target']}" for each in told["grants"]) or "whatever declares it"),
    ])  # fmt: skip
