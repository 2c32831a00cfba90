"""What comes out of a sandbox when everything in it is hostile: the agent's lines, the guest's frames, floods of both."""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import socket
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.attacks.conftest import Box

from aegis.core.errors import AegisError
from aegis.sandboxes.link import Channel, Link
from aegis.tether.frames import CLOSE, DATA, EOF, HEADER, MAX_FRAME, OPEN, WINDOW, WINDOW_UPDATE

Make = Callable[..., Box]
HELLO = {"jsonrpc": "2.0", "method": "hello", "params": {"v": 1, "pid": 1, "endpoint": None}}


def frame(channel: int, kind: int, payload: bytes | dict[str, Any] = b"") -> bytes:
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return struct.pack(HEADER, len(data), channel, kind) + data


class Peer:
    """A guest that says what it likes."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock

    async def say(self, data: bytes) -> bool:
        """Send; False when the daemon hung up."""
        try:
            await asyncio.wait_for(asyncio.get_running_loop().sock_sendall(self.sock, data), 20)
        except OSError:
            return False
        return True


@pytest.fixture
async def ends() -> AsyncIterator[tuple[Link, Peer]]:
    ours, theirs = socket.socketpair()
    link = Link(ours)
    with theirs:
        peer = Peer(theirs)
        await peer.say(frame(0, DATA, HELLO))
        await link.hello(20)
        yield link, peer
        await link.close()


DEEP = b"[" * 500_000


@pytest.mark.parametrize(
    "said",
    [
        b"\xff" * 64,
        struct.pack(HEADER, MAX_FRAME + 1, 0, DATA),
        struct.pack(HEADER, 0xFFFFFFFF, 0, DATA),
        frame(0, DATA, b"not json"),
        frame(0, DATA, b"[]"),
        frame(0, DATA, DEEP),
        frame(0, DATA, b'{"id":' + DEEP),
        frame(0, OPEN, b"{}"),
        frame(0, EOF),
        frame(2, OPEN, DEEP),
        frame(2, OPEN, b'{"kind": 1}'),
        frame(2, OPEN, b"{}"),
        frame(3, OPEN, {"kind": "model"}),
        frame(2, OPEN, {"kind": "model"}) + frame(2, OPEN, {"kind": "model"}),
        frame(4, OPEN, {"kind": "model"}) + frame(2, OPEN, {"kind": "model"}),
        frame(2, DATA, b"x"),
        frame(2, OPEN, {"kind": "model"}) + frame(2, DATA, b"x" * (WINDOW + 1)),
        frame(2, OPEN, {"kind": "model"}) + frame(2, EOF) + frame(2, EOF),
        frame(2, OPEN, {"kind": "model"}) + frame(2, EOF) + frame(2, DATA, b"x"),
        frame(2, OPEN, {"kind": "model"}) + frame(2, WINDOW_UPDATE, struct.pack("!I", 1)),
        frame(2, OPEN, {"kind": "model"}) + frame(2, WINDOW_UPDATE, b"x"),
        frame(2, OPEN, {"kind": "model"}) + frame(2, CLOSE, b"x"),
        frame(2, OPEN, {"kind": "model"}) + frame(2, 99),
        b"".join(frame(n, OPEN, {"kind": "model"}) for n in range(2, 2 + 2 * 513, 2)),
        frame(0, DATA, {"method": "hello", "params": {"v": 2}}),
    ],
    ids=range(25),
)  # fmt: skip
async def test_a_broken_rule_ends_the_tether_and_no_more(ends: tuple[Link, Peer], said: bytes) -> None:
    link, peer = ends
    link.on_channel = lambda channel: None
    waiting = asyncio.create_task(link.call("ping"))
    await peer.say(said)
    reason = await asyncio.wait_for(link.closed, 20)
    assert "broke the tether" in reason
    assert len(reason) < 500
    with pytest.raises(AegisError):
        await waiting
    with pytest.raises(AegisError):
        await link.open("exec")


@pytest.mark.parametrize("seed", range(20))
async def test_noise(ends: tuple[Link, Peer], seed: int) -> None:
    """Random frames of valid shape: the link lives or ends, and nothing else happens in the loop."""
    link, peer = ends
    dice = random.Random(seed)
    link.on_channel = lambda channel: None
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    for _ in range(200):
        payload = dice.choice(
            [
                b"",
                b"{}",
                b"x" * dice.randrange(5000),
                b'{"kind":"log"}',
                b'{"id":1,"result":{}}',
                b'{"id":true,"error":[]}',
                b'{"id":1.5,"error":{"message":"\\ud800"}}',
                struct.pack("!I", dice.randrange(2**32)),
            ]
        )
        if not await peer.say(
            frame(dice.choice([0, 1, 2, 2, 4, 6, 2**32 - 2]), dice.choice([OPEN, DATA, DATA, EOF, CLOSE, WINDOW_UPDATE]), payload)
        ):
            break
    await asyncio.sleep(0)
    assert failures == []


def peak() -> int:
    """The most memory this process has had, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


