"""The kind `bwrap` in itself: what its suite of conformance does not ask."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.ids import new_id
from aegis.sandboxes import Limits, Mount, SandboxSpec, bundle, cgroups, tree
from aegis.sandboxes.bwrap import Bwrap, BwrapSandbox, idmap, kind, places, stage, view
from aegis.sandboxes.environment import clean_env

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aegis.sandboxes.link import Link


@pytest.fixture
async def works() -> Bwrap:
    made = Bwrap()
    verdict = await made.probe()
    if not verdict.ok:
        pytest.skip(f"bwrap: {verdict.detail}; {verdict.mend}")
    return made


def make_spec(root: Path, **changes: Any) -> SandboxSpec:
    for name in ("home", "work"):
        (root / name).mkdir(exist_ok=True)
    ident = new_id("inst")
    values: dict[str, Any] = {
        "id": ident,
        "index": 1,
        "handle": "tester",
        "home": root / "home",
        "state": root / "home" / ident,
        "workspace": Mount(root / "work", "/workspace", True),
    }
    return SandboxSpec(**values | changes)


@pytest.fixture
async def boxes(works: Bwrap) -> AsyncIterator[Any]:
    made: list[BwrapSandbox] = []

    def make(spec: SandboxSpec) -> BwrapSandbox:
        made.append(works.create(spec))
        return made[-1]

    yield make
    for sandbox in made:
        await sandbox.stop(0.0)


async def output(link: Link, *argv: str) -> str:
    program = await link.run(list(argv), stdin=False)
    out = b""
    while (piece := await program.read()) is not None:
        out += piece[1]
    await program.wait()
    return out.decode()


def descriptors() -> dict[int, str]:
    """The open descriptors of this process and what each is."""
    found = {}
    for number in map(int, os.listdir("/proc/self/fd")):
        try:
            found[number] = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:  # that of the listing itself
            continue
    return found


# Refusals.


@pytest.mark.parametrize(
    "target", ["/proc", "/proc/sys", "/dev", "/usr/lib", "/etc", "/run/aegis", "/run", "/", "/home", "/tmp", "/lib64", "/workspace"]
)
def test_a_target_that_shadows_is_denied(tmp_path: Path, target: str) -> None:
    spec = make_spec(tmp_path, mounts=(Mount(tmp_path / "work", target),))
    with pytest.raises(AegisError) as caught:
        Bwrap().create(spec)
    assert caught.value.kind is ErrorKind.DENIED
    assert target in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("target", ["relative", "/a/../b", "/a//b", "/a/", "", "/a\0b"])
def test_a_target_that_is_no_plain_path_is_refused(tmp_path: Path, target: str) -> None:
    with pytest.raises(AegisError) as caught:
        Bwrap().create(make_spec(tmp_path, mounts=(Mount(tmp_path / "work", target),)))
    assert caught.value.kind is ErrorKind.USAGE


def test_sources_around_the_home_are_denied(tmp_path: Path) -> None:
    (tmp_path / "home/inner").mkdir(parents=True)
    (tmp_path / "alias").symlink_to(tmp_path / "home/inner")
    for source in (tmp_path, tmp_path / "home", tmp_path / "home/inner", tmp_path / "alias", Path("/")):
        for changes in ({"workspace": Mount(source, "/workspace")}, {"mounts": (Mount(source, "/data"),)}):
            with pytest.raises(AegisError) as caught:
                Bwrap().create(make_spec(tmp_path, **changes))
            assert caught.value.kind is ErrorKind.DENIED
            assert caught.value.hint


def test_missing_sources_files_as_workspace_and_twins_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    work = tmp_path / "work"
    for changes, wanted in (
        ({"workspace": Mount(tmp_path / "missing", "/workspace")}, ErrorKind.NOT_FOUND),
        ({"mounts": (Mount(tmp_path / "missing", "/data"),)}, ErrorKind.NOT_FOUND),
        ({"workspace": Mount(tmp_path / "file", "/workspace")}, ErrorKind.USAGE),
        ({"workspace": Mount(work, "/elsewhere")}, ErrorKind.USAGE),
        ({"mounts": (Mount(work, "/data"), Mount(work, "/data"))}, ErrorKind.USAGE),
    ):
        with pytest.raises(AegisError) as caught:
            Bwrap().create(make_spec(tmp_path, **changes))
        assert caught.value.kind is wanted


async def test_a_setting_cannot_become_an_argument(boxes: Any, tmp_path: Path) -> None:
    sandbox = boxes(make_spec(tmp_path, env={"X": "1\0--bind\0/\0/host"}))
    with pytest.raises(AegisError, match="NUL") as caught:
        await sandbox.start()
    assert caught.value.kind is ErrorKind.USAGE


@pytest.mark.skipif(os.geteuid() != 0, reason="only root maps files to another user")
async def test_a_file_system_that_cannot_map_owners_is_named(boxes: Any, tmp_path: Path) -> None:
    sandbox = boxes(make_spec(tmp_path, workspace=Mount(Path("/sys/kernel"), "/workspace")))
    with pytest.raises(AegisError, match="sysfs") as caught:
        await sandbox.start()
    assert caught.value.kind is ErrorKind.UNAVAILABLE
    assert "ext4" in caught.value.hint


# What is seen.


async def test_mounts_are_read_only_unless_asked(boxes: Any, tmp_path: Path) -> None:
    for name in ("ro", "rw"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
        (tmp_path / name).chmod(0o700)
    (tmp_path / "single").write_text("one file")
    mounts = (Mount(tmp_path / "ro", "/data/ro"), Mount(tmp_path / "rw", "/data/rw", True), Mount(tmp_path / "single", "/opt/single"))
    link = await boxes(make_spec(tmp_path, mounts=mounts)).start()
    seen = await output(link, "sh", "-c", "cat /data/*/file /opt/single; echo x >/data/rw/new; echo x >/data/ro/new || echo refused")
    assert seen.startswith("rorwone file")
    assert "refused" in seen
    assert (tmp_path / "rw/new").stat().st_uid == os.geteuid()
    assert not (tmp_path / "ro/new").exists()


async def test_secrets_do_not_stand_on_a_command_line(boxes: Any, tmp_path: Path) -> None:
    sandbox = boxes(make_spec(tmp_path, env={"TOKEN": "s3cr3t-value"}))
    link = await sandbox.start()
    assert "s3cr3t-value" in await output(link, "env")
    pids = tree.marked(sandbox.spec.id)
    assert len(pids) >= 2
    assert not [pid for pid in pids if b"s3cr3t-value" in Path(f"/proc/{pid}/cmdline").read_bytes()]


async def test_without_a_workspace_it_starts_in_its_home(boxes: Any, tmp_path: Path) -> None:
    link = await boxes(make_spec(tmp_path, workspace=None)).start()
    assert (await output(link, "pwd")).strip() == places.HOME


async def test_tools_work(boxes: Any, tmp_path: Path) -> None:
    """The filter and the view break none of the programs that developers use."""
    link = await boxes(make_spec(tmp_path)).start()
    python = "import threading, subprocess; threading.Thread(target=print, args=(subprocess.getoutput('echo ok'),)).start()"
    assert (await output(link, "sh", "-c", f'"$AEGIS_PYTHON" -c "{python}"')).strip() == "ok"
    # Found inside is what counts: what lives elsewhere on the host needs a mount.
    there = (await output(link, "sh", "-c", "for t in git node npm gcc; do command -v $t; done")).split()
    for tool in (Path(path).name for path in there):
        command = {
            "git": "git init -q . && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m x && git log --format=%s",
            "node": "node -e \"console.log(String(require('child_process').execSync('echo x')).trim())\"",
            "npm": "npm --version >/dev/null && echo x",
            "gcc": "echo 'int main(void) { return 0; }' >a.c && gcc a.c && ./a.out && echo x",
        }[tool]
        assert (await output(link, "sh", "-c", command)).strip().endswith("x"), tool


# Virtual environments.


def installation(root: Path) -> Path:
    for name in ("bin/python3", "bin/python3.11", "lib/python3.11/os.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
        (root / name).chmod(0o755)
    return root


def environment(directory: Path, home: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "pyvenv.cfg").write_text(f"version = 3.11.2\nhome = {home}\n")


def test_the_installation_of_an_environment_is_shown(tmp_path: Path) -> None:
    python = installation(tmp_path / "opt/python")
    spec = make_spec(tmp_path)
    environment(tmp_path / "work/.venv", python / "bin")
    assert places.python_prefixes(spec) == [python]
    assert str(python) in [item.target for item in view.shown(spec, tmp_path) if not item.writable]
    spec = make_spec(tmp_path, workspace=None, mounts=(Mount(tmp_path / "work", "/data"),))
    assert places.python_prefixes(spec) == [python]


def test_what_an_agent_could_write_there_shows_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    person = installation(tmp_path / "people/person")
    monkeypatch.setenv("HOME", str(person))
    spec = make_spec(tmp_path)
    library_only = tmp_path / "half"
    (library_only / "bin").mkdir(parents=True)
    linked = tmp_path / "linked/python"
    (linked / "bin").mkdir(parents=True)
    (linked / "bin/python3").symlink_to(sys.executable)
    (linked / "lib/python3.11").mkdir(parents=True)
    (linked / "lib/python3.11/os.py").symlink_to(os.__file__)
    inner = installation(tmp_path / "work/fake")
    for home in (person, tmp_path / "people", library_only, linked, inner, tmp_path / "home", Path("/"), Path("/etc"), Path("/usr")):
        environment(tmp_path / "work/.venv", home / "bin")
        assert places.python_prefixes(spec) == [], home
    for text in ("home = relative/bin\n", "home =\n", "\xff", "home = /a\0b/bin\n"):
        (tmp_path / "work/.venv/pyvenv.cfg").write_bytes(text.encode("latin-1"))
        assert places.python_prefixes(spec) == []
    (tmp_path / "work/.venv/pyvenv.cfg").unlink()
    (tmp_path / "work/.venv/pyvenv.cfg").symlink_to("/etc/passwd")
    assert places.python_prefixes(spec) == []


async def test_programs_of_an_environment_run(boxes: Any, tmp_path: Path) -> None:
    """They name the interpreter by the workspace's path on the host."""
    spec = make_spec(tmp_path)
    venv = tmp_path / "work/.venv"
    (venv / "bin").mkdir(parents=True)
    interpreter = Path(bundle.interpreter())
    environment(venv, interpreter.parent)
    (venv / "bin/python").symlink_to(interpreter)
    (venv / "bin/tool").write_text(f"#!{venv}/bin/python\nimport sys\nprint(sys.prefix)\n")
    (venv / "bin/tool").chmod(0o755)
    link = await boxes(spec).start()
    assert Path((await output(link, ".venv/bin/tool")).strip()).name == ".venv"


