"""How a guest begins and ends, and that nothing outlives it."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from aegis.core.errors import AegisError, ErrorKind
from aegis.sandboxes import bundle


def pids_with(mark: str) -> list[int]:
    """Living processes that carry `mark` in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (path / "environ").read_bytes() and (path / "stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX":
                found.append(int(path.name))
        except OSError:
            continue
    return found


async def until_none(mark: str) -> None:
    for _ in range(2000):
        if not pids_with(mark):
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"{pids_with(mark)} are left")


TREE = f"""
cat >tree.py <<'END'
import os, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
time.sleep(600)
END
{shlex.quote(sys.executable)} -I -S tree.py
setsid sh -c 'trap "" TERM HUP INT; sleep 600 & sleep 600' &
sleep 600 & echo ready; sleep 600
"""


async def plant(guest: Any, mark: str) -> None:
    """A tree with children in sessions of their own, some of which ignore signals."""
    program = await guest.link.run(["sh", "-c", TREE], env={"MARK": mark})
    piece = await program.read()
    assert piece is not None
    await grown(mark)


async def grown(mark: str) -> list[int]:
    """The pids of the tree when all of it is there."""
    for _ in range(2000):
        found = pids_with(mark)
        if len(found) >= 7:
            return found
        await asyncio.sleep(0.005)
    raise AssertionError("the tree did not grow")


def unique() -> str:
    return f"aegis-test-{os.getpid()}-{time.monotonic_ns()}"


async def test_hello_says_what_there_is(guest: Any) -> None:
    hello = guest.hello
    assert hello["v"] == 1
    assert hello["pid"] == guest.process.pid
    assert hello["uid"] == os.getuid()
    assert hello["cwd"] == str(guest.cwd)
    assert hello["endpoint"].startswith("http://127.0.0.1:")
    assert hello["limits"] == {}


async def test_limits_are_applied_before_hello_and_reported(start: Any) -> None:
    guest = await start(AEGIS_RLIMIT_NOFILE="123", AEGIS_RLIMIT_CORE="0", AEGIS_RLIMIT_WHAT="1", AEGIS_RLIMIT_NPROC="many")
    limits = guest.hello["limits"]
    assert (limits["nofile"], limits["core"]) == ("ok", "ok")
    assert "RLIMIT_WHAT" in limits["what"]
    assert "many" in limits["nproc"]
    _, out, _ = await guest.sh("ulimit -n; ulimit -Hn; ulimit -c; env | grep -c RLIMIT")
    assert out.split() == [b"123", b"123", b"0", b"0"]


async def test_a_program_cannot_look_into_the_guest(guest: Any) -> None:
    if os.getuid() == 0:
        pytest.skip("root may look into every process")
    code, _, err = await guest.sh(f"cat /proc/{guest.process.pid}/environ; ls /proc/{guest.process.pid}/fd")
    assert code != 0
    assert err.count(b"ermission denied") == 2


async def test_the_guest_hides_its_tether(guest: Any) -> None:
    assert Path(f"/proc/{guest.process.pid}/fd").stat().st_uid == 0  # what a non-dumpable process looks like
    assert (await guest.sh("env | grep -c TETHER"))[1] == b"0\n"


async def test_nothing_is_left_when_the_tether_closes(start: Any) -> None:
    guest, mark = await start(), unique()
    await plant(guest, mark)
    await guest.link.close()
    assert guest.process.wait(20) == 0
    await until_none(mark)


async def test_nothing_is_left_when_the_guest_is_told_to_end(start: Any) -> None:
    guest, mark = await start(), unique()
    await plant(guest, mark)
    guest.process.terminate()
    assert "ended" in await asyncio.wait_for(guest.link.closed, 20)
    await until_none(mark)


async def test_nothing_is_left_when_the_daemon_breaks_the_wire(start: Any) -> None:
    guest, mark = await start(), unique()
    await plant(guest, mark)
    guest.link._sock.send(b"\xff" * 100)
    await asyncio.wait_for(guest.link.closed, 20)
    assert guest.process.wait(20) == 1
    await until_none(mark)


@pytest.mark.parametrize("stopped", [False, True])
async def test_nothing_is_left_when_the_daemon_is_killed(lib: Path, tmp_path: Path, stopped: bool) -> None:
    mark = unique()
    daemon = f"""if True:
        import asyncio, socket, subprocess, sys
        from aegis.sandboxes import bundle
        from aegis.sandboxes.link import Link
        async def main():
            ours, theirs = socket.socketpair()
            subprocess.Popen(bundle.command(bundle.interpreter(), {str(lib)!r}), cwd={str(tmp_path)!r}, pass_fds=[theirs.fileno()],
                env={{"PATH": "/usr/bin:/bin", "AEGIS_TETHER_FD": str(theirs.fileno()), "MARK": {mark!r}}}, start_new_session=True)
            theirs.close()
            link = Link(ours)
            await link.hello(20)
            program = await link.run(["sh", "-c", {TREE!r}])
            await program.read()
            print("ready", flush=True)
            await link.closed
        asyncio.run(main())
    """
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", daemon], stdout=subprocess.PIPE, env=env)
    with process:
        try:
            assert process.stdout is not None
            assert await asyncio.to_thread(process.stdout.readline) == b"ready\n"
            found = await grown(mark)
            if stopped:  # as a paused sandbox is
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                for pid in [*map(int, children), *found]:
                    os.kill(pid, signal.SIGSTOP)
        finally:
            process.kill()
    await until_none(mark)


