"""The home and the door: who is let in, what a home may be, two daemons, a full disk."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.conftest import RealDaemon, wait_gone

from aegis.client import launch
from aegis.core.errors import AegisError, ErrorKind

if TYPE_CHECKING:
    from collections.abc import Iterator


def run_daemon(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The daemon in the foreground, for starts that fail."""
    return subprocess.run(
        [sys.executable, "-m", "aegis.daemon", "--home", str(home), *arguments], capture_output=True, text=True, timeout=30, check=False
    )


def test_only_one_daemon_holds_a_home(daemon: RealDaemon) -> None:
    second = run_daemon(daemon.home)
    assert second.returncode == 1
    assert str(daemon.pid) in second.stderr
    assert daemon.client.status()["pid"] == daemon.pid


def test_a_home_open_to_others_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "h"
    home.mkdir(mode=0o755)
    home.chmod(0o755)
    ended = run_daemon(home)
    assert ended.returncode == ErrorKind.DENIED.codes.exit
    assert "chmod 700" in ended.stderr


def test_a_socket_path_that_is_too_long_is_refused(tmp_path: Path) -> None:
    ended = run_daemon(tmp_path / ("x" * 100))
    assert ended.returncode == 2
    assert "AEGIS_HOME" in ended.stderr


def test_a_home_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = run_daemon(tmp_path / "file" / "home")
    assert ended.returncode == 1
    assert "AEGIS_HOME" in ended.stderr


def test_a_database_from_the_future_is_left_alone(daemon: RealDaemon) -> None:
    daemon.down()
    database = next(daemon.home.glob("*.db"))
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        (table,) = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE '%migration%'").fetchone() or ("",)
        if not table:
            connection.execute("PRAGMA user_version = 9999")
        else:
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            connection.execute(
                f"INSERT INTO {table} ({columns[0]}) SELECT 9999"
                if len(columns) == 1
                else f"INSERT INTO {table} SELECT 9999, {', '.join('1' for _ in columns[1:])}"
            )
    before = database.read_bytes()
    ended = run_daemon(daemon.home)
    assert ended.returncode == 1
    assert "newer" in ended.stderr
    assert database.read_bytes() == before


def test_the_socket_is_private(daemon: RealDaemon) -> None:
    path = launch.socket_path(daemon.home)
    assert path.stat().st_mode & 0o777 == 0o600
    assert daemon.home.stat().st_mode & 0o777 == 0o700


def test_another_user_is_turned_away(daemon: RealDaemon) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user")
    os.chmod(daemon.home.parent, 0o711)
    os.chmod(daemon.home, 0o711)
    os.chmod(launch.socket_path(daemon.home), 0o666)
    python = shutil.which("python3", path="/usr/bin:/bin")
    if python is None:
        pytest.skip("needs a Python that every user can run")
    asking = """import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.sendall(b"GET /v1/status HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n")
print(b"".join(iter(lambda: s.recv(9999), b"")).decode())"""
    command = [python, "-c", asking, str(launch.socket_path(daemon.home))]
    answer = subprocess.run(
        command, user=65534, group=65534, extra_groups=[], capture_output=True, text=True, timeout=30, check=False, cwd="/"
    )
    os.chmod(daemon.home, 0o700)
    assert " 403 " in answer.stdout, answer.stderr
    assert "not the owner" in answer.stdout


@pytest.fixture
def listening(short_home: Path) -> Iterator[tuple[RealDaemon, int]]:
    """A daemon that also listens on a TCP port of the loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    real = RealDaemon(short_home)
    launch.ensure_daemon(short_home, listen=f"127.0.0.1:{port}")
    real.pid = real.client.status()["pid"]
    yield real, port
    real.down()


def ask_tcp(port: int, *headers: str) -> int:
    """The status of GET /v1/status with these headers."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as raw:
        raw.sendall("\r\n".join(["GET /v1/status HTTP/1.1", *headers, "Connection: close", "", ""]).encode())
        said = b""
        while b"\r\n" not in said:
            said += raw.recv(65536)
        return int(said.split(b" ", 2)[1])


def test_tcp_needs_the_token_and_our_own_name(listening: tuple[RealDaemon, int]) -> None:
    real, port = listening
    token = (real.home / "token").read_text().strip()
    assert (real.home / "token").stat().st_mode & 0o777 == 0o600
    good = f"Authorization: Bearer {token}"
    assert ask_tcp(port, f"Host: 127.0.0.1:{port}", good) == 200
    assert ask_tcp(port, f"Host: localhost:{port}", good, f"Origin: http://localhost:{port}") == 200
    assert ask_tcp(port, f"Host: 127.0.0.1:{port}") == 401
    assert ask_tcp(port, f"Host: 127.0.0.1:{port}", good + "x") == 401
    for host in ("evil.example", f"evil.example:{port}", "localhost.evil.example", "0.0.0.0", "[::]"):
        assert ask_tcp(port, f"Host: {host}", good) == 403, host
    for origin in ("null", "http://evil.example", f"http://localhost.evil.example:{port}"):
        assert ask_tcp(port, f"Host: 127.0.0.1:{port}", good, f"Origin: {origin}") == 403, origin


def test_a_clock_that_jumps_back_does_no_harm(daemon: RealDaemon) -> None:
    """Times in the future in the log and in a row, as a clock set back leaves them: order is by number, not by time."""
    daemon.start("a", model="scripted/echo")
    daemon.ask("a", "one")
    daemon.down()
    with contextlib.closing(sqlite3.connect(next(daemon.home.glob("*.db")), isolation_level=None)) as connection:
        connection.execute("UPDATE events SET ts = ts + 1000000")
        connection.execute("UPDATE instances SET last_active_at = last_active_at + 1000000")
    daemon.up()
    assert daemon.ask("a", "two")["text"] == "echo: two"


def test_a_full_disk_refuses_and_loses_nothing(short_home: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small file system")
    short_home.mkdir(mode=0o700)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs", str(short_home)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("cannot mount a tmpfs here")
    real = RealDaemon(short_home)
    try:
        real.up()
        real.start("a", model="scripted/echo")
        real.ask("a", "before")
        filler = short_home / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"\0" * 4096)
        accepted: list[Any] = []
        refused = None
        for n in range(2000):
            try:
                accepted.append(real.client.mail.send("a", "x" * 2000, msg_id=f"f{n}", session=("host", f"s{n % 4}")))
            except AegisError as error:
                refused = error
                break
        assert refused is not None
        assert refused.kind is ErrorKind.UNAVAILABLE
        assert real.client.instances.act("a", "disable")["state"] == "stopped", "stopping works with a full disk"
        filler.unlink()
        real.client.instances.act("a", "start")
        for receipt in accepted:
            assert real.finish("a", receipt)["in_reply_to"] == [receipt["id"]]
        assert real.ask("a", "after")["text"] == "echo: after"
    finally:
        real.down()
        wait_gone(real.pid)
        subprocess.run(["umount", "-l", str(short_home)], check=False)
