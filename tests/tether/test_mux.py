"""The mux against itself, and against peers that break the rules."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aegis.tether.frames import CHUNK, CLOSE, DATA, EOF, HEADER, MAX_FRAME, OPEN, WINDOW, WINDOW_UPDATE
from aegis.tether.mux import MAX_CHANNELS, Closed, Data, Eof, Event, Mux, Opened, TetherBroken, Writable


class Pair:
    """Two ends and what happened at each."""

    def __init__(self) -> None:
        self.daemon = Mux("daemon")
        self.guest = Mux("guest")
        self.at_daemon: list[Event] = []
        self.at_guest: list[Event] = []

    def pump(self) -> None:
        while self.daemon.pending or self.guest.pending:
            self.at_guest += self.guest.feed(self.daemon.outgoing())
            self.at_daemon += self.daemon.feed(self.guest.outgoing())


def frame(channel: int, kind: int, payload: bytes = b"") -> bytes:
    return struct.pack(HEADER, len(payload), channel, kind) + payload


def test_a_channel_from_open_to_close() -> None:
    pair = Pair()
    one = pair.daemon.open({"kind": "exec", "argv": ["x"]})
    two = pair.guest.open({"kind": "model"})
    assert (one, two) == (1, 2)
    assert pair.daemon.send(one, b"hello") == 5
    pair.daemon.eof(one)
    pair.pump()
    assert pair.at_guest == [Opened(1, {"kind": "exec", "argv": ["x"]}), Data(1, b"hello"), Eof(1)]
    assert pair.at_daemon == [Opened(2, {"kind": "model"})]
    pair.guest.send(one, b"bye")
    pair.guest.close(one, {"exit": 3})
    pair.pump()
    assert pair.at_daemon[1:] == [Data(1, b"bye"), Closed(1, {"exit": 3})]
    assert not pair.daemon.is_open(one)
    assert not pair.guest.is_open(one)
    assert pair.daemon.send(one, b"x") == 0
    pair.daemon.close(one)
    pair.daemon.eof(one)
    pair.daemon.consumed(one, 5)
    assert pair.daemon.pending == 0


def test_control_needs_no_credit() -> None:
    pair = Pair()
    for number in range(100):
        pair.guest.control(b"%d" % number * 4000)
    pair.pump()
    assert pair.at_daemon == [Data(0, b"%d" % number * 4000) for number in range(100)]
    with pytest.raises(ValueError, match="control message"):
        pair.daemon.control(bytes(MAX_FRAME + 1))


def test_send_stops_at_the_window_and_goes_on_when_the_reader_has_read() -> None:
    pair = Pair()
    channel = pair.daemon.open({"kind": "x"})
    assert pair.daemon.send(channel, bytes(WINDOW + 10)) == WINDOW
    assert pair.daemon.send(channel, b"more") == 0
    pair.pump()
    got = [event for event in pair.at_guest if isinstance(event, Data)]
    assert sum(len(event.payload) for event in got) == WINDOW
    assert max(len(event.payload) for event in got) == CHUNK
    assert pair.at_daemon == []
    for event in got:
        pair.guest.consumed(channel, len(event.payload))
    pair.pump()
    assert pair.at_daemon == [Writable(channel)]
    assert pair.daemon.credit(channel) == WINDOW


def test_a_prefix_stands_before_each_piece_and_uses_credit() -> None:
    pair = Pair()
    channel = pair.daemon.open({"kind": "exec"})
    data = bytes(range(256)) * 1024
    sent = pair.daemon.send(channel, data, b"\1")
    assert sent == WINDOW - 4  # four pieces
    pair.pump()
    pieces = [event.payload for event in pair.at_guest if isinstance(event, Data)]
    assert {piece[0] for piece in pieces} == {1}
    assert b"".join(piece[1:] for piece in pieces) == data[:sent]


def test_a_prefix_is_never_sent_alone() -> None:
    pair = Pair()
    channel = pair.daemon.open({"kind": "exec"})
    pair.daemon.send(channel, bytes(WINDOW - 1))
    assert pair.daemon.credit(channel) == 1
    assert pair.daemon.send(channel, b"abc", b"\0") == 0
    pair.pump()
    pair.guest.consumed(channel, WINDOW - 1)
    pair.pump()
    assert pair.at_daemon == [Writable(channel)]


def test_a_hundred_megabytes_arrive() -> None:
    pair = Pair()
    channel = pair.daemon.open({"kind": "x"})
    block = bytes(range(256)) * 4096
    total = 100 * len(block)
    sent = received = 0
    while received < total:
        at = sent % len(block)
        sent += pair.daemon.send(channel, memoryview(block)[at:])
        for event in pair.guest.feed(pair.daemon.outgoing()):
            if isinstance(event, Data):
                at = received % len(block)
                assert event.payload == block[at : at + len(event.payload)]
                received += len(event.payload)
                pair.guest.consumed(channel, len(event.payload))
        pair.daemon.feed(pair.guest.outgoing())
    assert sent == received == total


def test_closing_with_unread_data_ignores_what_was_on_its_way() -> None:
    pair = Pair()
    channel = pair.daemon.open({"kind": "x"})
    pair.pump()
    pair.guest.send(channel, b"unread" * 1000)
    pair.guest.eof(channel)
    pair.daemon.close(channel, {"why": "enough"})
    pair.pump()
    assert pair.at_daemon == []
    assert pair.at_guest[-1] == Closed(channel, {"why": "enough"})
    assert pair.daemon.pending == pair.guest.pending == 0
    with pytest.raises(TetherBroken):  # forgotten on both sides
        pair.daemon.feed(frame(channel, DATA, b"x"))


def test_both_close_at_once() -> None:
    pair = Pair()
    channel = pair.daemon.open({"kind": "x"})
    pair.pump()
    pair.guest.close(channel)
    pair.daemon.close(channel)
    pair.pump()
    assert pair.at_daemon == []
    assert len(pair.at_guest) == 1
    assert not pair.daemon.is_open(channel)


def test_channels_are_bounded_on_each_side() -> None:
    pair = Pair()
    for _ in range(MAX_CHANNELS):
        pair.guest.open({"kind": "model"})
    with pytest.raises(RuntimeError):
        pair.guest.open({"kind": "model"})
    pair.pump()
    first = pair.daemon.open({"kind": "exec"})  # the other side has a count of its own
    pair.guest.close(2)
    pair.pump()
    assert pair.guest.open({"kind": "model"}) == 2 * MAX_CHANNELS + 2
    assert first == 1
    flood = Mux("daemon")
    with pytest.raises(TetherBroken, match="more than"):
        flood.feed(b"".join(frame(2 * n, OPEN, b'{"kind":"x"}') for n in range(1, MAX_CHANNELS + 2)))


def test_sending_after_eof_is_the_callers_defect() -> None:
    mux = Mux("daemon")
    channel = mux.open({"kind": "x"})
    mux.eof(channel)
    mux.eof(channel)
    with pytest.raises(ValueError, match="after EOF"):
        mux.send(channel, b"x")


OPENED = frame(2, OPEN, b'{"kind":"x"}')


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (struct.pack(HEADER, 16 * 1024 * 1024, 1, DATA), "a frame of 16777216 bytes"),
        (frame(2, DATA, b"x"), "not open"),
        (frame(0, OPEN, b'{"kind":"x"}'), "control channel"),
        (frame(1, OPEN, b'{"kind":"x"}'), "not the peer's"),
        (OPENED + OPENED, "not the peer's"),
        (frame(4, OPEN, b'{"kind":"x"}') + OPENED, "not the peer's"),
        (frame(2, OPEN, b"{"), "without JSON"),
        (frame(2, OPEN, b"\xff"), "without JSON"),
        (frame(2, OPEN, b"[" * 100_000), "without JSON"),
        (frame(2, OPEN, b"[]"), "without a JSON object"),
        (frame(2, OPEN, b"{}"), "without a kind"),
        (OPENED + frame(2, 9), "type 9"),
        (OPENED + frame(2, EOF) + frame(2, EOF), "wrong EOF"),
        (OPENED + frame(2, EOF, b"x"), "wrong EOF"),
        (OPENED + frame(2, EOF) + frame(2, DATA, b"x"), "data after EOF"),
        (OPENED + frame(2, DATA, bytes(WINDOW)) + frame(2, DATA, b"x"), "without credit"),
        (OPENED + frame(2, WINDOW_UPDATE, b"x"), "wrong window"),
        (OPENED + frame(2, WINDOW_UPDATE, struct.pack("!I", 1)), "more credit"),
        (OPENED + frame(2, CLOSE, b""), "without JSON"),
        (OPENED + frame(2, CLOSE, b"{}") + frame(2, DATA, b"x"), "not open"),
    ],
)
def test_a_broken_rule_breaks_the_tether_for_good(wire: bytes, reason: str) -> None:
    mux = Mux("daemon")
    with pytest.raises(TetherBroken, match=reason):
        mux.feed(wire)
    with pytest.raises(TetherBroken, match=reason):
        mux.feed(frame(0, DATA, b"{}"))


@given(st.lists(st.integers(0, 5), max_size=40), st.lists(st.integers(1, 400), min_size=1, max_size=30), st.randoms())
def test_any_split_of_the_bytes_means_the_same(steps: list[int], cuts: list[int], random: object) -> None:
    sender = Mux("guest")
    channels: list[int] = []
    for at, step in enumerate(steps):
        channel = channels[at % len(channels)] if channels else 0
        if step == 0:
            channels.append(sender.open({"kind": "x", "n": at}))
        elif step == 1:
            sender.control(b"%d" % at)
        elif channel and step in (2, 3) and sender.is_open(channel):
            try:
                sender.send(channel, bytes([at]) * (at * 37 + 1))
            except ValueError:
                assert 4 in steps
        elif channel and step == 4:
            sender.eof(channel)
        elif channel and step == 5:
            sender.close(channel, {"n": at})
    wire = sender.outgoing()
    whole = Mux("daemon").feed(wire)
    split, at, turn, mux = [], 0, 0, Mux("daemon")
    while at < len(wire):
        size = cuts[turn % len(cuts)]
        split += mux.feed(wire[at : at + size])
        at, turn = at + size, turn + 1
    assert split == whole


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=200), max_size=20))
def test_garbage_breaks_the_tether_or_waits_for_more(pieces: list[bytes]) -> None:
    mux = Mux("daemon")
    mux.open({"kind": "x"})
    try:
        for piece in pieces:
            mux.feed(piece)
    except TetherBroken:
        assert mux.pending >= 0


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(st.integers(0, 6), st.integers(0, 7), st.sampled_from([b"", b"{}", b'{"kind":"x"}', b"\0\0\0\1", b"data"])), max_size=40
    )
)
def test_any_frames_break_the_tether_or_make_sense(frames: list[tuple[int, int, bytes]]) -> None:
    mux = Mux("guest")
    seen: dict[int, str] = {}
    try:
        for event in mux.feed(b"".join(frame(*one) for one in frames)):
            if event.channel and isinstance(event, Opened):
                assert event.channel not in seen
                seen[event.channel] = "open"
            elif event.channel:
                assert seen[event.channel] == "open"
                if isinstance(event, Closed):
                    seen[event.channel] = "closed"
    except TetherBroken:
        pass