async def flood(peer: Peer, data: bytes, total: int) -> None:
    """Send `data` again and again until `total` bytes are out or nobody takes them any more."""
    sent = 0
    while sent < total:
        try:
            await asyncio.wait_for(asyncio.get_running_loop().sock_sendall(peer.sock, data), 1.0)
        except (OSError, TimeoutError):
            return
        sent += len(data)


@pytest.mark.parametrize(
    "data",
    [
        frame(0, DATA, {"id": 99, "result": "x" * 500_000}),
        frame(0, DATA, {"method": "news"}) * 1000,
        frame(0, DATA, HELLO) * 1000,
    ],
    ids=["answers nobody waits for", "notifications", "hellos"],
)  # fmt: skip
async def test_floods_of_control_take_no_memory(ends: tuple[Link, Peer], data: bytes) -> None:
    link, peer = ends
    before = peak()
    await flood(peer, data, 16 * 2**20)
    assert peak() - before < 32 * 2**20
    assert not link.closed.done()


async def test_floods_of_channels_take_no_memory(ends: tuple[Link, Peer]) -> None:
    """10 000 channels, opened and closed by a peer that never reads what the daemon answers."""
    link, peer = ends
    opened: list[Channel] = []
    link.on_channel = opened.append
    before = peak()
    for first in range(2, 20_002, 200):
        await flood(
            peer,
            b"".join(frame(n, OPEN, {"kind": "model", "more": "x" * 2000}) + frame(n, CLOSE, b"{}") for n in range(first, first + 200, 2)),
            1,
        )
    assert len(opened) <= 10_000
    opened.clear()
    assert peak() - before < 64 * 2**20
    assert len(link._channels) <= 512


async def test_a_peer_that_never_reads(ends: tuple[Link, Peer]) -> None:
    link, _ = ends
    channels = [await link.open("exec", argv=["x"]) for _ in range(64)]
    before = peak()
    writers = [asyncio.create_task(channel.write(bytes(4 * 2**20))) for channel in channels]
    await asyncio.sleep(0.2)
    assert peak() - before < 64 * 2**20 + 64 * WINDOW
    await link.close()
    for ended in await asyncio.gather(*writers, return_exceptions=True):
        assert isinstance(ended, AegisError)


class Said:
    """A log channel that says what it is given."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces
        self.closed = False

    async def read(self) -> bytes:
        return self.pieces.pop(0) if self.pieces and not self.closed else b""

    async def close(self, **_: object) -> None:
        self.closed = True


@pytest.mark.parametrize("piece", [b"x" * 65536, b"\n" + DEEP[:60_000] + b"\n", b"null\n", b'{"dropped":[]}\n', b"\xff\n"])
async def test_a_log_that_is_none(tmp_path: Path, piece: bytes) -> None:
    """A record without an end, or that is none: the log ends, the daemon keeps a bounded part."""
    from aegis.core.clock import SystemClock
    from aegis.services.agents.life import Life
    from aegis.services.agents.logs import Log

    life = Life.__new__(Life)
    life.log = Log(tmp_path / "log", SystemClock())
    said = Said([piece] * 100)
    await life._take_log(said)  # type: ignore[arg-type]
    assert said.closed
    assert len(said.pieces) > 50
    assert (tmp_path / "log").stat().st_size < 2**20


# The agent's own protocol, spoken by whoever has taken it over.

FORGE = """
import json, os, sys
def agent():
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                to = os.readlink(f"/proc/{pid}/fd/{fd}")
                if pid not in ("1", str(os.getpid()), str(os.getppid())) and to.startswith("pipe:") and int(fd) > 2:
                    yield f"/proc/{pid}/fd/{fd}"
        except OSError:
            continue
found = 0
for path in agent():
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        os.write(fd, os.fsencode(sys.argv[1]))
        found += 1
    except OSError:
        continue
