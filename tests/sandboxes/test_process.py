"""The kind `process`: no boundary, but nothing gets lost and nothing is left."""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.ids import new_id
from aegis.sandboxes import Limits, Mount, SandboxSpec, bundle, process, tree
from aegis.sandboxes.environment import clean_env
from aegis.sandboxes.link import Link
from aegis.sandboxes.process import ProcessKind, ProcessSandbox

#: Prints "ready", then appends a byte to `ticks` all the time, from a child in a session of its own too.
TICKER = f"""
cat >away.py <<'END'
import os, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
while True:
    with open("away", "a") as f: f.write("x")
    time.sleep(0.002)
END
{shlex.quote(sys.executable)} -I -S away.py
echo ready
while :; do printf x >>ticks; sleep 0.002; done
"""


def make_spec(root: Path, **changes: object) -> SandboxSpec:
    values: dict[str, object] = {
        "id": new_id("inst"),
        "index": 1,
        "handle": "tester",
        "home": root / "home",
        "state": root / "state",
        "workspace": Mount(root / "work", str(root / "work"), True),
        **changes,
    }
    (root / "work").mkdir(exist_ok=True)
    return SandboxSpec(**values)  # type: ignore[arg-type]


@pytest.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[ProcessSandbox]:
    one = ProcessKind().create(make_spec(tmp_path))
    yield one
    await one.stop(0)


async def output(link: Link, script: str) -> str:
    program = await link.run(["sh", "-c", script], stdin=False)
    data = b""
    while (piece := await program.read()) is not None:
        data += piece[1]
    assert await program.wait() == 0, data
    return data.decode()


async def grows(path: Path) -> None:
    """Return when a file has grown."""
    before = path.stat().st_size if path.exists() else 0
    for _ in range(4000):
        if path.exists() and path.stat().st_size > before:
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"{path} does not grow")


async def until_none(instance: str) -> None:
    for _ in range(2000):
        if not tree.marked(instance):
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"{tree.marked(instance)} are left")


async def test_a_clean_environment(sandbox: ProcessSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-leak")
    monkeypatch.setenv("TZ", "Europe/Zurich")
    link = await sandbox.start()
    spec = sandbox.spec
    lines = (await output(link, "env; pwd; touch $HOME/a $TMPDIR/b")).splitlines()
    env = dict(line.split("=", 1) for line in lines if "=" in line)
    assert env["HOME"] == str(spec.state / "home")
    assert env["TMPDIR"] == str(spec.state / "tmp")
    assert (env["LANG"], env["TZ"]) == ("C.UTF-8", "Europe/Zurich")
    assert lines[-1] == str(spec.state.parent / "work")
    known = {"HOME", "TMPDIR", "LANG", "TZ", "PATH", "PWD", "OLDPWD", "SHLVL", "_"}
    assert {name for name in env if not name.startswith("AEGIS_")} <= known
    assert "sk-leak" not in "".join(lines)
    assert (spec.state / "home/a").exists()
    assert (spec.state / "home").stat().st_mode & 0o777 == 0o700


def test_the_environment_of_an_instance_wins_but_not_over_the_marks(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, env={"PATH": "/opt", "X": "1", "AEGIS_INSTANCE": "forged"})
    env = clean_env(spec, home="/home/agent", tmp="/tmp")
    assert (env["PATH"], env["X"], env["HOME"], env["TMPDIR"]) == ("/opt", "1", "/home/agent", "/tmp")
    assert env["AEGIS_INSTANCE"] == spec.id


async def test_pause_stops_the_whole_tree_and_resume_lets_it_go_on(sandbox: ProcessSandbox) -> None:
    link = await sandbox.start()
    program = await link.run(["sh", "-c", TICKER], stdin=False)
    assert await program.read() == (1, b"ready\n")
    work = sandbox.spec.state.parent / "work"
    await grows(work / "ticks")
    await grows(work / "away")
    assert await sandbox.pause() == "signals"
    assert await sandbox.pause() == "signals"
    states = {pid: Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] for pid in tree.marked(sandbox.spec.id)}
    assert len(states) >= 3
    assert set(states.values()) == {"T"}
    stats = await sandbox.stats()
    assert stats.processes >= 3
    with pytest.raises(AegisError):
        await link.call("ping", timeout=0.05)
    await sandbox.resume()
    await sandbox.resume()
    await grows(work / "ticks")
    await grows(work / "away")
    assert await link.call("ping") == {}
    while (stats := await sandbox.stats()).cpu_seconds == 0:  # counted in ticks of 10 ms, which little work may not fill
        await grows(work / "ticks")
    assert stats.pss_bytes is None or stats.pss_bytes > 1_000_000


@pytest.mark.parametrize("paused", [False, True])
async def test_stop_ends_everything(sandbox: ProcessSandbox, paused: bool) -> None:
    link = await sandbox.start()
    program = await link.run(["sh", "-c", 'trap "" TERM; ' + TICKER], stdin=False)
    assert await program.read() == (1, b"ready\n")
    if paused:
        await sandbox.pause()
    await sandbox.stop(0.05)
    assert tree.marked(sandbox.spec.id) == []
    assert link.closed.done()
    with pytest.raises(AegisError):
        await program.wait()
    await sandbox.stop()
    with pytest.raises(AegisError):
        await sandbox.stats()


