"""The machine goes down and comes up again, as far as a test can do that: every process of ours is killed at once, what lives only until
a reboot is removed, and a new daemon finds the home. All of it comes back, with its memory, its mail and its place.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import RealDaemon, wait_gone

from aegis.core.errors import AegisError, ErrorKind

pytestmark = pytest.mark.slow


def power_off(daemon: RealDaemon) -> None:
    """Kill everything that belongs to the home, in no order, and remove what does not outlive a reboot."""
    pids = {daemon.pid, *_ours(daemon.home)}
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for pid in pids:
        wait_gone(pid)
    assert not _ours(daemon.home)
    for name in ("aegisd.sock", "aegisd.launch"):
        (daemon.home / name).unlink(missing_ok=True)
    for folder in (daemon.home / "instances").glob("*/tmp"):
        shutil.rmtree(folder)
    for folder in daemon.home.glob("guest*"):
        shutil.rmtree(folder)


def _ours(home: Path) -> set[int]:
    """The processes that carry the home in their command line or in their environment, but for this one and those above it."""
    found, mark = set(), os.fsencode(home)
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (entry / "cmdline").read_bytes() or mark in (entry / "environ").read_bytes():
                found.add(int(entry.name))
    return found - {os.getpid(), os.getppid()}


def up(home: Path, *more: str, code: int = 0) -> dict[str, Any]:
    """What `aegis up` answers."""
    argv = [sys.executable, "-m", "aegis", "up", "--json", *more]
    done = subprocess.run(argv, env={**os.environ, "AEGIS_HOME": str(home)}, capture_output=True, timeout=120, check=False)
    assert done.returncode == code, done.stderr.decode()
    return dict(json.loads(done.stdout)) if code == 0 else {}


def test_everything_comes_back_after_a_reboot(short_home: Path, tmp_path: Path) -> None:
    daemon = RealDaemon(short_home)
    client = daemon.up()
    works = {s["name"] for s in client.doctor()["sandboxes"] if s["ok"]}
    sandbox = "bwrap" if "bwrap" in works else "process"
    spaces = {name: tmp_path / name for name in ("calm", "busy", "lost")}
    for name, space in spaces.items():
        space.mkdir()
        daemon.start(name, workspace=str(space), sandbox=sandbox)
    daemon.start("mailed", sandbox=sandbox)
    assert daemon.ask("calm", "[[say the word is marzipan]]")["text"] == "the word is marzipan"
    (spaces["calm"] / "kept").write_text("mine")
    cut = {name: client.mail.send(name, '[[call bash {"command": "sleep 1"}]] [[say went on]]') for name in ("busy", "lost")}
    for receipt in cut.values():
        _until(daemon, receipt["ingress_seq"], "turn.tool.call")
    client.instances.act("mailed", "disable")
    try:
        power_off(daemon)
        shutil.rmtree(spaces["lost"])
        told = up(short_home)
        daemon.pid = told["pid"]
        found = {one["handle"]: one for one in told["restored"]}
        assert list(found) == ["calm", "busy", "lost", "mailed"]
        assert (found["calm"]["state"], found["calm"]["sessions"], found["calm"]["obstacle"]) == ("stopped", 1, "")
        assert (found["busy"]["resumes"], found["busy"]["obstacle"]) == (1, "")
        assert (found["lost"]["resumes"], found["lost"]["state"]) == (1, "stopped")
        assert f"{spaces['lost']} is gone" in found["lost"]["obstacle"]
        assert found["mailed"]["enabled"] is False
        assert daemon.finish("busy", dict(cut["busy"]))["text"] == "went on"
        assert {item["handle"]: item["state"] for item in client.instances.all()}["calm"] == "stopped", "asleep until needed"
        daemon.ask("calm", '[[call bash {"command": "cat kept; hostname"}]] [[recall]]')
        assert "marzipan" in str(client.mail.transcript("calm"))
        item = client.instances.get("lost")
        assert (item["state"], item["activity_note"]) == ("stopped", found["lost"]["obstacle"])
        assert [one["name"] for one in client.doctor()["instances"]] == ["lost"]
        spaces["lost"].mkdir()
        client.instances.act("lost", "start")
        assert daemon.finish("lost", dict(cut["lost"]))["text"] == "went on"
        assert client.status()["hindered"] == 0
        # And now put aside: nothing goes on, nothing is gone.
        daemon.down()
        told = up(short_home, "--clean", "--yes")
        daemon.pid = told["pid"]
        assert told["put_aside"] == 3
        assert [one["enabled"] for one in told["restored"]] == [False] * 4
        up(short_home, "--clean", "--yes", code=ErrorKind.CONFLICT.codes.exit)  # it runs
        assert "marzipan" in str(client.mail.transcript("calm"))
        client.instances.act("calm", "start")
        assert daemon.ask("calm", "[[say back]]")["text"] == "back"
    finally:
        with suppress(AegisError):
            daemon.down()


def _until(daemon: RealDaemon, after: int, kind: str) -> None:
    """Return when an event of a type is there."""
    with daemon.client.follow_events(after, types=(kind,)) as events:
        next(iter(events))
