"""Case 14, and the default of nothing (case 1): where does each tool of the agent read and write, whatever path it is given?"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.attacks.conftest import Box
from tests.conftest import RealDaemon

Make = Callable[..., Box]
MARK = "canary-5d1f"


@pytest.fixture
def outside(open_folder: Path) -> Path:
    """A directory of the host that nothing declares, open to everybody."""
    (open_folder / "secret.txt").write_text(f"{MARK}\n")
    (open_folder / "secret.txt").chmod(0o666)
    return open_folder


def targets(a: Box, b: Box, outside: Path) -> dict[str, tuple[str, Path]]:
    """Name -> the path as the agent writes it, and the directory of the host it would mean."""
    return {
        "host": (str(outside), outside),
        "aegis home": (str(a.daemon.home), a.daemon.home),
        "own state": (str(a.state), a.state),
        "other home": (str(b.state / "home"), b.state / "home"),
        "other workspace": (str(b.workspace), b.workspace),
        "through proc": (f"/proc/1/root{outside}", outside),
        "dots": (f"../../../..{outside}", outside),
    }


READERS: dict[str, Callable[[str], dict[str, Any]]] = {
    "read": lambda d: {"path": f"{d}/secret.txt"},
    "list": lambda d: {"path": d},
    "glob": lambda d: {"pattern": "*", "path": d},
    "grep": lambda d: {"pattern": ".", "path": d},
    "bash": lambda d: {"command": f"cat {d}/secret.txt; ls {d}"},
}
WRITERS: dict[str, Callable[[str], dict[str, Any]]] = {
    "write": lambda d: {"path": f"{d}/landed", "content": MARK},
    "edit": lambda d: {"path": f"{d}/secret.txt", "old_text": MARK, "new_text": "changed"},
    "bash": lambda d: {"command": f"mkdir -p {d}; echo {MARK} > {d}/landed; echo changed > {d}/secret.txt"},
}


def test_no_tool_reads_outside(box: Make, outside: Path) -> None:
    a, b = box("a"), box("b")
    (b.workspace / "secret.txt").write_text(MARK)
    (b.state / "home" / "secret.txt").write_text(MARK)
    for name, (path, _) in targets(a, b, outside).items():
        for tool, arguments in READERS.items():
            result = a.call(tool, **arguments(path))
            assert MARK not in result["output"], (name, tool, result)
            assert "secret.txt" not in result["output"].replace(f"{path}/secret.txt", ""), (name, tool, result)


def test_no_tool_writes_outside(box: Make, outside: Path) -> None:
    a, b = box("a"), box("b")
    for name, (path, real) in targets(a, b, outside).items():
        before = sorted(p.name for p in real.iterdir())
        for tool, arguments in WRITERS.items():
            a.call(tool, **arguments(path))
            assert MARK not in (real / "landed").read_text() if (real / "landed").exists() else True, (name, tool)
        assert sorted(p.name for p in real.iterdir() if not p.name.startswith("aegis.db")) == [
            n for n in before if not n.startswith("aegis.db")
        ], name
    assert (outside / "secret.txt").read_text() == f"{MARK}\n"


def test_writes_land_in_the_sandbox(box: Make) -> None:
    a = box()
    for tool, arguments in (
        ("write", {"path": "one", "content": MARK}),
        ("bash", {"command": f"echo {MARK} > two; echo {MARK} > ~/three; echo {MARK} > /tmp/four"}),
    ):
        assert a.call(tool, **arguments)["ok"]
    assert {p.name for p in a.workspace.iterdir()} == {"one", "two"}
    assert {p.name for p in (a.state / "home").iterdir()} == {"three"}
    assert not Path("/tmp/four").exists()
    assert (a.workspace / "two").stat().st_uid == a.workspace.stat().st_uid == os.geteuid()


def test_permission_read_is_kept_by_mounts_not_by_manners(box: Make) -> None:
    a = box(permission="read")
    (a.workspace / "kept").write_text(MARK)
    assert MARK in a.call("read", path="kept")["output"]
    for tool, arguments in WRITERS.items():
        if tool == "bash":
            assert not a.call(tool, command="echo x > landed")["ok"]
            a.call(
                tool, command="rm -f kept; mv kept away; chmod 777 .; ln kept link; touch new; mkdir d; truncate -s 0 kept; echo x >> kept"
            )
        else:  # it is not even offered
            assert not a.call(f"={tool}", **arguments("/workspace"))["ok"]
    assert a.sh("echo x > /workspace/kept; mount -o remount,rw /workspace").code != 0
    assert {p.name: p.read_text() for p in a.workspace.iterdir()} == {"kept": MARK}


def test_permission_read_is_refused_where_nothing_keeps_it(house: RealDaemon, tmp_path: Path) -> None:
    from aegis.core.errors import AegisError, ErrorKind

    for spec in ({"permission": "read"}, {"read_only": True}, {"read_only": True, "agent": None, "model": None, "command": ["true"]}):
        with pytest.raises(AegisError) as caught:
            house.start("r", sandbox="process", workspace=str(tmp_path), **spec)
        assert caught.value.kind is ErrorKind.DENIED
    assert house.client.instances.all() == []


def test_nothing_is_there_that_nobody_gave(house: RealDaemon, tmp_path: Path, box: Make) -> None:
    """Case 1: absent and empty lists of mounts, secrets and variables are none; `*` for secrets shows none inside."""
    house.client.secrets.set("CANARY_KEY", MARK)
    try:
        for number, spec in enumerate(({}, {"mounts": [], "secrets": [], "env": {}}, {"secrets": ["*"]}, {"secrets": ["CANARY_KEY"]})):
            a = box(f"n{number}", **spec)
            info = a.client.instances.get(a.handle)
            assert info["mounts"] == []
            assert info["exposed_secrets"] == []
            assert info["env_keys"] == []
            assert MARK not in a.sh("env; cat /proc/*/environ 2>/dev/null").out
            assert a.sh("ls -A ~ /workspace /tmp /mnt /srv /opt /media /var 2>/dev/null | grep -v : | tr -d '\\n'").out == ""
            roots = a.sh("ls -A /").out.split()
            assert set(roots) <= {
                *"bin dev etc home lib lib32 lib64 libx32 proc root run sbin tmp usr workspace".split(),
                Path(os.sys.base_prefix).parts[1],
            }
    finally:
        house.client.secrets.delete("CANARY_KEY")


@pytest.mark.parametrize(
    "given", [[""], [" "], [" *"], ["*:env", "NOBODY"], [":env"], ["CANARY_KEY:file"], ["../CANARY_KEY"], ["CANARY_KEY\n"]]
)
def test_a_list_of_secrets_that_means_nothing_is_refused(house: RealDaemon, given: list[str]) -> None:
    from aegis.core.errors import AegisError

    with pytest.raises(AegisError):
        house.start("s", sandbox="bwrap", secrets=given)


def test_the_agent_holds_nothing_of_the_guest(box: Make) -> None:
    """Case 18: what a tool's child finds in itself and in the agent above it. The tether is a socket; there is none."""
    a = box()
    found = a.call("bash", command="ls -l /proc/self/fd /proc/$PPID/fd; cat /proc/self/environ | tr '\\0' '\\n'")["output"]
    # Its own way to Aegis's MCP server is a TCP connection on the loopback inside, and nothing else is a socket.
    inside = a.call("bash", command="awk 'NR > 1 { print $10 }' /proc/net/tcp")["output"].split()
    assert set(re.findall(r"socket:\[(\d+)\]", found)) <= set(inside), found
    assert "AEGIS_TETHER_FD" not in found
    assert "AEGIS_TOKEN" not in found
    assert not a.call("bash", command="cat /proc/1/environ")["ok"]
