"""How much of what waits comes into one turn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aegis.services.mail import Joined

if TYPE_CHECKING:
    from aegis.core.envelopes import Envelope
    from aegis.services.mail import Mail

#: How much one turn takes up at once, in characters of text and in bytes of pictures; the rest waits for the next turn.
TURN_TEXT: Final = 1_000_000
_TURN_PICTURES: Final = 20 * 1024 * 1024
#: How many characters come with the result of a tool, which programs cut when it is long: unasked, and when the agent asks for its mail.
_NOTE_TEXT: Final = 24_000
_READ_TEXT: Final = 48_000


def portion(mail: Mail, instance: str, session: str) -> list[Envelope]:
    """As many of the waiting envelopes as one turn takes: at least one, if there is any.

    One whose sender wants a report has a turn of its own, so that the final text is about nothing else.
    """
    envelopes = mail.waiting(instance, session)
    sizes = mail.image_sizes([e.id for e in envelopes]) if envelopes else {}
    text = pictures = 0
    for count, envelope in enumerate(envelopes):
        text += len(envelope.text)
        pictures += sizes.get(envelope.id, 0)
        if count and (text > TURN_TEXT or pictures > _TURN_PICTURES or envelope.report or envelopes[0].report):
            return envelopes[:count]
    return envelopes


def joinable(mail: Mail, instance: str, session: str, limit: int, how: int, *, pictures: bool) -> list[Envelope]:
    """Those of the waiting envelopes that may come into a turn that runs: the oldest, up to the first that may not.

    Not one that is to cut the turn, nor one that is too long for the result of a tool. One whose sender wants a report has a turn of its
    own, unless the agent asked for its mail itself.
    """
    asked = how == Joined.NOTE and pictures
    envelopes = mail.waiting(instance, session, limit)
    sizes = mail.image_sizes([e.id for e in envelopes]) if envelopes else {}
    most = TURN_TEXT if how == Joined.MESSAGE else _READ_TEXT if asked else _NOTE_TEXT
    text, room = 0, _TURN_PICTURES
    for count, envelope in enumerate(envelopes):
        text += len(envelope.text) + 2 * envelope.text.count("\n") + 200  # with its header, and indented
        room -= sizes.get(envelope.id, 0)
        shown = envelope.id not in sizes or (pictures and room >= 0)
        if envelope.interrupt or (envelope.report and not asked) or not shown or (text > most and (count or how == Joined.NOTE)):
            return envelopes[:count]
    return envelopes
