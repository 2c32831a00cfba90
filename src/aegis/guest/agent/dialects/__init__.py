"""Model dialects: from the neutral memory to a request body, and from the streamed answer back to neutral blocks.

A dialect knows one wire format and nothing of rounds, tools or transport. The broker forwards a body unchanged but for the
model's name, so what is written here is what the provider sees.
"""

from __future__ import annotations

import abc

from aegis.tether.jsontext import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: How hard a model can be told to think, and the tokens that it may think for, beyond those of its answer.
EFFORTS = {"low": 2048, "medium": 8192, "high": 24576}
#: How a reply ended: it was whole, it reached its token limit, or the model declined.
END, CUT, REFUSED = "end", "cut", "refused"


class StreamError(Exception):
    """The provider reported an error within the stream. `type_` is its own word for it."""

    def __init__(self, type_: str, message: str) -> None:
        super().__init__(message)
        self.type_ = type_
        self.message = message


class Call:
    """A tool call of a reply. `problem` says why its arguments cannot be used; then `input` only shows what came."""

    def __init__(self, id_: str, name: str, arguments: str) -> None:
        self.id = id_
        self.name = name
        self.problem = ""
        self.input: dict[str, Any] = {}
        try:
            value = loads(arguments) if arguments.strip() else {}
        except ValueError:
            self.problem, value = f"the arguments are not valid JSON ({_fault(arguments)})", {"malformed": arguments}
        if not isinstance(value, dict):
            self.problem, value = "the arguments are not a JSON object", {"malformed": arguments}
        self.input = value

    def block(self) -> dict[str, Any]:
        """The neutral form."""
        return {"type": "tool_call", "id": self.id, "name": self.name, "input": self.input}


def _fault(text: str) -> str:
    """Where `text` stops being JSON, so that a model can mend it."""
    from json import loads as strictly  # 8 ms, for faults only

    try:
        strictly(text)
    except (ValueError, RecursionError) as error:
        return str(error)
    return "a number that JSON does not have"


class Reply(abc.ABC):
    """One streamed answer, put together event by event.

    Attributes:
        finished: the provider said that the reply is over; without it the stream broke off.
        over: nothing more will come.
        stop: END, CUT or REFUSED.
        usage: tokens, `input` counting all of the prompt.
    """

    def __init__(self) -> None:
        self.finished = False
        self.over = False
        self.stop = END
        self.usage = {"input": 0, "output": 0, "cached": 0, "cache_written": 0}

    @abc.abstractmethod
    def feed(self, data: dict[str, Any]) -> list[tuple[str, str]]:
        """Take one event. Returns what to show: pairs of `text` or `thinking` and a piece. Raises StreamError."""

    @abc.abstractmethod
    def parts(self) -> list[dict[str, Any] | Call]:
        """What came so far, in its order: `text` and whole `thinking` blocks, and calls (whole only when `finished`)."""


class Dialect(abc.ABC):
    """One wire format."""

    path: str

    @abc.abstractmethod
    def headers(self, token: str) -> dict[str, str]:
        """The headers that identify the caller and the version of the format."""

    @abc.abstractmethod
    def body(
        self, *, model: str, system: str, messages: list[dict[str, Any]], tools: list[dict[str, Any]], max_tokens: int, effort: str = ""
    ) -> dict[str, Any]:
        """The request for neutral `messages` that alternate between the model and the others, tool calls answered, pictures with data.

        `effort` is one of EFFORTS, or empty: then nothing is said of thinking.
        """

    @abc.abstractmethod
    def reply(self) -> Reply:
        """An empty reply to feed."""


def whole(text: str) -> str:
    """`text` as proper Unicode: surrogate pairs that came in two pieces are joined, lone ones replaced."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def dialect(name: str) -> Dialect:
    """The dialect called `anthropic` or `openai`; only the one asked for is imported."""
    if name == "anthropic":
        from aegis.guest.agent.dialects.anthropic import Anthropic

        return Anthropic()
    if name == "openai":
        from aegis.guest.agent.dialects.openai import OpenAI

        return OpenAI()
    raise ValueError(f"unknown dialect `{name}`; known: `anthropic`, `openai`")
