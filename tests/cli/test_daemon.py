"""The daemon's own verbs, and the race of several starts, with real processes."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from pathlib import Path

from tests.cli.conftest import Program


def test_up_status_down(aegis: Program) -> None:
    assert "started" in aegis("up").stdout
    assert "already runs" in aegis("up").stdout
    told = aegis.json("status")
    assert (told["status"], told["home"]) == ("running", str(aegis.home))
    assert "runs" in aegis("status").stdout
    assert aegis.json("down") == {"status": "stopped", "stopped": True, "pid": told["pid"]}
    assert aegis("status", code=7).stdout
    assert not (aegis.home / "aegisd.sock").exists()


def test_any_verb_starts_the_daemon(aegis: Program) -> None:
    assert aegis.lines("ls") == []
    assert aegis.json("status")["status"] == "running"


def test_many_at_once_end_with_one_daemon(aegis: Program) -> None:
    starts = [aegis.popen("up", "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(6)]
    told = []
    for process in starts:
        out, err = process.communicate(timeout=45)
        assert process.returncode == 0, err.decode()
        told.append(json.loads(out))
    assert len({item["pid"] for item in told}) == 1
    assert [item["started"] for item in told].count(True) == 1


def test_a_daemon_killed_is_started_again_by_the_next_verb(daemon: Program) -> None:
    pid = daemon.json("status")["pid"]
    ended = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    assert select.select([ended], [], [], 30)[0]
    os.close(ended)
    assert daemon("status", code=7)
    assert daemon.lines("ls") == []
    assert daemon.json("status")["pid"] != pid


def test_a_backup_is_a_whole_home_together_with_its_key(daemon: Program, tmp_path: Path) -> None:
    daemon("secret", "set", "NAME", stdin=b"value")
    daemon("instance", "start", "--name", "a", "--sandbox", "process", "--model", "scripted/echo")
    daemon("send", "a", "remember this", "--wait")
    told = daemon.json("backup", "copy.db")
    copy = tmp_path.resolve() / "copy.db"
    assert told == {"path": str(copy), "bytes": copy.stat().st_size}
    done = daemon("backup", "copy.db", code=2)
    assert "is there already" in done.stderr
    assert "master.key" in daemon("backup", "other.db").stderr
    daemon("backup", "nowhere/copy.db", code=2)

    daemon("down")
    for name in ("aegis.db", "aegis.db-wal", "aegis.db-shm"):
        (daemon.home / name).unlink(missing_ok=True)
    copy.rename(daemon.home / "aegis.db")
    assert "remember this" in daemon("transcript", "a").stdout
    shown = daemon("run", "--sandbox", "process", "--secret", "NAME:env", "--", "printenv", "NAME")
    assert shown.stdout == "value\n"


def test_doctor_tells_of_sandboxes_and_models(daemon: Program) -> None:
    told = daemon.json("doctor")
    assert {item["name"] for item in told["sandboxes"]} >= {"process"}
    shown = daemon("doctor", code=None).stdout
    assert "Sandboxes" in shown
    assert "process" in shown


def test_an_unknown_sandbox_is_not_found(daemon: Program) -> None:
    assert "no sandbox `proces`" in daemon("doctor", "--sandbox", "proces", code=3).stderr


def test_serve_runs_in_the_foreground_and_ends_on_a_signal(aegis: Program) -> None:
    process = aegis.popen("serve", stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    with process.stderr:
        for line in process.stderr:
            if b"ready on" in line:
                break
        assert aegis.json("status")["pid"] == process.pid
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
    assert process.wait(30) == 0


def test_a_key_in_the_environment_is_not_told_to_the_daemon(aegis: Program) -> None:
    aegis.environment["ANTHROPIC_API_KEY"] = "sk-hidden"
    pid = aegis.json("up")["pid"]
    with open(f"/proc/{pid}/environ", "rb") as file:
        assert b"sk-hidden" not in file.read()
