"""A model server on loopback for tests: the scripted models behind the APIs that real programs speak.

    with ModelServer() as server:
        ...  # a program with `server.url` as the base URL of its provider
        server.until(lambda: server.requests[-1].ended)

Every model name is answered by the script `directives`, unless it is the name of a script. What went wrong on purpose is
told by `fault`; what came in is in `requests`. The server runs in a thread of its own, so a test may block or not.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, NamedTuple

import h11

from aegis.models import ModelRequest, ModelResponse
from aegis.models.errors import error_body
from aegis.models.names import SCRIPTS
from aegis.models.scripted import ScriptedProvider
from tests.kit.model_calls import Fault, Request, plain, understood


class _Answer(NamedTuple):
    status: int
    headers: tuple[tuple[str, str], ...]
    body: AsyncIterator[bytes]
    cut_after: int | None = None


class ModelServer:
    """The server. `limit` is the most requests it answers: a program that runs in circles is stopped, and leaving then fails."""

    def __init__(self, *, port: int = 0, limit: int = 400) -> None:
        self.url = ""
        self.requests: list[Request] = []
        self.runaway = False
        self._limit = limit
        self._port = port
        self._faults: list[Fault] = []
        self._changed = threading.Condition()
        self._provider = ScriptedProvider()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    # -- for tests --

    def __enter__(self) -> ModelServer:
        listening = socket.create_server(("127.0.0.1", self._port))
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(listening)), name="model server")
        self._thread.start()
        self.until(lambda: self._stop is not None)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        assert self._loop is not None
        assert self._stop is not None
        assert self._thread is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        assert kind is not None or not self.runaway, f"more than {self._limit} requests came in"

    @property
    def calls(self) -> list[Request]:
        """The calls that were the work itself, without titles, counts and the like."""
        return [request for request in self.requests if request.dialect is not None and not request.side]

    def fault(
        self,
        *,
        times: int = 1,
        status: int | None = None,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
        cut_after: int | None = None,
        content_type: str | None = None,
        hang: bool = False,
        when: Callable[[Request], bool] = lambda request: not request.side,
    ) -> None:
        """Let the next `times` calls for which `when` holds go wrong; several faults happen in their order.

        status: this error instead of an answer, with `headers` and `body` (by default an error in the call's dialect).
        cut_after: the answer, broken off after so many pieces. content_type: the answer, called something else.
        hang: no answer until the client goes away.
        """
        with self._changed:
            self._faults.append(Fault(times, status, headers or {}, body, cut_after, content_type, hang, when))

    def mend(self) -> None:
        """Nothing goes wrong any more."""
        with self._changed:
            self._faults.clear()

    def until(self, holds: Callable[[], Any], timeout: float = 30.0) -> None:
        """Return when `holds` does; it is asked again whenever something happened here. Fails with what came in."""
        with self._changed:
            if not self._changed.wait_for(holds, timeout):
                told = "\n".join(f"  {r.method} {r.path} {r.status} {'gone' if r.disconnected else ''}" for r in self.requests)
                raise AssertionError(f"not within {timeout} s; the requests were:\n{told}")

    async def when(self, holds: Callable[[], Any], timeout: float = 30.0) -> None:
        """`until` for a test with a loop."""
        await asyncio.to_thread(self.until, holds, timeout)

    # -- connections --

    async def _serve(self, listening: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._connected, sock=listening)
        stop = asyncio.Event()
        with self._changed:
            self._stop = stop
            self._changed.notify_all()
        await stop.wait()
        server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        # without it the small events of a stream wait for each other's acknowledgement, tens of milliseconds each
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = h11.Connection(h11.SERVER)
        try:
            while await self._exchange(connection, reader, writer):
                connection.start_next_cycle()
        except (ConnectionError, h11.RemoteProtocolError, h11.LocalProtocolError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _exchange(self, connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer. Returns whether another may follow."""
        head: h11.Request | None = None
        body = b""
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                if connection.they_are_waiting_for_100_continue:
                    writer.write(connection.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
                connection.receive_data(await reader.read(65536))
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                return False
        assert head is not None
        request = understood(head, body)
        request.started = time.monotonic()
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()
        answering = asyncio.ensure_future(self._respond(connection, writer, request, plain(request, body)))
        gone = asyncio.ensure_future(_gone(reader))
        try:
            await asyncio.wait({answering, gone}, return_when=asyncio.FIRST_COMPLETED)
            if gone.done() and gone.result():  # not gone, but in a hurry with the next request
                await asyncio.wait({answering})
            complete = answering.done() and not answering.cancelled() and answering.exception() is None and answering.result()
        finally:
            request.disconnected = not answering.done() or isinstance(_failure(answering), ConnectionError)
            for task in (answering, gone):
                task.cancel()
            await asyncio.gather(answering, gone, return_exceptions=True)
            with self._changed:
                request.ended = time.monotonic()
                self._changed.notify_all()
        if (failure := _failure(answering)) is not None and not isinstance(failure, ConnectionError):
            raise failure
        data = gone.result() if gone.done() and not gone.cancelled() else b""
        if data:
            connection.receive_data(data)
        return bool(complete) and connection.our_state is h11.DONE and connection.their_state is h11.DONE

    async def _respond(self, connection: h11.Connection, writer: asyncio.StreamWriter, request: Request, body: bytes) -> bool:
        """Send the answer. Returns False where it was broken off on purpose."""
        answer = await self._answer(request, body)
        request.status = answer.status
        writer.write(connection.send(h11.Response(status_code=answer.status, headers=list(answer.headers))) or b"")
        count = 0
        async for data in answer.body:
            if answer.cut_after is not None and count >= answer.cut_after:
                await writer.drain()
                return False
            if request.method != "HEAD":
                writer.write(connection.send(h11.Data(data=data)) or b"")
                await writer.drain()
            count += 1
            if request.first is None:
                with self._changed:
                    request.first = time.monotonic()
                    self._changed.notify_all()
        writer.write(connection.send(h11.EndOfMessage()) or b"")
        await writer.drain()
        return True

    # -- answers --

    async def _answer(self, request: Request, body: bytes) -> _Answer:
        if len(self.requests) > self._limit:
            self.runaway = True
            return _whole(400, error_body(request.dialect or "openai", "too many requests for one test", status=400))
        if request.method in ("GET", "HEAD"):
            if request.path.rstrip("/").endswith("/models"):
                return _whole(200, _MODELS)
            return _whole(200 if request.path == "/" else 404, b"{}")
        if request.dialect is None:
            return _whole(404, error_body("openai", f"there is no {request.path} here", status=404))
        fault = self._due(request)
        if fault is not None and fault.hang:
            await asyncio.Event().wait()
        if fault is not None and fault.status is not None:
            told = fault.body if fault.body is not None else error_body(request.dialect, f"fault {fault.status}", status=fault.status)
            return _whole(fault.status, told, {"content-type": fault.content_type or "application/json", **fault.headers})
        script = request.model if request.model in SCRIPTS else "directives"
        asked = ModelRequest(dialect=request.dialect, path=request.path, body=body, model=script)
        response: ModelResponse = await self._provider.stream(asked, None)
        headers = dict(response.headers)
        if fault is not None:
            headers |= fault.headers
            if fault.content_type is not None:
                headers["content-type"] = fault.content_type
            if fault.body is not None:
                return _whole(response.status, fault.body, headers | {"content-length": str(len(fault.body))})
        return _Answer(response.status, tuple(headers.items()), response.body, fault.cut_after if fault else None)

    def _due(self, request: Request) -> Fault | None:
        with self._changed:
            for fault in self._faults:
                if fault.when(request):
                    fault.times -= 1
                    if fault.times <= 0:
                        self._faults.remove(fault)
                    return fault
        return None


_MODELS: Final = json.dumps(
    {
        "object": "list",
        "data": [
            {"id": name, "object": "model", "type": "model", "display_name": name, "created": 0, "created_at": "1970-01-01T00:00:00Z"}
            for name in SCRIPTS
        ],
        "models": [{"name": f"models/{name}", "displayName": name} for name in SCRIPTS],
        "has_more": False,
        "first_id": SCRIPTS[0],
        "last_id": SCRIPTS[-1],
    }
).encode()


def _whole(status: int, body: bytes, headers: dict[str, str] | None = None) -> _Answer:
    async def one() -> AsyncIterator[bytes]:
        yield body

    given = {"content-type": "application/json", **{name.lower(): value for name, value in (headers or {}).items()}}
    return _Answer(status, tuple((given | {"content-length": str(len(body))}).items()), one())


def _failure(task: asyncio.Task[bool]) -> BaseException | None:
    return task.exception() if task.done() and not task.cancelled() else None


async def _gone(reader: asyncio.StreamReader) -> bytes:
    """Return when the client closed, or at once with the first bytes of its next request."""
    with contextlib.suppress(ConnectionError):
        return await reader.read(65536)
    return b""


def main() -> None:
    """`python -m tests.kit.model_server [--port N]`: serve until killed."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--port", type=int, default=0)
    with ModelServer(port=parser.parse_args().port, limit=1_000_000) as server:
        print(server.url, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
