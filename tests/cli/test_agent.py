"""Declaring agents from the command line, and what `doctor` says of the programs that they can be."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from tests.cli.conftest import Program

SPEC = """\
name = "{name}"
title = "A tool"
dialects = ["openai"]
[program]
command = ["{command}"]
pinned = "1.2.3"
oldest = "1.0"
install = "make tool"
"""


def test_an_agent_is_declared_changed_and_removed(daemon: Program) -> None:
    folder = daemon.cwd / "project" / "deep"
    folder.mkdir(parents=True)
    daemon.cwd = folder.parent
    added = daemon.json("agent", "add", "coder", "--project", "--provider", "claude-code", "--workspace", "deep", "--memory", "2G")
    assert added["file"] == str(folder.parent / ".aegis.yaml")
    assert added["trusted"]
    assert added["agent"]["provider"] == "claude-code"
    text = (folder.parent / ".aegis.yaml").read_text()
    assert text == "agents:\n  coder:\n    provider: claude-code\n    workspace: deep\n    limits:\n      memory: 2G\n"
    daemon.cwd = folder  # the project is found from below
    daemon("agent", "set", "coder", "permission", "full")
    daemon("agent", "set", "coder", "egress", "[api.example.com:443]")
    daemon("agent", "set", "coder", "effort", "high")
    listed = daemon("agent", "list").stdout
    assert "claude-code" in listed
    assert "high" in listed
    assert "full" in listed
    shown = daemon.json("agent", "show", "coder")
    assert (shown["egress"], shown["workspace"]) == (["api.example.com:443"], str(folder))
    assert "did you mean `permission`" in daemon("agent", "set", "coder", "permision", "full", code=3).stderr
    assert "declared already" in daemon("agent", "add", "coder", code=1).stderr
    daemon("agent", "remove", "coder")
    assert (folder.parent / ".aegis.yaml").read_text() == ""


def test_your_own_and_an_untrusted_project(daemon: Program) -> None:
    mine = daemon.json("agent", "add", "helper", "--permission", "read", "--system", "You help.\nYou never write.")
    assert mine["file"] == str(daemon.home / "config.yaml")
    assert daemon.json("agent", "show", "helper")["system"] == "You help.\nYou never write."
    (daemon.cwd / ".aegis.yaml").write_text("agents: {theirs: {}}  # from somebody else\n")
    told = daemon("agent", "add", "mine")
    assert "not trusted" in told.stderr
    assert "# from somebody else" in (daemon.cwd / ".aegis.yaml").read_text()
    assert "not trusted" in daemon("agent", "list", code=4).stderr
    daemon("agent", "add", "other", "--user", "--project", code=2)


def test_doctor_names_each_program_and_every_bad_data_file(aegis: Program, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, version in (("goodtool", "1.3.0"), ("oldtool", "0.9")):
        (tools / name).write_text(f"#!{os.path.realpath(sys.executable)}\nprint('{version}')\n")
        (tools / name).chmod(stat.S_IRWXU)
    folder = aegis.home / "programs"
    folder.mkdir()
    for name in ("goodtool", "oldtool", "notool"):
        (folder / f"{name}.toml").write_text(SPEC.format(name=name, command=name))
    (folder / "wrong.toml").write_text(SPEC.format(name="wrong", command="x").replace("pinned", "pined"))
    (folder / "taken.toml").write_text(SPEC.format(name="native", command="x"))
    aegis.environment["PATH"] = f"{tools}:/usr/bin:/bin"
    rows = {row["name"]: row for row in aegis.json("doctor")["programs"]}
    assert {"claude-code", "gemini", "opencode", "goodtool", "oldtool", "notool"} <= rows.keys()
    good = rows["goodtool"]
    assert (good["ok"], good["version"], good["pinned"], good["path"]) == (True, "1.3.0", "1.2.3", str(tools / "goodtool"))
    assert "newer than 1.2.3" in good["warning"]
    assert good["capabilities"]["approvals"] is True
    assert (rows["oldtool"]["ok"], "1.0 or newer" in rows["oldtool"]["detail"]) == (False, True)
    assert (rows["notool"]["ok"], rows["notool"]["install"], "make tool" in rows["notool"]["mend"]) == (False, "make tool", True)
    faults = [row for row in rows.values() if row.get("fault")]
    assert any("pined" in fault["detail"] and "pinned" in fault["mend"] for fault in faults)
    assert any("`native`" in fault["detail"] for fault in faults)
    shown = aegis("doctor", code=None).stdout
    assert "newer than 1.2.3" in shown
    assert "make tool" in shown
    # A program of one's own is a provider like the others.
    assert aegis.json("agent", "add", "mine", "--provider", "goodtool")["agent"]["provider"] == "goodtool"
    assert "did you mean `goodtool`" in aegis("agent", "set", "mine", "provider", "godtool", "--user", code=2).stderr
    assert "make tool" in aegis("instance", "start", "--provider", "notool", "--model", "scripted/echo", code=3).stderr
