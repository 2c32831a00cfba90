"""The programs that notices are given to: what they get, and what they cannot do."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aegis.core.errors import AegisError, ErrorKind
from aegis.services.attention import Notice, channels
from aegis.services.attention.channels import Channels

if TYPE_CHECKING:
    from collections.abc import Iterable

NOTICE = Notice(kind="needs-you", instance="inst_1", cause="appr_1", handle="coder", text="coder asks leave: make", session="host:default")


def script(path: Path, text: str) -> Path:
    """A program of the person's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def made(tmp_path: Path, shared: Iterable[Path] = (), **environ: str) -> Channels:
    """Channels of a daemon with this environment."""
    given = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "HOME": "/home/me", "SECRET_KEY": "hidden", "LC_ALL": "C.UTF-8", **environ}
    return Channels(tmp_path / "home", given, lambda: shared)


async def test_a_command_gets_the_facts_and_a_clean_environment(tmp_path: Path) -> None:
    hook = script(tmp_path / "hook", f'cat > {tmp_path}/stdin; env > {tmp_path}/env; pwd > {tmp_path}/cwd; echo "$@" > {tmp_path}/argv')
    await made(tmp_path).command([str(hook), "a b", "$(id)", "; reboot"], NOTICE.text, [NOTICE])
    told = json.loads((tmp_path / "stdin").read_text())
    assert (told["v"], told["kind"], told["text"]) == (1, "needs-you", NOTICE.text)
    assert told["notices"][0]["handle"] == "coder"
    assert told["notices"][0]["session"] == "host:default"
    env = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines())
    assert env["AEGIS_ATTENTION_KIND"] == "needs-you"
    assert env["AEGIS_ATTENTION_HANDLE"] == "coder"
    assert env["AEGIS_ATTENTION_TEXT"] == NOTICE.text
    assert env["AEGIS_ATTENTION_COUNT"] == "1"
    assert env["AEGIS_HOME"] == str(tmp_path / "home")
    assert "SECRET_KEY" not in env
    assert (tmp_path / "cwd").read_text() == "/\n"
    assert (tmp_path / "argv").read_text() == "a b $(id) ; reboot\n", "no shell"


async def test_the_desktop_gets_one_line_that_is_no_option_and_no_markup(tmp_path: Path) -> None:
    script(tmp_path / "bin" / "notify-send", f'for a in "$@"; do printf "%s\\0" "$a"; done > {tmp_path}/argv; env > {tmp_path}/env')
    evil = Notice(kind="done", instance="i", cause="c", handle="--help", text="--hint=x <b>bold</b> \\074i\\076 & \\n")
    await made(tmp_path, DBUS_SESSION_BUS_ADDRESS="unix:path=/x").desktop("--urgency=critical", [evil, NOTICE])
    *options, summary, body = (tmp_path / "argv").read_bytes().decode().split("\0")[:-1]
    assert options == ["--app-name=Aegis", "--"]
    assert summary == "--urgency=critical"
    assert body.splitlines()[0] == "--hint=x &lt;b&gt;bold&lt;/b&gt; \\\\074i\\\\076 &amp; \\\\n"
    env = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines())
    assert set(env) - {"PWD", "SHLVL", "_", "OLDPWD"} == {"PATH", "LANG", "DBUS_SESSION_BUS_ADDRESS"}


async def test_without_the_program_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(AegisError) as caught:
        await made(tmp_path, PATH=str(tmp_path / "bin")).desktop("x", [NOTICE])
    assert caught.value.kind is ErrorKind.UNAVAILABLE
    with pytest.raises(AegisError) as caught:
        await made(tmp_path).command(["no-such-program"], "x", [NOTICE])
    assert caught.value.kind is ErrorKind.NOT_FOUND
    with pytest.raises(AegisError) as caught:
        await made(tmp_path).command(["./hook"], "x", [NOTICE])
    assert caught.value.kind is ErrorKind.NOT_FOUND, "nothing depends on where the daemon was started"


@pytest.mark.parametrize("what", ["program", "argument", "on PATH", "through a link"])
async def test_nothing_is_run_that_an_agent_could_exchange(tmp_path: Path, what: str) -> None:
    space = tmp_path / "workspace"
    hook = script(space / "bin" / "hook", f"touch {tmp_path}/escaped")
    link = tmp_path / "link"
    link.symlink_to(space)
    argv = {
        "program": [str(hook)],
        "argument": ["/bin/sh", str(hook)],
        "on PATH": ["hook"],
        "through a link": [str(link / "bin" / "hook")],
    }[what]
    with pytest.raises(AegisError) as caught:
        await made(tmp_path, [space], PATH=f"{space / 'bin'}:/usr/bin:/bin").command(argv, "x", [NOTICE])
    assert caught.value.kind in (ErrorKind.DENIED, ErrorKind.NOT_FOUND)
    assert not (tmp_path / "escaped").exists()


async def test_a_failure_says_the_last_line_and_much_output_is_no_trouble(tmp_path: Path) -> None:
    hook = script(tmp_path / "hook", "head -c 20000000 /dev/zero | tr '\\0' x; echo; printf 'no \\033[31mbus\\n'; exit 3")
    with pytest.raises(AegisError) as caught:
        await made(tmp_path).command([str(hook)], "x", [NOTICE])
    assert caught.value.message == "`hook` ended with 3: no bus"


async def test_one_that_hangs_is_killed_with_all_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "COMMAND_SECONDS", 0.3)
    hook = script(tmp_path / "hook", f"sleep 600 & echo $! > {tmp_path}/child; wait")
    with pytest.raises(AegisError) as caught:
        await made(tmp_path).command([str(hook)], "x", [NOTICE])
    assert caught.value.kind is ErrorKind.TIMEOUT
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 10
    while _runs(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def test_what_does_not_read_its_input_is_no_trouble(tmp_path: Path) -> None:
    many = [NOTICE] * 3000  # more than a pipe holds
    await made(tmp_path).command(["/bin/true"], "x", many)


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
