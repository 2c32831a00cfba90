"""Events over WebSocket: several subscriptions on one connection, each with a cursor of its own.

Who may speak is settled by the door before the upgrade. What is sent is one JSON object for each frame: an event is sent whole, in
the order of its number, after everything before it. A reader that does not keep up is not waited for: it is closed with
`TRY_AGAIN`, and goes on later from the last number it has read; nothing is kept for it here. This module is imported with the
first WebSocket.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.websockets import WebSocketDisconnect
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import FACTS
from aegis.daemon.http import following
from aegis.daemon.http.answers import error_response
from aegis.daemon.http.door import BEARER
from aegis.daemon.http.wire import (
    Alive,
    Answered,
    Asked,
    Evicted,
    Hello,
    Mistake,
    Ping,
    Pong,
    Subscribe,
    Subscribed,
    Told,
    Unsubscribe,
    Unsubscribed,
)  # fmt: skip

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from starlette.websockets import WebSocket
    from uvicorn._types import ASGISendEvent

    from aegis.daemon.wiring import House

#: The subprotocol that is chosen when it is offered.
PROTOCOL: Final = "aegis.v1"
#: The most of a frame that comes in, in bytes.
MAX_FRAME: Final = 64 * 1024
#: The most subscriptions of one socket, sockets of one daemon, and mistakes of one socket.
MAX_SUBSCRIPTIONS: Final = 32
MAX_SOCKETS: Final = 256
MAX_MISTAKES: Final = 20
#: How long a frame may wait for its reader, and a close after it, in seconds.
PATIENCE = 10.0
LINGER: Final = 30.0

#: Why a socket is closed.
ENDED, MISUSED, TRY_AGAIN = 1012, 1008, 1013

_logger = logging.getLogger(__name__)
_library = logging.getLogger(f"{__name__}.library")
_library.setLevel(logging.WARNING)  # else it tells of every connection, with its address


class PeerSocket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket, which also knows who is at the other end of a unix socket, and lets nobody hold a connection for nothing."""

    _abort: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.logger = self.conn.logger = _library
        peer = transport.get_extra_info("socket")
        if peer is not None and peer.family == socket.AF_UNIX:
            _pid, uid, _gid = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            self.client = (f"uid:{uid}", 0)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self.handshake_initiated:  # a head that the library does not read gets no answer from it
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._abort is not None:
            self._abort.cancel()
        super().connection_lost(exc)

    async def send(self, message: ASGISendEvent) -> None:
        if message["type"] == "websocket.close" and self.handshake_complete:
            self.writable.set()  # the close goes behind what the reader has not taken yet
            self._abort = self.loop.call_later(LINGER, self.transport.abort)
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body"):
            self.handshake_complete = True  # it was refused, which is not the same as forgotten


_READER: Final = msgspec.json.Decoder(Asked)
_WRITER: Final = msgspec.json.Encoder()
_open: set[Connection] = set()


