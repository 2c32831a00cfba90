"""A conversation with an agent at the terminal, or with lines from a pipe.

A turn is read from the log by cursor, so an interrupted read loses nothing: Ctrl-C closes the stream, asks the daemon to cancel
the turn, and reads on to its end; a daemon that dies is started again and read on from.
"""

from __future__ import annotations

import sys
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import click

from aegis.cli import render
from aegis.cli.options import handle_argument, session_option
from aegis.cli.output import Output
from aegis.cli.reach import client
from aegis.cli.talk import failure_of, undelivered
from aegis.cli.verbs import Verb
from aegis.client import lasting
from aegis.client.api import answers
from aegis.core.errors import AegisError, ErrorKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aegis.client.api import Client
    from aegis.client.shapes import Session


@click.command(cls=Verb, json=False)
@handle_argument
@session_option
@click.pass_obj
def chat(out: Output, handle: str, session: Session) -> int:
    """Talk with an agent, line by line.

    The answer is shown as it comes, with the tools it uses. Ctrl-C cuts the turn; twice at the prompt, or Ctrl-D, leaves. The
    conversation stays and can be gone on with. From a pipe each line is a message, and the exit code is that of the last turn
    that did not complete.

    \b
    Examples:
      aegis chat coder
      echo "what changed today?" | aegis chat coder
    """
    daemon = client()
    item = daemon.instances.get(handle)
    out.live = True
    if out.interactive:
        out.say((item["handle"], "bold"), (f"  {item.get('model') or ''}  {':'.join(session)}", "dim"))
        render.cautions(out, item)
    code = 0
    for line in _lines(out, item["handle"]):
        failure = _turn(out, daemon, item["handle"], session, line)
        if failure is None:
            continue
        if out.interactive and failure.kind is ErrorKind.INTERRUPTED:
            out.say(("cut", "yellow"))
        else:
            out.error(failure)
        code = failure.exit_code
    return 0 if out.interactive else code


def _lines(out: Output, handle: str) -> Iterator[str]:
    """The messages a person types or a pipe holds, without the empty ones. Raises KeyboardInterrupt at the second Ctrl-C."""
    if not out.interactive:
        for line in sys.stdin.buffer:
            if text := line.decode("utf-8", "replace").strip():
                yield text
        return
    warned = False
    while True:
        try:
            text = out.read_line(f"{handle}> ").strip()
        except EOFError:
            out.say()
            return
        except KeyboardInterrupt:
            out.say()
            if warned:
                raise
            warned = True
            out.hint("Ctrl-C once more, or Ctrl-D, leaves; the conversation stays")
            continue
        warned = False
        if text:
            yield text


def _turn(out: Output, daemon: Client, handle: str, session: Session, text: str) -> AegisError | None:
    """Send one message and show the turn that answers it; returns its error if it did not complete."""
    view = View(out)

    def ended(told: str) -> None:
        view.close()
        out.warn(told)

    try:
        receipt = lasting.send(daemon, handle, text, session=session)
    except AegisError as exc:
        return exc
    cursor, cancelled = receipt["ingress_seq"], False
    while True:
        try:
            with closing(lasting.frames(daemon, handle, cursor, session, ended=ended)) as frames:
                for frame in frames:
                    cursor = max(cursor, frame["seq"])
                    view.show(frame["type"], frame["payload"])
                    if answers(frame, receipt["id"]):
                        return failure_of(frame["payload"])
                    if frame["type"] == "event.failed" and receipt["id"] in frame["payload"]["ids"]:
                        return undelivered(handle, frame["payload"]["reason"])
        except AegisError as exc:
            view.close()
            return exc
        except KeyboardInterrupt:
            if cancelled:
                raise
            cancelled = True
            view.close()
            with suppress(AegisError):  # then there is no turn to cut: the daemon died, or the instance was deleted
                daemon.mail.cancel(handle, session)


class View:
    """Shows the frames of a turn as they come."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._text = ""  # what was shown of the text that is not yet whole
        self._open = ""  # what the unfinished line holds: "text", "thinking" or nothing

    def close(self) -> None:
        """End an unfinished line."""
        if self._open:
            self._out.say()
            self._open = ""

    def show(self, kind: str, payload: dict[str, Any]) -> None:
        """Show one frame."""
        match kind:
            case "assistant.delta":
                self._piece("text", payload["text"])
                self._text += payload["text"]
            case "reasoning.delta":
                self._piece("thinking", payload["text"])
            case "reasoning.done":
                self.close()
            case "assistant.text":
                self._whole(payload["text"])
            case "tool.call":
                self.close()
                self._out.say(("→ ", "cyan"), (str(payload.get("name")), "bold"), f" {render.compact(payload.get('input'))}")
            case "tool.result":
                self.close()
                mark = ("✓ ", "green") if payload.get("ok") else ("✗ ", "red")
                self._out.say(mark, render.compact(payload.get("output", "")), (f"  {payload.get('ms', 0):.0f} ms", "dim"))
            case "assistant.done" if (payload.get("error") or {}).get("will_continue"):
                self.close()
                self._text = ""
                self._out.say(("… cut short, and continued", "yellow"))
            case "assistant.done":
                self.close()
                self._text = ""
                usage = payload.get("usage") or {}
                if usage.get("input"):
                    self._out.say((f"{render.tokens(usage)}, {payload.get('ms', 0) / 1000:.1f} s", "dim"))

    def _piece(self, what: str, text: str) -> None:
        if self._open != what:
            self.close()
            self._open = what
        self._out.piece(text, "dim" if what == "thinking" else "")

    def _whole(self, text: str) -> None:
        """A whole text, of which pieces may have been shown: show what is missing. Pieces of the next one may be there already."""
        if self._text.startswith(text):
            self._text = self._text[len(text) :]
            if not self._text:
                self.close()
            return
        if text.startswith(self._text):
            self._piece("text", text[len(self._text) :])
        else:
            self.close()
            self._piece("text", text)
        self._text = ""
        self.close()
