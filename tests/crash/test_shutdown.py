"""The end of the daemon in the middle of everything: it comes soon, without a defect in the log, and leaves no process behind."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING

from tests.conftest import wait_gone

from aegis.core.errors import AegisError

if TYPE_CHECKING:
    from tests.conftest import RealDaemon


def marked(daemon: RealDaemon) -> list[str]:
    """The processes that name the home in their command line."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if os.fsencode(daemon.home) in file.read():
                    found.append(pid)
        except OSError:
            continue
    return found


def test_it_ends_in_the_middle_of_turns_execs_streams_and_polls(daemon: RealDaemon) -> None:
    receipts = []
    for n in range(4):
        daemon.start(f"i{n}")
        text = '[[call bash {"command": "sleep 1"}]] [[say done]]' if n % 2 else "[[slow 50 20]]"
        receipts.append(daemon.client.mail.send(f"i{n}", text))
    began = threading.Barrier(3)
    said: dict[str, object] = {}

    def follow() -> None:
        with daemon.client.mail.stream("i0", 0) as frames:
            first = next(iter(frames))
            began.wait(30)
            said["stream"] = [first, *frames]

    def poll() -> None:
        began.wait(30)
        try:
            daemon.client.mail.poll("i1", 2**40, wait=25)
        except AegisError as error:
            said["poll"] = error

    readers = [threading.Thread(target=work, daemon=True) for work in (follow, poll)]
    for reader in readers:
        reader.start()
    began.wait(30)
    for n, receipt in enumerate(receipts):
        kind = "tool.call" if n % 2 else "assistant.delta"
        assert daemon.client.mail.poll(f"i{n}", receipt["ingress_seq"], wait=20, types=(kind,))["frames"]
    os.kill(daemon.pid, signal.SIGTERM)
    os.kill(daemon.pid, signal.SIGTERM)
    wait_gone(daemon.pid)
    for reader in readers:
        reader.join(30)
    assert said["stream"], "what followed the log was ended, not broken off"
    assert marked(daemon) == []
    log = (daemon.home / "aegisd.log").read_text()
    for word in ("Traceback", "ERROR", "never retrieved", "was destroyed"):
        assert word not in log
    daemon.up()
    assert [daemon.finish(f"i{n}", receipt)["outcome"] for n, receipt in enumerate(receipts)] == ["completed"] * 4
