"""Running a command in a sandbox: `exec` in an instance that is there, `run` in one made for it.

Output goes through byte for byte as it comes, or with `--json` as text in objects; the exit code is the command's own (128 + n
for a signal), and ending this program ends the command.
"""

from __future__ import annotations

import base64
import codecs
import os
import secrets
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from aegis.cli import render
from aegis.cli.instance import spec_of, spec_options, within_project
from aegis.cli.options import Pair, handle_argument
from aegis.cli.output import Output
from aegis.cli.reach import client
from aegis.cli.verbs import Verb
from aegis.core.errors import AegisError, ErrorKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from aegis.client.api import Client

_CHUNK = 64 * 1024
_STREAMS = {1: "stdout", 2: "stderr"}
_REMOVED_SECONDS = 30.0


@click.command("exec", cls=Verb, tail="-- COMMAND...")
@handle_argument
@click.option("--cwd", metavar="DIR", help="The directory inside to run it in; the workspace if not given.")
@click.option("--env", type=Pair(), multiple=True, help="A variable for the command.")
@click.option("--interactive", "-i", is_flag=True, help="Forward what is typed; input from a pipe or file always is.")
@click.pass_obj
def exec_(out: Output, handle: str, command: tuple[str, ...], cwd: str | None, env: tuple[tuple[str, str], ...], interactive: bool) -> int:
    """Run a command in an instance.

    Its output comes through unchanged and its exit code is kept. Ctrl-C ends it. With --json it is objects with `stream` and `text`
    as it comes, and last one with `exit_code`.

    \b
    Examples:
      aegis exec lucid-knuth -- git log --oneline
      tar c . | aegis exec box -- tar x
    """
    argv = _wanted(command)
    return execute(out, client(), handle, argv, env=dict(env), cwd=cwd, interactive=interactive)


@click.command(cls=Verb, tail="-- COMMAND...")
@spec_options
@click.option("--interactive", "-i", is_flag=True, help="Forward what is typed; input from a pipe or file always is.")
@click.pass_obj
def run(out: Output, /, command: tuple[str, ...], interactive: bool, **given: Any) -> int:
    """Run a command in a sandbox made for it.

    The sandbox is gone afterwards, whatever happened. The exit code is the command's own. --json is as in `aegis exec`.

    \b
    Examples:
      aegis run -- sh -c 'exit 42'
      aegis run --workspace . --read-only -- pytest
    """
    argv = _wanted(command)
    daemon = client()
    spec = within_project(out, daemon, spec_of(**given))
    spec["ephemeral"] = True
    handle = spec.setdefault("handle", f"run-{secrets.token_hex(4)}")
    if any(item["handle"] == handle for item in daemon.instances.all()):
        raise AegisError(ErrorKind.CONFLICT, f"there is an instance `{handle}` already", f"`aegis exec {handle} -- COMMAND` runs in it")
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGHUP, _leave)
    try:
        item, _ = daemon.instances.start(spec)
        render.cautions(out, item, model=False)
        return execute(out, daemon, item["id"], argv, interactive=interactive)
    finally:
        _remove(daemon, handle)


def execute(
    out: Output,
    daemon: Client,
    handle: str,
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    interactive: bool = False,
) -> int:
    """Run `argv` in an instance with this program's own input and output; returns the exit code for the shell."""
    stdin = interactive or (sys.stdin is not None and not sys.stdin.isatty())
    texts = {stream: codecs.getincrementaldecoder("utf-8")("replace") for stream in (1, 2)}
    with daemon.instances.exec(handle, argv, env=env, cwd=cwd, stdin=stdin) as stream:
        try:
            for item in stream:
                if "s" in item:
                    data = base64.b64decode(item["d"])
                    if not out.json:
                        out.raw(item["s"], data)
                    elif text := texts[item["s"]].decode(data):
                        out.data({"stream": _STREAMS[item["s"]], "text": text})
                elif item.get("done"):
                    for number, decoder in texts.items():
                        if rest := decoder.decode(b"", final=True):
                            out.data({"stream": _STREAMS[number], "text": rest})
                    code = int(item["exit_code"])
                    code = 128 - code if code < 0 else code
                    out.data({"exit_code": code})
                    return code
                elif stdin:
                    # It may wait for input for ever, so nobody waits for it.
                    threading.Thread(target=_feed, args=(daemon, handle, item["exec_id"]), daemon=True).start()
        except AegisError as exc:
            if exc.kind is not ErrorKind.UNREACHABLE:
                raise
    told = f"the daemon ended while `{argv[0]}` ran, and the command with it"
    raise AegisError(ErrorKind.UNREACHABLE, told, "what it wrote to the workspace is there; run it again")


def _remove(daemon: Client, handle: str) -> None:
    """Delete what `run` made, or see the daemon do so, which does it by itself when the command ends; returns when it is gone."""
    deadline = time.monotonic() + _REMOVED_SECONDS
    while True:
        try:
            daemon.instances.delete(handle)
            return
        except AegisError as exc:
            if exc.kind in (ErrorKind.NOT_FOUND, ErrorKind.UNREACHABLE):
                return  # a daemon that ended forgets it at its next start
            if exc.kind is not ErrorKind.CONFLICT or time.monotonic() >= deadline:
                raise
        time.sleep(0.02)


def _feed(daemon: Client, handle: str, exec_id: str) -> None:
    # A command that ends without reading its input is no failure.
    with suppress(AegisError):
        daemon.instances.feed(handle, exec_id, _typed())


def _typed() -> Iterator[bytes]:
    with suppress(OSError):
        while data := os.read(0, _CHUNK):
            yield data


def _wanted(command: tuple[str, ...]) -> tuple[str, ...]:
    if not command:
        raise click.UsageError("no command: write it after `--`", click.get_current_context())
    return command


def _leave(number: int, frame: object) -> None:
    """Turn a signal into an exception, so that the sandbox is removed on the way out."""
    sys.exit(128 + number)
