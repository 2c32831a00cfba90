"""Case 15 and its kin: paths that lead out, files that lend rights, and what the daemon itself does with files of an agent."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.attacks.conftest import ROOT, Box
from tests.conftest import RealDaemon

from aegis.core.errors import AegisError, ErrorKind

Make = Callable[..., Box]


def test_links_lead_nowhere(box: Make, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("canary")
    a = box()
    os.symlink(tmp_path / "secret", a.workspace / "file")
    os.symlink(tmp_path, a.workspace / "dir")
    os.symlink(a.daemon.home, a.workspace / "home")
    os.symlink("/proc/1/root", a.workspace / "root")
    os.symlink("/proc/self/cwd/../..", a.workspace / "up")
    for path in (
        "file",
        "dir/secret",
        "home/aegisd.sock",
        f"root{tmp_path}/secret",
        f"up{tmp_path}/secret",
        f"/proc/self/root{tmp_path}/secret",
    ):
        assert a.sh(f"cat {path}").code != 0, path
        assert not a.call("read", path=path)["ok"], path
        assert "canary" not in a.call("grep", pattern="c", path=path)["output"]
    for fd in ("self/fd/0", "self/fd/1", "thread-self/fd/2"):
        assert a.sh(f"ls /proc/{fd}/.. ").code != 0
    found = a.attempts(f"""
        hard link: os.link({str(tmp_path / "secret")!r}, "/workspace/hard")
        rename out: (open("/workspace/x", "w"), os.rename("/workspace/x", {str(tmp_path / "x")!r}))
        rename over mount: os.rename("/workspace", "/home/agent/w")
        handle: call(304, -100, ctypes.create_string_buffer(200), 0) if os.uname().machine == "x86_64" else call(265, -100, b"", 0)
        chroot fd: (os.open("/", os.O_PATH), os.chroot("/proc/1/root"))
    """)
    assert "done" not in found.values(), found


def test_a_path_that_was_exchanged_for_a_link_is_not_followed(box: Make, house: RealDaemon, tmp_path: Path) -> None:
    """One agent's workspace holds another's: it puts a link there, and the next start must not show what it leads to."""
    private = tmp_path / "private"
    private.mkdir()
    (private / "key").write_text("canary")
    outer = box("outer")
    for name in ("inner", "data"):
        (outer.workspace / name).mkdir()
    inner = box("inner", workspace=outer.workspace / "inner", mounts=[{"source": str(outer.workspace / "data"), "target": "/data"}])
    house.client.instances.act("inner", "restart")
    assert inner.sh("ls /data /workspace").code == 0
    for name in ("inner", "data"):
        assert outer.sh(f"mv {name} {name}.away && ln -s {private} {name}").code == 0
        with pytest.raises(AegisError) as caught:
            house.client.instances.act("inner", "restart")
        assert caught.value.kind is ErrorKind.DENIED
        assert str(private) in caught.value.message
        assert house.client.instances.get("inner")["state"] == "failed"
        assert outer.sh(f"rm {name} && mv {name}.away {name}").code == 0
    house.client.instances.act("inner", "restart")


def test_a_workspace_named_by_a_link_is_what_it_led_to(box: Make, house: RealDaemon, tmp_path: Path) -> None:
    """The link counts once, when the person names it; turned elsewhere later it changes nothing."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_text("real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    a = box(workspace=tmp_path / "link")
    assert a.client.instances.get("a")["workspace"] == str(tmp_path / "real")
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("/etc")
    house.client.instances.act("a", "restart")
    assert a.sh("cat file; ls").out == "realfile\n"


def test_an_exchange_during_the_start_shows_nothing_else(box: Make, house: RealDaemon, tmp_path: Path) -> None:
    """The same while starts go on: whatever moment it hits, the start fails or shows the workspace itself."""
    private = tmp_path / "private"
    private.mkdir()
    (private / "key").write_text("canary")
    real, link = tmp_path / "ws", tmp_path / "link"
    real.mkdir()
    link.symlink_to(private)
    a = box("a", workspace=real)
    ended = threading.Event()

    def exchange() -> None:
        while not ended.is_set():
            for one, two in ((real, tmp_path / "kept"), (link, real), (real, link), (tmp_path / "kept", real)):
                os.rename(one, two)

    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        for _ in range(12):
            try:
                house.client.instances.act("a", "restart")
                # A daemon of an ordinary user has bwrap look the path up again; docs/security.md says so.
                assert not ROOT or "canary" not in a.sh("cat /workspace/key").out
            except AegisError as error:
                if error.kind is ErrorKind.INTERNAL:
                    raise
    finally:
        ended.set()
        thread.join()


