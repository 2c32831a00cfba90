"""The daemon's end of the tether, against a guest that this test plays itself."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator

import pytest

from aegis.core.errors import AegisError, ErrorKind
from aegis.sandboxes import link as link_module
from aegis.sandboxes.link import Channel, Link
from aegis.tether.frames import WINDOW
from aegis.tether.mux import Closed, Data, Eof, Event, Mux, Opened

HELLO = {"v": 1, "pid": 1, "endpoint": None}


class Peer:
    """A guest in the test's hands."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.mux = Mux("guest")
        self.events: list[Event] = []

    async def flush(self) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, self.mux.outgoing())

    async def expect(self, kind: type[Event]) -> Event:
        """The next event of a kind; others are dropped."""
        loop = asyncio.get_running_loop()
        while True:
            while self.events:
                event = self.events.pop(0)
                if isinstance(event, kind):
                    return event
            data = await asyncio.wait_for(loop.sock_recv(self.sock, 65536), 20)
            assert data
            self.events += self.mux.feed(data)

    async def say(self, **message: object) -> None:
        self.mux.control(json.dumps({"jsonrpc": "2.0", **message}).encode())
        await self.flush()


@pytest.fixture
async def ends() -> AsyncIterator[tuple[Link, Peer]]:
    ours, theirs = socket.socketpair()
    link = Link(ours)
    with theirs:
        yield link, Peer(theirs)
        await link.close()


async def test_hello_and_calls(ends: tuple[Link, Peer]) -> None:
    link, peer = ends
    await peer.say(method="hello", params=HELLO)
    assert await link.hello(20) == HELLO
    assert await link.hello(20) == HELLO
    one, two = asyncio.create_task(link.call("one", {"a": 1})), asyncio.create_task(link.call("two"))
    asked = [json.loads((await peer.expect(Data)).payload) for _ in range(2)]  # type: ignore[attr-defined]
    assert [(each["method"], each["params"]) for each in asked] == [("one", {"a": 1}), ("two", {})]
    await peer.say(id=asked[1]["id"], result=[2])
    await peer.say(id=asked[0]["id"], error={"code": -1, "message": "not so"})
    assert await two == [2]
    with pytest.raises(AegisError, match="not so"):
        await one
    await peer.say(id=77, result=1)  # nobody asked
    await peer.say(method="news")


async def test_silence_times_out(ends: tuple[Link, Peer]) -> None:
    link, peer = ends
    with pytest.raises(AegisError) as caught:
        await link.hello(0.01)
    assert caught.value.kind is ErrorKind.TIMEOUT
    with pytest.raises(AegisError) as caught:
        await link.call("ping", timeout=0.01)
    assert caught.value.kind is ErrorKind.TIMEOUT
    await peer.say(method="hello", params=HELLO)
    assert await link.hello(20) == HELLO


async def test_everything_pending_fails_with_the_reason(ends: tuple[Link, Peer]) -> None:
    link, peer = ends
    channel = await link.open("exec", argv=["x"])
    program = await link.run(["x"])
    waiting = [
        asyncio.create_task(each)
        for each in (link.hello(20), link.call("ping"), channel.read(), channel.wait_closed(), program.read(), program.wait())
    ]
    writing = asyncio.create_task(channel.write(bytes(WINDOW * 2)))
    await asyncio.sleep(0)
    peer.sock.close()
    assert await asyncio.wait_for(link.closed, 20)
    for task in [*waiting, writing]:
        with pytest.raises(AegisError, match="the sandbox is gone") as caught:
            await task
        assert caught.value.kind is ErrorKind.INTERRUPTED
    for late in (link.call("ping"), link.open("exec"), channel.write(b"x"), channel.read(), program.kill()):
        if late.__name__ == "kill":
            await late
            continue
        with pytest.raises(AegisError, match="the sandbox is gone"):
            await late
    await link.close()
    await channel.close()
    await channel.eof()


@pytest.mark.parametrize("garbage", [b"\xff" * 9, b"\x00\x00\x00\x02\x00\x00\x00\x00\x02[]", b"\x00\x00\x00\x01\x00\x00\x00\x00\x02{"])
async def test_a_guest_that_breaks_a_rule_is_cut_off(ends: tuple[Link, Peer], garbage: bytes) -> None:
    link, peer = ends
    peer.sock.send(garbage)
    assert "broke the tether" in await asyncio.wait_for(link.closed, 20)
    with pytest.raises(AegisError, match="broke the tether"):
        await link.hello(20)


async def test_a_hello_of_another_version_is_refused(ends: tuple[Link, Peer]) -> None:
    link, peer = ends
    await peer.say(method="hello", params={"v": 2})
    with pytest.raises(AegisError, match="another version"):
        await link.hello(20)


async def test_what_arrived_before_the_end_can_be_read(ends: tuple[Link, Peer]) -> None:
    link, peer = ends
    channel = await link.open("exec")
    number = (await peer.expect(Opened)).channel
    peer.mux.send(number, b"last words")
    await peer.flush()
    peer.sock.close()
    await link.closed
    assert await channel.read() == b"last words"
    with pytest.raises(AegisError):
        await channel.read()


async def test_close_carries_a_result_and_ends_reading(ends: tuple[Link, Peer]) -> None:
    link, peer = ends
    program = await link.run(["x"], env={"A": "1"}, cwd="/", stdin=False, capture="me")
    opened = await peer.expect(Opened)
    assert opened == Opened(1, {"kind": "exec", "argv": ["x"], "env": {"A": "1"}, "stdin": False, "cwd": "/", "capture": "me"})
    peer.mux.send(1, b"\1out")
    peer.mux.send(1, b"\2err")
    peer.mux.close(1, {"exit": -15})
    await peer.flush()
    assert await program.wait() == -15
    assert [await program.read() for _ in range(3)] == [(1, b"out"), (2, b"err"), None]
    assert program.channel.result == {"exit": -15}
    with pytest.raises(AegisError) as caught:
        await program.write(b"x")
    assert caught.value.kind is ErrorKind.CONFLICT


