"""A home with a real store, and a project beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aegis.core.clock import SystemClock
from aegis.services.config import Config
from aegis.store import Store


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    store = await Store.open(home / "aegis.db", SystemClock())
    yield store
    await store.close()


@pytest.fixture
def home(store: Store, tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    place = tmp_path / "project"
    place.mkdir()
    return place


@pytest.fixture
def config(store: Store, home: Path) -> Config:
    return Config(store, SystemClock(), home, {})
