"""Case 15 against `fs.*` and `cmd.run`: paths that lead out, links that are exchanged under a call, and names that mean another."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.attacks.conftest import Box
from tests.conftest import RealDaemon

Make = Callable[..., Box]

#: Makes calls one after the other and prints their results; before them, starts the lines of Python that it is given as a thread.
CALLS = """
import http.client, json, os, threading, urllib.parse
url = urllib.parse.urlsplit(os.environ["AEGIS_MCP_URL"])
calls, meanwhile = json.load(open(os.path.expanduser("~/calls.json")))
stop = threading.Event()
thread = threading.Thread(target=exec, args=(meanwhile, {"os": os, "stop": stop}))
thread.start()
connection = http.client.HTTPConnection(url.hostname, url.port, timeout=60)
headers = {"content-type": "application/json", "authorization": "Bearer " + os.environ["AEGIS_MCP_TOKEN"]}
found = []
try:
    for name, arguments in calls:
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name, "arguments": arguments}}
        connection.request("POST", url.path, json.dumps(message).encode(), headers)
        found.append(json.loads(connection.getresponse().read()))
finally:
    stop.set()
    thread.join()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def house() -> Iterator[RealDaemon]:
    """A daemon whose agents have the built-in tools."""
    folder = Path(tempfile.mkdtemp(prefix="aegis-"))
    home = folder / "home"
    home.mkdir(mode=0o700)
    (home / "config.yaml").write_text("defaults:\n  tools: [core, fs, cmd, web]\n")
    real = RealDaemon(home)
    real.up()
    try:
        yield real
    finally:
        real.down()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["bwrap", "process"])
def a(request: pytest.FixtureRequest, box: Make, house: RealDaemon) -> Box:
    """An instance behind a boundary, and one without, where nothing but the tools themselves keeps a path in."""
    bwrap = next(s for s in house.client.doctor()["sandboxes"] if s["name"] == "bwrap")
    if request.param == "bwrap" and not bwrap["ok"]:
        pytest.skip(f"bwrap: {bwrap['detail']}; {bwrap['mend']}")
    return box(sandbox=request.param)


def calls(a: Box, *wanted: tuple[str, dict[str, Any]], meanwhile: str = "") -> list[dict[str, Any]]:
    """The results, in order; `meanwhile` goes on in a thread inside until they are there."""
    asked = a.state / "home" / "calls.json"
    asked.write_text(json.dumps([wanted, meanwhile]))
    asked.chmod(0o644)
    unknown = {"isError": True, "content": [{"text": "no such tool"}]}
    return [answer["result"] if "result" in answer else unknown for answer in a.python(CALLS)]


def ways(path: str) -> list[tuple[str, dict[str, Any]]]:
    """Every tool that takes a path, with this one."""
    return [
        ("fs_read", {"path": path}),
        ("fs_list", {"path": path}),
        ("fs_create_dir", {"path": f"{path}/made"}),
        ("fs_delete", {"path": f"{path}/victim"}),
        ("fs_write", {"path": path, "content": "overwritten"}),
        ("fs_write", {"path": f"{path}/new", "content": "new"}),
        ("fs_edit", {"path": path, "target_content": "canary", "replacement_content": "x"}),
        ("fs_multi_edit", {"path": path, "edits": [{"target_content": "canary", "replacement_content": "x"}]}),
        ("fs_grep", {"path": path, "pattern": "canary|root"}),
        ("fs_glob", {"path": path, "pattern": "*"}),
        ("cmd_run", {"command": "cat secret victim; ls", "cwd": path}),
    ]


def refused(result: dict[str, Any]) -> bool:
    """Whether nothing was done: an error, or a command that was not run."""
    return bool(result["isError"]) or "cannot run in" in result["content"][0]["text"]


class Outside:
    """What lies beside the workspace, and must be as it was."""

    def __init__(self, a: Box) -> None:
        self.place = a.workspace.parent / f"outside-{a.handle}"
        self.place.mkdir()
        self.place.chmod(0o777)
        for name in ("secret", "victim"):
            (self.place / name).write_text("canary")
            (self.place / name).chmod(0o666)

    def untouched(self) -> bool:
        return sorted(os.listdir(self.place)) == ["secret", "victim"] and all(f.read_text() == "canary" for f in self.place.iterdir())


