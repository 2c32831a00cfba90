"""The loopback endpoint: TCP inside, `model` channels outside."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any
from urllib.parse import urlsplit

import pytest

from aegis.core.errors import AegisError
from aegis.sandboxes.link import Channel


class Broker:
    """Takes the channels that the guest opens."""

    def __init__(self, guest: Any) -> None:
        self._channels: asyncio.Queue[Channel] = asyncio.Queue()
        guest.link.on_channel = self._channels.put_nowait
        self._address = urlsplit(guest.hello["endpoint"])

    async def dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, Channel]:
        reader, writer = await asyncio.open_connection(self._address.hostname, self._address.port)
        channel = await asyncio.wait_for(self._channels.get(), 20)
        assert channel.kind == "model"
        return reader, writer, channel


async def drain(channel: Channel) -> bytes:
    data = b""
    while piece := await channel.read():
        data += piece
    return data


@pytest.fixture
async def broker(guest: Any) -> Broker:
    return Broker(guest)


async def test_bytes_go_both_ways_and_each_half_closes_alone(broker: Broker) -> None:
    reader, writer, channel = await broker.dial()
    writer.write(b"request")
    writer.write_eof()
    assert await drain(channel) == b"request"
    await channel.write(b"a long ")  # the other half is still open
    await channel.write(b"answer")
    await channel.eof()
    assert await reader.read() == b"a long answer"
    await channel.wait_closed()
    writer.close()


async def test_the_daemon_may_end_its_half_first(broker: Broker) -> None:
    reader, writer, channel = await broker.dial()
    await channel.write(b"hello")
    await channel.eof()
    assert await reader.read() == b"hello"
    writer.write(b"thanks")
    writer.write_eof()
    assert await drain(channel) == b"thanks"
    await channel.wait_closed()
    writer.close()


async def test_a_close_delivers_what_was_sent_even_to_a_client_that_talks(broker: Broker) -> None:
    reader, writer, channel = await broker.dial()
    writer.write(bytes(100_000))
    answer = bytes(range(256)) * 800
    await channel.write(answer)
    await channel.close()
    assert await reader.read() == answer
    writer.close()


async def test_both_directions_are_held_up_by_a_slow_reader(guest: Any, broker: Broker) -> None:
    reader, writer, channel = await broker.dial()
    size = 32 * 1024 * 1024
    sending = asyncio.create_task(channel.write(bytes(size)))
    writer.write(bytes(size))
    for _ in range(50):
        await guest.link.call("ping")
    assert not sending.done()

    async def receive() -> int:
        total = 0
        while total < size:
            total += len(await reader.read(1 << 20))
        return total

    async def take() -> int:
        total = 0
        while total < size:
            total += len(await channel.read())
        return total

    assert await asyncio.gather(receive(), take()) == [size, size]
    await sending
    writer.close()
    assert await channel.read() == b""
    await channel.close()


async def test_a_client_that_resets_ends_the_channel(broker: Broker) -> None:
    _, writer, channel = await broker.dial()
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()
    await asyncio.wait_for(channel.wait_closed(), 20)
    assert channel.result
    assert "error" in channel.result
    with pytest.raises(AegisError):
        await channel.write(b"x")


async def test_more_connections_than_are_carried_wait_their_turn(broker: Broker) -> None:
    async def exchange(number: int) -> bytes:
        reader, writer = await asyncio.open_connection(broker._address.hostname, broker._address.port)
        writer.write(b"%d" % number)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        return answer

    async def serve() -> None:
        while True:
            channel = await broker._channels.get()
            await channel.write(b"answer to " + await drain(channel))
            await channel.eof()

    servers = [asyncio.create_task(serve()) for _ in range(4)]
    answers = await asyncio.gather(*(exchange(number) for number in range(400)))
    assert answers == [b"answer to %d" % number for number in range(400)]
    for server in servers:
        server.cancel()


async def test_a_program_inside_reaches_the_broker(guest: Any, broker: Broker) -> None:
    script = "exec 3<>/dev/tcp/127.0.0.1/${AEGIS_MODEL_URL##*:}; echo ask >&3; cat <&3"
    running = asyncio.create_task(guest.run("bash", "-c", script))
    channel = await asyncio.wait_for(broker._channels.get(), 20)
    assert await channel.read() == b"ask\n"
    await channel.write(b"told")
    await channel.eof()
    assert await running == (0, b"told", b"")