print(found)
"""


@pytest.mark.parametrize(
    "line",
    [
        '{"type":"finished","outcome":"completed","text":"forged"}',
        '{"type":"finished","outcome":7}',
        '{"type":"finished"}',
        '{"type":"record","n":-1,"message":{"role":"user","content":[],"ids":["msg_other"]}}',
        '{"type":"record","n":1,"message":null}',
        '{"type":"record","n":"x","message":{"role":"assistant","content":[{"type":"text"}]}}',
        '{"type":"record","n":1,"message":{"role":"user","content":[],"ids":' + json.dumps(["x"] * 300) + "}}",
        '{"type":"acknowledged","ids":[1,null,{}]}',
        '{"type":"delta","text":"\\ud800"}',
        '{"type":' + "[" * 3000,
        "\x00\x1b]52;c;AAAA\x07",
    ],
    ids=range(11),
)  # fmt: skip
def test_a_forged_line_harms_its_own_turn_only(box: Make, line: str) -> None:
    """A tool of the agent writes into the agent's own pipe. It may spoil its turn; the daemon and the neighbour go on."""
    a, b = box("a"), box("b", model="scripted/echo")
    command = '"$AEGIS_PYTHON" -I -c "$CODE" "$LINE"'
    script = a.workspace / "forge.sh"
    script.write_text(
        f"CODE=$(cat <<'X'\n{FORGE}\nX\n)\nLINE=$(cat <<'X'\n{line.replace(chr(0), '')}\nX\n)\nLINE=\"\n$LINE\n\"\n{command}\n"
    )
    ended = a.ask(f"[[call bash {json.dumps({'command': 'sh forge.sh'})}]] [[say done]]")
    assert ended["outcome"] in ("completed", "failed", "interrupted")
    assert b.ask("there?")["text"] == "echo: there?"
    a.client.instances.act("a", "restart")  # a forged end makes its program speak of the wrong turn, until it is another program
    assert a.ask("[[say again]]")["text"] == "again"
    log = (a.daemon.home / "aegisd.log").read_text()
    assert "Task exception was never retrieved" not in log


def test_an_instance_cannot_speak_of_anothers_mail(box: Make) -> None:
    """The program names the messages it has taken up; those of another instance are not its to name."""
    import sqlite3

    a, b = box("a"), box("b")
    receipt = b.client.mail.send("b", "[[hang 600]]")
    waiting = b.client.mail.send("b", "second", msg_id="private-id")
    line = json.dumps({"type": "record", "n": 1, "message": {"role": "user", "content": [], "ids": [waiting["id"], receipt["id"]]}})
    line += "\n" + json.dumps({"type": "acknowledged", "ids": [waiting["id"]]})
    (a.workspace / "forge.sh").write_text(
        f'CODE=$(cat <<\'X\'\n{FORGE}\nX\n)\nLINE=\'\n{line}\n\'\n"$AEGIS_PYTHON" -I -c "$CODE" "$LINE"\n'
    )
    a.ask(f"[[call bash {json.dumps({'command': 'sh forge.sh'})}]] [[say done]]")
    found = next(mail for mail in b.client.mail.all("b") if mail["id"] == waiting["id"])
    assert found["state"] == "accepted", found
    assert "private-id" not in json.dumps([e for e in a.client.events(0)["events"] if e.get("instance") == a.id])
    assert sqlite3.sqlite_version
    assert os.getpid()


def test_a_flood_of_log_lines_is_bounded(box: Make) -> None:
    """200 MB of output of a captured program: at most two files of 8 MB are kept, the daemon stays small, the neighbour is served."""
    from tests.attacks.test_model_endpoint import rss

    b = box("b", model="scripted/echo")
    before = rss(b.daemon.pid)
    f = box(
        "f",
        agent=None,
        model=None,
        command=[
            "/bin/sh",
            "-c",
            "yes | head -c 1000000; yes $(head -c 20000 /dev/zero | tr '\\0' a) | head -c 200000000; echo; echo over; sleep 600",
        ],
    )
    assert b.ask("there?")["text"] == "echo: there?"
    with f.client.instances.logs("f", follow=True, tail=0) as stream:
        for record in stream:
            if record["text"] == "over":
                break
    kept = sum(path.stat().st_size for path in f.state.glob("log.*"))
    assert kept < 2 * 9 * 2**20
    assert rss(b.daemon.pid) - before < 100 * 2**20


def test_a_line_without_an_end_is_not_kept(box: Make) -> None:
    """An exec whose output is asked for by lines: 200 MB without a newline come in pieces."""
    from tests.attacks.test_model_endpoint import rss

    a = box()
    before = rss(a.daemon.pid)
    stream = a.client.instances._transport.stream(
        "POST", "/v1/instances/a/exec", {"command": ["sh", "-c", "head -c 200000000 /dev/zero | tr '\\0' a"]}
    )
    total = longest = most = 0
    with stream:
        for item in stream:
            total += len(item.get("line", ""))
            longest = max(longest, len(item.get("line", "")))
            most = max(most, rss(a.daemon.pid) - before)
    assert total == 200_000_000
    assert longest < 2 * 2**20
    assert most < 64 * 2**20
