"""Verbs about the daemon itself: up, down, status, doctor, backup, serve."""

from __future__ import annotations

import os
import select
from pathlib import Path
from typing import Any

import click

from aegis.cli import returning
from aegis.cli.options import complete_sandbox
from aegis.cli.output import Output, Piece
from aegis.cli.reach import client, running_client
from aegis.cli.verbs import Verb
from aegis.client import launch
from aegis.client.api import Client
from aegis.core.errors import AegisError, ErrorKind

_DOWN_SECONDS = 60.0


@click.command(cls=Verb)
@click.option("--listen", metavar="HOST:PORT", help="Listen on a TCP address, too. Anyone who reaches it must bring a token.")
@click.option("--clean", is_flag=True, help="Set nothing going: put every instance aside, until you start it by its name.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask, with --clean.")
@click.pass_obj
def up(out: Output, listen: str | None, clean: bool, yes: bool) -> None:
    """Start the daemon.

    Returns when it is ready, and says what came back: every instance with its conversations, its mail and its workspace, asleep until it
    is needed. A turn that was cut short goes on, and waiting mail is dealt with, a few instances at a time. What cannot be started says
    why. Does nothing when the daemon already runs. Every verb that needs the daemon starts it by itself.

    With --clean nothing goes on: every instance is disabled. Nothing is deleted, and what waits for it goes on waiting.
    `aegis instance start --name HANDLE` takes one back into use.

    \b
    Examples:
      aegis up
      aegis up --clean
      AEGIS_HOME=/srv/aegis aegis up
    """
    home = launch.home()
    if clean:
        _agree(out, home, yes)
    started = launch.ensure_daemon(home, listen=listen, clean=clean).started
    if clean and not started:
        raise AegisError(ErrorKind.CONFLICT, "the daemon already runs, so nothing was put aside", "`aegis down`, then `aegis up --clean`")
    told = Client(launch.socket_path(home)).status(timeout=60.0, restored=started)
    out.data({**told, "started": started})
    word = "started" if started else "already runs"
    out.say(("aegisd ", "bold"), f"{told['version']} ", (word, "green"), f" (pid {told['pid']}, home {home})")
    _versions(out, told)
    returning.show(out, told)
    if listen and not started:
        out.warn(f"it already ran, so --listen {listen} had no effect; `aegis down` first")


@click.command(cls=Verb)
@click.pass_obj
def down(out: Output) -> None:
    """Stop the daemon and every instance.

    Returns when it has ended. Nothing that was accepted is lost: messages wait, and conversations go on after the next start.
    """
    path = launch.socket_path(launch.home())
    if not launch.answers(path):
        out.data({"status": "stopped", "stopped": False})
        out.say("aegisd does not run")
        return
    daemon = Client(path)
    pid = int(daemon.status()["pid"])
    try:
        ended = os.pidfd_open(pid)
    except ProcessLookupError:
        ended = -1
    if ended >= 0:
        try:
            daemon.shutdown()
            if not select.select([ended], [], [], _DOWN_SECONDS)[0]:
                told = f"the daemon (pid {pid}) is still ending after {_DOWN_SECONDS:g} s"
                raise AegisError(ErrorKind.TIMEOUT, told, "see `aegis status`")
        finally:
            os.close(ended)
    out.data({"status": "stopped", "stopped": True, "pid": pid})
    out.say("aegisd stopped")


@click.command(cls=Verb)
@click.pass_obj
def status(out: Output) -> int:
    """Say whether the daemon runs, and what it holds.

    Never starts it. The exit code is 0 when it runs and 7 when it does not.
    """
    home = launch.home()
    try:
        told = running_client().status()
    except AegisError as exc:
        if exc.kind is not ErrorKind.UNREACHABLE:
            raise
        out.data({"status": "stopped", "home": str(home)})
        out.say(("aegisd ", "bold"), ("does not run", "red"), f" (home {home})")
        out.hint("start it with `aegis up`")
        return exc.exit_code
    out.data(told)
    counts = ", ".join(f"{n} {name}" for name, n in told.get("instances", {}).items() if n) or "none"
    out.say(("aegisd ", "bold"), f"{told['version']} ", ("runs", "green"))
    rows: list[tuple[str, Piece]] = [
        ("pid", str(told["pid"])),
        ("home", str(told["home"])),
        ("up for", _span(float(told.get("uptime_s", 0)))),
        ("instances", counts),
        ("sandbox", str(told.get("backend"))),
    ]
    if told.get("hindered"):
        rows.append(("cannot start", (f"{told['hindered']}; `aegis doctor` says why", "yellow")))
    if told.get("listen"):
        rows.append(("listens on", ", ".join(map(str, told["listen"]))))
    out.pairs(rows, "  ")
    _versions(out, told)
    return 0


