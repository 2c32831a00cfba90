"""A gate of its own for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.gate.rules_house import House

from aegis.core.clock import ManualClock
from aegis.services.gate import Gate
from aegis.store import Store


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """A gate on an empty home."""
    clock = ManualClock()
    store = await Store.open(tmp_path / "aegis.db", clock)
    yield House(Gate(store, clock), clock, tmp_path / "policies")
    await store.close()