# Kept files.


def test_kept_files_and_their_parents(tmp_path: Path) -> None:
    (tmp_path / ".git/hooks").mkdir(parents=True)
    (tmp_path / ".git/config").touch()
    (tmp_path / ".aegis.yaml").touch()
    assert places.protected(tmp_path) == [(".aegis.yaml", False), (".git", True), (".git/hooks", False), (".git/config", False)]


def test_links_are_not_followed_and_a_pointer_is_kept(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / ".git").symlink_to("real")
    (tmp_path / "real/hooks").mkdir()
    assert places.protected(tmp_path) == []
    (tmp_path / ".git").unlink()
    (tmp_path / ".git").write_text("gitdir: /elsewhere\n")
    assert places.protected(tmp_path) == [(".git", False)]


def test_an_exchanged_directory_is_noticed(tmp_path: Path) -> None:
    spec = make_spec(tmp_path)
    (tmp_path / "work/.git/hooks").mkdir(parents=True)
    line = "1 0 254:0 {root} {point} {mode},relatime - ext4 /dev/x rw\n"

    def mounts(hooks: str, mode: str = "ro") -> str:
        found = [
            ("/a/my\\040work", "/workspace", "rw"),
            ("/a/my\\040work/.git", "/workspace/.git", "rw"),
            (hooks, "/workspace/.git/hooks", mode),
        ]
        return "".join(line.format(root=root, point=point, mode=flag) for root, point, flag in found)

    assert view.unprotected(spec, mounts("/a/my\\040work/.git/hooks")) is None
    assert view.unprotected(spec, mounts("/root/.ssh")) == ".git/hooks"
    assert view.unprotected(spec, mounts("/a/my\\040work/.git/hooks", "rw")) == ".git/hooks"
    assert view.unprotected(spec, line.format(root="/a", point="/workspace", mode="rw")) == ".git"