def test_pipes_and_devices_in_the_places_the_daemon_looks_at(box: Make, house: RealDaemon) -> None:
    """What a start looks at in a workspace may be a pipe that nobody writes, or a directory, or a loop of links."""
    a = box()
    pipes = "mkfifo .venv/pyvenv.cfg .git/config .git/HEAD .aegis.yaml"
    script = f"rm -rf .venv .git .aegis.yaml .aegis; mkdir -p .venv .git; {pipes}; ln -s x .git/hooks; ln -s .aegis .aegis"
    assert a.sh(script).code == 0
    house.client.instances.act("a", "restart")
    assert a.sh("echo up").out == "up\n"
    assert a.sh("rm -rf .venv; ln -s /root .venv; rm -rf venv; mkdir venv; ln -s /etc/shadow venv/pyvenv.cfg; mkdir pyvenv.cfg").code == 0
    house.client.instances.act("a", "restart")
    assert a.sh("echo up").out == "up\n"
    for path in ("fifo", "/dev/zero", "/proc/self/mem", "/dev/tty"):
        a.sh("mkfifo fifo 2>/dev/null; true")
        assert not a.call("read", path=path)["ok"]


def test_an_environment_file_shows_only_installations(box: Make, house: RealDaemon, tmp_path: Path) -> None:
    """An agent writes `pyvenv.cfg`; what it names is not shown unless it is an installation of Python, and never a home."""
    private = tmp_path / "not-python"
    (private / "bin").mkdir(parents=True)
    (private / "bin" / "tool").write_text("canary")
    (private / "bin" / "python3").symlink_to("/usr/bin/python3")
    a = box()
    for named in (
        private / "bin",
        a.daemon.home / "bin",
        Path.home() / "bin",
        Path("/"),
        Path("/proc/1/root/bin"),
        Path("/workspace/../etc"),
    ):
        assert a.sh(f"mkdir -p .venv; printf 'home = {named}\\n' > .venv/pyvenv.cfg").code == 0
        house.client.instances.act("a", "restart")
        assert a.sh(f"ls {private} {a.daemon.home} {Path.home()}/.ssh").code != 0
        assert "canary" not in a.sh(f"cat {private}/bin/tool").out


