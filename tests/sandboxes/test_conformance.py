"""The conformance suite: every kind passes it here, as root and as an ordinary user; and it notices what is wrong."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import aegis.core
from aegis.sandboxes import bundle, conformance, seccomp
from aegis.sandboxes.bwrap import Bwrap, places, view
from aegis.sandboxes.process import ProcessKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aegis.sandboxes.conformance import Check

#: A user nobody has, for running as an ordinary one.
UID = 54321
SCRIPT = """
import asyncio, pathlib, sys, msgspec
from aegis.sandboxes import conformance
from aegis.sandboxes.bwrap import Bwrap
checks = asyncio.run(conformance.run(Bwrap(), pathlib.Path(sys.argv[1])))
print(msgspec.json.encode(checks).decode())
"""


@pytest.fixture
def home(short_home: Path) -> Path:
    short_home.mkdir(mode=0o700)
    return short_home


async def bwrap() -> Bwrap:
    """The kind, or skip with the reason why it does not work here."""
    kind = Bwrap()
    verdict = await kind.probe()
    if not verdict.ok:
        pytest.skip(f"bwrap: {verdict.detail}; {verdict.mend}")
    return kind


def failures(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.detail for check in checks if not check.ok and not check.skipped}


async def test_bwrap_passes_as_whoever_runs_this(home: Path) -> None:
    checks = await conformance.run(await bwrap(), home)
    assert failures(checks) == {}
    assert len(checks) == 1 + len(conformance.trials())
    assert not list(home.iterdir())
    assert list(home.parent.iterdir()) == [home]


async def test_process_passes_what_applies_to_it(home: Path) -> None:
    checks = await conformance.run(ProcessKind(), home)
    assert failures(checks) == {}
    walls = [check for check in checks if check.skipped == "no boundary"]
    assert len(walls) == sum(trial.wall for trial in conformance.trials())


@pytest.fixture
def ordinary() -> Iterator[Path]:
    """A directory of an ordinary user, with a copy of the package he can read."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    folder = Path(tempfile.mkdtemp(prefix="aegis-user-"))
    try:
        package = Path(aegis.core.__path__[0]).parent
        spec = importlib.util.find_spec("msgspec")
        assert spec is not None
        assert spec.origin is not None
        for source in (package, Path(spec.origin).parent):
            shutil.copytree(source, folder / "lib" / source.name, ignore=shutil.ignore_patterns("__pycache__"))
        subprocess.run(["chmod", "-R", "a+rX", str(folder)], check=True)
        (folder / "user" / "home").mkdir(parents=True, mode=0o700)
        for path in (folder / "user", folder / "user" / "home"):
            os.chown(path, UID, UID)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def as_user(folder: Path, script: str, *, group: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a script as the ordinary user, in the control group `group` if given."""
    wanted = f"{sys.version_info.major}.{sys.version_info.minor}"
    env = {"PATH": os.environ["PATH"], "HOME": str(folder / "user"), "PYTHONPATH": str(folder / "lib"), "PYTHONDONTWRITEBYTECODE": "1"}
    for python in (bundle.interpreter(), f"/usr/bin/python{wanted}", f"/usr/local/bin/python{wanted}"):
        argv = [python, "-c", script, str(folder / "user" / "home")]
        if group is not None:
            argv = ["sh", "-c", 'echo $$ > "$0/cgroup.procs"; exec setpriv "$@"', str(group), *_drop(), *argv]
        try:
            probe = subprocess.run(
                [python, "-c", "pass"], user=UID, group=UID, extra_groups=[], env=env, capture_output=True, cwd="/", check=False
            )
        except OSError:
            continue
        if probe.returncode == 0:
            whom: dict[str, Any] = {} if group is not None else {"user": UID, "group": UID, "extra_groups": []}
            return subprocess.run(argv, env=env, cwd="/", capture_output=True, text=True, timeout=120, check=False, **whom)
    pytest.skip(f"no Python {wanted} that an ordinary user can read")


def _drop() -> list[str]:
    return [f"--reuid={UID}", f"--regid={UID}", "--clear-groups"]


@pytest.mark.timeout(180)
async def test_bwrap_passes_as_an_ordinary_user(ordinary: Path) -> None:
    done = as_user(ordinary, SCRIPT)
    assert done.returncode == 0, done.stderr
    checks = msgspec.json.decode(done.stdout, type=list[conformance.Check])
    if checks[0].name == "probe" and not checks[0].ok:
        pytest.skip(f"bwrap as an ordinary user: {checks[0].detail}")
    assert failures(checks) == {}


@pytest.fixture
def delegated() -> Iterator[Path]:
    """A v2 control group that belongs to the ordinary user, with one below it for his daemon; yields the latter."""
    found = [Path(p) for p in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified") if (Path(p) / "cgroup.subtree_control").exists()]
    if os.geteuid() != 0 or not found or not os.access(found[0], os.W_OK):
        pytest.skip("no cgroup v2 to delegate")
    slice_ = found[0] / f"aegis-test-{os.getpid()}"
    daemon = slice_ / "daemon"
    try:
        daemon.mkdir(parents=True)
    except OSError as error:
        pytest.skip(f"no cgroup can be made: {error}")
    for path in (slice_, slice_ / "cgroup.procs", slice_ / "cgroup.subtree_control", daemon, daemon / "cgroup.procs"):
        os.chown(path, UID, UID)
    yield daemon
    for path in sorted(slice_.rglob("*"), reverse=True):
        if path.is_dir():
            path.rmdir()
    slice_.rmdir()


async def test_an_ordinary_user_freezes_by_a_delegated_group(ordinary: Path, delegated: Path) -> None:
    script = """
import asyncio, pathlib, sys
from aegis.sandboxes import SandboxSpec
from aegis.sandboxes.bwrap import Bwrap
async def main():
    home = pathlib.Path(sys.argv[1])
    sandbox = Bwrap().create(SandboxSpec(id="inst_d", index=1, handle="delegated", home=home, state=home / "d"))
    link = await sandbox.start()
    how = await sandbox.pause()
    await sandbox.resume()
    await link.call("ping")
    await sandbox.stop()
    print(how)
asyncio.run(main())
"""
    done = as_user(ordinary, script, group=delegated)
    if "AegisError" in done.stderr:
        pytest.skip(f"bwrap as an ordinary user: {done.stderr.splitlines()[-1]}")
    assert done.stdout.strip() == "cgroup v2", done.stderr


async def weakened(kind: Bwrap, home: Path, *names: str) -> dict[str, str]:
    """What the named checks find; the suite's other checks are left out, as each costs a sandbox."""
    scratch = conformance.Scratch(kind, home)
    try:
        return failures([await conformance.perform(trial, scratch) for trial in conformance.trials() if trial.name in names])
    finally:
        await scratch.close()


async def test_it_notices_a_network(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = await bwrap()
    monkeypatch.setattr(view, "_ISOLATION", tuple(word for word in view._ISOLATION if word != "--unshare-net"))
    found = await weakened(kind, home, "network")
    assert "tcp" in found["network"]
    assert "abstract unix" in found["network"]


async def test_it_notices_a_missing_filter(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = await bwrap()
    monkeypatch.setattr(seccomp, "program", lambda machine: struct.pack("=HBBI", 0x06, 0, 0, seccomp.ALLOW))
    found = await weakened(kind, home, "system calls", "files that lend rights")
    assert set(found) == {"system calls", "files that lend rights"}


async def test_it_notices_capabilities(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = await bwrap()
    monkeypatch.setattr(view, "_ISOLATION", (*view._ISOLATION, "--cap-add", "ALL"))
    assert "capabilities" in (await weakened(kind, home, "user, capabilities, filter"))["user, capabilities, filter"]


@pytest.mark.parametrize("left", [lambda found: [], lambda found: [item for item in found if not item[1]]], ids=["nothing", "no parents"])
async def test_it_notices_files_that_are_not_kept(home: Path, monkeypatch: pytest.MonkeyPatch, left: Any) -> None:
    """Read-only mounts alone are not enough: a parent that can be renamed takes them away with it."""
    kind = await bwrap()
    protected = places.protected
    monkeypatch.setattr(places, "protected", lambda workspace: left(protected(workspace)))
    assert ".git/hooks" in (await weakened(kind, home, "declarations and git hooks"))["declarations and git hooks"]


async def test_it_notices_the_processes_of_the_host(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = await bwrap()
    monkeypatch.setattr(view, "_ISOLATION", tuple(word for word in view._ISOLATION if word not in {"--unshare-pid", "--as-pid-1"}))
    assert await weakened(kind, home, "processes of the host")


async def test_a_kind_that_does_not_work_says_why_and_skips_the_rest(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(home))
    checks = await conformance.run(Bwrap(), home)
    assert failures(checks) == {"probe": "the program `bwrap` is not installed; apt-get install bubblewrap"}
    assert all(check.skipped for check in checks[1:])
    assert json.loads(msgspec.json.encode(checks))[0]["name"] == "probe"
    assert not list(home.iterdir())
