"""Sub-agents through the real daemon: native agents on a scripted model start others, wait for them, look after them, and end them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.conftest import RealDaemon

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def family(short_home: Path, tmp_path: Path) -> Iterator[RealDaemon]:
    """A daemon whose agents have the tools for their children, and an agent `boss` on a workspace."""
    short_home.mkdir(mode=0o700)
    (short_home / "config.yaml").write_text("defaults:\n  tools: [core, children]\n  spawn: {depth: 3}\n")
    real = RealDaemon(short_home)
    real.up()
    real.start("boss", workspace=str(tmp_path))
    yield real
    real.down()


def call(tool: str, **arguments: Any) -> str:
    """A directive that calls a tool."""
    return f"[[call {tool} {json.dumps(arguments)}]]"


def results(daemon: RealDaemon, handle: str) -> list[str]:
    """What its tools answered, oldest first."""
    blocks = [b for m in daemon.client.mail.transcript(handle)["messages"] for b in m["content"]]
    return [str(b["output"]) for b in blocks if b["type"] == "tool_result"]


def nodes(daemon: RealDaemon, root: str | None = None) -> dict[str, dict[str, Any]]:
    return {node["handle"]: node for node in daemon.client.instances.tree(root)}


def happens(daemon: RealDaemon, kind: str, handle: str, **data: Any) -> dict[str, Any]:
    """The first event of this type of an instance with these facts, which is waited for."""
    ident = daemon.client.instances.get(handle)["id"]
    with daemon.client.follow_events(0, instance=ident, types=(kind,)) as stream:
        for event in stream:
            if all(event["data"].get(name) == value for name, value in data.items()):
                return dict(event)
    raise AssertionError("the daemon ended")


def test_an_agent_works_with_its_children(family: RealDaemon, tmp_path: Path) -> None:
    kid = f"{call('bash', command='echo made > made')} [[say it is made]]"
    family.ask("boss", f"{call('aegis_spawn', prompt=kid, slug='kid')} {call('aegis_await', handle='kid')} [[say over]]")
    spawned, awaited = results(family, "boss")
    assert "`kid`" in spawned
    assert "is done: completed" in awaited
    assert "> from agent:kid" in awaited or "it is made" in str(family.client.mail.transcript("boss"))
    assert (tmp_path / "made").read_text() == "made\n"
    assert family.client.instances.get("kid")["parent"] == "boss"

    program = call("aegis_spawn_program", command=["sh", "-c", "echo from the program"], slug="tool")
    family.ask(
        "boss", f"{program} {call('aegis_await', handle='tool')} {call('aegis_exec', handle='kid', command=['cat', 'made'])} [[say x]]"
    )
    _, awaited, executed = results(family, "boss")[-3:]
    assert "from the program" in awaited
    assert executed.startswith("made")

    hang = "[[hang 300]] [[say never]]"
    family.ask("kid", f"{call('aegis_spawn', prompt=hang, slug='below')} [[say x]]")
    family.ask("boss", f"{call('aegis_close', handle='kid')} {call('aegis_close', handle='below')} {call('aegis_children')} [[say x]]")
    refused, foreign, listed = results(family, "boss")[-3:]
    assert "it has children: below" in refused
    assert "not yours" in foreign
    assert [line.split()[0] for line in listed.splitlines()] == ["kid", "below", "tool"]
    tree = nodes(family)
    assert [(n["handle"], n["depth"]) for n in tree.values()] == [("boss", 0), ("kid", 1), ("below", 2), ("tool", 1)]
    assert tree["boss"]["total"]["calls"] == sum(n["usage"]["calls"] for n in tree.values())

    shown = subprocess.run(
        [sys.executable, "-m", "aegis", "tree", "boss"],
        env={**os.environ, "AEGIS_HOME": str(family.home)}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert [line.split("  ")[0] for line in shown.splitlines()[1:]] == ["boss", "├─ kid", "│ └─ below", "└─ tool"]
    family.ask("boss", f"{call('aegis_close', handle='kid', force=True)} {call('aegis_close', handle='tool')} [[say x]]")
    assert [set(nodes(family)), "with it below" in results(family, "boss")[-2]] == [{"boss"}, True]


def test_cancelling_ends_the_work_of_all_below(family: RealDaemon) -> None:
    deep = f"{call('aegis_spawn', prompt='[[hang 300]]', slug='three')} [[hang 300]]"
    deeper = f"{call('aegis_spawn', prompt=deep, slug='two')} [[hang 300]]"
    receipt = family.client.mail.send("boss", f"{call('aegis_spawn', prompt=deeper, slug='one')} [[hang 300]]")
    with family.client.follow_events(0, types=("turn.started",)) as stream:
        assert len(list(islice(stream, 4))) == 4
    assert {n["activity"] for n in nodes(family).values()} == {"working"}
    assert family.client.mail.cancel("boss")
    assert family.finish("boss", receipt)["outcome"] == "cancelled"
    for handle in ("one", "two", "three"):
        assert happens(family, "turn.finished", handle)["data"]["outcome"] == "cancelled"
    assert not [mail for mail in family.client.mail.all("boss") if mail["sender"].startswith("instance:")], "no report wakes it again"
    assert {n["state"] for n in nodes(family).values()} == {"running"}


def test_a_child_outlives_its_daemon_and_reports_once(family: RealDaemon) -> None:
    late = f"{call('bash', command='sleep 1')} [[say late but there]]"
    family.ask("boss", f"{call('aegis_spawn', prompt=late, slug='kid')} [[say spawned]]")
    happens(family, "turn.tool.call", "kid")
    family.kill()
    family.up()
    report = happens(family, "mail.accepted", "boss", name="agent:kid")
    assert ("late but there" in report["data"]["text"], report["data"]["status"]) == (True, "ok")
    assert [mail["name"] for mail in family.client.mail.all("boss")].count("agent:kid") == 1
