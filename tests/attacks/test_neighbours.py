"""Instances beside each other: separate ones see nothing of each other, those on one workspace share it and nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from tests.attacks.conftest import ROOT, Box

Make = Callable[..., Box]


def test_neighbours_are_out_of_reach(box: Make) -> None:
    """Signals, /proc, files, loopback, abstract and path sockets, System V and POSIX shared memory, message queues, keys."""
    a, b = box("a"), box("b")
    listener = """
import os, socket, time
s = socket.socket(); s.bind(("127.0.0.1", 45454)); s.listen()
u = socket.socket(socket.AF_UNIX); u.bind("\\0neighbour"); u.listen()
p = socket.socket(socket.AF_UNIX); p.bind("/tmp/neighbour"); p.listen()
open("/dev/shm/neighbour", "w").write("canary")
open("/workspace/up", "w").close()
time.sleep(600)
"""
    b.sh('"$AEGIS_PYTHON" -I -c "$CODE" >/dev/null 2>&1 & while [ ! -e up ]; do sleep 0.02; done', env={"CODE": listener})
    victim = b.pid
    found = a.attempts(f"""
        loopback: socket.create_connection(("127.0.0.1", 45454), 2)
        abstract: socket.socket(socket.AF_UNIX).connect("\\0neighbour")
        path: socket.socket(socket.AF_UNIX).connect("/tmp/neighbour")
        shm: open("/dev/shm/neighbour").read()
        signal: os.kill({victim}, 9)
        workspace: os.listdir({str(b.workspace)!r})
        home: os.listdir({str(b.state / "home")!r})
        shmget: call(29, 0x4242, 4096, 0) if os.uname().machine == "x86_64" else call(194, 0x4242, 4096, 0)
        msgget: call(68, 0x4242, 0) if os.uname().machine == "x86_64" else call(186, 0x4242, 0)
        keyctl: call(250, 0, -3, 0) if os.uname().machine == "x86_64" else call(219, 0, -3, 0)
    """)
    assert "done" not in found.values(), found
    a.sh("kill -9 -1")
    assert b.sh("cat /dev/shm/neighbour").out == "canary"
    processes = a.python(
        "import os, json; print(json.dumps([open(f'/proc/{p}/cmdline').read() for p in os.listdir('/proc') if p.isdigit()]))"
    )
    assert not [line for line in processes if b.id in line]


def test_each_has_a_user_of_its_own_where_root_runs_the_daemon(box: Make) -> None:
    a, b = box("a"), box("b")
    users = {Path(f"/proc/{one.pid}").stat().st_uid if not ROOT else _uid(one.pid) for one in (a, b)}
    if ROOT:
        assert len(users) == 2
        assert all(uid >= 0x70000000 for uid in users)
    for one in (a, b):
        assert _uid(one.pid) == os.geteuid() or _uid(one.pid) >= 0x70000000
        assert a.sh("id -u").out == "1000\n"


def _uid(pid: int) -> int:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("Uid:"))
    return int(line.split()[1])


def test_one_workspace_is_shared_and_nothing_else(box: Make, tmp_path: Path) -> None:
    """What one writes there the other can read and change; a socket one makes there the other can use. Their homes stay apart."""
    shared = tmp_path / "shared"
    a, b = box("a", workspace=shared), box("b", workspace=shared)
    assert a.sh("echo one > file; chmod 600 file; echo private > ~/own").code == 0
    assert b.sh("cat file; echo two >> file").out == "one\n"
    assert b.sh("cat ~/own").code != 0
    assert (shared / "file").stat().st_uid == os.geteuid()
    c = box("c", workspace=shared, permission="read")
    assert c.sh("cat file").out == "one\ntwo\n"
    assert c.sh("echo x >> file").code != 0


def test_a_bomb_stays_in_its_box(box: Make) -> None:
    """A fork bomb at its limit: its own sandbox is full, the neighbour and the daemon work, stop ends all of it."""
    a, b = box("a", pids=64), box("b", model="scripted/echo")
    bomb = "import os, time\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        time.sleep(0.01)\n"
    a.sh('("$AEGIS_PYTHON" -I -S -c "$BOMB" >/dev/null 2>&1 &) ', env={"BOMB": bomb})
    assert b.ask("there?")["text"] == "echo: there?"
    assert a.client.instances.stats("a")["processes"] <= 66
    pid = a.pid
    a.client.instances.delete("a")
    assert not Path(f"/proc/{pid}").exists()
    assert b.ask("still?")["text"] == "echo: still?"


def test_there_is_a_bound_where_nobody_asked_for_one(box: Make) -> None:
    a = box()
    soft, hard = json.loads(a.sh("\"$AEGIS_PYTHON\" -c 'import resource; print(list(resource.getrlimit(resource.RLIMIT_NPROC)))'").out)
    assert soft == hard <= 8192
    assert a.attempts("raise: __import__('resource').setrlimit(6, (9000, 9000))")["raise"] != "done"


def test_memory_is_bounded_where_it_can_be(box: Make) -> None:
    a, b = box("a", memory_mb=96), box("b", model="scripted/echo")
    enforced = a.client.instances.get("a")["enforced"]["memory"]
    done = a.sh("\"$AEGIS_PYTHON\" -I -S -c 'x = bytearray(400 << 20); print(len(x))'")
    if enforced["ok"]:
        assert done.code != 0
        assert a.sh("head -c 400000000 /dev/zero > /tmp/x").code != 0  # its own /tmp is memory too
    else:
        assert enforced["detail"]  # and says so
    assert b.ask("there?")["text"] == "echo: there?"


def test_places_that_are_memory_have_an_end(box: Make) -> None:
    """/run and /dev/shm are bounded and small; /, /dev and what lies on them cannot be written at all. HOME and workspace have no quota."""
    a = box()
    sizes = a.python(
        "import json, os; print(json.dumps({p: os.statvfs(p).f_blocks * os.statvfs(p).f_frsize for p in ('/tmp', '/run', '/dev/shm')}))"
    )
    assert sizes == {"/tmp": 2 << 30, "/run": 64 << 20, "/dev/shm": 256 << 20}
    assert a.sh("head -c 80000000 /dev/zero > /run/x").code != 0
    for place in ("/", "/dev", "/dev/pts", "/etc", "/home", "/proc", "/run/aegis"):
        assert a.sh(f"echo x > {place}/x").code != 0, place
    assert a.sh("echo x > /dev/null && head -c 1 /dev/zero > /dev/shm/x").code == 0


def test_descriptors_and_connections_run_out_inside_only(box: Make) -> None:
    """Every descriptor taken, 10 000 connections to the endpoint asked for: the daemon keeps its own, the neighbour works."""
    a, b = box("a"), box("b", model="scripted/echo")
    before = len(os.listdir(f"/proc/{a.daemon.pid}/fd"))
    code = """
import os, socket, time, urllib.parse
url = urllib.parse.urlsplit(os.environ["AEGIS_MODEL_URL"])
held = []
try:
    for _ in range(10_000):
        c = socket.socket(); c.setblocking(False); c.connect_ex((url.hostname, url.port)); held.append(c)
    while True:
        held.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
os.rename("/workspace/not", "/workspace/up")
time.sleep(600)
"""
    a.sh('touch not; "$AEGIS_PYTHON" -I -c "$CODE" >/dev/null 2>&1 & while [ ! -e up ]; do sleep 0.02; done', env={"CODE": code})
    assert b.ask("there?")["text"] == "echo: there?"
    assert len(os.listdir(f"/proc/{a.daemon.pid}/fd")) < before + 50
    assert a.sh("echo alive").out == "alive\n"
    a.client.instances.delete("a")
    assert b.ask("still?")["text"] == "echo: still?"
