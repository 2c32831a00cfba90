"""Verbs that give Aegis to a person's own agent program: as an MCP server, and into the program's own configuration."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aegis.cli.options import Word
from aegis.cli.output import Output
from aegis.cli.verbs import Verb
from aegis.core.errors import AegisError, ErrorKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from aegis.cli.hosts.programs import Host

PROGRAMS = ("claude", "gemini", "opencode", "codex", "all")
_SIGNS = {"+": "green", "-": "red", "@": "cyan"}


@click.command(cls=Verb, json=False)
@click.pass_obj
def serve(out: Output) -> None:
    """Be an MCP server on standard input and output.

    For a person's own agent program, which starts it by itself once it is told of it: `aegis mcp install`. What it is asked goes to the
    daemon, which is started when it does not run; when the daemon dies in between, work goes on. It ends with its input.
    """
    from aegis.cli.pipe import Pipe
    from aegis.client import launch

    if out.interactive:
        out.hint("this is for programs, and speaks JSON on standard input; `aegis mcp install` tells yours of it")
    Pipe(launch.home(), Path.cwd(), lambda line: out.raw(1, line)).run()


def _targets(function: Callable[..., Any]) -> Callable[..., Any]:
    """The argument and options that say which file is meant."""
    for decorate in (
        click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing."),
        click.option("--name", default="aegis", show_default=True, metavar="NAME", help="What the server is called there."),
        click.option("--project", "-p", is_flag=True, help="The file of the project in this directory, which others share."),
        click.option("--user", "-u", is_flag=True, help="Your own file, for all your projects; this is the default."),
        click.argument("program", type=Word("program", PROGRAMS), default="all", metavar="[PROGRAM]"),
    ):
        function = decorate(function)
    return function


@click.command(cls=Verb)
@_targets
@click.pass_obj
def install(out: Output, program: str, user: bool, project: bool, name: str, dry_run: bool) -> None:
    """Tell your agent programs of Aegis.

    PROGRAM is `claude`, `gemini`, `opencode`, `codex`, or `all` that are found here. Their own configuration file gets one entry, which
    starts `aegis mcp serve`; everything else in it stays as it is, comments too. What changes is shown. Doing it again changes nothing.

    \b
    Examples:
      aegis mcp install claude
      aegis mcp install --project --dry-run
    """
    from aegis.cli.hosts import programs
    from aegis.client import launch

    words = programs.command_line(shared=project)
    env = {} if project or launch.home() == Path.home() / ".aegis" else {"AEGIS_HOME": str(launch.home())}

    def change(host: Host, path: Path, text: str) -> str:
        old = programs.entry_of(host, path, text, name)
        if old is not None and not programs.is_ours(old):
            told = f"{path} has a server `{name}` that is not Aegis"
            raise AegisError(ErrorKind.CONFLICT, told, "choose another name with --name")
        return programs.with_entry(host, path, text, name, host.entry(words, env))

    if project and words[0].startswith("/"):
        out.warn(f"`aegis` is not on the PATH, so the entry names {words[0]}, which is a file of this machine")
    changed = _each(out, program, project, name, dry_run, ("added", "would add"), change)
    for host in changed if not dry_run else []:
        out.hint(host.after)


@click.command(cls=Verb)
@_targets
@click.pass_obj
def uninstall(out: Output, program: str, user: bool, project: bool, name: str, dry_run: bool) -> None:
    """Take Aegis out of your agent programs again.

    The entry that `aegis mcp install` made is taken out of the program's configuration; everything else in it stays as it is. An entry of
    that name that does not start Aegis is left alone.
    """
    from aegis.cli.hosts import programs

    def change(host: Host, path: Path, text: str) -> str:
        old = programs.entry_of(host, path, text, name)
        if old is not None and not programs.is_ours(old):
            raise AegisError(ErrorKind.CONFLICT, f"the server `{name}` in {path} is not Aegis", "it is left alone; take it out by hand")
        return programs.without_entry(host, path, text, name)

    _each(out, program, project, name, dry_run, ("removed", "would remove"), change)


def _each(
    out: Output,
    program: str,
    project: bool,
    name: str,
    dry_run: bool,
    words: tuple[str, str],
    change: Callable[[Host, Path, str], str],
) -> list[Host]:
    """Change the file of each program that is meant; those whose file changed."""
    from aegis.cli.hosts import programs

    _check(name, project)
    hosts = [host for host in programs.HOSTS.values() if program == host.name or (program == "all" and programs.present(host))]
    if not hosts:
        names = ", ".join(f"`{each}`" for each in programs.HOSTS)
        raise AegisError(ErrorKind.NOT_FOUND, "none of the programs is on the PATH or has a file here", f"name the one you mean: {names}")
    changed, failed = [], []
    for host in hosts:
        try:
            if _one(out, host, project, dry_run, words, change):
                changed.append(host)
        except AegisError as error:
            if len(hosts) == 1:
                raise
            out.warn(f"{host.title}: {error.message}")
            failed.append(error)
    if failed:
        raise failed[0]
    return changed


def _one(out: Output, host: Host, project: bool, dry_run: bool, words: tuple[str, str], change: Callable[[Host, Path, str], str]) -> bool:
    from aegis.cli.hosts import files, programs

    here = Path.cwd()
    paths = host.project(here) if project else host.user()
    seen = files.read(programs.choose(paths), within=here if project else None)
    before = seen.text
    after = change(host, seen.path, before)
    diff = _diff(before, after, str(seen.path))
    if before != after and not dry_run:
        files.write(seen, after, private=not project)
    done = ("unchanged", "unchanged") if before == after else words
    word = done[1] if dry_run else done[0]
    out.data({"program": host.name, "path": str(seen.path), "change": word.replace(" ", "-"), "diff": "\n".join(diff)})
    out.say((f"{word} ", "green" if before != after else "dim"), (host.title, "bold"), f"  {seen.path}")
    for line in diff:
        out.say((f"  {line}", _SIGNS.get(line[:1], "dim")))
    return before != after


def _diff(before: str, after: str, path: str) -> list[str]:
    """The change, with a line around it: a configuration holds what is nobody's business on a screen."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), path, path, n=1, lineterm="")
    return list(lines)[2:]


def _check(name: str, project: bool) -> None:
    import re

    context = click.get_current_context()
    if project and context.params.get("user"):
        raise click.UsageError("--user and --project exclude each other", context)
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,39}", name):
        raise click.UsageError(f"--name {name!r} is not a name; use letters, digits, `-` and `_`", context)