def test_a_home_is_never_shown_as_an_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~/.local` is where `make install` puts Python, and where keyrings and tokens are."""
    from aegis.sandboxes.bwrap import places

    monkeypatch.setenv("HOME", str(tmp_path))
    local = tmp_path / ".local"
    (local / "bin").mkdir(parents=True)
    assert places._is_private(local, tmp_path / "aegis")
    assert places._is_private(tmp_path, tmp_path / "aegis")
    assert not places._is_private(local / "share" / "uv" / "python" / "3.11", tmp_path / "aegis")


def test_files_cannot_lend_rights(box: Make) -> None:
    """Set-user-id, owners, device nodes, capabilities and trusted attributes: the workspace may belong to root."""
    a = box()
    found = a.attempts("""
        file: open("f", "w").close()
        setuid: os.chmod("f", 0o4755)
        setgid: os.chmod("f", 0o2755)
        fchmod: os.fchmod(os.open("f", os.O_RDWR), 0o6755)
        open setuid: os.open("g", os.O_CREAT | os.O_WRONLY, 0o4755)
        tmpfile setuid: os.open(".", os.O_TMPFILE | os.O_WRONLY, 0o4755)
        mknod setuid: os.mknod("h", 0o104755)
        fchmodat2: call(452, -100, b"f", 0o4755, 0)
        setgid directory: (os.mkdir("d"), os.chmod("d", 0o2777))
        chown root: os.chown("f", 0, 0)
        chown other: os.chown("f", 1001, -1)
        chgrp: os.chown("f", -1, 100)
        char device: os.mknod("c", 0o020666, os.makedev(1, 1))
        block device: os.mknod("b", 0o060666, os.makedev(8, 0))
        capability: os.setxattr("f", "security.capability", bytes.fromhex("0100000202000000000000000000000000000000"))
        trusted: os.setxattr("f", "trusted.x", b"1")
        security: os.setxattr("f", "security.ima", b"x")
    """)
    assert {name for name, how in found.items() if how == "done"} == {"file"}, found
    a.sh(
        "umask 0; mkdir -m 7777 wide; cp -p /usr/bin/su . 2>/dev/null; install -m 4755 /bin/true x 2>/dev/null; cp /usr/bin/passwd . ; true"
    )
    for path in a.workspace.rglob("*"):
        about = path.lstat()
        assert not about.st_mode & (stat.S_ISUID | stat.S_ISGID) or path.name == "wide", path
        assert about.st_uid == os.geteuid(), path
        assert stat.S_ISREG(about.st_mode) or stat.S_ISDIR(about.st_mode)
    assert not (a.workspace / "wide").stat().st_mode & (stat.S_ISUID | stat.S_ISGID) if (a.workspace / "wide").exists() else True


@pytest.mark.skipif(not ROOT, reason="needs files of other owners")
def test_files_of_others_in_the_workspace_stay_theirs(box: Make, tmp_path: Path) -> None:
    a = box()
    for name, owner, mode in (("root-private", 0, 0o600), ("other-private", 12345, 0o600), ("setuid-root", 0, 0o4755)):
        path = a.workspace / name
        path.write_text("canary")
        os.chown(path, owner, owner)
        path.chmod(mode)
    other = a.workspace / "other-private"
    assert a.sh("cat other-private; echo x > other-private; chmod 666 other-private; chown 1000 other-private").out == ""
    assert (other.read_text(), other.stat().st_uid, other.stat().st_mode & 0o777) == ("canary", 12345, 0o600)
    assert a.sh("./setuid-root; echo $?").out.strip() != "0"
    a.sh("printf x >> setuid-root")
    assert not (a.workspace / "setuid-root").stat().st_mode & stat.S_ISUID  # whoever writes to it takes the bit away


def test_a_deep_and_forbidden_tree_is_deleted(box: Make, house: RealDaemon, tmp_path: Path) -> None:
    """A HOME nested deeper than Python can call itself, closed directories, links out: gone with its instance, and nothing else is."""
    keep = tmp_path / "keep"
    keep.mkdir()
    (keep / "file").write_text("canary")
    a = box()
    code = f"""
import os
os.chdir(os.environ["HOME"])
os.symlink({str(keep)!r}, "out")
os.mkdir("closed"); open("closed/f", "w").close(); os.symlink({str(keep)!r}, "closed/out"); os.chmod("closed", 0)
os.mkfifo("fifo")
for _ in range(3000):
    os.mkdir("d" * 60); os.symlink({str(keep)!r}, "link"); os.chdir("d" * 60)
print(1)
"""
    assert a.python(code) == 1
    state = a.state
    house.client.instances.delete("a")
    assert not state.exists()
    assert (keep / "file").read_text() == "canary"
    assert house.client.instances.all() == []


def test_mounts_through_links_and_into_the_home_are_refused(house: RealDaemon, tmp_path: Path) -> None:
    (tmp_path / "to-home").symlink_to(house.home)
    (tmp_path / "to-inner").symlink_to(house.home / "instances")
    for source in (house.home, house.home / "aegis.db", house.home.parent, Path("/"), tmp_path / "to-home", tmp_path / "to-inner"):
        for spec in ({"mounts": [{"source": str(source), "target": "/data"}]}, {"workspace": str(source)}):
            with pytest.raises(AegisError) as caught:
                house.start("m", sandbox="bwrap", **spec)
            assert caught.value.kind in (ErrorKind.DENIED, ErrorKind.NOT_FOUND), (source, caught.value)
    for target in ("/proc/x", "/workspace/x", "/run/aegis", "/usr/bin", "/etc/passwd", "/..", "relative", "/a/../etc", "/", "/dev/shm"):
        with pytest.raises(AegisError) as caught:
            house.start("m", sandbox="bwrap", mounts=[{"source": str(tmp_path), "target": target}])
        assert caught.value.kind in (ErrorKind.DENIED, ErrorKind.USAGE), target
        for one in house.client.instances.all():
            house.client.instances.delete(one["handle"])
