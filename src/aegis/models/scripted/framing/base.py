"""What the framings share: the acts, the ids, the count of tokens, the walk through a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from aegis.models.scripted.acts import Act, Call, Pause, Say, Think

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from aegis.core.clock import Clock
    from aegis.models.scripted.conversation import Conversation

#: A signature that no provider accepts, so that scripted reasoning can never pass for real reasoning.
SIGNATURE: Final = "c2NyaXB0ZWQ="
_ARGUMENT_PIECE: Final = 4096
encode = msgspec.json.encode


def estimate(size: int) -> int:
    """Tokens of so many characters, roughly."""
    return max(1, size // 4)


class Tokens(msgspec.Struct, frozen=True):
    """Estimates for one answer. `output` includes the thoughts."""

    input: int
    output: int
    thoughts: int


class Framing:
    """One answer in one dialect. `ident` makes its ids, so that the same request gets the same ones."""

    def __init__(self, conversation: Conversation, acts: list[Act], ident: str, created: int) -> None:
        self.conversation = conversation
        self.acts = acts
        self.ident = ident
        self.created = created
        self.calls = any(isinstance(act, Call) for act in acts)
        self.tokens = _tokens(conversation, acts)

    def whole(self) -> bytes:
        """The answer as one body."""
        raise NotImplementedError

    def frames(self) -> Iterator[bytes | float]:
        """The answer as server-sent events; a number is how many seconds to wait before the next one."""
        raise NotImplementedError

    async def events(self, clock: Clock) -> AsyncIterator[bytes]:
        """The frames, each in its time."""
        for frame in self.frames():
            if isinstance(frame, bytes):
                yield frame
            elif frame > 0:
                await clock.sleep(frame)

    def pause(self) -> float:
        """Seconds that an unstreamed answer takes."""
        return sum(
            act.seconds if isinstance(act, Pause) else act.every * len(act.pieces) for act in self.acts if isinstance(act, Pause | Say)
        )


def event(kind: str, **fields: Any) -> bytes:
    """A server-sent event whose `type` is also its name."""
    return b"event: " + kind.encode() + b"\ndata: " + encode({"type": kind, **fields}) + b"\n\n"


def arguments(call: Call) -> str:
    """The input of a call as JSON text."""
    return encode(call.input).decode()


def argument_pieces(call: Call) -> list[str]:
    """The same, cut for a stream."""
    text = arguments(call)
    return [text[start : start + _ARGUMENT_PIECE] for start in range(0, len(text), _ARGUMENT_PIECE)]


def _tokens(conversation: Conversation, acts: list[Act]) -> Tokens:
    thoughts = sum(len(act.text) for act in acts if isinstance(act, Think))
    rest = sum(len(act.text) if isinstance(act, Say) else len(encode(act.input)) for act in acts if isinstance(act, Say | Call))
    return Tokens(estimate(conversation.size), estimate(thoughts + rest), estimate(thoughts) if thoughts else 0)
