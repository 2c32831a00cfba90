"""A conversation with an agent at the terminal, or with lines from a pipe.

A turn is read from the log by cursor, so an interrupted read loses nothing: Ctrl-C closes the stream, asks the daemon to cancel
the turn, and reads on to its end.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from aegis.cli import render
from aegis.cli.options import handle_argument, session_option
from aegis.cli.output import Output
from aegis.cli.reach import client
from aegis.cli.talk import failure_of, undelivered
from aegis.cli.verbs import Verb
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
        failure = _turn(out, daemon, item["id"], session, line)
        if failure is not None:
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


def _turn(out: Output, daemon: Client, ident: str, session: Session, text: str) -> AegisError | None:
    """Send one message and show the turn that answers it; returns its error if it did not complete."""
    try:
        receipt = daemon.mail.send(ident, text, session=session)
    except AegisError as exc:
        if exc.kind is ErrorKind.UNREACHABLE:
            raise
        return exc
    view = View(out)
    cursor, cancelled = receipt["ingress_seq"], False
    while True:
        try:
            with daemon.mail.stream(ident, cursor, session) as frames:
                for frame in frames:
                    payload = frame["payload"]
                    view.show(frame["type"], payload)
                    cursor = frame["seq"]
                    if answers(frame, receipt["id"]):
                        return failure_of(payload)
                    if frame["type"] == "event.failed" and receipt["id"] in payload["ids"]:
                        return undelivered(ident, payload["reason"])
            return AegisError(ErrorKind.UNREACHABLE, "the daemon ended before the answer", "the message is kept: `aegis up`")
        except KeyboardInterrupt:
            if cancelled:
                raise
            cancelled = True
            view.close()
            daemon.mail.cancel(ident, session)


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
            case "assistant.done":
                self.close()
                usage = payload.get("usage") or {}
                if usage.get("input"):
                    self._out.say((f"{render.tokens(usage)}, {payload.get('ms', 0) / 1000:.1f} s", "dim"))

    def _piece(self, what: str, text: str) -> None:
        if self._open != what:
            self.close()
            self._open = what
        self._out.piece(text, "dim" if what == "thinking" else "")

    def _whole(self, text: str) -> None:
        """The whole text, of which pieces may have been shown: show what is missing."""
        if text.startswith(self._text):
            if rest := text[len(self._text) :]:
                self._piece("text", rest)
        else:
            self.close()
            self._piece("text", text)
        self._text = ""
        self.close()