class _Over(Exception):
    """The connection is to be closed, with this code and these words."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


async def serve(websocket: WebSocket) -> None:
    """Serve one socket to its end. What speaks against it is said before the upgrade, as HTTP says it."""
    try:
        house: House = websocket.app.state.house
        name = websocket.path_params.get("name")
        place = house.registry.get(name).id if name is not None else None
        if len(_open) >= MAX_SOCKETS:
            raise AegisError(
                ErrorKind.LIMIT, f"{MAX_SOCKETS} WebSockets are open", "close one, or ask for lines: `GET /v1/events?follow=1`"
            )
    except AegisError as error:
        await error_response(error)(websocket.scope, websocket.receive, websocket.send)
        return
    connection = Connection(websocket, house, place)
    _open.add(connection)
    try:
        await connection.run()
    finally:
        _open.discard(connection)


class Connection:
    """One accepted socket and its subscriptions."""

    def __init__(self, websocket: WebSocket, house: House, place: str | None) -> None:
        self._websocket = websocket
        self._house = house
        self._place = place  # the one instance that it is about
        self._turn = asyncio.Lock()  # one frame is sent at a time, so that each subscription gets its share
        self._subscriptions: dict[str, asyncio.Task[None]] = {}
        self._cursors: dict[str, int] = {}
        self._over: asyncio.Future[_Over] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Accept, listen and tell, until one end has enough."""
        offered = self._websocket.scope["subprotocols"]
        chosen = PROTOCOL if PROTOCOL in offered else next((name for name in offered if name.startswith(BEARER)), None)
        await self._websocket.send({"type": "websocket.accept", "subprotocol": chosen, "headers": []})
        listening = asyncio.create_task(self._until_over(self._listen()))
        try:
            over = await self._over
            with contextlib.suppress(Exception):
                await self._websocket.send({"type": "websocket.close", "code": over.code, "reason": str(over)})
        finally:
            tasks = [listening, *self._subscriptions.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _until_over(self, work: Coroutine[Any, Any, None]) -> None:
        """Do a part of the work; what ends it ends the connection."""
        try:
            await work
            over = _Over(ENDED, "the daemon ends; connect again")
        except _Over as error:
            over = error
        except AegisError as error:
            over = _Over(ENDED, error.message[:100])
        except Exception as error:
            _logger.error("a defect in a WebSocket", exc_info=error)
            over = _Over(1011, "a defect in Aegis; the daemon's log has the details")
        if not self._over.done():
            self._over.set_result(over)

    async def _listen(self) -> None:
        await self._send(Hello(self._house.store.head, following.HEARTBEAT, MAX_FRAME, MAX_SUBSCRIPTIONS))
        mistakes = 0
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                raise _Over(1000, "")
            if message["type"] != "websocket.receive":
                continue
            asked: Any = None
            try:
                asked = _READER.decode(message.get("text") or message.get("bytes") or b"")
                await self._do(asked)
            except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as error:
                mistake = Mistake(f"the frame is not right: {error}"[:400], ErrorKind.USAGE, "send `subscribe`, `unsubscribe` or `ping`")
                await self._send(mistake)
            except AegisError as error:
                await self._send(Mistake(error.message, error.kind, error.hint, asked.id))
            else:
                continue
            mistakes += 1
            if mistakes >= MAX_MISTAKES:
                raise _Over(MISUSED, "too many frames that are not right")

    async def _do(self, asked: Asked) -> None:
        match asked:
            case Ping(id):
                _check_id(id, empty=True)
                await self._send(Pong(id, self._house.store.head))
            case Unsubscribe(id):
                task = self._subscriptions.pop(id, None)
                if task is None:
                    raise AegisError(ErrorKind.NOT_FOUND, f"no subscription {id[:40]!r}", "`subscribe` begins one")
                async with self._turn:  # a frame that is being sent is sent whole
                    task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await self._send(Unsubscribed(id, self._cursors.pop(id)))
            case Subscribe():
                await self._subscribe(asked)

    async def _subscribe(self, asked: Subscribe) -> None:
        _check_id(asked.id)
        if asked.id in self._subscriptions:
            raise AegisError(ErrorKind.CONFLICT, f"there is a subscription {asked.id!r}", "`unsubscribe` first, or choose another id")
        if len(self._subscriptions) >= MAX_SUBSCRIPTIONS:
            raise AegisError(ErrorKind.LIMIT, f"{MAX_SUBSCRIPTIONS} subscriptions are the most", "open another WebSocket")
        if not 0 <= asked.after <= 2**62:
            raise AegisError(
                ErrorKind.USAGE, f"after={asked.after} is no cursor", "0 for everything, `head` of the first frame for what is new"
            )
        place = self._house.registry.get(asked.instance).id if asked.instance else self._place
        if self._place is not None and place != self._place:
            raise AegisError(ErrorKind.DENIED, "this WebSocket is of another instance", "use `/v1/events/ws` for all of them")
        if unknown := [kind for kind in asked.types or () if kind not in FACTS]:
            raise AegisError(ErrorKind.USAGE, f"no event has the type {unknown[0][:40]!r}", "the types are in docs/http-api.md")
        await self._send(Subscribed(asked.id, asked.after))
        self._cursors[asked.id] = asked.after
        self._subscriptions[asked.id] = asyncio.create_task(self._until_over(self._tell(asked, place)))

    async def _tell(self, asked: Subscribe, place: str | None) -> None:
        subscription = self._house.store.subscribe(after=asked.after, instance=place, session=asked.session)
        async for news in following.follow(subscription, asked.types or None):
            if news.evicted:
                await self._send(Evicted(asked.id, news.evicted))
            elif not news.events:
                await self._send(Alive(asked.id, news.cursor))
            for event in news.events:
                await self._send(Told(asked.id, event), event.seq)
            self._cursors[asked.id] = max(news.cursor, self._cursors[asked.id])

    async def _send(self, frame: Answered, cursor: int | None = None) -> None:
        """Send one frame; raises what closes the connection when its reader does not take it in time."""
        data = _WRITER.encode(frame).decode()
        async with self._turn:
            try:
                async with asyncio.timeout(PATIENCE):
                    await self._websocket.send({"type": "websocket.send", "text": data})
            except TimeoutError:
                raise _Over(TRY_AGAIN, "read faster; connect again and go on from the last number you have") from None
            except (WebSocketDisconnect, RuntimeError):  # it is closed, by the other end or because of what that sent
                raise _Over(1000, "") from None
            if cursor is not None and isinstance(frame, Told):
                self._cursors[frame.id] = cursor


def _check_id(ident: str, *, empty: bool = False) -> None:
    if len(ident) > 64 or not (ident or empty):
        raise AegisError(ErrorKind.USAGE, "the id of a subscription has 1 to 64 characters", "choose a shorter one")
