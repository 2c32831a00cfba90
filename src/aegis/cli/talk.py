"""Verbs of messages: send, cancel, read, transcript."""

from __future__ import annotations

import sys
import time
from contextlib import closing, suppress
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from aegis.cli import blocks, render
from aegis.cli.options import Span, Word, handle_argument, image_option, session_option
from aegis.cli.output import Output
from aegis.cli.reach import client
from aegis.cli.receipts import times
from aegis.cli.verbs import Verb
from aegis.cli.view import View
from aegis.client import lasting
from aegis.client.api import MAX_WAIT, answers, pages
from aegis.client.images import read_image
from aegis.client.shapes import FRAME_TYPES
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from aegis.client.api import Client
    from aegis.client.shapes import Frame, Receipt, Session


class Waiting(NamedTuple):
    """How a message is sent, and what is done until it is answered."""

    wait: bool
    timeout: float | None
    expires: float | None
    hold: bool
    msg_id: str | None


def waiting_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of verbs that send a message, as the argument `waiting`."""

    @wraps(function)
    def gathered(*args: Any, wait: bool, timeout: float | None, expires: float | None, hold: bool, msg_id: str | None, **rest: Any) -> Any:
        if timeout is not None and not wait:
            raise click.UsageError("--timeout is for --wait", click.get_current_context())
        return function(*args, waiting=Waiting(wait, timeout, expires, hold, msg_id), **rest)

    seconds = click.FloatRange(min=0, min_open=True)
    for option in (
        click.option("--msg-id", metavar="ID", help="An id of your own; sending it again changes nothing."),
        click.option("--hold", is_flag=True, help="Also for a disabled instance: the message waits until somebody starts that."),
        click.option("--expires", type=Span(), metavar="SPAN", help="How long it may wait for its turn, such as 90s or 2h; then it fails."),
        click.option("--timeout", type=seconds, metavar="SECONDS", help="The longest to wait with --wait."),
        click.option("--wait", "-w", is_flag=True, help="Wait for the answer and print it."),
    ):
        gathered = option(gathered)
    return gathered


def message_of(text: str) -> str:
    """The text of a message, from standard input for `-`."""
    return sys.stdin.buffer.read().decode("utf-8", "replace") if text == "-" else text


@click.command(cls=Verb)
@handle_argument
@click.argument("text")
@session_option
@waiting_options
@click.option("--interrupt", is_flag=True, help="Cut the turn that runs now.")
@image_option
@click.pass_obj
def send(out: Output, handle: str, text: str, session: Session, interrupt: bool, images: tuple[str, ...], waiting: Waiting) -> int:
    """Send a message.

    TEXT is the message, or `-` for standard input. When this returns the message is on disk and will be delivered, also if the
    instance sleeps or the daemon dies. With --wait the exit code tells how the turn ended; a daemon that dies meanwhile is started
    again.

    \b
    Examples:
      aegis send coder "run the tests and mend what fails"
      git diff | aegis send reviewer - --wait
    """
    text = message_of(text)
    pictures = [read_image(path) for path in images]
    daemon = client()
    receipt = lasting.send(
        daemon, handle, text, session=session, msg_id=waiting.msg_id, interrupt=interrupt, images=pictures, expires=waiting.expires,
        hold=waiting.hold,
    )  # fmt: skip
    return conclude(out, daemon, handle, session, receipt, waiting)


def conclude(out: Output, daemon: Client, handle: str, session: Session, receipt: Receipt, waiting: Waiting) -> int:
    """Say that a message was accepted, or wait for its answer and print that; the exit code."""
    if not waiting.wait:
        out.data(receipt)
        word = "already accepted " if receipt.get("duplicate") else "accepted "
        out.say((word, "green"), receipt["id"], (f" (seq {receipt['ingress_seq']})", "dim"))
        out.hint(f"`aegis read {handle}{_flag(session)} --after {receipt['ingress_seq']} --wait 30`")
        return 0
    done = answer(out, daemon, handle, session, receipt, waiting.timeout)
    payload = done["payload"]
    with suppress(AegisError):  # the answer is there; the receipt would only be more
        told = daemon.mail.get(receipt["id"])
        payload = {**payload, "mail": {key: told.get(key) for key in ("state", "accepted_at", "injected_at", "acknowledged_at", "done_at")}}
        out.hint(times(told))
    out.data({**payload, "message_id": receipt["id"], "seq": done["seq"]})
    if payload.get("text"):
        out.say(payload["text"])
    failure = failure_of(payload)
    if failure is None:
        return 0
    if not out.json:
        out.error(failure)
    return failure.exit_code


def answer(out: Output, daemon: Client, handle: str, session: Session, receipt: Receipt, timeout: float | None) -> Frame:
    """The `assistant.done` that answers a message. Raises TIMEOUT after `timeout` seconds, FAILED if it cannot be delivered."""
    hint = f"`aegis read {handle}{_flag(session)} --after {receipt['ingress_seq']} --wait 30`"
    found = lasting.frames(daemon, handle, receipt["ingress_seq"], session, timeout=timeout, ended=out.warn)
    try:
        with closing(found):
            for frame in found:
                if answers(frame, receipt["id"]):
                    return frame
                if frame["type"] == "approval.requested":
                    ident = blocks.short_id(frame["payload"]["id"])
                    told = frame["payload"]["title"] or frame["payload"]["tool"]
                    out.hint(f"it needs you: {one_line(told)}; `aegis approvals approve {ident}`, or `reject`")
                if frame["type"] == "event.failed" and receipt["id"] in frame["payload"]["ids"]:
                    raise undelivered(handle, frame["payload"]["reason"])
    except AegisError as error:
        if error.kind is ErrorKind.TIMEOUT and timeout is not None:
            told = f"`{handle}` has not answered within {timeout:g} s"
            raise AegisError(ErrorKind.TIMEOUT, told, f"the turn goes on; {hint}", id=receipt["id"]) from None
        if error.kind is ErrorKind.UNREACHABLE:
            raise AegisError(error.kind, error.message, f"the message is kept; {hint} goes on", id=receipt["id"]) from None
        raise
    raise AssertionError("frames never end")


def undelivered(handle: str, reason: str) -> AegisError:
    """The error of a message that no turn will answer."""
    return AegisError(ErrorKind.FAILED, f"the message was not delivered: {reason}", f"see `aegis inbox list {handle}`")


def failure_of(done: dict[str, Any]) -> AegisError | None:
    """The error of a turn that did not complete, from its `assistant.done`."""
    outcome = done.get("outcome", "completed")
    if outcome == "completed":
        return None
    if done.get("error"):
        return AegisError.from_dict(done["error"])
    kind = {"limited": ErrorKind.LIMIT, "cancelled": ErrorKind.INTERRUPTED}.get(outcome, ErrorKind.FAILED)
    return AegisError(kind, f"the turn was {outcome}" if outcome != "failed" else "the turn failed")


@click.command(cls=Verb)
@handle_argument
@session_option
@click.pass_obj
def cancel(out: Output, handle: str, session: Session) -> int:
    """Cut the turn that runs.

    The agent and what it remembers stay; what the turn did so far stays done. A turn that waits for its provider's limit to end is
    tried at once instead. Nothing happens when no turn runs.
    """
    cut = client().mail.cancel(handle, session)
    out.data({"cancelled": cut})
    out.say(("cut", "yellow") if cut else ("no turn runs", "dim"))
    return 0


@click.command(cls=Verb)
@handle_argument
@session_option
@click.option("--after", type=click.IntRange(min=0), default=0, metavar="SEQ", help="Only frames after this number.")
@click.option("--wait", type=click.FloatRange(min=0), default=0.0, metavar="SECONDS", help="Wait this long for the first one.")
@click.option("--limit", type=click.IntRange(1, 200), metavar="N", help="The most frames to return.")
@click.option(
    "--types",
    type=Word("frame type", FRAME_TYPES, several=True),
    metavar="TYPE,...",
    help="Only frames of these types, such as `assistant.done`.",
)
@click.pass_obj
def read(out: Output, handle: str, session: Session, after: int, wait: float, limit: int | None, types: list[str] | None) -> None:
    """Read what came back.

    Prints the frames after a number, messages to the agent included. With --json the answer has `next_seq`, the number to read
    on from.

    \b
    Examples:
      aegis read coder --after 120 --wait 30
      aegis read coder --types assistant.done --json
    """
    daemon, deadline = client(), time.monotonic() + wait
    while True:
        left = max(deadline - time.monotonic(), 0.0)
        page = daemon.mail.poll(handle, after, session=session, wait=left, types=types or (), limit=limit)
        if page["frames"] or left <= MAX_WAIT:
            break
    out.data(page)
    if page.get("evicted"):
        out.warn(f"pieces up to {page['evicted']} are no longer kept; their whole texts are")
    for frame in page["frames"]:
        out.say(*render.frame_line(frame))
    if page["frames"]:
        out.hint(f"`aegis read {handle}{_flag(session)} --after {page['next_seq']}` reads on")
    else:
        out.say("nothing yet" if not after else f"nothing after {after}")


@click.command(cls=Verb)
@handle_argument
@session_option
@click.pass_obj
def transcript(out: Output, handle: str, session: Session) -> None:
    """Show a whole conversation.

    What was said, the tools that were used and what they gave back, as `aegis watch` showed it. With --json it is the agent's memory of
    the session.
    """
    daemon = client()
    if out.json:
        out.data(daemon.mail.transcript(handle, session))
        return
    view, nothing = View(out, whole=True), True
    for event in pages(daemon, 0, daemon.instances.get(handle)["id"], ":".join(session)):
        if not event["type"].endswith(".delta"):
            view.show(event)
            nothing = False
    view.close()
    if nothing:
        out.say("nothing was said yet")


def _flag(session: Session) -> str:
    """The flag that names a session again in a hint."""
    return "" if session == ("host", "default") else f" --session {':'.join(session)}"
