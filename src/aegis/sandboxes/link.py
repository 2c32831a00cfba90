"""The daemon's end of a tether, on asyncio: the same for every kind of sandbox.

A `Link` owns the connected socket. Memory is bounded: a channel holds at most one window of unread data, and a guest that
does not read is not read from either. When the tether ends, for whatever reason, everything that waits on it fails with an
AegisError that gives the reason. All methods belong to the thread of the event loop the link was made in.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from aegis.core.errors import AegisError, ErrorKind
from aegis.tether.frames import MAX_FRAME, STDIN
from aegis.tether.mux import Closed, Data, Eof, Event, Mux, Opened, TetherBroken, Writable

_READ_SIZE = 64 * 1024  # below the size from which malloc maps each buffer anew
#: Unwritten bytes from which nothing more is read: only a guest that does not read gets here.
_CONGESTED = 4 * 1024 * 1024
#: Channels of the guest that wait for somebody to set `on_channel`; further ones are closed.
_UNCLAIMED = 64


class Link:
    """One tether. Make it with the socket connected to a guest that is starting, then await `hello`."""

    def __init__(self, sock: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._mux = Mux("daemon")
        self._channels: dict[int, Channel] = {}
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._ids = itertools.count(1)
        self._unsent = memoryview(b"")
        self._writing = False
        self._on_channel: Callable[[Channel], None] | None = None
        self._unclaimed: list[Channel] = []
        self._hello: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        #: Resolves with the reason when the tether has ended.
        self.closed: asyncio.Future[str] = self._loop.create_future()
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), self._readable)

    @property
    def on_channel(self) -> Callable[[Channel], None] | None:
        """Called with each channel the guest opens (kinds `model`, `mcp`, `egress` and `log`). Those opened before it is set are kept."""
        return self._on_channel

    @on_channel.setter
    def on_channel(self, call: Callable[[Channel], None] | None) -> None:
        self._on_channel = call
        if call is not None:
            waiting, self._unclaimed = self._unclaimed, []
            for channel in waiting:
                call(channel)

    async def hello(self, timeout: float) -> dict[str, Any]:
        """What the guest said first. Raises AegisError when it says nothing within `timeout` seconds, or ends."""
        try:
            return await asyncio.wait_for(asyncio.shield(self._hello), timeout)
        except TimeoutError:
            raise AegisError(ErrorKind.TIMEOUT, f"the guest did not say hello within {timeout:g} s") from None

    @property
    def endpoint(self) -> str:
        """The URL inside of the loopback port that leads to the model broker. Raises AegisError when the sandbox has none."""
        return self._told("endpoint", "model endpoint")

    @property
    def mcp(self) -> str:
        """The URL inside of the loopback port that leads to Aegis's MCP server. Raises AegisError when the sandbox has none."""
        return self._told("mcp", "way to Aegis's MCP server")

    @property
    def mcp_command(self) -> list[str]:
        """What serves the same over standard input and output, with AEGIS_MCP_URL and AEGIS_MCP_TOKEN in its environment."""
        start = f"import sys; sys.path.insert(0, {self._told('lib', 'bundle')!r}); from aegis.guest.mcp import main; main()"
        return [self._told("interpreter", "interpreter"), "-I", "-S", "-c", start]

    @property
    def proxy(self) -> str:
        """The URL inside of the loopback proxy that leads to the egress gate. Raises AegisError when the sandbox has none."""
        return self._told("proxy", "egress proxy")

    def _told(self, key: str, what: str) -> str:
        said = self._hello.result() if self._hello.done() and not self._hello.exception() else {}
        if not isinstance(said.get(key), str):
            text = f"the sandbox has no {what}: {said.get(f'{key}_error') or 'the guest told of none'}"
            raise AegisError(ErrorKind.UNAVAILABLE, text, "aegis doctor")
        return str(said[key])

    async def call(self, method: str, params: dict[str, Any] | None = None, timeout: float = 30.0) -> Any:
        """Ask the guest and return its result. Raises AegisError for its error, for silence, and when the tether ends."""
        self._check()
        ident = next(self._ids)
        payload = json.dumps({"jsonrpc": "2.0", "id": ident, "method": method, "params": params or {}}, separators=(",", ":")).encode()
        future: asyncio.Future[Any] = self._loop.create_future()
        self._calls[ident] = future
        self._mux.control(payload)
        self._flush()
        try:
            return await asyncio.wait_for(future, timeout)
        except TimeoutError:
            raise AegisError(ErrorKind.TIMEOUT, f"the guest did not answer `{method}` within {timeout:g} s") from None
        finally:
            self._calls.pop(ident, None)

    async def open(self, kind: str, **info: Any) -> Channel:
        """Open a channel. Raises AegisError when too many are open, the request is too large, or the tether has ended."""
        self._check()
        opening = {"kind": kind, **info}
        try:
            channel = Channel(self, self._mux.open(opening), opening)
        except RuntimeError as error:
            raise AegisError(ErrorKind.LIMIT, f"the sandbox has no channel left: {error}") from None
        except ValueError as error:
            raise AegisError(ErrorKind.TOO_LARGE, f"cannot open the channel: {error}", f"keep it below {MAX_FRAME} bytes") from None
        self._channels[channel.number] = channel
        self._flush()
        return channel

    async def run(
        self, argv: list[str], *, env: dict[str, str] | None = None, cwd: str | None = None, stdin: bool = True, capture: str | None = None
    ) -> Program:
        """Start a program in the sandbox; whether that worked is told by `Program.wait`.

        `env` is added to the sandbox's own. With `stdin` False it reads nothing. With `capture` its output goes to the log
        under that name, and `Program.read` gives none.
        """
        info: dict[str, Any] = {"argv": argv, "env": env or {}, "stdin": stdin}
        if cwd is not None:
            info["cwd"] = cwd
        if capture is not None:
            info["capture"] = capture
        return Program(await self.open("exec", **info))

    async def run_module(self, module: str, *, env: dict[str, str] | None = None) -> Program:
        """Start `main` of a module of the guest bundle as a program: a fork of the guest, which is there in a few milliseconds."""
        return Program(await self.open("exec", module=module, env=env or {}))

    async def close(self) -> None:
        """End the tether: the guest kills everything in the sandbox and ends. Idempotent."""
        self._end("closed by the daemon")

    # The wire.

    def _check(self) -> None:
        if self.closed.done():
            raise _ended(self.closed.result())

    def _readable(self) -> None:
        try:
            data = self._sock.recv(_READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(error.strerror or str(error))
            return
        if not data:
            self._end("the guest ended")
            return
        try:
            for event in self._mux.feed(data):
                self._dispatch(event)
        except TetherBroken as error:
            self._end(f"the guest broke the tether: {error}")
            return
        if self._mux.pending:
            self._flush()

    def _dispatch(self, event: Event) -> None:
        if isinstance(event, Opened):
            self._opened(Channel(self, event.channel, event.info))
            return
        if isinstance(event, Data) and event.channel == 0:
            self._control(event.payload)
            return
        channel = self._channels.get(event.channel)
        if channel is None:
            return
        if isinstance(event, Closed):
            del self._channels[event.channel]
        channel._happened(event)

    def _opened(self, channel: Channel) -> None:
        if self._on_channel is None and len(self._unclaimed) >= _UNCLAIMED:
            self._mux.close(channel.number, {"error": "nobody serves this channel"})
            return
        self._channels[channel.number] = channel
        if self._on_channel is None:
            self._unclaimed.append(channel)
        else:
            self._on_channel(channel)

    def _control(self, payload: bytes) -> None:
        try:
            message = json.loads(payload)
        except (ValueError, RecursionError):
            raise TetherBroken("a control message that is not JSON") from None
        if not isinstance(message, dict):
            raise TetherBroken("a control message that is no object")
        if message.get("method") == "hello":
            params = message.get("params")
            if not isinstance(params, dict) or params.get("v") != 1:
                raise TetherBroken("a hello of another version")
            if not self._hello.done():
                self._hello.set_result(params)
            return
        ident = message.get("id")
        future = self._calls.get(ident) if isinstance(ident, int) else None
        if future is None or future.done():  # an answer nobody waits for any more
            return
        error = message.get("error")
        if error is None:
            future.set_result(message.get("result"))
        else:
            text = error.get("message") if isinstance(error, dict) else error
            future.set_exception(AegisError(ErrorKind.FAILED, f"the guest refused: {text}"))

    def _flush(self) -> None:
        try:
            while not self._writing and (self._unsent or self._mux.pending):
                if not self._unsent:
                    self._unsent = memoryview(self._mux.outgoing())
                self._unsent = self._unsent[self._sock.send(self._unsent) :]
        except (BlockingIOError, InterruptedError):
            self._writing = True  # the loop calls again when the socket takes more
            self._loop.add_writer(self._sock.fileno(), self._drained)
        except OSError:
            # What the guest said before it ended is still to be read; reading finds the end.
            self._unsent = memoryview(b"")
            self._mux.outgoing()
        if self._writing and self._mux.pending + len(self._unsent) > _CONGESTED:
            self._loop.remove_reader(self._sock.fileno())

    def _drained(self) -> None:
        self._loop.remove_writer(self._sock.fileno())
        self._writing = False
        self._loop.add_reader(self._sock.fileno(), self._readable)
        self._flush()

    def _end(self, reason: str) -> None:
        if self.closed.done():
            return
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        self._unsent = memoryview(b"")
        self.closed.set_result(reason)
        for future in [self._hello, *self._calls.values()]:
            if not future.done():
                future.set_exception(_ended(reason))
                future.exception()  # it is no defect when nobody looks at it
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            channel._broke(reason)


class Channel:
    """One channel. One task may read and any number may write; writes do not mix."""

    def __init__(self, link: Link, number: int, info: dict[str, Any]) -> None:
        self.kind: str = info["kind"]
        self.info = info
        self.number = number
        #: What the peer's CLOSE said; None before, and when this side closed first or the tether ended.
        self.result: dict[str, Any] | None = None
        self._link = link
        self._received: deque[bytes] = deque()
        self._ended = False  # nothing more arrives
        self._closed = False
        self._broken: str | None = None  # why the tether ended under it
        self._readers: list[asyncio.Future[None]] = []
        self._writers: list[asyncio.Future[None]] = []
        self._lock = asyncio.Lock()

    async def read(self) -> bytes:
        """The next bytes that arrived, b"" when the peer sends no more. Raises AegisError when the tether ended first."""
        while not self._received:
            if self._broken is not None:
                raise _ended(self._broken)
            if self._ended:
                return b""
            await self._wait(self._readers)
        data = self._received.popleft()
        self._link._mux.consumed(self.number, len(data))
        if self._link._mux.pending:
            self._link._flush()
        return data

    async def write(self, data: bytes, prefix: bytes = b"") -> None:
        """Send all of `data`, waiting for the peer to read; `prefix` goes before each piece.

        Raises AegisError(CONFLICT) when the channel is closed, INTERRUPTED when the tether has ended. Cancelled, some of
        `data` may have been sent.
        """
        async with self._lock:
            view = memoryview(data)
            while view:
                if self._broken is not None:
                    raise _ended(self._broken)
                if self._closed:
                    raise AegisError(ErrorKind.CONFLICT, f"the `{self.kind}` channel was closed before all was written")
                view = view[self._link._mux.send(self.number, view, prefix) :]
                self._link._flush()
                if view:
                    await self._wait(self._writers)

    async def eof(self) -> None:
        """Say that nothing more is written, after all writes under way. Idempotent."""
        async with self._lock:
            self._link._mux.eof(self.number)
            self._link._flush()

    async def close(self, **info: Any) -> None:
        """End the channel for both sides; what was not read is lost. Idempotent."""
        if not self._closed:
            self._link._mux.close(self.number, info)
            self._link._channels.pop(self.number, None)
            self._received.clear()
            self._finish()
            self._link._flush()

    async def wait_closed(self) -> None:
        """Return when either side has closed the channel. Raises AegisError when the tether ended first."""
        while not self._closed:
            await self._wait(self._readers)
        if self._broken is not None:
            raise _ended(self._broken)

    async def _wait(self, where: list[asyncio.Future[None]]) -> None:
        future: asyncio.Future[None] = self._link._loop.create_future()
        where.append(future)
        try:
            await future
        finally:
            if future in where:
                where.remove(future)

    def _happened(self, event: Event) -> None:
        if isinstance(event, Data):
            self._received.append(event.payload)
            _wake(self._readers)
        elif isinstance(event, Writable):
            _wake(self._writers)
        elif isinstance(event, Eof):
            self._ended = True
            _wake(self._readers)
        elif isinstance(event, Closed):
            self.result = event.info
            self._finish()

    def _broke(self, reason: str) -> None:
        self._broken = reason
        self._finish()

    def _finish(self) -> None:
        self._ended = self._closed = True
        _wake(self._readers)
        _wake(self._writers)


class Program:
    """A program in the sandbox, on its `exec` channel."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel

    async def read(self) -> tuple[int, bytes] | None:
        """The next output as (STDOUT or STDERR, bytes); None when it has ended and all was read.

        A program whose output is not read is blocked once a window of it waits, as it would be by a pipe.
        """
        data = await self.channel.read()
        return (data[0], data[1:]) if data else None

    async def write(self, data: bytes) -> None:
        """Write to its stdin, waiting until it reads. Raises AegisError(CONFLICT) when it has ended."""
        await self.channel.write(data, bytes((STDIN,)))

    async def close_stdin(self) -> None:
        """Its stdin ends after what was written. Idempotent."""
        await self.channel.eof()

    async def signal(self, number: int) -> None:
        """Send a signal to its process group. Nothing happens when it has ended."""
        await self._signal(number, tree=False)

    async def kill(self) -> None:
        """Kill it and everything it started; `wait` then returns. Nothing happens when it has ended."""
        await self._signal(9, tree=True)

    async def wait(self) -> int:
        """Its exit code, negative for a signal, once it has ended and its output is sent.

        Raises AegisError when it could not be started, was given up by `channel.close`, or the tether ended.
        """
        await self.channel.wait_closed()
        result = self.channel.result
        if result is None:
            raise AegisError(ErrorKind.INTERRUPTED, f"`{self._name}` was given up")
        code = result.get("exit")
        if isinstance(code, int):
            return code
        try:
            kind = ErrorKind(result.get("kind", "failed"))
        except ValueError:
            kind = ErrorKind.FAILED
        raise AegisError(kind, str(result.get("error", f"`{self._name}` ended without a result")))

    @property
    def _name(self) -> str:
        argv = self.channel.info.get("argv") or [""]
        return str(argv[0])

    async def _signal(self, number: int, tree: bool) -> None:
        if self.channel._closed:
            return
        try:
            await self.channel._link.call("signal", {"channel": self.channel.number, "signal": number, "tree": tree})
        except AegisError as error:
            if error.kind is not ErrorKind.FAILED:  # FAILED: it has ended in the meantime
                raise


def _wake(waiting: list[asyncio.Future[None]]) -> None:
    for future in waiting:
        if not future.done():
            future.set_result(None)
    waiting.clear()


def _ended(reason: str) -> AegisError:
    return AegisError(ErrorKind.INTERRUPTED, f"the sandbox is gone: {reason}", reason=reason)
