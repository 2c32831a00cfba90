"""The MCP servers of a session, as the agent uses them: commands that it starts beside itself, and URLs on the sandbox's loopback.

`machine` is the protocol alone, in both of its eras; `stdio` and `http` carry it; `client` is one server, `servers` all of them,
as the loop and the tools see them. `schemas` and `results` put what servers say into what a model takes.

A server is a stranger: whatever it sends is bounded, checked and never more than text or a picture for the model. It runs in the
same sandbox as the agent and can do no more than `bash` there. One that does not start, breaks the protocol or dies is told to the
model and to the log once, and fails no turn. All of it is imported only in sessions that have servers.

What waits is a flow: a generator that yields `(read, write, until)`, the descriptors and the monotonic time it waits for, and is gone
on with when one of them is ready or the time has come. `run` drives several at once.
"""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any, TypeVar

    from aegis.guest.agent.wire import Wire

    T = TypeVar("T")
    Wait = tuple[tuple[int, ...], tuple[int, ...], float]
    Flow = Generator[Wait, None, T]

#: The largest message of a server, and the most that one says while an answer is awaited, in bytes.
MAX_MESSAGE = 16 * 1024 * 1024
MAX_NOISE = 4 * MAX_MESSAGE


class Broken(Exception):
    """The server is gone, or does not keep to the protocol: nothing more can be done with this connection."""


class Unsent(Broken):
    """It was gone before the request could reach it."""


class Late(Exception):
    """It did not answer in time."""


class Refused(Exception):
    """It answered with an error of JSON-RPC."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.data = data


def run(wire: Wire, flows: list[Flow[Any]]) -> list[Any]:
    """Drive the flows, all at once, and return for each its result, or which of the errors above it raised.

    Raises Stopped, and then ends them.
    """
    results: list[Any] = [None] * len(flows)
    waiting: dict[int, Wait] = {}

    def step(n: int) -> None:
        waiting.pop(n, None)
        try:
            waiting[n] = next(flows[n])
        except StopIteration as end:
            results[n] = end.value
        except (Broken, Late, Refused) as error:
            results[n] = error

    try:
        for n in range(len(flows)):
            step(n)
        while waiting:
            reads, writes = [fd for w in waiting.values() for fd in w[0]], [fd for w in waiting.values() for fd in w[1]]
            ready = wire.wait(read=reads, write=writes, until=min(w[2] for w in waiting.values()))
            now = time.monotonic()
            for n, (read, write, until) in list(waiting.items()):
                if now >= until or not ready.isdisjoint((*read, *write)):
                    step(n)
    finally:
        for flow in flows:
            flow.close()
    return results


def one_line(text: str, most: int = 300) -> str:
    """A stranger's words on one line, without what a terminal would obey."""
    words = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * most]).split())
    return words if len(words) <= most else words[:most] + "..."
