"""A store on a real file, and a way to run a program beside the test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

import aegis.store
from aegis.core import faults
from aegis.core.clock import SystemClock
from aegis.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "aegis.db", SystemClock())
    yield store
    await store.close()


@pytest.fixture(autouse=True)
def no_faults() -> Iterator[None]:
    yield
    faults.disarm()


class Child(Protocol):
    """Starts a Python program with its arguments; its output is a pipe of text."""

    def __call__(self, program: str, *args: object, env: dict[str, str] | None = None) -> subprocess.Popen[str]: ...


@pytest.fixture
def child() -> Iterator[Child]:
    started: list[subprocess.Popen[str]] = []
    source = str(Path(aegis.store.__file__).parents[2])

    def start(program: str, *args: object, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", program, *map(str, args)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": source, **(env or {})},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
