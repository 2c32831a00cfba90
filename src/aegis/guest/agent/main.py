"""The protocol's frame: `init`, `ready`, then one turn after the other until `close` or the end of stdin."""

from __future__ import annotations

import os

from aegis.guest.agent.dialects import dialect
from aegis.guest.agent.loop import Loop, Settings
from aegis.guest.agent.memory import Memory
from aegis.guest.agent.model import Model
from aegis.guest.agent.wire import Closed, Wire


def main() -> None:
    """Be the agent of one session. The environment gives `AEGIS_MODEL_URL` and `AEGIS_TOKEN`."""
    wire = _wire()
    loop: Loop | None = None
    try:
        init = wire.receive()
        dialect_ = dialect(init["dialect"])
        url, token = os.environ.get("AEGIS_MODEL_URL", ""), os.environ.get("AEGIS_TOKEN", "")
        model = Model(wire, dialect_, url=url, token=token, session=init["session"])
        loop = Loop(wire, Memory(wire, init.get("history") or []), model, dialect_, Settings(init))
        wire.send("ready")
        while True:
            loop.turn(wire.receive())
    except Closed:
        return
    finally:
        if loop is not None:
            loop.close()


def _wire() -> Wire:
    """Keep stdin and stdout for the protocol alone: what a stray print or a child writes cannot get into it."""
    source, sink = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return Wire(source, sink)
