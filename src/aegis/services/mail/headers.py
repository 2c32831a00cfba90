"""How messages stand in a turn: who wrote each, told so that no text can pretend to be somebody else's.

A header stands at the beginning of a line, and of a message that has one every other line is indented; so nothing in a text can be
a header. What cannot be seen (control characters, escape sequences, overrides of the direction) is taken out.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from aegis.core.text import one_line, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aegis.core.envelopes import Envelope

#: What a program is told before messages that come with the result of a tool.
NOTE: Final = "Messages for you came meanwhile. Each begins with a line `> from`; what is indented below it is its text."
_DOTS: Final = " · "


def writers(envelopes: Sequence[Envelope]) -> set[tuple[str, str]]:
    """Who wrote these."""
    return {(e.sender, repr(e.user)) for e in envelopes}


def in_turn(envelopes: Sequence[Envelope], *, named: bool) -> list[str]:
    """The text of each message of a turn. What a person wrote alone stays as it is; `named`: others wrote as well."""
    texts = [framed(e, named=named) for e in envelopes]
    # Texts of one turn may reach the model without anything between them.
    return [f"\n\n{text}" if n and text != e.text else text for n, (e, text) in enumerate(zip(envelopes, texts, strict=True))]


def framed(envelope: Envelope, *, named: bool) -> str:
    """One message with its header. `named`: others have messages in the same turn, so that a person's has one too.

    What has a header is no command to a program: `/clear` and the like count only where the owner alone writes.
    """
    person = envelope.sender.startswith("person:")
    if person and not envelope.name:
        return _of_person(envelope, named=named)
    return f"{header(envelope)}\n{indented(envelope.text)}"


def header(envelope: Envelope) -> str:
    """`> from agent:HANDLE · TIME · task#ID · STATUS`, in one line."""
    name = envelope.name or envelope.sender
    told = (envelope.user or {}).get("name")
    parts = [f"> from {one_line(name, 100)}{f' ({one_line(str(told), 64)})' if told else ''}", _time(envelope.accepted_at)]
    if envelope.task:
        parts.append(f"task#{one_line(envelope.task, 200)}")
        if envelope.status:
            parts.append(one_line(envelope.status, 20))
    return _DOTS.join(parts)


def indented(text: str) -> str:
    """A text that has no line which begins at the left edge, and nothing that cannot be seen."""
    return "\n".join(f"  {printable(line)}" for line in text.splitlines())


def note(envelopes: Sequence[Envelope]) -> str:
    """Messages as they are told with the result of a tool; every one has a header here."""
    return "\n\n".join([NOTE, *(f"{header(e)}\n{indented(e.text)}" for e in envelopes)])


def _of_person(envelope: Envelope, *, named: bool) -> str:
    """A person's message, with his name before it where others write as well or where `user` tells who of several it is."""
    if envelope.user is None and not named:
        return envelope.text
    told = envelope.user or {}
    name = next((str(told[key]) for key in ("name", "username", "id") if told.get(key)), "").replace(":", ".")  # no sender's has none
    if envelope.user is None:
        name = envelope.sender
    name = one_line(name, 64).replace("[", "(").replace("]", ")") or "somebody"
    return f"[{name}]: " + "\n  ".join(envelope.text.splitlines())


def _time(ts: float) -> str:
    return datetime.fromtimestamp(ts, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
