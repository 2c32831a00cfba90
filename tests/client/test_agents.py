"""Declaring agents, and looking at the way out, from Python."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import RealDaemon

from aegis import Aegis
from aegis.core.errors import AegisError, ErrorKind


def test_agents_are_declared_changed_and_removed(daemon: RealDaemon, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()

    async def all_of_it() -> None:
        async with Aegis(daemon.home) as aegis:
            told = await aegis.agents.add("mine", {"model": "scripted/echo", "limits.memory": "1G"})
            assert (told["name"], told["trusted"]) == ("mine", True)
            assert (await aegis.agents.get("mine"))["model"] == "scripted/echo"
            with pytest.raises(AegisError) as caught:
                await aegis.agents.add("mine", {})
            assert caught.value.kind is ErrorKind.CONFLICT
            await aegis.agents.set("mine", {"effort": "high", "limits.memory": None})
            shown = await aegis.agents.get("mine")
            assert shown["effort"] == "high"
            assert not shown["limits"].get("memory_mb")
            with pytest.raises(AegisError) as caught:
                await aegis.agents.set("mine", {"efort": "high"})
            assert "effort" in caught.value.hint
            await aegis.agents.remove("mine")
            assert "mine" not in {item["name"] for item in await aegis.agents.all()}
            there = await aegis.agents.add("theirs", {"model": "scripted/echo"}, project)
            assert Path(there["file"]).parent == project
            await aegis.agents.remove("theirs", project)

    asyncio.run(all_of_it())


def test_the_way_out_is_checked_and_logged(daemon: RealDaemon) -> None:
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed: apt-get install bubblewrap")
    daemon.start(sandbox="bwrap", permission="full", egress=["127.0.0.1:9"])

    async def all_of_it() -> None:
        async with Aegis(daemon.home) as aegis:
            yes, no = [await aegis.egress.check("a", place) for place in ("127.0.0.1:9", "127.0.0.1:10")]
            assert (yes["allowed"], no["allowed"]) == (True, False)
            assert await aegis.egress.log("a") == []
            with pytest.raises(AegisError) as caught:
                await aegis.egress.check("nobody", "example.com:443")
            assert caught.value.kind is ErrorKind.NOT_FOUND
            agent = await aegis.instance("a")
            script = "import urllib.request as u; u.urlopen('http://denied.test/')"
            assert (await agent.exec(["python3", "-c", script])).exit_code != 0
            async for event in aegis.egress.watch("a", after=0):
                fact: Any = event.fact
                assert (fact.host, fact.port, fact.allowed) == ("denied.test", 80, False)
                break
            [row] = await aegis.egress.log("a")
            assert (row["handle"], row["host"], row["allowed"]) == ("a", "denied.test", False)
            assert await aegis.egress.log("a", after=row["id"]) == []

    asyncio.run(all_of_it())