def test_no_path_leads_out(a: Box) -> None:
    outside = Outside(a)
    up = "../" * 12
    links = {
        "file": outside.place / "secret",
        "dir": outside.place,
        "root": "/proc/self/root",
        "fds": "/proc/self/fd",
        "cwd": "/proc/self/cwd/..",
    }
    for name, target in links.items():
        os.symlink(str(target), a.workspace / name)
    paths = [
        f"{up}{outside.place}",
        f"x/../../{outside.place.name}",
        str(outside.place),
        str(outside.place / "secret"),
        "/",
        "/etc",
        "/workspace/..",
        f"//workspace/../{outside.place}",
        "a\x00b",
        "x" * 300,
        "d/" * 2048 + "x",
        "/proc/self/root/etc",
        "/proc/self/fd/0",
        "/proc/self/cwd",
        "file",
        "dir",
        "dir/secret",
        "root/etc",
        f"root{outside.place}",
        "fds/0",
        "cwd",
    ]
    wanted = [way for path in paths for way in ways(path)]
    for (tool, arguments), result in zip(wanted, calls(a, *wanted), strict=True):
        assert refused(result), (tool, arguments, result)
        assert "canary" not in result["content"][0]["text"].replace("target_content", ""), (tool, arguments)
    assert outside.untouched()
    denied = {row["reason"] for row in a.client.audit(limit=1000) if (row["action"], row["decision"]) == ("tool.call", "deny")}
    assert any("goes up with `..`" in reason for reason in denied)
    assert any("is not in the workspace" in reason for reason in denied)
    # What looks like an escape to somebody who decodes is a name like any other.
    names = ["%2e%2e", "..%2f", "%252e%252e", "..\\..", ".\u2025", "~", "~root"]
    assert not any(result["isError"] for result in calls(a, *(("fs_write", {"path": f"{name}/f", "content": "x"}) for name in names)))
    assert set(names) <= set(os.listdir(a.workspace))
    assert outside.untouched()
    # The tree is searched without leaving it.
    searches: list[tuple[str, dict[str, Any]]] = [("fs_grep", {"pattern": "canary"}), ("fs_glob", {"pattern": "**/secret"})]
    searches += [("fs_glob", {"pattern": pattern}) for pattern in ("dir/*", "../*", "/etc/*", f"{outside.place}/*")]
    assert {result["content"][0]["text"] for result in calls(a, *searches)} == {"(nothing matches)"}


def test_a_link_that_is_exchanged_under_a_call_leads_nowhere(a: Box) -> None:
    """A thread inside exchanges a directory and a file for links that lead out, as fast as it can, while the tools work on them."""
    outside = Outside(a)
    (a.workspace / "d").mkdir()
    for place in (a.workspace / "d" / "secret", a.workspace / "d" / "victim", a.workspace / "f"):
        place.write_text("mine")
    for place in (a.workspace, a.workspace / "d", a.workspace / "d" / "secret", a.workspace / "d" / "victim", a.workspace / "f"):
        place.chmod(0o777)
    swap = f"""
while not stop.is_set():
    for name, target in (("d", {str(outside.place)!r}), ("f", {str(outside.place / "secret")!r})):
        try:
            os.rename(name, name + ".away")
            os.symlink(target, name)
            os.unlink(name)
        except OSError:
            pass
        try:
            os.rename(name + ".away", name)
        except OSError:
            pass
"""
    wanted: list[tuple[str, dict[str, Any]]] = [
        ("fs_read", {"path": "d/secret"}),
        ("fs_write", {"path": "d/victim", "content": "mine"}),
        ("fs_write", {"path": "f", "content": "mine"}),
        ("fs_edit", {"path": "d/secret", "target_content": "canary", "replacement_content": "x"}),
        ("fs_read", {"path": "f"}),
        ("fs_grep", {"path": "d", "pattern": "canary"}),
        ("fs_delete", {"path": "d/new", "recursive": True}),
        ("fs_create_dir", {"path": "d/new"}),
        ("fs_list", {"path": "d"}),
    ] * 8
    for (tool, arguments), result in zip(wanted, calls(a, *wanted, meanwhile=swap), strict=True):
        told = result["content"][0]["text"]
        assert "canary" not in told or "target_content" in told, (tool, arguments, result)
    assert outside.untouched()


