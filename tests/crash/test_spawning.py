"""The crash sweep of spawning and of what ends whole families: at every fault point the daemon dies, an exception is raised, the disk is full.

Whatever happens, afterwards a child is there with its message, or nothing of it is; and a family that is deleted goes to its last
member, also when the daemon dies in the middle.
"""

from __future__ import annotations

import contextlib
import json

import pytest
from tests.conftest import RealDaemon
from tests.crash.test_sweep import all_events, finish, forget, mortal, revive, send  # noqa: F401

from aegis.core.errors import AegisError
from aegis.core.faults import POINTS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("action", ["kill", "raise", "enospc"])
@pytest.mark.parametrize("name", sorted(name for name in POINTS if name.startswith(("spawn.", "cascade."))))
def test_a_family_is_whole_or_gone(mortal: RealDaemon, name: str, action: str) -> None:  # noqa: F811
    mortal.up(faults=f"{name}={action}:1")
    mortal.start("boss")
    for handle in ("one", "two"):  # the first meets the fault, if it is one of spawning
        wish = {"prompt": "[[say done]]", "slug": handle}
        receipt = send(mortal, "boss", f"[[call aegis_spawn {json.dumps(wish)}]] [[say spawned]]", handle)
        assert finish(mortal, "boss", receipt)["outcome"] in ("completed", "failed")
    revive(mortal)
    nodes = mortal.client.instances.tree("boss")[1:]
    assert "two" in {node["handle"] for node in nodes}
    for node in nodes:
        (prompt,) = [mail for mail in mortal.client.mail.all(node["handle"]) if mail["name"] == "agent:boss"]
        assert finish(mortal, node["handle"], {"id": prompt["id"], "ingress_seq": prompt["seq"]})["outcome"] == "completed"
    hanging = send(mortal, "two", "[[hang 300]]", "hang")
    with contextlib.suppress(AegisError):  # the fault strikes here, if it is one of a cascade
        mortal.client.instances.act("boss", "disable")
    revive(mortal)
    assert {(item["enabled"], item["state"]) for item in mortal.client.instances.all()} <= {(False, "stopped"), (False, "failed")}
    assert hanging["id"]
    forget(mortal, "boss")
    assert mortal.client.instances.all() == []
    assert list((mortal.home / "instances").iterdir()) == []


def test_a_deletion_of_a_family_is_finished_by_the_next_daemon(mortal: RealDaemon) -> None:  # noqa: F811
    mortal.up(faults="cascade.recorded=kill:1")
    mortal.start("boss")
    wish = {"prompt": "[[say done]]", "slug": "kid"}
    finish(mortal, "boss", send(mortal, "boss", f"[[call aegis_spawn {json.dumps(wish)}]] [[say spawned]]", "s"))
    with contextlib.suppress(AegisError):
        mortal.client.instances.delete("boss")
    revive(mortal)
    assert mortal.client.instances.all() == []
    assert [event["type"] for event in all_events(mortal)].count("instance.deleted") == 2