@pytest.mark.parametrize(
    ("info", "kind", "text"),
    [
        ({"error": "no program x", "kind": "not_found"}, ErrorKind.NOT_FOUND, "no program x"),
        ({"error": "strange", "kind": "new"}, ErrorKind.FAILED, "strange"),
        ({}, ErrorKind.FAILED, "without a result"),
        ({"exit": "zero"}, ErrorKind.FAILED, "without a result"),
    ],
)
async def test_a_program_that_did_not_start(ends: tuple[Link, Peer], info: dict[str, object], kind: ErrorKind, text: str) -> None:
    link, peer = ends
    program = await link.run(["x"])
    await peer.expect(Opened)
    peer.mux.close(1, info)
    await peer.flush()
    assert await program.read() is None
    with pytest.raises(AegisError, match=text) as caught:
        await program.wait()
    assert caught.value.kind is kind


async def test_writes_wait_for_the_reader_and_do_not_mix(ends: tuple[Link, Peer]) -> None:
    link, peer = ends
    channel = await link.open("x")
    writes = [asyncio.create_task(channel.write(bytes([n]) * WINDOW)) for n in range(3)]
    ending = asyncio.create_task(channel.eof())
    await peer.expect(Opened)
    got = b""
    while len(got) < 3 * WINDOW:
        event = await peer.expect(Data)
        assert isinstance(event, Data)
        got += event.payload
        assert len(got) <= 3 * WINDOW
        peer.mux.consumed(1, len(event.payload))
        await peer.flush()
    await peer.expect(Eof)
    await asyncio.gather(*writes, ending)
    assert got == b"".join(bytes([n]) * WINDOW for n in range(3))


async def test_unread_data_is_bounded_by_the_window(ends: tuple[Link, Peer]) -> None:
    link, peer = ends
    channel = await link.open("x")
    await peer.expect(Opened)
    sent = peer.mux.send(1, bytes(10 * WINDOW))
    assert sent == WINDOW
    await peer.flush()
    total = 0
    while total < WINDOW:
        total += len(await channel.read())
    assert peer.mux.credit(1) == 0
    await peer.expect(Event)  # the credit that reading gave
    assert peer.mux.credit(1) > 0


async def test_the_guests_channels_wait_for_somebody_to_take_them(ends: tuple[Link, Peer]) -> None:
    link, peer = ends
    for number in range(70):
        peer.mux.open({"kind": "model", "n": number})
    peer.mux.send(2, b"request")
    await peer.flush()
    refused = [(await peer.expect(Closed)).channel for _ in range(6)]
    assert refused == [2 * number for number in range(65, 71)]
    taken: list[Channel] = []
    link.on_channel = taken.append
    assert [channel.info["n"] for channel in taken] == list(range(64))
    assert await taken[0].read() == b"request"
    peer.mux.open({"kind": "log"})
    await peer.flush()
    await taken[0].write(b"answer")
    await peer.expect(Data)
    while len(taken) == 64:  # the two directions of the wire are not ordered
        await asyncio.sleep(0.001)
    assert taken[-1].kind == "log"


async def test_a_guest_that_never_reads_is_not_read_from(ends: tuple[Link, Peer], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each opened channel costs an answer: without a bound they would pile up here."""
    link, peer = ends
    link.on_channel = lambda channel: None
    monkeypatch.setattr(link_module, "_CONGESTED", 64 * 1024)
    loop = asyncio.get_running_loop()
    said = 0

    async def flood() -> None:
        nonlocal said
        while True:
            for _ in range(500):
                number = peer.mux.open({"kind": "x"})
                peer.mux.close(number)
                peer.mux._channels.pop(number)  # as if the answer had come
                peer.mux._counts[0] -= 1
            await loop.sock_sendall(peer.sock, peer.mux.outgoing())
            said += 500

    flooding = asyncio.create_task(flood())
    for _ in range(3000):
        await asyncio.sleep(0)
    assert said < 100_000  # held up
    assert 0 < link._mux.pending + len(link._unsent) < 256 * 1024
    flooding.cancel()
    await asyncio.gather(flooding, return_exceptions=True)
    loop.remove_writer(peer.sock)
    while link._mux.pending + len(link._unsent) > 0:  # read from again as soon as it reads
        await loop.sock_recv(peer.sock, 65536)


async def test_too_much_is_refused_before_it_is_sent(ends: tuple[Link, Peer]) -> None:
    link, _ = ends
    with pytest.raises(AegisError) as caught:
        await link.open("exec", argv=["x" * 2_000_000])
    assert caught.value.kind is ErrorKind.TOO_LARGE
    channels = [await link.open("x") for _ in range(512)]
    with pytest.raises(AegisError) as caught:
        await link.open("x")
    assert caught.value.kind is ErrorKind.LIMIT
    assert channels[-1].number == 1023


def test_on_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def talk() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            link, peer = Link(ours), Peer(theirs)
            await peer.say(method="hello", params=HELLO)
            assert await link.hello(20) == HELLO
            channel = await link.open("x")
            writing = asyncio.create_task(channel.write(bytes(4 * WINDOW)))
            total = 0
            while total < 4 * WINDOW:
                event = await peer.expect(Data)
                assert isinstance(event, Data)
                total += len(event.payload)
                peer.mux.consumed(1, len(event.payload))
                await peer.flush()
            await writing
            peer.sock.close()
            await asyncio.wait_for(link.closed, 20)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(talk())
