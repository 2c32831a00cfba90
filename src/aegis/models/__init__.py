"""The model port: who answers model calls, in which dialect, and what an answer used.

A kind (`http`, `scripted`) implements `Provider`; `catalogue` makes the ones that are built in or declared and finds them by
name. `names` reads `provider/model`, `usage` watches a stream for its real token counts, `prices` turns those into money,
`errors` speaks errors in a dialect.

Guaranteed by every kind: the body goes up as it was given and comes back as it was received, byte for byte, as it arrives;
cancelling the task that waits for `stream` or reads the body ends the call upstream; a credential appears in no error, log
line or answer. Not done here: who may call what, budgets, secrets (the broker), translation between dialects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from aegis.core.dialects import Dialect as Dialect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

Headers = tuple[tuple[str, str], ...]


class ModelRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One call as it goes to a provider. The body, or the path, already carries the provider's own name of the model."""

    dialect: Dialect
    path: str  # below the provider's base URL, with its query: `/v1/messages`, `/chat/completions`, `/v1beta/models/M:generateContent`
    headers: Headers = ()  # lower-case names; never a credential
    body: bytes
    model: str  # as in the body, or as in the path where the dialect has it there


class ModelResponse:
    """The answer of a provider: status and headers are there, the body is still to come.

    Read `body` once, to its end or not, and always call `aclose`, which ends the call upstream if it still runs.
    """

    def __init__(
        self, status: int, headers: Headers, body: AsyncIterator[bytes], close: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self._close = close

    def header(self, name: str) -> str | None:
        """The value of the first header `name` (lower case), or None."""
        return next((value for key, value in self.headers if key == name), None)

    async def aclose(self) -> None:
        """End the call. Idempotent."""
        close, self._close = self._close, None
        if close is not None:
            await close()


class Provider(Protocol):
    """Who answers model calls."""

    name: str
    dialects: frozenset[Dialect]
    #: The name of the secret it needs; None when it needs none.
    secret: str | None
    #: True where a call costs no money at all: this machine answers.
    free: bool
    #: One sentence for `aegis doctor` and status.
    description: str

    async def stream(self, request: ModelRequest, credential: str | None) -> ModelResponse:
        """Make the call and return when the status is known; an error status is an answer, not an exception.

        Raises AegisError(UNREACHABLE) when no answer came (retries included), USAGE when the credential cannot be sent.
        """
        ...

    async def close(self) -> None:
        """Let go of connections. Idempotent."""
        ...


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one call. `input` counts all of the prompt, the cached and the cache-written share included."""

    input: int = 0
    output: int = 0
    cached: int = 0  # read from the provider's cache
    cache_written: int = 0  # written to it, whatever the lifetime
    cache_written_1h: int = 0  # the share of `cache_written` kept for an hour, which costs more
