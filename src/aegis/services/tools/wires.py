"""What carries the messages of an MCP server: the standard streams of a program in a sandbox, or HTTP.

Both bound what a server may say: the size of a message, how much it says without answering, and how often. One that goes beyond is
`Broken`, and its connection is ended by whoever made it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from aegis.core.errors import AegisError
from aegis.core.text import one_line
from aegis.services.tools.speaking import Broken, Message, Refused, Speaker, headers, messages, notification
from aegis.tether.frames import STDERR

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from aegis.core.clock import Clock
    from aegis.sandboxes.link import Program

#: The largest message of a server, and the most that it says while it answers nothing, in bytes.
MAX_MESSAGE: Final = 8 * 1024 * 1024
MAX_NOISE: Final = 32 * 1024 * 1024
#: Messages that answer nothing: so many in a rush, and so many a second in the long run.
_RUSH: Final = 2000.0
_PER_SECOND: Final = 100.0
#: So many requests may wait for their answers.
_MOST_WAITING: Final = 256
#: Kept of what it writes on its standard error, in bytes.
_TAIL: Final = 4096
_PIECE: Final = 64 * 1024


class Wire(Protocol):
    """One connection to a server."""

    #: Resolves with the reason when it has ended by itself.
    closed: asyncio.Future[str]

    async def ask(self, speaker: Speaker, message: Message) -> Any:
        """Send a request; its result, or a Refused. Raises Broken. When cancelled, the server is told where that can be."""
        ...

    async def tell(self, speaker: Speaker, message: Message) -> None:
        """Send a message that nothing answers. Raises Broken."""
        ...

    async def close(self) -> None:
        """End it. Idempotent."""
        ...


class Pipes:
    """The standard input and output of a program: one message of JSON on each line."""

    def __init__(self, program: Program, clock: Clock) -> None:
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._program = program
        self._clock = clock
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._speaker: Speaker | None = None
        self._tail = bytearray()
        self._noise = 0
        self._room, self._at = _RUSH, clock.monotonic()
        self._torn = False
        self._reader = asyncio.create_task(self._read(), name="a tool server's words")

    @property
    def tail(self) -> str:
        """What it wrote last on its standard error, for people, on one line."""
        return one_line(self._tail.decode("utf-8", "replace")[-1500:], 600)

    async def ask(self, speaker: Speaker, message: Message) -> Any:
        self._speaker = speaker
        if self.closed.done():
            raise Broken(self.closed.result())
        if len(self._waiting) >= _MOST_WAITING:
            raise Broken(f"leaves {_MOST_WAITING} requests unanswered")
        ident = message["id"]
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[ident] = answer
        try:
            await self._write(message)
            return await answer
        except asyncio.CancelledError:
            self._cancel(ident)
            raise
        finally:
            self._waiting.pop(ident, None)

    async def tell(self, speaker: Speaker, message: Message) -> None:
        self._speaker = speaker
        await self._write(message)

    async def close(self) -> None:
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        self._end("was ended")
        await self._program.channel.close()  # which ends the program and all that it started

    def _cancel(self, ident: int) -> None:
        """Tell the server that nobody waits for an answer any more, when it can be told at once."""
        if self._torn or self.closed.done():
            return
        task = asyncio.ensure_future(self._write(notification("notifications/cancelled", {"requestId": ident})))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _write(self, message: Message) -> None:
        if self._torn:
            raise Broken("does not read what it is sent")
        data = msgspec.json.encode(message) + b"\n"
        try:
            async with asyncio.timeout(30.0):  # a program that does not read its questions
                await self._program.write(data)
        except AegisError as error:
            raise Broken(self.closed.result() if self.closed.done() else one_line(error.message)) from None
        except TimeoutError:
            self._torn = True
            self._end("does not read what it is sent")
            raise Broken("does not read what it is sent") from None
        except asyncio.CancelledError:
            self._torn = True  # half a message may have been sent
            self._end("did not read what it was sent")
            raise

    async def _read(self) -> None:
        reason = "ended"
        try:
            buffer = bytearray()
            seen = 0
            while (piece := await self._program.read()) is not None:
                stream, data = piece
                if stream == STDERR:
                    self._tail += data[-_TAIL:]
                    del self._tail[:-_TAIL]
                    continue
                buffer += data
                if (end := buffer.find(b"\n", seen)) >= 0:
                    await self._lines(buffer, end)
                    await asyncio.sleep(0)  # one that talks without end leaves room for others
                seen = len(buffer)
                self._noise += len(data)
                if seen > MAX_MESSAGE:
                    raise Broken(f"sent a line of more than {MAX_MESSAGE} bytes")
                if self._noise > MAX_NOISE:
                    raise Broken(f"said more than {MAX_NOISE} bytes and answered nothing")
            code = await self._program.wait()
            reason = f"ended with exit code {code}" if code >= 0 else f"was killed by signal {-code}"
        except Broken as error:
            reason = str(error)
        except AegisError as error:
            reason = one_line(error.message)
        finally:
            self._end(reason)

    async def _lines(self, buffer: bytearray, end: int) -> None:
        """Take every whole line of the buffer, the first of which ends at `end`."""
        start = 0
        while end >= 0:
            for message in messages(bytes(buffer[start:end])):
                self._take(message)
            start = end + 1
            end = buffer.find(b"\n", start)
        del buffer[:start]
        if self._speaker is not None and self._speaker.replies:
            replies, self._speaker.replies = self._speaker.replies, []
            for reply in replies:
                await self._write(reply)

    def _take(self, message: Any) -> None:
        answer = self._speaker.take(message) if self._speaker is not None else None
        waiting = self._waiting.get(answer[0]) if answer is not None and type(answer[0]) is int else None
        if answer is not None and answer[0] is None and isinstance(answer[1], Refused) and len(self._waiting) == 1:
            waiting = next(iter(self._waiting.values()))  # it could not read even the id
        if answer is not None and waiting is not None and not waiting.done():
            self._noise = 0
            waiting.set_result(answer[1])
            return
        now = self._clock.monotonic()
        self._room = min(_RUSH, self._room + (now - self._at) * _PER_SECOND) - 1
        self._at = now
        if self._room < 0:
            raise Broken("says very much that nobody asked for")

    def _end(self, reason: str) -> None:
        if self.closed.done():
            return
        said = f"{reason}: {self.tail}" if self._tail else reason
        self.closed.set_result(said)
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Broken(said))
                future.exception()


class Web:
    """HTTP: one POST for each message, answered by JSON or by a stream of events.

    `dial` opens the connections, to addresses that were looked at; `head` gives the headers of a request at the moment it is sent.
    """

    def __init__(self, url: str, dial: Any, head: Callable[[], Awaitable[dict[str, str]]]) -> None:
        import httpcore  # 40 ms, for such servers only

        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._url = httpcore.URL(url)
        self._head = head
        self._session = ""
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=_authorities(), max_connections=32, max_keepalive_connections=4, keepalive_expiry=60.0, network_backend=dial
        )

    async def ask(self, speaker: Speaker, message: Message) -> Any:
        answer = await self._post(speaker, message)
        while speaker.replies:
            await self._post(speaker, speaker.replies.pop(0))
        if answer is None:
            raise Broken("ended its answer before it was whole")
        return answer[1]

    async def tell(self, speaker: Speaker, message: Message) -> None:
        await self._post(speaker, message)

    async def close(self) -> None:
        if not self.closed.done():
            self.closed.set_result("was ended")
        await self._pool.aclose()

    async def _post(self, speaker: Speaker, message: Message) -> tuple[Any, Any] | None:
        import httpcore

        fields = {
            "host": self._url.host.decode() + (f":{self._url.port}" if self._url.port is not None else ""),
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
            "accept-encoding": "identity",
            **await self._head(),
            **({"mcp-session-id": self._session} if self._session else {}),
            **headers(message, speaker.version),
        }
        body = msgspec.json.encode(message)
        fields["content-length"] = str(len(body))
        sent = [(name.encode(), value.encode("latin-1")) for name, value in fields.items()]
        try:
            async with self._pool.stream("POST", self._url, headers=sent, content=body) as response:
                found = {name.lower().decode("latin-1"): value.decode("latin-1") for name, value in response.headers}
                return await self._answer(speaker, message, response.status, found, response.aiter_stream())
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, httpcore.UnsupportedProtocol) as error:
            raise Broken(f"is not reached: {one_line(str(error) or type(error).__name__, 300)}") from None

    async def _answer(
        self, speaker: Speaker, message: Message, status: int, found: dict[str, str], pieces: AsyncIterator[bytes]
    ) -> tuple[Any, Any] | None:
        ident = message.get("id")
        if status == 404 and self._session:
            self._session = ""
            raise Broken("has forgotten the session")
        if status >= 300 and status not in (400, 404):
            where = " to another address, which is not followed" if status < 400 else ""
            return ident, Refused(0, f"HTTP {status}{where}")
        if message.get("method") == "initialize" and status < 300:
            self._session = found.get("mcp-session-id", "")[:1000]
        streams = found.get("content-type", "").lower().startswith("text/event-stream")
        async for data in _events(pieces) if streams else _whole(pieces):
            try:
                told = messages(data)
            except Broken:
                if status >= 300:
                    break
                raise
            for one in told:
                answer = speaker.take(one)
                if answer is not None and (answer[0] == ident or (answer[0] is None and isinstance(answer[1], Refused))):
                    return answer
        return (ident, Refused(0, f"HTTP {status}")) if status >= 300 else None


async def _whole(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The one message of a body."""
    body = bytearray()
    async for piece in pieces:
        body += piece
        if len(body) > MAX_MESSAGE:
            raise Broken(f"sent a message of more than {MAX_MESSAGE} bytes")
    yield bytes(body)


async def _events(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The data of each event of a stream."""
    buffer, size, heard = bytearray(), 0, 0
    data: list[bytes] = []
    async for piece in pieces:
        buffer += piece
        heard += len(piece)
        if len(buffer) > MAX_MESSAGE or heard > MAX_NOISE:
            raise Broken(f"said more than {MAX_NOISE} bytes and answered nothing")
        *lines, rest = bytes(buffer).split(b"\n") if b"\n" in piece else [bytes(buffer)]
        buffer = bytearray(rest)
        for line in lines:
            line = line.rstrip(b"\r")
            field, _, value = line.partition(b":")
            if not line and data:
                yield b"\n".join(data)
                data, size = [], 0
            elif field == b"data":
                data.append(value.removeprefix(b" "))
                size += len(value)
                if size > MAX_MESSAGE:
                    raise Broken(f"sent an event of more than {MAX_MESSAGE} bytes")


def _authorities() -> Any:
    import ssl

    return ssl.create_default_context()
