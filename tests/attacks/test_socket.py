"""Case 21: the control socket and the home around it: modes, other users, what somebody put there before."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from pathlib import Path

import pytest
from tests.attacks.conftest import ROOT
from tests.conftest import RealDaemon

from aegis.client import launch
from aegis.core.errors import AegisError, ErrorKind


@pytest.fixture
def made(short_home: Path) -> Path:
    short_home.mkdir(mode=0o700)
    return short_home


def modes(home: Path) -> dict[str, int]:
    """Everything in the home that others could use, by its name."""
    found = {}
    for path in (home, *home.rglob("*")):
        about = path.lstat()
        if about.st_mode & 0o077 and not stat.S_ISLNK(about.st_mode):
            found[str(path.relative_to(home))] = stat.S_IMODE(about.st_mode)
    return found


def test_a_careless_umask_opens_nothing(short_home: Path) -> None:
    """The guest bundle alone may be read by others: sandboxes read it as users of their own. The home above is closed."""
    before = os.umask(0)
    real = RealDaemon(short_home)
    try:
        real.up()
        real.start("a", sandbox="process")
        real.client.secrets.set("K", "x")
        launch.ensure_daemon(short_home)
        assert stat.S_IMODE(short_home.stat().st_mode) == 0o700
        assert stat.S_IMODE((short_home / "aegisd.sock").stat().st_mode) == 0o600
        assert {name for name in modes(short_home) if name.split("/")[0] != "guest"} == set()
    finally:
        os.umask(before)
        real.down()


@pytest.mark.parametrize("mode", [0o777, 0o755, 0o701, 0o770])
def test_a_home_that_is_open_is_refused(made: Path, mode: int) -> None:
    made.chmod(mode)
    with pytest.raises(AegisError) as caught:
        launch.ensure_daemon(made)
    assert caught.value.kind is ErrorKind.DENIED
    assert "chmod 700" in caught.value.hint


@pytest.mark.skipif(not ROOT, reason="only root can give a folder away")
def test_a_home_of_somebody_else_is_refused(made: Path) -> None:
    os.chown(made, 12345, 12345)
    with pytest.raises(AegisError) as caught:
        launch.ensure_daemon(made)
    assert caught.value.kind is ErrorKind.DENIED


@pytest.mark.parametrize("what", ["link to a file", "link to nothing", "file", "stale socket"])
def test_what_is_in_the_sockets_place_is_replaced_and_not_followed(made: Path, what: str) -> None:
    victim, path = made.parent / "victim", made / "aegisd.sock"
    victim.write_text("kept")
    if what == "link to a file":
        path.symlink_to(victim)
    elif what == "link to nothing":
        path.symlink_to(made.parent / "nothing")
    elif what == "file":
        path.write_text("x")
    else:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
    real = RealDaemon(made)
    try:
        real.up()
        assert stat.S_ISSOCK(path.lstat().st_mode)
        assert victim.read_text() == "kept"
        assert not (made.parent / "nothing").exists()
    finally:
        real.down()


def test_a_folder_in_the_sockets_place_stays(made: Path) -> None:
    (made / "aegisd.sock").mkdir()
    (made / "aegisd.sock" / "kept").touch()
    with pytest.raises(AegisError):
        launch.ensure_daemon(made)
    assert (made / "aegisd.sock" / "kept").exists()


@pytest.mark.parametrize("name", ["aegisd.log", "aegisd.launch"])
def test_links_in_the_place_of_our_files_are_not_followed(made: Path, name: str) -> None:
    victim = made.parent / "victim"
    victim.write_text("kept")
    (made / name).symlink_to(victim)
    with pytest.raises(AegisError):
        launch.ensure_daemon(made)
    assert victim.read_text() == "kept"


def test_a_second_daemon_does_not_take_the_socket(short_home: Path) -> None:
    real = RealDaemon(short_home)
    try:
        real.up()
        inode = (short_home / "aegisd.sock").stat().st_ino
        done = subprocess.run(launch.daemon_argv(short_home), capture_output=True, timeout=30, check=False, env=launch.daemon_environment())
        assert done.returncode != 0
        assert (short_home / "aegisd.sock").stat().st_ino == inode
        assert real.client.status()["pid"] == real.pid
    finally:
        real.down()


def test_paths_that_are_too_long_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AegisError) as caught:
        launch.ensure_daemon(tmp_path / ("x" * 120))
    assert caught.value.kind is ErrorKind.USAGE


_OTHER = """
import socket, sys
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
s.sendall(b"GET /v1/status HTTP/1.1\\r\\nhost: x\\r\\nx-forwarded-for: uid:0\\r\\nconnection: close\\r\\n\\r\\n")
print(s.recv(65536).split()[1].decode())
"""


@pytest.mark.skipif(not ROOT, reason="only root can be another user")
@pytest.mark.parametrize("uid", [65534, 0x70000001])
def test_another_user_is_not_let_in(short_home: Path, uid: int) -> None:
    """Neither by the modes nor, should those be opened, by the daemon; nor are the private users of sandboxes."""
    real = RealDaemon(short_home)
    try:
        real.up()
        command = ["/usr/bin/python3", "-c", _OTHER, str(short_home / "aegisd.sock")]
        who = {"user": uid, "group": uid, "extra_groups": []}

        def attempt() -> subprocess.CompletedProcess[str]:
            return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, cwd="/", **who)

        if not os.path.exists(command[0]):
            pytest.skip("no interpreter that another user may run")
        assert "PermissionError" in attempt().stderr
        short_home.chmod(0o711)
        short_home.parent.chmod(0o711)
        (short_home / "aegisd.sock").chmod(0o666)
        assert attempt().stdout == "403\n"
        short_home.chmod(0o700)
    finally:
        real.down()


def test_a_keyfile_that_is_open_is_not_used(short_home: Path) -> None:
    real = RealDaemon(short_home)
    try:
        real.up()
        real.client.secrets.set("K", "x")
        real.down()
        (short_home / "master.key").chmod(0o644)
        real.up()
        with pytest.raises(AegisError) as caught:
            real.client.secrets.set("K2", "x")
        assert "chmod 600" in caught.value.hint
    finally:
        real.down()