async def test_stop_asks_first(sandbox: ProcessSandbox) -> None:
    link = await sandbox.start()
    program = await link.run(["sh", "-c", "trap 'touch asked; exit' TERM; echo ready; while :; do sleep 0.01; done"], stdin=False)
    await program.read()
    await sandbox.stop(20)
    assert (sandbox.spec.state.parent / "work/asked").exists()


async def test_stop_finds_what_outlived_a_killed_guest(sandbox: ProcessSandbox) -> None:
    link = await sandbox.start()
    program = await link.run(["sh", "-c", TICKER], stdin=False)
    assert await program.read() == (1, b"ready\n")
    assert sandbox.pid
    os.kill(sandbox.pid, 9)
    assert await asyncio.wait_for(link.closed, 20)
    assert tree.marked(sandbox.spec.id)
    await sandbox.stop()
    assert tree.marked(sandbox.spec.id) == []


async def test_a_guest_that_does_not_come_up_says_why(sandbox: ProcessSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "command", lambda *_: [sys.executable, "-c", "import sys; sys.exit('no such luck')"])
    with pytest.raises(AegisError, match="no such luck") as caught:
        await sandbox.start()
    error = caught.value
    assert (error.kind, error.data["exit"], error.data["stderr"]) == (ErrorKind.FAILED, 1, "no such luck")
    monkeypatch.setattr(process, "_HELLO_SECONDS", 0.2)
    monkeypatch.setattr(bundle, "command", lambda *_: ["sleep", "600"])
    late = ProcessKind().create(make_spec(tmp_path))
    with pytest.raises(AegisError, match="did not say hello"):
        await late.start()
    await until_none(late.spec.id)
    monkeypatch.setattr(bundle, "command", lambda *_: ["/no/such/python"])
    with pytest.raises(AegisError, match="/no/such/python") as caught:
        await ProcessKind().create(make_spec(tmp_path)).start()
    assert caught.value.kind is ErrorKind.UNAVAILABLE


async def test_limits(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, limits=Limits(memory_bytes=1 << 30, pids=64, required=True))
    sandbox = ProcessKind().create(spec)
    with pytest.raises(AegisError, match="memory") as caught:
        await sandbox.start()
    assert caught.value.kind is ErrorKind.UNAVAILABLE
    assert not sandbox.enforced["memory"].ok
    assert not sandbox.enforced["cpus"].ok
    assert sandbox.enforced["pids"].ok == (os.getuid() != 0)
    wanted = ProcessKind().create(make_spec(tmp_path, limits=Limits(pids=64)))
    link = await wanted.start()
    hello = await link.hello(1)
    assert hello["limits"]["nproc"] == "ok"
    assert (await output(link, "ulimit -c")).strip() == "0"
    await wanted.stop(0)


async def test_kind(tmp_path: Path) -> None:
    kind = ProcessKind()
    assert (kind.name, kind.strength) == ("process", 0)
    assert kind.boundary.startswith("none")
    assert (await kind.probe()).ok
    assert await kind.sweep(tmp_path) == []


async def test_sweep_finds_what_a_dead_daemon_left_and_spares_the_living(sandbox: ProcessSandbox, tmp_path: Path) -> None:
    live = await sandbox.start()
    home = sandbox.spec.home
    mark = f"aegis-left-{os.getpid()}-{time.monotonic_ns()}"
    env = {**clean_env(make_spec(tmp_path, id=mark)), "AEGIS_DAEMON": f"{os.getpid()}.1"}  # our pid, but not this process
    left = [
        subprocess.Popen(["sleep", "600"], env=env, start_new_session=True),
        # like a guest, which hides its environment
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", *tree.label(mark, home)[:3], f"{os.getpid()}.1"], env={}),
    ]
    try:
        for _ in range(2000):
            if len(tree.marked(mark)) == 2:
                break
            await asyncio.sleep(0.005)
        assert await ProcessKind().sweep(tmp_path / "other") == []
        assert await ProcessKind().sweep(home) == [f"killed 2 processes of {mark}"]
        assert [each.wait(20) for each in left] == [-9, -9]
        assert await live.call("ping") == {}
    finally:
        for each in left:
            each.kill()
            each.wait()


def test_a_bundle_is_complete_readable_and_made_once(tmp_path: Path) -> None:
    path = bundle.build(tmp_path)
    assert path.parent == tmp_path / "guest"
    assert bundle.build(tmp_path) == path
    names = {str(each.relative_to(path)) for each in path.rglob("*.py")}
    assert {"aegis/tether/mux.py", "aegis/guest/supervisor.py"} <= names
    assert "aegis/__init__.py" not in names
    for each in path.rglob("*"):
        mode = each.stat().st_mode & 0o777
        assert mode == (0o755 if each.is_dir() else 0o644), each
    compiled = list(path.rglob("*.pyc"))
    assert len(compiled) == len(names)
    assert all(each.read_bytes()[4:8] == b"\1\0\0\0" for each in compiled)  # hash-based, never checked
    (tmp_path / "guest/0123456789abcdef").mkdir()
    (tmp_path / "guest/.making-x").mkdir()
    assert len(bundle.sweep(tmp_path)) == 2
    assert [each.name for each in (tmp_path / "guest").iterdir()] == [path.name]


async def test_bundles_made_at_once_agree(tmp_path: Path) -> None:
    paths = await asyncio.gather(*(asyncio.to_thread(bundle.build, tmp_path) for _ in range(8)))
    assert len(set(paths)) == 1
    assert [each.name for each in (tmp_path / "guest").iterdir()] == [paths[0].name]
