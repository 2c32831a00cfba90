"""From inside a sandbox: children that are to have more than their parent, paths that lead out, crowds at the limit, and others' children."""

from __future__ import annotations

import contextlib
import threading
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.attacks.conftest import Box, box, house  # noqa: F401
from tests.conftest import RealDaemon

from aegis.client.api import pages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CALL = """
import concurrent.futures, json, os, sys, urllib.error, urllib.request
def one(tool, arguments):
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}).encode()
    headers = {"authorization": "Bearer " + os.environ["AEGIS_MCP_TOKEN"], "content-type": "application/json",
               "accept": "application/json, text/event-stream"}
    try:
        answer = urllib.request.urlopen(urllib.request.Request(os.environ["AEGIS_MCP_URL"], body, headers)).read().decode()
    except (urllib.error.URLError, OSError) as error:
        return {"isError": True, "structuredContent": {"kind": "gone", "error": str(error)}}
    lines = [line[5:] for line in answer.splitlines() if line.startswith("data:")] or [answer]
    return json.loads(lines[-1]).get("result") or {"isError": True, "structuredContent": {"kind": "protocol", "error": answer}}
calls = json.loads(sys.argv[1])
with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
    print(json.dumps(list(pool.map(lambda call: one(*call), calls))))
"""
CONFIG = """
defaults: {tools: [core, children], spawn: {children: 5, total: 10}}
agents:
  deployer: {permission: full, egress: ["127.0.0.1:9", packages], secrets: [DEPLOY_KEY:env], mounts: [{path: /srv, target: /srv}]}
"""