async def test_shutdown_asks_first(start: Any) -> None:
    guest = await start()
    program = await guest.link.run(["sh", "-c", "trap 'touch asked; exit 0' TERM; echo ready; while :; do sleep 0.02; done"])
    await program.read()
    await guest.link.call("shutdown", {"grace": 20})
    await asyncio.wait_for(guest.link.closed, 20)  # as soon as all have ended, not after the grace
    assert guest.process.wait(20) == 0
    assert (guest.cwd / "asked").exists()
    assert await program.wait() == 0


async def test_shutdown_kills_after_the_grace(start: Any) -> None:
    guest, mark = await start(), unique()
    await plant(guest, mark)
    await guest.link.call("shutdown", {"grace": 0.1})
    refused = await guest.link.run(["true"])
    with pytest.raises(AegisError) as caught:
        await refused.wait()
    assert caught.value.kind in (ErrorKind.CONFLICT, ErrorKind.INTERRUPTED)
    await asyncio.wait_for(guest.link.closed, 20)
    await until_none(mark)


async def test_a_tree_that_forks_all_the_time_is_killed(start: Any) -> None:
    guest, mark = await start(), unique()
    script = "import os\nwhile True:\n    if os.fork(): os._exit(0)\n    os.setsid()"
    for _ in range(3):
        await guest.link.run([sys.executable, "-I", "-S", "-c", script], env={"MARK": mark})
    await guest.link.call("ping")
    await guest.link.close()
    guest.process.wait(20)
    await until_none(mark)


async def test_control_mistakes_are_answered(guest: Any) -> None:
    for method, params, text in [
        ("dance", {}, "no method"),
        ("signal", {}, "channel"),
        ("signal", {"channel": 99, "signal": 9}, "no program"),
        ("shutdown", {"grace": "soon"}, "soon"),
    ]:
        with pytest.raises(AegisError, match=text) as caught:
            await guest.link.call(method, params)
        assert caught.value.kind is ErrorKind.FAILED
    assert await guest.link.call("ping") == {}


async def test_stats_count_the_tree(guest: Any) -> None:
    program = await guest.link.run(["sh", "-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; sleep 600 & echo done; wait"])
    await program.read()
    stats = await guest.link.call("stats")
    assert stats["processes"] == 3
    assert stats["cpu_seconds"] > 0
    assert stats["rss_bytes"] > 3_000_000
    assert stats["pss_bytes"] > 1_000_000


async def test_a_guest_without_stdio_gives_programs_their_own(lib: Path, tmp_path: Path) -> None:
    """Descriptors of the guest must not take the numbers 0 to 2."""
    from aegis.sandboxes.link import Link

    ours, theirs = socket.socketpair()
    with theirs:
        os.set_inheritable(theirs.fileno(), True)
        command = bundle.command(bundle.interpreter(), str(lib))
        process = subprocess.Popen(
            ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command],
            env={"PATH": os.defpath, "AEGIS_TETHER_FD": str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
        )
    link = Link(ours)
    await link.hello(20)
    program = await link.run(["sh", "-c", "echo out; echo err >&2; cat"])
    await program.write(b"in")
    await program.close_stdin()
    got = {1: b"", 2: b""}
    while (piece := await program.read()) is not None:
        got[piece[0]] += piece[1]
    assert (await program.wait(), got) == (0, {1: b"out\nin", 2: b"err\n"})
    await link.close()
    process.wait(20)


def test_what_a_guest_imports(lib: Path) -> None:
    """Start time and memory of every sandbox: nothing heavy gets in unseen."""
    script = f"import sys; sys.path.insert(0, {str(lib)!r}); import aegis.guest.supervisor; print(*sorted(sys.modules))"
    out = subprocess.run([bundle.interpreter(), "-I", "-S", "-c", script], capture_output=True, text=True, check=True, timeout=30).stdout
    heavy = {"asyncio", "collections", "ctypes", "enum", "json", "logging", "re", "selectors", "signal", "socket", "subprocess", "typing"}
    assert not heavy & set(out.split())


def test_signals_are_numbers_that_linux_has_everywhere() -> None:
    from aegis.guest import processes

    assert (processes._SIGKILL, processes._SIGCONT, processes._SIGSTOP) == (signal.SIGKILL, signal.SIGCONT, signal.SIGSTOP)
