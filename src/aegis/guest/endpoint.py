"""Loopback endpoints: TCP ports inside that lead outside, byte for byte: to the model broker, to Aegis's MCP server, to the egress gate.

Each connection is one channel of the endpoint's kind, with back-pressure and half-close both ways. Nothing is parsed or checked
here: what may pass is decided at the other end. At most `_MOST` connections are carried; others wait in the kernel's queue.
"""

from __future__ import annotations

import _socket
import os

from aegis.guest.loop import READ, WRITE
from aegis.tether.frames import CHUNK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from aegis.guest.loop import Timer
    from aegis.guest.supervisor import Guest

_MOST = 128
#: Seconds that a client has for taking note of the end, before its connection is cut.
_LINGER = 2.0
_RETRY = 0.1


class Endpoint:
    """A listening port, whose connections become channels with the `opening`. Raises OSError when it cannot be had."""

    def __init__(self, guest: Guest, opening: dict[str, str], host: str = "127.0.0.1", port: int = 0) -> None:
        self._guest = guest
        self._opening = opening
        family = _socket.AF_INET6 if ":" in host else _socket.AF_INET
        self._listener = _socket.socket(family, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK)
        self._listener.bind((host, port))
        self._listener.listen(_MOST)
        self._open = 0
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._watch()

    def _accept(self) -> None:
        if self._open >= _MOST:
            self._guest.loop.forget(self._listener.fileno())
            return
        try:
            fd, _ = self._listener._accept()  # type: ignore[attr-defined]
        except BlockingIOError:  # gone again
            return
        except OSError:  # no descriptor is free: look again later, not all the time
            self._guest.loop.forget(self._listener.fileno())
            self._guest.loop.after(_RETRY, self._watch)
            return
        self._open += 1
        sock = _socket.socket(fileno=fd)
        sock.setblocking(False)
        sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        try:
            self._guest.open(self._opening, lambda channel: Connection(self._guest, channel, sock, self._ended))
        except RuntimeError:  # connections end faster than the daemon takes note
            sock.close()
            self._open -= 1

    def _ended(self) -> None:
        self._open -= 1
        self._watch()

    def _watch(self) -> None:
        self._guest.loop.watch(self._listener.fileno(), READ, self._accept)


class Connection:
    """One TCP connection and its channel."""

    def __init__(self, guest: Guest, channel: int, sock: _socket.socket, ended: Callable[[], None]) -> None:
        self._guest = guest
        self._channel = channel
        self._sock = sock
        self._ended = ended
        self._output: list[memoryview] = []  # from the daemon, for the client
        self._reading = True  # the client may still say something
        self._blocked = False  # it must wait for credit
        self._finishing = False  # nothing more comes from the daemon
        self._shut = False  # the client has been told so
        self._gone = False  # the channel is closed
        self._timer: Timer | None = None
        self._update()

    def data(self, payload: bytes) -> None:
        """Bytes for the client."""
        self._output.append(memoryview(payload))
        self._write()

    def eof(self) -> None:
        """The daemon has said all."""
        self._finishing = True
        self._write()

    def writable(self) -> None:
        """There is credit again."""
        self._blocked = False
        self._update()

    def closed(self) -> None:
        """The daemon ended the channel; the client still gets what is here."""
        self._gone = self._finishing = True
        self._write()

    def _update(self) -> None:
        if self._sock.fileno() < 0:
            return
        events = (READ if self._reading and (self._gone or not self._blocked) else 0) | (WRITE if self._output else 0)
        if events:
            self._guest.loop.watch(self._sock.fileno(), events, self._ready)
        else:
            self._guest.loop.forget(self._sock.fileno())

    def _ready(self) -> None:
        if self._output:
            self._write()
        if self._reading and self._sock.fileno() >= 0:
            self._read()

    def _read(self) -> None:
        room = CHUNK
        if not self._gone:
            room = min(room, self._guest.mux.credit(self._channel))
            if not room:
                self._blocked = True
                self._update()
                return
        try:
            data = self._sock.recv(room)
        except BlockingIOError:
            return
        except OSError as error:
            self._end({"error": os.strerror(error.errno or 0)})
            return
        if self._gone:  # read only so that closing does not cut off what the client has not read yet
            if not data:
                self._end({})
        elif data:
            self._guest.mux.send(self._channel, data)
        else:
            self._reading = False
            self._guest.mux.eof(self._channel)
            self._check()

    def _write(self) -> None:
        if self._sock.fileno() < 0:
            return
        try:
            while self._output:
                piece = self._output[0]
                sent = self._sock.send(piece)
                self._guest.mux.consumed(self._channel, sent)
                if sent < len(piece):
                    self._output[0] = piece[sent:]
                    break
                del self._output[0]
        except BlockingIOError:
            pass
        except OSError as error:
            self._end({"error": os.strerror(error.errno or 0)})
            return
        self._check()

    def _check(self) -> None:
        """After each step: pass the end on, and finish when both directions have ended."""
        if self._finishing and not self._output:
            if not self._reading:
                self._end({})
                return
            if not self._shut:
                self._shut = True
                try:
                    self._sock.shutdown(_socket.SHUT_WR)
                except OSError as error:
                    self._end({"error": os.strerror(error.errno or 0)})
                    return
            if self._gone and self._timer is None:
                self._timer = self._guest.loop.after(_LINGER, lambda: self._end({}))
        self._update()

    def _end(self, info: dict[str, str]) -> None:
        self._guest.loop.cancel(self._timer)
        self._guest.loop.forget(self._sock.fileno())
        self._sock.close()
        self._output.clear()
        self._guest.finish(self._channel, info)
        self._ended()
