"""Many channels over one stream, with flow control, and no I/O.

Both ends hold a `Mux`: bytes that arrived go into `feed`, which returns what happened; bytes to write come out of
`outgoing`. See `frames` for the wire.

Guaranteed: what one side sends on a channel the other gets whole and in order; at most `WINDOW` bytes per channel and
direction are on their way and unread; a peer that breaks a rule raises `TetherBroken`, and then nothing works any more.
CLOSE is said once by each side: the answer to a CLOSE is given by the mux itself, and frames that were on their way to a
channel this side has closed are dropped until that answer arrives.
"""

from __future__ import annotations

from struct import Struct

from aegis.tether.frames import CHUNK, CLOSE, DATA, EOF, HEADER, HEADER_SIZE, MAX_FRAME, OPEN, WINDOW, WINDOW_UPDATE
from aegis.tether.jsontext import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: The most channels that one side may have open at the same time.
MAX_CHANNELS = 512

_HEADER = Struct(HEADER)
_UPDATE = Struct(HEADER + "I")
_CREDIT = Struct("!I")


class TetherBroken(Exception):
    """The peer broke a rule of the wire; the text says which."""


class Event:
    """Something that happened on a channel."""

    __slots__ = ("channel",)
    __match_args__: tuple[str, ...] = ("channel",)

    def __init__(self, channel: int) -> None:
        self.channel = channel

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.__match_args__)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and isinstance(other, Event) and other._values() == self._values()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}{self._values()!r}"


class Opened(Event):
    """The peer opened a channel; `info["kind"]` says what for."""

    __slots__ = ("info",)
    __match_args__ = ("channel", "info")

    def __init__(self, channel: int, info: dict[str, Any]) -> None:
        self.channel = channel
        self.info = info


class Data(Event):
    """Bytes from the peer, or on channel 0 one control message. Say `consumed` when they are dealt with."""

    __slots__ = ("payload",)
    __match_args__ = ("channel", "payload")

    def __init__(self, channel: int, payload: bytes) -> None:
        self.channel = channel
        self.payload = payload


class Eof(Event):
    """The peer sends nothing more on the channel."""

    __slots__ = ()


class Closed(Event):
    """The peer ended the channel; the number means nothing from here on."""

    __slots__ = ("info",)
    __match_args__ = ("channel", "info")

    def __init__(self, channel: int, info: dict[str, Any]) -> None:
        self.channel = channel
        self.info = info


class Writable(Event):
    """There is credit again on a channel where `send` had to leave something."""

    __slots__ = ()


class _Channel:
    """The books of one channel."""

    __slots__ = ("blocked", "closing", "consumed", "credit", "eof_received", "eof_sent", "owed")

    def __init__(self) -> None:
        self.credit = WINDOW  # what this side may still send
        self.owed = WINDOW  # what the peer may still send
        self.consumed = 0  # dealt with here, not yet given back as credit
        self.blocked = False
        self.eof_sent = False
        self.eof_received = False
        self.closing = False  # this side said CLOSE, the peer's has not arrived