def test_a_directory_that_is_moved_away_takes_nobody_out(a: Box) -> None:
    """The tool is in a directory when that moves up, or out of the workspace: names from there on are still only names."""
    outside = Outside(a)
    deep = a.workspace / "x" / "y" / "z"
    deep.mkdir(parents=True)
    (deep / "f").write_text("mine")
    for folder in (a.workspace, a.workspace / "x", a.workspace / "x" / "y", deep):
        folder.chmod(0o777)
    moves = f"""
while not stop.is_set():
    for there in ("moved", {str(outside.place / "moved")!r}, os.path.expanduser("~/moved")):
        try:
            os.rename("x/y", there)
            os.rename(there, "x/y")
        except OSError:
            pass
"""
    wanted: list[tuple[str, dict[str, Any]]] = [
        ("fs_read", {"path": "x/y/z/f"}),
        ("fs_read", {"path": "x/y/z/../../../../secret"}),
        ("fs_write", {"path": "x/y/z/f", "content": "mine"}),
        ("fs_grep", {"path": "x", "pattern": "canary"}),
    ] * 10
    for (tool, arguments), result in zip(wanted, calls(a, *wanted, meanwhile=moves), strict=True):
        assert "canary" not in result["content"][0]["text"], (tool, arguments)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(outside.place / "moved")
    assert outside.untouched()


def test_a_hard_link_is_not_written_through(a: Box) -> None:
    outside = Outside(a)
    os.link(outside.place / "secret", a.workspace / "hard")
    os.link(outside.place / "victim", a.workspace / "other")
    results = calls(
        a,
        ("fs_write", {"path": "hard", "content": "mine"}),
        ("fs_edit", {"path": "other", "target_content": "canary", "replacement_content": "mine"}),
        ("fs_delete", {"path": "other"}),
    )
    assert results
    assert outside.untouched()
    # A program inside that has a boundary cannot make one to what it does not see.
    if a.client.instances.get(a.handle)["sandbox"] == "bwrap":
        made = a.attempts(f'link: os.link({str(outside.place / "secret")!r}, "/workspace/made")')
        assert made["link"] != "done"


def test_what_the_host_acts_upon_is_not_written_in_any_spelling(a: Box) -> None:
    (a.workspace / ".git").mkdir()
    (a.workspace / ".git").chmod(0o777)
    before = sorted(os.listdir(a.workspace))
    names = (".git", ".GIT", ".Git", ".g\u200dit", "．git", ".git.", "sub/.git", ".aegis", ".AEGIS", ".aegis.yaml", ".AEGIS.YAML")
    wanted = [
        each
        for name in names
        for each in (
            ("fs_write", {"path": f"{name}/hooks/pre-commit", "content": "#!/bin/sh"}),
            ("fs_write", {"path": name, "content": "x"}),
            ("fs_create_dir", {"path": f"{name}/hooks"}),
            ("fs_delete", {"path": name, "recursive": True}),
        )
    ]
    assert all(result["isError"] for result in calls(a, *wanted))
    assert sorted(os.listdir(a.workspace)) == before
    assert os.listdir(a.workspace / ".git") in ([], ["hooks"])


def test_a_reader_changes_nothing(box: Make, house: RealDaemon) -> None:
    """No sandbox without a boundary takes an agent that may only read."""
    bwrap = next(s for s in house.client.doctor()["sandboxes"] if s["name"] == "bwrap")
    if not bwrap["ok"]:
        pytest.skip(f"bwrap: {bwrap['detail']}; {bwrap['mend']}")
    a = box(permission="read")
    (a.workspace / "f").write_text("mine")
    (a.workspace / "f").chmod(0o666)
    a.workspace.chmod(0o777)
    wanted: list[tuple[str, dict[str, Any]]] = [
        ("fs_write", {"path": "f", "content": "x"}),
        ("fs_edit", {"path": "f", "target_content": "mine", "replacement_content": "x"}),
        ("fs_multi_edit", {"path": "f", "edits": [{"target_content": "mine", "replacement_content": "x"}]}),
        ("fs_create_dir", {"path": "d"}),
        ("fs_delete", {"path": "f"}),
        ("cmd_run", {"command": "echo x > f; touch g"}),
        ("fs_read", {"path": "f"}),
    ]
    *changed, read = calls(a, *wanted)
    assert all(result["isError"] for result in changed[:-1])
    assert read["content"][0]["text"] == "mine"
    assert (os.listdir(a.workspace), (a.workspace / "f").read_text()) == (["f"], "mine")