# Life.


async def test_many_start_at_once_and_end(boxes: Any, tmp_path: Path) -> None:
    made = [boxes(make_spec(tmp_path, index=number)) for number in range(8)]
    links = await asyncio.gather(*(sandbox.start() for sandbox in made))
    await asyncio.gather(*(link.call("ping") for link in links))
    await asyncio.gather(*(sandbox.stop(0.0) for sandbox in made))
    assert not [pid for sandbox in made for pid in tree.marked(sandbox.spec.id)]


@pytest.mark.parametrize("passes", range(0, 40, 4))
async def test_a_cancelled_start_leaves_nothing(boxes: Any, tmp_path: Path, passes: int) -> None:
    sandbox = boxes(make_spec(tmp_path))
    bundle.build(sandbox.spec.home)
    before = descriptors()
    starting = asyncio.ensure_future(sandbox.start())
    for _ in range(passes):  # turns of the loop: a different place each time
        await asyncio.sleep(0.0005)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    await sandbox.stop(0.0)
    assert not tree.marked(sandbox.spec.id)
    assert descriptors() == before


async def test_nothing_is_left_of_a_stopped_one(works: Bwrap, boxes: Any, tmp_path: Path) -> None:
    await works.probe()
    warm = boxes(make_spec(tmp_path))  # threads and the like are made once
    await warm.start()
    await warm.stop(0.0)
    before = descriptors()
    sandbox = boxes(make_spec(tmp_path, limits=Limits(pids=64)))
    await sandbox.start()
    assert sandbox.pid is not None
    await sandbox.stop()
    await sandbox.stop()
    assert descriptors() == before
    mark = tree.home_mark(tmp_path / "home")
    assert not [path for one in cgroups.hierarchies().values() for path in one.base.glob(f"aegis-{mark}*")]
    with pytest.raises(AegisError) as caught:
        await sandbox.pause()
    assert caught.value.kind is ErrorKind.CONFLICT
    with pytest.raises(AegisError):
        await sandbox.stats()


