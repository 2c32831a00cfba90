"""Fixtures for the agent: a library as in a sandbox, a scripted model server, and agents over pipes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from agent_process import AgentProcess, library
from model_server import ModelServer


@pytest.fixture(scope="session")
def lib(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return library(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    place = tmp_path / "workspace"
    place.mkdir()
    return place


@pytest.fixture
def server() -> Iterator[ModelServer]:
    one = ModelServer()
    yield one
    one.close()


@pytest.fixture
def start(lib: Path, workspace: Path, server: ModelServer) -> Iterator[Callable[..., AgentProcess]]:
    """Start an agent with these fields of `init`; the steps given are the server's script."""
    agents: list[AgentProcess] = []

    def make(*steps: Any, **init: Any) -> AgentProcess:
        server.script += steps
        agents.append(AgentProcess(lib, workspace, server.url, **init))
        return agents[-1]

    yield make
    for agent in agents:
        agent.close()