class Mux:
    """One end. `side` is `daemon` (opens odd channels) or `guest` (even ones)."""

    def __init__(self, side: str) -> None:
        if side not in ("daemon", "guest"):
            raise ValueError(f"no side {side!r}")
        self._next = 1 if side == "daemon" else 2
        self._peer_last = 0 if side == "daemon" else -1
        self._channels: dict[int, _Channel] = {}
        self._counts = [0, 0]  # how many of them are even, and odd
        self._input = bytearray()
        self._output: list[bytes] = []
        self._broken: TetherBroken | None = None
        self.pending = 0  # bytes that `outgoing` would return

    # What this side says.

    def open(self, info: dict[str, Any]) -> int:
        """Open a channel and return its number. Raises RuntimeError when there are MAX_CHANNELS already."""
        if self._counts[self._next & 1] >= MAX_CHANNELS:
            raise RuntimeError(f"{MAX_CHANNELS} channels are open")
        number = self._next
        payload = _json(info)
        self._next += 2
        self._channels[number] = _Channel()
        self._counts[number & 1] += 1
        self._frame(number, OPEN, payload)
        return number

    def is_open(self, channel: int) -> bool:
        """Whether neither side has closed the channel, as far as is known here."""
        state = self._channels.get(channel)
        return state is not None and not state.closing

    def credit(self, channel: int, need: int = 1) -> int:
        """How many bytes the peer would take now; a `Writable` follows if that is less than `need`. 0 on a channel that is gone."""
        state = self._channels.get(channel)
        if state is None or state.closing:
            return 0
        if state.credit < need:
            state.blocked = True
        return state.credit

    def send(self, channel: int, data: bytes | bytearray | memoryview, prefix: bytes = b"") -> int:
        """Send as much of `data` as there is credit for and return how much that was; a `Writable` follows if some was left.

        `prefix` is put before each piece and uses credit too. On a channel that is gone nothing is taken and nothing follows.
        """
        state = self._channels.get(channel)
        if state is None or state.closing:
            return 0
        if state.eof_sent:
            raise ValueError(f"channel {channel}: data after EOF")
        view = memoryview(data)
        extra = len(prefix)
        sent = 0
        while sent < len(view):
            room = min(state.credit, CHUNK) - extra
            if room <= 0:
                state.blocked = True
                break
            piece = view[sent : sent + room]
            size = len(piece) + extra
            self._output.append(_HEADER.pack(size, channel, DATA) + prefix)
            self._output.append(bytes(piece))
            self.pending += HEADER_SIZE + size
            state.credit -= size
            sent += len(piece)
        return sent

    def eof(self, channel: int) -> None:
        """Say that nothing more follows on the channel. Idempotent."""
        state = self._channels.get(channel)
        if state is not None and not state.closing and not state.eof_sent:
            state.eof_sent = True
            self._frame(channel, EOF, b"")

    def close(self, channel: int, info: dict[str, Any] | None = None) -> None:
        """End the channel for both sides; unread data of the peer is dropped. Idempotent."""
        state = self._channels.get(channel)
        if state is not None and not state.closing:
            self._frame(channel, CLOSE, _json(info or {}))
            state.closing = True

    def consumed(self, channel: int, size: int) -> None:
        """Give the peer credit for `size` bytes of its data that are dealt with."""
        state = self._channels.get(channel)
        if state is None or state.closing:
            return
        state.consumed += size
        # Not for each piece: half a window is soon enough, as the peer never needs more than two bytes to go on.
        if state.consumed >= WINDOW // 2 and not state.eof_received:
            self._output.append(_UPDATE.pack(4, channel, WINDOW_UPDATE, state.consumed))
            self.pending += _UPDATE.size
            state.owed += state.consumed
            state.consumed = 0

    def control(self, payload: bytes) -> None:
        """Send one control message. Raises ValueError when it is longer than MAX_FRAME."""
        if len(payload) > MAX_FRAME:
            raise ValueError(f"a control message of {len(payload)} bytes")
        self._frame(0, DATA, payload)

    def outgoing(self) -> bytes:
        """Everything that is to be written, and forget it."""
        data = b"".join(self._output)
        self._output.clear()
        self.pending = 0
        return data

    # What the peer says.

    def feed(self, data: bytes | bytearray | memoryview) -> list[Event]:
        """Take bytes that arrived and return what they mean, in order. Raises TetherBroken, and always again from then on."""
        if self._broken is not None:
            raise self._broken
        events: list[Event] = []
        try:
            if self._input:
                self._input += data
                used = self._parse(self._input, events)
                del self._input[:used]
            else:
                used = self._parse(data, events)
                self._input += memoryview(data)[used:]
        except TetherBroken as error:
            self._broken = error
            self._channels.clear()
            self._input.clear()
            raise
        return events

    def _parse(self, data: bytes | bytearray | memoryview, events: list[Event]) -> int:
        at, end = 0, len(data)
        with memoryview(data) as view:
            while end - at >= HEADER_SIZE:
                size, channel, kind = _HEADER.unpack_from(view, at)
                if size > MAX_FRAME:
                    raise TetherBroken(f"a frame of {size} bytes")
                if end - at - HEADER_SIZE < size:
                    break
                start = at + HEADER_SIZE
                at = start + size
                event = self._frame_in(channel, kind, bytes(view[start:at]))
                if event is not None:
                    events.append(event)
        return at

    def _frame_in(self, channel: int, kind: int, payload: bytes) -> Event | None:
        if channel == 0:
            if kind != DATA:
                raise TetherBroken(f"a frame of type {kind} on the control channel")
            return Data(0, payload)
        if kind == OPEN:
            return self._opened(channel, payload)
        state = self._channels.get(channel)
        if state is None:
            raise TetherBroken(f"a frame for channel {channel}, which is not open")
        if kind == DATA:
            size = len(payload)
            if size > state.owed:
                raise TetherBroken(f"channel {channel}: data without credit")
            if state.eof_received:
                raise TetherBroken(f"channel {channel}: data after EOF")
            state.owed -= size
            return Data(channel, payload) if payload and not state.closing else None
        if kind == WINDOW_UPDATE:
            return self._credited(channel, state, payload)
        if kind == EOF:
            if payload or state.eof_received:
                raise TetherBroken(f"channel {channel}: a wrong EOF")
            state.eof_received = True
            return None if state.closing else Eof(channel)
        if kind == CLOSE:
            info = _object(payload, "CLOSE")
            del self._channels[channel]
            self._counts[channel & 1] -= 1
            if state.closing:
                return None
            self._frame(channel, CLOSE, b"{}")
            return Closed(channel, info)
        raise TetherBroken(f"a frame of type {kind}")

    def _opened(self, channel: int, payload: bytes) -> Event:
        if channel & 1 == self._next & 1 or channel <= self._peer_last:
            raise TetherBroken(f"channel {channel} is not the peer's to open")
        if self._counts[channel & 1] >= MAX_CHANNELS:
            raise TetherBroken(f"more than {MAX_CHANNELS} channels")
        info = _object(payload, "OPEN")
        if not isinstance(info.get("kind"), str):
            raise TetherBroken("OPEN without a kind")
        self._peer_last = channel
        self._channels[channel] = _Channel()
        self._counts[channel & 1] += 1
        return Opened(channel, info)

    def _credited(self, channel: int, state: _Channel, payload: bytes) -> Event | None:
        if len(payload) != _CREDIT.size:
            raise TetherBroken(f"channel {channel}: a wrong window update")
        state.credit += _CREDIT.unpack(payload)[0]
        if state.credit > WINDOW:
            raise TetherBroken(f"channel {channel}: more credit than the window")
        if not state.blocked or state.closing:
            return None
        state.blocked = False
        return Writable(channel)

    def _frame(self, channel: int, kind: int, payload: bytes) -> None:
        self._output.append(_HEADER.pack(len(payload), channel, kind) + payload)
        self.pending += HEADER_SIZE + len(payload)


def _json(info: dict[str, Any]) -> bytes:
    payload = dumps(info)
    if len(payload) > MAX_FRAME:
        raise ValueError(f"{len(payload)} bytes of JSON do not fit into a frame")
    return payload


def _object(payload: bytes, what: str) -> dict[str, Any]:
    try:
        info = loads(payload)
    except ValueError:
        raise TetherBroken(f"{what} without JSON") from None
    if not isinstance(info, dict):
        raise TetherBroken(f"{what} without a JSON object")
    return info
