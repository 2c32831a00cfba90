"""The drivers of other people's programs: what a frame costs on its way from the program to an event.

Floor of the pure part: splitting the same bytes into lines and decoding each as JSON. One part for each protocol.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Final

import msgspec

from aegis.drivers import Message
from aegis.drivers.acp import shipped
from aegis.drivers.acp.machine import Machine as AcpMachine
from aegis.drivers.claude.machine import Machine, frame_id
from benchmarks.harness import Row, row

if TYPE_CHECKING:
    from collections.abc import Callable

_CHUNK: Final = 65_536


def main(quick: bool) -> list[Row]:
    """All rows."""
    return [made for part in PARTS.values() for made in part(quick)]


def _claude(quick: bool) -> list[Row]:
    count = 2_000 if quick else 50_000
    name = frame_id(["m"])
    begin = b'{"type":"command_lifecycle","command_uuid":"%s","state":"started"}\n' % name.encode()
    deltas = b"".join(_delta(n) for n in range(count))
    machine = Machine(session="s", model="anthropic/claude-sonnet-4-5")
    machine.send("t", [Message("m", "go")])
    machine.feed(begin)
    rows = [_fed("claude: a text delta -> event", machine.feed, deltas, count)]
    size = (4 if quick else 48) << 20
    content = [{"type": "tool_result", "tool_use_id": "c", "content": "x" * size}]
    large = json.dumps({"type": "user", "message": {"role": "user", "content": content}}).encode() + b"\n"
    rows.append(_fed(f"claude: a frame of {size >> 20} MiB -> event", machine.feed, large, 1, unit=1e3))
    return rows


def _acp(quick: bool) -> list[Row]:
    count = 2_000 if quick else 50_000
    machine = AcpMachine(shipped()[0])
    machine.session = "00000000-0000-4000-8000-00000000a1ce"
    machine.prompt([{"type": "text", "text": "go"}], ["m"])
    rows = [_fed("acp: a text chunk -> event", machine.feed, b"".join(_chunk(machine.session, f"word{n} ") for n in range(count)), count)]
    size = (4 if quick else 48) << 20
    rows.append(_fed(f"acp: a frame of {size >> 20} MiB -> event", machine.feed, _chunk(machine.session, "x" * size), 1, unit=1e3))
    return rows


def _chunk(session: str, text: str) -> bytes:
    """A piece of an answer as an agent writes it."""
    update = {
        "sessionUpdate": "agent_message_chunk",
        "messageId": "msg_1febb7537001QvRLIyK2oJVaHN",
        "content": {"type": "text", "text": text},
    }
    frame = {"jsonrpc": "2.0", "method": "session/update", "params": {"sessionId": session, "update": update}}
    return json.dumps(frame, separators=(",", ":")).encode() + b"\n"


def _delta(n: int) -> bytes:
    """A frame as the CLI writes it, with all that stands around the text."""
    frame = {
        "type": "stream_event",
        "event": {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": f"word{n} "}},
        "session_id": "00000000-0000-4000-8000-00000000a1ce",
        "parent_tool_use_id": None,
        "uuid": f"58a6f40d-9f9d-4fbf-b671-{n:012x}",
        "api_message_id": "msg_097cf3705ce34302be04",
    }
    return json.dumps(frame, separators=(",", ":")).encode() + b"\n"


def _fed(name: str, feed: Callable[[bytes], object], data: bytes, count: int, *, unit: float = 1e6) -> Row:
    """Feed all of `data` in pieces as a pipe gives them; per frame, in ms. The note says it in microseconds."""
    chunks = [data[at : at + _CHUNK] for at in range(0, len(data), _CHUNK)]
    started = time.process_time()
    for chunk in chunks:
        feed(chunk)
    each = (time.process_time() - started) / count
    started = time.process_time()
    for line in data.splitlines():
        msgspec.json.decode(line)
    floor = (time.process_time() - started) / count
    note = f"{each * unit:.1f} {'us' if unit == 1e6 else 'ms'} of CPU; floor: split and decode"
    return row(name, [each * 1000], [floor * 1000], note)


#: One part for each protocol: what makes its rows.
PARTS: Final[dict[str, Callable[[bool], list[Row]]]] = {"claude": _claude, "acp": _acp}