@click.command(cls=Verb)
@click.option("--sandbox", metavar="NAME", shell_complete=complete_sandbox, help="Run the whole conformance suite of one kind of sandbox.")
@click.option("--store", is_flag=True, help="Check the database and everything it refers to.")
@click.pass_obj
def doctor(out: Output, sandbox: str | None, store: bool) -> int:
    """Examine this machine and say what to mend.

    Each kind of sandbox is tried, not guessed. The exit code is 1 when a check fails or no sandbox works; a program that
    is not installed and a model without a key are only told.

    \b
    Examples:
      aegis doctor
      aegis doctor --sandbox bwrap
    """
    daemon = client()
    if sandbox and out.interactive:
        out.say((f"trying to break out of `{sandbox}` in every known way; this takes some ten seconds", "dim"))
    told = daemon.doctor(sandbox=sandbox, store=store)
    out.data(told)
    for key in ("checks", "sandboxes", "programs", "models", "instances", "conformance"):
        if told.get(key):
            out.say((key.capitalize(), "bold"))
            for check in told[key]:
                _check(out, check)
    sound = all(check["ok"] for check in told.get("checks", []))
    conforms = all(check["ok"] or check.get("skipped") for check in told.get("conformance") or [])
    usable = any(kind["ok"] for kind in told.get("sandboxes", [])) or not told.get("sandboxes")
    return 0 if sound and conforms and usable else 1


@click.command(cls=Verb)
@click.argument("file", type=click.Path(path_type=Path))
@click.pass_obj
def backup(out: Output, file: Path) -> None:
    """Write a copy of the database to a file.

    The daemon goes on meanwhile. The copy holds events, messages, conversations, definitions of instances and sealed secrets; to
    read the secrets one also needs `master.key` of the home, which is best kept in another place. FILE must not be there yet.

    \b
    Examples:
      aegis backup /media/disk/aegis-2026-01-31.db
    """
    target = Path(os.path.abspath(file.expanduser()))
    if os.path.lexists(target):
        raise AegisError(ErrorKind.USAGE, f"{target} is there already", "name a new file")
    told = client().backup(target)
    out.data(told)
    out.say(("saved ", "green"), (told["path"], "bold"), (f"  {told['bytes'] / 2**20:.1f} MiB", "dim"))
    out.hint(f"to read the secrets in it, also keep {launch.home() / 'master.key'}, in another place")


@click.command(cls=Verb, json=False)
@click.option("--listen", metavar="HOST:PORT", help="Listen on a TCP address, too. Anyone who reaches it must bring a token.")
@click.pass_obj
def serve(out: Output, listen: str | None) -> None:
    """Run the daemon in the foreground.

    For service managers and containers; it logs to standard error and ends on SIGTERM or Ctrl-C.
    """
    argv = launch.daemon_argv(launch.home(), listen)
    launch.socket_path(launch.home())
    out.flush()
    os.execve(argv[0], argv, launch.daemon_environment())


def _agree(out: Output, home: Path, yes: bool) -> None:
    """Return when every instance may be put aside: asks a person who sits at a terminal. Raises CONFLICT when the daemon runs, DENIED."""
    if launch.answers(launch.socket_path(home)):
        raise AegisError(ErrorKind.CONFLICT, "the daemon already runs, so nothing was put aside", "`aegis down`, then `aegis up --clean`")
    if out.interactive and not yes:
        out.say(f"every instance of {home} is put aside: disabled, until you start it by its name; nothing is deleted")
        if not out.ask("Go on?"):
            raise AegisError(ErrorKind.DENIED, "nothing was started", "`aegis up` without --clean brings everything back")


def _check(out: Output, check: dict[str, Any]) -> None:
    """One line for a check, and the command that mends it."""
    mark: Piece = ("- ", "dim") if check.get("skipped") else ("✓ ", "green") if check["ok"] else ("✗ ", "red")
    detail = check.get("skipped") if isinstance(check.get("skipped"), str) else check.get("detail")
    out.say("  ", mark, (str(check["name"]), "bold"), f"  {detail}" if detail else "")
    if check.get("boundary"):
        out.say("      ", (str(check["boundary"]), "dim"))
    if check.get("mend") and not check["ok"]:
        out.say("      mend: ", (str(check["mend"]), "cyan"))


def _versions(out: Output, told: dict[str, Any]) -> None:
    from aegis.core.version import __version__

    if told["version"] != __version__:
        out.warn(f"the daemon is of version {told['version']}, this program of {__version__}; `aegis down && aegis up` renews it")


def _span(seconds: float) -> str:
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    if days >= 2:
        return f"{days:.0f} days"
    if hours >= 2:
        return f"{hours:.0f} hours"
    return f"{minutes:.0f} minutes" if minutes >= 2 else f"{seconds:.0f} s"
