"""Programs over exec channels of a real guest."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from aegis.core.errors import AegisError, ErrorKind
from aegis.sandboxes.link import Program
from aegis.tether.frames import STDOUT

#: Leaves its tree by two forks and a new session, says its pid, and stays.
DAEMONISE = """
import os, sys, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
print(os.getpid(), flush=True)
time.sleep(600)
"""


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return True
    return state in "ZX"


async def until_gone(pid: int) -> None:
    for _ in range(2000):
        if gone(pid):
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"process {pid} lives")


async def line(program: Program) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        piece = await program.read()
        assert piece is not None
        data += piece[1]
    return data


async def test_streams_exit_codes_and_environment(guest: Any) -> None:
    assert await guest.sh("printf out; printf err >&2; exit 7") == (7, b"out", b"err")
    assert await guest.run("true") == (0, b"", b"")
    code, out, _ = await guest.sh('echo "$A $B $AEGIS_MODEL_URL $AEGIS_LIB $AEGIS_PYTHON"; pwd', env={"A": "1", "B": "x=y é"}, cwd="/")
    url, lib, python = out.split()[3:6]
    assert (code, out.split()[:3], out.split()[6]) == (0, [b"1", b"x=y", "é".encode()], b"/")
    assert url.decode() == guest.hello["endpoint"]
    assert (Path(lib.decode()) / "aegis/guest/supervisor.py").is_file()
    assert Path(python.decode()).is_file()


async def test_a_relative_cwd_starts_where_the_guest_did(guest: Any) -> None:
    (guest.cwd / "sub").mkdir()
    assert (await guest.run("pwd", cwd="sub"))[1].decode().strip() == str(guest.cwd / "sub")
    assert (await guest.run("pwd"))[1].decode().strip() == str(guest.cwd)


async def test_signals_become_negative_exit_codes(guest: Any) -> None:
    assert (await guest.sh("kill -TERM $$"))[0] == -signal.SIGTERM
    assert (await guest.sh("kill -KILL $$"))[0] == -signal.SIGKILL


async def test_a_program_has_default_signals_its_own_session_and_three_descriptors(guest: Any) -> None:
    script = (
        "import os, signal; print(os.getsid(0) == os.getpid(), signal.getsignal(signal.SIGTERM) is signal.SIG_DFL,"
        " sorted(os.listdir('/proc/self/fd')))"
    )
    code, out, err = await guest.run(sys.executable, "-I", "-S", "-c", script)
    assert (code, out.split(b"[")[0].split(), err) == (0, [b"True", b"True"], b"")
    assert out.count(b"'") == 8  # 0, 1, 2 and the listing itself
    _, status, _ = await guest.run("grep", "-E", "^Sig(Ign|Blk)", "/proc/self/status")
    ordinary = (1 << 31) - 1  # glibc's posix_spawn leaves its own two signals, 32 and 33, ignored
    assert [int(word.split()[1], 16) & ordinary for word in status.decode().splitlines()] == [0, 0]


async def test_echo_of_ten_megabytes(guest: Any) -> None:
    data = os.urandom(10 * 1024 * 1024)
    program = await guest.link.run(["cat"])

    async def feed() -> None:
        await program.write(data)
        await program.close_stdin()

    feeding = asyncio.create_task(feed())
    got = bytearray()
    while (piece := await program.read()) is not None:
        got += piece[1]
    await feeding
    assert await program.wait() == 0
    assert got == data


async def test_a_hundred_thousand_lines_and_a_line_of_a_megabyte(guest: Any) -> None:
    code, out, _ = await guest.run("seq", "100000")
    assert (code, out) == (0, b"".join(b"%d\n" % n for n in range(1, 100_001)))
    code, out, err = await guest.sh("head -c 1048576 /dev/zero | tr '\\0' x; echo; head -c 1048576 /dev/zero | tr '\\0' y >&2")
    assert (code, out, err) == (0, b"x" * 1048576 + b"\n", b"y" * 1048576)


async def test_a_slow_reader_blocks_the_program_and_loses_nothing(guest: Any) -> None:
    program = await guest.link.run(["sh", "-c", "seq 200000; touch finished"], stdin=False)
    other = await guest.run("echo", "meanwhile")
    assert other[1] == b"meanwhile\n"
    for _ in range(20):  # it cannot finish: the window and the pipe together hold less than it says
        await guest.link.call("ping")
    assert not (guest.cwd / "finished").exists()
    data = b""
    while (piece := await program.read()) is not None:
        data += piece[1]
    assert await program.wait() == 0
    assert data == b"".join(b"%d\n" % n for n in range(1, 200_001))


async def test_a_program_that_does_not_read_does_not_hold_anything_up(guest: Any) -> None:
    program = await guest.link.run(["sleep", "600"])
    writing = asyncio.create_task(program.write(bytes(1024 * 1024)))
    assert (await guest.run("echo", "x"))[1] == b"x\n"
    assert not writing.done()
    await program.kill()
    assert await program.wait() == -signal.SIGKILL
    with pytest.raises(AegisError) as caught:
        await writing
    assert caught.value.kind is ErrorKind.CONFLICT


async def test_input_that_nobody_reads_any_more_is_dropped(guest: Any) -> None:
    program = await guest.link.run(["sh", "-c", "exec <&-; sleep 0.3; exit 4"])
    with contextlib.suppress(AegisError):  # the program may end first
        await program.write(bytes(2 * 1024 * 1024))
    assert await program.wait() == 4


@pytest.mark.parametrize(
    ("argv", "options", "kind", "text"),
    [
        (["no-such-program"], {}, ErrorKind.NOT_FOUND, "no program no-such-program"),
        (["/no/such"], {}, ErrorKind.NOT_FOUND, "/no/such"),
        (["./plain"], {}, ErrorKind.DENIED, "Permission denied"),
        (["./text"], {}, ErrorKind.FAILED, "Exec format"),
        (["./script"], {}, ErrorKind.NOT_FOUND, "interpreter"),
        (["true"], {"cwd": "/no/such"}, ErrorKind.NOT_FOUND, "/no/such"),
        (["true"], {"cwd": "/etc/hostname"}, ErrorKind.FAILED, "Not a directory"),
        ([], {}, ErrorKind.USAGE, "argv"),
        (["a\0b"], {}, ErrorKind.USAGE, "argv"),
        (["true"], {"env": {"A=B": "x"}}, ErrorKind.USAGE, "env"),
        (["true", "x" * 200_000], {}, ErrorKind.TOO_LARGE, "too long"),
    ],
)
async def test_what_cannot_be_started_says_why(guest: Any, argv: list[str], options: dict[str, Any], kind: ErrorKind, text: str) -> None:
    for name, content in (("text", "no program"), ("script", "#!/no/such/interpreter\n")):
        (guest.cwd / name).write_text(content)
        (guest.cwd / name).chmod(0o755)
    (guest.cwd / "plain").write_text("no program")
    program = await guest.link.run(argv, **options)
    assert await program.read() is None
    with pytest.raises(AegisError, match=text) as caught:
        await program.wait()
    assert caught.value.kind is kind
    assert (await guest.run("true"))[0] == 0


async def test_a_signal_reaches_the_whole_group(guest: Any) -> None:
    program = await guest.link.run(["sh", "-c", "trap 'echo got; exit 5' INT; echo ready; while :; do sleep 0.05; done"], stdin=False)
    assert await line(program) == b"ready\n"
    await program.signal(signal.SIGINT)
    assert await line(program) == b"got\n"
    assert await program.wait() == 5
    await program.signal(signal.SIGINT)  # too late is no error
    await program.kill()


@pytest.mark.parametrize("how", ["close", "kill"])
async def test_giving_a_program_up_kills_its_children_in_sessions_of_their_own(guest: Any, how: str) -> None:
    (guest.cwd / "daemonise.py").write_text(DAEMONISE)
    program = await guest.link.run(
        ["sh", "-c", f"{shlex.quote(sys.executable)} -I -S daemonise.py; setsid sleep 600 & echo $!; echo $$; sleep 600"]
    )
    pids = [int(await line_of(program)) for _ in range(3)]
    assert not any(map(gone, pids))
    if how == "close":
        await program.channel.close()
        with pytest.raises(AegisError, match="given up"):
            await program.wait()
    else:
        await program.kill()
        assert await program.wait() == -signal.SIGKILL
    for pid in pids:
        await until_gone(pid)
    assert (await guest.run("true"))[0] == 0


async def line_of(program: Program, rest: dict[int, bytes] = {}) -> bytes:  # noqa: B006
    """The next line of a program's stdout, keeping what came with it."""
    data = rest.pop(id(program), b"")
    while b"\n" not in data:
        piece = await program.read()
        assert piece is not None
        assert piece[0] == STDOUT
        data += piece[1]
    first, _, more = data.partition(b"\n")
    rest[id(program)] = more
    return first