class Parent(Box):
    """A box whose programs call Aegis's tools."""

    def calls(self, *calls: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
        """Make calls at the same time; the results in their order."""
        import json

        return list(self.python(_CALL, json.dumps(calls)))

    def tool(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Call one tool."""
        return self.calls((name, arguments))[0]

    def refused(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Call one that must fail; what it says for programs."""
        result = self.tool(name, **arguments)
        assert result["isError"], result
        return dict(result["structuredContent"])


@pytest.fixture
def parent(house: RealDaemon, box: Callable[..., Box]) -> Iterator[Callable[..., Parent]]:  # noqa: F811
    """Makes instances that may have children."""
    (house.home / "config.yaml").write_text(CONFIG)

    def make(handle: str = "a", **spec: Any) -> Parent:
        found = box(handle, **spec)
        return Parent(house, handle, found.workspace)

    yield make
    (house.home / "config.yaml").unlink()


def handles(daemon: RealDaemon) -> set[str]:
    return {item["handle"] for item in daemon.client.instances.all()}


def test_a_child_that_asks_for_more_in_any_dimension_is_refused_and_leaves_nothing(
    house: RealDaemon,  # noqa: F811
    parent: Callable[..., Parent],
    tmp_path: Path,
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    house.client.secrets.set("DEPLOY_KEY", "s3cr3t")
    a = parent(memory_mb=1024, cpus=1, pids=500, permission="full", egress=["127.0.0.1:9"], mounts=[f"{shared}:/shared"])
    before = handles(house)
    wishes: list[tuple[dict[str, Any], str]] = [
        ({"egress": ["127.0.0.1:9,10"]}, "denied"),
        ({"egress": ["127.0.0.0/8:9"]}, "denied"),
        ({"egress": ["packages"]}, "denied"),
        ({"egress": ["*.example.com:9"]}, "denied"),
        ({"egress": ["*"]}, "usage"),
        ({"secrets": ["DEPLOY_KEY"]}, "denied"),
        ({"secrets": ["DEPLOY_KEY:env"]}, "denied"),
        ({"secrets": ["*"]}, "denied"),
        ({"mounts": ["/shared:/shared:rw"]}, "denied"),
        ({"mounts": ["/workspace:/w:rw"]}, "denied"),
        ({"mounts": ["/etc:/e"]}, "denied"),
        ({"mounts": ["/proc/self/root:/e"]}, "denied"),
        ({"mounts": ["/shared/../..:/e"]}, "denied"),
        ({"mounts": ["/home/agent:/e"]}, "denied"),
        ({"memory_mb": 2048}, "limit"),
        ({"cpus": 2}, "limit"),
        ({"pids": 501}, "limit"),
        ({"memory_mb": -1}, "usage"),
        ({"permission": "root"}, "not_found"),
        ({"env": {"AEGIS_TOKEN": "x"}}, "usage"),
        ({"env": {"AEGIS_MCP_TOKEN": "x"}}, "usage"),
        *(({word: "process"}, "usage") for word in ("sandbox", "auth", "project", "record", "replay", "mcp", "handle", "spawn")),
    ]
    results = a.calls(*[("aegis_spawn_program", {"command": ["sleep", "60"], **wish}) for wish, _ in wishes])
    for (wish, kind), result in zip(wishes, results, strict=True):
        assert result["isError"], wish
        assert result["structuredContent"]["kind"] == kind, (wish, result)
        assert "DEPLOY_KEY" not in str(result) or "secrets" in wish
    assert handles(house) == before
    assert a.refused("aegis_spawn", prompt="x", from_handle="b")["kind"] == "denied", "it is who it is"


def test_a_child_by_a_mighty_name_has_no_more_than_who_started_it(house: RealDaemon, parent: Callable[..., Parent]) -> None:  # noqa: F811
    house.client.secrets.set("DEPLOY_KEY", "s3cr3t")
    a = parent(permission="read")
    said = a.tool("aegis_spawn", prompt="[[say hello]]", agent="deployer", slug="mighty")
    assert not said["isError"], said
    assert {"permission", "egress", "secrets", "exposed secrets"} <= set(said["structuredContent"]["cuts"])
    item = house.client.instances.get("mighty")
    assert (item["permission"], item["egress"], item["secret_keys"], item["exposed_secrets"], item["mounts"]) == ("read", [], [], [], [])
    for command in ("touch /workspace/x", "touch /workspace/.aegis.yaml"):
        said = a.tool("aegis_exec", handle="mighty", command=["sh", "-c", command])
        assert "Read-only" in said["structuredContent"]["output"]
    shown = a.tool("aegis_exec", handle="mighty", command=["sh", "-c", "env; ls /srv"])["structuredContent"]["output"]
    assert "s3cr3t" not in shown
    assert a.refused("aegis_spawn", prompt="x", permission="write")["kind"] == "denied"


def test_no_path_leads_out(house: RealDaemon, parent: Callable[..., Parent]) -> None:  # noqa: F811
    a = parent()
    a.sh(
        "cd /workspace; mkdir -p .git/hooks .aegis sub; ln -s /etc out; ln -s / root; ln -s ../../../../etc up; ln -s .git git; ln -s loop loop;"
        "ln -s /workspace/sub again"
    )
    paths = (
        "/workspace/..", "/workspace/../..", "sub/../../..", "/", "/etc", "/home/agent", "/tmp", "/run/aegis", "/proc/self/cwd",
        "out", "root", "root/etc", "up", "loop", ".git", ".git/hooks", "git", ".aegis", "//etc", "/workspace//../etc", "sub\x00", "none",
        str(a.workspace.parent), "again",
    )  # fmt: skip
    for cwd, said in zip(paths, a.calls(*[("aegis_spawn_program", {"command": ["ls"], "cwd": cwd}) for cwd in paths]), strict=True):
        assert said["isError"], cwd
        assert said["structuredContent"]["kind"] in ("denied", "not_found", "usage"), (cwd, said)
        assert str(a.workspace) not in str(said), "nor does an error say where it is on the host"
    assert handles(house) == {"a"}


def test_a_path_that_is_swapped_later_is_not_followed(house: RealDaemon, parent: Callable[..., Parent], tmp_path: Path) -> None:  # noqa: F811
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("not for you")
    a = parent()
    a.sh("mkdir /workspace/sub")
    assert not a.tool("aegis_spawn_program", command=["sleep", "600"], cwd="sub", slug="c")["isError"]
    (a.workspace / "sub").rename(a.workspace / "was")
    (a.workspace / "sub").symlink_to(outside)
    house.client.instances.act("c", "disable")
    with pytest.raises(Exception, match="by now"):
        house.client.instances.act("c", "start")
    assert house.client.instances.get("c")["state"] == "failed"


@pytest.mark.parametrize("tool", ["aegis_spawn", "aegis_spawn_program"])
def test_of_fifty_at_once_no_more_than_the_limit_is_started(house: RealDaemon, parent: Callable[..., Parent], tool: str) -> None:  # noqa: F811
    a = parent()
    wish = {"prompt": "[[say x]]"} if tool == "aegis_spawn" else {"command": ["sleep", "600"]}
    results = a.calls(*[(tool, wish)] * 50)
    assert [r["isError"] for r in results].count(False) == 5
    assert {r["structuredContent"]["kind"] for r in results if r["isError"]} == {"limit"}
    assert len(handles(house)) == 6
    refused = next(r["structuredContent"] for r in results if r["isError"])
    assert "aegis_close" in refused["hint"]


def test_a_parent_that_is_deleted_in_the_middle_of_its_spawns_leaves_no_child(house: RealDaemon, parent: Callable[..., Parent]) -> None:  # noqa: F811
    a = parent()
    head = house.client.status()["head"]

    def spawn() -> None:
        with contextlib.suppress(AssertionError, ValueError):  # its own sandbox goes
            a.calls(*[("aegis_spawn_program", {"command": ["sleep", "600"]})] * 5)

    attack = threading.Thread(target=spawn)
    attack.start()
    with house.client.follow_events(head, types=("instance.created",)) as stream:
        next(iter(stream))
    house.client.instances.delete("a")
    attack.join()
    made = sum(event["type"] == "instance.created" for event in pages(house.client, head))
    with house.client.follow_events(head, types=("instance.deleted",)) as stream:
        assert len(list(islice(stream, made + 1))) == made + 1, "the parent, and every child that was reserved"
    assert not handles(house)


def test_only_who_is_above_may_touch_a_child(house: RealDaemon, parent: Callable[..., Parent]) -> None:  # noqa: F811
    a, b = parent("a"), parent("b")
    assert not a.tool("aegis_spawn", prompt="[[say x]]", slug="c")["isError"]
    c = Parent(house, "c", a.workspace)
    tools: list[tuple[str, dict[str, Any]]] = [
        ("aegis_exec", {"command": ["true"]}), ("aegis_cancel", {}), ("aegis_pause", {}), ("aegis_await", {}), ("aegis_close", {"force": True}),
    ]  # fmt: skip
    for who, targets in ((b, ("c", "a")), (c, ("a", "b", "c")), (a, ("a", "b"))):
        tried = [(tool, {"handle": target, **more}) for target in targets for tool, more in tools]
        for attempt, result in zip(tried, who.calls(*tried), strict=True):
            assert result["isError"], (who.handle, attempt)
            assert result["structuredContent"]["kind"] in ("not_found", "denied", "usage"), (who.handle, attempt, result)
    assert handles(house) == {"a", "b", "c"}
    assert not a.tool("aegis_pause", handle="c")["isError"]
    assert not a.tool("aegis_close", handle="c", force=True)["isError"]
    assert handles(house) == {"a", "b"}
