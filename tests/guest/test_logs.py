"""Captured programs: their output becomes log records and never blocks them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from aegis.guest import logs
from aegis.sandboxes.link import Channel
from aegis.tether.mux import Data, Mux


def captured(guest: Any) -> asyncio.Future[Channel]:
    future: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()
    guest.link.on_channel = future.set_result
    return future


async def records(channel: Channel, until: int) -> list[dict[str, Any]]:
    data = b""
    while data.count(b"\n") < until:
        data += await asyncio.wait_for(channel.read(), 20)
    return [json.loads(line) for line in data.splitlines()]


async def test_records_say_whose_and_which(guest: Any) -> None:
    channel = captured(guest)
    assert await guest.sh("echo one; sleep 0.05; echo two >&2; sleep 0.05; printf 'no\\377end'", capture="agent") == (0, b"", b"")
    log = await channel
    assert log.kind == "log"
    found = await records(log, 3)
    assert [(one["stream"], one["text"], one["source"]) for one in found] == [
        ("stdout", "one", "agent"),
        ("stderr", "two", "agent"),
        ("stdout", "no\ufffdend", "agent"),
    ]
    assert all(one["t"] > 1e9 for one in found)


async def test_nobody_reads_and_the_program_still_ends(guest: Any) -> None:
    channel = captured(guest)
    assert await guest.run("seq", "300000", capture="noisy") == (0, b"", b"")
    log = await channel
    dropped = kept = 0
    rest = b""
    while dropped + kept < 300_000:
        *whole, rest = (rest + await asyncio.wait_for(log.read(), 20)).split(b"\n")
        for line in whole:
            record = json.loads(line)
            dropped += record.get("dropped", 0)
            kept += "text" in record
    assert dropped > 0
    assert dropped + kept == 300_000


async def test_a_refused_log_is_thrown_away(guest: Any) -> None:
    channel = captured(guest)
    await guest.run("echo", "x", capture="a")
    await (await channel).close()
    assert await guest.run("seq", "300000", capture="a") == (0, b"", b"")
    stats = await guest.link.call("stats")
    assert stats["rss_bytes"] < 64 * 1024 * 1024


async def test_a_child_left_behind_goes_on_logging(guest: Any) -> None:
    channel = captured(guest)
    await guest.sh("(while [ ! -e go ]; do sleep 0.01; done; echo late) & exit 0", capture="a")
    (guest.cwd / "go").touch()
    assert [one["text"] for one in await records(await channel, 1)] == ["late"]


@pytest.mark.parametrize("chunk", [1, 7, 5000, 1_000_000])
def test_lines_are_cut_the_same_however_they_arrive(chunk: int) -> None:
    mux, peer = Mux("guest"), Mux("daemon")
    stream = logs.Log(mux).stream("a", 1)
    data = b"short\n\n" + b"x" * 20_000 + b"\nend"
    for at in range(0, len(data), chunk):
        stream.write(data[at : at + chunk])
    stream.end()
    wire = b"".join(event.payload for event in peer.feed(mux.outgoing()) if isinstance(event, Data))
    assert [json.loads(line)["text"] for line in wire.splitlines()] == ["short", "", "x" * 16384, "x" * 3616, "end"]


def test_the_oldest_records_go_and_are_counted() -> None:
    mux, peer = Mux("guest"), Mux("daemon")
    log = logs.Log(mux)
    for number in range(40_000):
        log.add("a", "stdout", b"%06d" % number)
    wire = b""
    while True:
        events = [event for event in peer.feed(mux.outgoing()) if isinstance(event, Data)]
        for event in events:
            wire += event.payload
            peer.consumed(event.channel, len(event.payload))
        mux.feed(peer.outgoing())
        log.flush()
        if not mux.pending:
            break
    found = [json.loads(line) for line in wire.splitlines()]
    dropped = [one["dropped"] for one in found if "dropped" in one]
    kept = [int(one["text"]) for one in found if "text" in one]
    assert len(dropped) == 1
    assert dropped[0] + len(kept) == 40_000
    assert kept == sorted(kept)
    assert kept[0] == 0
    assert kept[-1] == 39_999