async def test_giving_one_program_up_leaves_the_others(guest: Any) -> None:
    one = await guest.link.run(["sh", "-c", "echo $$; sleep 600"])
    two = await guest.link.run(["cat"])
    pid = int(await line(one))
    await one.channel.close()
    await until_gone(pid)
    await two.write(b"still here\n")
    assert await line(two) == b"still here\n"


async def test_a_child_left_behind_does_not_hold_the_result_and_lives_on(guest: Any) -> None:
    script = "(sleep 600) & echo $!; (while :; do echo noise; sleep 0.02; done) & echo $! >noisy; exit 3"
    program = await guest.link.run(["sh", "-c", script], stdin=False)
    data = b""
    while (piece := await program.read()) is not None:
        data += piece[1]
    assert await program.wait() == 3
    pids = [int(data.split()[0]), int((guest.cwd / "noisy").read_text())]
    for _ in range(20):
        await guest.link.call("ping")
    assert not any(map(gone, pids))
    stats = await guest.link.call("stats")
    assert stats["processes"] >= 3


async def test_output_in_the_pipes_outlives_the_program(guest: Any) -> None:
    program = await guest.link.run(["sh", "-c", "seq 60000; sleep 600 &"], stdin=False)
    for _ in range(5):
        await guest.link.call("ping")
    data = b""
    while (piece := await program.read()) is not None:
        data += piece[1]
        await asyncio.sleep(0)
    assert data.endswith(b"\n60000\n")
    assert await program.wait() == 0


async def test_many_programs_at_once(guest: Any) -> None:
    results = await asyncio.gather(*(guest.sh(f"echo {n}; exit {n}") for n in range(100)))
    assert results == [(n, b"%d\n" % n, b"") for n in range(100)]


async def test_orphans_are_reaped(guest: Any) -> None:
    await guest.sh("for i in 1 2 3 4 5; do (sh -c 'exit 0' &) ; done")
    children = []
    for _ in range(400):
        children = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[1]) == guest.process.pid:
                children.append(fields)
        if not children:
            break
        await asyncio.sleep(0.005)
    assert children == []