async def test_stats(boxes: Any, tmp_path: Path) -> None:
    sandbox = boxes(make_spec(tmp_path))
    await sandbox.start()
    await sandbox.pause()
    stats = await sandbox.stats()
    assert stats.processes == 2
    assert stats.rss_bytes > 0


async def test_a_start_that_cannot_be_bounded_is_refused(boxes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "hierarchies", dict)
    sandbox = boxes(make_spec(tmp_path, limits=Limits(memory_bytes=1 << 28, pids=64, required=True)))
    with pytest.raises(AegisError, match="memory limit of tester is required") as caught:
        await sandbox.start()
    assert caught.value.kind is ErrorKind.UNAVAILABLE
    assert "Delegate=yes" in caught.value.hint
    assert sandbox.enforced["pids"].ok


async def test_without_control_groups_it_pauses_by_signals(boxes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "hierarchies", dict)
    sandbox = boxes(make_spec(tmp_path))
    link = await sandbox.start()
    assert await sandbox.pause() == "signals"
    await sandbox.resume()
    await link.call("ping")


async def test_version_one_freezes_too(boxes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {name: one for name, one in cgroups.hierarchies().items() if name == "freezer"}
    if not found:
        pytest.skip("no v1 freezer that we may use")
    monkeypatch.setattr(cgroups, "hierarchies", lambda: found)
    sandbox = boxes(make_spec(tmp_path))
    link = await sandbox.start()
    assert await sandbox.pause() == "cgroup v1"
    await sandbox.resume()
    await link.call("ping")
    await sandbox.pause()
    await sandbox.stop(0.0)
    assert not tree.marked(sandbox.spec.id)


async def test_sweep_spares_the_living(works: Bwrap, boxes: Any, tmp_path: Path) -> None:
    sandbox = boxes(make_spec(tmp_path))
    link = await sandbox.start()
    assert await works.sweep(tmp_path / "home") == []
    await link.call("ping")


async def test_sweep_removes_the_groups_of_the_dead(works: Bwrap, tmp_path: Path) -> None:
    spec = make_spec(tmp_path)
    bases = [one.base for one in cgroups.hierarchies().values()]
    if not bases:
        pytest.skip("no control group can be made here")
    left = bases[0] / f"aegis-{tree.home_mark(spec.home)}" / "inst_gone@1.1"
    left.mkdir(parents=True)
    sleeper = await asyncio.create_subprocess_exec("sleep", "1000")
    (left / "cgroup.procs").write_text(str(sleeper.pid))
    found = await works.sweep(spec.home)
    assert len(found) == 1
    assert "killed 1 processes" in found[0]
    assert await sleeper.wait() == -9
    assert not left.parent.exists()


# The probe.


async def test_a_missing_or_old_program_is_told_with_its_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    verdict = await Bwrap().probe()
    assert (verdict.ok, verdict.mend) == (False, "apt-get install bubblewrap")
    (tmp_path / "bwrap").write_text("#!/bin/sh\necho bubblewrap 0.4.1\n")
    (tmp_path / "bwrap").chmod(0o755)
    verdict = await Bwrap().probe()
    assert not verdict.ok
    assert "0.4.1" in verdict.detail


def test_switches_that_forbid_namespaces_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    switch = tmp_path / "restrict"
    monkeypatch.setattr(kind, "_SWITCHES", ((str(switch), "1", "it is switched off", "sysctl -w x=0"),))
    switch.write_text("0\n")
    assert kind._why("bubblewrap 0.8.0", "Permission denied").mend != "sysctl -w x=0"
    switch.write_text("1\n")
    verdict = kind._why("bubblewrap 0.8.0", "setting up uid map: Permission denied")
    assert verdict.mend == "sysctl -w x=0"
    assert "uid map" in verdict.detail


# Private users.


def test_private_users_are_apart_and_never_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert stage.private_id(0) == 0x70000000
    assert stage.private_id(7) == 0x70000007
    for index in (-1, 1 << 28):
        with pytest.raises(AegisError):
            stage.private_id(index)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert stage.private_id(7) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes such namespaces")
def test_a_user_namespace_leaves_no_process() -> None:
    before = descriptors()
    fd = idmap.user_namespace(1234, 4321, 0x70000001)
    assert os.readlink(f"/proc/self/fd/{fd}").startswith("user:")
    os.close(fd)
    assert descriptors() == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG | 0x40000000)


def test_the_environment_is_that_of_the_port(tmp_path: Path) -> None:
    env = clean_env(make_spec(tmp_path), home=places.HOME, tmp=places.TMP)
    assert env["HOME"] == "/home/agent"
    assert env["TMPDIR"] == "/tmp"
