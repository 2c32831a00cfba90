"""The proxy's loopback port: there with AEGIS_EGRESS alone; its connections are `egress` channels."""

from __future__ import annotations

import asyncio
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest

from aegis.core.errors import AegisError
from aegis.sandboxes.link import Channel

ASK = "exec 3<>/dev/tcp/127.0.0.1/${HTTP_PROXY##*:}; echo ask >&3; cat <&3"


async def names(guest: Any) -> dict[str, str]:
    _, out, _ = await guest.run("env")
    return dict(line.split("=", 1) for line in out.decode().splitlines())


def channels(guest: Any) -> asyncio.Queue[Channel]:
    queue: asyncio.Queue[Channel] = asyncio.Queue()
    guest.link.on_channel = queue.put_nowait
    return queue


async def test_without_egress_there_is_none(guest: Any) -> None:
    assert "proxy" not in guest.hello
    with pytest.raises(AegisError):
        _ = guest.link.proxy
    env = await names(guest)
    assert not [name for name in env if "proxy" in name.lower() or "EGRESS" in name]
    assert "NODE_USE_ENV_PROXY" not in env


async def test_programs_are_told_of_it(start: Any) -> None:
    guest = await start(AEGIS_EGRESS="1")
    env = await names(guest)
    assert {env[name] for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")} == {guest.link.proxy}
    assert env["NO_PROXY"] == env["no_proxy"] == "127.0.0.1,localhost,::1"
    assert env["NODE_USE_ENV_PROXY"] == "1"
    assert not [name for name in env if "EGRESS" in name]
    assert guest.link.proxy != guest.link.endpoint


async def test_what_the_instance_was_given_comes_first(start: Any) -> None:
    env = await names(await start(AEGIS_EGRESS="1", HTTP_PROXY="http://x:1", no_proxy="a.test"))
    assert env["HTTP_PROXY"] == "http://x:1"
    assert "http_proxy" not in env
    assert env["no_proxy"] == "a.test"
    assert env["HTTPS_PROXY"] == env["https_proxy"]


@pytest.mark.parametrize("value", ["", "0", "yes", "true"])
async def test_only_a_one_opens_it(start: Any, value: str) -> None:
    guest = await start(AEGIS_EGRESS=value, AEGIS_EGRESS_TO="127.0.0.1:1")
    assert "proxy" not in guest.hello
    assert not [name for name in await names(guest) if "EGRESS" in name]


async def test_bytes_go_through_as_they_are(start: Any) -> None:
    guest = await start(AEGIS_EGRESS="1")
    waiting = channels(guest)
    running = asyncio.create_task(guest.run("bash", "-c", ASK))
    channel = await asyncio.wait_for(waiting.get(), 20)
    assert channel.info == {"kind": "egress"}
    assert await channel.read() == b"ask\n"
    await channel.write(b"\x00told")
    await channel.eof()
    assert await running == (0, b"\x00told", b"")


async def test_a_place_on_the_hosts_loopback_has_its_port_inside(start: Any) -> None:
    with socket.socket() as probe, socket.socket() as taken:
        probe.bind(("127.0.0.1", 0))
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port, used = probe.getsockname()[1], taken.getsockname()[1]
        probe.close()
        guest = await start(AEGIS_EGRESS="1", AEGIS_EGRESS_TO=f"127.0.0.1:{port},127.0.0.1:{used},nonsense")
    assert set(guest.hello["forward_errors"]) == {f"127.0.0.1:{used}", "nonsense"}
    waiting = channels(guest)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    channel = await asyncio.wait_for(waiting.get(), 20)
    assert channel.info == {"kind": "egress", "to": f"127.0.0.1:{port}"}
    writer.write(b"x")
    assert await channel.read() == b"x"
    await channel.close()
    assert await reader.read() == b""
    writer.close()


async def test_both_ports_carry_at_once(start: Any) -> None:
    guest = await start(AEGIS_EGRESS="1")
    waiting = channels(guest)
    kinds = set()
    writers = []
    for url in (guest.link.endpoint, guest.link.proxy):
        address = urlsplit(url)
        _, writer = await asyncio.open_connection(address.hostname, address.port)
        writers.append(writer)
        kinds.add((await asyncio.wait_for(waiting.get(), 20)).kind)
    assert kinds == {"model", "egress"}
    for writer in writers:
        writer.close()
